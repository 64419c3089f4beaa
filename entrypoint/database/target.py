"""Where and as whom to connect."""

from __future__ import annotations

import os
from typing import NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from entrypoint.database.address import has_bare_at_sign, is_plausible, of_this_program
from entrypoint.database.login import attempt
from entrypoint.deadline import Deadline
from entrypoint.errors import ConfigurationError
from entrypoint.redaction import foreign, mask_quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.misspelt import Misspelt
    from entrypoint.database.session import Session


class Target(NamedTuple):
    """Where and as whom to connect; every connection of the process goes through the same one."""

    conninfo: str
    token: str
    """Tells this process's connections from others' in `pg_stat_activity`, and its row from others' in the lock."""
    configured: bool
    """Whether somebody has said where to; otherwise it is libpq's own defaults."""

    def connect(self, timeout: float) -> Session:
        """Try once to connect, for `timeout` seconds. Raises Failure."""
        return attempt(self.conninfo, Deadline(timeout))


def _misspelt(address: str) -> Misspelt | None:
    from entrypoint.database import misspelt

    understood = frozenset(option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults())
    return misspelt.read(address, understood)


def target(address: str, variable: str, token: str) -> Target:
    """Check an address before it is used.

    Raises ConfigurationError, without libpq's text where that could quote a piece of a password.
    """
    named = variable or "the connection's PG* variables"
    if has_bare_at_sign(address):
        raise ConfigurationError(
            f"{named} is malformed: there is an @ or a / in the password",
            remedy="Percent-encode it: @ is %40, / is %2F, % is %25.",
            variable=variable or None,
        )
    try:
        parameters = conninfo_to_dict(address)
    except psycopg.ProgrammingError as error:
        if reading := _misspelt(address):
            raise ConfigurationError(
                f"{named} {reading.fault}", remedy=reading.remedy, variable=variable or None
            ) from None
        raise ConfigurationError(
            f"{named} is malformed: {foreign(mask_quoted(str(error).strip()))}",
            remedy="It must be like postgresql://user:password@host:5432/database, with special characters "
            "percent-encoded, or like: host=… port=… user=… password=… dbname=…",
            variable=variable or None,
        ) from None
    if not is_plausible(parameters):
        if reading := _misspelt(address):
            raise ConfigurationError(f"{named} {reading.fault}", remedy=reading.remedy, variable=variable or None)
        raise ConfigurationError(
            f"{named} is malformed: its host or port cannot be one",
            remedy="Percent-encode the password's special characters: @ is %40, / is %2F, ? is %3F, % is %25.",
            variable=variable or None,
        )
    configured = bool(address) or any(os.environ.get(name) for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"))
    return Target(make_conninfo("", **of_this_program(parameters, token)), token, configured)


def database_of(target: Target) -> str:
    """Return the name of the database that a target leads to, as libpq will find it, without asking anybody."""
    parameters = conninfo_to_dict(target.conninfo)
    defaults = {option.keyword.decode(): option.val for option in psycopg.pq.Conninfo.get_defaults()}
    for name in ("dbname", "user"):  # libpq: the database is called like its user unless told otherwise
        if value := parameters.get(name) or (defaults.get(name) or b"").decode(errors="replace"):
            return str(value)
    return ""
