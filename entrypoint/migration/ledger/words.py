"""The rows of the ledger and the lock in words for messages, and as fields for the log."""

from __future__ import annotations

from entrypoint.errors.migration import (
    BelowFloorError,
    LockTimeoutError,
    MigrationHeldBackError,
    MigrationRequiresError,
    OutOfOrderError,
)
from entrypoint.migration.ledger.reading import BACKUP
from entrypoint.migration.observe import progress
from entrypoint.redaction import foreign, foreign_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.errors.migration import MigrationError
    from entrypoint.migration.ledger.plan import Plan
    from entrypoint.migration.ledger.reading import Guardian, LockRow
    from entrypoint.migration.ledger.rows import LedgerRow

# Seconds. Nobody can have held a lock for a century; `-infinity` is longer. The clocks of server and host may differ.
_LONGEST = 100 * 365 * 86_400.0
_CLOCKS_DIFFER = 1.0


def holder(row: LockRow | None, stranger: Guardian | None = None) -> str:
    """Return who holds the lock, since when, and what it is doing, as one clause.

    `stranger`: the session that has the advisory lock, if it is not the holder named in the row.
    """
    if stranger is not None:
        called = f" ({foreign(stranger.application)})" if stranger.application else ""
        who = f"server process {stranger.pid}{called}"
        if stranger.makes:
            return f"{who} has the key that protects creating the migration history, and is not creating it"
        return f"{who} has its key, but is not the holder named in migration_lock"
    if row is None or not row.held:
        return "another session has just taken it"
    who = name_of_holder(row)
    since = " holds it forever (since infinity)"
    if row.seconds is not None:
        since = f" has held it since {row.since} ({lasting(row.seconds, f'{row.seconds:.0f} s')})"
    if row.legacy:
        return f"{who}, a replica of the earlier migration system,{since}"
    doing = f" and is running {row.migration}" if row.migration else ""
    if row.migration == BACKUP:
        doing = " and is backing up"
    if at := doing_now(row):
        doing += f", {at}"
    return f"{who}{since}{doing}"


def lasting(seconds: float | None, spelt: str) -> str:
    """Return how long a lock has been held: `spelt`, unless somebody wrote an impossible time into the row."""
    if seconds is None or seconds > _LONGEST:
        return "forever"
    return "in the future, according to the server's clock" if seconds < -_CLOCKS_DIFFER else spelt


def name_of_holder(row: LockRow) -> str:
    """Return the holder's name and process ID."""
    return f"{row.who or 'another session'}" + (f" (process {row.process_id})" if row.process_id else "")


def statement(row: LockRow) -> str:
    """Return which statement of its file the holder is running, and of how many; empty if unknown."""
    return f"statement {row.statement} of {row.statements}" if row.statement and row.statements else ""


def doing_now(row: LockRow) -> str:
    """Return the same, with how far the statement has got and who blocks it, as far as known."""
    at = statement(row)
    return at and f"{at}{progress.describe(row.told)}"


def let_through(row: LockRow | None) -> str | None:
    """Return how to let a holder continue that waits for another session's lock; None if it waits for none."""
    ends = row and progress.way_out(row.told)
    return f"Wait until that session's transaction ends, or end the session: {ends}." if ends else None


def facts(row: LockRow | None) -> dict[str, str | int | None]:
    """Return the log fields about the holder."""
    return {
        "holder": row.who if row else None,
        "process_id": row.process_id if row else None,
        "since": row.since if row else None,
        "file": row.migration if row else None,
    }


def statement_facts(row: LockRow | None) -> dict[str, object]:
    """Return the log fields about the holder's statement."""
    detail = row.told if row else {}
    seconds = detail.get("seconds")
    return {
        "duration_ms": seconds * 1000 if isinstance(seconds, int) else None,
        **{name: detail.get(name) for name in ("command", "relation", "phase", "percent", "blocked_by", "retry")},
    }


CORRECT = "Correct the file and deploy it. If the cause was outside the file and is fixed: entrypoint repair --failed."
"""What to do about a migration that has failed."""

WHO_MAY_END = "that session's own user, a member of pg_signal_backend, or a superuser"
"""Who may end another session of the server."""


