"""Cuts a file that does not run in one transaction into units that run one by one, and finds where to continue.

Pure functions. Most statements of such a file can still run in a transaction, and do, each with an update of the
ledger's row, so that a crash leaves no doubt about them. Only the others need a decision after a crash.
"""

from __future__ import annotations

import re

from entrypoint.migration.script.calls import NAME, as_in_catalog, called, names_in
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
# Every release has begun the message in this way: older ones read ours, and we read theirs.
_PLACE = re.compile(r"statement (\d+) of (\d+)(?=:|$)")
# The last line of a row's message.
_STOP = re.compile(
    r"\nunit (\d+) of (\d+), statement (\d+), line (\d+); sha256 of the statements before it: ([0-9a-f]{64})$"
)
# Running one of these again has the same result as running it once.
_REPEATABLE = ("VACUUM", "ANALYZE", "REINDEX", "CLUSTER", "REPACK", "DISCARD", "CHECKPOINT")
# Refused in a transaction if the table is partitioned, which the text does not show. All of them are repeatable.
_PERHAPS_REFUSED = (("REINDEX",), ("CLUSTER",), ("REPACK",))
# Statements that begin with these words leave nothing in the session, unless `_OF_SESSION` matches. What a SELECT, DO
# or CALL leaves is unknown.
# fmt: off
_NOT_OF_SESSION = frozenset((
    "ALTER", "ANALYSE", "ANALYZE", "CHECKPOINT", "CLUSTER", "COMMENT", "COPY", "CREATE", "DELETE", "DROP",
    "GRANT", "IMPORT", "INSERT", "LOCK", "MERGE", "NOTIFY", "REASSIGN", "REFRESH", "REINDEX", "RELEASE",
    "REPACK", "REVOKE", "SAVEPOINT", "SECURITY", "SHOW", "TRUNCATE", "UPDATE", "VACUUM",
))
# fmt: on
_OF_SESSION = re.compile(r"set_config|\btemp(?:orary)?\b|pg_temp|advisory", re.IGNORECASE)
# A SELECT that does the same as a SET, as pg_dump writes it.
_SET_CONFIG = re.compile(
    r"select\s+(?:pg_catalog\s*\.\s*)?set_config\s*\(\s*'[^'\\]*'\s*,\s*'[^'\\]*'\s*,\s*(?:true|false)\s*\)",
    re.IGNORECASE,
)
# After these, new tables are temporary.
_TEMPORARY_FIRST = re.compile(
    r"(?:search_path[\"']?\s*(?:=|,|\bto\b)|\bset\s+(?:session\s+)?schema)\s*[\"']?\s*pg_temp", re.IGNORECASE
)
# These run the functions that they name. CREATE FUNCTION, GRANT and COMMENT do not; an index's functions must be
# immutable; and PostgreSQL itself undoes the settings of a materialized view's query.
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
    """One statement, or one of the file's own blocks: what runs at once."""

    number: int
    """The number of its first statement in the file, counted from 1."""
    start: int
    """Where it begins in the file's text."""
    sql: str
    begin: str
    """The statement that begins its transaction; empty if it cannot run in one."""
    words: tuple[str, ...]
    """Those of its first statement, or of the file's BEGIN."""
    statements: tuple[Statement, ...]
    """Without the BEGIN and COMMIT around them."""

    @property
    def in_own_block(self) -> bool:
        """Whether its BEGIN and COMMIT come from the file."""
        return self.words[:1] in (("BEGIN",), ("START",))

    @property
    def concurrently(self) -> bool:
        """Whether nobody queues behind it while it waits for locks, so that it may wait for as long as it likes.

        This is not true for REPACK, whose last step waits for an ACCESS EXCLUSIVE lock.
        """
        return not self.begin and "CONCURRENTLY" in self.words and self.words[:1] != ("REPACK",)

    @property
    def built_index(self) -> tuple[str, str] | None:
        """The name and the table of the index that it builds concurrently, both as written; None if it builds none."""
        match = _CREATE_INDEX.match(self.sql)
        return (match[1], match[2]) if match else None

    def place(self, count: int) -> str:
        """Return its place in a file of `count` statements. The message in the ledger's row begins with it."""
        return f"statement {self.number} of {count}"

    @property
    def shown(self) -> str:
        """The beginning of its text, on one line; only its first word if it may contain a password."""
        for statement in self.statements:
            sql = self.sql[statement.start - self.start : statement.end - self.start]
            if may_hold_password(sql):
                return outline(sql)
        # Mask before cutting: half a password can no longer be recognized as one.
        text = " ".join(foreign(self.sql).split())
        return text if len(text) <= 200 else text[:197] + "..."


