"""The statements that write a migration's row into the ledger. Pure functions that make SQL."""

from __future__ import annotations

from entrypoint.database.quoting import literal
from entrypoint.migration import ledger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.migration.files import MigrationFile
    from entrypoint.migration.ledger import Place

# Of a migration in one transaction, measured by the server's clock from its BEGIN.
_SINCE_BEGIN = "extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.transaction_timestamp()) * 1000"


def row(
    place: Place,
    file: MigrationFile,
    app_version: str | None,
    *,
    status: str,
    message: str | None = None,
    milliseconds: int | None = None,
) -> str:
    """Return the statement that writes a migration's row. What is completed stays completed.

    `milliseconds`: how long it took; without it, since the transaction began.
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
        f"WHERE l.status IS DISTINCT FROM {literal(ledger.COMPLETED)};"
    )


def removal(place: Place, number: int) -> str:
    """Return the statement that removes a migration's row."""
    return f"DELETE FROM {place.table('schema_migrations')} WHERE migration_number = {number};"


def is_applied(place: Place, number: int) -> str:
    """Return the query that has a row if a migration is recorded as completed."""
    return (
        f"SELECT 1 FROM {place.table('schema_migrations')} "
        f"WHERE migration_number = {number} AND status = {literal(ledger.COMPLETED)}"
    )


def is_forgotten(place: Place, number: int) -> str:
    """Return the query that has a row if a migration has none in the ledger."""
    return (
        f"SELECT 1 WHERE NOT EXISTS (SELECT FROM {place.table('schema_migrations')} WHERE migration_number = {number})"
    )