def timed_out(
    row: LockRow | None,
    waited: float,
    may_take: float,
    stranger: Guardian | None = None,
    *,
    fenced: bool = False,
) -> LockTimeoutError:
    """Return the error for a wait that took too long. Its first words are documented for users.

    `waited`: how many seconds this start has waited. `may_take`: how many all migrations together may take.
    `fenced`: whether the guard's lock is free, and only an open transaction of the holder is in the way.
    """
    waited_ms = round(waited * 1000)
    apply_ms = round(may_take * 1000)
    if stranger is not None:
        remedy = (
            f"If it is not a replica about to migrate: SELECT pg_terminate_backend({stranger.pid}). The key is "
            "reserved for this program; see docs/lock.md."
        )
    elif row is not None and row.legacy:
        remedy = (
            "If that replica is gone: entrypoint unlock, which frees a lock older than 10 minutes; or, to free it now, "
            "entrypoint unlock --force."
        )
    elif fenced:
        remedy = (
            "The holder no longer responds, but a transaction of one of its sessions is still open. To end it: "
            f"entrypoint unlock --force, as {WHO_MAY_END}."
        )
    else:
        remedy = _beside_a_living_holder(row, apply_ms if waited_ms < apply_ms else None)
    return LockTimeoutError(
        f"Failed to acquire migration lock after {waited_ms}ms: {holder(row, stranger)}",
        remedy=remedy,
        **facts(row),
    )


def _beside_a_living_holder(row: LockRow | None, apply_ms: int | None) -> str:
    """Return the remedy; `apply_ms`: how long all migrations together may take, if that is longer than the wait."""
    remedy = "The holder is alive"
    if apply_ms is not None:
        remedy += (
            f" and may take {apply_ms} ms (MIGRATION_TIMEOUT_MS): set MIGRATION_LOCK_TIMEOUT_MS to at least as much, "
            "or leave it unset"
        )
    remedy += ". To stop it: entrypoint unlock --force."
    frees = let_through(row)
    return f"{frees} {remedy}" if frees else remedy


def held_back(row: LedgerRow) -> MigrationHeldBackError:
    """Return the error for a migration that failed earlier and waits for a person."""
    from entrypoint.migration.ledger.walk import walk_in, without_walk  # only needed after a failure

    remedy = CORRECT
    if walk_in(row.error_message) is not None:
        remedy = (
            "Once the cause is fixed, entrypoint repair --failed makes the next run continue with the file's "
            "batches, if the file is unchanged since they began. A changed file starts from the first batch. See "
            "docs/batches.md."
        )
    said = row.error_message and foreign_report(without_walk(row.error_message), row.filename)
    return MigrationHeldBackError(
        f"{row.filename} failed on a previous run and is skipped until it changes: "
        f"{(said or 'no error message was recorded').splitlines()[0]}",
        report=said,
        remedy=remedy,
        version=row.number,
        file=row.filename,
    )


def obstacle(plan: Plan) -> MigrationError | None:
    """Return the error for what keeps some pending migrations from running, if anything does."""
    if plan.held_back is not None:
        return held_back(plan.held_back)
    if plan.unmet is None:
        return None
    file, number = plan.unmet
    return MigrationRequiresError(
        f"{file.name} requires migration {number:03d}, which is not completed; it was not run",
        remedy=f"Apply migration {number:03d} first; entrypoint status shows what it is waiting for. If it runs after "
        "the rollout, run entrypoint migrate --phase after in the image of the release that added it. This image "
        "would also run its own files of that phase, while the previous release is still serving.",
        version=file.number,
        file=file.name,
        requires=number,
    )


def below_floor(plan: Plan, schema: str) -> BelowFloorError:
    """Return the error for an image that is too old for what has been applied, according to the ledger in `schema`."""
    from entrypoint.database.spelling import history  # only needed for this error

    row = plan.below[0]
    more = f" (and {len(plan.below) - 1} more like it)" if plan.below[1:] else ""
    return BelowFloorError(
        f"This image is too old for the schema: it does not contain {foreign(row.floor or '')}, which every image "
        f"needs since {foreign(row.filename)} was applied{more}; nothing was run",
        remedy=f"Start an image that has that file. If the floor is wrong: UPDATE {history(schema)} SET floor = NULL "
        f"WHERE migration_number = {row.number}.",
        version=plan.current,
        file=row.floor,
    )


def out_of_order(plan: Plan) -> OutOfOrderError:
    """Return the error for pending migrations below the newest applied one, if the settings refuse those."""
    newest = max(plan.applied, key=lambda row: row.number)
    faults = tuple(
        f"{file.name} is not applied, but {foreign(newest.filename)}, which comes after it, is"
        for file in plan.out_of_order
    )
    return OutOfOrderError(
        f"{faults[0]}{f' (and {len(faults) - 1} more like it)' if faults[1:] else ''}; it was not run "
        "(MIGRATION_OUT_OF_ORDER=refuse)",
        faults=faults,
        remedy=f"Rename it, and its file in rollback/ if there is one, to a number above {newest.number:03d}, as "
        "`entrypoint new` would choose. Or set MIGRATION_OUT_OF_ORDER=warn to run it anyway.",
    )
