"""A terminal that a program can write to, and what a person would see on it."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import struct
import termios
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

# As much as is needed: text, line breaks, and the control sequences CSI … letter (ECMA-48).
_TOKEN = re.compile(r"\x1b\[(?P<args>[?0-9;]*)(?P<final>[A-Za-z])|(?P<char>.)", re.DOTALL)


class Terminal:
    """A pseudo-terminal, as a context manager. Pass `fd` to the program as its stderr."""

    def __init__(self, columns: int = 100, lines: int = 30) -> None:
        """Open it, and start reading."""
        self._columns = columns
        self._master, self.fd = os.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._bytes = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Return the terminal."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self.fd)
        self._thread.join(5)
        os.close(self._master)

    @property
    def raw(self) -> str:
        """Everything that was written, with its control sequences."""
        return self._bytes.decode(errors="replace")

    @property
    def screen(self) -> list[str]:
        """The lines on the screen, without empty ones at the end."""
        return render(self.raw, self._columns)

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._master, 65536)
            except OSError:  # EIO: the other side is no longer open
                return
            self._bytes += piece


def render(text: str, columns: int) -> list[str]:
    """Return the screen after `text`, on a terminal with this many columns and as many lines as needed."""
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in painted(text, columns)]


def painted(text: str, columns: int) -> list[str]:
    """Return the same in color: with control sequences for colors, but no others."""
    grid: list[list[tuple[str, str]]] = [[]]
    style = ""
    row = column = 0
    for found in _TOKEN.finditer(text):
        count = int(found["args"]) if (found["args"] or "").isdecimal() else 1
        char = found["char"]
        if char == "\r":
            column = 0
        elif char == "\n":
            row += 1
        elif found["final"] == "A":
            row = max(0, row - count)
        elif found["final"] == "m":
            style = "" if found["args"] in ("", "0") else f"{style}{found[0]}"
        elif found["final"] == "K":
            grid[row] = grid[row][:column] if not found["args"] or found["args"] == "0" else []
        elif char is not None:
            if column == columns:
                row, column = row + 1, 0
            while len(grid) <= row:
                grid.append([])
            grid[row] += [("", " ")] * (column - len(grid[row]))
            grid[row][column : column + 1] = [(style, char)]
            column += 1
        while len(grid) <= row:
            grid.append([])
    lines = [_in_colours(line).rstrip() for line in grid]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _in_colours(line: list[tuple[str, str]]) -> str:
    text = ""
    for style, cells in itertools.groupby(line, key=lambda cell: cell[0]):
        piece = "".join(char for _, char in cells)
        text += f"{style}{piece}\x1b[0m" if style else piece
    return text
