"""Become the application: same process, and nothing in it that shows that we were there."""

from __future__ import annotations

import errno
import os
import signal
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# CPython ignores these at its start (Python/pylifecycle.c, init_signals), and an ignored signal stays ignored
# across exec. What they were before cannot be known; by default they end a process.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

CANNOT_EXECUTE = 126
NOT_FOUND = 127


class Inheritance(NamedTuple):
    """What this process was started with, taken before anything could change it."""

    descriptors: frozenset[int]
    mask: frozenset[int]


def inherit() -> Inheritance:
    """Record what the application is to find again. Call it first of all."""
    return Inheritance(_open_descriptors(), frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def initial_environment() -> dict[bytes, bytes]:
    """Return the environment as this process received it, byte for byte and in its order.

    `os.environ` is not that: under an empty or C locale CPython sets LC_CTYPE (PEP 538). The kernel keeps the
    original. Where /proc is not mounted, os.environb has to do.
    """
    try:
        with open("/proc/self/environ", "rb") as file:
            block = file.read()
    except OSError:
        return dict(os.environb)
    environment: dict[bytes, bytes] = {}
    for entry in block.split(b"\0"):
        # getenv(3) finds the first of two entries with one name; so must the application.
        name, separator, value = entry.partition(b"=")
        if separator and name not in environment:
            environment[name] = value
    return environment


def application_environment(initial: Mapping[bytes, bytes], additions: Mapping[str, str | None]) -> dict[bytes, bytes]:
    """Return `initial` with our variables in it; one that is None is left out, even if it was inherited."""
    environment = dict(initial)
    for name, value in additions.items():
        environment.pop(name.encode(), None)
        if value is not None:
            # An environment cannot hold a NUL, and the error text of a database may.
            environment[name.encode()] = value.replace("\0", "").encode("utf-8", "surrogateescape")
    return environment


class CannotExecute(Exception):  # noqa: N818 - read as a statement of fact, and turned into an exit code at once
    """The application could not be executed; `exit_code` is 126 or 127, as a shell would have it."""

    def __init__(self, command: str, error: OSError) -> None:
        """Take the command's name and what the kernel said about it."""
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        self.exit_code = NOT_FOUND if missing else CANNOT_EXECUTE
        reason = "not found" if missing else (error.strerror or "cannot be executed")
        if error.errno == errno.ENOEXEC:
            reason = "neither a program for this machine nor a script that begins with #!"
        super().__init__(f"Cannot start the application: {command}: {reason}")


def hand_over(command: Sequence[str], environment: Mapping[bytes, bytes], inherited: Inheritance) -> None:
    """Execute `command` in this process. Returns only by raising CannotExecute.

    Handlers that were installed need no undoing, as exec gives every caught signal its default back; so a
    SIGTERM in the last instant still ends us, even as pid 1.
    """
    for descriptor in _open_descriptors() - inherited.descriptors:
        _close_on_exec(descriptor)
    signal.pthread_sigmask(signal.SIG_SETMASK, inherited.mask)
    ignored = [(signum, signal.signal(signum, signal.SIG_DFL)) for signum in _IGNORED_BY_PYTHON]
    try:
        os.execvpe(os.fsencode(command[0]), [os.fsencode(word) for word in command], environment)  # noqa: S606 - our purpose
    except OSError as error:
        for signum, handler in ignored:
            signal.signal(signum, handler)
        raise CannotExecute(command[0], error) from error


def _open_descriptors() -> frozenset[int]:
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return frozenset()
    return frozenset(descriptor for descriptor in map(int, names) if _is_open(descriptor))


def _is_open(descriptor: int) -> bool:
    """Tell the listing's own descriptor, which is closed by now, from the others."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _close_on_exec(descriptor: int) -> None:
    try:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - the signature is not ours
    except OSError:
        return  # Closed in the meantime.
