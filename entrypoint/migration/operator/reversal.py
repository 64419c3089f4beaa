"""Reverse migrations: find their down migrations, and run them under the lock, newest first.

A down migration is `rollback/NNN_description.sql` in the migrations directory. The leader runs it like a migration: one
transaction behind the fence, which also removes the row in the ledger.
"""

from __future__ import annotations

import os

from entrypoint.database.answers import StatementError
from entrypoint.database.spelling import history
from entrypoint.errors import ConfigurationError
from entrypoint.errors.migration import MigrationError
from entrypoint.errors.operator import LedgerChangedError
from entrypoint.migration.apply.leader import Leader
from entrypoint.migration.apply.migrator import under_lock
from entrypoint.migration.apply.standing import ENDED_TRANSACTION
from entrypoint.migration.ledger import reading
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.ledger.rows import COMPLETED, FAILED
from entrypoint.migration.ledger.walk import walk_in, without_walk
from entrypoint.migration.lock.contender import Contender
from entrypoint.migration.script.files import ROLLBACKS, FileFault, MigrationFile, load_directory
from entrypoint.migration.script.prepare import Prepared, bad_files, examine, examine_down_migration
from entrypoint.migration.script.statements import advise
from entrypoint.migration.script.units import stopped_at
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.clocks import Clocks
    from entrypoint.database.session import Session
    from entrypoint.migration.apply.leader import Applied
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.lock.lease import Lease
    from entrypoint.migration.script.files import Directory


# `check` does not report them, because down migrations are optional.
_WRITE = (
    "Write each down migration that is missing, or use the image that has it. Or undo that migration by hand, and then "
    "DELETE FROM {table} WHERE migration_number = its number."
)
# Seconds for reading the ledger under the lock.
_PATIENCE = 30.0


class Step(NamedTuple):
    """One row of the ledger and its down migration, which has no statements if nothing has to run."""

    row: LedgerRow
    reverse: Prepared


def plan_reversal(
    directory: Directory, rows: Sequence[LedgerRow], down_to: int, schema: str, *, escapes: bool
) -> tuple[Step, ...]:
    """Return the steps that reverse every row above `down_to`, newest first.

    Raises MigrationFilesError with all errors in the necessary down migrations, including missing ones, and
    MigrationError if a row has a state that no file can reverse. `schema`: where the rows are. `escapes`: how the
    session reads strings.
    """
    above = sorted((row for row in rows if row.number > down_to), reverse=True)
    if not above:
        return ()
    reverses, faults = _reverse_files(directory)
    migrations = {file.number: file for file in directory.files}
    missing: list[FileFault] = []
    steps: list[Step] = []
    for row in above:
        if row.status == FAILED and _left_nothing(row, migrations.get(row.number), escapes=escapes):
            steps.append(Step(row, _nothing_for(row)))
            continue
        if row.status != COMPLETED:
            raise _half_applied(row, history(schema))
        file = reverses.get(row.number)
        if file is None:
            newer = "" if row.number in migrations else ", nor is the migration itself there: a newer image applied it"
            lacks = f"there is no down migration {ROLLBACKS}/{row.number:03d}_….sql in {directory.path}{newer}"
            missing.append(FileFault((row.filename,), "rollback", lacks))
            continue
        reverse, found = examine_down_migration(file, escapes=escapes)
        faults += found
        if reverse is not None:
            steps.append(Step(row, reverse))
    if missing:
        raise bad_files([*missing, *faults], _WRITE.replace("{table}", history(schema)))
    if faults:
        raise bad_files(faults)
    return tuple(steps)


def reverse(
    assignment: Assignment,
    session: Session,
    place: Place,
    down_to: int,
    steps: Sequence[Step],
    done: list[Applied],
) -> None:
    """Run `steps` under the lock; append each to `done`. After an EntrypointError, finished steps stay done.

    The rows above `down_to` must be those of `steps`, which the operator saw; otherwise, raises LedgerChangedError.
    """

    def work(lease: Lease, clocks: Clocks) -> None:
        finished = {one.version for one in done}
        left = [step for step in steps if step.row.number not in finished]
        try:
            look = reading.look(
                lease.worker, lease.place, assignment.role, clocks.turn_to().within(_PATIENCE), contending=False
            )
        except StatementError as error:
            doing, schema = "the migration history could not be read", lease.place.schema
            raise refused_on(lease.worker, schema, assignment.role, error, doing, reading=False) from error
        now = [row for row in look.rows if row.number > down_to]
        if now != sorted(step.row for step in left):
            raise LedgerChangedError(
                "The migration history has changed since it was shown; nothing more was undone",
                remedy="entrypoint status shows how it is now. Start again.",
            )
        files = {file.number for file in assignment.directory.files}
        kept = frozenset(row.number for row in look.rows if row.status == COMPLETED and row.number in files)
        leader = Leader(assignment, lease, {}, clocks, None)
        leader.carry_out([step.reverse for step in left], done, reverse=True, kept=kept)

    contender = Contender(assignment, session, place, regardless=True)
    try:
        under_lock(contender, assignment, work)
    finally:
        contender.close()


def _reverse_files(migrations: Directory) -> tuple[dict[int, MigrationFile], list[FileFault]]:
    """Return the down migrations by number, and the errors in their names. A missing folder is empty."""
    path = os.path.join(migrations.path, ROLLBACKS)
    if not os.path.isdir(path):
        return {}, []
    try:
        found = load_directory(path, migrations.limit)
    except ConfigurationError as error:
        return {}, [FileFault((ROLLBACKS,), "unreadable", error.message)]
    files = {file.number: file._replace(name=f"{ROLLBACKS}/{file.name}") for file in found.files}
    return files, [fault._replace(names=tuple(f"{ROLLBACKS}/{name}" for name in fault.names)) for fault in found.faults]


def _left_nothing(row: LedgerRow, migration: MigrationFile | None, *, escapes: bool) -> bool:
    """Return whether a failed migration has left nothing behind, because it ran in a transaction."""
    if migration is None or ENDED_TRANSACTION in (row.error_message or "") or stopped_at(row.error_message or ""):
        return False
    walk = walk_in(row.error_message)
    if walk is not None and walk.batches:
        return False
    prepared, _ = examine(migration, escapes=escapes)
    return prepared is not None and prepared.advice.transactional


def _nothing_for(row: LedgerRow) -> Prepared:
    """Return the empty down migration of a row that has nothing to reverse."""
    return Prepared(MigrationFile(row.number, row.filename, "", "", ""), "", advise(""))


def _half_applied(row: LedgerRow, table: str) -> MigrationError:
    what = (
        foreign_report(without_walk(row.error_message or ""), row.filename) or "no message was recorded"
    ).splitlines()[0]
    number = f"migration_number = {row.number}"
    return MigrationError(
        f"{row.filename} is {row.status} ({what}), and part of it may have taken effect; nothing was reversed",
        remedy="Check which of its statements took effect. If its down migration is right for that: UPDATE "
        f"{table} SET status = 'completed' WHERE {number}, and start again. If you undid it by hand: DELETE FROM "
        f"{table} WHERE {number}.",
        version=row.number,
        file=row.filename,
    )
