"""The backup before the first migration. The holder of the lock takes it, and only if something will run."""

from __future__ import annotations

from entrypoint import logs
from entrypoint.backup import dump, store
from entrypoint.deadline import Deadline
from entrypoint.errors import ConnectionLostError, DatabaseUnavailableError
from entrypoint.errors.operator import BackupFailedError
from entrypoint.migration.ledger import reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.backup.programs import PgDump
    from entrypoint.database.session import Session
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.lock.lease import Lease

# For a check of the lock's row. The server's own limits are shorter, and a failed check is repeated later.
_PATIENCE = 10.0
_LOOK_STATEMENT = 4.0
_LOOK_LOCK_TIMEOUT_MS = 1_000


class BackupFirst:
    """One backup for this process's whole run, even if it has to take the lock a second time."""

    def __init__(self, assignment: Assignment, directory: str) -> None:
        """Take backups into `directory`."""
        self._assignment = assignment
        self._directory = directory
        self._program: PgDump | None = None
        self._taken = False

    def make_ready(self, session: Session, place: Place) -> PgDump:
        """Find out in advance what would prevent a backup. Raises BackupFailedError."""
        try:
            self._directory = store.check_directory(self._directory)
            self._program = dump.make_ready(session, place.backend_pid)
        except BackupFailedError as error:
            raise _nothing_migrated(error) from error
        return self._program

    def take(self, lease: Lease, version: int | None, following: str, deadline: Deadline) -> None:
        """Take the backup, unless this run has already taken it; `following` is the migration that comes next.

        Raises BackupFailedError or DatabaseUnavailableError if it fails; LeaseLostError or ConnectionLostError if the
        lock was lost in the meantime: nobody needs the backup then, and nothing of it is left behind.
        """
        if self._taken:
            return
        worker = lease.worker
        program = self._program or self.make_ready(worker, lease.place)
        order = dump.BackupOrder(
            directory=self._directory,
            parameters=worker.parameters(),
            version=version or 0,
            role=self._assignment.role,
            program=program,
            password=self._assignment.target.new_password,
        )
        self._look(lease, reading.BACKUP)
        try:
            dump.take(order, deadline, lambda: self._look(lease, reading.BACKUP))
        except ConnectionLostError:
            raise  # It is the worker's connection: contend for the lock again.
        except (BackupFailedError, DatabaseUnavailableError) as error:
            raise _nothing_migrated(error) from error
        self._taken = True
        self._look(lease, following)

    def _look(self, lease: Lease, doing: str) -> None:
        """Check that the lock is still ours, and show in its row what we are `doing`.

        Raises LeaseLostError if guard or row is lost, ConnectionLostError if the worker is.
        """
        lease.check_guard()
        statement, deadline = Deadline(_LOOK_STATEMENT), Deadline(_PATIENCE)
        then = (lease.progress(doing),)
        if not lease.look("backup.look_failed", statement, deadline, lock_timeout_ms=_LOOK_LOCK_TIMEOUT_MS, then=then):
            logs.event(logs.WARNING, "lock.revoked", "lost the migration lock; stopping the backup")
            raise lease.lost()


def _nothing_migrated(
    error: BackupFailedError | DatabaseUnavailableError,
) -> BackupFailedError | DatabaseUnavailableError:
    """Return the same error, with the consequence: nothing was migrated."""
    message = f"Nothing was migrated, because the backup failed: {error.message}"
    if isinstance(error, BackupFailedError):
        return BackupFailedError(message, report=error.report, remedy=error.remedy, **error.fields)
    return DatabaseUnavailableError(message, remedy=error.remedy, **error.fields)
