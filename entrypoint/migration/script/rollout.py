"""What files say about the rollout of a release: which of them run after it, and which images may still start then.

A start asks this of files that are not applied, and of all files only where a floor is not met by their names. While
files with `phase = after` are outstanding, each start comes here: so without the scanner, where a file's first lines
are as they nearly always are.
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
# Bytes of a large file in which its first statement nearly always begins.
_HEAD = 1 << 16
_WHITE = " \t\n\r\f\v"


class Rollout(NamedTuple):
    """What a file says about the rollout."""

    after: bool = False
    """Whether it is to run when no replica of an earlier release is left."""
    requires: int | None = None
    """The number of a migration that must be completed before."""
    floor: str | None = None
    """The name of a file: once this one is applied, an image without that file does not start any more."""
    replaces: tuple[str, ...] = ()
    """The names of files for which this one stands, where a floor names them."""


ORDINARY = Rollout()
# What was read in this process, by path and checksum: whoever waits for the lock asks again and again.
_read: dict[tuple[str, str], Rollout] = {}


def rollouts(files: Iterable[MigrationFile]) -> dict[int, Rollout]:
    """Return, by number, what those of `files` say about the rollout that say anything."""
    found = {file.number: rollout_of(file) for file in files}
    return {number: rollout for number, rollout in found.items() if rollout != ORDINARY}


def rollout_of(file: MigrationFile) -> Rollout:
    """Return what a file says about the rollout; what is wrong with it is said where it is to run."""
    key = (file.path, file.checksum)
    if key not in _read:
        _read[key] = _rollout_at(file.path)
    return _read[key]


def said_in(text: str) -> Rollout:
    """Return what a text says about the rollout, as far as it says it well."""
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
    """Tell whether a text is the number of a migration."""
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
    """Return a file's content; of a large one what comes above its first statement, if that can be told."""
    descriptor, size = migration_files.opened(path)
    try:
        if size > migration_files.LARGE:
            from entrypoint.migration.script import scanner

            head = os.pread(descriptor, _HEAD, 0)
            # As bytes, of which each is a character: only ASCII is looked for.
            if scanner.has_statement(head.removeprefix(migration_files.BYTE_ORDER_MARK).decode("latin-1")):
                return head
    finally:
        os.close(descriptor)
    return migration_files.read_bytes(path)


def _directives(text: str) -> Iterator[str]:
    """Yield what stands after `-- entrypoint:` above the first statement, as `scanner.directives` finds it."""
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
