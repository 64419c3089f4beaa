"""What the files of several tools have in common, as bytes: lines, ends of statements, names. Pure functions."""

from __future__ import annotations

import re
from collections import Counter

from entrypoint.operations.importing.values import Direction, Fault, Left, Section, Why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from entrypoint.operations.importing.values import Migration

_STATEMENT = re.compile(rb"^(?![ \t\r\f\v]*(?:--|$))", re.MULTILINE)
HIGHEST_64 = 2**63 - 1


def line_of(content: bytes, offset: int) -> int:
    """Return the line number of a byte, counted from 1."""
    return content.count(b"\n", 0, offset) + 1


def first_statement(content: bytes, start: int, stop: int) -> int | None:
    """Return the start of the first line that is neither blank nor a `--` comment; None if there is none."""
    found = _STATEMENT.search(content, start, stop)
    return found.start() if found and found.start() < stop else None


def has_statements(content: bytes, pieces: Iterable[Section]) -> bool:
    """Return whether these parts contain more than blank lines and `--` comments."""
    return any(first_statement(content, piece.start, piece.stop) is not None for piece in pieces)


def closed(content: bytes, start: int, stop: int) -> Section:
    """Return a part that a tool sends by itself, with a semicolon added if it does not end with one."""
    if first_statement(content, start, stop) is None:
        return Section(start, stop)
    tail = _last_line(content, start, stop)
    if tail.endswith(b";") and b"--" not in tail:
        return Section(start, stop)
    return Section(start, stop, after=b";\n" if content.endswith(b"\n", start, stop) else b"\n;\n")


def _last_line(content: bytes, start: int, stop: int) -> bytes:
    """Return the last line of a part that is neither blank nor a comment."""
    while True:
        begin = content.rfind(b"\n", start, stop) + 1 or start
        line = content[begin:stop].strip()
        if line and not line.startswith(b"--"):
            return line
        if begin <= start:
            return line
        stop = begin - 1


def whole(path: str, content: bytes, *, no_transaction: bool = False) -> Direction:
    """Return all of a file."""
    return Direction(path, (Section(0, len(content)),), no_transaction)


def way_back(path: str, content: bytes, *, no_transaction: bool = False) -> Direction | None:
    """Return all of a down migration; None if it has no statements."""
    part = whole(path, content, no_transaction=no_transaction)
    return part if has_statements(content, part.pieces) else None


def no_way_back(source: str) -> Left:
    """Return the remark about a down migration without statements."""
    return Left(
        source,
        Why(
            "its down migration has no statements",
            "To roll back this migration, you need a file in rollback/; an empty one if there is nothing to undo.",
        ),
    )


def doubled(migrations: Sequence[Migration], tool: str) -> list[Fault]:
    """Return an error for each version of several migrations. Versions are compared as texts."""
    counts = Counter(migration.version for migration in migrations)
    return [
        Fault(
            tuple(one.source for one in migrations if one.version == version),
            f"{many} migrations have the version {version}, which {tool} rejects too; give each its own",
        )
        for version, many in counts.items()
        if many > 1
    ]


def not_looked_at(paths: Iterable[str], tool: str, form: str) -> list[Left]:
    """Return a remark for each of these files, whose names the tool does not recognize."""
    why = Why(
        f"{tool} ignores it: a migration is called {form}",
        "Nothing to do, unless it should be a migration: then rename it.",
    )
    return [Left(path, why) for path in paths]


def in_the_directory(paths: Iterable[str]) -> list[str]:
    """Return the files directly in the directory."""
    return [path for path in paths if "/" not in path]


def looks_like_sql(path: str) -> bool:
    """Return whether a file name ends in .sql, in upper or lower case."""
    return path.lower().endswith(".sql")
