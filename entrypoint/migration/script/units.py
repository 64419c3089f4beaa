"""Cut a file that does not run in one transaction into the units that run one by one, and say where to go on.

Pure functions. Most statements of such a file can run in a transaction all the same, and do, each with the
ledger's row: then a crash leaves no doubt. Only for those that cannot is there something to decide.
"""

from __future__ import annotations

import re

from entrypoint.migration.script.calls import NAME, called, named, plain
from entrypoint.migration.script.files import sha256_for
from entrypoint.migration.script.report import outline
from entrypoint.migration.script.statements import ADD_VALUE, said_first
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign
from entrypoint.secret_patterns import may_hold_password

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.migration.script.scanner import Statement
    from entrypoint.migration.script.statements import Advice

_CREATE_INDEX = re.compile(
    rf"create\s+(?:unique\s+)?index\s+concurrently\s+(?:if\s+not\s+exists\s+)?({NAME})\s+on\s+(?:only\s+)?"
    rf"({NAME}(?:\s*\.\s*{NAME})?)",
    re.IGNORECASE,
)
# How every release has begun it: older ones read ours, and we read theirs.
_PLACE = re.compile(r"statement (\d+) of (\d+)(?=:|$)")
# The last line of a row's message.
_STOP = re.compile(
    r"\nunit (\d+) of (\d+), statement (\d+), line (\d+); sha256 of the statements before it: ([0-9a-f]{64})$"
)
# Running one of these again has the same result as running it once.
_REPEATABLE = ("VACUUM", "ANALYZE", "REINDEX", "CLUSTER", "REPACK", "DISCARD", "CHECKPOINT")
# Refused in a transaction if the table is partitioned, which the text does not tell. All of them are repeatable.
_PERHAPS_REFUSED = (("REINDEX",), ("CLUSTER",), ("REPACK",))
# Begin statements that leave nothing in the session, unless something of `_OF_SESSION` is in them. Of a SELECT, DO or
# CALL nobody knows.
# fmt: off
_NOT_OF_SESSION = frozenset((
    "ALTER", "ANALYSE", "ANALYZE", "CHECKPOINT", "CLUSTER", "COMMENT", "COPY", "CREATE", "DELETE", "DROP",
    "GRANT", "IMPORT", "INSERT", "LOCK", "MERGE", "NOTIFY", "REASSIGN", "REFRESH", "REINDEX", "RELEASE",
    "REPACK", "REVOKE", "SAVEPOINT", "SECURITY", "SHOW", "TRUNCATE", "UPDATE", "VACUUM",
))
# fmt: on
_OF_SESSION = re.compile(r"set_config|\btemp(?:orary)?\b|pg_temp|advisory", re.IGNORECASE)
# A SELECT that says the same as a SET, as pg_dump writes it.
_SET_CONFIG = re.compile(
    r"select\s+(?:pg_catalog\s*\.\s*)?set_config\s*\(\s*'[^'\\]*'\s*,\s*'[^'\\]*'\s*,\s*(?:true|false)\s*\)",
    re.IGNORECASE,
)
# New tables are temporary then.
_TEMPORARY_FIRST = re.compile(
    r"(?:search_path[\"']?\s*(?:=|,|\bto\b)|\bset\s+(?:session\s+)?schema)\s*[\"']?\s*pg_temp", re.IGNORECASE
)
# Run functions that they name. Not CREATE FUNCTION, GRANT or COMMENT; what an index calls has to be immutable. What the
# query of a materialized view sets is undone by PostgreSQL itself.
_RUNS_FUNCTIONS = re.compile(
    r"insert|update|delete|merge|copy|alter\s+(?:table|domain)|create\s+(?:unlogged\s+)?table\b(?=.*?\bas\b)",
    re.IGNORECASE | re.DOTALL,
)
_MAKES_FUNCTION = re.compile(
    rf"create\s+(?:or\s+replace\s+)?function\s+(?:{NAME}\s*\.\s*)?({NAME})(?!.*\b(?:immutable|stable)\b)",
    re.IGNORECASE | re.DOTALL,
)
_TRANSACTIONS_OWN = ("LOCAL", "CONSTRAINTS", "TRANSACTION")


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
    statements: tuple[Statement, ...]
    """Without the BEGIN and COMMIT around them."""

    @property
    def brought(self) -> bool:
        """Whether its BEGIN and COMMIT are the file's own."""
        return self.words[:1] in (("BEGIN",), ("START",))

    @property
    def concurrently(self) -> bool:
        """Whether it works without queueing anybody, so that it may wait for locks as long as it likes.

        Not so REPACK, whose last step waits for an ACCESS EXCLUSIVE lock.
        """
        return not self.begin and "CONCURRENTLY" in self.words and self.words[:1] != ("REPACK",)

    @property
    def built_index(self) -> tuple[str, str] | None:
        """The name, and the table, of the index that it builds concurrently; both as they are written."""
        match = _CREATE_INDEX.match(self.sql)
        return (match[1], match[2]) if match else None

    def place(self, count: int) -> str:
        """Return where in the file it is: `count` statements in all. The ledger's row begins with it."""
        return f"statement {self.number} of {count}"

    @property
    def shown(self) -> str:
        """The beginning of its text, on one line; only its first word if it may contain a password."""
        for statement in self.statements:
            sql = self.sql[statement.start - self.start : statement.end - self.start]
            if may_hold_password(sql):
                return outline(sql)
        # Before it is cut: of half a password nobody could tell that it is one.
        text = " ".join(foreign(self.sql).split())
        return text if len(text) <= 200 else text[:197] + "..."


