"""The contents of a tool's directory as plain values: its migrations, and other files."""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class Source(Protocol):
        """A directory of files. Files are read on demand, so that only one is in memory."""

        @property
        def paths(self) -> Sequence[str]:
            """Every file in the directory and below, sorted, as paths with /."""

        @property
        def folders(self) -> Sequence[str]:
            """Every directory directly in the directory, sorted, including empty ones."""

        def content(self, path: str) -> bytes:
            """Return a file's bytes, without a byte-order mark. Raises UnreadableError."""


class UnreadableError(Exception):
    """A file cannot be read; the message says why."""


class Section(NamedTuple):
    """A part of a file, copied byte for byte, and the text to add before and after it."""

    start: int
    stop: int
    before: bytes = b""
    after: bytes = b""


class Direction(NamedTuple):
    """One direction of a migration: where its SQL is."""

    path: str
    pieces: tuple[Section, ...]
    no_transaction: bool = False


class Why(NamedTuple):
    """Why something could not be imported, and what to do about it."""

    reason: str
    remedy: str


class Migration(NamedTuple):
    """A migration that the tool runs once and records under a version."""

    source: str
    """Its file or directory there."""
    version: str
    """As the tool records it: see `Origin`."""
    digits: str
    """Its number as written there, if it is an integer."""
    words: str
    """The description in its name."""
    forward: Direction | None
    """None if it is not SQL that can be imported."""
    back: Direction | None = None
    why: Why | None = None
    """Why there is no `forward`."""


class ForeignRepeatable(NamedTuple):
    """A migration that the tool runs again whenever it changes."""

    source: str
    version: str
    words: str
    forward: Direction


class Left(NamedTuple):
    """A file that is not imported and is not in the tool's history."""

    source: str
    why: Why


class Fault(NamedTuple):
    """An error that has to be corrected in the directory before it can be imported."""

    sources: tuple[str, ...]
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = "" if self.line is None else f":{self.line}"
        return f"{' and '.join(self.sources)}{place}: {self.message}"


class Contents(NamedTuple):
    """Everything found in a directory."""

    migrations: tuple[Migration, ...] = ()
    """In the order in which the tool runs them."""
    repeatables: tuple[ForeignRepeatable, ...] = ()
    left: tuple[Left, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether the tool would find nothing there."""
        return not (self.migrations or self.repeatables or self.faults)
