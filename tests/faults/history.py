"""What can be seen of a run from outside, and a judge of it that knows nothing about the program's code.

`Recorder` notes who held the guard's lock at which moment, from `pg_locks`; what each migration did, from a table of
marks with transaction ids, whose commit times PostgreSQL keeps (`track_commit_timestamp`); and how each start ended.
`violations` compares that with the promises (docs/lock.md), and reads nothing else.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, NamedTuple

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from kit.databases import Database

PERSON = "a person"
"""The holder of marks made by hand, to finish what might not have run."""
# The first half of the guard's key, the letters "pgep" (docs/lock.md).
GUARD_CLASS = int.from_bytes(b"pgep")
_SAMPLE_EVERY = 0.02
# How late we may notice that a process has ended: the machine plays other runs at the same time.
SLACK = 1.5
SIGNAL_PROMISE = 2.0
GOOD = frozenset({"migrated", "waited", "up_to_date"})

MARKS = """
    CREATE SCHEMA history;
    CREATE TABLE history.mark (
        migration integer NOT NULL,
        step integer NOT NULL,
        transaction xid8 NOT NULL DEFAULT pg_current_xact_id(),
        holder text NOT NULL DEFAULT current_setting('application_name'),
        at timestamptz NOT NULL DEFAULT clock_timestamp()
    );"""


def mark(migration: int, step: int) -> str:
    """Return the statement by which a migration notes that it is at `step`. Nothing prevents it from running twice."""
    return f"INSERT INTO history.mark (migration, step) VALUES ({migration}, {step});"


class Script(NamedTuple):
    """What one migration file is known to do."""

    number: int
    steps: int
    """How many marks it makes, counted from 1."""
    outside: bool = False
    """Whether it runs outside a transaction, each step in its own."""


class Mark(NamedTuple):
    """A committed mark. Times are seconds since 1970, by the server's clock."""

    migration: int
    step: int
    transaction: str
    holder: str
    at: float
    committed: float


class Sample(NamedTuple):
    """Who held a guard's lock at one moment: the backends, each with the key's second half."""

    at: float
    guards: tuple[tuple[int, int], ...]


class Start(NamedTuple):
    """One start of the program, as its parent sees it. Times are seconds since 1970, by this machine's clock."""

    pid: int
    began: float
    due: float
    """When it must have ended or become the application, including the time it was frozen."""
    ended: float | None
    """None if the recorder had to end it, long after it was due."""
    code: int
    output: str
    """What the application that it became printed: outcome, version, pid, error."""
    killed: bool = False
    """Whether one of the faults that struck it was SIGKILL."""
    signalled: float | None = None
    """When it got SIGTERM or SIGINT; its promise counts from then."""
    stopped: float = 0.0
    """How many seconds it was stopped (SIGSTOP) after that, which its promise does not count."""
    log: str = ""


class Row(NamedTuple):
    """A row of the ledger."""

    number: int
    status: str
    message: str | None = None


class History(NamedTuple):
    """All that is known about a run."""

    scripts: tuple[Script, ...]
    marks: tuple[Mark, ...]
    samples: tuple[Sample, ...]
    starts: tuple[Start, ...]
    ledger: tuple[Row, ...]


# --- The judge ------------------------------------------------------------------------------------------


def violations(history: History) -> list[str]:
    """Return each promise that this history breaks, in words; an empty list if it breaks none."""
    return [
        *_once(history),
        *_in_order(history),
        *_one_guard(history),
        *_no_failures(history),
        *itertools.chain.from_iterable(_start(history, start) for start in history.starts),
    ]


def _once(history: History) -> Iterator[str]:
    """Each migration runs exactly once if the ledger has it, and not at all if not; outside, each step at most once."""
    completed = {row.number for row in history.ledger if row.status == "completed"}
    for number, rows in _grouped(history.ledger):
        if len(rows) > 1:
            yield f"migration {number} has {len(rows)} rows in the ledger"
    for script in history.scripts:
        marks = [one for one in history.marks if one.migration == script.number]
        counts = [sum(one.step == step for one in marks) for step in range(1, script.steps + 1)]
        if script.number in completed and counts != [1] * script.steps:
            yield f"migration {script.number} is completed, and its steps are in {counts} times"
        elif script.outside and max(counts, default=0) > 1:
            yield f"migration {script.number}: its steps are in {counts} times"
        elif script.number not in completed and not script.outside and marks:
            yield f"migration {script.number} is not completed, and its steps are in {counts} times"
        if not script.outside and len({one.transaction for one in marks}) > 1:
            yield f"migration {script.number} is in by several transactions: {marks}"
    known = {script.number for script in history.scripts}
    for one in history.marks:
        if one.migration not in known:
            yield f"a mark of a migration that there is not: {one}"


def _grouped(rows: Iterable[Row]) -> list[tuple[int, list[Row]]]:
    ordered = sorted(rows, key=lambda row: row.number)
    return [(number, list(group)) for number, group in itertools.groupby(ordered, key=lambda row: row.number)]


