"""SIGTERM and SIGINT: end within two seconds, in whatever phase the program is.

The first signal raises `Interrupted` in the main thread, and every clean-up on its way out is bounded. A
watchdog thread ends the process if that takes too long all the same, for example because a C library does not
return. A second signal does not wait at all.

An exception can go lost: Python drops what is raised in a callback of C code, in `__del__` or in a weak reference's
callback, and a clean-up may replace it with an error of its own. So a signal is remembered, too. Every slice of a wait
raises an exception that went lost (`raise_lost`), and nothing new is begun once a signal has come, least of all the
application (`raise_received`).

Signals that were ignored when the program started (as `nohup` and a shell's background jobs leave them) stay
ignored. As pid 1 a signal without a handler is ignored by the kernel, so the handlers are installed first of all.
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
    # What `signal` is made of. `signal` itself adds enumerations, and to import those takes 4 ms of every start
    # (docs/startup-cost.md).
    import _signal as signal

# Python/pylifecycle.c, init_signals
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

HANDLED = (signal.SIGTERM, signal.SIGINT)

# The promise is 2 s from the signal to the end of the process; interpreter and kernel need a little of it.
_PATIENCE = 1.7


class Interrupted(BaseException):
    """A signal asked the program to end. Not an Exception, so that nobody's `except Exception` keeps it."""

    def __init__(self, signum: int) -> None:
        """Take the signal's number."""
        super().__init__(signum)
        self.signum = signum
        self.exit_code = 128 + signum


class Stop:
    """Asks a thread to end what it does, as a signal asks the main thread of the program. For `entrypoint.api`."""

    __slots__ = ("asked", "told")

    def __init__(self) -> None:
        """Ask nothing yet."""
        self.asked = False
        self.told = False
        """Whether the exception has been raised; what cleans up behind it is not to be disturbed again."""


class _Here(_local):
    """What the thread that asks has of its own."""

    stop: Stop | None = None


_here = _Here()
_received: int | None = None
_lost = False
"""Whether somebody is to raise the exception for what was received."""
_in_callback_of_c = False
_main_thread: int | None = None
_heir: Callable[[int], object] | None = None


class NotInCallbacks:
    """`with NotInCallbacks():` around a call of a C library that calls us back: a signal raises behind it, not within.

    psycopg's notice receiver, for one, is left half way by an exception, with a result that is then freed twice.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        global _in_callback_of_c  # noqa: PLW0603 - signal handlers belong to the process, and so does this
        if _thread.get_ident() == _main_thread:  # Handlers run there and nowhere else.
            _in_callback_of_c = True

    def __exit__(self, *_: object) -> Literal[False]:
        global _in_callback_of_c  # noqa: PLW0603 - as above
        if _thread.get_ident() == _main_thread:
            _in_callback_of_c = False
            raise_lost()
        return False


def raise_lost() -> None:
    """Raise `Interrupted`, in the main thread, if a signal has come and its exception went lost or was put off.

    Or, once, in a thread that was asked to stop.
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
    """Raise `Interrupted`, in the main thread, if a signal has come, whatever became of its exception.

    Call it before something new is begun, and not while cleaning up.
    """
    if _received is not None and _heir is None and _thread.get_ident() == _main_thread:
        raise Interrupted(_received)
    stop = _here.stop
    if stop is not None and stop.asked:
        stop.told = True
        raise Interrupted(signal.SIGINT)


def heed(stop: Stop) -> None:
    """Let what waits in this thread end when `stop` asks for it."""
    _here.stop = stop


def installed() -> bool:
    """Tell whether this process is the program's own, and no library's user."""
    return _main_thread is not None


def blocked() -> frozenset[int]:
    """Return the numbers of the signals that this thread blocks."""
    return frozenset(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def block_only(mask: frozenset[int]) -> None:
    """Block the signals in `mask` in this thread, and no others."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def ignore_nothing_of_pythons() -> None:
    """Give the signals that CPython ignores at its start their default back.

    An ignored signal stays ignored across exec. What they were before cannot be known; by default they end a process.
    """
    for signum in _IGNORED_BY_PYTHON:
        signal.signal(signum, signal.SIG_DFL)


def ignore_broken_pipes() -> None:
    """Let our own log survive a reader that has gone."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def hold() -> None:
    """Block the signals that end the program, in this thread: one that comes now waits, or ends the application."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def install() -> None:
    """Handle the signals that end the program. Call it once, in the main thread, as early as possible."""
    global _main_thread  # noqa: PLW0603 - signal handlers belong to the process, and so does this
    _main_thread = _thread.get_ident()
    sys.unraisablehook = _hear_of_what_went_lost
    for signum in HANDLED:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _handle)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # For the application it may mean "reload"; for us, nothing.
        signal.signal(signal.SIGHUP, _do_nothing)


def hand_to(heir: Callable[[int], object]) -> None:
    """Let `heir` see to the end from now on, for a program that is not the main thread's alone.

    It is called in the signal handler, with the signal's number, instead of raising `Interrupted`. The watchdog and a
    second signal end the process all the same.
    """
    global _heir  # noqa: PLW0603 - signal handlers belong to the process, and so does this
    _heir = heir


def restore() -> None:
    """Give the signals that `install` handles their default back; one that has come already is raised here."""
    for signum in (*HANDLED, signal.SIGHUP):
        if signal.getsignal(signum) in (_handle, _do_nothing):
            signal.signal(signum, signal.SIG_DFL)


def _do_nothing(_signum: int, _frame: FrameType | None) -> None:
    """Let a signal pass, and find its default again after exec."""


def _handle(signum: int, _frame: FrameType | None) -> None:
    global _received, _lost  # noqa: PLW0603 - signal handlers belong to the process, and so do these
    if _received is not None:
        os._exit(128 + signum)
    _received = signum
    put_off = _in_callback_of_c and _heir is None
    try:  # noqa: SIM105 - nothing is imported here, not even contextlib
        # Not `threading`: nothing must be imported here, as the signal may have come in the middle of that import.
        _thread.start_new_thread(_end_after_a_while, (128 + signum,))
    except RuntimeError:
        pass  # No thread is to be had; the clean-up has bounds of its own.
    if put_off:
        _lost = True
    elif _heir is None:
        raise Interrupted(signum)
    else:
        _heir(signum)


def _hear_of_what_went_lost(unraisable: sys.UnraisableHookArgs) -> None:
    """Note an exception of ours that Python has to drop, instead of showing it."""
    global _lost  # noqa: PLW0603 - as above
    if issubclass(unraisable.exc_type, Interrupted):
        _lost = True
    else:
        sys.__unraisablehook__(unraisable)


def _end_after_a_while(code: int) -> None:
    time.sleep(_PATIENCE)
    os._exit(code)
