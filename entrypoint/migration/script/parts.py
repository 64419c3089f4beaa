"""The text and the statements of a large file, of which only one part at a time is in memory.

A part ends where a statement ends. A digest of each part is kept when the file is checked. When the part is read again
to be sent, the digest proves that these are the same bytes, whatever has happened to the file in between.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from hashlib import sha256

from entrypoint.errors.migration import MigrationFilesError
from entrypoint.migration.script.files import opened
from entrypoint.migration.script.scanner import Statement, scan
from entrypoint.migration.script.sums import unified
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import overload


class Part(NamedTuple):
    """A section of a large file, from the end of one statement to the end of another."""

    place: int
    """Where it begins in the file, in bytes."""
    size: int
    """Its size in bytes."""
    digest: bytes
    """SHA-256 of its bytes."""
    start: int
    """Where it begins in the text, in characters."""
    end: int
    """Where it ends in the text: the offset after its last character."""
    line: int
    """The line of its first character, counted from 1."""
    first: int
    """How many statements come before it."""
    after: int
    """How many statements there are up to its end, in it and before it."""


class Span(NamedTuple):
    """A section of a text of which only the line breaks are sent, such as the file's own BEGIN."""

    start: int
    end: int


class LargeText:
    """The text of a large file, with those methods of a string that are used. What is not sent appears as spaces.

    Any read may raise MigrationFilesError if the file has changed since it was checked, or can no longer be read.
    """

    def __init__(self, path: str, parts: Sequence[Part], named: frozenset[str], blanks: Sequence[Span] = ()) -> None:
        """Take what was found when the file was checked.

        `named`: which of `text.OF_THE_LEDGER` and `text.TIMEOUTS` occur in it. `blanks`: what appears as spaces.
        """
        self.path = path
        self.parts = parts
        self.named = named
        self._blanks = blanks
        self._starts = [part.start for part in parts]
        self._last = (-1, "")

    def with_blanks(self, blanks: Sequence[Span]) -> LargeText:
        """Return the same text with spaces in place of these sections."""
        return LargeText(self.path, self.parts, self.named, blanks)

    def __len__(self) -> int:
        """Return the number of characters."""
        return self.parts[-1].end

    def __str__(self) -> str:
        """Return the whole text. It is then all in memory, so use this only if nothing else will do."""
        return "".join(map(self.of, range(len(self.parts))))

    def __getitem__(self, wanted: slice) -> str:
        """Return a section of the text."""
        start, stop, _ = wanted.indices(len(self))
        return "".join(text for _, text in self._within(start, stop))

    def count(self, sub: str, start: int = 0, end: int | None = None) -> int:
        """Count a character, as `str.count` does. To count the line breaks up to `end`, only one part is read."""
        if sub == "\n" and start == 0 and end is not None:
            index = self.part_at(end)
            part = self.parts[index]
            return part.line - 1 + self.of(index).count("\n", 0, end - part.start)
        return sum(text.count(sub) for _, text in self._within(start, len(self) if end is None else end))

    def find(self, sub: str, start: int = 0, end: int | None = None) -> int:
        """Find a character, as `str.find` does."""
        for place, text in self._within(start, len(self) if end is None else end):
            if (found := text.find(sub)) >= 0:
                return place + found
        return -1

    def rfind(self, sub: str, start: int, end: int) -> int:
        """Find a character from the end, as `str.rfind` does."""
        for index in range(self.part_at(end), self.part_at(start) - 1, -1):
            part = self.parts[index]
            found = self.of(index).rfind(sub, max(start - part.start, 0), end - part.start)
            if found >= 0:
                return part.start + found
        return -1

    def part_at(self, place: int) -> int:
        """Return the index of the part that contains a character."""
        return max(bisect_right(self._starts, place) - 1, 0)

    def around(self, place: int) -> str:
        """Return the text of the part that contains a character."""
        return self.of(self.part_at(place))

    def encoded(self, index: int) -> bytes:
        """Return the text of a part in UTF-8. It is only decoded and encoded again if something in it is blanked."""
        part = self.parts[index]
        if any(span.start < part.end and part.start < span.end for span in self._blanks):
            return self.of(index).encode()
        return unified(self._read(part), first=part.place == 0)

    def of(self, index: int) -> str:
        """Return the text of a part."""
        if self._last[0] != index:
            # First free the part read before.
            self._last = (-1, "")
            part = self.parts[index]
            self._last = (index, self._blanked(index, unified(self._read(part), first=part.place == 0).decode()))
        return self._last[1]

    def _within(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        """Yield the text between two places, part by part, each after the place of its first character."""
        for index in range(self.part_at(start), len(self.parts)):
            part = self.parts[index]
            if part.start >= stop:
                break
            begin = max(start, part.start)
            yield begin, self.of(index)[begin - part.start : stop - part.start]

    def _read(self, part: Part) -> bytes:
        name = os.path.basename(self.path)
        try:
            descriptor, _ = opened(self.path)
            try:
                content = os.pread(descriptor, part.size, part.place)
                while more := os.pread(descriptor, part.size - len(content), part.place + len(content)):
                    content += more
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _gone(f"{name} can no longer be read: {error.strerror}") from None
        if sha256(content).digest() != part.digest:
            raise _gone(f"{name} has changed since it was checked")
        return content

    def _blanked(self, index: int, text: str) -> str:
        part = self.parts[index]
        for span in self._blanks:
            start, stop = max(span.start, part.start) - part.start, min(span.end, part.end) - part.start
            if start < stop:
                text = text[:start] + "".join(c if c == "\n" else " " for c in text[start:stop]) + text[stop:]
        return text


def _gone(message: str) -> MigrationFilesError:
    return MigrationFilesError(
        f"{message}; nothing in it was committed",
        faults=(message,),
        remedy="Do not change the files while they are being applied. Start again.",
    )


class LargeStatements(Sequence[Statement]):
    """The statements of a large text. Those of a part are found again whenever one of them is needed."""

    def __init__(self, text: LargeText) -> None:
        """Take the text that is sent."""
        self._text = text
        self._last: tuple[int, tuple[Statement, ...]] = (-1, ())
        self._afters = [part.after for part in text.parts]

    def __len__(self) -> int:
        """Return the number of statements."""
        return self._afters[-1]

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, index: int) -> Statement: ...
        @overload
        def __getitem__(self, index: slice) -> Sequence[Statement]: ...

    def __getitem__(self, index: int | slice) -> Statement | Sequence[Statement]:
        """Return one statement, or several."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        index = index + len(self) if index < 0 else index
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self._afters, index)
        return self._of(part)[index - self._text.parts[part].first]

    def __iter__(self) -> Iterator[Statement]:
        """Yield all statements."""
        for index in range(len(self._text.parts)):
            yield from self._of(index)

    def near(self, place: int) -> tuple[Statement, ...]:
        """Return the statements of the part that contains a character."""
        return self._of(self._text.part_at(place))

    def _of(self, index: int) -> tuple[Statement, ...]:
        if self._last[0] != index:
            self._last = (-1, ())
            part = self._text.parts[index]
            found = scan(self._text.of(index)).statements
            self._last = (
                index,
                tuple(
                    Statement(one.start + part.start, one.end + part.start, one.line + part.line - 1, one.words)
                    for one in found
                ),
            )
        return self._last[1]
