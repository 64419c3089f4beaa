"""Run `entrypoint backup` as a child of the service: one at a time, ending with the service.

It is a separate process because a backup takes long, hashes gigabytes and waits for programs, while the service must
keep answering. Its log arrives through a pipe, as JSON, and is passed on to the service's log.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import NamedTuple

from entrypoint import logs
from entrypoint.backup.waiting import dying_with_us
from entrypoint.errors.operator import BackupFailedError
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    State = Literal["none", "running", "succeeded", "failed"]

# Seconds from SIGTERM to SIGKILL: the child promises to end within 2 s, and so does the service.
_KINDLY = 1.3
# Seconds for a killed child to end.
_KILLED = 0.2
# The longest line of the log.
_LONGEST_LINE = 1 << 20
_FIELDS = ("time", "level", "event", "message")


class BackupState(NamedTuple):
    """The state of the latest backup."""

    state: State
    started: float | None = None
    """In seconds since 1970."""
    ended: float | None = None
    path: str | None = None
    size: int | None = None
    sha256: str | None = None
    error: str | None = None
    remedy: str | None = None

    def documented(self) -> dict[str, object]:
        """Return it in the form of the API."""
        duration = None if self.started is None or self.ended is None else round((self.ended - self.started) * 1000)
        return {
            "status": self.state,
            "startedAt": _utc(self.started),
            "endedAt": _utc(self.ended),
            "durationMs": duration,
            "file": self.path,
            "bytes": self.size,
            "sha256": self.sha256,
            "error": self.error,
            "remedy": self.remedy,
        }


class NotConfiguredError(BackupFailedError):
    """No backup directory is configured."""


class Backups:
    """Starts backups, and knows the state of the latest one."""

    def __init__(self, directory: str | None) -> None:
        """Write backups to `directory`; None if there is none."""
        self._directory = directory
        self.report = BackupState("none")
        self._child: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._killed: asyncio.TimerHandle | None = None

    def start(self) -> bool:
        """Start a backup; return False if one is running. Raises NotConfiguredError. Call it in the event loop."""
        if self._directory is None:
            raise NotConfiguredError(
                "No backup directory is configured: MIGRATION_BACKUP_DIR is not set",
                remedy="Set it for the service, to a directory on persistent storage.",
            )
        if self._task is not None or self._stopping:
            return False
        self.report = BackupState("running", started=time.time())
        self._task = asyncio.create_task(self._run())
        return True

    def terminate(self) -> None:
        """Ask the child to end, if there is one, and start no more. Call it in the event loop."""
        if not self._stopping:
            self._stopping = True
            # Count from now, not from the moment when everything else has ended.
            self._killed = asyncio.get_running_loop().call_later(_KINDLY, self._kill)
        if self._child is not None and self._child.returncode is None:
            self._child.terminate()

    async def end(self) -> None:
        """Make sure that no child is left."""
        self.terminate()
        if self._task is not None and self._killed is not None:
            remaining = self._killed.when() - asyncio.get_running_loop().time()
            await asyncio.wait([self._task], timeout=max(0.0, remaining) + _KILLED)

    def _kill(self) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.kill()

    async def _run(self) -> None:
        try:
            await self._run_child()
        except Exception as error:  # noqa: BLE001 - out of descriptors or processes, or an internal error
            self._failed(f"The backup could not be started: {foreign(str(error))}", "Check the container's limits.")
        finally:
            self._kill()
            self._task = self._child = None

    async def _run_child(self) -> None:
        # The child and its children do not need the service's tokens.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STATUS_")}
        environment = {**kept, "LOG_FORMAT": "json", "LOG_LEVEL": "info"}
        child = self._child = await asyncio.create_subprocess_exec(
            *dying_with_us(_command()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            limit=_LONGEST_LINE,
        )
        if self._stopping:
            child.terminate()
        if child.stderr is not None:
            async for line in child.stderr:
                self._handle_line(line)
        code = await child.wait()
        report = self.report
        if code == 0 and report.path is not None:
            self.report = report._replace(state="succeeded", ended=time.time(), error=None, remedy=None)
        else:
            self._failed(report.error or f"The backup ended with exit code {code}", report.remedy)

    def _failed(self, error: str, remedy: str | None) -> None:
        self.report = self.report._replace(
            state="failed", ended=time.time(), path=None, size=None, sha256=None, error=error, remedy=remedy
        )

    def _handle_line(self, line: bytes) -> None:
        """Pass on a line of the child's log, and keep what it says about the backup."""
        try:
            record = json.loads(line)
            level, event, message = logs.LEVELS[record["level"]], str(record["event"]), str(record["message"])
        except (ValueError, KeyError, TypeError):
            record, level, event = {}, logs.WARNING, "backup.said"
            message = line.decode(errors="replace").strip()
        fields = {name: value for name, value in record.items() if name not in _FIELDS}
        logs.event(level, event, message, **fields)
        if event == "backup.taken":
            self.report = self.report._replace(
                path=fields.get("backup"), size=fields.get("bytes"), sha256=fields.get("sha256")
            )
        elif level >= logs.ERROR or event == "interrupted":
            self.report = self.report._replace(error=message, remedy=fields.get("remedy", ""))


def _command() -> list[str]:
    """Return the command line of a backup, run by this same program."""
    if getattr(sys, "frozen", False):  # The program of the self-contained folder has no -m (packaging/main.py).
        return [sys.executable, "backup"]
    # Do not import from the working directory, where the application may have its own entrypoint.py.
    return [sys.executable, "-I" if sys.flags.isolated else "-P", "-m", "entrypoint", "backup"]


def _utc(moment: float | None) -> str | None:
    return None if moment is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
