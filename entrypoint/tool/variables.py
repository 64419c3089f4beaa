"""The environment of another migration tool: the application's own, but for the variables that lead to the database."""

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
# About encryption, and about who is at the other end: libpq documentation, "Environment Variables".
_OF_THE_SERVER = (
    *(b"PGHOSTADDR", b"PGREQUIREPEER", b"PGREQUIRESSL", b"PGSSLNEGOTIATION", b"PGSSLCERT", b"PGSSLKEY"),
    *(b"PGSSLCERTMODE", b"PGSSLROOTCERT", b"PGSSLCRL", b"PGSSLCRLDIR", b"PGSSLSNI", b"PGSSLCOMPRESSION"),
    *(b"PGSSLMINPROTOCOLVERSION", b"PGSSLMAXPROTOCOLVERSION"),
)
CLIENT_CHECK = "client_connection_check_interval=2000"
"""PostgreSQL 14: the server notices while a statement runs that its client has gone."""


class Known(NamedTuple):
    """What our own session has found out about the way."""

    host: str
    user: str
    database: str
    password: str
    """Empty if none was asked for."""
    issued: bool = False
    """Whether it only opens the relay, which logs in with passwords that are issued for each connection."""


def direct(
    environ: Mapping[bytes, bytes], address: str, name: str, known: Known, endpoint: tuple[str, int]
) -> tuple[dict[bytes, bytes], str]:
    """Return the environment of a tool that goes through the relay at `endpoint`, and the address it has there."""
    host, port = endpoint
    spelled = respelled(address, host, port) if address else ""
    changed = _addressed(environ, spelled)
    changed[b"PGAPPNAME"] = os.fsencode(name)
    elsewhere = [environ[variable] for variable in _ELSEWHERE if environ.get(variable)]
    # With an address of their own, the variables may lead to another database.
    if not address or not elsewhere or elsewhere == [os.fsencode(known.host)]:
        for variable in (*_OF_THE_SERVER, b"PGSERVICE"):
            changed.pop(variable, None)
        changed |= {b"PGHOST": host.encode(), b"PGPORT": str(port).encode()}
        if not changed.get(b"PGUSER"):
            changed[b"PGUSER"] = os.fsencode(known.user)
        if not changed.get(b"PGDATABASE"):
            changed[b"PGDATABASE"] = os.fsencode(known.database)
        # A passfile knows it by the server's name, which is no longer the tool's.
        if known.password and (known.issued or not changed.get(b"PGPASSWORD")):
            changed[b"PGPASSWORD"] = os.fsencode(known.password)
    # Where the address says nothing, Go's lib/pq insists on encryption, unless this does.
    changed[b"PGSSLMODE"] = b"disable"
    # The relay says no to it. Not `disable`: lib/pq takes no variable of this name.
    changed.pop(b"PGGSSENCMODE", None)
    return changed, spelled


def named_only(
    environ: Mapping[bytes, bytes], address: str, name: str, *, pooled: bool, checks: bool
) -> dict[bytes, bytes]:
    """Return the environment of a tool that goes to the server itself; `checks`: whether that knows CLIENT_CHECK."""
    changed = _addressed(environ, address)
    changed[b"PGAPPNAME"] = os.fsencode(name)
    own = changed.get(b"PGOPTIONS", b"")
    # A pooler refuses a client that has options.
    if checks and not pooled and CLIENT_CHECK.partition("=")[0].encode() not in own:
        changed[b"PGOPTIONS"] = own + (b" " if own else b"") + b"-c " + CLIENT_CHECK.encode()
    return changed


def files_in(environ: Mapping[bytes, bytes]) -> tuple[bytes, ...]:
    """Return the variables that name a file with the address in it."""
    return tuple(name for name in _FILES if environ.get(name))


def _addressed(environ: Mapping[bytes, bytes], address: str) -> dict[bytes, bytes]:
    changed = dict(environ)
    if address:
        changed[_URL] = os.fsencode(address)
        if environ.get(b"MIGRATION_DATABASE_URL"):
            changed[b"MIGRATION_DATABASE_URL"] = changed[_URL]
    return changed
