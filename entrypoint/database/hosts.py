"""Expand an address into attempts to connect: one for each host, and for each of a host's IP addresses.

libpq can do this itself, but its non-blocking functions leave the timeout to the caller, and then one timeout would
have to serve for all attempts.
"""

from __future__ import annotations

import _socket  # `socket` would also import enumerations and selectors.
import os

from entrypoint.database.answers import NotConnected
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Parameters = Mapping[str, str]

_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
}


def attempts(parameters: Parameters) -> list[dict[str, str]]:
    """Return the parameters for each attempt, in order. This resolves host names, which may take long.

    Raises NotConnected if no host has an address.
    """
    found: list[dict[str, str]] = []
    unknown: list[str] = []
    for one in split(parameters, os.environ):
        try:
            found += _resolved(one, os.environ)
        except OSError as error:
            unknown.append(f"failed to resolve host '{_get(one, 'host', os.environ)}': {foreign(str(error))}")
    if not found:
        raise NotConnected("\n".join(unknown))
    if len(found) > 1 and _get(parameters, "load_balance_hosts", os.environ) == "random":
        from random import shuffle

        shuffle(found)
    return preferring(found, _get(parameters, "target_session_attrs", os.environ))


def split(parameters: Parameters, environ: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the parameters for each host in a list. If the lists do not match, leave the error to libpq."""
    lists = {name: _get(parameters, name, environ).split(",") for name in ("host", "hostaddr", "port")}
    count = max(len(lists["host"]), len(lists["hostaddr"]))
    given = {name: values for name, values in lists.items() if values != [""]}
    if given.get("port") and len(given["port"]) == 1:
        given["port"] *= count
    if count == 1 or any(len(values) != count for values in given.values()):
        return [dict(parameters)]
    return [{**parameters, **{name: values[index] for name, values in given.items()}} for index in range(count)]


def preferring(found: list[dict[str, str]], kind: str) -> list[dict[str, str]]:
    """Expand `prefer-standby` into attempts for a standby, followed by attempts for any server."""
    if len(found) == 1 or kind != "prefer-standby":
        return found
    return [{**one, "target_session_attrs": wanted} for wanted in ("standby", "any") for one in found]


def _resolved(parameters: Parameters, environ: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the parameters for each IP address of a host. Raises OSError if it has none."""
    host = _get(parameters, "host", environ)
    # Neither a socket nor an IP address.
    named = host and host[0] not in "/@" and ":" not in host and not host.replace(".", "").isdecimal()
    if not named or _get(parameters, "hostaddr", environ):
        return [dict(parameters)]
    # As bytes, like in libpq. For a str, Python would import the module that encodes it.
    name = host.encode(errors="surrogateescape")
    answers = _socket.getaddrinfo(name, None, 0, _socket.SOCK_STREAM, _socket.IPPROTO_TCP)
    return [{**parameters, "hostaddr": str(answer[4][0])} for answer in answers]


def _get(parameters: Parameters, name: str, environ: Mapping[str, str]) -> str:
    return parameters[name] if name in parameters else environ.get(_VARIABLES[name], "")
