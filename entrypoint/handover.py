"""Exec the application: the same process, with no trace of this program left in it."""

from __future__ import annotations

import errno
import os

from entrypoint import signals
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Inheritance(NamedTuple):
    """What this process was started with, recorded before anything could change it."""

    descriptors: frozenset[int]
    mask: frozenset[int]
    environment: tuple[bytes, ...]
    """Its entries, byte for byte and in the original order."""


def inherit() -> Inheritance:
    """Record what the application must find unchanged. Call this before anything else."""
    return Inheritance(_open_descriptors(), signals.blocked(), tuple(initial_environment()))


def initial_environment() -> list[bytes]:
    """Return the environment as this process received it: its entries byte for byte and in the original order.

    `os.environ` differs: with an empty or C locale CPython sets LC_CTYPE (PEP 538), and a dictionary cannot hold an
    entry without a name, or two with the same name. The kernel keeps the original. If /proc is not mounted, this falls
    back to `os.environb`.
    """
    try:
        with open("/proc/self/environ", "rb") as file:
            block = file.read()
    except OSError:
        return [name + b"=" + value for name, value in os.environb.items()]
    return block.removesuffix(b"\0").split(b"\0") if block else []


def application_environment(initial: Sequence[bytes], additions: Mapping[str, str | None]) -> list[bytes]:
    """Return `initial` with the variables in `additions`; one that is None is removed, even if it was inherited."""
    ours = {name.encode() for name in additions}
    environment = [entry for entry in initial if entry.partition(b"=")[0] not in ours]
    for name, value in additions.items():
        if value is not None:
            # An environment cannot hold a NUL, and the error text of a database may.
            environment.append(f"{name}={value}".replace("\0", "").encode("utf-8", "surrogateescape"))
    return environment


def hand_over(command: Sequence[str], environment: Sequence[bytes], inherited: Inheritance) -> None:
    """Exec `command` in this process; never returns. Raises OSError with the file that was tried, or Interrupted.

    A signal that arrives at the last moment meets the default action, and ends this process as it would have ended the
    application. As pid 1 the default is to ignore signals, so there our handlers stay.
    """
    for descriptor in _open_descriptors() - inherited.descriptors:
        _close_on_exec(descriptor)
    # A signal that has already arrived ends us here. A later one waits until signals have their default actions.
    signals.hold()
    signals.raise_received()
    signals.restore_defaults_of_python()
    if os.getpid() != 1:
        signals.restore()
    signals.block_only(inherited.mask)
    signals.raise_received()
    words = [os.fsencode(word) for word in command]
    try:
        _execute(words, environment)
    except OSError:
        signals.ignore_broken_pipes()
        raise


def _execute(words: Sequence[bytes], environment: Sequence[bytes]) -> None:
    """Find the program as execvp(3) does, and execute it. Raises the most informative OSError."""
    if b"/" in words[0]:
        candidates = [words[0]]
    else:
        path = next((entry[5:] for entry in environment if entry.startswith(b"PATH=")), os.fsencode(os.defpath))
        candidates = [os.path.join(folder or b".", words[0]) for folder in path.split(b":")] if words[0] else []
    failure = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for candidate in candidates:
        try:
            _execve(candidate, words, environment)
        except OSError as error:
            error.filename = candidate
            # A file that exists but cannot be executed says more than one that does not exist.
            there = failure.filename is not None and os.path.lexists(failure.filename)
            if failure.errno == errno.ENOENT and not there and error.errno != errno.ENOTDIR:
                failure = error  # type: ignore[assignment]  # any OSError will do
    raise failure


def _execve(path: bytes, words: Sequence[bytes], environment: Sequence[bytes]) -> None:
    variables = dict(entry.split(b"=", 1) for entry in environment if entry.find(b"=") > 0)
    if len(variables) == len(environment):
        os.execve(path, list(words), variables)  # noqa: S606 - our purpose
    # There are entries without a name, or duplicates. os.execve accepts neither, but the application must get them.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def array(strings: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
        return (ctypes.c_char_p * (len(strings) + 1))(*strings, None)

    libc.execve(path, array(words), array(environment))
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def _open_descriptors() -> frozenset[int]:
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return frozenset()
    return frozenset(descriptor for descriptor in map(int, names) if _is_open(descriptor))


def _is_open(descriptor: int) -> bool:
    """Tell whether a descriptor is open. The one that listed the directory is closed by now."""
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
