"""The migration files: names, text and checksums. All faults are found before anything runs."""

from __future__ import annotations

import errno
import os
import stat
import sys
from itertools import pairwise

from entrypoint.errors import ConfigurationError
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Protocol

    class Hash(Protocol):
        """A hash object, as `hashlib` creates it."""

        def hexdigest(self) -> str:
            """Return the digest in hexadecimal."""

    Sha256 = Callable[[bytes], Hash]

_SUFFIX = ".sql"
_DIGITS = "0123456789"
OF_A_DESCRIPTION = "abcdefghijklmnopqrstuvwxyz0123456789_"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Any number with this many digits fits into PostgreSQL's bigint.
MOST_DIGITS = 18
FEWEST_DIGITS = 3
HIGHEST = 10**MOST_DIGITS - 1
ROLLBACKS = "rollback"
"""The subdirectory of the migrations directory that has the down migrations."""
REPEATABLES = "repeatable"
"""The subdirectory that has the files to apply whenever they change."""
# Nobody counts this far. Dates (20261127), seconds since 1970 (1795772100) and times (20261127101500) are above it.
_FIRST_TIMESTAMP = 10**7
# Above this many bytes, OpenSSL's SHA-256 is worth loading: it is several times as fast.
_MUCH_TO_HASH = 2**20
LARGE = 2**20
"""A file with more bytes than this is read in parts if possible, so that it is never in memory all at once."""
_CHANGES_ON_READING = "it is not an ordinary file, or it is being written to"
_LIMIT = "(MIGRATION_FILE_LIMIT_MB)"
_NOT_REGULAR = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_BUILTIN_HASH = "_sha2" if sys.version_info >= (3, 12) else "_sha256"


class MigrationFile(NamedTuple):
    """A migration's number, name and checksums. Its text is only read when it is pending."""

    number: int
    name: str
    path: str
    checksum: str
    """SHA-256 of the text without a byte-order mark and with LF line endings."""
    raw_checksum: str
    """SHA-256 of the file's raw bytes, which is what the earlier system recorded."""

    def matches(self, checksum: str | None) -> bool:
        """Tell whether a `checksum` from the ledger is this file's. None matches: there is nothing to compare."""
        return checksum is None or checksum in (self.checksum, self.raw_checksum)


class Repeatable(NamedTuple):
    """A file that is applied whenever its text has changed. Sorts by name."""

    name: str
    """Without `.sql`, as in the directives `after` and `refresh`, and in the table of applied files."""
    path: str
    checksum: str
    raw: str
    """SHA-256 of the raw bytes."""

    @property
    def shown(self) -> str:
        """The file's name in messages."""
        return f"{REPEATABLES}/{self.name}{_SUFFIX}"


class FileFault(NamedTuple):
    """Something wrong with a file, or with several files that have the same number; as text, a line for the log."""

    names: tuple[str, ...]
    rule: str
    """The kind of fault, in a word."""
    message: str
    line: int | None = None
    """Counted from 1; None if the fault is not about a place in the text."""
    offset: int | None = None
    """The place in the text, in characters."""

    def __str__(self) -> str:
        return f"{' and '.join(self.names)}{'' if self.line is None else f':{self.line}'}: {self.message}"


class Directory(NamedTuple):
    """A directory of migrations, sorted by number."""

    path: str
    files: tuple[MigrationFile, ...]
    warnings: tuple[str, ...]
    faults: tuple[FileFault, ...]
    """What is wrong with the names. A file's content is only checked when it is pending."""
    limit: int | None
    """The maximum size of a file, in bytes."""
    repeatables: tuple[Repeatable, ...] = ()
    """The files in repeatable/, sorted by name."""

    @property
    def newest(self) -> int:
        """The highest number of a file; 0 if there are none."""
        return max((file.number for file in self.files), default=0)


WHERE = "Run it where the migrations directory is, or set MIGRATIONS_DIR to its path."
"""What to do if there is no such directory."""


