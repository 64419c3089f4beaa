"""What the documentation shows, for tests that try it."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language, those in lists too, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


class Block(NamedTuple):
    """A block of code on a page."""

    heading: str
    """The section it is in, as in `## Use it`; empty above the first."""
    language: str
    """Empty for one that is only indented."""
    text: str


def every_block(page: Path) -> list[Block]:
    """Return all blocks of code that a page has, fenced and indented, in order."""
    found: list[Block] = []
    pattern = re.compile(
        r"^## (?P<heading>.+)$|^(?P<indent> *)```(?P<language>\w*)\n(?P<fenced>[\s\S]*?)^(?P=indent)```$"
        r"|(?<=\n\n)(?P<indented>(?: {4}.*\n|\n(?= {4}))+)",
        re.MULTILINE,
    )
    heading = ""
    for piece in pattern.finditer(page.read_text()):
        if piece["heading"]:
            heading = piece["heading"]
        else:
            text = textwrap.dedent(piece["fenced"] if piece["indented"] is None else piece["indented"])
            found.append(Block(heading, piece["language"] or "", text))
    return found
