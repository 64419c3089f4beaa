"""A number with its noun. A start that finds nothing to do does not import this."""

from __future__ import annotations


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: 1 migration, 2 migrations. `many`: the plural, if it is not `one` plus an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
