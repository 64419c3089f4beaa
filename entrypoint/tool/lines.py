"""Cut what a program prints into lines that can be logged: limited in length, without escapes, without secrets."""

from __future__ import annotations

import re

from entrypoint.redaction import Redactor, foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST = 8_192
"""The most characters of a line that are kept."""
CUT = " […]"
"""The end of a line that was cut."""

# Read some more than that, so that a secret is not cut in two and missed.
_MARGIN = 512
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


class Lines:
    """Cuts one stream into lines."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Take the `secrets` that the rest of the program does not know."""
        self._redactor = Redactor(secrets)
        self._rest = b""
        self._skipping = False

    def take(self, data: bytes) -> Iterator[str]:
        """Return the lines that `data` completes, and the beginning of one that has become too long."""
        *whole, rest = data.split(b"\n")
        for line in whole:
            yield from self._complete(line)
        if not self._skipping:
            self._rest += rest
            if len(self._rest) > LONGEST + _MARGIN:
                yield from self._show(self._rest)
                self._rest, self._skipping = b"", True

    def end(self) -> Iterator[str]:
        """Return the last line, if it has no newline."""
        yield from self._complete(b"")

    def _complete(self, line: bytes) -> Iterator[str]:
        if not self._skipping:
            yield from self._show(self._rest + line)
        self._rest, self._skipping = b"", False

    def _show(self, line: bytes) -> Iterator[str]:
        text = line[: LONGEST + _MARGIN].decode("utf-8", "replace").rstrip()
        # A progress bar is drawn again and again from the line's beginning; keep the last state.
        text = self._redactor.known(foreign(without_escapes(text.rpartition("\r")[2])))
        if len(text) > LONGEST or len(line) > LONGEST + _MARGIN:
            text = text[:LONGEST] + CUT
        if text:
            yield text


def without_escapes(text: str) -> str:
    """Return a line without escape sequences and other control characters; tabs are kept."""
    if text.isprintable():
        return text
    return "".join(one for one in _ESCAPES.sub("", text) if one == "\t" or one.isprintable())
