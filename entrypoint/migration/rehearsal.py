"""Rehearse what is pending: all of it in one transaction on the real database, which is then rolled back.

It is done under the migration lock and by the code that does it in earnest, up to the commit that never comes.
"""

from __future__ import annotations

from typing import NamedTuple

from entrypoint import logs
from entrypoint.database.answers import StatementError
from entrypoint.deadline import Deadline
from entrypoint.errors import ConnectionLostError
from entrypoint.migration.attempt import Refused, Task
from entrypoint.migration.clocks import Clocks
from entrypoint.migration.contention import Contender, held_back
from entrypoint.migration.faults import refused
from entrypoint.migration.leader import Leader
from entrypoint.migration.outside import refuse_behind_pooler
from entrypoint.migration.prepare import prepare
from entrypoint.migration.trial import NeedsCommitError, Trial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.answers import Row
    from entrypoint.database.session import Session
    from entrypoint.errors import MigrationFailedError
    from entrypoint.migration.contention import Assignment
    from entrypoint.migration.ledger import LedgerRow, Place
    from entrypoint.migration.plan import Plan
    from entrypoint.migration.prepare import Prepared
    from entrypoint.migration.trial import Rehearsed, Seen

_PATIENCE = 10.0

# From the weakest to the strongest, as pg_locks calls them and as the documentation does: "Explicit Locking".
MODES = {
    "AccessShareLock": "ACCESS SHARE",
    "RowShareLock": "ROW SHARE",
    "RowExclusiveLock": "ROW EXCLUSIVE",
    "ShareUpdateExclusiveLock": "SHARE UPDATE EXCLUSIVE",
    "ShareLock": "SHARE",
    "ShareRowExclusiveLock": "SHARE ROW EXCLUSIVE",
    "ExclusiveLock": "EXCLUSIVE",
    "AccessExclusiveLock": "ACCESS EXCLUSIVE",
}
_STRENGTH = {mode: strength for strength, mode in enumerate(MODES)}
# Reading a table, and writing to it as every application does: on an index or on a table of ours not worth a word.
_ORDINARY = _STRENGTH["RowExclusiveLock"]
_INDEXES = ("i", "I")
_SEQUENCE = "S"


class HeldLock(NamedTuple):
    """A lock that was held at the end, on a relation that is there without the rehearsal."""

    relation: str
    """With its schema."""
    kind: str
    """As in pg_class.relkind."""
    mode: str
    """As in pg_locks."""
    file: str
    """The migration that took it first."""


class Rehearsal(NamedTuple):
    """How it went."""

    left: tuple[str, ...]
    """The files that could not be rehearsed."""
    why: str
    """Why the first of them could not."""
    locks: tuple[HeldLock, ...]
    """For each relation the strongest, and the strongest first."""
    sequences: tuple[str, ...]
    """Of which values were taken, which no rollback gives back."""
    held_back: LedgerRow | None
    """An earlier failure, before which a start would stop after all these."""


def rehearse(
    assignment: Assignment, plan: Plan, session: Session, place: Place, rehearsed: list[Rehearsed]
) -> Rehearsal | None:
    """Take the lock as `migrator.migrate` does, and rehearse; return None if nothing is pending any more.

    `rehearsed` holds what went well, even if an EntrypointError is raised because something did not. A lost lock or
    connection ends it: whoever asked for a rehearsal is there to ask again.
    """
    prepared = prepare(plan.runnable)
    if plan.held_back and not plan.runnable:
        raise held_back(plan.held_back)
    refuse_behind_pooler(prepared.values(), session, place)
    contender = Contender(assignment._replace(rehearsal=True), session, place)
    try:
        lease = contender.acquire()
        if lease is None:
            return None
        logs.event(logs.INFO, "lock.acquired", "acquired the migration lock", token=lease.token)
        try:
            # One transaction for all, and so one clock, with what the files declare for themselves.
            declared = sum(one.advice.directives.timeout or 0 for one in prepared.values())
            clocks = Clocks(assignment.apply.timeout + declared)
            return Rehearser(assignment, lease, prepared, clocks, None).rehearse(rehearsed)
        finally:
            lease.release()
    finally:
        contender.close()


