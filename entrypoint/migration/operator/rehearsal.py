"""Rehearse what is pending: run all of it in one transaction on the real database, and roll that back.

This happens under the migration lock, with the same code as a real start, except for the commit.
"""

from __future__ import annotations

import re

from entrypoint import logs
from entrypoint.clocks import Clocks
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import PINNED
from entrypoint.deadline import Deadline
from entrypoint.errors import ConnectionLostError
from entrypoint.migration.apply.adopting import Adopter
from entrypoint.migration.apply.attempt import Refused, Task
from entrypoint.migration.apply.leader import BEGAN_AS_UNITS, Leader, spot_of
from entrypoint.migration.apply.outside import refuse_behind_pooler
from entrypoint.migration.apply.repeating import name_of
from entrypoint.migration.apply.standing import file_ended_transaction
from entrypoint.migration.ledger import words
from entrypoint.migration.ledger.repeatables import judge_files
from entrypoint.migration.ledger.repeated import read_known
from entrypoint.migration.lock.contender import Contender
from entrypoint.migration.operator.trial import NeedsCommitError, Trial
from entrypoint.migration.script.prepare import prepare, prepare_repeatables, refreshed_by, refuse_unknown_refresh
from entrypoint.migration.script.units import units_of
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.answers import Row
    from entrypoint.database.session import Session
    from entrypoint.errors.migration import MigrationError, MigrationFailedError
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.plan import Plan
    from entrypoint.migration.operator.trial import Rehearsed, Seen
    from entrypoint.migration.script.prepare import Prepared

_PATIENCE = 10.0

# From the weakest to the strongest, by their names in pg_locks and in the documentation ("Explicit Locking").
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
# Locks for reading a table, and for writing to it as any application does: not reported for indexes and our own tables.
_ORDINARY = _STRENGTH["RowExclusiveLock"]
_INDEXES = ("i", "I")
# Statements that begin with these change nothing that another file could need.
_LEAVE_NOTHING = (("VACUUM",), ("ANALYZE",), ("REINDEX",), ("CHECKPOINT",), ("SET",), ("RESET",))
_SEQUENCE = "S"


class HeldLock(NamedTuple):
    """A lock that was held at the end, on a relation that exists outside the rehearsal."""

    relation: str
    """With its schema."""
    kind: str
    """As in pg_class.relkind."""
    mode: str
    """As in pg_locks."""
    file: str
    """The migration that took it first."""


class Rehearsal(NamedTuple):
    """The result of a rehearsal."""

    left: tuple[str, ...]
    """The files that could not be rehearsed."""
    why: str
    """Why it stopped; empty if it did not."""
    passed_over: tuple[str, ...]
    """Why each of those that did not stop the rehearsal could not be rehearsed."""
    locks: tuple[HeldLock, ...]
    """The strongest lock on each relation, the strongest first."""
    sequences: tuple[str, ...]
    """The sequences from which values were taken, which a rollback does not return."""
    obstacle: MigrationError | None
    """Why a start would stop after all these, such as an earlier failure; or None."""


def rehearse(
    assignment: Assignment, plan: Plan, session: Session, place: Place, rehearsed: list[Rehearsed]
) -> Rehearsal | None:
    """Take the lock like `migrator.migrate`, and rehearse; return None if nothing is pending by then.

    `rehearsed` contains what succeeded, even if an EntrypointError is raised. A lost lock or connection ends the
    rehearsal: the user can start it again.
    """
    adopter = None
    if assignment.adopt is not None:
        adopter = Adopter(assignment, assignment.adopt)
        plan = adopter.foresee(session, plan) or plan._replace(runnable=(), out_of_order=(), outstanding=())
        if not plan.pending and assignment.repeats is None:
            return None
    if assignment.refuse_out_of_order and plan.out_of_order:
        raise words.out_of_order(plan)
    prepared = prepare(plan.runnable, escapes=session.escapes, among=assignment.directory.files)
    repeatables: tuple[Prepared, ...] = ()
    if assignment.repeats is not None:
        repeatables = prepare_repeatables(assignment.directory, escapes=session.escapes)
    refuse_unknown_refresh(prepared.values(), assignment.directory)
    if not plan.runnable and (obstacle := words.obstacle(plan)):
        raise obstacle
    refuse_behind_pooler(prepared.values(), session, place)
    contender = Contender(assignment._replace(rehearsal=True), session, place)
    try:
        lease = contender.acquire()
        if lease is None:
            return None
        logs.event(logs.INFO, "lock.acquired", "acquired the migration lock", token=lease.token)
        try:
            # One transaction for all, so one time limit, including what the files declare for themselves.
            declared = sum(one.advice.directives.timeout or 0 for one in prepared.values())
            clocks = Clocks(assignment.apply.timeout + declared)
            if declared:
                lease.extend(clocks.work_left({}))
            return Rehearser(assignment, lease, prepared, clocks, None, adopter).rehearse(rehearsed, repeatables)
        finally:
            lease.release()
    finally:
        contender.close()


