"""The order of the site's pages: that of docs/README.md, whose sections are the parts of the menu."""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

INDEX = "docs/README.md"

_SECTION = re.compile(r"^## (?P<title>.+)\n(?P<body>(?:(?!## ).*\n?)*)", re.MULTILINE)
_ROW = re.compile(r"^\| \[[^]]+\]\((?P<target>[^)#]+)\) \|", re.MULTILINE)


class Part(NamedTuple):
    """A part of the menu."""

    title: str
    pages: tuple[str, ...]
    """Their paths in the repository, in order."""


def parts(text: str) -> tuple[Part, ...]:
    """Return the parts that the text of docs/README.md has: a section with a table each, and a row for each page."""
    found = []
    for section in _SECTION.finditer(text):
        pages = tuple(
            posixpath.normpath(posixpath.join(posixpath.dirname(INDEX), row["target"]))
            for row in _ROW.finditer(section["body"])
        )
        if pages:
            found.append(Part(section["title"], pages))
    return tuple(found)
