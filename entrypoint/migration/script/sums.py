"""The checksums of a file that is too large to be in memory as a whole."""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import _Hash as Hash

# Bytes that are read at a time.
_CHUNK = 1 << 18


class Sums:
    """The checksums of a file that is read piece by piece."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._raw = sha256()
        # That of the text, from where it is another one than that of the bytes.
        self._text: Hash | None = None
        self._pieces = Unifier()
        self._begun = False

    def add(self, piece: bytes) -> None:
        """Take the next bytes of the file."""
        if self._text is None and (b"\r" in piece or (not self._begun and piece.startswith(BOM_UTF8))):
            self._text = self._raw.copy()
            self._pieces = Unifier(first=not self._begun)
        self._raw.update(piece)
        if self._text is not None:
            self._text.update(self._pieces.add(piece))
        self._begun = True

    def both(self) -> tuple[str, str]:
        """Return the checksum of the text and that of the bytes, when all have been added."""
        raw = self._raw.hexdigest()
        if self._text is None:
            return raw, raw
        self._text.update(self._pieces.end())
        return self._text.hexdigest(), raw


class Unifier:
    """Makes a file's bytes those of its text, piece by piece."""

    def __init__(self, *, first: bool = True) -> None:
        """`first`: whether the next piece is the file's first one."""
        self._first = first
        self._held = b""

    def add(self, piece: bytes) -> bytes:
        """Return the text's bytes for the next ones of the file, but for a CR at their end."""
        content = self._held + piece
        # Whether it is one line end with what follows.
        self._held = b"\r" if content.endswith(b"\r") else b""
        first, self._first = self._first, False
        return unified(content.removesuffix(b"\r"), first=first)

    def end(self) -> bytes:
        """Return what is left when all has been added: nothing, or a line end."""
        held, self._held = self._held, b""
        return b"\n" if held else b""


def unified(content: bytes, *, first: bool) -> bytes:
    """Return a stretch of a file with LF line ends; without the byte-order mark if it is the `first` one."""
    content = content.removeprefix(BOM_UTF8) if first else content
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in content else content


def sums_of(descriptor: int, size: int) -> tuple[str, str] | None:
    """Return the checksums of the text and of the raw bytes of an open file; None if it has not this size."""
    sums = Sums()
    left = size
    # One more than it has, so that the end is seen.
    while piece := os.read(descriptor, min(_CHUNK, left + 1)):
        left -= len(piece)
        sums.add(piece)
        if left < 0:
            break
    return None if left else sums.both()
