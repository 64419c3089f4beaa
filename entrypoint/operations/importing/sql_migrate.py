"""sql-migrate: both directions in one file, below `-- +migrate Up` and `-- +migrate Down`.

Names: `findMigrations` and `Less` in sql-migrate's `migrate.go` (every `.sql` file of the directory itself; those that
begin with a number run first, in its order, then the others in the order of their names; the version is the file's
name); what is in a file: `sqlparse/sqlparse.go`, and the chapter "Writing migrations" of its README. It skips
everything above the first mark.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from entrypoint.operations.importing import texts
from entrypoint.operations.importing.values import Contents, Direction, Fault, Left, Migration, Section, Why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.operations.importing.values import Source


_NUMBER = re.compile(r"[0-9]*")
_MARK = re.compile(rb"^-- \+migrate [^\n]*\n?", re.MULTILINE)


def read(source: Source) -> Contents:
    """Return sql-migrate's migrations in the order in which it runs them."""
    found: list[Migration] = []
    left: list[Left] = []
    faults: list[Fault] = []
    others: list[str] = []
    for path in texts.in_the_directory(source.paths):
        if not path.endswith(".sql"):
            others += [path] if texts.looks_like_sql(path) else []
            continue
        content = source.content(path)
        file = _parse(content)
        if isinstance(file, Fault):
            faults.append(file._replace(sources=(path,)))
            continue
        back = None
        if texts.has_statements(content, file.back):
            back = Direction(path, tuple(file.back), file.back_outside)
        elif file.has_back:
            left.append(texts.no_way_back(path))
        if file.passed_over:
            why = f"sql-migrate skips everything above the first mark (line {file.passed_over})"
            left.append(Left(path, Why(why, "Nothing to do; the rest of the file is imported.")))
        digits = _NUMBER.match(path)[0]  # type: ignore[index]  # it matches the empty string, too
        words = path[len(digits) : -len(".sql")]
        found.append(Migration(path, path, digits, words, Direction(path, tuple(file.forward), file.outside), back))
    found.sort(key=lambda one: (not one.digits, int(one.digits or 0), one.version))
    left += texts.not_looked_at(others, "sql-migrate", "NAME.sql")
    return Contents(tuple(found), left=tuple(left), faults=tuple(faults))


class _File(NamedTuple):
    forward: list[Section]
    outside: bool
    back: list[Section]
    back_outside: bool
    has_back: bool
    passed_over: int
    """The line of the first statement above the marks; 0 if there is none."""


def _parse(content: bytes) -> _File | Fault:
    pieces: dict[str, list[Section]] = {"": [], "Up": [], "Down": []}
    outside = {"Up": False, "Down": False}
    named = set()
    direction, begin, block = "", 0, 0
    for mark in _MARK.finditer(content):
        command, *options = mark[0][len(b"-- +migrate ") :].decode("utf-8", "replace").split() or [""]
        line = texts.line_of(content, mark.start())
        if not command:
            return Fault((), "sql-migrate rejects it too: a mark without a command", line)
        closes = block and command == "StatementEnd"
        piece = texts.closed(content, begin, mark.start()) if closes else Section(begin, mark.start())
        pieces[direction].append(piece)
        begin = mark.end()
        if command in outside:
            direction = command
            named.add(command)
            outside[command] |= "notransaction" in options
        elif direction and command == "StatementBegin":
            block = line
        elif command == "StatementEnd":
            block = 0
    pieces[direction].append(Section(begin, len(content)))
    if not named:
        return Fault((), "sql-migrate rejects it too: it has neither `-- +migrate Up` nor `-- +migrate Down`")
    if block:
        return Fault((), "sql-migrate rejects it too: this StatementBegin has no StatementEnd", block)
    early = next(
        (at for one in pieces[""] if (at := texts.first_statement(content, one.start, one.stop)) is not None), None
    )
    above = [] if early is not None else pieces[""]
    passed_over = 0 if early is None else texts.line_of(content, early)
    return _File([*above, *pieces["Up"]], outside["Up"], pieces["Down"], outside["Down"], "Down" in named, passed_over)
