"""The checksums of a file that is too large to be read into memory at once."""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import _Hash as Hash

# How many bytes to read at a time.
_CHUNK = 1 << 18


class Sums:
    """The checksums of a file that is read piece by piece."""

    def __init__(self) -> None:
        """Start without any content."""
        self._raw = sha256()
        # The text's checksum, from where the text differs from the bytes.
        self._text: Hash | None = None
        self._pieces = Unifier()
        self._begun = False

    def add(self, piece: bytes) -> None:
        """Add the next bytes of the file."""
        if self._text is None and (b"\r" in piece or (not self._begun and piece.startswith(BOM_UTF8))):
            self._text = self._raw.copy()
            self._pieces = Unifier(first=not self._begun)
        self._raw.update(piece)
        if self._text is not None:
            self._text.update(self._pieces.add(piece))
        self._begun = True

    def both(self) -> tuple[str, str]:
        """Return the checksums of the text and of the raw bytes, once the whole file has been added."""
        raw = self._raw.hexdigest()
        if self._text is None:
            return raw, raw
        self._text.update(self._pieces.end())
        return self._text.hexdigest(), raw


class Unifier:
    """Turns a file's bytes into those of its text, piece by piece: no byte-order mark, LF line endings."""

    def __init__(self, *, first: bool = True) -> None:
        """`first`: whether the next piece is the first of the file."""
        self._first = first
        self._held = b""

    def add(self, piece: bytes) -> bytes:
        """Return the next bytes of the text. A CR at the end of `piece` is held back."""
        content = self._held + piece
        # It may be one line ending together with the next byte.
        self._held = b"\r" if content.endswith(b"\r") else b""
        first, self._first = self._first, False
        return unified(content.removesuffix(b"\r"), first=first)

    def end(self) -> bytes:
        """Return what was held back, once the whole file has been added: a line ending, or nothing."""
        held, self._held = self._held, b""
        return b"\n" if held else b""


def unified(content: bytes, *, first: bool) -> bytes:
    """Return a section of a file with LF line endings, and without the byte-order mark if it is the `first` one."""
    content = content.removeprefix(BOM_UTF8) if first else content
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in content else content


def sums_of(descriptor: int, size: int) -> tuple[str, str] | None:
    """Return the checksums of the text and of the raw bytes of an open file; None if its size is not `size`."""
    sums = Sums()
    left = size
    # Ask for one byte more than there is, to see that the file ends.
    while piece := os.read(descriptor, min(_CHUNK, left + 1)):
        left -= len(piece)
        sums.add(piece)
        if left < 0:
            break
    return None if left else sums.both()
