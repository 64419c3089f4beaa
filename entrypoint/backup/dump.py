"""Take one backup: dump, check, fsync, and only then give it its final name.

The password must not appear in a process list. `pg_dump` gets the address without secrets on its command line, which
everybody can read, and the password in its environment, which only this user can read (/proc/PID/environ has mode
0400). Rarer secrets, such as `sslpassword`, have no variable. They go into an unnamed service file that only the child
inherits.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from entrypoint import logs
from entrypoint.backup import programs, store, waiting
from entrypoint.bounded import OutOfTime
from entrypoint.database.classify import classify_connection_failure
from entrypoint.database.quoting import conninfo
from entrypoint.errors import ConfigurationError, DatabaseUnavailableError, EntrypointError
from entrypoint.errors.operator import BackupFailedError
from entrypoint.memory import file_in_memory
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.backup.programs import PgDump
    from entrypoint.backup.store import Partial
    from entrypoint.backup.waiting import ChildResult, Patience
    from entrypoint.database.session import Parameters, Session
    from entrypoint.deadline import Deadline

_REPORT_EVERY = 10.0
# Seconds to retry if the server has too many clients. When many replicas have just started, a connection becomes free
# as soon as one of them is done.
_CROWDED = 30.0
_CROWDED_PAUSE = 1.0
_PIECE = 1 << 20
_SERVICE = "entrypoint"
# Texts from pg_dump if it could not connect to the server, or lost the connection.
_UNREACHED = "connection to server"
_LOST = (
    "server closed the connection",
    "no connection to the server",
    "terminating connection",
    "could not receive data from server",
    "SSL connection has been closed",
    "the database system is shutting down",
)


class BackupOrder(NamedTuple):
    """What to back up, and where to."""

    directory: str
    parameters: Parameters
    version: int
    """The schema's version, for the file's name."""
    role: str | None
    program: PgDump
    password: Callable[[Deadline], str] | None = None
    """Returns a new password for each connection, if there is a command for that; may raise EntrypointError."""

    @property
    def database(self) -> str:
        """The database's name."""
        return self.parameters.public["dbname"]


class Backup(NamedTuple):
    """A complete backup."""

    path: str
    size: int
    sha256: str


def make_ready(session: Session, backend_pid: int) -> PgDump:
    """Find the `pg_dump` for the session's server, and refuse a pooler before anything runs.

    `backend_pid` is the server process that answers queries. Raises BackupFailedError and ConfigurationError.
    """
    if session.login_pid != backend_pid:
        raise ConfigurationError(
            "A backup needs a direct connection, because pg_dump works in a single session, and this connection goes "
            "through a pooler; nothing was run",
            remedy="Set MIGRATION_DATABASE_URL to the server's own address; DATABASE_URL can stay as it is.",
        )
    return programs.find(session.server_version)


def take(order: BackupOrder, deadline: Deadline, look: Callable[[], None]) -> Backup:
    """Take a backup before `deadline`. If this raises, nothing of the backup is left.

    `look` is called about every second, and stops the backup by raising. Raises BackupFailedError or
    DatabaseUnavailableError, and what `look` raises.
    """
    began = time.monotonic()
    logs.event(
        logs.INFO,
        "backup.started",
        f"backing up {order.database} with pg_dump {order.program.version} to {order.directory}",
        program=order.program.path,
        version=order.version,
    )
    try:
        store.remove_leftovers(order.directory, order.database)
        partial = store.reserve(order.directory, order.database, order.version)
        try:
            patience = waiting.Patience(deadline, _reporting(look, partial))
            _dump(order, partial, patience)
            _check(order, partial, patience)
            size, checksum = waiting.apart(lambda: _flushed(partial), patience)
            store.publish(partial)
        except BaseException:
            store.discard(partial)
            raise
    except OSError as error:
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        raise BackupFailedError(
            f"The backup could not be written: {where}{error.strerror or foreign(str(error))}",
            remedy=f"Check {order.directory}: its permissions, free space, and whether its volume is mounted "
            "read-write.",
        ) from error
    except OutOfTime:
        raise BackupFailedError(
            f"The backup was not finished within {round(deadline.budget * 1000)}ms",
            remedy="Raise MIGRATION_TIMEOUT_MS. If pg_dump was waiting for a table, pg_locks shows who held the lock.",
        ) from None
    milliseconds = round((time.monotonic() - began) * 1000)
    logs.event(
        logs.INFO,
        "backup.taken",
        f"wrote the backup {partial.final} ({size} bytes, SHA-256 {checksum}) in {logs.took(milliseconds)}",
        backup=partial.final,
        bytes=size,
        sha256=checksum,
        version=order.version,
        duration_ms=milliseconds,
    )
    return Backup(partial.final, size, checksum)


def _reporting(look: Callable[[], None], partial: Partial) -> Callable[[], None]:
    """Return a function that calls `look`, and logs the progress from time to time."""
    began = last = time.monotonic()

    def look_and_report() -> None:
        nonlocal last
        look()
        now = time.monotonic()
        if now - last >= _REPORT_EVERY:
            last = now
            size = os.fstat(partial.descriptor).st_size
            logs.event(
                logs.INFO,
                "backup.progress",
                f"still backing up after {now - began:.0f} s; {size} bytes written",
                bytes=size,
                duration_ms=round((now - began) * 1000),
            )

    return look_and_report


