"""The settings of the status service. A start does not import this."""

from __future__ import annotations

from entrypoint.records import NamedTuple
from entrypoint.settings import Reader, Settings, is_address, read_log_settings, settings_of, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class ServiceSettings(NamedTuple):
    """Where the status service listens, and who may use it."""

    host: str
    port: int
    tokens: tuple[str, ...]
    """Each of them grants access. If there are none, anybody on this machine has access."""
    public_badge: bool


def read_service_settings(environ: Mapping[str, str]) -> tuple[Settings, ServiceSettings]:
    """Read what `serve` needs. Raises ConfigurationError, with every error in its field `faults`."""
    reader = Reader(environ)
    settings = settings_of(reader, auto_migrate=True)
    service = ServiceSettings(
        host=reader.text("STATUS_HOST") or "127.0.0.1",
        port=reader.port("STATUS_PORT") or 3001,
        tokens=_tokens(reader, "STATUS_TOKEN"),
        public_badge=reader.yes_or_no("STATUS_PUBLIC_BADGE", default=False),
    )
    if not reader.faults and not service.tokens and not _is_loopback(service.host):
        reader.faults.append(
            f"STATUS_HOST is {shown(service.host)}, which other machines can reach, and no token is set; set "
            "STATUS_TOKEN or STATUS_TOKEN_FILE, or leave STATUS_HOST at 127.0.0.1"
        )
    reader.faults += read_log_settings(environ, terminal=False)[1]
    reader.raise_faults()
    return settings, service


def _tokens(reader: Reader, name: str) -> tuple[str, ...]:
    """Return the tokens that are set, directly or by file, one per line. Errors never quote them."""
    direct, file = reader.text(name), reader.text(f"{name}_FILE")
    if direct and file:
        reader.faults.append(f"{name} and {name}_FILE are both set; set only one")
    elif file and is_address(file):
        reader.blame(f"{name}_FILE is a database address; set it to the path of a file with one token per line")
    elif file:
        name = f"{name}_FILE"
        direct = reader.from_file(name, file, "one token per line")
    found = tuple(dict.fromkeys(filter(None, map(str.strip, (direct or "").splitlines()))))
    for number, token in enumerate(found, start=1):
        if not all("!" <= character <= "~" for character in token):
            reader.faults.append(
                f"{name}: token {number} contains a character that an Authorization header cannot carry; use visible "
                "ASCII characters only, such as the output of: openssl rand -hex 32"
            )
    return found


def _is_loopback(host: str) -> bool:
    """Tell whether only this machine (or pod) can reach a listener on `host`."""
    from ipaddress import ip_address

    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # It is another name.
        return False
