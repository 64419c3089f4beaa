"""What can end a command that an operator has typed, and no start."""

from __future__ import annotations

from entrypoint.errors import EntrypointError
from entrypoint.errors.migration import ReportedError


class UsageError(EntrypointError):
    """The command line does not say what to do."""

    event = "usage"


class NotConfirmedError(UsageError):
    """A change needs somebody's consent, and nobody gave it."""

    event = "not_confirmed"


class BackupFailedError(ReportedError):
    """There is no backup; `report` is all that the program which was to make it said."""

    event = "backup.failed"


class LedgerChangedError(EntrypointError):
    """Somebody changed the ledger between what an operator was shown and the change itself."""

    event = "ledger.changed"


class NotRepairedError(EntrypointError):
    """A failed row was to be removed, and belongs to a file that this image does not have."""

    event = "ledger.not_repaired"


class LockHeldError(EntrypointError):
    """The migration lock has a living holder, and was to be freed."""

    event = "lock.held"


class WaitTimeoutError(EntrypointError):
    """The schema was not there in time, and nobody asked us to do anything but wait."""

    event = "wait.timeout"
