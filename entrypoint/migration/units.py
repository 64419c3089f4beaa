"""Cut a file that runs outside a transaction into the pieces that run one by one, and say where to go on after a crash.

Pure functions. Most statements of such a file can run in a transaction all the same, and do, each with the
ledger's row: then a crash leaves no doubt. Only for those that cannot is there something to decide.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from entrypoint.migration.statements import ADD_VALUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.migration.statements import Advice

_NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_CREATE_INDEX = re.compile(
    rf"create\s+(?:unique\s+)?index\s+concurrently\s+(?:if\s+not\s+exists\s+)?({_NAME})\s+on\s+(?:only\s+)?"
    rf"({_NAME}(?:\s*\.\s*{_NAME})?)",
    re.IGNORECASE,
)
_PROGRESS = re.compile(r"statement (\d+) of \d+")
# Running one of these again has the same result as running it once.
_REPEATABLE = ("VACUUM", "ANALYZE", "REINDEX", "CLUSTER", "DISCARD", "CHECKPOINT")


class Unit(NamedTuple):
    """What is run at one go."""

    number: int
    """Of its first statement in the file, counted from 1."""
    start: int
    """Where it begins in the file's text."""
    sql: str
    begin: str
    """How its transaction begins; empty if it cannot run in one."""
    words: tuple[str, ...]

    @property
    def session(self) -> bool:
        """Whether it changes the session for those that follow, and nothing else."""
        return self.words[:1] in (("SET",), ("RESET",)) and self.words[1:2] != ("LOCAL",)

    @property
    def concurrently(self) -> bool:
        """Whether it works without queueing anybody, so that it may wait for locks as long as it likes."""
        return not self.begin and "CONCURRENTLY" in self.words

    @property
    def built_index(self) -> tuple[str, str] | None:
        """The name, and the table, of the index that it builds concurrently; both as they are written."""
        match = _CREATE_INDEX.match(self.sql)
        return (match[1], match[2]) if match else None

    def progress(self, count: int) -> str:
        """Return what the ledger's row says while this is next: `count` statements in all."""
        text = " ".join(self.sql.split())
        return f"statement {self.number} of {count}: {text if len(text) <= 200 else text[:197] + '...'}"


def cut(text: str, advice: Advice) -> tuple[Unit, ...]:
    """Return the units of a file in order. A BEGIN … COMMIT of the file's own is one unit."""
    # A new value of an enumeration only needs a transaction of its own.
    outside = {entry.statement for entry in advice.outside if entry.what != ADD_VALUE}
    statements = advice.statements
    units: list[Unit] = []
    index = 0
    while index < len(statements):
        first = statements[index]
        if first.words[:1] in (("BEGIN",), ("START",)):
            last = next((i for i in range(index + 1, len(statements)) if _ends_block(statements[i].words)), None)
            if last is not None and statements[last].words[0] in ("COMMIT", "END"):
                body = text[first.end : statements[last].start].lstrip("; \t\n")
                start = statements[last].start - len(body)
                units.append(Unit(index + 1, start, body, text[first.start : first.end], first.words))
            else:
                last = len(statements) - 1 if last is None else last
                units.append(Unit(index + 1, first.start, text[first.start : statements[last].end], "", first.words))
            index = last + 1
            continue
        sql = text[first.start : first.end]
        alone = index in outside or _may_commit(first.words, sql)
        units.append(Unit(index + 1, first.start, sql, "" if alone else "BEGIN", first.words))
        index += 1
    return tuple(units)


def reached(message: str | None) -> int | None:
    """Return the number of the statement that a `running` row names."""
    match = _PROGRESS.match(message or "")
    return int(match[1]) if match else None


def repeatable(unit: Unit) -> bool:
    """Tell whether running `unit` again is harmless, though nobody knows whether it ran to its end."""
    words = unit.words
    if words[:1] and words[0] in _REPEATABLE:
        return True
    if words[:2] == ("ALTER", "SYSTEM"):
        return True
    return words[:1] == ("DROP",) and "EXISTS" in words


def _ends_block(words: tuple[str, ...]) -> bool:
    return words[:1] in (("COMMIT",), ("END",), ("ROLLBACK",), ("ABORT",)) and words[1:2] != ("TO",)


def _may_commit(words: tuple[str, ...], sql: str) -> bool:
    """Tell whether a statement may end transactions by itself: a procedure, or an anonymous block that says so."""
    if words[:1] == ("CALL",):
        return True
    return words[:1] == ("DO",) and re.search(r"\b(?:commit|rollback)\b", sql, re.IGNORECASE) is not None
