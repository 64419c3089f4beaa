"""The statements that write a migration's row into the ledger. Pure functions that return SQL."""

from __future__ import annotations

from entrypoint.database import transactions
from entrypoint.database.quoting import literal
from entrypoint.database.sqlstate import INVALID_TEXT_REPRESENTATION
from entrypoint.migration.ledger.place import ROLLOUT_COLUMNS
from entrypoint.migration.ledger.rows import COMPLETED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from entrypoint.database.answers import StatementError
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.script.files import MigrationFile

# The milliseconds that a migration in one transaction has taken since its BEGIN, by the server's clock.
_SINCE_BEGIN = "extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.transaction_timestamp()) * 1000"

# A trigger, a rule or another session can make a statement change nothing, without an error. Then our SQL casts one of
# these texts to a number, which fails, and so does the whole transaction. The error message contains the text.
_NOT_WRITTEN = "entrypoint: rows of the ledger that were written: "
_GONE = "entrypoint: rows of the ledger that are still there: "
# With more ranges than this, a plain list is as good.
_MOST_RANGES = 20
# The earlier system's column may be NULL.
_COMPLETED = f"coalesce(status, {literal(COMPLETED)}) = {literal(COMPLETED)}"


def set_to_null(columns: Iterable[str]) -> str:
    """Return the assignments for an UPDATE that set these columns to NULL."""
    return ", ".join(f"{name} = NULL" for name in columns)


def definitions(columns: Mapping[str, str], prefix: str = "") -> str:
    """Return columns with their types for CREATE TABLE, or with a `prefix` before each for ALTER TABLE."""
    return ",\n    ".join(f"{prefix}{name} {type_}" for name, type_ in columns.items())


def is_not_written(error: StatementError) -> bool:
    """Tell whether PostgreSQL refused our transaction because a row of the ledger was not written."""
    return error.sqlstate == INVALID_TEXT_REPRESENTATION and _NOT_WRITTEN in error.primary


def are_gone(error: StatementError) -> bool:
    """Tell whether PostgreSQL refused our transaction because rows are gone that `kept` checks."""
    return error.sqlstate == INVALID_TEXT_REPRESENTATION and _GONE in error.primary


def _must_be(count: int | str, words: str) -> str:
    # Not `||`, which has many overloads to choose from.
    return f"SELECT CASE count(*) WHEN {count} THEN 0 ELSE concat({literal(words)}, count(*))::integer END"


def must_be_written(count: int) -> str:
    """Return the beginning of a query that fails unless it finds `count` rows."""
    return _must_be(count, _NOT_WRITTEN)


def exactly_one(change: str) -> str:
    """Return an UPDATE or DELETE as a statement that fails unless it changes exactly one row."""
    return f"WITH changed AS ({change} RETURNING 1) {_must_be(1, _NOT_WRITTEN)} FROM changed;"


def gone(place: Place, numbers: Collection[int]) -> str:
    """Return the query for those of these applied migrations whose rows are gone."""
    return (
        f"SELECT n FROM pg_catalog.unnest(ARRAY[{', '.join(map(str, sorted(numbers)))}]::pg_catalog.int8[]) AS n "
        f"WHERE NOT EXISTS (SELECT FROM {place.table('schema_migrations')} "
        f"WHERE {_COMPLETED} AND migration_number = n) ORDER BY n"
    )


def kept(place: Place, numbers: Collection[int]) -> str:
    """Return the statements that fail unless the lock's row and the rows of these applied migrations still exist.

    A file can remove them without naming them, for example by truncating all tables of a schema.
    """
    lock = lock_is_kept(place)
    return f"{lock}\n{rows_are_kept(place, numbers)}" if numbers else lock


def lock_is_kept(place: Place) -> str:
    """Return the statement that fails unless the lock's row exists."""
    return f"{_must_be(1, _GONE)} FROM {place.table('migration_lock')} WHERE id = 1;"


def prepared_check(place: Place) -> str:
    """Return a query, to be prepared, that fails unless everything is as `kept` and `row` require.

    $1 is the number of the migration whose row was written. $2 and $3 are the first and last number of a range of other
    migrations without gaps, and $4 is how many there are.
    """
    ledger = place.table("schema_migrations")
    found = {
        "lock": f"SELECT count(*) FROM {place.table('migration_lock')} WHERE id = 1",
        "kept": f"SELECT count(*) FROM {ledger} WHERE {_COMPLETED} AND migration_number BETWEEN $2 AND $3",
        "written": f"SELECT count(*) FROM {ledger} WHERE migration_number = $1 AND status = {literal(COMPLETED)} "
        f"AND {transactions.WRITTEN_HERE}",
    }
    wanted = {"lock": ("1", _GONE), "kept": ("$4", _GONE), "written": ("1", _NOT_WRITTEN)}
    cases = [
        f"WHEN {name} <> {count} THEN concat({literal(words)}, {name})::integer"
        for name, (count, words) in wanted.items()
    ]
    columns = [f"({query}) AS {name}" for name, query in found.items()]
    # OFFSET keeps PostgreSQL from planning each subquery once for every place where it is named.
    return f"SELECT CASE {' '.join(cases)} ELSE 0 END FROM (SELECT {', '.join(columns)} OFFSET 0) AS found;"


