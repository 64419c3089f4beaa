"""The migration files: their names, their text, their checksums. Every fault is found before anything runs."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

from entrypoint.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME = re.compile(r"(\d{3,})_([a-z0-9_]+)\.sql", re.ASCII)
_NUMBERED = re.compile(r"(\d+)[\W_]*(.*)", re.ASCII)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# `migration_number` is a 32 bit integer.
HIGHEST = 2**31 - 1


class MigrationFile(NamedTuple):
    """One file, known by number, name and checksum; its text is read when it is pending."""

    number: int
    name: str
    path: str
    checksum: str
    """SHA-256 of the text without a byte-order mark and with LF line ends."""
    raw_checksum: str
    """SHA-256 of the file's bytes, which is what the earlier system recorded."""

    def matches(self, checksum: str | None) -> bool:
        """Tell whether a `checksum` from the ledger is this file's. Without one, nothing can be said against it."""
        return checksum is None or checksum in (self.checksum, self.raw_checksum)


class Flaw(NamedTuple):
    """Something that is wrong with a file, or with several that have one number; as text, a line for the log."""

    names: tuple[str, ...]
    rule: str
    """What kind of fault it is, in a word."""
    message: str
    line: int | None = None
    """Counted from 1; None if it is not about a place in the text."""
    offset: int | None = None
    """The character in the text."""

    def __str__(self) -> str:
        return f"{' and '.join(self.names)}{'' if self.line is None else f':{self.line}'}: {self.message}"


class Directory(NamedTuple):
    """A directory of migrations, in order of their numbers."""

    path: str
    files: tuple[MigrationFile, ...]
    warnings: tuple[str, ...]
    faults: tuple[Flaw, ...]
    """What is wrong with the names; the contents are looked at when a file is pending."""


def load_directory(path: str) -> Directory:
    """Read the names and checksums of all migrations in `path`.

    What does not end in `.sql`, and what begins with a dot, is not looked at. Raises ConfigurationError if there
    is no such directory.
    """
    try:
        names = sorted(name for name in os.listdir(path) if is_sql(name))
    except OSError as error:
        raise ConfigurationError(
            f"The migrations directory {path!r} cannot be read: {error.strerror}",
            remedy="Set MIGRATIONS_DIR to where the image has its migrations, or AUTO_MIGRATE=false if it has none.",
        ) from None
    faults = [*_bad_names(names), *_doubled_numbers(names)]
    files = []
    for name in names:
        number = number_of(name)
        file = os.path.join(path, name)
        if number is None:
            continue
        try:
            content = read_bytes(file)
        except OSError as error:
            faults.append(Flaw((name,), "unreadable", f"cannot be read: {error.strerror}"))
            continue
        files.append(MigrationFile(number, name, file, checksum(content), sha256(content).hexdigest()))
    files.sort()
    return Directory(path, tuple(files), tuple(_warnings(path, files)), tuple(faults))


def read_bytes(path: str) -> bytes:
    """Return a file's content."""
    with open(path, "rb") as file:
        return file.read()


def checksum(content: bytes) -> str:
    """Return the SHA-256 of the text: no byte-order mark, LF line ends. `sha256sum` says the same of most files."""
    return sha256(_normalised(content)).hexdigest()


def decode(content: bytes) -> str:
    """Return the text of a migration as it is sent. Raises UnicodeDecodeError for what is not UTF-8."""
    return _normalised(content).decode("utf-8")


def _normalised(content: bytes) -> bytes:
    content = content.removeprefix(_BYTE_ORDER_MARK)
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in content else content


def number_of(name: str) -> int | None:
    """Return the number of a well-formed file name, or None."""
    match = _NAME.fullmatch(name)
    if match is None or int(match[1]) > HIGHEST:
        return None
    return int(match[1])


def slug(words: str) -> str:
    """Return `words` as a file name spells them: lower case, digits and underscores."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", words)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def better_name(name: str) -> str:
    """Return what a badly named file should be called."""
    stem = name[: -len(".sql")]
    match = _NUMBERED.fullmatch(stem)
    number, words = (match[1], match[2]) if match else ("NNN", stem)
    return f"{number.zfill(3) if match else number}_{slug(words) or 'description'}.sql"


def is_sql(name: str) -> bool:
    """Tell whether a file of this name is looked at, as a migration or as a badly named one."""
    return name.lower().endswith(".sql") and not name.startswith(".")


def _bad_names(names: Iterable[str]) -> list[Flaw]:
    faults = []
    for name in names:
        if number_of(name) is not None:
            continue
        digits = _NAME.fullmatch(name)
        message = (
            f"the number is higher than {HIGHEST}"
            if digits
            else f"must be NNN_description.sql, for example {better_name(name)}"
        )
        faults.append(Flaw((name,), "name", message))
    return faults


def _doubled_numbers(names: Iterable[str]) -> list[Flaw]:
    by_number: dict[int, list[str]] = {}
    for name in names:
        number = number_of(name)
        if number is not None:
            by_number.setdefault(number, []).append(name)
    return [
        Flaw(tuple(same), "number", f"{len(same)} files have the number {number}; give each its own")
        for number, same in sorted(by_number.items())
        if len(same) > 1
    ]


def _warnings(path: str, files: list[MigrationFile]) -> list[str]:
    if not files:
        return [f"there are no migrations in {path!r}"]
    missing = [
        f"{before.number + 1:03d}"
        if after.number - before.number == 2
        else f"{before.number + 1:03d} to {after.number - 1:03d}"
        for before, after in pairwise(files)
        if after.number - before.number > 1
    ]
    return [f"there is a gap in the numbers: no migration {', '.join(missing)}"] if missing else []
