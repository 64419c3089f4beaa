"""Durations as bars, and the ledger as a strip: numbers for SVG. Pure functions.

Widths are SVG attributes, in percent, because a Content-Security-Policy without `unsafe-inline` allows no `style`.
"""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Above this ratio, a linear scale would show one bar and many dots.
_WIDELY = 12
# A shorter bar would be invisible.
_LEAST = 0.6
# Up to this many migrations, each has its own cell.
_CELLS = 80
_GAP = 0.25


class Scale(NamedTuple):
    """How durations become widths."""

    longest: int
    """In milliseconds; 0 if nothing took any time."""
    linear: bool

    def width(self, milliseconds: int | None) -> float | None:
        """Return a bar's width in percent; None if the duration was not recorded."""
        if milliseconds is None:
            return None
        if not self.longest:
            return _LEAST
        share = min(1.0, max(0, milliseconds) / self.longest)
        return round(max(_LEAST, 100 * (share if self.linear else share**0.5)), 1)


def scale(lengths: Iterable[int | None]) -> Scale:
    """Choose a scale: linear, unless the longest is many times as long as most others."""
    known = [max(0, length) for length in lengths if length is not None]
    longest = max(known, default=0)
    return Scale(longest, linear=longest <= _WIDELY * max(1, median(known) if known else 1))


class Cell(NamedTuple):
    """A cell of the strip."""

    x: float
    width: float
    tone: str


def strip(tones: Sequence[str]) -> tuple[Cell, ...]:
    """Return one cell for each of `tones`, in order; if there are many, one for each run of equal tones."""
    if not tones:
        return ()
    unit = 100 / len(tones)
    if len(tones) <= _CELLS:
        gap = _GAP if len(tones) > 1 else 0
        return tuple(Cell(round(index * unit, 3), round(unit - gap, 3), tone) for index, tone in enumerate(tones))
    runs: list[tuple[int, int, str]] = []
    for index, tone in enumerate(tones):
        if runs and runs[-1][2] == tone:
            first, size, _ = runs[-1]
            runs[-1] = (first, size + 1, tone)
        else:
            runs.append((index, 1, tone))
    return tuple(Cell(round(first * unit, 3), round(size * unit, 3), tone) for first, size, tone in runs)
