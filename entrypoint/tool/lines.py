"""What a program prints, cut into lines that can be logged: bounded, without escapes, without secrets."""

from __future__ import annotations

import re

from entrypoint.redaction import Redactor, foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST = 8_192
"""Characters of a line; the rest of it is left out."""
CUT = " […]"
"""How a line ends of which something was left out."""

# Read beyond it, so that no secret is cut in two and then not recognised.
_MARGIN = 512
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


class Lines:
    """One stream."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Take the `secrets` that are not known to the whole program."""
        self._redactor = Redactor(secrets)
        self._rest = b""
        self._skipping = False

    def take(self, data: bytes) -> Iterator[str]:
        """Return the lines that `data` completes, and those that have become too long."""
        *whole, rest = data.split(b"\n")
        for line in whole:
            yield from self._complete(line)
        if not self._skipping:
            self._rest += rest
            if len(self._rest) > LONGEST + _MARGIN:
                yield from self._show(self._rest)
                self._rest, self._skipping = b"", True

    def end(self) -> Iterator[str]:
        """Return the last line, if it had no end."""
        yield from self._complete(b"")

    def _complete(self, line: bytes) -> Iterator[str]:
        if not self._skipping:
            yield from self._show(self._rest + line)
        self._rest, self._skipping = b"", False

    def _show(self, line: bytes) -> Iterator[str]:
        text = line[: LONGEST + _MARGIN].decode("utf-8", "replace").rstrip()
        # A bar of progress is drawn again and again, each time from the line's beginning.
        text = self._redactor.known(foreign(without_escapes(text.rpartition("\r")[2])))
        if len(text) > LONGEST or len(line) > LONGEST + _MARGIN:
            text = text[:LONGEST] + CUT
        if text:
            yield text


def without_escapes(text: str) -> str:
    """Return a line without what moves a terminal's cursor or changes its colours, and without NUL."""
    if text.isprintable():
        return text
    return "".join(one for one in _ESCAPES.sub("", text) if one == "\t" or one.isprintable())
