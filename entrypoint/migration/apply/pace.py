"""How large the next batch is, and how long to wait before it. Pure functions."""

from __future__ import annotations

# From one batch to the next the size changes no more than so, as one batch may have met rows unlike the others.
_SLOWER, _FASTER = 0.5, 1.5
# As shares of the size that the file names.
_SMALLEST, _LARGEST = 0.01, 10
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


def bounds(first: int) -> tuple[int, int]:
    """Return the smallest and the largest size of a batch, where the file names the `first` one."""
    return max(1, round(first * _SMALLEST)), first * _LARGEST


def next_size(size: int, *, elapsed: float, target: float, first: int) -> int:
    """Return how large the next batch is, where one of this `size` took so many seconds (`elapsed`)."""
    factor = _FASTER if elapsed <= 0 else min(max(target / elapsed, _SLOWER), _FASTER)
    return _within(round(size * factor), first)


def halved(size: int, first: int) -> int:
    """Return how large a batch is to be that was in somebody's way."""
    return _within(size // 2, first)


def pause(failures: int, random: float) -> float:
    """Return for how long to let others go first, after so many `failures` in a row; `random`: from 0 to 1."""
    longest = min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 10), _LONGEST_PAUSE)
    return longest * (0.5 + random / 2)


def _within(size: int, first: int) -> int:
    smallest, largest = bounds(first)
    return min(max(size, smallest), largest)
