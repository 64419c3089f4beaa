"""An address as another driver writes it, turned into one that libpq reads. Pure, but for `note`.

Imported only where libpq cannot read an address as it is. What libpq can read stays text, so that it is libpq that
decodes it: the user information, hosts, ports, the database and its own parameters. What is for another driver is taken
out of that text, and is left out, translated, or refused: see `drivers`.

Where the address shows whose it is, TLS is not made weaker than that driver would have it; where it does not, it is
libpq's reading that counts: docs/decisions/0036-addresses-of-other-drivers.md.
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

# JDBC's kinds of servers, by libpq's names for them. A migration needs one that takes writes, if any is asked for.
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
# By one of these an address is Prisma's, where `sslcert` is what `sslrootcert` is elsewhere.
_PRISMAS = frozenset(("schema", "sslaccept", "connection_limit", "pool_timeout", "pgbouncer"))


class Untranslatable(Exception):  # noqa: N818 - an answer, which the caller words for the variable
    """An address has something in it without which it would mean something else: `fault` is a clause about it."""

    def __init__(self, fault: str, remedy: str) -> None:
        """Take the clause, and what to do."""
        super().__init__(fault)
        self.fault = fault
        self.remedy = remedy


class Translation(NamedTuple):
    """An address that libpq reads, and what it could not say."""

    address: str
    whole: str
    """The same with all that is for another driver, for messages about the rest."""
    over: dict[str, str]
    """libpq's parameters that go over those in `address`."""
    path: str
    """The search_path of our sessions, as PostgreSQL writes it; empty: the address says nothing about it."""
    verified: bool
    """Whether the certificate is to be verified by the system's authorities, where nothing names others."""
    local: bool
    """Whether it is this machine that is meant where no host is named, and no socket: as JDBC has it."""
    driver: str
    """What stood before ://, if that was another driver's name."""
    translated: tuple[str, ...]
    """The parameters that have another name or form with libpq, by their names."""
    left_out: tuple[str, ...]
    """The parameters that mean nothing here."""

    def complete(self, parsed: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
        """Return libpq's parameters: what it has `parsed` of `address`, with the rest.

        An `options` in the address comes first, so that it does not hide a schema; without one, `PGOPTIONS` counts.
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
        """What has been made of it, as a clause about the variable; never a value, which could be secret."""
        parts = [
            f"{self.driver}:// read as postgresql://" if self.driver else "",
            f"{', '.join(self.translated)} translated" if self.translated else "",
            f"{', '.join(self.left_out)} left out" if self.left_out else "",
        ]
        return "; ".join(filter(None, parts))


def translate(address: str) -> Translation | None:
    """Return what libpq makes of `address`; None if nothing in it is another driver's. Raises Untranslatable."""
    driver, reader, base, query = _split(address)
    if reader is None:
        return _of_conninfo(address) if "=" in address and "://" not in address else None
    # An empty part is a & too many.
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


def note(translation: Translation) -> None:
    """Log, once for each start, what was made of an address that is another driver's."""
    if translation.words:
        logs.event(
            logs.DEBUG,
            "database.address",
            f"the database address is written for another driver: {translation.words}",
            translated=translation.translated,
            left_out=translation.left_out,
        )


def _of_conninfo(address: str) -> Translation | None:
    """Return what a string of names and values says, which Go's drivers read as well."""
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
    """Return the driver's name, who reads the rest, what is before the query, and the query."""
    if address.startswith(_JDBC):
        rest = address.removeprefix(_JDBC)
        base, _, query = (rest.removeprefix("//") if rest.startswith("//") else f"/{rest.lstrip('/')}").partition("?")
        # Without a / libpq would take all before an @ in the query for a user.
        return _JDBC[:-1], drivers.JDBC, base if "/" in base else f"{base}/", query
    scheme, found, rest = address.partition("://")
    if not found:
        return "", None, address, ""
    reader = drivers.SCHEMES.get(scheme)
    family, plus, name = scheme.partition("+")
    if plus and family in ("postgresql", "postgres", "postgis") and name.replace("-", "_").isidentifier():
        reader = drivers.SCHEMES.get(name) if name == "asyncpg" else drivers.SQLALCHEMY
    # As libpq does: a ? before the first @ belongs to the user information, unless a / comes before.
    at, slash = rest.find("@"), rest.find("/")
    question = rest.find("?", at + 1 if at >= 0 and (slash < 0 or at < slash) else 0)
    base, query = (rest, "") if question < 0 else (rest[:question], rest[question + 1 :])
    return "" if scheme in ("postgresql", "postgres") else scheme, reader, base, query


def _escaped(value: str) -> str:
    """Return a value as the server reads it in `options`."""
    return "".join(f"\\{character}" if character.isspace() or character == "\\" else character for character in value)


def _decoded(text: str) -> str:
    text = text.replace("+", " ")
    if "%" in text:
        from urllib.parse import unquote

        text = unquote(text)
    return text


def _escaped_again(part: str, *, foreign: bool) -> str:
    """Return a parameter of a URL as libpq reads it: a second = is to be escaped, and a + is no blank there.

    Other drivers take it for one, as browsers do.
    """
    name, equals, value = part.partition("=")
    part = f"{name}{equals}{value.replace('=', '%3D')}"
    return part.replace("+", "%20") if foreign else part


class _Reading:
    """Goes through the parameters of one address."""

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
        """Return what has been found. Raises Untranslatable."""
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
        """Take a parameter in if libpq cannot; tell whether that was so. Raises Untranslatable.

        `alone`: it has no value, and no =.
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
        """Take a parameter that libpq knows, too, but reads otherwise; tell whether it was one."""
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
        """Take a parameter of which the value says what becomes of it."""
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
        """Put together the hosts that SQLAlchemy has one by one, each with its port."""
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
        """Decide on sslmode and the like; tell whether the system's authorities are to verify."""
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
            else:  # Prisma looks at it, and takes any certificate nevertheless.
                self._left_out.append("sslcert")
        if mode is not None:
            self._over["sslmode"] = mode
        return verified

    def _by_ssl(self) -> tuple[str | None, bool]:
        """Return the mode that `ssl` and `sslmode` ask for, and whether that is by the system's authorities."""
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
        """Return the same where a class of Java's has a say."""
        if not self._factory or self._factory in _LIBPQ_FACTORIES:
            return mode, verified
        if self._factory == _TRUSTING_FACTORY:
            # It takes any certificate; unless `sslmode` asks for more, that is what libpq calls require.
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
