"""Digest what another migration tool reads: its command line, and the names and contents of its files.

An up-to-date start does this while it waits for the server, so for plain patterns it imports neither `glob` nor
`fnmatch` nor `re`. Nothing is cached between starts: a file's time and size do not prove that its contents are
unchanged.
"""

from __future__ import annotations

import os

from entrypoint.errors import ConfigurationError
from entrypoint.migration.ledger.verdict import Wanted
from entrypoint.migration.script.files import read_bytes, sha256_for
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from entrypoint.command import Command

# Directories that a run leaves behind, or that belong to other software.
_LEFT_OUT_DIRECTORIES = ("__pycache__", "node_modules", ".git")
_LEFT_OUT_SUFFIX = ".pyc"
# The directories inside a mounted ConfigMap, some with a time in their names: `..data`, `..2026_11_28_17_40_01.123456`.
_MOUNTED = ".."
_ANY_DEPTH = "**"
_MAGIC = "*?["


def want(command: Command) -> Wanted:
    """Digest a command and everything it reads. Raises ConfigurationError if an input is missing or cannot be read."""
    checksums: dict[str, str] = {}
    faults = []
    total = 0
    for pattern in command.inputs:
        name = pattern
        try:
            names = list(_files(pattern))
            if not names:
                faults.append(f"MIGRATION_COMMAND_INPUTS: {foreign(pattern)!r} matches no file in {os.getcwd()!r}")
            for name in names:
                content = read_bytes(name)
                total += len(content)
                checksums[name] = sha256_for(total)(content).hexdigest()
        except OSError as error:
            path = foreign(str(error.filename or name))
            faults.append(f"MIGRATION_COMMAND_INPUTS: {path!r} cannot be read: {error.strerror}")
    if faults:
        more = f" (and {len(faults) - 1} more like it)" if faults[1:] else ""
        raise ConfigurationError(
            f"{faults[0]}{more}; the command was not run",
            remedy="Correct the paths. They are relative to the working directory. If an input is missing, a change "
            "could go unnoticed.",
            faults=faults,
        )
    return Wanted(command, _fingerprint(command, checksums), frozenset(checksums))


def _fingerprint(command: Command, checksums: dict[str, str]) -> str:
    # Words and names cannot contain a NUL. The empty part separates the two.
    parts = [*command.words, "", *(f"{checksums[name]} {name}" for name in sorted(checksums))]
    whole = "\0".join(parts).encode("utf-8", "surrogateescape")
    return sha256_for(len(whole))(whole).hexdigest()


def _files(pattern: str) -> Iterator[str]:
    """Return the files that a path or pattern names. A directory stands for all files in it.

    Raises OSError if a path does not exist or a directory cannot be read.
    """
    path = os.path.normpath(pattern)
    if not any(character in pattern for character in _MAGIC) or os.path.lexists(pattern):
        yield from _all_in(path)
        return
    for match in _matches(*_begin(path)):
        yield from _all_in(match)


def _all_in(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
        return
    yield from _walk(path, ())


def _walk(directory: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Return all files below a directory, following links except those to a directory above."""
    status = os.stat(directory)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir():
                if entry.name not in _LEFT_OUT_DIRECTORIES and not entry.name.startswith(_MOUNTED):
                    yield from _walk(entry.path, (*above, here))
            elif not entry.name.endswith(_LEFT_OUT_SUFFIX) and not entry.name.startswith(_MOUNTED):
                yield entry.path


def _begin(path: str) -> tuple[str, list[str]]:
    parts = path.split(os.sep)
    return (os.sep, parts[1:]) if path.startswith(os.sep) else ("", parts)


def _matches(directory: str, parts: list[str]) -> Iterator[str]:
    """Return the paths below a directory that match the parts of a pattern, as in a shell with `globstar`."""
    part, rest = parts[0], parts[1:]
    if part == _ANY_DEPTH:
        if not rest:
            yield directory or "."
            return
        yield from _matches(directory, rest)
        for name in _names(directory):
            below = os.path.join(directory, name)
            if name[0] != "." and name not in _LEFT_OUT_DIRECTORIES and not os.path.islink(below):
                yield from _matches(below, parts) if os.path.isdir(below) else ()
        return
    magic = any(character in part for character in _MAGIC)
    names = [name for name in _names(directory) if _is_like(name, part)] if magic else [part]
    for name in names:
        path = os.path.join(directory, name)
        if not rest:
            if os.path.lexists(path):
                yield path
        elif os.path.isdir(path):
            yield from _matches(path, rest)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory or "."))
    except NotADirectoryError:
        return []


def _is_like(name: str, pattern: str) -> bool:
    """Tell whether a name matches a pattern. A leading dot must be explicit in the pattern."""
    if name in _LEFT_OUT_DIRECTORIES or name.endswith(_LEFT_OUT_SUFFIX):
        return False
    if name.startswith(".") and not pattern.startswith("."):
        return False
    if "?" in pattern or "[" in pattern:
        from fnmatch import fnmatchcase

        return fnmatchcase(name, pattern)
    return _is_like_stars(name, pattern.split("*"))


def _is_like_stars(name: str, pieces: list[str]) -> bool:
    """Tell whether a name begins with the first piece, ends with the last, and has the others in between, in order."""
    first, *others = pieces
    if not others or not name.startswith(first):
        return name == first
    *middle, last = others
    position = len(first)
    for piece in middle:
        found = name.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return len(name) - position >= len(last) and name.endswith(last)
