"""The errors for a file that cannot run in batches, or cannot continue where it stopped, each with a remedy."""

from __future__ import annotations

from entrypoint.database.quoting import literal
from entrypoint.database.spelling import history
from entrypoint.errors.migration import MigrationFailedError, MigrationPreventedError
from entrypoint.migration.apply.keys import Unfit
from entrypoint.migration.ledger.walk import walk_note
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.answers import StatementError
    from entrypoint.migration.ledger.walk import Walk
    from entrypoint.migration.script.batch import Batch
    from entrypoint.migration.script.files import MigrationFile


def unfit(file: MigrationFile, batch: Batch, verdict: Unfit, earlier: Walk | None) -> MigrationPreventedError:
    """Return the error for a table that cannot be batched by that key."""
    done, then = "no batch was run", "Nothing was recorded as failed: the next start tries again."
    if earlier is not None and earlier.batches:
        then = "The next start tries again."
        done = f"it is at {earlier.words()}, and no further batch was run"
    return MigrationPreventedError(
        f"{file.name} cannot run in batches by {batch.table} ({', '.join(batch.columns)}): {verdict.reason}; {done}",
        remedy=f"{verdict.remedy} {then}",
        version=file.number,
        file=file.name,
    )


def elsewhere(
    file: MigrationFile, batch: Batch, walk: Walk, ground: tuple[str, ...], schema: str
) -> MigrationFailedError:
    """Return the error for a walk whose table or key has changed, so that its position is no longer valid."""
    before = walk.ground or ("",)
    what = f"the key of {batch.table} was {', '.join(before[1:])} and is now {', '.join(ground[1:])}"
    if before[1:] == ground[1:]:
        what = f"{batch.table} is not the same table as before"
    return _stopped(
        file,
        walk,
        f"{file.name} is at {walk.words()}, but {what}; no further batch was run",
        f"Undo the change to {batch.table}, then run entrypoint repair --failed to let it continue there. "
        f"{_from_the_first(file, schema)}",
    )


def changed(file: MigrationFile, walk: Walk, *, batched: bool = True) -> MigrationFailedError:
    """Return the error for a file that has changed since its first batch; `batched`: whether it still has batches."""
    first = "first batch" if batched else "first statement"
    return _stopped(
        file,
        walk,
        f"{file.name} has changed since its first batch, and is at {walk.words()}; no further batch was run",
        f"If the changed file can safely run for all rows: entrypoint repair --failed. It then runs from the {first}. "
        "Or deploy the original file, and it continues where it stopped; put the change into a new migration.",
    )


def renumbered(file: MigrationFile, walk: Walk, number: str, name: str, schema: str) -> MigrationPreventedError:
    """Return the error for a file whose statement is already partly done as another file, `number` and `name`."""
    return MigrationPreventedError(
        f"{file.name} has the same statement as {foreign(name)}, which is at {walk.words()}; no further batch was run",
        remedy="Give the file its old name again, and it continues there. Or update the row to match: UPDATE "
        f"{history(schema)} SET migration_number = {file.number}, filename = {literal(file.name)} WHERE "
        f"migration_number = {number}.",
        version=file.number,
        file=file.name,
    )


def incomparable(
    file: MigrationFile, batch: Batch, walk: Walk, error: StatementError, schema: str
) -> MigrationFailedError | MigrationPreventedError:
    """Return the error for keys that PostgreSQL cannot compare at all, or not with the walk's position."""
    if walk.cursor is None:
        verdict = Unfit(
            f"PostgreSQL cannot compare its values: {error.primary}",
            "Use other columns. If the column's type is a domain over an enum, change it to the enum itself.",
        )
        return unfit(file, batch, verdict, walk)
    columns = ", ".join(batch.columns)
    return _stopped(
        file,
        walk,
        f"{file.name} is at {walk.words()}, but {columns} can no longer be compared with that: {error.primary}; no "
        "further batch was run",
        f"Undo the change to {batch.table} ({columns}) or to its type, then run entrypoint repair --failed to let it "
        f"continue. {_from_the_first(file, schema)}",
    )


def _from_the_first(file: MigrationFile, schema: str) -> str:
    return (
        "If the file can safely run for all rows, including those already done, delete its row, and it runs from the "
        f"first batch: DELETE FROM {history(schema)} WHERE migration_number = {file.number} AND status = 'failed'."
    )


def _stopped(file: MigrationFile, walk: Walk, message: str, remedy: str) -> MigrationFailedError:
    failure = MigrationFailedError(message, remedy=remedy, version=file.number, file=file.name)
    failure.place = walk_note(walk)
    return failure