class Setting(NamedTuple):
    """A SET or RESET in the file, and where it begins."""

    start: int
    sql: str


class MayHaveRun(NamedTuple):
    """The functions and views that a statement may have run; names as in the catalog, without schemas."""

    number: int
    """The statement's, counted from 1."""
    calls: frozenset[str]
    """The names that an opening parenthesis follows: functions, among others."""
    names: frozenset[str]
    """All names: some may be views, which call functions."""


class LeftInSession(NamedTuple):
    """What some units have left behind in their session."""

    settings: tuple[Setting, ...]
    """The settings to repeat, in this order, in a new session."""
    unknown: int | None
    """The number of the first statement that may have left something unknown."""
    runs: tuple[MayHaveRun, ...]
    """What the other statements may have run; the catalog shows whether that left something."""


def units_of(text: str, advice: Advice) -> tuple[Unit, ...]:
    """Return the units of a file in order. A BEGIN … COMMIT in the file is one unit."""
    # Adding a value to an enum only needs a separate transaction.
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
    """Return the number of the statement that a `running` row's message names; None if it names none of `count`."""
    match = _PLACE.match(message)
    return int(match[1]) if match and int(match[2]) == count else None


class StopPoint(NamedTuple):
    """Where a file stopped. The units before it are committed."""

    unit: int
    """The next unit, counted from 1."""
    units: int
    """How many units there are."""
    statement: int
    """The next unit's first statement, counted from 1."""
    line: int
    """The line of that statement, counted from 1."""
    sha256: str
    """The fingerprint of the statements before it."""


def stop(text: str, advice: Advice, units: Sequence[Unit], index: int) -> str:
    """Return a line for the row's message: the unit at `index` is next. `stopped_at` reads it."""
    number = units[index].number
    return (
        f"unit {index + 1} of {len(units)}, statement {number}, line {advice.statements[number - 1].line}; "
        f"sha256 of the statements before it: {fingerprint(text, advice.statements[: number - 1])}"
    )


def stopped_at(message: str) -> StopPoint | None:
    """Return where a file stopped, from its row's `message`; None if the message does not say."""
    found = _STOP.search(message)
    return StopPoint(int(found[1]), int(found[2]), int(found[3]), int(found[4]), found[5]) if found else None


def without_stop(message: str) -> str:
    """Return a row's message without the line that `stop` added."""
    return _STOP.sub("", message)


def fingerprint(text: str, statements: Sequence[Statement]) -> str:
    """Return the SHA-256 of statements without the comments and directives between and above them."""
    said = "\n;\n".join(text[statement.start : statement.end] for statement in statements)
    content = said.encode()
    return sha256_for(len(content))(content).hexdigest()


def goes_on_at(text: str, advice: Advice, units: Sequence[Unit], stopped: StopPoint) -> int | None:
    """Return the index of the unit to continue at; None if the statements before it have changed."""
    before = advice.statements[: stopped.statement - 1]
    if fingerprint(text, before) != stopped.sha256:
        return None
    return next((index for index, unit in enumerate(units) if unit.number == stopped.statement), None)


def needs_its_session(text: str, units: Sequence[Unit]) -> str:
    """Return why the units must run in one session, which a pooler does not guarantee; empty if they need not."""
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
    """Return what `units`, which have all run, left in their session for those that follow."""
    settings: list[Setting] = []
    runs: list[MayHaveRun] = []
    made: set[str] = set()
    unknown = None
    for unit in units:
        first = unit.number + (1 if unit.in_own_block else 0)
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
                run = MayHaveRun(number, called(sql), names_in(sql))
                # A function that the file itself creates may no longer exist when the catalog is read.
                leaves = not made.isdisjoint(run.calls)
                runs.append(run)
            elif found := _MAKES_FUNCTION.match(sql):
                made.add(as_in_catalog(found[1]))
            if leaves and unknown is None:
                unknown = number
    return LeftInSession(tuple(settings), unknown, tuple(runs))


def repeatable(unit: Unit) -> bool:
    """Tell whether `unit` can safely run again if it is unknown whether it finished."""
    words = unit.words
    if words[:1] and words[0] in _REPEATABLE:
        return True
    if words[:2] == ("ALTER", "SYSTEM"):
        return True
    return words[:1] == ("DROP",) and "EXISTS" in words


def _may_commit(words: tuple[str, ...], sql: str) -> bool:
    """Tell whether a statement may commit by itself: a CALL, or a DO block that contains COMMIT or ROLLBACK."""
    if words[:1] == ("CALL",):
        return True
    return words[:1] == ("DO",) and re.search(r"\b(?:commit|rollback)\b", sql, re.IGNORECASE) is not None