def _dump(order: BackupOrder, partial: Partial, patience: Patience) -> None:
    """Run `pg_dump`. Retry for a while if the server has too many clients."""
    crowded = patience.deadline.within(_CROWDED)
    while True:
        ended = _run_pg_dump(order, partial, patience)
        if ended.code == 0:
            _pass_on(ended)
            return
        failure = _failure("pg_dump", ended)
        if failure.fields.get("cause") != "too_many_clients" or crowded.passed():
            # If `look` raises (the lock was lost, for example), that is the better reason.
            patience.look()
            raise failure
        logs.event(logs.WARNING, "backup.retry", f"{failure.message}; trying again", cause=failure.fields["cause"])
        patience.sleep(_CROWDED_PAUSE)
        os.ftruncate(partial.descriptor, 0)
        os.lseek(partial.descriptor, 0, os.SEEK_SET)


def _run_pg_dump(order: BackupOrder, partial: Partial, patience: Patience) -> ChildResult:
    env = programs.environment()
    public, secret = dict(order.parameters.public), dict(order.parameters.secret)
    descriptors = []
    password = secret.pop("password", "")
    if order.password is not None:
        descriptors.append(_password_file(order.password(patience.deadline)))
        env["PGPASSFILE"] = f"/proc/self/fd/{descriptors[-1]}"
    elif password:
        env["PGPASSWORD"] = password
    if secret:
        descriptors.append(_service_file(secret))
        env["PGSERVICEFILE"] = f"/proc/self/fd/{descriptors[-1]}"
        public["service"] = _SERVICE
    argv = [order.program.path, "--format=custom", "--no-password", f"--dbname={conninfo(public)}"]
    if order.role:
        argv.append(f"--role={order.role}")
    try:
        return waiting.run(argv, patience, output=partial.descriptor, env=env, descriptors=descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _password_file(password: str) -> int:
    """Return the descriptor of an unnamed password file, for a password that should not be in an environment."""
    descriptor = file_in_memory("password")
    os.fchmod(descriptor, 0o600)  # libpq accepts no other mode
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    os.write(descriptor, f"*:*:*:*:{escaped}\n".encode())
    return descriptor


def _service_file(secret: dict[str, str]) -> int:
    """Return the descriptor of an unnamed service file. Raises BackupFailedError for a secret that it cannot hold."""
    for name, value in secret.items():
        # libpq's parseServiceFile accepts lines up to 1023 bytes, strips them, and has no quoting.
        if "\n" in value or value != value.strip() or len(value.encode()) > 900:
            raise BackupFailedError(
                f"Cannot pass the address's {name} to pg_dump: it is too long, or it starts or ends with white space",
                remedy="Use a different one.",
            )
    descriptor = file_in_memory("service")
    lines = [f"[{_SERVICE}]", *(f"{name}={value}" for name, value in secret.items())]
    os.write(descriptor, "".join(f"{line}\n" for line in lines).encode())
    return descriptor


def _check(order: BackupOrder, partial: Partial, patience: Patience) -> None:
    """Check the backup by having `pg_restore` read its table of contents."""
    with open(os.devnull, "wb") as nowhere:
        ended = waiting.run(
            [order.program.pg_restore, "--list", partial.path],
            patience,
            output=nowhere.fileno(),
            env=programs.environment(),
        )
    if ended.code != 0:
        raise _failure("pg_restore", ended)


def _flushed(partial: Partial) -> tuple[int, str]:
    """Flush the backup to disk; return its size and SHA-256."""
    from hashlib import sha256

    os.fsync(partial.descriptor)
    digest, size = sha256(), 0
    while piece := os.pread(partial.descriptor, _PIECE, size):
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


def _pass_on(ended: ChildResult) -> None:
    """Log the warnings of a successful `pg_dump`, about circular foreign keys, for example."""
    for line in ended.complaints.splitlines():
        logs.event(logs.WARNING, "backup.notice", foreign(line))


def _failure(program: str, ended: ChildResult) -> EntrypointError:
    """Return the error for a failed `program`. Pure."""
    lines = [line.strip() for line in foreign(ended.complaints).splitlines() if line.strip()]
    said = next((line for line in lines if "error:" in line), lines[0] if lines else "")
    if ended.code < 0:
        how = f"{program} was killed by signal {-ended.code}"
        said = f"{how}: {said}" if said else how
    elif not said:
        said = f"{program} exited with code {ended.code}"
    report = "\n".join(lines) if len(lines) > 1 else ""
    if program == "pg_dump" and _UNREACHED in ended.complaints:
        cause = classify_connection_failure(ended.complaints)
        return DatabaseUnavailableError(
            f"pg_dump could not connect: {cause.words} ({said})", remedy=cause.remedy, cause=cause.name
        )
    if any(text in ended.complaints for text in _LOST):
        return DatabaseUnavailableError(
            f"pg_dump lost its connection ({said})",
            remedy="Check the server's log and the network in between.",
            cause="closed",
        )
    return BackupFailedError(said, remedy=_remedy(ended), report=report)


def _remedy(ended: ChildResult) -> str:
    text = ended.complaints.lower()
    if "no space left" in text or "disk quota" in text or "file too large" in text:
        return (
            "Free space in the backup directory: delete files you no longer need, or enlarge the volume. --keep "
            "deletes older backups only after a new one is complete."
        )
    if "permission denied" in text or "row-level security" in text:
        return "Let the migration user read every table, or set MIGRATION_ROLE to a role that can."
    if "server version mismatch" in text:
        return "Install the PostgreSQL client programs in the server's version or later."
    if ended.code < 0:
        return "Find out what killed it: a memory limit, a file size limit, or a person."
    return "Fix the cause and start again."