class Setting(NamedTuple):
    """A SET or RESET of the file's, and where it begins in the text."""

    start: int
    sql: str


class Runs(NamedTuple):
    """What a statement of the file may have run beside itself; names as the catalogue has them, without schemas."""

    number: int
    calls: frozenset[str]
    """What stands before an opening parenthesis: functions, and other things."""
    names: frozenset[str]
    """All names: views may be among them, which call functions."""


class LeftInSession(NamedTuple):
    """What some units have left in their session."""

    settings: tuple[Setting, ...]
    """To be sent again, in this order, in another session."""
    unknown: int | None
    """The number of the first statement of which nobody knows what it left."""
    runs: tuple[Runs, ...]
    """What the others have run: it depends on that whether they have left something, too."""


def cut(text: str, advice: Advice) -> tuple[Unit, ...]:
    """Return the units of a file in order. A BEGIN … COMMIT of the file's own is one unit."""
    # A new value of an enumeration only needs a transaction of its own.
    outside = {entry.statement for entry in advice.outside if entry.what != ADD_VALUE}
    statements = advice.statements
    blocks, idle = dict(advice.blocks), frozenset(advice.idle)
    units: list[Unit] = []
    index = 0
    while index < len(statements):
        first = statements[index]
        if index in blocks:
            last = blocks[index]
            body = text[first.end : statements[last].start].lstrip("; \t\n")
            start = statements[last].start - len(body)
            begin = f"{text[first.start : first.end]} {said_first(statements[index + 1 : last])}".rstrip()
            units.append(Unit(index + 1, start, body, begin, first.words, tuple(statements[index + 1 : last])))
            index = last + 1
            continue
        if index not in idle:
            sql = text[first.start : first.end]
            alone = index in outside or first.words[:1] in _PERHAPS_REFUSED or _may_commit(first.words, sql)
            begin = "" if alone else f"BEGIN {said_first((first,))}".rstrip()
            units.append(Unit(index + 1, first.start, sql, begin, first.words, (first,)))
        index += 1
    return tuple(units)


def reached(message: str, count: int) -> int | None:
    """Return the number of the statement that a `running` row names; None if it does not, of so many statements."""
    match = _PLACE.match(message)
    return int(match[1]) if match and int(match[2]) == count else None


class Stop(NamedTuple):
    """Where a file stopped whose units before that are committed."""

    unit: int
    """Counted from 1, as all of them are."""
    units: int
    statement: int
    line: int
    sha256: str
    """Of the statements before it."""


