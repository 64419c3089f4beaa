"""A number with its noun. Not imported by a start that finds nothing to do: it counts nothing."""

from __future__ import annotations


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: 1 migration, 2 migrations. `many`: the plural, unless it is `one` and an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