def load_directory(path: str, limit: int | None = None, *, repeating: bool = True, remedy: str = WHERE) -> Directory:
    """Read the names and checksums of all migrations in `path`. A file with more than `limit` bytes is a fault.

    Files that do not end in `.sql`, or begin with a dot, are ignored. An empty `path` means that there is no directory,
    because another tool has all migrations. `repeating`: whether to read the files in repeatable/. Raises
    ConfigurationError with `remedy` if the directory cannot be read.
    """
    if not path:
        return Directory(path, (), (), (), limit)
    try:
        listed = os.listdir(path)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read the migrations directory {path!r}: {error.strerror}",
            remedy=remedy,
        ) from None
    names = sorted(filter(is_sql, listed))
    numbers = {name: number_of(name) for name in names}
    faults = [*_bad_names(name for name, number in numbers.items() if number is None), *_doubled_numbers(numbers)]
    files = []
    total = 0
    folder = os.path.join(path, "")
    for name, number in numbers.items():
        if number is None:
            continue
        file = f"{folder}{name}"
        try:
            found, size = _sums_at(file, limit, total)
        except OSError as error:
            faults.append(FileFault((name,), "unreadable", f"cannot be read: {error.strerror}"))
            continue
        total += size
        files.append(MigrationFile(number, name, file, *found))
    files.sort()
    repeatables: tuple[Repeatable, ...] = ()
    warnings = list(_warnings(path, files))
    if REPEATABLES in listed:
        repeatables, more = _load_repeatables(path, limit)
        if repeating:
            faults += more
        elif repeatables:
            repeatables = ()
            warnings.append(f"the files in {REPEATABLES}/ are not applied because MIGRATION_COMMAND is set")
    return Directory(path, tuple(files), tuple(warnings), tuple(faults), limit, repeatables)


def _load_repeatables(directory: str, limit: int | None) -> tuple[tuple[Repeatable, ...], list[FileFault]]:
    """Return the repeatable files in a directory of migrations, sorted by name, and what is wrong with them."""
    folder = os.path.join(directory, REPEATABLES)
    try:
        names = sorted(name for name in os.listdir(folder) if is_sql(name))
    except (FileNotFoundError, NotADirectoryError):
        return (), []
    except OSError as error:
        return (), [FileFault((REPEATABLES,), "unreadable", f"cannot be read: {error.strerror}")]
    found: list[Repeatable] = []
    faults: list[FileFault] = []
    for file in names:
        name = file.removesuffix(_SUFFIX)
        if name == file or not name or name.strip(OF_A_DESCRIPTION):
            better = slug(file[: -len(_SUFFIX)].removeprefix("R__")) or "name"
            what = f"must be named {better}{_SUFFIX}: lowercase letters, digits and underscores"
            faults.append(FileFault((f"{REPEATABLES}/{file}",), "name", what))
            continue
        path = os.path.join(folder, file)
        try:
            found.append(Repeatable(name, path, *_sums_at(path, limit)[0]))
        except OSError as error:
            faults.append(FileFault((f"{REPEATABLES}/{file}",), "unreadable", f"cannot be read: {error.strerror}"))
    return tuple(found), faults


def read_bytes(path: str, limit: int | None = None) -> bytes:
    """Return the content of a regular file, of at most `limit` bytes if there is a limit. Never blocks.

    Raises OSError, also for anything but a regular file: a pipe could block until somebody writes to it, and /dev/zero
    never ends.
    """
    descriptor, size = opened(path, limit)
    try:
        return _content(descriptor, size)
    finally:
        os.close(descriptor)


def opened(path: str, limit: int | None = None) -> tuple[int, int]:
    """Open a regular file, of at most `limit` bytes if there is a limit; return its descriptor and its size in bytes.

    Never blocks. Raises OSError as `read_bytes` does. The caller must close the descriptor.
    """
    # O_NONBLOCK: without it, opening a pipe would already block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return descriptor, _size(os.fstat(descriptor), limit)
    except BaseException:
        os.close(descriptor)
        raise