class Selection(NamedTuple):
    """Which of the pending migrations can be rehearsed."""

    rehearsed: tuple[int, ...]
    """The places in the list of those that can."""
    passed_over: tuple[str, ...]
    """Why each migration that does not stop the rehearsal cannot be rehearsed."""
    why: str
    """Why the rehearsal stops before the end, if it does."""


def select(migrations: Sequence[Prepared]) -> Selection:
    """Choose the migrations that can run in one transaction, up to one that cannot and that others may need."""
    chosen: list[int] = []
    passed: list[str] = []
    missing: dict[str, str] = {}
    for index, migration in enumerate(migrations):
        name, advice = migration.file.name, migration.advice
        needed = next((made for made in missing if _names(migration.text, made)), None)
        if not advice.transactional:
            what = ", ".join(sorted({outside.what for outside in advice.outside})) or "the file says so"
            what = advice.units or what
            why = f"{name} runs outside a transaction ({what})"
            if advice.batched:
                why = f"{name} runs in batches, of which each is committed before the next"
            made = _known_by_name(migration)
            if made is None or needed is not None:
                return Selection(tuple(chosen), tuple(passed), why)
            passed.append(why)
            missing |= dict.fromkeys(made, name)
        elif needed is not None:
            return Selection(tuple(chosen), tuple(passed), f"{name} names {needed}, which {missing[needed]} makes")
        elif chosen and advice.begin != migrations[chosen[0]].advice.begin:
            first = migrations[chosen[0]]
            return Selection(
                tuple(chosen),
                tuple(passed),
                f"{name} begins its transaction in another way ({advice.begin}) than {first.file.name} "
                f"({first.advice.begin})",
            )
        else:
            chosen.append(index)
    return Selection(tuple(chosen), tuple(passed), "")


def _known_by_name(migration: Prepared) -> tuple[str, ...] | None:
    """Return the names of what a file creates, if others can depend on it only by these names; else None.

    A unique index can be needed without its name, by ON CONFLICT and foreign keys.
    """
    made: list[str] = []
    for unit in units_of(migration.advice.body, migration.advice):
        if unit.words[:3] == ("CREATE", "INDEX", "CONCURRENTLY") and unit.built_index is not None:
            made.append(unit.built_index[0].strip('"'))
        elif unit.words[:1] not in _LEAVE_NOTHING:
            return None
    return tuple(made)


