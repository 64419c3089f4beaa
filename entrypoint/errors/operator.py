"""Errors of commands that operators type; no start raises them."""

from __future__ import annotations

from entrypoint.errors import EntrypointError
from entrypoint.errors.migration import ReportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection


class UsageError(EntrypointError):
    """The command line is invalid."""

    event = "usage"


def no_such_number(number: int, known: Collection[int], usage: str) -> UsageError:
    """Return the error for a `number` that no migration has; `known`: the numbers that exist."""
    span = f"the numbers go from {min(known)} to {max(known)}" if known else "there are none"
    return UsageError(
        f"There is no migration number {number}: {span}", remedy=f"Use a number that entrypoint status lists: {usage}"
    )


class NotConfirmedError(UsageError):
    """A change was not confirmed."""

    event = "not_confirmed"


class BackupFailedError(ReportedError):
    """There is no backup; `report` is everything that `pg_dump` printed."""

    event = "backup.failed"


class LedgerChangedError(EntrypointError):
    """Somebody changed the ledger after the operator was shown what would change."""

    event = "ledger.changed"


class NotRepairedError(EntrypointError):
    """The failed row to remove belongs to a file that this image does not have."""

    event = "ledger.not_repaired"


class LockHeldError(EntrypointError):
    """The migration lock was not freed, because its holder is alive."""

    event = "lock.held"


class WaitTimeoutError(EntrypointError):
    """The schema was not up to date in time, and `wait` only waits."""

    event = "wait.timeout"
