"""Calculations on measured values. Pure functions."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LINEAR = 1.0
# How far an exponent may be above 1 before it counts as worse than linear. Medians are not exact.
TOLERANCE = 0.15


def median(values: Sequence[float]) -> float:
    """Return the median. Raises statistics.StatisticsError if there are no values."""
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of all values do not exceed (nearest rank)."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(rank, 1) - 1]


def ratio(value: float | None, reference: float | None) -> float | None:
    """Return a value as a multiple of the reference, or None if that means nothing."""
    if value is None or not reference:
        return None
    return value / reference


def slope(sizes: tuple[float, float], values: tuple[float, float]) -> float | None:
    """Return the exponent k of value ~ size^k between two measurements, or None if a logarithm is undefined.

    It is the slope of the line through both in a plot with logarithmic axes: 0 for a constant cost, 1 for linear.
    """
    if min(*sizes, *values) <= 0 or sizes[0] == sizes[1]:
        return None
    return math.log(values[1] / values[0]) / math.log(sizes[1] / sizes[0])


def slopes(sizes: Sequence[float], values: Sequence[float]) -> list[float | None]:
    """Return the exponent between each measurement and the previous one; None for the first."""
    pairs = zip(pairwise(sizes), pairwise(values), strict=True)
    return [None, *(slope(size, value) for size, value in pairs)]


def worse_than_linear(exponents: Sequence[float | None]) -> bool:
    """Tell whether any exponent is clearly above 1."""
    return any(exponent is not None and exponent > LINEAR + TOLERANCE for exponent in exponents)