def _names(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


def strongest(seen: Seen, relations: Sequence[Row], place: Place) -> list[HeldLock]:
    """Return the strongest lock on each relation, the strongest first.

    `seen`: the file that took it first, by the relation's number and the mode. `relations`: number, schema, name and
    kind of those that exist outside the rehearsal; locks on others block nobody.
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

    _trial: Trial | None = None

    def rehearse(self, rehearsed: list[Rehearsed], repeatables: Sequence[Prepared] = ()) -> Rehearsal:
        """Rehearse everything possible, and add what succeeded to `rehearsed`. Raises EntrypointError.

        After the migrations come those of the `repeatables` that are due.
        """
        plan, runnable = self._what_to_run()
        runnable = [
            one.as_units(BEGAN_AS_UNITS) if one.advice.transactional and self._began_as_units(one) else one
            for one in runnable
        ]
        selection = select(runnable)
        why = selection.why
        assignment, lease = self._assignment, self._lease
        chosen = [runnable[place] for place in selection.rehearsed]
        due = self._due(repeatables, runnable)
        if len(chosen) == len(runnable) and not plan.held_back:
            chosen += due
        with self._watcher(chosen) as watcher:
            tasks = [
                Task(assignment, lease, one, None, self._clocks.running, watcher, self._lock_patience(one))
                for one in chosen
            ]
            seen: Seen = {}
            while tasks:
                try:
                    seen = self._rehearse_with_retries(tasks, rehearsed)
                    break
                except NeedsCommitError as needs:
                    needing = tasks[needs.index].migration.file.name
                    tasks = tasks[: needs.index]
                    why = f"{needing} {needs.why}"
        done = {task.migration.file.name for task in tasks}
        left = tuple(one.file.name for one in (*runnable, *due) if one.file.name not in done)
        relations = self._relations(seen)
        return Rehearsal(
            left=left,
            why=why,
            passed_over=selection.passed_over,
            locks=tuple(strongest(seen, [row for row in relations if row[3] != _SEQUENCE], lease.place)),
            sequences=tuple(
                f"{schema}.{name}"
                for oid, schema, name, kind in relations
                if kind == _SEQUENCE and (oid, "RowExclusiveLock") in seen
            ),
            obstacle=words.obstacle(plan),
        )

    def _due(self, repeatables: Sequence[Prepared], runnable: Sequence[Prepared]) -> list[Prepared]:
        """Return the repeatable files that a start would apply after these migrations."""
        if not repeatables:
            return []
        assignment, place = self._assignment, self._lease.place
        known = read_known(self._worker, place, assignment.schema, assignment.role)
        judged = judge_files(assignment.directory.repeatables, known.texts, assignment.directory.newest)
        due = {file.name for file in judged.due} | refreshed_by(runnable)
        return [one for one in repeatables if name_of(one) in due]

    def _adopt(self, adopter: Adopter, plan: Plan) -> Plan:
        """Record nothing, unlike a real start."""
        return adopter.foresee(self._worker, plan) or plan

    def _rehearse_with_retries(self, tasks: list[Task], rehearsed: list[Rehearsed]) -> Seen:
        """Rehearse, starting over after temporary errors; return the locks and which file took each first."""
        attempt = 1
        while True:
            trial = self._trial = Trial(self._lease, self._assignment, rehearsed)
            if self._clocks.running.passed():
                raise self._out_of_time(tasks[0])
            try:
                self._lease.check_guard()
                return trial.through(tasks)
            except NeedsCommitError as needs:
                tasks[0].watcher.stand_down()
                if needs.refusal is not None:
                    self._roll_back(trial.task or tasks[0], trial.trace, needs.refusal)
                raise
            except Refused as refusal:
                watched = tasks[0].watcher.stand_down()
                self._roll_back(trial.task or tasks[0], trial.trace, refusal)
                self._judge(trial.task or tasks[0], refusal, attempt, watched)
            except ConnectionLostError as lost:
                spot = spot_of(trial.task or tasks[0])
                tasks[0].watcher.stand_down()
                self._raise_if_committed(trial.task or tasks[0], trial.trace)
                raise self._explain(trial.task or tasks[0], lost, spot) from lost
            finally:
                trial.undo()
                tasks[0].watcher.stand_down()
            attempt += 1

    def _failure(self, _task: Task, refusal: Refused) -> MigrationFailedError:
        return refusal.failure(
            self._lease.place.schema,
            remedy="Correct it and rehearse again; the rehearsal is rolled back and nothing is recorded.",
        )

    def _file_ended_transaction(self, task: Task, refusal: Refused | None = None) -> MigrationFailedError:
        ended = file_ended_transaction if self._trial is None else self._trial.file_ended_transaction
        return ended(task, refusal)

    def _record_failure(self, task: Task, failure: MigrationFailedError) -> None:
        """Do not record it, so that a real start can try the migration."""

    def _relations(self, seen: Seen) -> list[Row]:
        """Return number, schema, name and kind of the relations that exist after the rollback."""
        numbers = ", ".join(sorted({oid for oid, mode in seen if mode != "AccessShareLock"}))
        if not numbers:
            return []
        try:
            return self._worker.query(
                f"{PINNED}; SELECT c.oid, n.nspname, c.relname, c.relkind "
                "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
                f"WHERE c.oid IN ({numbers}) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')",
                Deadline(_PATIENCE),
            )[-1]
        except StatementError as error:
            raise self._refused(error, "the names of what was locked could not be read") from error