def stop(text: str, advice: Advice, units: Sequence[Unit], index: int) -> str:
    """Return the line of a row's message that says that the unit at `index` is next; `stopped_at` reads it."""
    number = units[index].number
    return (
        f"unit {index + 1} of {len(units)}, statement {number}, line {advice.statements[number - 1].line}; "
        f"sha256 of the statements before it: {fingerprint(text, advice.statements[: number - 1])}"
    )


def stopped_at(message: str) -> Stop | None:
    """Return where a row's `message` says that its file stopped; None if it does not."""
    found = _STOP.search(message)
    return Stop(int(found[1]), int(found[2]), int(found[3]), int(found[4]), found[5]) if found else None


def without_stop(message: str) -> str:
    """Return a row's message for a person."""
    return _STOP.sub("", message)


def fingerprint(text: str, statements: Sequence[Statement]) -> str:
    """Return the SHA-256 of some statements, whatever comments and directives are between and above them."""
    said = "\n;\n".join(text[statement.start : statement.end] for statement in statements)
    content = said.encode()
    return sha256_for(len(content))(content).hexdigest()


def goes_on_at(text: str, advice: Advice, units: Sequence[Unit], stopped: Stop) -> int | None:
    """Return the unit at which a file goes on that stopped there; None if the statements before it are others."""
    before = advice.statements[: stopped.statement - 1]
    if fingerprint(text, before) != stopped.sha256:
        return None
    return next((index for index, unit in enumerate(units) if unit.number == stopped.statement), None)


def needs_its_session(text: str, units: Sequence[Unit]) -> str:
    """Return why the units have to run in one session, which a pooler does not promise; empty if they need not."""
    if any(not unit.begin for unit in units):
        return "a statement cannot run inside a transaction"
    left = left_in_session(text, units[:-1])
    if left.unknown is not None:
        return f"what statement {left.unknown} does to its session may be needed after its transaction"
    if left.settings:
        line = text.count("\n", 0, left.settings[0].start) + 1
        return f"what line {line} sets may be needed after its transaction"
    return ""


def left_in_session(text: str, units: Sequence[Unit]) -> LeftInSession:
    """Return what `units`, all of which have run, left in their session for those that follow."""
    settings: list[Setting] = []
    runs: list[Runs] = []
    made: set[str] = set()
    unknown = None
    for unit in units:
        first = unit.number + (1 if unit.brought else 0)
        for number, statement in enumerate(unit.statements, first):
            sql, words = text[statement.start : statement.end], statement.words
            leaves = False
            if words[:2] == ("DISCARD", "ALL"):
                settings, runs, unknown = [], [], None
            elif words[:1] in (("SET",), ("RESET",)) or _SET_CONFIG.fullmatch(sql):
                leaves = _TEMPORARY_FIRST.search(sql) is not None
                if not words[1:2] or words[1] not in _TRANSACTIONS_OWN:
                    settings.append(Setting(statement.start, sql))
            elif not _NOT_OF_SESSION.issuperset(words[:1]) or _OF_SESSION.search(sql):
                leaves = True
            elif _RUNS_FUNCTIONS.match(sql):
                run = Runs(number, called(sql), named(sql))
                # It may be gone again when the catalogue is asked.
                leaves = not made.isdisjoint(run.calls)
                runs.append(run)
            elif found := _MAKES_FUNCTION.match(sql):
                made.add(plain(found[1]))
            if leaves and unknown is None:
                unknown = number
    return LeftInSession(tuple(settings), unknown, tuple(runs))


def repeatable(unit: Unit) -> bool:
    """Tell whether running `unit` again is harmless, though nobody knows whether it ran to its end."""
    words = unit.words
    if words[:1] and words[0] in _REPEATABLE:
        return True
    if words[:2] == ("ALTER", "SYSTEM"):
        return True
    return words[:1] == ("DROP",) and "EXISTS" in words


def _may_commit(words: tuple[str, ...], sql: str) -> bool:
    """Tell whether a statement may end transactions by itself: a procedure, or an anonymous block that says so."""
    if words[:1] == ("CALL",):
        return True
    return words[:1] == ("DO",) and re.search(r"\b(?:commit|rollback)\b", sql, re.IGNORECASE) is not None
