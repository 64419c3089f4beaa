"""goose: both directions in one file, separated by marks on lines of their own.

Names: goose's `provider_collect.go` (`*.sql` and `*.go` in the directory itself) and `NumericComponent` in
`migration.go`; what is in a file: `internal/sqlparser/parser.go`, and the chapter "Migrations" of goose's README. The
file is read line by line, even within strings and functions. Versions are numbers, sequential ones and timestamps mixed
("hybrid versioning"), and run in their order.
"""

from __future__ import annotations

import re

from entrypoint.operations.importing import texts
from entrypoint.operations.importing.values import Contents, Direction, Fault, Left, Migration, Section, Why
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.operations.importing.values import Source


_NAME = re.compile(r"\+?([0-9]+)_(.*)\.(sql|go)", re.DOTALL)
_MARK = re.compile(rb"^[ \t]*--[^\n]*\+goose[^\n]*\n?", re.MULTILINE)
_KNOWN = {"up", "down", "statementbegin", "statementend", "no transaction", "envsub on", "envsub off"}


def read(source: Source) -> Contents:
    """Return goose's migrations in the order of their versions."""
    found: list[Migration] = []
    left: list[Left] = []
    faults: list[Fault] = []
    others: list[str] = []
    for path in texts.in_the_directory(source.paths):
        name = _NAME.fullmatch(path)
        if name is None or not 0 < int(name[1][-20:]) <= texts.HIGHEST_64 or path.endswith("_test.go"):
            others += [path] if texts.looks_like_sql(path) else []
            continue
        one = Migration(path, name[1].lstrip("0"), name[1], name[2], None)
        if name[3] == "go":
            found.append(one._replace(why=Why("it is written in Go", "Write what it does in SQL")))
            continue
        content = source.content(path)
        try:
            file = _File(content)
        except _RefusedError as refused:
            faults.append(Fault((path,), f"goose rejects it too: {refused.reason}", refused.line))
            continue
        if file.substituted:
            reason = f"it takes values from the environment (ENVSUB ON) in line {file.substituted}"
            found.append(one._replace(why=Why(reason, "Write it with the actual values")))
            continue
        if file.lost:
            reason = f"goose skips the line after line {file.lost}, because the block that ends there has no statements"
            left.append(Left(path, Why(reason, "The line is imported; remove it here if it should not run.")))
        back = Direction(path, file.back, file.no_transaction) if texts.has_statements(content, file.back) else None
        if back is None and file.has_back:
            left.append(texts.no_way_back(path))
        found.append(one._replace(forward=Direction(path, file.forward, file.no_transaction), back=back))
    found.sort(key=lambda migration: int(migration.version))
    faults += texts.doubled(found, "goose")
    left += texts.not_looked_at(others, "goose", "NUMBER_description.sql")
    return Contents(tuple(found), left=tuple(left), faults=tuple(faults))


class _RefusedError(Exception):
    """goose would not run the file either: why, and on which line."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class _File:
    """A file as goose reads it: the text between two marks belongs to the direction named last."""

    def __init__(self, content: bytes) -> None:
        """Read the file. Raises _RefusedError."""
        self._content = content
        self._pieces: dict[str, list[Section]] = {"": [], "up": [], "down": []}
        self._direction = ""
        self._envsub = False
        # The line of the StatementBegin that is open; 0 if none is.
        self._block = 0
        self.no_transaction = False
        self.lost = 0
        """The first StatementEnd of a block without a statement: goose skips the line after it."""
        self.substituted = 0
        """The first line with a variable that goose would replace; 0 if there is none."""
        begin = 0
        for mark in _MARK.finditer(content):
            command = _command(mark[0])
            line = texts.line_of(content, mark.start())
            if command not in _KNOWN:
                raise _RefusedError(f"{_shown(mark[0])} is not a valid goose annotation", line)
            self._take(begin, mark.start(), closed=command == "statementend")
            begin = mark.end()
            if not self._obey(command, line):
                raise _RefusedError(f"{_shown(mark[0])} is not allowed here", line)
        self._take(begin, len(content))
        self._refuse_what_is_missing()

    @property
    def forward(self) -> tuple[Section, ...]:
        """The up migration, below the comments above the first mark, which are for readers of the file."""
        return (*self._pieces[""], *self._pieces["up"])

    @property
    def back(self) -> tuple[Section, ...]:
        return tuple(self._pieces["down"])

    @property
    def has_back(self) -> bool:
        """Whether there is a mark for the down migration."""
        return self._direction == "down"

    def _take(self, start: int, stop: int, *, closed: bool = False) -> None:
        piece = texts.closed(self._content, start, stop) if closed else Section(start, stop)
        self._pieces[self._direction].append(piece)
        dollar = self._content.find(b"$", start, stop) if self._envsub and not self.substituted else -1
        if dollar >= 0:
            self.substituted = texts.line_of(self._content, dollar)

    def _obey(self, command: str, line: int) -> bool:
        """Do what a mark says; return whether it is allowed here."""
        if command == "no transaction":
            self.no_transaction = True
        elif command.startswith("envsub"):
            self._envsub = command == "envsub on"
        elif command in ("up", "down"):
            allowed = not self._block and self._direction == {"up": "", "down": "up"}[command]
            self._direction = command
            return allowed
        else:
            opens = command == "statementbegin"
            block = self._pieces[self._direction][-1:]
            if not opens and not self.lost and not texts.has_statements(self._content, block):
                self.lost = line
            allowed = bool(self._direction) and bool(self._block) != opens
            self._block = line if opens else 0
            return allowed
        return True

    def _refuse_what_is_missing(self) -> None:
        if not self._direction:
            raise _RefusedError("it has no line `-- +goose Up`")
        if self._block:
            raise _RefusedError("this `-- +goose StatementBegin` has no StatementEnd", self._block)
        for piece in self._pieces[""]:
            early = texts.first_statement(self._content, piece.start, piece.stop)
            if early is not None:
                raise _RefusedError("this comes before `-- +goose Up`", texts.line_of(self._content, early))


def _command(line: bytes) -> str:
    """Return the words of a mark as goose reads them; empty if it rejects the mark."""
    if line.startswith((b" ", b"\t")) or line.count(b"+goose") > 1:
        return ""
    return line.replace(b"--", b"").replace(b"+goose", b"", 1).strip().lower().decode("utf-8", "replace")


def _shown(line: bytes) -> str:
    return f"`{foreign(line.strip()[:60].decode('utf-8', 'replace'))}`"
