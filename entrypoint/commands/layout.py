"""Fit help texts to the terminal: wrap prose, but not commands."""

from __future__ import annotations

import argparse
import re
import textwrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A wider terminal does not make a line of prose easier to read.
_WIDEST = 120
# Do not wrap to less than this.
_NARROWEST = 20
# If there is less room than this next to the names, descriptions go below them.
_BESIDE = 36
# Stands for a space at which no line may end.
_FIXED_SPACE = "\N{NO-BREAK SPACE}"
# What separates the items of an indented line.
_GAP = "   "


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """argparse's, with descriptions and epilogs wrapped as well, and no option or name broken at a hyphen."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrapped(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.indent(fill(text, width), indent)


def fill(text: str, width: int) -> str:
    """Wrap each paragraph of `text`. Keep indented lines, except lists of items, which are refilled."""
    width = max(_NARROWEST, min(width, _WIDEST))
    lines: list[str] = []
    prose: list[str] = []
    items: list[str] = []
    for line in [*text.splitlines(), ""]:
        indented = line.startswith(" ")
        if prose and (indented or not line):
            lines += _wrapped(" ".join(prose), width)
            prose = []
        if items and not (indented and _GAP in line.strip()):
            lines += _packed(items, width)
            items = []
        if indented and _GAP in line.strip():
            items += re.split(f"{_GAP}+", line.strip())
        elif indented or not line:
            lines.append(line)
        else:
            prose.append(line)
    return "\n".join(lines[:-1])


def table(rows: Sequence[tuple[str, str]], width: int | None, longest: int = 0) -> Iterator[str]:
    """Yield lines with a name and a description each.

    `width`: None for lines as long as they need to be. `longest`: how long a name in another table may be.
    """
    names = max(longest, *(len(name) for name, _ in rows)) + len("  ") * 2
    for name, description in rows:
        if width is None:
            yield f"  {name:{names - 4}}  {description}"
        elif width - names < _BESIDE:
            yield f"  {name}"
            yield from (f"      {line}" for line in _wrapped(description, max(width, _NARROWEST) - 6))
        else:
            first, *others = _wrapped(description, min(width, _WIDEST) - names)
            yield f"  {name:{names - 4}}  {first}"
            yield from (" " * names + other for other in others)


def _wrapped(text: str, width: int) -> list[str]:
    # What is quoted as code is to be copied as it is. `wrap` breaks lines at ordinary spaces only.
    def keep(code: re.Match[str]) -> str:
        return code[0].replace(" ", _FIXED_SPACE) if len(code[0]) <= width else code[0]

    kept = re.sub(r"`[^`]+`", keep, text)
    lines = textwrap.wrap(kept, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_FIXED_SPACE, " ") for line in lines]


def _packed(items: Sequence[str], width: int) -> Iterator[str]:
    """Yield lines with as many items as fit; wrap an item that is too long."""
    line = ""
    for item in items:
        if line and len(line) + len(_GAP) + len(item) <= width:
            line += _GAP + item
            continue
        if line:
            yield line
        first, *others = textwrap.wrap(item, width, initial_indent="  ", subsequent_indent="      ")
        yield from ([first, *others][:-1])
        line = [first, *others][-1]
    yield line
