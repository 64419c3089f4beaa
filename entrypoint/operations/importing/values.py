"""What a tool's directory holds, as plain values: its migrations, and what is none of them."""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class Source(Protocol):
        """A directory of files. A file is read when it is asked for, so that only one is in memory."""

        @property
        def paths(self) -> Sequence[str]:
            """Every file below the directory, sorted, with / between the names."""

        @property
        def folders(self) -> Sequence[str]:
            """Every directory in the directory itself, sorted; an empty one, too."""

        def content(self, path: str) -> bytes:
            """Return a file's bytes, without a byte-order mark. Raises UnreadableError."""

    class Reader(Protocol):
        """A module of this package that knows a tool."""

        DEPTH: int | None
        """How many levels of directories are looked at; None: all of them."""

        def read(self, source: Source, /) -> Reading:
            """Return what the tool would see in a directory, in the order in which it would run it."""


class UnreadableError(Exception):
    """A file cannot be read; the text says why."""


class Piece(NamedTuple):
    """A stretch of a file that is taken byte for byte, and what has to stand before and after it."""

    start: int
    stop: int
    before: bytes = b""
    after: bytes = b""


class Part(NamedTuple):
    """One way of a migration, forward or back: where its SQL is."""

    path: str
    pieces: tuple[Piece, ...]
    no_transaction: bool = False


class Why(NamedTuple):
    """Why something could not be imported, and what to do about it."""

    reason: str
    remedy: str


class Migration(NamedTuple):
    """What the tool runs once and records under a version."""

    source: str
    """The file or directory that it is there."""
    version: str
    """As the tool records it: see `Origin`."""
    digits: str
    """Its number as it is written there, if it has a whole one."""
    words: str
    """The description in its name."""
    forward: Part | None
    """None if it is not SQL that could be taken over."""
    back: Part | None = None
    why: Why | None = None
    """Why there is no `forward`."""


class Repeatable(NamedTuple):
    """What the tool runs again whenever it has changed."""

    source: str
    version: str
    words: str
    forward: Part


class Left(NamedTuple):
    """A file that is left where it is, and is no migration of the tool's history."""

    source: str
    why: Why


class Fault(NamedTuple):
    """Why the directory cannot be imported as it is: to be mended there first."""

    sources: tuple[str, ...]
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = "" if self.line is None else f":{self.line}"
        return f"{' and '.join(self.sources)}{place}: {self.message}"


class Reading(NamedTuple):
    """Everything that was found in a directory."""

    migrations: tuple[Migration, ...] = ()
    """In the order in which the tool runs them."""
    repeatables: tuple[Repeatable, ...] = ()
    left: tuple[Left, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether the tool would find nothing of its own there."""
        return not (self.migrations or self.repeatables or self.faults)
