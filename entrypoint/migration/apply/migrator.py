"""Brings the schema up to date: contends for the lock and, once it holds it, applies what is pending."""

from __future__ import annotations

import os

from entrypoint import logs
from entrypoint.deadline import pause
from entrypoint.errors import ConnectionLostError, EntrypointError
from entrypoint.errors.migration import LeaseLostError
from entrypoint.migration.apply.attempt import THERE_ALREADY
from entrypoint.migration.apply.leader import Applied, Leader
from entrypoint.migration.apply.outside import refuse_behind_pooler
from entrypoint.migration.ledger import reading, words
from entrypoint.migration.ledger.judging import tell_if_ahead
from entrypoint.migration.lock.contender import Contender
from entrypoint.migration.script.prepare import prepare, prepare_repeatables, refreshed_by, refuse_unknown_refresh
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeVar

    from entrypoint.clocks import Clocks
    from entrypoint.database.session import Session
    from entrypoint.migration.apply.backup_first import BackupFirst
    from entrypoint.migration.apply.repeating import Repeater
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.plan import Plan
    from entrypoint.migration.ledger.verdict import Verdict
    from entrypoint.migration.lock.lease import Lease
    from entrypoint.migration.script.prepare import Prepared
    from entrypoint.tool.leading import Performed

    _T = TypeVar("_T")


class Result(NamedTuple):
    """The result of a run."""

    applied: tuple[Applied, ...]
    waited: bool
    """Whether somebody else held the lock while we wanted it."""
    current: int | None
    """The schema's version afterwards."""
    commanded: Performed | None = None
    """The run of another migration tool, if this process ran it."""
    verdict: Verdict | None = None
    """The last verdict on whether that tool must run; None without a tool, or if something else was still to do."""
    repeated: tuple[str, ...] = ()
    """The repeatable files that were applied."""


def _warn_if_unadopted(assignment: Assignment, plan: Plan, prepared: Iterable[Prepared], session: Session) -> str:
    """Warn if files were imported from a tool whose history is in this database and has not been adopted.

    Return what to do about it; empty if there is no such history.
    """
    if assignment.adopt is not None or plan.applied or not any(one.advice.directives.origin for one in prepared):
        return ""
    from entrypoint.migration.adoption.unadopted import other_history

    found = other_history(session, assignment.role)
    if found is None:
        return ""
    tool, table = found
    remedy = f"To take over that history first: MIGRATION_ADOPT={tool}, or entrypoint adopt --from {tool}."
    logs.event(
        logs.WARNING,
        "adopt.missing",
        f"another tool keeps its history here ({table.shown}), and nothing is recorded yet: what it applied will run "
        "again",
        remedy=remedy,
        tool=tool,
        table=table.shown,
    )
    return remedy


def migrate(assignment: Assignment, plan: Plan, session: Session, place: Place) -> Result:
    """Apply what is pending, or wait while somebody else does.

    `plan`, `session` and `place` come from the first survey. Raises EntrypointError; what was committed before stays.
    `assignment.lock` limits all waiting together; `assignment.apply` and the files' own timeouts limit all work.
    """
    adopter = None
    if assignment.adopt is not None:
        from entrypoint.migration.apply.adopting import Adopter

        adopter = Adopter(assignment, assignment.adopt)
        # Files that will only be recorded do not run, so they need not be valid.
        plan = adopter.foresee(session, plan) or plan._replace(runnable=(), out_of_order=(), outstanding=())
    if assignment.refuse_out_of_order and plan.out_of_order:
        raise words.out_of_order(plan)
    # Errors in files for after the rollout should be found before the rollout.
    among = assignment.directory.files
    prepare(plan.outstanding, escapes=session.escapes, among=among, in_doubt_only=True)
    prepared = prepare(plan.runnable, escapes=session.escapes, among=among, in_doubt_only=True)
    repeatables: tuple[Prepared, ...] = ()
    if assignment.repeats is not None:
        repeatables = prepare_repeatables(assignment.directory, escapes=session.escapes)
    refuse_unknown_refresh(prepared.values(), assignment.directory)
    refuse_behind_pooler(prepared.values(), session, place)
    adopt_first = _warn_if_unadopted(assignment, plan, prepared.values(), session)
    backup_first = _backup_first(assignment, plan, session, place)
    if assignment.wanted is not None:
        from entrypoint.tool.leading import find_program

        find_program(assignment.wanted.command.words, os.environ.get("PATH"))
    contender = Contender(assignment, session, place)
    applied: list[Applied] = []
    repeated: list[str] = []

    def lead(lease: Lease, clocks: Clocks) -> Result:
        repeater = _repeater(assignment, lease, clocks, prepared)
        leader = Leader(assignment, lease, prepared, clocks, backup_first, adopter)
        current = leader.run(applied)
        if repeater is not None:
            repeated.extend(repeater.repeat(repeatables, leader.kept, _refreshed(applied, prepared)).names)
        result = Result(tuple(applied), contender.waited, current, repeated=tuple(repeated))
        if assignment.wanted is None or assignment.address is None:
            return result
        from entrypoint.tool.leading import ToolRunner

        def back_up() -> None:
            if backup_first is not None:
                assignment.board.back_up()
                backup_first.take(lease, current, reading.BACKUP, clocks.running)

        tool = ToolRunner(assignment, assignment.wanted, assignment.address, lease, clocks.turn_to())
        performed, verdict = tool.perform(back_up)
        return result._replace(commanded=performed, verdict=verdict)

    try:
        result = under_lock(contender, assignment, lead)
        if result is None and contender.verdict is not None and assignment.wanted is not None:
            tell_if_ahead(contender.verdict, assignment.wanted)
        return result or Result(
            tuple(applied), contender.waited, contender.current, None, contender.verdict, tuple(repeated)
        )
    except EntrypointError as error:
        _complete(error, applied, contender.current, adopt_first)
        raise
    finally:
        contender.close()


