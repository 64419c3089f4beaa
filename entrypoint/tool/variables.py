"""The environment for another migration tool: the application's, with the variables for the database changed."""

from __future__ import annotations

import os
from typing import NamedTuple

from entrypoint.tool.addresses import respelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_URL = b"DATABASE_URL"
_FILES = (b"DATABASE_URL_FILE", b"MIGRATION_DATABASE_URL_FILE")
_ELSEWHERE = (b"PGHOST", b"PGHOSTADDR", b"PGSERVICE")
# Variables about encryption or the server's identity (libpq documentation, "Environment Variables").
_OF_THE_SERVER = (
    *(b"PGHOSTADDR", b"PGREQUIREPEER", b"PGREQUIRESSL", b"PGSSLNEGOTIATION", b"PGSSLCERT", b"PGSSLKEY"),
    *(b"PGSSLCERTMODE", b"PGSSLROOTCERT", b"PGSSLCRL", b"PGSSLCRLDIR", b"PGSSLSNI", b"PGSSLCOMPRESSION"),
    *(b"PGSSLMINPROTOCOLVERSION", b"PGSSLMAXPROTOCOLVERSION"),
)
CLIENT_CHECK = "client_connection_check_interval=2000"
"""With this, PostgreSQL 14 and later notice while a statement runs that the client has gone."""


class OwnConnection(NamedTuple):
    """How our own session has connected."""

    host: str
    user: str
    database: str
    password: str
    """Empty if the server asked for none."""
    issued: bool = False
    """Whether the password is only the relay's key, because passwords are issued for each connection."""


def direct(
    environ: Mapping[bytes, bytes], address: str, name: str, known: OwnConnection, endpoint: tuple[str, int]
) -> tuple[dict[bytes, bytes], str]:
    """Return the environment for a tool that connects through the relay at `endpoint`, and the address in it."""
    host, port = endpoint
    spelled = respelled(address, host, port) if address else ""
    changed = _addressed(environ, spelled)
    changed[b"PGAPPNAME"] = os.fsencode(name)
    elsewhere = [environ[variable] for variable in _ELSEWHERE if environ.get(variable)]
    # If the variables name another host, they may be for another database; leave them alone.
    if not address or not elsewhere or elsewhere == [os.fsencode(known.host)]:
        for variable in (*_OF_THE_SERVER, b"PGSERVICE"):
            changed.pop(variable, None)
        changed |= {b"PGHOST": host.encode(), b"PGPORT": str(port).encode()}
        if not changed.get(b"PGUSER"):
            changed[b"PGUSER"] = os.fsencode(known.user)
        if not changed.get(b"PGDATABASE"):
            changed[b"PGDATABASE"] = os.fsencode(known.database)
        # A passfile lists the password under the server's name, but the tool now connects to the relay.
        if known.password and (known.issued or not changed.get(b"PGPASSWORD")):
            changed[b"PGPASSWORD"] = os.fsencode(known.password)
    # Go's lib/pq requires encryption unless the address or this variable says otherwise.
    changed[b"PGSSLMODE"] = b"disable"
    # The relay refuses GSS encryption. Remove the variable instead of setting it to `disable`, as lib/pq does not
    # accept it.
    changed.pop(b"PGGSSENCMODE", None)
    return changed, spelled


def named_only(
    environ: Mapping[bytes, bytes], address: str, name: str, *, pooled: bool, checks: bool
) -> dict[bytes, bytes]:
    """Return the environment for a tool that connects directly. `checks`: whether the server knows CLIENT_CHECK."""
    changed = _addressed(environ, address)
    changed[b"PGAPPNAME"] = os.fsencode(name)
    own = changed.get(b"PGOPTIONS", b"")
    # A pooler refuses clients with options.
    if checks and not pooled and CLIENT_CHECK.partition("=")[0].encode() not in own:
        changed[b"PGOPTIONS"] = own + (b" " if own else b"") + b"-c " + CLIENT_CHECK.encode()
    return changed


def files_in(environ: Mapping[bytes, bytes]) -> tuple[bytes, ...]:
    """Return those variables that name a file with the address and are set."""
    return tuple(name for name in _FILES if environ.get(name))


def _addressed(environ: Mapping[bytes, bytes], address: str) -> dict[bytes, bytes]:
    changed = dict(environ)
    if address:
        changed[_URL] = os.fsencode(address)
        if environ.get(b"MIGRATION_DATABASE_URL"):
            changed[b"MIGRATION_DATABASE_URL"] = changed[_URL]
    return changed
