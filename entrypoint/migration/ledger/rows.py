"""The rows of `schema_migrations`, as every start reads them."""

from __future__ import annotations

from entrypoint.database.quoting import literal, our_state
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Place, Queryable

COMPLETED = "completed"
FAILED = "failed"
RUNNING = "running"
# The checksum that `repair` gives to a failed row. No file has it, so the row no longer holds anything back.
REPAIRED = ""
# For one look. A migration may hold a lock on the ledger itself, and a look must not queue behind it.
_LOOK_LOCK_TIMEOUT_MS = 2_000


class LedgerRow(NamedTuple):
    """One row of `schema_migrations`."""

    number: int
    filename: str
    status: str
    checksum: str | None
    error_message: str | None
    floor: str | None = None
    """The name of a file that an image must have to start, now that this migration is applied."""
    initial: int | None = None
    """In a new database: up to this number, files with `phase = after` run with the others. None once that is done."""


def ask(session: Queryable, role: str | None, deadline: Deadline, parts: Sequence[str]) -> list[list[Row]]:
    """Run queries in one round trip, in a transaction that does not wait long for locks; return the rows of each."""
    try:
        return session.query(";\n".join((*begin_look(role, deadline), *parts, "COMMIT")), deadline)[
            -len(parts) - 1 : -1
        ]
    except Exception as error:
        from entrypoint.database.answers import StatementError  # A start without errors does not need it.

        if isinstance(error, StatementError):
            session.rollback(deadline.within(1))
        raise


def begin_look(role: str | None, deadline: Deadline) -> list[str]:
    """Return the statements that begin a read-only transaction of ours, which does not wait long for locks."""
    return [
        "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
        *our_state(role),
        # The error that a table is locked must arrive well before the deadline.
        f"SET LOCAL lock_timeout = {min(_LOOK_LOCK_TIMEOUT_MS, deadline.milliseconds() // 2 + 1)}",
        f"SET LOCAL statement_timeout = {deadline.milliseconds()}",
    ]


def ledger_query(place: Place, *, later: bool = False) -> str:
    """Return the query for all rows of the ledger; `as_ledger` reads its answer, and sorts the rows.

    There is no ORDER BY: planning it takes a new server process 0.08 ms, and sorting here takes a tenth of that.

    `later`: the catalogs were read some time ago, and `ROLLOUT_COLUMNS` may have been added since.
    """
    if not place.ledger:
        return "SELECT 1 WHERE false"

    rollout = ""
    # One value for everything a completed row says about the rollout, and only if the columns exist: every start reads
    # every row.
    if "initial_up_to" in place.ledger:
        rollout = (
            " WHEN floor IS NOT NULL OR initial_up_to IS NOT NULL THEN pg_catalog.concat_ws(' ', initial_up_to, floor)"
        )
    elif later:
        from entrypoint.migration.ledger.rollout import if_there

        rollout = if_there()

    def column(name: str, default: str) -> str:
        return f"{name}::text" if name in place.ledger else default

    return (
        f"SELECT migration_number, filename, {column('status', literal(COMPLETED))}, {column('checksum', 'NULL')}, "
        # The message is needed only if the migration failed or was interrupted.
        f"CASE WHEN {column('status', literal(COMPLETED))} <> 'completed' THEN {column('error_message', 'NULL')}"
        f"{rollout} END FROM {place.table('schema_migrations')} AS l"
    )


def as_ledger(rows: list[Row]) -> tuple[LedgerRow, ...]:
    """Return the rows from the answer to `ledger_query`, sorted by number."""
    return tuple(sorted(map(_ledger_row, rows), key=lambda row: row.number))


def _ledger_row(row: Row) -> LedgerRow:
    number, filename, status, checksum, error_message = row
    # The earlier system's column had a default but no NOT NULL; NULL meant completed.
    if error_message is None or status != COMPLETED:
        return LedgerRow(int(number or 0), filename or "", status or COMPLETED, checksum, error_message, None, None)
    first, _, rest = error_message.partition(" ")
    initial, floor = (first, rest) if first.isdecimal() else (None, error_message)
    return LedgerRow(
        int(number or 0),
        filename or "",
        COMPLETED,
        checksum,
        None,
        floor or None,
        None if initial is None else int(initial),
    )
