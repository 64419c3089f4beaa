"""Find a `pg_dump` that works with this server: it must be at least as new, and have its `pg_restore` next to it."""

from __future__ import annotations

import glob
import os
import re
import signal
import subprocess
from typing import NamedTuple

from entrypoint.errors.operator import BackupFailedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Directories of packages that are not in the PATH: Debian, Red Hat, Alpine, Homebrew, PostgreSQL's own.
_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/pgsql/bin",
)
# In Debian, the pg_dump in the PATH is a script that picks a version by its own rules; the programs are in _PLACES.
_WRAPPER = "pg_wrapper"
# Variables to remove: libpq's, which could lead to another server, and ours, which include passwords and tokens.
_NOT_THEIRS = ("PG", "DATABASE_", "MIGRATION_", "STATUS_")
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)[.\w]*)")
_PATIENCE = 5.0


class PgDump(NamedTuple):
    """A `pg_dump` on this machine."""

    path: str
    version: str
    """For example 16.14; empty if unknown."""
    pg_restore: str
    """The `pg_restore` next to it; empty if there is none."""

    @property
    def major(self) -> int:
        """The major version; 0 if unknown."""
        number = re.match(r"\d+", self.version)
        return int(number[0]) if number else 0


def find(server_version: int) -> PgDump:
    """Return the `pg_dump` for a server of this version (160014 for 16.14). Raises BackupFailedError."""
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        raise BackupFailedError(
            "SIGCHLD is ignored in this process, so there is no way to tell whether pg_dump succeeds",
            remedy="Stop ignoring it: call signal.signal(signal.SIGCHLD, signal.SIG_DFL) in Python, or remove trap "
            "'' CHLD from the shell script that starts this process.",
        )
    found = [_examine(path) for path in candidates(os.get_exec_path(), _PLACES)]
    major = server_version // 10_000
    chosen = choose(found, major)
    if chosen is None:
        raise missing(found, major)
    return chosen


def choose(found: Sequence[PgDump], server_major: int) -> PgDump | None:
    """Return the first one of the server's major version, or else of the next newer one; None if there is none.

    An older `pg_dump` refuses the server.
    """
    usable = [one for one in found if one.major >= server_major and one.pg_restore]
    return min(usable, key=lambda one: one.major, default=None)


def missing(found: Sequence[PgDump], server_major: int) -> BackupFailedError:
    """Return the error if none of those in `found` works."""
    have = "; ".join(_describe(one) for one in found) or "none"
    return BackupFailedError(
        f"No pg_dump for PostgreSQL {server_major} found (available: {have})",
        remedy=f"Install the PostgreSQL client programs, version {server_major} or later, in the image: package "
        f"postgresql-client-{server_major} on Debian and Ubuntu, postgresql{server_major}-client on Alpine.",
    )


def candidates(path: Iterable[str], places: Iterable[str]) -> list[str]:
    """Return every `pg_dump` in the directories of `path`, and then in those that match the patterns `places`."""
    folders = [folder for folder in path if folder]
    for place in places:
        folders += sorted(glob.glob(place))
    found: dict[str, str] = {}
    for folder in folders:
        program = os.path.join(folder, "pg_dump")
        real = os.path.realpath(program)
        if _executable(program) and os.path.basename(real) != _WRAPPER:
            found.setdefault(real, program)
    return list(found.values())


def environment() -> dict[str, str]:
    """Return the environment for PostgreSQL's programs: without libpq's variables and ours, and in English."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_THEIRS)}
    return {**kept, "LC_ALL": "C"}


def _describe(one: PgDump) -> str:
    if not one.version:
        return f"{one.path}, which does not run"
    return f"{one.path} {one.version}" + ("" if one.pg_restore else ", which has no pg_restore next to it")


def _examine(path: str) -> PgDump:
    folders = (os.path.dirname(path), os.path.dirname(os.path.realpath(path)))
    beside = [os.path.join(folder, "pg_restore") for folder in folders]
    pg_restore = next((program for program in beside if _executable(program)), "")
    try:
        answer = subprocess.run(  # noqa: S603 - one of PostgreSQL's programs, by its full path
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
            env=environment(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return PgDump(path, "", pg_restore)
    version = _VERSION.search(answer.stdout.decode(errors="replace"))
    return PgDump(path, version[1] if version and answer.returncode == 0 else "", pg_restore)


def _executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
