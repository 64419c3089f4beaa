"""Reads the code blocks in the documentation, for tests that run them."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks in a language, even those in lists, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


class Block(NamedTuple):
    """A block of code on a page."""

    heading: str
    """The section that it is in, such as `Use it`; empty before the first."""
    language: str
    """Empty for a block that is only indented."""
    text: str


def every_block(page: Path) -> list[Block]:
    """Return all code blocks of a page, fenced and indented, in order."""
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