def stops_at(migrations: Sequence[Prepared]) -> tuple[int, str]:
    """Return how many of `migrations` can run in one transaction, and why the next one cannot.

    What comes after that one may depend on it, so it cannot be rehearsed either.
    """
    for index, migration in enumerate(migrations):
        name, advice = migration.file.name, migration.advice
        if not advice.transactional:
            what = ", ".join(sorted({outside.what for outside in advice.outside})) or "it says so"
            return index, f"{name} runs outside a transaction ({what})"
        if advice.begin != migrations[0].advice.begin:
            return index, (
                f"{name} begins its transaction in another way ({advice.begin}) than {migrations[0].file.name} "
                f"({migrations[0].advice.begin})"
            )
    return len(migrations), ""


def strongest(seen: Seen, relations: Sequence[Row], place: Place) -> list[HeldLock]:
    """Return the strongest lock on each relation, the strongest first.

    `seen`: the file that took it first, by the relation's number and the mode. `relations`: number, schema, name and
    kind of those that are there without the rehearsal; locks on others stand in nobody's way.
    """
    found = []
    for oid, schema, name, kind in relations:
        mode = max((mode for number, mode in seen if number == oid), key=_STRENGTH.__getitem__)
        ours = schema == place.schema and name in {"schema_migrations", "migration_lock"}
        if _STRENGTH[mode] <= _ORDINARY and (ours or kind in _INDEXES):
            continue
        found.append(HeldLock(f"{schema}.{name}", kind or "", mode, seen[oid or "", mode]))
    return sorted(found, key=lambda lock: (-_STRENGTH[lock.mode], lock.relation))


class Rehearser(Leader):
    """A leader that commits nothing and records nothing."""

    def rehearse(self, rehearsed: list[Rehearsed]) -> Rehearsal:
        """Rehearse all that can be; fill `rehearsed` with what went well. Raises EntrypointError."""
        plan, runnable = self._what_to_run()
        count, why = stops_at(runnable)
        assignment, lease = self._assignment, self._lease
        with self._watcher(runnable) as watcher:
            tasks = [
                Task(assignment, lease, one, None, self._clocks.running, watcher, self._lock_patience(one))
                for one in runnable[:count]
            ]
            seen: Seen = {}
            while tasks:
                try:
                    seen = self._until_it_ran(tasks, rehearsed)
                    break
                except NeedsCommitError as needs:
                    tasks = tasks[: needs.index]
                    why = f"{runnable[needs.index].file.name} uses a value of an enumeration that an earlier one adds"
        left = tuple(one.file.name for one in runnable[len(tasks) :])
        relations = self._relations(seen)
        return Rehearsal(
            left=left,
            why=why,
            locks=tuple(strongest(seen, [row for row in relations if row[3] != _SEQUENCE], lease.place)),
            sequences=tuple(
                f"{schema}.{name}"
                for oid, schema, name, kind in relations
                if kind == _SEQUENCE and (oid, "RowExclusiveLock") in seen
            ),
            held_back=plan.held_back,
        )

    def _until_it_ran(self, tasks: list[Task], rehearsed: list[Rehearsed]) -> Seen:
        """Rehearse, from the beginning again if what prevents it may pass; return the locks and who took them first."""
        attempt = 1
        while True:
            trial = Trial(self._lease, self._assignment, rehearsed)
            if self._clocks.running.passed():
                raise self._out_of_time(tasks[0])
            try:
                self._lease.check_guard()
                return trial.through(tasks)
            except Refused as refusal:
                watched = tasks[0].watcher.stand_down()
                trial.undo()
                self._judge(trial.task or tasks[0], refusal, attempt, watched)
            except ConnectionLostError as lost:
                raise self._explain(trial.task or tasks[0], lost) from lost
            finally:
                trial.undo()
                tasks[0].watcher.stand_down()
            attempt += 1

    def _failure(self, _task: Task, refusal: Refused) -> MigrationFailedError:
        return refusal.failure(
            remedy="Correct it and rehearse again; the rehearsal is rolled back and nothing is recorded."
        )

    def _record_failure(self, task: Task, failure: MigrationFailedError) -> None:
        """Leave the ledger alone: a real start may try it."""

    def _relations(self, seen: Seen) -> list[Row]:
        """Return number, schema, name and kind of those that exist, now that all is rolled back."""
        numbers = ", ".join(sorted({oid for oid, mode in seen if mode != "AccessShareLock"}))
        if not numbers:
            return []
        try:
            return self._worker.query(
                "SELECT c.oid, n.nspname, c.relname, c.relkind "
                "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
                f"WHERE c.oid IN ({numbers}) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')",
                Deadline(_PATIENCE),
            )[0]
        except StatementError as error:
            raise refused(error, "the names of what was locked could not be read") from error
