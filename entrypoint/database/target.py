"""The address and user to connect with, checked."""

from __future__ import annotations

import contextlib
import os

from entrypoint.database.address import (
    describe_target,
    has_bare_at_sign,
    is_libpqs_own,
    is_plausible,
    of_this_program,
    wants_the_systems_certificates,
)
from entrypoint.database.answers import StatementError
from entrypoint.database.binding import binding
from entrypoint.database.classify import CHECK_LOGIN, Cause
from entrypoint.database.login import Failure, attempt, failure_of
from entrypoint.database.pq import PqError
from entrypoint.database.quoting import DEFAULT_PATH, conninfo
from entrypoint.deadline import Deadline
from entrypoint.errors import ConfigurationError, ConnectionLostError
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign, mask_quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from entrypoint.database.misspelt import Misspelt
    from entrypoint.database.session import Session
    from entrypoint.database.translation import Translation
    from entrypoint.records import Address


class Target(NamedTuple):
    """What to connect to, and as whom. All connections of the process use the same one."""

    conninfo: str
    token: str
    """Identifies this process's connections in `pg_stat_activity`, and its row in the lock's table."""
    configured: bool
    """Whether an address is configured; otherwise libpq's defaults are used."""

    path: str = ""
    """The search_path that another driver's address sets."""
    renewed: Address | None = None
    """The address, if it or its password has to be read again for each connection."""
    variable: str = ""
    """The variable that the address came from; empty if none was set."""

    def remedy(self, text: str) -> str:
        """Return a cause's remedy, with the variable that was actually used instead of DATABASE_URL."""
        if self.renewed is not None and self.renewed.password_command and text == CHECK_LOGIN:
            return "Check the user, and that DATABASE_PASSWORD_COMMAND prints this user's password, not an expired one."
        if self.variable in ("", "DATABASE_URL"):
            return text
        named = f"the file that {self.variable} names" if self.variable.endswith("_FILE") else self.variable
        return text.replace(" DATABASE_URL", f" {named}")

    def connect(self, timeout: float) -> Session:
        """Try once to connect, for `timeout` seconds. Raises Failure, also if a pooler dropped the search_path."""
        deadline = Deadline(timeout)
        now = self if self.renewed is None else self._now(self.renewed, deadline)
        session = attempt(now.conninfo, deadline)
        if now.path:
            try:
                _compare(session, now.path, deadline)
            except BaseException:
                session.close()
                raise
        return session

    @property
    def new_password(self) -> Callable[[Deadline], str] | None:
        """A function that returns a new password for another program; None if there is no command for that.

        The function raises EntrypointError.
        """
        command = self.renewed.password_command if self.renewed is not None else ()
        if not command:
            return None
        from entrypoint.database import credentials

        return lambda deadline: credentials.password_for_others(command, deadline)

    def address_now(self, address: Address) -> str:
        """Return an address, read again if it comes from a file."""
        if not address.file:
            return address.conninfo
        from entrypoint.database import credentials

        return credentials.address_now(address)

    def _now(self, address: Address, deadline: Deadline) -> Target:
        """Return the target with the file's and the command's current values. Raises Failure and ConfigurationError."""
        from entrypoint.database.credentials import NoPassword, password

        now, text = self, self.address_now(address)
        if text != address.conninfo:
            with contextlib.suppress(ConfigurationError):  # The file may be half written.
                now = target(text, address.variable, self.token, noted=True)
        if address.password_command:
            try:
                secret = password(address.password_command, deadline)
            except NoPassword as fault:
                raise Failure(fault.cause, str(fault)) from None
            parameters = refuse_two_passwords(binding().parse(now.conninfo), address)
            now = now._replace(conninfo=conninfo({**parameters, "password": secret}))
        return now


def refuse_two_passwords(parameters: dict[str, str], address: Address) -> dict[str, str]:
    """Return `parameters`; raise ConfigurationError if they contain a password and there is a command for it, too."""
    if address.password_command and parameters.get("password"):
        named = address.variable or "the connection's service"
        raise ConfigurationError(
            f"{named} contains a password, and DATABASE_PASSWORD_COMMAND is set as well",
            remedy=f"Remove the password from {named}, or unset DATABASE_PASSWORD_COMMAND.",
            variable="DATABASE_PASSWORD_COMMAND",
        )
    return parameters


def _compare(session: Session, path: str, deadline: Deadline) -> None:
    """Raise Failure unless the connection's default search_path is the one that the address sets."""
    try:
        found = session.query(DEFAULT_PATH, deadline)[2][0][0]
    except (StatementError, ConnectionLostError) as error:
        raise failure_of(str(error)) from error
    if found != path:
        raise Failure(_DROPPED, "PgBouncer does so with `options` in ignore_startup_parameters")


