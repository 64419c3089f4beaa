"""Read a program's output: from two pipes, logging each line, or from a pseudo-terminal, passing it on to ours."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
from collections import deque

from entrypoint import logs
from entrypoint.deadline import Deadline
from entrypoint.tool.lines import Lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_AT_ONCE = 1 << 16
_LAST_LINES = 20
# Characters of each of them.
_LONGEST_LAST = 1_000
# Seconds to go on reading when the program has ended, but another process still has its output open.
_LINGER = 0.3


class Output:
    """The pipes or the pseudo-terminal; `write_ends` are for the program, as its standard output and error."""

    def __init__(self, *, terminal: bool, secrets: Iterable[str]) -> None:
        """Open the pipes; with `terminal`, open a pseudo-terminal instead, if that works."""
        self.tail: deque[str] = deque(maxlen=_LAST_LINES)
        """The last lines, without secrets."""
        self._streams: dict[int, tuple[str, Lines]] = {}
        self._decoder: codecs.IncrementalDecoder | None = None
        secrets = list(secrets)
        pair = _terminal() if terminal else None
        if pair is not None:
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self._streams[pair[0]] = ("terminal", Lines(secrets))
            self.write_ends = (pair[1], pair[1])
        else:
            ends = []
            for name in ("stdout", "stderr"):
                read_end, write_end = os.pipe()
                self._streams[read_end] = (name, Lines(secrets))
                ends.append(write_end)
            self.write_ends = (ends[0], ends[1])

    def let_go(self) -> None:
        """Close our copies of the write ends, so that reading ends when the program closes its own."""
        for descriptor in set(self.write_ends):
            os.close(descriptor)
        self.write_ends = (-1, -1)

    @property
    def descriptors(self) -> Iterable[int]:
        """The descriptors to read from."""
        return list(self._streams)

    def read(self, descriptor: int) -> None:
        """Read once from `descriptor`, and pass on what has come."""
        name, lines = self._streams[descriptor]
        try:
            data = os.read(descriptor, _AT_ONCE)
        except OSError:  # A terminal whose other end is closed.
            data = b""
        if self._decoder is not None:
            logs.pass_on(self._decoder.decode(data, not data))
        for line in lines.take(data) if data else lines.end():
            self._take(line, name)
        if not data:
            del self._streams[descriptor]
            os.close(descriptor)

    def finish(self) -> None:
        """Read what is left, for a short time if another process still has the other end open, and close."""
        patience = Deadline(_LINGER)
        while self._streams and not patience.passed():
            for descriptor in select.select(self.descriptors, (), (), patience.remaining())[0]:
                self.read(descriptor)
        self.close()

    def close(self) -> None:
        """Close everything, and pass on an unfinished line."""
        for descriptor in (*self._streams, *{end for end in self.write_ends if end >= 0}):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        for name, lines in self._streams.values():
            for line in lines.end():
                self._take(line, name)
        self._streams, self.write_ends = {}, (-1, -1)

    def _take(self, line: str, name: str) -> None:
        self.tail.append(line[:_LONGEST_LAST])
        if self._decoder is None:
            logs.event(logs.INFO, "command.output", line, stream=name)


def _terminal() -> tuple[int, int] | None:
    """Open a pseudo-terminal as large as our terminal, and return its two ends; None if that fails."""
    import fcntl
    import termios

    try:
        ours, its = os.openpty()
    except OSError:
        return None
    try:
        attributes = termios.tcgetattr(its)
        attributes[1] &= ~termios.OPOST  # Our own terminal does that.
        termios.tcsetattr(its, termios.TCSANOW, attributes)
        fcntl.ioctl(its, termios.TIOCSWINSZ, fcntl.ioctl(2, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        pass  # Then the terminal has no size.
    return ours, its
