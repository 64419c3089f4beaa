"""Handles SIGTERM and SIGINT: the program ends within two seconds, whatever it is doing.

The first signal raises `Interrupted` in the main thread, and every clean-up after that has a time limit. A watchdog
thread ends the process if this still takes too long, for example because a C library does not return. A second
signal ends it at once.

An exception can get lost: Python drops one that is raised in a callback from C code, in `__del__` or in a weak
reference's callback, and an error during clean-up may replace it. So the signal is remembered as well. Every slice of a
wait raises a lost exception again (`raise_lost`). Once a signal has arrived, nothing new is started, least of all the
application (`raise_received`).

Signals that were ignored when the program started (by `nohup`, or for a shell's background job) stay ignored. For pid 1
the kernel ignores signals without a handler, so the handlers are installed first of all.
"""

from __future__ import annotations

import _thread
import os
import sys
import time
from _thread import _local

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from types import FrameType
    from typing import Literal
else:
    # The C module behind `signal`. `signal` itself adds enumerations, and importing those takes 4 ms of every start
    # (docs/startup-cost.md).
    import _signal as signal

# Python/pylifecycle.c, init_signals
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

HANDLED = (signal.SIGTERM, signal.SIGINT)

# We promise 2 s from the signal to the end of the process. The interpreter and the kernel need some of that.
_PATIENCE = 1.7


class Interrupted(BaseException):
    """A signal asked the program to end. Not an Exception, so that no `except Exception` catches it."""

    def __init__(self, signum: int) -> None:
        """Take the signal's number."""
        super().__init__(signum)
        self.signum = signum
        self.exit_code = 128 + signum


class StopRequest:
    """Asks a thread to stop its work, as a signal asks the program's main thread. For `entrypoint.api`."""

    __slots__ = ("asked", "told")

    def __init__(self) -> None:
        """Do not ask yet."""
        self.asked = False
        self.told = False
        """Whether the exception has been raised. The clean-up after that must not be interrupted again."""


class _Here(_local):
    """The current thread's own state."""

    stop: StopRequest | None = None


_here = _Here()
_received: int | None = None
_lost = False
"""Whether the exception for the received signal still has to be raised."""
_in_callback_of_c = False
_main_thread: int | None = None
_delegate: Callable[[int], object] | None = None


class NotInCallbacks:
    """Use `with NotInCallbacks():` around a C function that calls back, so that a signal raises after it, not inside.

    An exception in psycopg's notice receiver, for example, would leave it with a result that is then freed twice.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        global _in_callback_of_c  # noqa: PLW0603 - signal handlers belong to the process, and so does this
        if _thread.get_ident() == _main_thread:  # Handlers only run there.
            _in_callback_of_c = True

    def __exit__(self, *_: object) -> Literal[False]:
        global _in_callback_of_c  # noqa: PLW0603 - as above
        if _thread.get_ident() == _main_thread:
            _in_callback_of_c = False
            raise_lost()
        return False


def raise_lost() -> None:
    """Raise `Interrupted`, in the main thread, if a signal's exception got lost or was delayed.

    Also raises it, once, in a thread that was asked to stop.
    """
    global _lost  # noqa: PLW0603 - as above
    if _lost and _received is not None and _thread.get_ident() == _main_thread:
        _lost = False
        raise Interrupted(_received)
    stop = _here.stop
    if stop is not None and stop.asked and not stop.told:
        stop.told = True
        raise Interrupted(signal.SIGINT)


def raise_received() -> None:
    """Raise `Interrupted`, in the main thread, if a signal has arrived, even if its exception was raised before.

    Call this before starting something new, but not while cleaning up.
    """
    if _received is not None and _delegate is None and _thread.get_ident() == _main_thread:
        raise Interrupted(_received)
    stop = _here.stop
    if stop is not None and stop.asked:
        stop.told = True
        raise Interrupted(signal.SIGINT)


def heed(stop: StopRequest) -> None:
    """Let waits in this thread end when `stop` asks for it."""
    _here.stop = stop


def installed() -> bool:
    """Tell whether this process is the program itself, not an application that uses it as a library."""
    return _main_thread is not None


def blocked() -> frozenset[int]:
    """Return the numbers of the signals that this thread blocks."""
    return frozenset(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def block_only(mask: frozenset[int]) -> None:
    """Block the signals in `mask` in this thread, and no others."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def restore_defaults_of_python() -> None:
    """Restore the default action of the signals that CPython ignores when it starts.

    An ignored signal would stay ignored after exec. Their original action cannot be known; the default ends a process.
    """
    for signum in _IGNORED_BY_PYTHON:
        signal.signal(signum, signal.SIG_DFL)


def ignore_broken_pipes() -> None:
    """Ignore SIGPIPE, so that our log survives when its reader is gone."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def hold() -> None:
    """Block the signals that end the program, in this thread. One that arrives now waits, or ends the application."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def install() -> None:
    """Handle the signals that end the program. Call it once, in the main thread, as early as possible."""
    global _main_thread  # noqa: PLW0603 - signal handlers belong to the process, and so does this
    _main_thread = _thread.get_ident()
    sys.unraisablehook = _note_lost
    for signum in HANDLED:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _handle)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # For the application, it may mean "reload". We ignore it.
        signal.signal(signal.SIGHUP, _do_nothing)


def delegate_to(delegate: Callable[[int], object]) -> None:
    """Let `delegate` handle signals from now on, for a program whose work is not only in the main thread.

    The signal handler calls it with the signal's number, instead of raising `Interrupted`. The watchdog and a second
    signal still end the process.
    """
    global _delegate  # noqa: PLW0603 - signal handlers belong to the process, and so does this
    _delegate = delegate


def restore() -> None:
    """Restore the default action of the signals that `install` handles. One that has already arrived raises here."""
    for signum in (*HANDLED, signal.SIGHUP):
        if signal.getsignal(signum) in (_handle, _do_nothing):
            signal.signal(signum, signal.SIG_DFL)


def _do_nothing(_signum: int, _frame: FrameType | None) -> None:
    """Ignore a signal. Unlike SIG_IGN, a handler is reset to the default by exec."""


def _handle(signum: int, _frame: FrameType | None) -> None:
    global _received, _lost  # noqa: PLW0603 - signal handlers belong to the process, and so do these
    if _received is not None:
        os._exit(128 + signum)
    _received = signum
    put_off = _in_callback_of_c and _delegate is None
    try:  # noqa: SIM105 - nothing may be imported here, not even contextlib
        # Not `threading`: nothing may be imported here, as the signal may have arrived during that very import.
        _thread.start_new_thread(_end_after_a_while, (128 + signum,))
    except RuntimeError:
        pass  # The thread cannot be started. The clean-up itself has time limits.
    if put_off:
        _lost = True
    elif _delegate is None:
        raise Interrupted(signum)
    else:
        _delegate(signum)


def _note_lost(unraisable: sys.UnraisableHookArgs) -> None:
    """Remember a dropped exception of ours, instead of showing it."""
    global _lost  # noqa: PLW0603 - as above
    if issubclass(unraisable.exc_type, Interrupted):
        _lost = True
    else:
        sys.__unraisablehook__(unraisable)


def _end_after_a_while(code: int) -> None:
    time.sleep(_PATIENCE)
    os._exit(code)