DIRECTLY = (
    "Set MIGRATION_DATABASE_URL to the server's own address. Or leave the schema out of the address and set it for "
    "the role: ALTER ROLE … SET search_path = …"
)
_DROPPED = Cause(
    "search_path", "a pooler in between drops the search_path that the address sets", DIRECTLY, heals=False
)


def _misspelt(address: str) -> Misspelt | None:
    from entrypoint.database import drivers, misspelt

    return misspelt.read(address, frozenset(binding().defaults().keys() | drivers.PARAMETERS.keys()))


def target(address: str, variable: str, token: str, *, noted: bool = False) -> Target:
    """Check an address, and return the target. `noted`: whether its translation has been logged already.

    Raises ConfigurationError, without libpq's text if that could quote part of a password.
    """
    named = variable or "the connection's PG* variables"
    if has_bare_at_sign(address):
        raise ConfigurationError(
            f"{named} is malformed: the password contains an @ or a /",
            remedy="Percent-encode it: write @ as %40, / as %2F, % as %25.",
            variable=variable or None,
        )
    parameters, translation = _read(address, named, variable)
    if translation is not None and not noted:
        from entrypoint.database.translation import log_translation

        log_translation(translation)
    configured = bool(address) or any(os.environ.get(name) for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"))
    describe_target(parameters, os.environ)
    if wants_the_systems_certificates(parameters, os.environ):
        from entrypoint.database.roots import system_certificates

        parameters = {**parameters, **system_certificates(parameters, os.environ)}
    ours = of_this_program(parameters, token)
    whole = conninfo({name: str(value) for name, value in ours.items() if value is not None})
    path = "" if translation is None else translation.path
    return Target(whole, token, configured, path, variable=variable)


def target_of(address: Address, token: str, *, noted: bool = False) -> Target:
    """Return the target for an address from the settings, like `target`, including what has to be renewed."""
    found = target(address.conninfo, address.variable, token, noted=noted)
    if not (address.file or address.password_command):
        return found
    refuse_two_passwords(binding().parse(found.conninfo), address)
    return found._replace(renewed=address)


class _NotUtf8Error(Exception):
    """An address contains bytes that are not UTF-8."""


def _parse(address: str) -> dict[str, Any]:
    """Return libpq's parameters in an address. Raises PqError or _NotUtf8Error."""
    parameters = binding().parse(address)
    try:
        "".join(parameters.values()).encode()
    except UnicodeEncodeError:
        raise _NotUtf8Error from None
    return dict(parameters)


def _read(address: str, named: str, variable: str) -> tuple[dict[str, Any], Translation | None]:
    """Return libpq's parameters in an address, and its translation if it needed one."""
    translation, whole = None, address
    fault: PqError | _NotUtf8Error | None = None
    try:
        parameters = _parse(address)
    except (PqError, _NotUtf8Error) as error:
        parameters, fault = {}, error
    if fault or not is_libpqs_own(parameters):
        from entrypoint.database.translation import Untranslatable, translate

        try:
            translation = translate(address)
        except Untranslatable as error:
            raise ConfigurationError(f"{named} {error.fault}", remedy=error.remedy, variable=variable or None) from None
        if translation is not None:
            whole = translation.whole
            try:
                parameters, fault = translation.complete(_parse(translation.address), os.environ), None
            except (PqError, _NotUtf8Error) as error:
                fault = error
    if isinstance(fault, _NotUtf8Error):
        raise ConfigurationError(
            f"{named} is malformed: a percent-encoded character is not valid UTF-8",
            remedy="Encode its UTF-8 bytes: \N{LATIN SMALL LETTER A WITH DIAERESIS} is %C3%A4.",
            variable=variable or None,
        ) from None
    if (fault or not is_plausible(parameters)) and (reading := _misspelt(whole)):
        raise ConfigurationError(f"{named} {reading.fault}", remedy=reading.remedy, variable=variable or None)
    if fault:
        raise ConfigurationError(
            f"{named} is malformed: {foreign(mask_quoted(str(fault).strip()))}",
            remedy="It must be like postgresql://user:password@host:5432/database, with special characters "
            "percent-encoded, or like: host=… port=… user=… password=… dbname=…",
            variable=variable or None,
        )
    if not is_plausible(parameters):
        raise ConfigurationError(
            f"{named} is malformed: the host or port is not valid",
            remedy="Percent-encode special characters in the password: write @ as %40, / as %2F, ? as %3F, % as %25.",
            variable=variable or None,
        )
    return parameters, translation


def database_of(target: Target) -> str:
    """Return the name of the database that libpq will connect to, without connecting."""
    parameters, defaults = binding().parse(target.conninfo), binding().defaults()
    for name in ("dbname", "user"):  # By default, libpq uses the user's name for the database.
        if value := parameters.get(name) or defaults.get(name):
            return value.encode(errors="surrogateescape").decode(errors="replace")
    return ""
