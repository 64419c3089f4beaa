"""Run as a script of its own: start another program, and see that nothing of it outlives what it was started for.

    python -I -S keeper.py CONTROL STATUS PROGRAM [ARGUMENT ...]

CONTROL is the read end of a pipe from us. A dot on it says that we are alive, a `T` passes SIGTERM on. At its end,
however that comes about, and after a while without a dot, all descendants of this process are killed. The same happens
when the program has ended by itself. What the kernel takes from its parent becomes a child of this process, as that
is a subreaper; so killing and reaping go on until there is no child left, and nothing can get away by `setsid` or a
second fork (docs/decisions/0041-a-keeper-for-another-tool.md).

STATUS is the write end of a pipe to us: `pid N`, then `exit N` or `signal N` when nothing is left, or `errno N` if
the program could not be executed. One process without threads: so it can fork, and Python may run before the exec.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import NoReturn

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

# Without a sign of life for so long, whoever started us is frozen. PostgreSQL gives its lock to somebody else 25 s
# after that at the earliest: the guard's 30 s, less the 5 s between two of its pings.
_PATIENCE = 20.0
# What cannot be killed (another user's, by a setuid program) is not waited for.
_NEVER_GONE = 5.0
_TICK_MS = 1000
_KILLING_TICK_MS = 20


def _prctl(option: int, value: int) -> bool:
    try:
        import ctypes

        done: int = ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return False
    return done == 0


def _environment() -> dict[bytes, bytes]:
    """Return the environment as we received it: in a C locale Python adds a variable of its own to `os.environ`."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    pairs = (entry.partition(b"=") for entry in entries if entry.find(b"=") > 0)
    return {name: value for name, _, value in pairs}


def _descendants() -> list[int]:
    """Return the process ids of all below this process; none where /proc is missing, or another namespace's."""
    children: dict[int, list[int]] = {}
    try:
        here = os.readlink("/proc/self") == str(os.getpid())
        names = [name for name in os.listdir("/proc") if name.isdigit()] if here else []
    except OSError:
        return []
    for name in names:
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command's name comes before, in parentheses, and may have any character in it.
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    above = [os.getpid()]
    while above:
        below = children.get(above.pop(), ())
        found += below
        above += below
    return found


def _send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


class Keeper:
    """The program, and what came of it."""

    def __init__(self, control: int, status: int) -> None:
        """Take the ends of the two pipes."""
        self._control, self._status = control, status
        self._pid = 0
        self._code: int | None = None
        self._killing_since: float | None = None
        self._childless = False

    def run(self, words: list[str]) -> None:
        """Start the program, stay with it to its end, and then until nothing is left."""
        wakened, waker = os.pipe()
        for descriptor in (wakened, waker):
            os.set_blocking(descriptor, False)
        ignored = [number for number in _ENDING if signal.getsignal(number) == signal.SIG_IGN]
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _ENDING:
            # From now on nobody but the pipe's end ends us: there would be nobody to kill the others.
            signal.signal(number, signal.SIG_IGN)
        self._start(words, ignored)
        self._let_go_of_output()
        poll = select.poll()
        poll.register(wakened, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        heard = time.monotonic()
        while not self._gone():
            ready = dict(poll.poll(_TICK_MS if self._killing_since is None else _KILLING_TICK_MS))
            if wakened in ready:
                os.read(wakened, 4096)
            if self._control in ready:
                said = os.read(self._control, 4096)
                heard = time.monotonic()
                if b"T" in said:
                    self._terminate()
                if not said:
                    poll.unregister(self._control)
                    self._begin_to_kill()
            if time.monotonic() - heard > _PATIENCE:
                self._begin_to_kill()
            self._reap()
            if self._killing_since is not None:
                self._kill()
                self._reap()
        code = self._code or 0
        self._say("signal" if code < 0 else "exit", abs(code))

    def _start(self, words: list[str], ignored: Collection[int]) -> None:
        told, tell = os.pipe()  # Both are closed on exec.
        keeper = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                _become(words, keeper, ignored)
            except OSError as error:
                os.write(tell, str(error.errno or 0).encode())
            finally:
                os._exit(127)
        os.close(tell)
        failed = os.read(told, 16)
        os.close(told)
        if failed:
            os.waitpid(self._pid, 0)
            self._say("errno", int(failed))
            sys.exit(0)
        self._say("pid", self._pid)

    def _let_go_of_output(self) -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        os.close(nothing)

    def _terminate(self) -> None:
        if self._code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGTERM)

    def _kill(self) -> None:
        _send(signal.SIGKILL, _descendants())
        if self._code is None:
            # Its number is still its own, as nobody has reaped it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)

    def _begin_to_kill(self) -> None:
        if self._killing_since is None:
            self._killing_since = time.monotonic()

    def _reap(self) -> None:
        """Take in whoever has ended; the program's own end is the sign to kill what is left of it."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._code = os.waitstatus_to_exitcode(status)
                self._begin_to_kill()

    def _gone(self) -> bool:
        if self._code is None or self._killing_since is None:
            return False
        return self._childless or time.monotonic() - self._killing_since > _NEVER_GONE

    def _say(self, what: str, number: int) -> None:
        # We may be gone; then there is nobody to hear it.
        with contextlib.suppress(OSError):
            os.write(self._status, f"{what} {number}\n".encode())


_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)


def _become(words: list[str], keeper: int, ignored: Collection[int]) -> NoReturn:
    """In the child: be the program, with nothing of ours in it. Raises OSError."""
    os.setsid()
    # Should somebody kill the keeper, that is the program's end, too.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(127)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (*_ENDING, signal.SIGXFSZ):
        # Python ignores SIGPIPE and SIGXFSZ, whatever it was before; the application finds their default, too.
        if number not in ignored or number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.execve(words[0], words, _environment())  # noqa: S606 - our purpose


def main(words: list[str]) -> None:
    """Take the two descriptors, and the program with its arguments."""
    control, status = int(words[0]), int(words[1])
    for descriptor in (control, status):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - the signature is not ours
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Keeper(control, status).run(words[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
