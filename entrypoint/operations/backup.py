"""`backup`: take one backup now, without the lock, and delete older ones if asked to."""

from __future__ import annotations

import os

from entrypoint.backup import dump, store
from entrypoint.database.answers import StatementError
from entrypoint.database.connect import connect
from entrypoint.database.target import target_of
from entrypoint.deadline import Deadline
from entrypoint.errors.operator import UsageError
from entrypoint.migration.ledger import reading
from entrypoint.migration.ledger.finding import find
from entrypoint.migration.ledger.plan import decide
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.survey import start_clocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.settings import Settings

_PATIENCE = 10.0


def backup(settings: Settings, *, directory: str | None, keep: int | None) -> str:
    """Take a backup into `directory` (MIGRATION_BACKUP_DIR if it is None) and return what to print about it.

    `keep`: how many backups of this database to keep, including this one; None for all. Raises EntrypointError.
    """
    chosen = directory or settings.backup_dir
    if chosen is None:
        raise UsageError(
            "No backup directory given: neither --dir nor MIGRATION_BACKUP_DIR is set",
            remedy="entrypoint backup --dir DIRECTORY",
        )
    path = store.check_directory(chosen)
    order = _order(settings, path)
    taken = dump.take(order, Deadline(settings.apply.timeout), _nothing_to_look_after)
    lines = [taken.path, f"  {taken.size} bytes", f"  SHA-256 {taken.sha256}"]
    if keep is not None:
        deleted = store.prune(path, order.database, taken.path, keep)
        lines += [f"deleted {name}" for name in deleted]
    return "\n".join(lines) + "\n"


def _order(settings: Settings, directory: str) -> dump.BackupOrder:
    """Look at the database, and find a pg_dump for it. The connection is closed afterwards."""
    whereabouts = target_of(settings.address, token=os.urandom(8).hex())
    session = connect(whereabouts, settings.connect, start_clocks(settings))
    try:
        patience = Deadline(_PATIENCE)
        place = find(session, settings.schema, patience, settings.role, settings.command)
        program = dump.make_ready(session, place.backend_pid)
        look = reading.look(session, place, settings.role, patience, contending=False)
        return dump.BackupOrder(
            directory=directory,
            parameters=session.parameters(),
            version=decide((), look.rows).current or 0,
            role=settings.role,
            program=program,
            password=whereabouts.new_password,
        )
    except StatementError as error:
        doing = "the migration history could not be read"
        raise refused_on(session, settings.schema, settings.role, error, doing, reading=True) from error
    finally:
        session.close()


def _nothing_to_look_after() -> None:
    """Ignore the lock: a backup and a migration do not disturb each other."""
