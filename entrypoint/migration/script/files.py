"""The migration files: their names, their text, their checksums. Every fault is found before anything runs."""

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
        """What `hashlib` makes."""

        def hexdigest(self) -> str:
            """Return it as text."""

    Sha256 = Callable[[bytes], Hash]

_SUFFIX = ".sql"
_DIGITS = "0123456789"
OF_A_DESCRIPTION = "abcdefghijklmnopqrstuvwxyz0123456789_"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# So many digits fit into PostgreSQL's bigint, whatever they are.
MOST_DIGITS = 18
_FEWEST_DIGITS = 3
HIGHEST = 10**MOST_DIGITS - 1
ROLLBACKS = "rollback"
"""The folder below the migrations' in which their down migrations are."""
REPEATABLES = "repeatable"
"""The folder below the migrations' in which those are that are applied whenever they have changed."""
# Nobody counts so far: dates begin here (20261127), seconds since 1970 (1795772100) and times (20261127101500) go on.
_FIRST_TIMESTAMP = 10**7
# From here on OpenSSL's SHA-256, several times as fast, has earned what it costs to load.
_MUCH_TO_HASH = 2**20
LARGE = 2**20
"""More bytes than that are never in memory all at once, where that can be helped."""
_MADE_UP = "it is not an ordinary file, or it is being written to"
_LIMIT = "(MIGRATION_FILE_LIMIT_MB)"
_NOT_REGULAR = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_BUILTIN_HASH = "_sha2" if sys.version_info >= (3, 12) else "_sha256"


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


class Repeatable(NamedTuple):
    """A file that is applied whenever its text has changed; ordered by its name."""

    name: str
    """Without `.sql`: as `after` and `refresh` name it, and the table of what was applied."""
    path: str
    checksum: str
    raw: str
    """The checksum of the raw bytes."""

    @property
    def shown(self) -> str:
        """The file as messages name it."""
        return f"{REPEATABLES}/{self.name}{_SUFFIX}"


class FileFault(NamedTuple):
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
    faults: tuple[FileFault, ...]
    """What is wrong with the names; the contents are looked at when a file is pending."""
    limit: int | None
    """How many bytes a file in it may have."""
    repeatables: tuple[Repeatable, ...] = ()
    """The files in repeatable/, in the order of their names."""

    @property
    def newest(self) -> int:
        """The highest number among the files; 0 if there are none."""
        return max((file.number for file in self.files), default=0)


def load_directory(path: str, limit: int | None = None, *, repeating: bool = True) -> Directory:
    """Read the names and checksums of all migrations in `path`, of which none may have more than `limit` bytes.

    What does not end in `.sql`, and what begins with a dot, is not looked at. An empty `path` is no directory at all,
    where another tool has all migrations. `repeating`: whether the files in repeatable/ are read. Raises
    ConfigurationError if there is no such directory.
    """
    if not path:
        return Directory(path, (), (), (), limit)
    try:
        listed = os.listdir(path)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read the migrations directory {path!r}: {error.strerror}",
            remedy="Set MIGRATIONS_DIR to the image's migrations directory, or set AUTO_MIGRATE=false if there are "
            "no migrations.",
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
    """Return the repeatable files of a directory of migrations, in the order of their names, and what is wrong."""
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
    """Return the content of a regular file of at most `limit` bytes, if there is one. Never waits.

    Raises OSError, also for what is no regular file: a pipe would keep us waiting for whoever writes into it, and
    /dev/zero has no end.
    """
    descriptor, size = opened(path, limit)
    try:
        return _content(descriptor, size)
    finally:
        os.close(descriptor)


def opened(path: str, limit: int | None = None) -> tuple[int, int]:
    """Open a regular file of at most `limit` bytes, if there is one; return its descriptor, and its size in bytes.

    Never waits. Raises OSError as `read_bytes` does. Whoever calls closes the descriptor.
    """
    # O_NONBLOCK: else to open a pipe would be to wait already.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return descriptor, _size(os.fstat(descriptor), limit)
    except BaseException:
        os.close(descriptor)
        raise


def _size(found: os.stat_result, limit: int | None) -> int:
    """Return the size of a regular file, in bytes. Raises OSError if it is none, or larger than the limit."""
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for is_one, words in _NOT_REGULAR if is_one(found.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"it is not a regular file but {kind}")
    if limit is not None and found.st_size > limit:
        raise OSError(errno.EFBIG, f"it has {found.st_size >> 20} MB, and the limit is {limit >> 20} MB {_LIMIT}")
    return found.st_size


