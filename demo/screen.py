"""The demonstration's output: headings, lines with a colored prefix, check marks."""

from __future__ import annotations

import time
from io import TextIOWrapper
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

BOLD, DIM = 1, 2
RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = range(31, 37)


def wants_colour(environ: Mapping[str, str], *, terminal: bool) -> bool:
    """Decide about colors by the rules of no-color.org and force-color.org; NO_COLOR takes precedence."""
    if environ.get("NO_COLOR"):
        return False
    return bool(environ.get("FORCE_COLOR")) or (terminal and environ.get("TERM") != "dumb")


class Screen:
    """Writes lines, with or without colors. If the reader goes away, the demonstration continues."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        """Find out what `stream` can show."""
        # A replica's output may not fit the terminal's encoding, and a "?" is better than a traceback.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
        self._stream = stream
        self._interactive = stream.isatty()
        self._colour = wants_colour(environ, terminal=self._interactive)
        self._gone = False
        self.tick, self.cross = self._glyph("✓", "ok"), self._glyph("✗", "NO")
        self._rule, self._block = self._glyph("─", "-"), self._glyph("█", "#")

    def paint(self, text: str, *codes: int) -> str:
        """Return `text` in the given colors, or unchanged if there are no colors."""
        if not self._colour or not codes:
            return text
        return f"\033[{';'.join(map(str, codes))}m{text}\033[0m"

    def line(self, text: str = "") -> None:
        """Write one line, and flush it."""
        if self._gone:
            return
        try:
            print(text, file=self._stream, flush=True)
        except BrokenPipeError:
            self._gone = True

    def heading(self, text: str) -> None:
        """Begin an act. On a terminal, first pause for a moment, so that a person can read what came before."""
        if self._interactive:
            time.sleep(0.5)
        self.line()
        self.line(self.paint(f"{self._rule * 2} {text} {self._rule * (96 - len(text))}", BOLD))

    def note(self, text: str) -> None:
        """Write a line of the narrator."""
        self.line(f"   {text}")

    def command(self, text: str) -> None:
        """Write a command as a user would type it."""
        self.note(self.paint(f"$ {text}", DIM))

    def verdict(self, claim: str, *, holds: bool) -> None:
        """Write one line of the list of checks."""
        mark = self.paint(self.tick, GREEN) if holds else self.paint(self.cross, RED, BOLD)
        self.line(f"   {mark} {claim if holds else self.paint(claim, RED)}")

    def bar(self, share: float, width: int = 30) -> str:
        """Return a bar for a share between 0 and 1; it is never empty."""
        return self.paint(self._block * max(1, round(share * width)), BLUE)

    def _glyph(self, wanted: str, otherwise: str) -> str:
        """Return `wanted` if the stream's encoding has it."""
        try:
            wanted.encode(self._stream.encoding or "ascii")
        except UnicodeEncodeError:
            return otherwise
        return wanted
