"""Reads the directives about a release's rollout: which files run after it, and which images can start afterwards.

A start reads them in files that are not applied, and in all files only if the image has no file with a floor's name.
While files with `phase = after` are outstanding, every start does so. That is why the scanner is not loaded unless a
file begins in an unusual way.
"""

from __future__ import annotations

import os

from entrypoint.migration.script import files as migration_files
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from entrypoint.migration.script.files import MigrationFile

PHASE = "phase"
REQUIRES = "requires"
FLOOR = "floor"
REPLACES = "replaces"
AFTER = "after"

_MARK = "entrypoint"
# The first statement of a large file nearly always begins within this many bytes.
_HEAD = 1 << 16
_WHITE = " \t\n\r\f\v"


class Rollout(NamedTuple):
    """A file's directives about the rollout."""

    after: bool = False
    """Whether to run it only when no replica of an earlier release is left."""
    requires: int | None = None
    """The number of a migration that must be completed first."""
    floor: str | None = None
    """The name of a file: once this one is applied, an image without that file no longer starts."""
    replaces: tuple[str, ...] = ()
    """The names of files that this one replaces: a floor with such a name is met by this file."""


ORDINARY = Rollout()
# What this process has read, by path and checksum: a replica that waits for the lock asks again and again.
_read: dict[tuple[str, str], Rollout] = {}


def rollouts(files: Iterable[MigrationFile]) -> dict[int, Rollout]:
    """Return, by number, the rollout of each file that has directives about it."""
    found = {file.number: rollout_of(file) for file in files}
    return {number: rollout for number, rollout in found.items() if rollout != ORDINARY}


def rollout_of(file: MigrationFile) -> Rollout:
    """Return a file's directives about the rollout. Errors in them are reported when the file is about to run."""
    key = (file.path, file.checksum)
    if key not in _read:
        _read[key] = _rollout_at(file.path)
    return _read[key]


def said_in(text: str) -> Rollout:
    """Return a text's directives about the rollout, as far as they are well-formed."""
    said: dict[str, str] = {}
    replaces: list[str] = []
    for line in _directives(text):
        name, equals, value = (part.strip() for part in line.partition("="))
        if equals and name == REPLACES:
            replaces.append(value)
        elif equals:
            said[name] = value
    requires = said.get(REQUIRES, "")
    return Rollout(
        said.get(PHASE) == AFTER,
        int(requires) if is_number(requires) else None,
        said.get(FLOOR) or None,
        tuple(replaces),
    )


def is_number(text: str) -> bool:
    """Tell whether a text can be the number of a migration."""
    return text.isascii() and text.isdecimal() and len(text) <= migration_files.MOST_DIGITS


def _rollout_at(path: str) -> Rollout:
    try:
        content = _top(path)
    except OSError:
        return ORDINARY
    if _MARK.encode() not in content:
        return ORDINARY
    return said_in(content.removeprefix(migration_files.BYTE_ORDER_MARK).decode(errors="replace"))


def _top(path: str) -> bytes:
    """Return a file's content; for a large one, only its beginning, if the first statement begins there."""
    descriptor, size = migration_files.opened(path)
    try:
        if size > migration_files.LARGE:
            from entrypoint.migration.script import scanner

            head = os.pread(descriptor, _HEAD, 0)
            # In Latin-1 each byte is a character. That is enough to find ASCII.
            if scanner.has_statement(head.removeprefix(migration_files.BYTE_ORDER_MARK).decode("latin-1")):
                return head
    finally:
        os.close(descriptor)
    return migration_files.read_bytes(path)


def _directives(text: str) -> Iterator[str]:
    """Yield the text after each `-- entrypoint:` above the first statement, as `scanner.directives` does."""
    pos = 0
    while True:
        while pos < len(text) and text[pos] in _WHITE:
            pos += 1
        if text.startswith(("/*", "\\"), pos):
            from entrypoint.migration.script import scanner

            yield from (directive.text for directive in scanner.directives(text[pos:]))
            return
        if not text.startswith("--", pos):
            return
        ends = [end for end in (text.find("\n", pos), text.find("\r", pos)) if end >= 0]
        end = min(ends, default=len(text))
        name, colon, value = text[pos + 2 : end].partition(":")
        if colon and name.strip(" \t") == _MARK:
            yield value.strip()
        pos = end
