"""Credentials that change while the program runs, from DATABASE_URL_FILE and DATABASE_PASSWORD_COMMAND.

The file is read, and the command run, again for each new connection. Imported only if one of them is set.
"""

from __future__ import annotations

from entrypoint import bounded
from entrypoint.database.classify import Cause
from entrypoint.errors import ConfigurationError, DatabaseUnavailableError
from entrypoint.redaction import foreign, know_for_now, secrets_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.deadline import Deadline
    from entrypoint.records import Address

VARIABLE = "DATABASE_PASSWORD_COMMAND"
_CAUSE = Cause(
    "password_command",
    f"{VARIABLE} returned no password",
    "Run the command in this image with this environment. It must print only the password and exit with code 0. Its "
    "time counts toward DB_CONNECT_TIMEOUT_MS.",
    heals=True,
)
# Show at most this many characters from the end of the command's standard error.
_MOST_SAID = 500
# Shorter output of a failed command is a word like `error`, not a token.
_LEAST_TOKEN = 12


class NoPassword(Exception):  # noqa: N818 - becomes a Failure, one attempt's result
    """The command returned no password; the text says why."""

    cause = _CAUSE


def address_now(address: Address) -> str:
    """Return the address that is in its file now, or the last one if the file is empty or cannot be read.

    The file may be missing for a moment while it is replaced; the next attempt reads it again.
    """
    if not address.file:
        return address.conninfo
    try:
        with open(address.file, encoding="utf-8-sig") as file:
            found = file.read().strip()
    except (OSError, ValueError):
        return address.conninfo
    if found and found != address.conninfo:
        know_for_now(secrets_of(found))
    return found or address.conninfo


def password(command: tuple[str, ...], deadline: Deadline) -> str:
    """Run DATABASE_PASSWORD_COMMAND and return what it prints. Raises NoPassword and ConfigurationError."""
    try:
        ended = bounded.run(command, deadline)
    except OSError as error:
        raise ConfigurationError(
            f"{VARIABLE} cannot be run: {error.strerror or foreign(str(error))}",
            remedy="Install the program in this image, make it executable, or correct its path.",
            variable=VARIABLE,
        ) from None
    except bounded.OutOfTime:
        raise NoPassword(f"it did not finish within {deadline.budget:g} s") from None
    found, fault = read(ended.output)
    if found and (ended.code == 0 or len(found) >= _LEAST_TOKEN):
        know_for_now([found])
    if ended.code != 0:
        lines = ended.complaints.decode(errors="replace").splitlines()
        said = "; ".join(filter(None, map(str.strip, lines)))
        raise NoPassword(f"{ended.how}: {foreign(said)[-_MOST_SAID:]}" if said else ended.how)
    if fault:
        raise NoPassword(fault)
    return found


def password_for_others(command: tuple[str, ...], deadline: Deadline) -> str:
    """Return a password for another program's connection. Raises DatabaseUnavailableError and ConfigurationError."""
    try:
        return password(command, deadline)
    except NoPassword as fault:
        message = f"{_CAUSE.words} ({fault})"
        raise DatabaseUnavailableError(message, remedy=_CAUSE.remedy, cause=_CAUSE.name) from None


def read(output: bytes) -> tuple[str, str]:
    """Return the password in a command's output, stripped, and what is wrong if there is none. Pure."""
    try:
        text = output.decode().strip()
    except UnicodeDecodeError:
        return "", "its output is not valid UTF-8"
    if not text:
        return "", "it printed nothing"
    if not text.isprintable():
        return "", "it printed more than one line" if "\n" in text else "it printed control characters"
    return text, ""