def without_gaps(numbers: Collection[int]) -> tuple[int, int, int] | None:
    """Return the first, the last and the count of numbers that have no gaps; (0, -1, 0) for none at all."""
    if not numbers:
        return 0, -1, 0
    first, last, count = min(numbers), max(numbers), len(numbers)
    return (first, last, count) if last - first + 1 == count else None


def rows_are_kept(place: Place, numbers: Collection[int]) -> str:
    """Return the statement that fails unless there is a row for each of these applied migrations."""
    return (
        f"{_must_be(len(numbers), _GONE)} FROM {place.table('schema_migrations')} "
        f"WHERE {_COMPLETED} AND ({among(numbers)});"
    )


def among(numbers: Collection[int]) -> str:
    """Return the condition that a migration's number is one of these.

    Numbers without gaps become a few ranges. With 3,000 numbers, that takes the server a third of the time that a list
    takes.
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    if len(runs) > _MOST_RANGES:
        return f"migration_number IN ({', '.join(map(str, sorted(numbers)))})"
    return " OR ".join(f"migration_number BETWEEN {first} AND {last}" for first, last in runs)


def row(
    place: Place,
    file: MigrationFile,
    app_version: str | None,
    *,
    status: str,
    message: str | None = None,
    milliseconds: int | None = None,
) -> str:
    """Return the statements that write a migration's row, and fail unless this transaction has written it.

    Takes the same arguments as `insert`.
    """
    write = insert(place, file, app_version, status=status, message=message, milliseconds=milliseconds)
    return (
        f"{write}\n{_must_be(1, _NOT_WRITTEN)} FROM {place.table('schema_migrations')} "
        f"WHERE migration_number = {file.number} AND status = {literal(status)} AND {transactions.WRITTEN_HERE};"
    )


def rollout(place: Place, number: int, floor: str | None, initial: int | None) -> str:
    """Return the statements that record `floor` and `initial_up_to` in a completed migration's row.

    Empty if both are None. If the ledger lacks the columns, they are added first.
    """
    values = {name: value for name, value in zip(ROLLOUT_COLUMNS, (floor, initial), strict=True) if value is not None}
    if not values:
        return ""
    said = ", ".join(
        f"{name} = {literal(value) if isinstance(value, str) else value}" for name, value in values.items()
    )
    change = f"UPDATE {place.table('schema_migrations')} SET {said} WHERE migration_number = {number}"
    return f"{_with_rollout_columns(place)}{exactly_one(change)}"


def initial_is_done(place: Place) -> str:
    """Return the statement that clears `initial_up_to`, for the end of a new database's first migrations."""
    return f"UPDATE {place.table('schema_migrations')} SET initial_up_to = NULL WHERE initial_up_to IS NOT NULL;"


def _with_rollout_columns(place: Place) -> str:
    if place.ledger.keys() >= ROLLOUT_COLUMNS.keys():
        return ""
    added = definitions(ROLLOUT_COLUMNS, "ADD COLUMN IF NOT EXISTS ")
    # Another session may have added the columns by now; suppress the notice about that.
    return f"SET LOCAL client_min_messages = warning;\nALTER TABLE {place.table('schema_migrations')} {added};\n"


def insert(
    place: Place,
    file: MigrationFile,
    app_version: str | None,
    *,
    status: str,
    message: str | None = None,
    milliseconds: int | None = None,
) -> str:
    """Return the statement that writes a migration's row. It does not overwrite a completed one.

    `milliseconds`: how long it took; if None, the time since the transaction began.
    """
    elapsed = _SINCE_BEGIN if milliseconds is None else str(milliseconds)
    return (
        f"INSERT INTO {place.table('schema_migrations')} AS l (migration_number, filename, applied_at, "
        "application_version, execution_time_ms, status, error_message, checksum) VALUES ("
        f"{file.number}, {literal(file.name)}, pg_catalog.clock_timestamp(), {literal(app_version)}, "
        f"({elapsed})::integer, {literal(status)}, {literal(message)}, {literal(file.checksum)}) "
        "ON CONFLICT (migration_number) DO UPDATE SET filename = excluded.filename, applied_at = excluded.applied_at, "
        "application_version = excluded.application_version, execution_time_ms = excluded.execution_time_ms, "
        "status = excluded.status, error_message = excluded.error_message, checksum = excluded.checksum "
        f"WHERE l.status IS DISTINCT FROM {literal(COMPLETED)};"
    )


def removal(place: Place, number: int) -> str:
    """Return the statement that removes a migration's row."""
    return exactly_one(f"DELETE FROM {place.table('schema_migrations')} WHERE migration_number = {number}")


def reversal(place: Place, number: int) -> str:
    """Return the statements that remove the row of a migration that was rolled back, and fail if it is still there.

    The down migration may have removed it already.
    """
    row = f"FROM {place.table('schema_migrations')} WHERE migration_number = {number}"
    return f"DELETE {row};\n{_must_be(0, _NOT_WRITTEN)} {row};"


def is_applied(place: Place, number: int) -> str:
    """Return the query that finds a row if a migration is recorded as completed."""
    return (
        f"SELECT 1 FROM {place.table('schema_migrations')} "
        f"WHERE migration_number = {number} AND status = {literal(COMPLETED)}"
    )


def is_forgotten(place: Place, number: int) -> str:
    """Return the query that returns a row if a migration has no row in the ledger."""
    return (
        f"SELECT 1 WHERE NOT EXISTS (SELECT FROM {place.table('schema_migrations')} WHERE migration_number = {number})"
    )
