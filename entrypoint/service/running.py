"""The statement that the lock's holder is running, taken from the service's own copy of the file.

The lock's row has the number of the statement. PostgreSQL shows a file that was sent as a whole as one query, cut off
after 1 kB, so the text comes from the file, if its number of statements is what the holder reports.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from entrypoint.migration.script.prepare import examine
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from entrypoint.migration.ledger.reading import LockRow
    from entrypoint.migration.script.files import Directory, MigrationFile
    from entrypoint.migration.script.prepare import Prepared
    from entrypoint.migration.script.scanner import Statement

# Splitting a file takes time, while requests wait: 50 ms for 256 KiB.
_LARGEST = 2**18


class Excerpt(NamedTuple):
    """The first line of a statement."""

    line: int
    """Its line in the file, counted from 1."""
    text: str
    """Without secrets."""
    or_later: bool
    """Whether PostgreSQL may be past it: it sends the small results of a whole file together."""


class Running:
    """Finds the statement, and remembers the last file that it has split."""

    def __init__(self) -> None:
        """Begin with no file."""
        self._file: MigrationFile | None = None
        self._split: Prepared | None = None

    def statement(self, lock: LockRow, directory: Directory, *, escapes: bool) -> Excerpt | None:
        """Return where the holder is; None if the row does not say, or the service does not have the file.

        `escapes`: whether a backslash in an ordinary string starts an escape on the server.
        """
        file = next((file for file in directory.files if file.name == lock.migration), None)
        if file is None or not lock.statement or not lock.statements:
            return None
        if file != self._file:
            self._file, self._split = file, _split(file, escapes=escapes)
        split = self._split
        if split is None or len(split.advice.statements) != lock.statements or lock.statement > lock.statements:
            return None
        at, or_later = _place(split.advice.statements, lock.statement - 1, lock.detail)
        statement = split.advice.statements[at]
        # Redact the whole statement: a secret's name may be on a different line from the secret.
        text = foreign(split.text[statement.start : statement.end])
        return Excerpt(statement.line, text.partition("\n")[0].rstrip(), or_later)


def _split(file: MigrationFile, *, escapes: bool) -> Prepared | None:
    try:
        if os.stat(file.path).st_size > _LARGEST:
            return None
    except OSError:
        return None
    found, faults = examine(file, escapes=escapes, in_doubt_only=True)
    return None if faults else found


def _place(statements: Sequence[Statement], first: int, detail: Mapping[str, object]) -> tuple[int, bool]:
    """Return the statement's place in the list, and whether it may be a later one.

    If so, the command that PostgreSQL reports tells which one it is, unless two begin with the same words.
    """
    if not detail.get("or_later"):
        return first, False
    command = set(str(detail.get("command") or "").split())
    alike = [at for at in range(first, len(statements)) if command and command <= set(statements[at].words)]
    return (alike[0], False) if len(alike) == 1 else (first, True)