def not_its_size(size: int) -> OSError:
    """Return the error for a file that has more bytes, or fewer, than the `size` that it had when it was opened."""
    # As in /proc and /sys, where contents are made up while they are read, perhaps of secrets.
    return OSError(errno.EINVAL, f"its content does not match its size, {size} bytes: {_MADE_UP}")


def _content(descriptor: int, size: int) -> bytes:
    """Return all of a file that has been opened."""
    # One more than it has, so that the end is seen without another look.
    content = os.read(descriptor, size + 1)
    while 0 < len(content) < size and (part := os.read(descriptor, size + 1 - len(content))):
        content += part
    if len(content) != size:
        raise not_its_size(size)
    return content


def _sums_at(path: str, limit: int | None, before: int = 0) -> tuple[tuple[str, str], int]:
    """Return the checksums of a file's text and of its raw bytes, and its size.

    `before`: how many bytes of others have been read.
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
    """Return the SHA-256 of the text: no byte-order mark, LF line ends. `sha256sum` says the same of most files."""
    return sha256_for(len(content))(_normalised(content)).hexdigest()


def sums(content: bytes, size: int = 0) -> tuple[str, str]:
    """Return the checksums of the text and of the raw bytes, as they are best had where `size` bytes are to be read."""
    sha256 = sha256_for(size or len(content))
    raw, text = sha256(content).hexdigest(), _normalised(content)
    return raw if text is content else sha256(text).hexdigest(), raw


def sha256_for(size: int) -> Sha256:
    """Return SHA-256 as it is best had for so many bytes.

    `hashlib` loads OpenSSL for it, which takes 3 ms of a start (docs/startup-cost.md). What it falls back to itself,
    where there is no OpenSSL, is there at once.
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
    """Return the text of a migration as it is sent. Raises UnicodeDecodeError for what is not UTF-8."""
    return _normalised(content).decode("utf-8")


def _normalised(content: bytes) -> bytes:
    content = content.removeprefix(BYTE_ORDER_MARK)
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in content else content


def number_of(name: str) -> int | None:
    """Return the number of a well-formed file name, NNN_description.sql, or None."""
    digits, _, rest = name.partition("_")
    description = rest.removesuffix(_SUFFIX)
    if not _is_number(digits) or description in ("", rest) or description.strip(OF_A_DESCRIPTION):
        return None
    return int(digits)


def _is_number(digits: str) -> bool:
    """Tell whether there are as many digits as a number has, its leading zeros among them."""
    return _FEWEST_DIGITS <= len(digits) <= MOST_DIGITS and digits.isascii() and digits.isdecimal()


def is_timestamp(number: int) -> bool:
    """Tell whether a number is taken for a date or a time: it has eight digits or more, leading zeros not counted."""
    return number >= _FIRST_TIMESTAMP


def slug(words: str) -> str:
    """Return `words` as a file name spells them: lower case, digits and underscores."""
    import re

    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", words)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def better_name(name: str) -> str:
    """Return what a badly named file should be called."""
    import re

    stem = name[: -len(_SUFFIX)]
    match = re.fullmatch(r"(\d+)[\W_]*(.*)", stem, re.ASCII | re.DOTALL)
    number, words = (match[1], match[2]) if match else ("NNN", stem)
    return f"{number.zfill(3) if match else number}_{slug(words) or 'description'}.sql"


def is_sql(name: str) -> bool:
    """Tell whether a file of this name is looked at, as a migration or as a badly named one."""
    return name.lower().endswith(_SUFFIX) and not name.startswith(".")


def _bad_names(names: Iterable[str]) -> list[FileFault]:
    return [FileFault((name,), "name", _fault_of_name(name)) for name in names]


def _fault_of_name(name: str) -> str:
    """Return what is wrong with a bad name, and what to do: no way back is to become a migration by a better name."""
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
        # Between timestamps, and before the first of them, no number is missing. Asked first, as it settles most.
        if after.number < _FIRST_TIMESTAMP and after.number - before.number > 1
    ]
    return [f"gap in the numbers: no migration {', '.join(missing)}"] if missing else []


def _subdirectories_of_another_tool(path: str) -> str:
    """Return, as the end of a sentence, whose migrations are in directories of their own below this one."""
    from entrypoint.migration.script.foreign import import_command, of_directories

    tool = of_directories(path)
    return f"; to import the {tool} migrations in its subdirectories: {import_command(tool, path)}" if tool else ""
