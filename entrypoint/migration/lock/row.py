"""What a holder writes into the row of `migration_lock`. Pure functions that return SQL."""

from __future__ import annotations

import os

from entrypoint.database.quoting import literal
from entrypoint.migration.ledger.place import ADDED_COLUMNS, HOLDER_COLUMNS, PROGRESS_COLUMNS
from entrypoint.migration.ledger.writing import set_to_null

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NO_PROGRESS = set_to_null(PROGRESS_COLUMNS)
FREE = set_to_null(HOLDER_COLUMNS | ADDED_COLUMNS)


def holder_name() -> str:
    """Return this host's name, which in a container is the pod's or the container's."""
    return os.uname().nodename


def held_by_us(token: str) -> str:
    """Return what the row says about who holds the lock."""
    return (
        f"locked_at = pg_catalog.clock_timestamp(), locked_by = {literal(holder_name())}, "
        f"process_id = {os.getpid()}, token = {literal(token)}"
    )


def life(guard_pid: int | str, token: str, seconds: str) -> str:
    """Return what the row says about our guard, and how many more `seconds` we may work.

    It includes our token, because a holder of an earlier release does not know these columns and leaves old values in
    them.
    """
    return (
        f"guard_pid = {guard_pid}, guard_token = {literal(token)}, "
        f"until = pg_catalog.clock_timestamp() + {seconds} * interval '1 second'"
    )


def progress(
    token: str,
    migration: str | None,
    statement: int | None,
    statements: int | None,
    detail: Mapping[str, object] | None,
) -> str:
    """Return what the row says about the work in progress.

    The `detail` includes our token, because a holder of an earlier release does not know that column and leaves an old
    value in it.
    """
    text = None
    if detail is not None:
        import json  # not needed by every start that has something pending

        text = json.dumps({**detail, "token": token})
    return (
        f"progress_migration = {literal(migration)}, progress_statement = {_number(statement)}, "
        f"progress_statements = {_number(statements)}, progress_detail = {literal(text)}, "
        "progress_at = pg_catalog.clock_timestamp()"
    )


def _number(value: int | None) -> str:
    return "NULL" if value is None else str(value)
