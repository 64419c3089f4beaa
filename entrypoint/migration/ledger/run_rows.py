"""The statements that write the rows of `migration_commands`. Pure functions that return SQL."""

from __future__ import annotations

from entrypoint.database.quoting import literal
from entrypoint.migration.ledger.rows import RUNNING
from entrypoint.migration.ledger.runs import MOST
from entrypoint.migration.ledger.writing import exactly_one
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from entrypoint.migration.ledger.place import Place

INTERRUPTED = "interrupted"
"""The replica that ran it is gone, and nobody knows how far the run got."""


class Beginning(NamedTuple):
    """What is known about a run when it begins."""

    command: str
    """Without passwords, as it is stored in the table."""
    fingerprint: str
    names: Collection[str]
    before: str
    application_version: str | None
    holder: str


class End(NamedTuple):
    """How a run ended."""

    status: str
    after: str
    exit_code: int | None
    output: str
    """The last lines of it."""


def begin_run(place: Place, beginning: Beginning) -> str:
    """Return the statement that records the beginning of a run. It returns the run's id."""
    table = place.table("migration_commands")
    inputs = "(SELECT coalesce(jsonb_agg(n), '[]') FROM unnest(ARRAY[{}]::text[]) AS n)".format(
        ", ".join(literal(name) for name in sorted(beginning.names))
    )
    values = (
        literal(beginning.command),
        literal(beginning.fingerprint),
        inputs,
        literal(beginning.before),
        literal(RUNNING),
        literal(beginning.application_version),
        "pg_catalog.clock_timestamp()",
        literal(beginning.holder),
    )
    return (
        f"INSERT INTO {table} (command, fingerprint, inputs, before, status, application_version, started_at, holder) "
        f"VALUES ({', '.join(values)}) RETURNING id;"
    )


def interrupt(place: Place) -> str:
    """Return the statement that marks the runs of earlier holders as interrupted. It returns those runs."""
    return (
        f"UPDATE {place.table('migration_commands')} SET status = {literal(INTERRUPTED)}, "
        f"finished_at = pg_catalog.clock_timestamp() WHERE status = {literal(RUNNING)} "
        f"RETURNING id, started_at::text, holder;"
    )


def end_run(place: Place, number: int, end: End) -> str:
    """Return the statements that record how a run ended, and fail if its row is gone.

    They also delete the rows that are too old to be read.
    """
    table = place.table("migration_commands")
    change = (
        f"UPDATE {table} SET status = {literal(end.status)}, after = {literal(end.after)}, "
        f"finished_at = pg_catalog.clock_timestamp(), "
        f"exit_code = {'NULL' if end.exit_code is None else end.exit_code}, output = {literal(end.output)} "
        f"WHERE id = {number}"
    )
    return f"{exactly_one(change)}\nDELETE FROM {table} WHERE id < {number} - {MOST};"