def _size(found: os.stat_result, limit: int | None) -> int:
    """Return the size of a file in bytes. Raises OSError if it is not a regular file, or larger than the limit."""
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for is_one, words in _NOT_REGULAR if is_one(found.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"it is not a regular file but {kind}")
    if limit is not None and found.st_size > limit:
        raise OSError(errno.EFBIG, f"it has {found.st_size >> 20} MB, and the limit is {limit >> 20} MB {_LIMIT}")
    return found.st_size


def not_its_size(size: int) -> OSError:
    """Return the error for a file that turned out to have more or fewer bytes than its `size` when it was opened."""
    # As in /proc and /sys, where the kernel generates a file's content while it is read; it may contain secrets.
    return OSError(errno.EINVAL, f"its content does not match its size, {size} bytes: {_CHANGES_ON_READING}")


def _content(descriptor: int, size: int) -> bytes:
    """Return the whole content of an open file."""
    # Ask for one byte more than it has: a shorter answer shows the end without another read.
    content = os.read(descriptor, size + 1)
    while 0 < len(content) < size and (part := os.read(descriptor, size + 1 - len(content))):
        content += part
    if len(content) != size:
        raise not_its_size(size)
    return content


def _sums_at(path: str, limit: int | None, before: int = 0) -> tuple[tuple[str, str], int]:
    """Return the checksums of a file's text and of its raw bytes, and its size.

    `before`: how many bytes of other files have been hashed; it helps to choose the implementation.
    """
    descriptor, size = opened(path, limit)
    try:
        if size > LARGE:
            from entrypoint.migration.script.sums import sums_of

            if (found := sums_of(descriptor, size)) is None:
                raise not_its_size(size)
            return found, size
        content = _content(descriptor, size)
    finally:
        os.close(descriptor)
    return sums(content, before + size), size


def checksum(content: bytes) -> str:
    """Return the SHA-256 of the text, without a byte-order mark and with LF line endings.

    For most files, `sha256sum` prints the same.
    """
    return sha256_for(len(content))(_normalised(content)).hexdigest()


def sums(content: bytes, size: int = 0) -> tuple[str, str]:
    """Return the checksums of the text and of the raw bytes, computed in the fastest way for `size` bytes in total."""
    sha256 = sha256_for(size or len(content))
    raw, text = sha256(content).hexdigest(), _normalised(content)
    return raw if text is content else sha256(text).hexdigest(), raw


def sha256_for(size: int) -> Sha256:
    """Return the fastest SHA-256 for this many bytes, including the time to load it.

    `hashlib` loads OpenSSL for it, which adds 3 ms to a start (docs/startup-cost.md). Python's own implementation,
    which `hashlib` falls back to without OpenSSL, needs no loading.
    """
    if size <= _MUCH_TO_HASH:
        try:
            builtin: Sha256 = __import__(_BUILTIN_HASH).sha256
        except ImportError:
            pass
        else:
            return builtin
    from hashlib import sha256

    return sha256


def decode(content: bytes) -> str:
    """Return a migration's text as it is sent to the server. Raises UnicodeDecodeError if it is not UTF-8."""
    return _normalised(content).decode("utf-8")


def _normalised(content: bytes) -> bytes:
    content = content.removeprefix(BYTE_ORDER_MARK)
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in content else content


def number_of(name: str) -> int | None:
    """Return the number in a file name of the form NNN_description.sql; None for any other name."""
    digits, _, rest = name.partition("_")
    description = rest.removesuffix(_SUFFIX)
    if not _is_number(digits) or description in ("", rest) or description.strip(OF_A_DESCRIPTION):
        return None
    return int(digits)


def _is_number(digits: str) -> bool:
    """Tell whether these are digits, of a length that is allowed. Leading zeros count."""
    return FEWEST_DIGITS <= len(digits) <= MOST_DIGITS and digits.isascii() and digits.isdecimal()


