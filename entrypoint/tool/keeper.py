"""The keeper, a separate script: start another program, and leave none of its processes behind.

    python -I -S keeper.py CONTROL STATUS PROGRAM [ARGUMENT ...]

CONTROL is the read end of a pipe from the entrypoint. A dot on it means that the entrypoint is alive, and a `T` asks to
pass SIGTERM on. When the pipe is closed, for whatever reason, or no dot comes for a while, the keeper kills all its
descendants. It also does so when the program has ended. The keeper is a subreaper, so the kernel makes orphaned
descendants its children. It kills and reaps until no child is left, so nothing can escape by `setsid` or a second fork
(docs/decisions/0041-a-keeper-for-another-tool.md).

STATUS is the write end of a pipe to the entrypoint: `pid N`, then `exit N` or `signal N` once nothing is left, or
`errno N` if the program could not be executed. The keeper has no threads, so it is safe to fork, and to run Python code
before the exec.
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

# Seconds without a dot after which the entrypoint counts as frozen. Another replica can get the lock after 25 s at the
# earliest: the guard's 30 s, less the 5 s between two of its pings.
_PATIENCE = 20.0
# Seconds to wait for processes that we cannot kill, such as another user's (a setuid program).
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
    """Return the environment as this process received it: in a C locale Python adds a variable to `os.environ`."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    pairs = (entry.partition(b"=") for entry in entries if entry.find(b"=") > 0)
    return {name: value for name, _, value in pairs}


def _descendants() -> list[int]:
    """Return the IDs of all descendants of this process; none if /proc is missing or shows another namespace."""
    children: dict[int, list[int]] = {}
    try:
        here = os.readlink("/proc/self") == str(os.getpid())
        names = [name for name in os.listdir("/proc") if name.isdigit()] if here else []
    except OSError:
        return []
    for name in names:
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command's name comes before that, in parentheses, and may contain any character.
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
    """Runs the program, and remembers how it ended."""

    def __init__(self, control: int, status: int) -> None:
        """Take this process's ends of the two pipes."""
        self._control, self._status = control, status
        self._pid = 0
        self._code: int | None = None
        self._killing_since: float | None = None
        self._childless = False

    def run(self, words: list[str]) -> None:
        """Start the program, and return when it has ended and nothing is left of it."""
        wakened, waker = os.pipe()
        for descriptor in (wakened, waker):
            os.set_blocking(descriptor, False)
        ignored = [number for number in _ENDING if signal.getsignal(number) == signal.SIG_IGN]
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _ENDING:
            # From now on, only the end of the pipe may end us. Otherwise nobody would kill the descendants.
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
        told, tell = os.pipe()  # The exec closes both.
        keeper = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                _exec_program(words, keeper, ignored)
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
            # It has not been reaped, so its process ID cannot belong to another process.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)

    def _begin_to_kill(self) -> None:
        if self._killing_since is None:
            self._killing_since = time.monotonic()

    def _reap(self) -> None:
        """Reap children that have ended. If the program is one of them, start killing what is left."""
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
        # The entrypoint may be gone, and nobody reads this.
        with contextlib.suppress(OSError):
            os.write(self._status, f"{what} {number}\n".encode())


_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)


def _exec_program(words: list[str], keeper: int, ignored: Collection[int]) -> NoReturn:
    """Exec the program, in the child, with nothing of ours left in the process. Raises OSError."""
    os.setsid()
    # If somebody kills the keeper, the kernel kills the program.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(127)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (*_ENDING, signal.SIGXFSZ):
        # Python always ignores SIGPIPE and SIGXFSZ, so whether they were ignored before is unknown. The application
        # gets their default, too.
        if number not in ignored or number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.execve(words[0], words, _environment())  # noqa: S606 - our purpose


def main(words: list[str]) -> None:
    """Run the keeper with the arguments CONTROL, STATUS, PROGRAM and so on."""
    control, status = int(words[0]), int(words[1])
    for descriptor in (control, status):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - the signature is not ours
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Keeper(control, status).run(words[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
