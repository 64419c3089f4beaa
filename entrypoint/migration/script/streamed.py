"""Checks a large file from end to end with only one part of it in memory.

This works for files that run as one transaction and need nothing special: no transaction control except a pair around
the whole file, no statement that cannot run in a transaction, only standard strings, no faults. The large files that
people have, data and dumps, are like that. Any other file is read into memory at once.
"""

from __future__ import annotations

import os
from codecs import utf_8_decode
from hashlib import sha256

from entrypoint.migration.script import directives, strings
from entrypoint.migration.script.files import BYTE_ORDER_MARK, not_its_size, opened
from entrypoint.migration.script.foreign import find_mark, may_have_mark
from entrypoint.migration.script.parts import LargeStatements, LargeText, Part, Span
from entrypoint.migration.script.scanner import ROW_STATEMENTS, Skim, UnterminatedError, scan_without_commands, skip
from entrypoint.migration.script.statements import (
    BEGINS,
    DIRECTIVE,
    NO_QUERIES,
    Advice,
    added_value,
    kind_of_words,
    misplaced_directives,
    modes_of,
)
from entrypoint.migration.script.sums import Sums, Unifier, unified
from entrypoint.migration.script.text import OF_THE_LEDGER, TIMEOUTS, NotUtf8Error
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from entrypoint.migration.script.directives import Directives
    from entrypoint.migration.script.files import MigrationFile
    from entrypoint.migration.script.psql import PsqlCommand
    from entrypoint.migration.script.scanner import Statement

# The approximate size of a part in bytes; one with a single large statement is larger. Each part takes a round trip, so
# it should not be small. Nor should it be large: what is known about its statements takes memory, up to 25 times as
# much as the text if each has ten characters.
_PART = 1 << 19
# If more bytes than this have been read and the statement has not ended, its text is not kept.
_LARGE_STATEMENT = 4 * _PART
# More characters than a statement's first word can have.
_FIRST_WORD = 100
# How many characters are searched again with the next ones: more than any word or line searched for can have.
_OVERLAP = 1000
_NAMES = (*OF_THE_LEDGER, *TIMEOUTS)
# More psql commands than any dump has.
_MOST_BLANKS = 100


class Streamed(NamedTuple):
    """What is known about a large file once all of it has been read."""

    checksum: str
    text: LargeText
    advice: Advice


class _UnsuitableError(Exception):
    """Something in the file is beyond this module, so it must be read into memory at once."""


def look_through(path: str) -> Streamed | None:
    """Read and check a large file; return None if it must be in memory at once. Raises OSError and NotUtf8Error."""
    descriptor, size = opened(path)
    try:
        return _Reading(path, descriptor, size).run()
    except _UnsuitableError:
        return None
    finally:
        os.close(descriptor)


def in_short(file: MigrationFile, text: str, advice: Advice) -> Streamed | None:
    """Return a file whose text is in memory as a file with one part that is not; None if this module cannot do that."""
    plain = (
        advice.transactional and not advice.odd_strings and not advice.disputed and advice.readings == strings.STANDARD
    )
    if not plain or strings.may_be_set_unseen(advice.body, advice.statements):
        return None
    size, digest = os.stat(file.path).st_size, bytes.fromhex(file.raw_checksum)
    part = Part(0, size, digest, 0, len(text), 1, 0, len(advice.statements))
    source = LargeText(file.path, [part], frozenset(_named(text.lower())))
    sent = source.with_blanks(_differences(text, advice.body))
    return Streamed(file.checksum, source, advice._replace(source=sent, statements=LargeStatements(sent)))


def _named(lowered: str) -> Iterator[str]:
    """Yield those of `_NAMES` that occur in a text, which must be in lower case."""
    return (name for name in _NAMES if name in lowered)


def _differences(text: str, sent: str) -> list[Span]:
    """Return the sections of a text that are not sent."""
    spans: list[Span] = []
    if sent != text:
        for place, (written, blank) in enumerate(zip(text, sent, strict=True)):
            if written == blank:
                continue
            if spans and spans[-1].end == place:
                spans[-1] = Span(spans[-1].start, place + 1)
            else:
                spans.append(Span(place, place + 1))
    return spans