def is_timestamp(number: int) -> bool:
    """Tell whether a number is taken for a date or time: it has at least eight digits, not counting leading zeros."""
    return number >= _FIRST_TIMESTAMP


def slug(words: str) -> str:
    """Return `words` in the form of a file name: lowercase letters, digits and underscores."""
    import re

    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", words)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def better_name(name: str) -> str:
    """Return a correct name for a badly named file."""
    import re

    stem = name[: -len(_SUFFIX)]
    match = re.fullmatch(r"(\d+)[\W_]*(.*)", stem, re.ASCII | re.DOTALL)
    number, words = (match[1], match[2]) if match else ("NNN", stem)
    return f"{number.zfill(3) if match else number}_{slug(words) or 'description'}.sql"


def is_sql(name: str) -> bool:
    """Tell whether a file with this name is read, as a migration or as one with a bad name."""
    return name.lower().endswith(_SUFFIX) and not name.startswith(".")


def _bad_names(names: Iterable[str]) -> list[FileFault]:
    return [FileFault((name,), "name", _fault_of_name(name)) for name in names]


def _fault_of_name(name: str) -> str:
    """Return what is wrong with a bad name, and what to do. Never suggests a migration's name for a down migration."""
    digits = len(name) - len(name.lstrip(_DIGITS))
    if digits > MOST_DIGITS:
        return f"the number has {digits} digits; {MOST_DIGITS} are the most, leading zeros included"
    from entrypoint.migration.script.foreign import import_command, of_another_tool

    foreign = of_another_tool(name)
    if foreign is None:
        return f"must be NNN_description.sql, for example {better_name(name)}"
    whose = f" of {foreign.tool}'s" if foreign.tool else ""
    importing = import_command(foreign.tool)
    takes = f"; to import a whole directory: {importing}" if importing else ""
    ours = f"{foreign.digits.zfill(3) if foreign.digits else 'NNN'}_{slug(foreign.words) or 'description'}.sql"
    if foreign.kind == "perhaps down":
        return f"must be rollback/{ours} if it is a down migration, or else NNN_description.sql"
    if foreign.kind == "down":
        return f"is a down migration{whose}: name it rollback/{ours}{takes}"
    if foreign.kind == "repeatable":
        name = slug(foreign.words) or "name"
        return f"is a repeatable migration{whose}: name it {REPEATABLES}/{name}{_SUFFIX}{takes}"
    return f"is a migration{whose}: name it {ours}{takes}" if whose else f"must be named {ours}"


def _doubled_numbers(numbers: Mapping[str, int | None]) -> list[FileFault]:
    by_number: dict[int, list[str]] = {}
    for name, number in numbers.items():
        if number is not None:
            by_number.setdefault(number, []).append(name)
    return [
        FileFault(tuple(same), "number", f"{len(same)} files have the number {number}; give each a different one")
        for number, same in sorted(by_number.items())
        if len(same) > 1
    ]


def _warnings(path: str, files: list[MigrationFile]) -> list[str]:
    if not files:
        return [f"there are no migrations in {path!r}{_subdirectories_of_another_tool(path)}"]
    missing = [
        f"{before.number + 1:03d}"
        if after.number - before.number == 2
        else f"{before.number + 1:03d} to {after.number - 1:03d}"
        for before, after in pairwise(files)
        # Between timestamps, and before the first of them, gaps are normal. This comes first: it decides most cases.
        if after.number < _FIRST_TIMESTAMP and after.number - before.number > 1
    ]
    return [f"gap in the numbers: no migration {', '.join(missing)}"] if missing else []


def _subdirectories_of_another_tool(path: str) -> str:
    """Return a hint, as the end of a sentence, if another tool's migrations are in subdirectories of this one."""
    from entrypoint.migration.script.foreign import import_command, of_directories

    tool = of_directories(path)
    return f"; to import the {tool} migrations in its subdirectories: {import_command(tool, path)}" if tool else ""
