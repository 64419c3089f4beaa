"""Where and as whom to connect, as libpq's parameters: what can be told and decided without connecting."""

from __future__ import annotations

import os

from entrypoint import logs, signals
from entrypoint.redaction import named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

OURS = "entrypoint:"
"""How the names of our sessions begin; after it comes the token of the process."""

# A link that has died without a word, as when a router forgets it, is found out in 25 s.
_KEEPALIVES = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"}

# What leads to a host that is asked for, or is shown.
_WHERETO = ("host", "hostaddr", "port", "dbname", "user")

_PORT = "5432"
# libpq's own least (fe-connect.c): a smaller connect_timeout is taken for this.
_LEAST_TIMEOUT = 2


def has_bare_at_sign(address: str) -> bool:
    """Tell whether a URL has an @ left where libpq looks for hosts and database.

    libpq ends the user information at the first @ or / (fe-connect.c, conninfo_uri_parse_options), whatever comes
    before: a ? does not end it. It would take the rest of a badly escaped password for a host name, and say so.
    """
    scheme, is_url, rest = address.partition("://")
    if not is_url or "@" not in rest:
        return False
    if scheme.startswith("jdbc:"):
        # The first ? ends the hosts there, also where no / comes before; `translation` puts one in for libpq.
        hosts, question, query = rest.partition("?")
        rest = f"{hosts}{'' if '/' in hosts else '/'}{question}{query}"
    userinfo, _, remainder = rest.partition("@")
    if "/" in userinfo:
        # No user information, then: the @ is in the query, or in a password.
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
    """Tell whether host and port could be what they are said to be, and not pieces of a password."""
    ports = str(parameters.get("port") or "").split(",")
    # A name that begins with an @ is that of an abstract socket.
    hosts = str(parameters.get("host") or "").split(",")
    return all(not port or port.isdecimal() for port in ports) and not any(
        "@" in host[1:] or (host[:1] not in "/@" and any(sign in host for sign in ("${", "$(", "{{", ";")))
        for host in hosts
    )


def is_libpqs_own(parameters: Mapping[str, object]) -> bool:
    """Tell whether what libpq has read of an address means to libpq what it means to whoever wrote it.

    node-postgres has one more `sslmode`, and libpq looks at its value only when it connects.
    """
    return parameters.get("sslmode") != "no-verify"


def wants_the_systems_certificates(parameters: Mapping[str, object], environ: Mapping[str, str]) -> bool:
    """Tell whether libpq is to trust whom the system trusts; `roots` knows where it has their certificates."""
    return (parameters.get("sslrootcert") or environ.get("PGSSLROOTCERT")) == "system"


def of_this_program(parameters: Mapping[str, str | int | None], token: str) -> dict[str, str | int | None]:
    """Return `parameters` with what every connection of this program has; `token` tells its process from others."""
    return {
        **_KEEPALIVES,
        **parameters,
        # In a session for replication no migration can run.
        **({"replication": ""} if "replication" in parameters else {}),
        "application_name": f"{OURS}{token}",
        "client_encoding": "utf8",
    }


def describe_target(parameters: Mapping[str, object], environ: Mapping[str, str]) -> None:
    """Have the log say where these parameters lead, as far as that can be told before libpq has connected."""

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
    """Have the log say which database it is about, and as whom; of a list of hosts, all."""
    hosts, ports = host.split(","), (port or _PORT).split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    server = ",".join(f"[{one}]:{at}" if ":" in one else f"{one}:{at}" for one, at in zip(hosts, ports, strict=False))
    logs.describe(server=host and named(server, "/:,[]"), database=named(database), user=named(user))


def timeout_for_each_host(parameters: Mapping[str, object], attempts: int, seconds: float) -> int:
    """Return libpq's `connect_timeout` (whole seconds, for each host) so that each of the `attempts` has its turn."""
    each = max(_LEAST_TIMEOUT, int(seconds / attempts))
    asked = str(parameters.get("connect_timeout") or "")
    return min(each, max(_LEAST_TIMEOUT, int(asked))) if asked.isdecimal() and int(asked) > 0 else each


def leave_out_time_zone() -> None:
    """Forget PGTZ.

    libpq would make it the session's time zone, and then the server's own, which the earlier system's times are in,
    could not be learnt any more. The application gets its environment as it was. A library changes no environment:
    `survey` refuses PGTZ where it matters.
    """
    if signals.installed():
        os.environ.pop("PGTZ", None)
