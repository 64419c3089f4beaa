"""How large the next batch is, and how long to wait before it. Pure functions."""

from __future__ import annotations

# The size changes by no more than these factors from one batch to the next: a single batch may have unusual rows.
_SLOWER, _FASTER = 0.5, 1.5
# As multiples of the size in the file.
_SMALLEST, _LARGEST = 0.01, 10
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


def bounds(first: int) -> tuple[int, int]:
    """Return the smallest and the largest batch size, if the file says `first`."""
    return max(1, round(first * _SMALLEST)), first * _LARGEST


def next_size(size: int, *, elapsed: float, target: float, first: int) -> int:
    """Return the size of the next batch, after one of this `size` took `elapsed` seconds."""
    factor = _FASTER if elapsed <= 0 else min(max(target / elapsed, _SLOWER), _FASTER)
    return _within(round(size * factor), first)


def halved(size: int, first: int) -> int:
    """Return the size for another attempt at a batch that conflicted with other sessions."""
    return _within(size // 2, first)


def pause(failures: int, random: float) -> float:
    """Return how long to let others go first after `failures` in a row, in seconds; `random`: from 0 to 1."""
    longest = min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 10), _LONGEST_PAUSE)
    return longest * (0.5 + random / 2)


def _within(size: int, first: int) -> int:
    smallest, largest = bounds(first)
    return min(max(size, smallest), largest)
