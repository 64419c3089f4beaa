"""The rows of `schema_migrations`, as every start reads them."""

from __future__ import annotations

from entrypoint.database.quoting import literal, our_state
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Connection, Place

COMPLETED = "completed"
FAILED = "failed"
RUNNING = "running"
# Of a failed row that `repair` lets go on: no file has this checksum, so nothing is held back by it any longer.
REPAIRED = ""
# For one look: a migration may hold a lock on the ledger itself, and whoever looks must not queue behind it.
_LOOK_LOCK_TIMEOUT_MS = 2_000


class LedgerRow(NamedTuple):
    """One row of `schema_migrations`."""

    number: int
    filename: str
    status: str
    checksum: str | None
    error_message: str | None
    floor: str | None = None
    """The name of a file that an image must have to start, since this migration is applied."""
    initial: int | None = None
    """In a new database: up to this number, files with `phase = after` run with the others; None when that is done."""


def ask(session: Connection, role: str | None, deadline: Deadline, parts: Sequence[str]) -> list[list[Row]]:
    """Run statements in one round trip and one transaction that may wait for nobody; return the rows of each."""
    try:
        return session.query(";\n".join((*begin_look(role, deadline), *parts, "COMMIT")), deadline)[
            -len(parts) - 1 : -1
        ]
    except Exception as error:
        from entrypoint.database.answers import StatementError  # Not for a start at which nothing fails.

        if isinstance(error, StatementError):
            session.rollback(deadline.within(1))
        raise


def begin_look(role: str | None, deadline: Deadline) -> list[str]:
    """Return the statements that begin a transaction of ours which only reads, and may wait for nobody."""
    return [
        "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
        *our_state(role),
        # The answer that a table is locked is to be here well before the deadline, after which there is none.
        f"SET LOCAL lock_timeout = {min(_LOOK_LOCK_TIMEOUT_MS, deadline.milliseconds() // 2 + 1)}",
        f"SET LOCAL statement_timeout = {deadline.milliseconds()}",
    ]


def ledger_query(place: Place, *, later: bool = False) -> str:
    """Return the query for all rows of the ledger; `as_ledger` reads its answer, and puts them in order.

    A new server process plans ORDER BY in 0.08 ms: to sort them here takes a tenth of that.

    `later`: the catalogues were read some time ago, and somebody may have added `ROLLOUT_COLUMNS` since then.
    """
    if not place.ledger:
        return "SELECT 1 WHERE false"

    rollout = ""
    # One value for all that a completed row says of the rollout, and only where there are such columns: every start
    # reads every row.
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
        # The text is wanted only where a failure holds a migration back, or one was interrupted.
        f"CASE WHEN {column('status', literal(COMPLETED))} <> 'completed' THEN {column('error_message', 'NULL')}"
        f"{rollout} END FROM {place.table('schema_migrations')} AS l"
    )


def as_ledger(rows: list[Row]) -> tuple[LedgerRow, ...]:
    """Return the answer to `ledger_query`, in the order of the numbers."""
    return tuple(sorted(map(_ledger_row, rows), key=lambda row: row.number))


def _ledger_row(row: Row) -> LedgerRow:
    number, filename, status, checksum, error_message = row
    # The earlier system's column had a default but no NOT NULL; no status meant that it went well.
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
