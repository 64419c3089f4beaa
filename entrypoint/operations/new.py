"""`new`: create the next migration file, and optionally its down migration."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import unicodedata
from datetime import UTC, datetime

from entrypoint import logs
from entrypoint.errors import ConfigurationError
from entrypoint.errors.operator import UsageError
from entrypoint.migration.script.files import (
    FEWEST_DIGITS,
    HIGHEST,
    MOST_DIGITS,
    ROLLBACKS,
    is_sql,
    is_timestamp,
    number_of,
    slug,
)
from entrypoint.migration.script.prepare import UNTOUCHED
from entrypoint.redaction import foreign, secrets_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# NAME_MAX on every Linux file system, in bytes; file names are ASCII here.
_LONGEST_FILE_NAME = 255
# The format that most tools with timestamps use.
_USUAL_DIGITS = 14

# Three lines, and no example, because a forgotten example would run. No date: version control knows when it was
# written, and the ledger when it was applied.
_TEMPLATE = f"""\
-- Migration {{number}}: {{title}}
-- Explain why here; the SQL shows what. The file is one transaction; do not write BEGIN and COMMIT.
{UNTOUCHED}
"""

_ROLLBACK_TEMPLATE = f"""\
-- Rollback of migration {{number}}: {{title}}
-- Undo here what {{name}} does, in reverse order. Data written to it since then is lost.
{UNTOUCHED}
"""

_AFTER_TEMPLATE = f"""\
-- entrypoint: phase = after
-- entrypoint: floor = {{name}}
-- Migration {{number}}: {{title}}
-- Runs after the rollout. From then on, an image without this file does not start (floor).
{UNTOUCHED}
"""


def new(directory: str, title: str, *, rollback: bool, timestamp: bool = False, after: bool = False) -> list[str]:
    """Write the files for a migration called `title` into `directory`, which is created if necessary.

    `timestamp`: its number is the time, whatever the other files have. `after`: it runs after the rollout. Returns the
    paths. Writes all files or none, and never overwrites one. Raises UsageError for a title that no file name can be
    made from, and ConfigurationError if the directory cannot be written to.
    """
    if not _is_text(title):
        raise UsageError(
            f"{foreign(title)!r} is not UTF-8",
            remedy='Set the terminal to UTF-8, or write the name in ASCII: entrypoint new "Add cafe table"',
        )
    if any("://" in word or secrets_of(word) for word in title.split()):
        raise UsageError(
            "The name is a database address or contains a password; nothing was written",
            remedy='Say what the migration does: entrypoint new "Add users table"',
        )
    title = " ".join(_printable(title).split())
    # If the user types a file name, only the part between the number and the suffix counts.
    title = re.sub(r"^\d+_(?=.)|(?<=.)\.sql$", "", title)
    words = slug(without_accents(title))
    if not words:
        raise UsageError(
            f"{foreign(title)!r} has no letters or digits that a file name could be made from (a to z, 0 to 9)",
            remedy='entrypoint new "Add users table"',
        )
    made = not os.path.isdir(directory)
    below = os.path.join(directory, ROLLBACKS)
    try:
        os.makedirs(below if rollback else directory, exist_ok=True)
    except OSError as error:
        raise _cannot_write(directory, error) from error
    if made:
        logs.event(logs.INFO, "files.directory_made", f"created the directory {directory!r}")
    with _alone_in(directory):
        number = next_number(os.listdir(directory), datetime.now(UTC), timestamp=timestamp)
        name = f"{number}_{words}.sql"
        if len(name) > _LONGEST_FILE_NAME:
            raise UsageError(
                f"The file's name would have {len(name)} characters; the limit is {_LONGEST_FILE_NAME}",
                remedy="Use a shorter name, and put the rest into the file.",
            )
        files = {os.path.join(directory, name): _AFTER_TEMPLATE if after else _TEMPLATE}
        if rollback:
            files[os.path.join(below, name)] = _ROLLBACK_TEMPLATE
        _write({path: template.format(number=number, title=title, name=name) for path, template in files.items()})
    return list(files)


@contextlib.contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    """Lock `directory` against other processes that do the same, so that no two use the same number."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_write(directory, error) from error
    try:
        # Some network file systems have no locks; two processes at the same moment may then use the same number.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def next_number(names: Sequence[str], now: datetime, *, timestamp: bool = False) -> str:
    """Return a number above the highest among the file `names`.

    It is the time `now`, in UTC, if `timestamp` is set or the highest number is a timestamp; else the next number.
    Badly named files count as well: their names will be corrected, and their numbers are taken. Raises UsageError if
    there is no higher number.
    """
    highest, width = 0, FEWEST_DIGITS
    for name in filter(is_sql, names):
        digits = re.match(r"[0-9]*", name)[0]  # type: ignore[index]  # it matches the empty string, too
        if digits and len(digits) <= MOST_DIGITS:
            highest = max(highest, int(digits))
            width = max(width, len(digits) if number_of(name) is not None else 0)
    if highest == HIGHEST:
        raise UsageError(f"{HIGHEST} is taken, and it is the highest number", remedy="Give that file a lower number.")
    if timestamp:
        return str(max(_time(now, _USUAL_DIGITS), highest + 1))
    if is_timestamp(highest):
        return str(max(_time(now, len(str(highest))), highest + 1))
    return f"{highest + 1:0{width}d}"


def _time(now: datetime, digits: int) -> int:
    """Return a time as a timestamp with this many digits; 0 if there is no such format."""
    seconds = int(now.timestamp())
    milliseconds = now.microsecond // 1000
    return {
        8: int(f"{now:%Y%m%d}"),
        10: seconds,
        12: int(f"{now:%Y%m%d%H%M}"),
        13: seconds * 1000 + milliseconds,
        14: int(f"{now:%Y%m%d%H%M%S}"),
        17: int(f"{now:%Y%m%d%H%M%S}{milliseconds:03d}"),
    }.get(digits, 0)


def without_accents(title: str) -> str:
    """Return `title` without accents and ligatures: é becomes e, ß becomes ss. Other letters stay as they are."""
    decomposed = unicodedata.normalize("NFKD", title.replace("ß", "ss"))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _is_text(title: str) -> bool:
    """Return whether an argument is valid UTF-8: Python keeps other bytes as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in title)


def _printable(title: str) -> str:
    """Return `title` without line endings and control characters, to be written in a comment."""
    return "".join(character if character.isprintable() else " " for character in title)


def _write(files: dict[str, str]) -> None:
    """Create all `files` (text by path), or none."""
    written = []
    try:
        for path, text in files.items():
            # "x": fail if the file exists, even if it was created just now.
            with open(path, "x", encoding="utf-8", newline="\n") as file:
                written.append(path)
                file.write(text)
    except BaseException as error:
        for path in written:
            with contextlib.suppress(OSError):
                os.unlink(path)
        if not isinstance(error, OSError):
            raise
        if isinstance(error, FileExistsError):
            raise ConfigurationError(
                f"{error.filename!r} already exists; nothing was written",
                remedy="Give the migration another name, or remove that file.",
            ) from error
        raise _cannot_write(error.filename or path, error) from error


def _cannot_write(path: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{path!r} cannot be written: {error.strerror}; nothing was written",
        remedy="Set MIGRATIONS_DIR to a directory that can be written to.",
    )
