"""Translate another driver's address into one that libpq reads. Pure, except for `log_translation`.

Imported only if libpq cannot read an address as it is. What libpq understands (the user information, hosts, ports, the
database and its own parameters) stays in the text, and libpq decodes it. Other drivers' parameters are taken out of the
text, and then dropped, translated or refused: see `drivers`.

If the address shows which driver it is for, TLS is not weaker than in that driver; otherwise libpq's meaning counts.
See docs/decisions/0036-addresses-of-other-drivers.md.
"""

from __future__ import annotations

from entrypoint import logs
from entrypoint.database import drivers
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_NO_VERIFY = "no-verify"
_VERIFIED = "verify-full"
_YES = ("true", "1", "yes", "on", "t", "y", "")
_NO = ("false", "0", "no", "off", "f", "n")
_JDBC = "jdbc:postgresql:"

# libpq's names for JDBC's kinds of servers. If a primary is asked for or preferred, a migration needs a writable one.
_KINDS_OF_SERVER = {
    "any": "any",
    "primary": "read-write",
    "master": "read-write",
    "preferPrimary": "read-write",
    "secondary": "standby",
    "slave": "standby",
    "preferSecondary": "prefer-standby",
    "preferSlave": "prefer-standby",
}
_FACTORIES = "org.postgresql.ssl."
_LIBPQ_FACTORIES = ("LibPQFactory", "jdbc4.LibPQFactory")
_TRUSTING_FACTORY = "NonValidatingFactory"
_JAVAS_FACTORY = "DefaultJavaSSLFactory"
# With one of these an address is Prisma's, in which `sslcert` means `sslrootcert`.
_PRISMAS = frozenset(("schema", "sslaccept", "connection_limit", "pool_timeout", "pgbouncer"))


class Untranslatable(Exception):  # noqa: N818 - the caller turns it into an error about the variable
    """An address has a parameter that we can neither translate nor ignore."""

    def __init__(self, fault: str, remedy: str) -> None:
        """Take what is wrong, as a clause, and what to do."""
        super().__init__(fault)
        self.fault = fault
        self.remedy = remedy