class _Reading:
    """Reads one file: the bytes that are pending, as they belong to no part yet, and the parts before them."""

    def __init__(self, path: str, descriptor: int, size: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._size = self._left = size
        self._sums = Sums()
        self._pending = b""
        self._place = 0  # where the pending bytes begin in the file
        self._unified = 0  # where they begin in the text, in bytes
        self._parts: list[Part] = []
        self._content = _Content()

    def run(self) -> Streamed:
        wanted = _PART
        while self._left or self._pending:
            self._read(wanted)
            text = self._text()
            cut = self._content.take(text, last=not self._left)
            if cut is not None:
                rest = self._left or cut.end < len(text)
                self._add(text[: cut.end], cut.statements, len(self._pending) if not rest else None)
                wanted = max(_PART, len(self._pending))
            elif len(self._pending) < _LARGE_STATEMENT or not self._content.begins_large(text):
                wanted = 2 * len(self._pending)  # No statement ends in it.
            else:
                del text
                self._add_large()
                wanted = max(_PART, len(self._pending))
        if os.read(self._descriptor, 1):
            raise not_its_size(self._size)
        source = LargeText(self._path, self._parts, frozenset(self._content.named))
        return Streamed(self._sums.both()[0], source, self._content.advice(source))

    def _read(self, wanted: int) -> None:
        """Read on until `wanted` bytes are pending, or the file ends."""
        pieces = [self._pending]
        missing = min(wanted - len(self._pending), self._left)
        while missing > 0:
            if not (piece := os.read(self._descriptor, missing)):
                raise not_its_size(self._size)
            self._sums.add(piece)
            pieces.append(piece)
            missing -= len(piece)
            self._left -= len(piece)
        self._pending = b"".join(pieces)

    def _text(self) -> str:
        """Return the pending text, up to the last complete character and line ending."""
        content, last = self._pending, not self._left
        if not last:
            content = content.removesuffix(b"\r")
        content = unified(content, first=not self._place)
        try:
            return utf_8_decode(content, "strict", last)[0]
        except UnicodeDecodeError as error:
            line = self._content.line + content.count(10, 0, error.start)
            raise NotUtf8Error(content[error.start], self._unified + error.start, line) from None

    def _add(self, text: str, statements: int, size: int | None) -> None:
        """Turn the beginning of the pending bytes, which has this text, into a part; `size`: in bytes, if known."""
        size = self._bytes_of(text) if size is None else size
        content, self._pending = self._pending[:size], self._pending[size:]
        start, first = (self._parts[-1].end, self._parts[-1].after) if self._parts else (0, 0)
        digest, line = sha256(content).digest(), self._content.line
        self._parts.append(Part(self._place, size, digest, start, start + len(text), line, first, first + statements))
        self._content.advance(text)
        self._unified += len(unified(content, first=not self._place))
        self._place += size

    def _add_large(self) -> None:
        """Turn one statement that is too large for memory into a part."""
        skim, tally = Skim(), _Tally(first=not self._place)
        wanted = 0
        while not (skim.ended or (wanted and not self._left and not self._pending)):
            self._read(wanted)
            try:
                done = skim.over(self._pending, last=not self._left)
            except ValueError:
                raise _UnsuitableError from None
            if not done and not self._left:  # a quote or comment that is never closed
                raise _UnsuitableError
            content, self._pending = self._pending[:done], self._pending[done:]
            wanted = _PART if done else 2 * len(self._pending)
            try:
                self._content.search_within(tally.add(content))
            except UnicodeDecodeError as error:
                line = self._content.line + tally.lines + error.object.count(10, 0, error.start)
                offset = self._unified + tally.unified + error.start
                raise NotUtf8Error(error.object[error.start], offset, line) from None
        start, first = (self._parts[-1].end, self._parts[-1].after) if self._parts else (0, 0)
        end, line = start + tally.characters, self._content.line
        self._parts.append(Part(self._place, tally.size, tally.digest(), start, end, line, first, first + 1))
        self._content.advance_large(tally.characters, tally.lines)
        self._unified += tally.unified
        self._place += tally.size

    def _bytes_of(self, text: str) -> int:
        """Return how many of the pending bytes make up this text, which ends with a semicolon."""
        length = len(text) if text.isascii() else len(text.encode())
        if not self._place and self._pending.startswith(BYTE_ORDER_MARK):
            length += len(BYTE_ORDER_MARK)
        size = length
        # A line ending of two bytes is one character.
        while (larger := length + self._pending.count(b"\r\n", 0, size)) != size:
            size = larger
        return size


class _Tally:
    """Counts and digest of a part whose text is not kept."""

    def __init__(self, *, first: bool) -> None:
        self._pieces = Unifier(first=first)
        self._digest = sha256()
        self.size = 0
        self.unified = 0
        """The size of the text, in bytes."""
        self.characters = 0
        self.lines = 0

    def add(self, content: bytes) -> str:
        """Add more bytes, which must end between two characters; return their text."""
        self._digest.update(content)
        self.size += len(content)
        return self._count(self._pieces.add(content))

    def digest(self) -> bytes:
        """Return the digest of the part, after counting a line ending held back at the end of the file."""
        self._count(self._pieces.end())
        return self._digest.digest()

    def _count(self, content: bytes) -> str:
        text = content.decode()
        self.unified += len(content)
        self.characters += len(text)
        self.lines += text.count("\n")
        return text


class _Cut(NamedTuple):
    """How much of a text becomes a part."""

    end: int
    """The offset after the semicolon of its last statement."""
    statements: int


class _Content:
    """What is known about a file's statements so far."""

    def __init__(self) -> None:
        self.line = 1
        """The line of the next character."""
        self.named: set[str] = set()
        self._start = 0  # the offset of the next character
        self._declared: Directives | None = None  # until the first statement has been seen
        self._blanks: list[Span] = []
        self._commands: list[PsqlCommand] = []
        self._modes: list[str] = []  # transaction modes, from BEGIN and from SET TRANSACTION before any query
        self._no_query = True
        self._seen = False  # whether there was a statement
        self._wrapped = False
        self._ended = False
        self._values: list[str] = []  # values added to enums
        self._above = 0  # how many characters before a large statement have been searched already
        self._overlap = ""  # the last characters of that statement, to be searched again with the next

    def advice(self, text: LargeText) -> Advice:
        """Return how to run the file, once all of it has been read."""
        if self._declared is None or self._wrapped != self._ended:
            raise _UnsuitableError
        source = text.with_blanks(self._blanks)
        return Advice(
            statements=LargeStatements(source),
            source=source,
            begin=" ".join(["BEGIN", *self._modes_in_words()]),
            wrapped=self._wrapped,
            outside=(),
            faults=(),
            parsed=False,
            disputed=False,
            directives=self._declared,
            syntax=None,
            commands=tuple(self._commands),
        )

    def _modes_in_words(self) -> list[str]:
        own, *said = self._modes if self._wrapped else ["", *self._modes]
        return [words for words in (own, ", ".join(filter(None, said))) if words]

    def take(self, text: str, *, last: bool) -> _Cut | None:
        """Check the next section of a file; return how much of it is complete statements, or None if none is.

        `last`: whether the file ends with it. Then all of it is complete.
        """
        sent, script = scan_without_commands(text)
        cut = _cut(sent, script.statements, last=last)
        if cut is None:
            return None
        if any(fault.offset < cut.end for fault in script.faults):
            raise _UnsuitableError
        statements = script.statements[: cut.statements]
        self._look_at(text[: cut.end], statements)
        for command in script.commands:
            if command.start < cut.end:
                # A psql command that connects is only harmless above all statements.
                if self._seen and command.name in ("c", "connect"):
                    raise _UnsuitableError
                self._leave_out(command.start, command.end)
                self._commands.append(
                    command._replace(
                        start=self._start + command.start,
                        end=self._start + command.end,
                        line=self.line + command.line - 1,
                    )
                )
        return cut._replace(statements=sum(self._keeps(sent, statement) for statement in statements))

    def begins_large(self, text: str) -> bool:
        """Check the beginning of a statement that is too large to keep; return False if there is no statement yet.

        Only statements that write rows, and DO blocks, are accepted: their first word says what they are.
        """
        sent, script = scan_without_commands(text)
        if not script.statements or len(text) - script.statements[0].start < _FIRST_WORD:
            return False
        if len(script.statements) > 1 or script.commands:
            raise _UnsuitableError
        words = script.statements[0].words
        if words not in ROW_STATEMENTS and words[:1] != ("DO",):
            raise _UnsuitableError
        self._above = script.statements[0].start
        self._look_at(text[: self._above], ())
        self._keeps(sent, script.statements[0])
        self._overlap = ""
        return True

    def search_within(self, text: str) -> None:
        """Search the next section of a large statement."""
        above, self._above = self._above, max(self._above - len(text), 0)
        text = self._overlap + text[above:]
        lowered = text.lower()
        self.named.update(_named(lowered))
        odd = strings.SETTING in lowered or ("entrypoint" in lowered and DIRECTIVE.search(text))
        if odd or may_have_mark(text) or any(value in text for value in self._values):
            # It may be inside a string. That shows when the file is read into memory at once.
            raise _UnsuitableError
        self._overlap = text[-_OVERLAP:]

    def advance_large(self, characters: int, lines: int) -> None:
        """Advance past a large statement that has become a part."""
        self._start += characters
        self.line += lines

    def advance(self, text: str) -> None:
        """Advance past a text that has become a part."""
        self._start += len(text)
        self.line += text.count("\n")

    def _look_at(self, text: str, statements: Sequence[Statement]) -> None:
        """Search a section that ends with a statement."""
        lowered = text.lower()
        self.named.update(_named(lowered))
        if strings.SETTING in lowered and (strings.is_set(text) or strings.may_be_set_unseen(text, statements)):
            raise _UnsuitableError
        if self._declared is None:
            self._declare(text, statements)
        elif "entrypoint" in lowered and DIRECTIVE.search(text):
            raise _UnsuitableError
        if find_mark(text) or any(value in text for value in self._values):
            raise _UnsuitableError

    def _declare(self, text: str, statements: Sequence[Statement]) -> None:
        """Read the directives above the first statement."""
        self._declared, faults = directives.read(text)
        faults += misplaced_directives(text, statements) + directives.near_misses(text)
        if faults or self._declared.no_transaction or self._declared.batch:
            raise _UnsuitableError

    def _keeps(self, text: str, statement: Statement) -> bool:
        """Tell whether a statement is sent. Only the BEGIN and COMMIT around the whole file are not."""
        if self._ended:
            raise _UnsuitableError
        first, self._seen = not self._seen, True
        if statement.words in ROW_STATEMENTS:
            self._no_query = False
            return True
        kind, modes = kind_of_words(text, statement), modes_of(statement)
        if kind.outside or "READ ONLY" in (modes or ""):
            raise _UnsuitableError
        if kind.control:
            if first and kind.control in BEGINS and modes is not None:
                self._wrapped = True
                self._modes.append(modes)
            elif self._wrapped and kind.control == "COMMIT":
                self._ended = True
            else:
                raise _UnsuitableError
            self._leave_out(statement.start, statement.end)
            semicolon = skip(text, statement.end)
            self._leave_out(semicolon, semicolon + 1)
            return False
        self._no_query = self._no_query and statement.words[:1] in NO_QUERIES
        if self._no_query and modes:
            self._modes.append(modes)
        self._remember_value(text, statement)
        return True

    def _remember_value(self, text: str, statement: Statement) -> None:
        """Remember a value that a statement adds to an enum: it cannot be used in the same transaction."""
        if statement.words[:2] == ("ALTER", "TYPE") and (value := added_value(text, statement)):
            if value in text[statement.end :]:
                raise _UnsuitableError
            self._values.append(value)

    def _leave_out(self, start: int, end: int) -> None:
        if len(self._blanks) == _MOST_BLANKS:
            raise _UnsuitableError
        self._blanks.append(Span(self._start + start, self._start + end))


def _cut(text: str, statements: Sequence[Statement], *, last: bool) -> _Cut | None:
    """Return how much of a text becomes a part; None if no statement ends in it.

    `last`: whether the file ends with it; if not, only statements with a semicolon are complete.
    """
    enough = len(statements)
    if statements and statements[-1].start >= _PART:
        enough = next((number for number in range(1, enough) if statements[number].start >= _PART), enough)
    if last and enough == len(statements):
        return _Cut(len(text), enough)
    for number in range(enough, 0, -1):
        try:
            semicolon = skip(text, statements[number - 1].end)
        except UnterminatedError:
            continue
        if text.startswith(";", semicolon):
            return _Cut(semicolon + 1, number)
    # Without any semicolon, the statements were ended by psql commands, which are refused later.
    return _Cut(len(text), len(statements)) if last else None