def _in_order(history: History) -> Iterator[str]:
    """Nobody begins before the previous work is committed: neither the next migration nor another holder."""
    marks = [one for one in history.marks if one.holder != PERSON]
    for earlier in marks:
        for later in marks:
            if (earlier.migration, earlier.step) < (later.migration, later.step):
                same = earlier.transaction == later.transaction
                if not same and later.at < earlier.committed:
                    yield f"{later} began before {earlier} was committed"
    # Two transactions that both committed were never open at the same time, whoever had opened them.
    spans: dict[str, tuple[float, float, str]] = {}
    for one in marks:
        began, committed, _ = spans.get(one.transaction, (one.at, one.committed, ""))
        spans[one.transaction] = (min(began, one.at), max(committed, one.committed), one.holder)
    for (first, a), (second, b) in itertools.combinations(spans.items(), 2):
        if a[0] < b[1] and b[0] < a[1]:
            yield f"the transactions {first} of {a[2]} and {second} of {b[2]} were open at once, and both committed"


def _one_guard(history: History) -> Iterator[str]:
    for sample in history.samples:
        if len(sample.guards) > 1:
            yield f"{len(sample.guards)} guards at once, at {sample.at:.3f}: {sample.guards}"


def _no_failures(history: History) -> Iterator[str]:
    """Nothing in these migrations can fail, so no row says so; outside, one may have been interrupted."""
    outside = {script.number for script in history.scripts if script.outside}
    for row in history.ledger:
        if row.status not in ("completed", "running") and row.number not in outside:
            yield f"migration {row.number} is recorded as {row.status}: {row.message}"


def _start(history: History, start: Start) -> Iterator[str]:
    for word in ("Traceback", "Internal error"):
        if word in start.log:
            yield f"start {start.pid}: {word!r} in its log"
    # Only a second run can make a statement of these migrations fail.
    errors = [line for line in start.log.splitlines() if '"level": "error"' in line]
    if any("already exists" in line or "duplicate key" in line for line in errors):
        yield f"start {start.pid} met traces of an earlier run: {errors}"
    if start.killed:
        return
    if start.ended is None:
        yield f"start {start.pid} did not end"
        return
    if start.signalled is not None and start.ended > start.signalled:
        if start.code == 0 or start.code < 0:
            return  # By then it was the application, or in the last moment before.
        if start.ended > start.signalled + start.stopped + SIGNAL_PROMISE + SLACK:
            yield f"start {start.pid} took {start.ended - start.signalled:.1f} s to end by a signal"
        if start.output:
            yield f"start {start.pid} got a signal, and the application was started: {start.output}"
        return
    if start.ended > start.due + SLACK:
        yield f"start {start.pid} ended {start.ended - start.due:.1f} s after it was due"
    yield from _told(history, start)


def _told(history: History, start: Start) -> Iterator[str]:
    """Find applications that were not told the truth, and exit codes that say nothing."""
    if start.code != 0:
        if start.output:
            yield f"start {start.pid} ended with {start.code}, and the application was started: {start.output}"
        if start.code not in (69, 70, 75):
            yield f"start {start.pid} ended with {start.code}"
        return
    outcome, version, _pid, error = (*start.output.split("|", 3), "", "", "", "")[:4]
    if outcome == "failed":
        if not error:
            yield f"start {start.pid} failed, and the application was not told why"
        return
    last = max(script.number for script in history.scripts)
    if outcome not in GOOD or error or version != str(last):
        yield f"start {start.pid} told its application {start.output!r}"
    for script in history.scripts:
        marks = [one for one in history.marks if one.migration == script.number and one.holder != PERSON]
        late = [one for one in marks if start.ended is not None and one.committed > start.ended]
        if late:
            yield f"start {start.pid} said {outcome} before migration {script.number} was committed: {late}"


# --- The recorder ---------------------------------------------------------------------------------------


class Recorder:
    """Looks who holds a guard's lock, again and again, for as long as its context is open."""

    def __init__(self, database: Database) -> None:
        """Look at one `database`. The server may go away and come back meanwhile."""
        self._database = database
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="recorder", daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self._thread.join(30)

    def marks(self) -> tuple[Mark, ...]:
        """Return the committed marks, in the order of their commits."""
        rows = self._database.rows(
            "SELECT migration, step, transaction::text, holder, extract(epoch FROM at)::float8,"
            " extract(epoch FROM coalesce(pg_xact_commit_timestamp(xmin), at))::float8 FROM history.mark ORDER BY 6, 5"
        )
        return tuple(Mark(*row) for row in rows)

    def ledger(self) -> tuple[Row, ...]:
        """Return the ledger's rows."""
        if not self._database.exists("schema_migrations"):
            return ()
        rows = self._database.rows("SELECT migration_number, status, error_message FROM schema_migrations ORDER BY 1")
        return tuple(Row(*row) for row in rows)

    def _watch(self) -> None:
        while not self._over.is_set():
            try:
                with self._database.connect(connect_timeout=2) as connection:
                    while not self._over.wait(_SAMPLE_EVERY):
                        self._look(connection)
            except psycopg.OperationalError:
                self._over.wait(_SAMPLE_EVERY)

    def _look(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        rows = connection.execute(
            "SELECT extract(epoch FROM clock_timestamp())::float8, l.pid, l.objid::bigint"
            " FROM (SELECT) AS one LEFT JOIN pg_locks l ON l.locktype = 'advisory' AND l.mode = 'ExclusiveLock'"
            f" AND l.granted AND l.classid = {GUARD_CLASS} AND l.objsubid = 2"
            " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchall()
        guards = tuple((int(str(pid)), int(str(key))) for _, pid, key in rows if pid is not None)
        # If nothing has changed since the last look, there is nothing to note.
        if not self.samples or self.samples[-1].guards != guards:
            self.samples.append(Sample(float(str(rows[0][0])), guards))
