"""Recognizes files written for another migration tool, by their marks or their names, so that they can be refused.

To this program, another tool's marks are comments. So a down migration below such a mark would run as part of the
migration, and a down migration in a separate file would run like any other.
"""

from __future__ import annotations

import contextlib
import os
import re

from entrypoint.migration.script.scanner import ScriptFault, line_comments
from entrypoint.records import NamedTuple

# As each tool reads its marks: at the beginning of a line, in some tools after blanks. Liquibase's `--rollback` is no
# mark without its first line. Words that could also address a reader ("-- Down migration: see rollback/") are a mark
# only if the line ends with them.
_MARKS = {
    "goose": r"--[ \t]*+\+goose[ \t]",
    "dbmate": r"--[ \t]*+migrate:(?:up|down)\b",
    "sql-migrate": r"--[ \t]*+\+migrate[ \t]",
    "Liquibase": r"--[ \t]*+liquibase[ \t]++formatted[ \t]++sql\b",
    "tern": r"[ \t]*+----[ \t]*+(?:create above / drop below|tern: disable-tx)[ \t]*+----",
    "node-pg-migrate": r"[ \t]*+--[ \t-]*+(?:up|down)[ \t]++migration[ \t:-]*+\r?$",
    "rambler": r"--[ \t]*+rambler[ \t]++(?:up|down)\b",
    "MyBatis Migrations": r"[ \t]*+--[ \t]*+//.*@undo\b",
    "Play": r"--[ \t-]*+!(?:ups|downs)\b",
    "shmig": r"--[ \t]*+=++[ \t]*+(?:up|down)[ \t]*+=",
    "micrate": r"--[ \t]*+\+micrate[ \t]",
    "Mojo::Pg::Migrations": r"[ \t]*+--[ \t]*+\d++[ \t]*+(?:up|down)[ \t]*+(?:\(.*)?\r?$",
}
_TOOLS = tuple(_MARKS)
# The names that `import` uses for the tools it supports.
_IMPORTED = {
    "goose": "goose",
    "dbmate": "dbmate",
    "sql-migrate": "sql-migrate",
    "golang-migrate or sqlx": "golang-migrate",
    "Flyway": "flyway",
    "diesel": "diesel",
    "Prisma or Drizzle": "prisma",
}
_IN_DIRECTORIES = {"up.sql": "diesel", "migration.sql": "Prisma or Drizzle"}
_MARK = re.compile("^(?:" + "|".join(f"({mark})" for mark in _MARKS.values()) + ")", re.MULTILINE | re.IGNORECASE)

_SPLIT = re.compile(r"(\d+)_(.+)\.(up|down)\.sql", re.IGNORECASE | re.DOTALL)
# Used by several tools. After a dot, or alone, the word says what the file is; as the first or last of several words it
# may be part of a description.
_BACK = "down|undo|rollback|revert|reverse"
_LABELLED = re.compile(rf"(?:(\d++)[\W_]*+|(?!\d))(?:(.*)\.)?(?:(up)|{_BACK})\.sql", re.IGNORECASE | re.DOTALL)
_PERHAPS = re.compile(rf"(\d*+)[\W_]*(?:(?:{_BACK})[\W_]+(.+)|(.+?)[\W_]+(?:{_BACK}))\.sql", re.IGNORECASE | re.DOTALL)
_FLYWAY = re.compile(r"(?:([VU])(\d[\d._]*?)|(R))__(.+)\.sql", re.IGNORECASE | re.DOTALL)


class ForeignName(NamedTuple):
    """A file name in another tool's form, and its parts."""

    tool: str
    """Empty if several tools use such names."""
    kind: str
    """`up`, `down`, `repeatable`, or `perhaps down` if the word may be part of a description."""
    digits: str
    """The file's number, if it can be a number here, too."""
    words: str
    """The description."""


class Mark(NamedTuple):
    """A line that marks a file as another tool's."""

    tool: str
    line: str
    """The line as written, without blanks around it."""
    offset: int
    number: int
    """The number of the line, counted from 1."""


def may_have_mark(text: str) -> bool:
    """Tell whether a text contains another tool's mark, even if only in a string."""
    return _MARK.search(text) is not None


def find_mark(text: str) -> Mark | None:
    """Return the first mark of another tool outside of strings and function bodies; None if there is none."""
    if not may_have_mark(text):
        return None
    for start, stop in line_comments(text):
        if found := _MARK.search(text, start, stop):
            line = text[found.start() : text.find("\n", found.start()) % (len(text) + 1)].strip()
            tool = _TOOLS[(found.lastindex or 1) - 1]
            return Mark(tool, line[:60], found.start(), text.count("\n", 0, found.start()) + 1)
    return None


def mark_in(text: str) -> ScriptFault | None:
    """Return a fault, with a remedy, for a text that has another tool's mark; None if it has none."""
    mark = find_mark(text)
    if mark is None:
        return None
    keep = (
        "eep only the up migration in this file, without the marks; the down migration, if you want one, goes into a "
        "file of the same name in rollback/"
    )
    importing = import_command(mark.tool)
    message = (
        f"{mark.line}: this file is written for {mark.tool}. Its marks are only comments here, so the down migration "
        f"would run, too. {f'To import a whole directory: {importing}. Or k' if importing else 'K'}{keep}"
    )
    return ScriptFault(mark.offset, mark.number, message)


def import_command(tool: str, directory: str = "DIR") -> str:
    """Return the command that imports the files of `tool`, one of this module's names; empty if there is none."""
    name = _IMPORTED.get(tool)
    other = tool.partition(" or ")[2].lower()
    return f"entrypoint import --from {name} {directory}{f' (or {other})' if other else ''}" if name else ""


def of_directories(path: str) -> str:
    """Return which tool, with one directory per migration, has migrations in `path`; empty if none has."""
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            for name, tool in _IN_DIRECTORIES.items():
                if os.path.isfile(os.path.join(entry.path, name)):
                    return tool
    return ""


def of_another_tool(name: str) -> ForeignName | None:
    """Return the parts of a file name that has another tool's form; None for other names."""
    if found := _SPLIT.fullmatch(name):
        return ForeignName("golang-migrate or sqlx", found[3].lower(), found[1], found[2])
    if found := _FLYWAY.fullmatch(name):
        kind = {"V": "up", "U": "down"}.get((found[1] or "").upper(), "repeatable")
        digits = found[2] or ""
        return ForeignName("Flyway", kind, digits if digits.isdecimal() else "", found[4])
    if found := _LABELLED.fullmatch(name):
        return ForeignName("", "up" if found[3] else "down", found[1] or "", found[2] or "")
    if found := _PERHAPS.fullmatch(name):
        return ForeignName("", "perhaps down", found[1], found[2] or found[3])
    return None
