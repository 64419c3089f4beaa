"""The directory in which backups are kept."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import NamedTuple

from entrypoint import logs
from entrypoint.backup import names
from entrypoint.errors.operator import BackupFailedError
from entrypoint.redaction import foreign

_DAY = 86_400.0


class Partial(NamedTuple):
    """An unfinished backup."""

    path: str
    """The temporary name, in the same directory."""
    final: str
    descriptor: int


def check_directory(directory: str) -> str:
    """Return the absolute path of a directory, and check that it is writable. Raises BackupFailedError.

    The directory is not created: if a volume was not mounted, the backups would be lost.
    """
    path = os.path.abspath(directory)
    if not os.path.isdir(path):
        # Check the original value: in the path, an address set by mistake has lost a slash, and is not recognized.
        shown = foreign(directory)
        shown = path if shown == directory else shown
        why = "is not a directory" if os.path.lexists(path) else "does not exist"
        raise BackupFailedError(
            f"The backup directory {shown} {why}",
            remedy="Mount the volume or create the directory. It is set by MIGRATION_BACKUP_DIR or --dir.",
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise BackupFailedError(
            f"The backup directory {path} is not writable by this user (uid {os.geteuid()})",
            remedy="Give this user write permission there, and mount the volume read-write.",
        )
    return path


def reserve(directory: str, database: str, version: int) -> Partial:
    """Create the file for the backup, readable only by this user. Raises OSError.

    While it exists, no other backup uses the same temporary or final name.
    """
    while True:
        name = names.backup_name(database, time.time(), version)
        path, final = os.path.join(directory, names.partial_name(name)), os.path.join(directory, name)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            time.sleep(0.001)  # Names differ after a millisecond.
            continue
        if not os.path.lexists(final):
            return Partial(path, final, descriptor)
        discard(Partial(path, final, descriptor))


def discard(partial: Partial) -> None:
    """Remove the unfinished file, and close it. Never raises."""
    with contextlib.suppress(OSError):
        os.unlink(partial.path)
    with contextlib.suppress(OSError):
        os.close(partial.descriptor)


def publish(partial: Partial) -> None:
    """Give the complete backup its final name, and close it. Raises OSError."""
    os.rename(partial.path, partial.final)
    os.close(partial.descriptor)
    with contextlib.suppress(OSError):  # Not every file system supports this.
        _sync_directory(os.path.dirname(partial.final))


def remove_leftovers(directory: str, database: str) -> None:
    """Remove what killed runs have left. A file younger than a day may still be in use."""
    with contextlib.suppress(OSError):
        for name in names.partial_names(os.listdir(directory), database):
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                found = os.lstat(path)
                if stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > _DAY:
                    os.unlink(path)
                    logs.event(
                        logs.WARNING,
                        "backup.leftover_removed",
                        f"removed {path}, left over from an unfinished backup",
                        backup=path,
                        bytes=found.st_size,
                    )


def prune(directory: str, database: str, new: str, keep: int) -> list[str]:
    """Delete the backups of `database` except for the newest `keep`, which include `new`; return the deleted ones.

    Deletes only files named exactly like ours. If some cannot be deleted, deletes the others first, and then raises
    BackupFailedError.
    """
    deleted, faults = [], []
    for name in names.superfluous(os.listdir(directory), database, os.path.basename(new), keep):
        path = os.path.join(directory, name)
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                continue
            os.unlink(path)
        except FileNotFoundError:
            continue  # Another process is deleting, too.
        except OSError as error:
            faults.append(f"{path}: {error.strerror}")
            continue
        deleted.append(path)
        logs.event(logs.INFO, "backup.deleted", f"deleted the older backup {path}", backup=path)
    if faults:
        raise BackupFailedError(
            f"The backup {new} was written, but an older one could not be deleted: {faults[0]}",
            remedy="Delete it by hand, and check the permissions of that directory.",
            faults=faults,
        )
    return deleted


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
