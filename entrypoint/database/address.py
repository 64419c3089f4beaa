"""The address and user to connect with, as libpq's parameters: everything that can be decided without connecting."""

from __future__ import annotations

import os

from entrypoint import logs, signals
from entrypoint.redaction import named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

OURS = "entrypoint:"
"""The beginning of our sessions' application_name; the process's token follows."""

# A link that dies silently, for example because a router forgets it, is noticed after 25 s.
_KEEPALIVES = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"}

# The parameters that are used to look up a host, or are shown.
_WHERETO = ("host", "hostaddr", "port", "dbname", "user")

_PORT = "5432"
# libpq's minimum (fe-connect.c); it raises a smaller connect_timeout to this.
_LEAST_TIMEOUT = 2


def has_bare_at_sign(address: str) -> bool:
    """Tell whether a URL has an unescaped @ where libpq looks for the hosts or the database.

    libpq ends the user information at the first @ or / (fe-connect.c, conninfo_uri_parse_options); a ? does not end it.
    It would take the rest of a badly escaped password for a host name, and show it in its error message.
    """
    scheme, is_url, rest = address.partition("://")
    if not is_url or "@" not in rest:
        return False
    if scheme.startswith("jdbc:"):
        # In JDBC the first ? ends the hosts, even without a / before it; `translation` adds one for libpq.
        hosts, question, query = rest.partition("?")
        rest = f"{hosts}{'' if '/' in hosts else '/'}{question}{query}"
    userinfo, _, remainder = rest.partition("@")
    if "/" in userinfo:
        # There is no user information: the @ is in the query, or in a password.
        return "@" in rest.partition("?")[0]
    if "password=" in userinfo.partition("?")[2].lower():
        return True
    hosts, _, query = remainder.partition("?")
    if "@" in hosts:
        return True
    return ":" in userinfo and any(
        "@" in value and name in _WHERETO for name, _, value in (part.partition("=") for part in query.split("&"))
    )


def is_plausible(parameters: Mapping[str, object]) -> bool:
    """Tell whether host and port are plausible, and not pieces of a password."""
    ports = str(parameters.get("port") or "").split(",")
    # A host that begins with an @ is an abstract socket.
    hosts = str(parameters.get("host") or "").split(",")
    return all(not port or port.isdecimal() for port in ports) and not any(
        "@" in host[1:] or (host[:1] not in "/@" and any(sign in host for sign in ("${", "$(", "{{", ";")))
        for host in hosts
    )


def is_libpqs_own(parameters: Mapping[str, object]) -> bool:
    """Tell whether libpq will accept the values that it has parsed from an address.

    node-postgres has an additional `sslmode`, and libpq checks the value only when it connects.
    """
    return parameters.get("sslmode") != "no-verify"


def wants_the_systems_certificates(parameters: Mapping[str, object], environ: Mapping[str, str]) -> bool:
    """Tell whether libpq should use the system's certificates; `roots` knows where they are."""
    return (parameters.get("sslrootcert") or environ.get("PGSSLROOTCERT")) == "system"


def of_this_program(parameters: Mapping[str, str | int | None], token: str) -> dict[str, str | int | None]:
    """Add to `parameters` what all our connections have. `token` distinguishes this process from others."""
    return {
        **_KEEPALIVES,
        **parameters,
        # Migrations cannot run in a replication session.
        **({"replication": ""} if "replication" in parameters else {}),
        "application_name": f"{OURS}{token}",
        "client_encoding": "utf8",
    }


def describe_target(parameters: Mapping[str, object], environ: Mapping[str, str]) -> None:
    """Set the log's fields for the server, database and user, as far as they are known before connecting."""

    def get(name: str, variable: str) -> str:
        return str(parameters.get(name) or environ.get(variable) or "")

    user = get("user", "PGUSER")
    describe_server(
        get("host", "PGHOST") or get("hostaddr", "PGHOSTADDR"),
        get("port", "PGPORT"),
        get("dbname", "PGDATABASE") or user,
        user,
    )


def describe_server(host: str, port: str, database: str, user: str) -> None:
    """Set the log's fields for the server, database and user. `host` and `port` may be lists."""
    hosts, ports = host.split(","), (port or _PORT).split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    server = ",".join(f"[{one}]:{at}" if ":" in one else f"{one}:{at}" for one, at in zip(hosts, ports, strict=False))
    logs.describe(server=host and named(server, "/:,[]"), database=named(database), user=named(user))


def timeout_for_each_host(parameters: Mapping[str, object], attempts: int, seconds: float) -> int:
    """Return libpq's `connect_timeout` (whole seconds, for each host) so that all `attempts` fit into `seconds`."""
    each = max(_LEAST_TIMEOUT, int(seconds / attempts))
    asked = str(parameters.get("connect_timeout") or "")
    return min(each, max(_LEAST_TIMEOUT, int(asked))) if asked.isdecimal() and int(asked) > 0 else each


def leave_out_time_zone() -> None:
    """Remove PGTZ from our environment.

    libpq would make it the session's default time zone, and hide the server's own, which the earlier system's times
    are in. The application still gets PGTZ. As a library we do not change the environment; there, `survey` refuses PGTZ
    if it matters.
    """
    if signals.installed():
        os.environ.pop("PGTZ", None)
