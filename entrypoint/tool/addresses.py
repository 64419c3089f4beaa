"""Change an address so that it leads to the relay, without encryption, and leave the rest as it was written.

Each tool parses it in its own way (SQLAlchemy's scheme, Prisma's parameters, JDBC), so nothing else may change.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

_WHERE = frozenset(("host", "hostaddr", "port"))
# Parameters about encryption or the server's identity, of all drivers; compared in lower case.
_GONE = frozenset(
    (
        *("ssl", "requiressl", "requirepeer", "gssencmode"),
        *("sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslcrldir", "sslsni", "sslnegotiation"),
        *("sslcertmode", "sslcompression", "ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("sslaccept", "sslidentity", "sslfactory", "sslfactoryarg", "sslhostnameverifier", "sslpasswordcallback"),
    )
)
_MODE = "sslmode"
# A service file may ask for encryption; a parameter in the address itself takes precedence.
_SERVICE = "service"
# A name, and a value with or without quotation marks (libpq documentation, "Keyword/Value Connection Strings").
_PAIR = re.compile(r"\s*([^\s=]+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)*)", re.DOTALL)


def respelled(address: str, host: str, port: int) -> str:
    """Return `address` with another host and port, and without encryption."""
    scheme, is_url, rest = address.partition("://")
    if is_url:
        return f"{scheme}://{_url(rest, host, port, jdbc=scheme.startswith('jdbc:'))}"
    if address.startswith("jdbc:"):
        # jdbc:postgresql:database, which means the local host.
        kind, name = address.rpartition(":")[::2]
        return f"{kind}://{_url('/' + name.lstrip('/'), host, port, jdbc=True)}"
    return _pairs(address, host, port)


def with_password(address: str, password: str) -> str:
    """Add a password to an address that has none. `password` must consist of letters and digits only."""
    scheme, is_url, rest = address.partition("://")
    user, at, _ = rest.partition("@")
    if is_url and at and not scheme.startswith("jdbc:") and "/" not in user and "?" not in user:
        return f"{scheme}://{user.rstrip(':')}:{password}{rest[len(user) :]}"
    if is_url or address.startswith("jdbc:"):
        return f"{address}{'&' if '?' in address else '?'}password={password}"
    return f"{address} password={password}"


def _url(rest: str, host: str, port: int, *, jdbc: bool) -> str:
    # As in libpq, a / ends the search for the user, but a ? does not.
    user = "" if jdbc else rest[: rest.find("@") + 1]
    if "/" in user:
        user = ""
    hosts, question, query = rest[len(user) :].partition("?")
    path = hosts[hosts.find("/") :] if "/" in hosts else ""
    kept = []
    names = set()
    for part in query.split("&") if question else ():
        name = unquote(part.partition("=")[0]).lower()
        names.add(name)
        if name == _MODE:
            kept.append(f"{part.partition('=')[0]}=disable")
        elif part and name not in _GONE and name not in _WHERE:
            kept.append(part)
    if _SERVICE in names and _MODE not in names:
        kept.append(f"{_MODE}=disable")
    return f"{user}{host}:{port}{path}{'?' if kept else ''}{'&'.join(kept)}"


def _pairs(address: str, host: str, port: int) -> str:
    kept = [f"host={host}", f"port={port}"]
    found = {}
    for match in _PAIR.finditer(address):
        name, value = match.groups()
        found[name.lower()] = value
        if name.lower() == _MODE:
            kept.append(f"{name}=disable")
        elif name.lower() not in _GONE and name.lower() not in _WHERE:
            kept.append(f"{name}={value}")
    if _SERVICE in found and _MODE not in found:
        kept.append(f"{_MODE}=disable")
    return " ".join(kept)
