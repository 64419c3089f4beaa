"""Run another migration tool to its end while we hold the lock, and leave nothing of it behind."""

from __future__ import annotations

import os
import select
import shutil
import time
from typing import NamedTuple

from entrypoint import logs, signals
from entrypoint.deadline import SLICE, Deadline
from entrypoint.redaction import foreign
from entrypoint.tool.kept import KeptProgram
from entrypoint.tool.output import Output
from entrypoint.tool.relay import open_way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.migration.lock.lease import Lease
    from entrypoint.records import Address


# Seconds between two looks at the lock's row, which an operator may have freed.
_LOOK_EVERY = 1.0
_LOOK_PATIENCE = 5.0
# Seconds between SIGTERM and SIGKILL: after the timeout, and when we have to end within two seconds ourselves.
_GRACE = 1.0
_SHORT_GRACE = 0.8
# Seconds for the keeper to kill everything, which takes milliseconds.
_KILLING = 5.0
_SHORT_KILLING = 0.4
# Seconds for ending the tool's sessions in the server.
_SESSIONS = 2.0


class ToolOrder(NamedTuple):
    """What to run, and how."""

    argv: tuple[str, ...]
    environ: dict[bytes, bytes]
    """The application's environment, as we received it."""
    address: Address
    token: str
    """The lock's token, which distinguishes the tool's sessions from others."""
    pooled: bool
    """Whether a pooler is between us and the server."""
    terminal: bool
    """Whether a person is watching at a terminal."""
    password: Callable[[Deadline], str] | None = None
    """Issues a password for each connection, if there is a command for that; may raise EntrypointError."""


class ToolResult(NamedTuple):
    """How the tool ended."""

    exit_code: int | None
    signal: int | None
    seconds: float
    tail: tuple[str, ...]
    """The last lines that it printed, without secrets."""
    timed_out: bool
    cannot_start: str
    bypassed: bool = False
    """Whether there was a relay to the server, and no connection came."""


def run_tool(order: ToolOrder, lease: Lease, deadline: Deadline) -> ToolResult:
    """Run the tool. When this returns or raises, its processes are gone, and so are its sessions.

    Raises LeaseLostError, ConnectionLostError, and what a signal raises.
    """
    way = open_way(order, lease)
    if way.note:
        logs.event(
            logs.INFO,
            "command.direct",
            f"the command connects to the server directly, so its sessions can be told only by their name: {way.note}",
        )
    patience = _SESSIONS
    try:
        return _run(order, way.environ, lease, deadline)._replace(bypassed=way.unused())
    except (signals.Interrupted, KeyboardInterrupt):
        patience = 0.0
        raise
    finally:
        way.close(patience)


def _run(order: ToolOrder, environ: dict[bytes, bytes], lease: Lease, deadline: Deadline) -> ToolResult:
    began = time.monotonic()
    secrets = lease.worker.parameters().secret
    output = Output(terminal=order.terminal, secrets=secrets.values())
    try:
        try:
            kept = KeptProgram([_found(order), *order.argv[1:]], environ, *output.write_ends)
        except OSError as error:
            return ToolResult(None, None, 0.0, (), timed_out=False, cannot_start=_reason(error))
        output.let_go()
        try:
            timed_out = _attend(kept, output, lease, deadline)
        except (signals.Interrupted, KeyboardInterrupt):
            _end(kept, _SHORT_GRACE, _SHORT_KILLING)
            raise
        except BaseException:
            _end(kept, 0, _KILLING)
            raise
        finally:
            kept.close()
        output.finish()
    finally:
        output.close()
    code = kept.code if kept.code is not None else 0
    return ToolResult(
        exit_code=code if code >= 0 and not kept.errno else None,
        signal=-code if code < 0 else None,
        seconds=time.monotonic() - began,
        tail=tuple(output.tail),
        timed_out=timed_out,
        cannot_start=os.strerror(kept.errno) if kept.errno else "",
    )


def _reason(error: OSError) -> str:
    """Return why no process could be started, with the file's name if that is /dev/null."""
    said = error.strerror or foreign(str(error))
    return f"{os.devnull}: {said}" if error.filename == os.devnull else said


def _attend(kept: KeptProgram, output: Output, lease: Lease, deadline: Deadline) -> bool:
    """Pass on the tool's output until nothing is left of it, keep checking the lock, and tell whether it timed out."""
    look = time.monotonic() + _LOOK_EVERY
    grace: Deadline | None = None
    while not kept.over:
        for descriptor in select.select([kept.status, *output.descriptors], (), (), SLICE)[0]:
            if descriptor == kept.status:
                kept.listen()
            else:
                output.read(descriptor)
        signals.raise_lost()
        kept.beat()
        if deadline.passed() and grace is None:
            kept.terminate()
            grace = Deadline(_GRACE)
        if grace is not None and grace.passed():
            kept.kill()
        lease.check_guard()
        if grace is None and time.monotonic() >= look:
            _look(lease, deadline)
            look = time.monotonic() + _LOOK_EVERY
    return grace is not None


def _end(kept: KeptProgram, grace: float, killing: float) -> None:
    """End the tool and its descendants, with SIGTERM first if there is a grace period."""
    if grace:
        kept.terminate()
        kept.wait(grace)
    kept.kill()
    if not kept.wait(killing):
        logs.event(logs.WARNING, "command.left", "some of the command's processes were killed and have not ended yet")


def _found(order: ToolOrder) -> str:
    """Return the program's path, found with the PATH in the tool's environment."""
    path = order.environ.get(b"PATH")
    return shutil.which(order.argv[0], path=None if path is None else os.fsdecode(path)) or order.argv[0]


def _look(lease: Lease, deadline: Deadline) -> None:
    """Check that we still hold the row. Raises LeaseLostError if an operator has freed it, and ConnectionLostError."""
    patience = Deadline(max(_LOOK_EVERY, min(_LOOK_PATIENCE, deadline.remaining())))
    # The tool may have locked the row's table.
    lock_timeout_ms = patience.milliseconds() // 4 + 1
    if not lease.look("command.look_failed", patience, patience, lock_timeout_ms=lock_timeout_ms):
        raise lease.lost()