def _complete(error: EntrypointError, applied: Sequence[Applied], current: int | None, adopt_first: str) -> None:
    """Add to an error what had been applied before it, and the remedy if a forgotten adoption has caused it."""
    if adopt_first and error.fields.get("sqlstate") in THERE_ALREADY:
        error.remedy = adopt_first
    error.schema_version = max([*(migration.version for migration in applied), current or 0]) or None
    error.applied = tuple(migration.file for migration in applied)


def _refreshed(applied: Iterable[Applied], prepared: Mapping[int, Prepared]) -> set[str]:
    """Return the names of the repeatable files whose objects the migrations of this run have dropped."""
    return refreshed_by(prepared[one.version] for one in applied if one.version in prepared)


def _repeater(
    assignment: Assignment, lease: Lease, clocks: Clocks, prepared: Mapping[int, Prepared]
) -> Repeater | None:
    """Return the object that applies repeatable files; None if it is not needed. Raises EntrypointError."""
    if assignment.repeats is None and not refreshed_by(prepared.values()):
        return None
    from entrypoint.migration.apply.repeating import Repeater

    repeater = Repeater(assignment, lease, {}, clocks, None)
    # Before the migrations, as one of them may have to record there which objects it drops.
    repeater.make_table()
    return repeater


def _backup_first(assignment: Assignment, plan: Plan, session: Session, place: Place) -> BackupFirst | None:
    if assignment.backup_dir is None:
        return None
    from entrypoint.migration.apply.backup_first import BackupFirst

    backup_first = BackupFirst(assignment, assignment.backup_dir)
    if plan.runnable or assignment.wanted is not None:
        backup_first.make_ready(session, place)
    return backup_first


def under_lock(contender: Contender, assignment: Assignment, work: Callable[[Lease, Clocks], _T]) -> _T | None:
    """Do the `work` that needs the lock, within the time that the clocks allow; return its result.

    If the lock or a connection is lost, and no operator was the cause, this contends again and repeats `work`, which
    must find out how far it got. Returns None if somebody else has left nothing to do.
    """
    clocks = assignment.clocks
    while (lease := contender.acquire()) is not None:
        clocks.turn_to()
        lost = False
        logs.event(logs.INFO, "lock.acquired", "acquired the migration lock", token=lease.token)
        try:
            return work(lease, clocks)
        except LeaseLostError as error:
            if error.by_operator:
                raise
            logs.failure(error, level=logs.WARNING)
        except ConnectionLostError as error:
            if clocks.running.passed():
                raise
            logs.failure(error, level=logs.WARNING)
            lost = True
        finally:
            lease.release()
        if lost:
            pause(min(assignment.losses.pause(), clocks.running.remaining()))
        contender.waited = True  # Others may have had the lock since.
    return None
