"""Explains why a program cannot be executed, and finds the exit code that a shell would use."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

CANNOT_EXECUTE = 126
NOT_FOUND = 127
# The kernel follows at most this many nested interpreters (fs/exec.c).
_DEEPEST = 5


def why_not(error: OSError) -> tuple[str, int]:
    """Return why the program in `error` could not be executed, and the exit code, 126 or 127."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return what_failed(error.filename, missing=True) or "not found", NOT_FOUND
    reason = error.strerror or "cannot be executed"
    if error.errno == errno.EACCES and os.access(error.filename or "", os.X_OK):
        reason = what_failed(error.filename, missing=False) or reason
    if error.errno == errno.ENOEXEC:
        reason = "it is neither a program for this machine nor a script that starts with #!"
    return reason, CANNOT_EXECUTE


def what_helps(command: Sequence[str], reason: str, exit_code: int) -> str:
    """Return what to do about a `command` that could not be executed, given the result of `why_not`."""
    if len(command) == 1 and any(one.isspace() for one in command[0].strip()):
        words = " ".join(command[0].split())
        return f"That is a single word that contains a space. Pass each word separately: entrypoint run -- {words}"
    if "interpreter" in reason or "loader" in reason:
        return "Install what it needs in the image, or correct the file."
    if exit_code == NOT_FOUND:
        return "Correct the name, give the full path, or install it in the image: entrypoint run -- COMMAND"
    return "Make it executable by this user (chmod +x), or run it with its interpreter: entrypoint run -- sh FILE"


def first_line(path: str | bytes | None) -> bytes | None:
    """Return the first line of a program, or its first 4096 bytes, more than the kernel reads; None if unreadable."""
    try:
        descriptor = os.open(path or "", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, 4096).partition(b"\n")[0]
        finally:
            os.close(descriptor)
    except OSError:
        return None


def what_failed(path: str | bytes | None, *, missing: bool) -> str | None:
    """Return what else the kernel could not find or execute, such as the program's interpreter; None if nothing.

    An interpreter may itself be a script with an interpreter.
    """
    whose, first = "its", first_line(path)
    for _ in range(_DEEPEST):
        if first is None or not first.startswith(b"#!"):
            break
        interpreter = os.fsdecode(first[2:].strip(b" \t").partition(b" ")[0].partition(b"\t")[0])
        named = f"{whose} interpreter {interpreter!r}, from its first line,"
        if not os.path.exists(interpreter):
            if first.endswith(b"\r"):
                windows = "the file has Windows line endings; save it with LF only"
                return f"{whose} interpreter {interpreter!r} was not found; {windows}"
            return f"{named} was not found"
        if os.path.isdir(interpreter):
            return f"{named} is a directory"
        if not os.access(interpreter, os.X_OK):
            return f"{named} is not executable by this user"
        whose, first = f"{interpreter!r} is its interpreter, whose", first_line(interpreter)
    if not missing or first is None or first.startswith(b"#!"):
        return None
    return (
        f"{whose} dynamic loader was not found; it was built for another system, for example for glibc where there "
        "is only musl"
    )