class Translation(NamedTuple):
    """An address that libpq reads, and what that address could not express."""

    address: str
    whole: str
    """The same including the other driver's parameters, for messages about the rest."""
    over: dict[str, str]
    """Parameters for libpq that override those in `address`."""
    path: str
    """The search_path of our sessions, as PostgreSQL writes it; empty if the address sets none."""
    verified: bool
    """Whether to verify the certificate with the system's authorities, unless others are configured."""
    local: bool
    """Whether the default host is localhost over TCP, not a socket, as in JDBC."""
    driver: str
    """What came before ://, if that was another driver's name."""
    translated: tuple[str, ...]
    """The names of the parameters that libpq has under another name or in another form."""
    left_out: tuple[str, ...]
    """The names of the parameters that mean nothing here."""

    def complete(self, parsed: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
        """Return all of libpq's parameters: those `parsed` from `address`, and the rest.

        The search_path is added to the `options` in the address, or else to `PGOPTIONS`.
        """
        parameters = {**parsed, **self.over}
        if self.path:
            options = parsed.get("options") or environ.get("PGOPTIONS", "")
            parameters["options"] = f"{options} -csearch_path={_escaped(self.path)}".lstrip()
        if self.verified and "sslrootcert" not in parameters and not environ.get("PGSSLROOTCERT"):
            parameters["sslrootcert"] = "system"
        if self.local and not any(parameters.get(name) for name in ("host", "hostaddr", "service")):
            parameters["host"] = "localhost"
        return parameters

    @property
    def words(self) -> str:
        """What was translated, as a clause about the variable. Contains no values, as they could be secret."""
        parts = [
            f"{self.driver}:// read as postgresql://" if self.driver else "",
            f"{', '.join(self.translated)} translated" if self.translated else "",
            f"{', '.join(self.left_out)} left out" if self.left_out else "",
        ]
        return "; ".join(filter(None, parts))


def translate(address: str) -> Translation | None:
    """Translate `address` for libpq; return None if nothing in it is another driver's. Raises Untranslatable."""
    driver, reader, base, query = _split(address)
    if reader is None:
        return _of_conninfo(address) if "=" in address and "://" not in address else None
    # A superfluous & leaves an empty part.
    parts = [part for part in query.split("&") if part]
    names = [_decoded(part.partition("=")[0]) for part in parts]
    foreign = bool(driver) or any(name in drivers.PARAMETERS for name in names) or f"={_NO_VERIFY}" in query
    reading = _Reading(reader)
    kept = [
        _escaped_again(part, foreign=foreign)
        for name, part in zip(names, parts, strict=True)
        if not (foreign and reading.takes(name, _decoded(part.partition("=")[2]), alone="=" not in part))
    ]
    whole = f"postgresql://{base}?{'&'.join(parts)}" if parts else f"postgresql://{base}"
    text = f"postgresql://{base}?{'&'.join(kept)}" if kept else f"postgresql://{base}"
    rewritten = text.partition("://")[2] != address.partition("://")[2]
    return reading.translation(text, whole, driver) if foreign or rewritten else None


def log_translation(translation: Translation) -> None:
    """Log how another driver's address was translated. Call this once in a start."""
    if translation.words:
        logs.event(
            logs.DEBUG,
            "database.address",
            f"the database address is written for another driver: {translation.words}",
            translated=translation.translated,
            left_out=translation.left_out,
        )


def _of_conninfo(address: str) -> Translation | None:
    """Translate a string of names and values, which Go's drivers also accept."""
    import re

    pair = re.compile(r"\s*([^\s=]+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s\\']|\\.)(?:[^\s\\]|\\.)*|)(?:\s+|\Z)", re.DOTALL)
    reading, kept, at, foreign = _Reading(drivers.LIBPQ), [], 0, False
    while at < len(address):
        if (found := pair.match(address, at)) is None:
            return None
        name, value = found[1], found[2][1:-1] if found[2].startswith("'") else found[2]
        value = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        foreign = foreign or name in drivers.PARAMETERS or (name, value) == ("sslmode", _NO_VERIFY)
        if not reading.takes(name, value):
            kept.append(found[0].strip())
        at = found.end()
    return reading.translation(" ".join(kept), address, "") if foreign else None


def _split(address: str) -> tuple[str, str | None, str, str]:
    """Return the driver's name, whose notation the rest is in, what comes before the query, and the query."""
    if address.startswith(_JDBC):
        rest = address.removeprefix(_JDBC)
        base, _, query = (rest.removeprefix("//") if rest.startswith("//") else f"/{rest.lstrip('/')}").partition("?")
        # Without a /, libpq would take everything before an @ in the query for the user.
        return _JDBC[:-1], drivers.JDBC, base if "/" in base else f"{base}/", query
    scheme, found, rest = address.partition("://")
    if not found:
        return "", None, address, ""
    reader = drivers.SCHEMES.get(scheme)
    family, plus, name = scheme.partition("+")
    if plus and family in ("postgresql", "postgres", "postgis") and name.replace("-", "_").isidentifier():
        reader = drivers.SCHEMES.get(name) if name == "asyncpg" else drivers.SQLALCHEMY
    # As in libpq, a ? before the first @ belongs to the user information, unless a / comes before it.
    at, slash = rest.find("@"), rest.find("/")
    question = rest.find("?", at + 1 if at >= 0 and (slash < 0 or at < slash) else 0)
    base, query = (rest, "") if question < 0 else (rest[:question], rest[question + 1 :])
    return "" if scheme in ("postgresql", "postgres") else scheme, reader, base, query


def _escaped(value: str) -> str:
    """Return a value escaped for `options`."""
    return "".join(f"\\{character}" if character.isspace() or character == "\\" else character for character in value)


def _decoded(text: str) -> str:
    text = text.replace("+", " ")
    if "%" in text:
        from urllib.parse import unquote

        text = unquote(text)
    return text


def _escaped_again(part: str, *, foreign: bool) -> str:
    """Return a URL's parameter as libpq needs it. A second = has to be escaped.

    `foreign`: the address is another driver's, in which a + means a space, as in browsers. In libpq it does not.
    """
    name, equals, value = part.partition("=")
    part = f"{name}{equals}{value.replace('=', '%3D')}"
    return part.replace("+", "%20") if foreign else part


class _Reading:
    """Interprets the parameters of one address."""

    def __init__(self, reader: str) -> None:
        self._reader = reader
        self._path = ""
        self._ssl: str | None = None
        self._mode: str | None = None
        self._accept: str | None = None
        self._factory = ""
        self._sslcert = ""
        self._has_key = False
        self._hosts: list[str] = []
        self._over: dict[str, str] = {}
        self._names: list[str] = []
        self._translated: list[str] = []
        self._left_out: list[str] = []

    def translation(self, text: str, whole: str, driver: str) -> Translation:
        """Return the translation from the parameters taken so far. Raises Untranslatable."""
        self._settle_hosts()
        verified = self._settle_tls()
        return Translation(
            address=text,
            whole=whole,
            over=self._over,
            path=self._path,
            verified=verified,
            local=self._reader == drivers.JDBC,
            driver=driver,
            translated=tuple(dict.fromkeys(self._translated)),
            left_out=tuple(dict.fromkeys(self._left_out)),
        )

    def takes(self, name: str, value: str, *, alone: bool = False) -> bool:
        """Take a parameter that libpq cannot read as it is; tell whether it is one. Raises Untranslatable.

        `alone`: it has neither a value nor a =.
        """
        self._names.append(name)
        fate = drivers.PARAMETERS.get(name)
        if fate is None:
            return not alone and "\0" not in value and self._take_libpqs(name, value)
        if "\0" in value:
            raise _bad_value(name, "text without NUL bytes")
        if fate == drivers.REFUSED_ONE:
            raise _refusal(name, drivers.REFUSED[name])
        if fate == drivers.LEFT_OUT:
            self._left_out.append(name)
        elif fate == drivers.TRANSLATED:
            self._translated.append(name)
            if not self._take_libpqs(drivers.RENAMED[name], value):
                self._over[drivers.RENAMED[name]] = value
        elif fate in (drivers.NAME, drivers.PATH):
            (self._translated if value else self._left_out).append(name)
            quoted = '"' + value.replace('"', '""') + '"'
            self._path = (quoted if fate == drivers.NAME else value) if value.strip() else self._path
        else:
            self._decide(name, value)
        return True

    def _take_libpqs(self, name: str, value: str) -> bool:
        """Take a parameter that libpq knows but may read differently; tell whether it is one."""
        if name == "sslmode":
            self._mode = "require" if value == _NO_VERIFY else value
            if value == _NO_VERIFY:
                self._translated.append(name)
            return True
        if name == "host" and self._reader in (drivers.SQLALCHEMY, drivers.VERIFIES):
            self._hosts.append(value)
            return True
        if name == "sslkey":
            if value.lower().endswith((".p12", ".pfx")):
                raise _refusal(name, "is a PKCS#12 file, which libpq cannot read; convert it to PEM or DER")
            self._has_key = True
        if name == "sslcert":
            self._sslcert = value
            return True
        return False

    def _decide(self, name: str, value: str) -> None:
        """Take a parameter whose value decides what to do with it."""
        self._translated.append(name)
        if name in ("ssl", "ssl_require"):
            self._ssl = value.lower()
        elif name == "sslaccept":
            self._accept = value
        elif name == "sslfactory":
            self._factory = value.removeprefix(_FACTORIES)
        elif name == "targetServerType":
            if value not in _KINDS_OF_SERVER:
                raise _bad_value(name, f"one of: {', '.join(_KINDS_OF_SERVER)}")
            self._over["target_session_attrs"] = _KINDS_OF_SERVER[value]
        elif name == "unix_sock":
            directory, _, port = value.rpartition("/.s.PGSQL.")
            if not directory or not port.isdecimal():
                raise _bad_value(name, "the path of a socket, like /var/run/postgresql/.s.PGSQL.5432")
            self._over |= {"host": directory, "port": port}
        elif value.lower() in _NO:  # readOnly
            self._left_out.append(self._translated.pop())
        else:
            raise _refusal(name, "makes sessions read-only, and migrations need to write")

    def _settle_hosts(self) -> None:
        """Combine the hosts that SQLAlchemy lists one by one, each with its port."""
        if not self._hosts:
            return
        if len(self._hosts) == 1 and (self._hosts[0].count(":") != 1 or "/" in self._hosts[0] or "," in self._hosts[0]):
            self._over["host"] = self._hosts[0]
            return
        pairs = [
            one.rpartition(":") if one.count(":") == 1 and "/" not in one else (one, "", "") for one in self._hosts
        ]
        self._over["host"] = ",".join(host for host, _, _ in pairs)
        if any(port for _, _, port in pairs):
            self._over["port"] = ",".join(port for _, _, port in pairs)
            self._translated.append("host")

    def _settle_tls(self) -> bool:
        """Decide on sslmode and the like; tell whether to verify with the system's authorities."""
        mode, verified = self._by_factory(*self._by_ssl())
        if self._accept is not None and self._accept != "accept_invalid_certs" and mode != "disable":
            mode, verified = _VERIFIED, True
        if self._sslcert:
            prismas = self._reader == drivers.LIBPQ and not self._has_key and not _PRISMAS.isdisjoint(self._names)
            if not prismas:
                self._over["sslcert"] = self._sslcert
            elif verified:
                self._over["sslrootcert"] = self._sslcert
                self._translated.append("sslcert")
            else:  # Prisma reads it, but accepts any certificate.
                self._left_out.append("sslcert")
        if mode is not None:
            self._over["sslmode"] = mode
        return verified

    def _by_ssl(self) -> tuple[str | None, bool]:
        """Return the mode for `ssl` and `sslmode`, and whether to verify with the system's authorities."""
        if self._ssl is None or self._ssl in _NO or (self._reader == drivers.JDBC and self._mode is not None):
            return self._mode, False
        verified = False
        if self._ssl in _YES:
            verified = self._reader == drivers.VERIFIES
            asked = _VERIFIED if verified or self._reader == drivers.JDBC else "require"
        elif self._ssl == _NO_VERIFY:
            asked = "require"
        elif self._ssl in _MODES:
            asked = self._ssl
        else:
            raise _bad_value("ssl", f"true, false or one of: {', '.join(_MODES)}")
        if self._mode not in _MODES or _MODES.index(asked) > _MODES.index(self._mode):
            return (asked, verified) if self._mode is None or self._mode in _MODES else (self._mode, False)
        return self._mode, False

    def _by_factory(self, mode: str | None, verified: bool) -> tuple[str | None, bool]:  # noqa: FBT001
        """Return the same, adjusted for the Java class in `sslfactory`."""
        if not self._factory or self._factory in _LIBPQ_FACTORIES:
            return mode, verified
        if self._factory == _TRUSTING_FACTORY:
            # It accepts any certificate, like `require` in libpq. An explicit `sslmode` takes precedence.
            return ("require" if self._mode is None and self._ssl is not None else mode), verified
        if self._factory == _JAVAS_FACTORY:
            return (mode, verified) if mode in (None, "disable") else (_VERIFIED, True)
        raise _refusal("sslfactory", "is a Java class that verifies the server; use sslmode and sslrootcert")


_WITHOUT = (
    "The application can keep its DATABASE_URL: set MIGRATION_DATABASE_URL to the same address as libpq writes it, "
    "like postgresql://user:password@host:5432/database."
)


def _refusal(name: str, why: str) -> Untranslatable:
    return Untranslatable(f"has the parameter {name}, which {why}", _WITHOUT)


def _bad_value(name: str, must: str) -> Untranslatable:
    return Untranslatable(f"has an invalid value for the parameter {name}", f"It must be {must}.")
