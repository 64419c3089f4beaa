"""The relay's connection to a server that requires TLS: like our own session's, whatever the tool itself can do."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest

from conftest import missing
from demo.postgres import HOST, PostgresMissingError, Server, workspace
from entrypoint.tool.encryption import UnusableFileError
from entrypoint.tool.upstream import Server as Upstream
from kit.databases import Database
from kit.processes import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.processes import Run

SHOW = """
import os, psycopg
with psycopg.connect(os.environ['DATABASE_URL']) as connection:
    asked = 'SELECT ssl, client_dn, current_user FROM pg_stat_ssl WHERE pid = pg_backend_pid()'
    print('shown', *connection.execute(asked).fetchone(), sep='|')
"""


class Secured(NamedTuple):
    """A server with TLS, and its files."""

    server: Server
    files: Path

    def url(self, user: str, host: str = "localhost", **parameters: str) -> str:
        """Return an address; `{files}` in a parameter stands for the certificates' folder."""
        query = "&".join(f"{name}={value.format(files=self.files)}" for name, value in parameters.items())
        return f"postgresql://{user}:secret@{host}:{self.server.port}/shop?{query}"


def openssl(folder: Path, *words: str) -> None:
    """Run openssl in a folder."""
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def certificate(folder: Path, name: str, subject: str) -> None:
    """Create NAME.key and NAME.crt in a folder, signed by the authority there."""
    openssl(folder, "req", "-new", "-nodes", "-newkey", "rsa:2048", "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN={subject}", "-addext", f"subjectAltName=DNS:{subject}")  # fmt: skip
    sign(folder, name)


def sign(folder: Path, name: str) -> None:
    """Create NAME.crt from NAME.csr."""
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "root.crt", "-CAkey", "root.key", "-CAcreateserial",
            "-copy_extensions", "copy", "-days", "2", "-out", f"{name}.crt")  # fmt: skip


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    """Yield a server that admits `plain` encrypted or not, `scram` and `certified` only encrypted."""
    hba = (
        "hostnossl all scram,certified all reject",
        "hostssl all certified all cert",
        "host all scram all scram-sha-256",
    )
    try:
        server = Server(15, hba=hba)  # the embedded ones are built without TLS
    except PostgresMissingError as error:
        missing(str(error))
    with server:
        files = server.directory / "certificates"
        files.mkdir(mode=0o755)
        openssl(files, "req", "-new", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=root",
                "-keyout", "root.key", "-out", "root.crt")  # fmt: skip
        certificate(files, "server", "localhost")
        certificate(files, "client", "certified")
        workspace().owner.take(files / "server.key")
        server.stop()
        server.settings |= {
            "ssl": "on",
            "ssl_cert_file": str(files / "server.crt"),
            "ssl_key_file": str(files / "server.key"),
            "ssl_ca_file": str(files / "root.crt"),
        }
        server.start()
        server.create_database("shop")
        database = Database(server, "shop")
        database.execute(
            "CREATE ROLE plain LOGIN; CREATE ROLE certified LOGIN; CREATE ROLE scram LOGIN PASSWORD 'secret'"
        )
        database.execute("GRANT CREATE ON DATABASE shop TO plain, certified, scram")
        yield Secured(server, files)


@pytest.fixture
def show(run_entrypoint: Callable[..., Run], secured: Secured) -> Callable[..., Run]:
    """Return a function that starts the program with a tool that shows how it was logged in."""

    def start(user: str, *, python: Path | None = None, command: str = "", **parameters: str) -> Run:
        schema = f"of_{user}_{secured.server.log_size()}"
        url = secured.url(user, **parameters)
        environ = {
            "DATABASE_URL": url,
            # What PYTHONPATH hides is hidden from us, not from the tool.
            "MIGRATION_COMMAND": command or f'env -u PYTHONPATH "{sys.executable}" -c "{SHOW}"',
            "MIGRATION_SCHEMA": schema,
            **({} if python is None else {"PYTHONPATH": str(python)}),
        }
        return run_entrypoint("run", "--", "true", env=environ)

    return start


def shown(run: Run) -> list[str]:
    """Return what the tool printed."""
    lines = [record["message"] for record in run.ok().logs("command.output")]
    assert lines, run.report()
    assert not run.logs("command.direct")
    return str(lines[-1]).split("|")[1:]


CERTIFIED = {"sslcert": "{files}/client.crt", "sslkey": "{files}/client.key"}


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    ("user", "parameters", "encrypted"),
    [
        ("plain", {}, "True"),
        ("plain", {"sslmode": "disable"}, "False"),
        ("plain", {"sslmode": "allow"}, "False"),
        ("scram", {"sslmode": "allow"}, "True"),
        ("scram", {}, "True"),
        ("scram", {"sslmode": "require"}, "True"),
        ("scram", {"sslmode": "verify-ca", "sslrootcert": "{files}/root.crt"}, "True"),
        ("scram", {"sslmode": "verify-full", "sslrootcert": "{files}/root.crt"}, "True"),
        ("scram", {"sslmode": "verify-full", "sslrootcert": "{files}/root.crt", "hostaddr": HOST}, "True"),
        ("certified", {"sslmode": "verify-full", "sslrootcert": "{files}/root.crt", **CERTIFIED}, "True"),
        ("certified", {"sslmode": "require", **CERTIFIED}, "True"),
    ],
)
def test_the_way_is_encrypted_as_our_own_is(
    show: Callable[..., Run], user: str, parameters: dict[str, str], encrypted: str
) -> None:
    ssl, dn, current = shown(show(user, **parameters))
    assert (ssl, current) == (encrypted, user)
    assert dn == ("/CN=certified" if user == "certified" else "None")


def test_a_server_that_has_become_another_one_is_not_reached(secured: Secured) -> None:
    parameters = {"sslrootcert": str(secured.files / "root.crt")}
    port = str(secured.server.port)
    # The certificate is for `localhost`.
    with Upstream(HOST, "", port, "verify-ca", tls=True, parameters=parameters).connect(10):
        pass
    with pytest.raises(ssl.SSLCertVerificationError):
        Upstream(HOST, "", port, "verify-full", tls=True, parameters=parameters).connect(10)
    other = {"sslrootcert": str(secured.files / "server.crt")}
    with pytest.raises(ssl.SSLCertVerificationError):
        Upstream("localhost", "", port, "verify-full", tls=True, parameters=other).connect(10)


# --- Like libpq, where Python would differ --------------------------------------------------------------


@contextlib.contextmanager
def configured(secured: Secured, **settings: str) -> Iterator[None]:
    """Change the server's settings for a while, without a restart."""
    database = Database(secured.server, "shop")

    def reload(*statements: str, expected: dict[str, str]) -> None:
        for statement in statements:
            database.execute(statement)
        database.execute("SELECT pg_reload_conf()")
        until(lambda: all(database.one(f"SHOW {name}") == value for name, value in expected.items()))

    before = {name: str(database.one(f"SHOW {name}")) for name in settings}
    reload(*(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in settings.items()), expected=settings)
    try:
        yield
    finally:
        reload(*(f"ALTER SYSTEM RESET {name}" for name in settings), expected=before)


def upstream(secured: Secured, host: str = "localhost", sslmode: str = "verify-full", **parameters: str) -> Upstream:
    """Return the server as the relay reaches it, at this machine's address, whatever the host name."""
    trusted = {"sslrootcert": str(secured.files / "root.crt"), **parameters}
    return Upstream(host, HOST, str(secured.server.port), sslmode, tls=True, parameters=trusted)


def libpq(secured: Secured, host: str = "localhost", **parameters: str) -> psycopg.Connection:
    """Connect as our own session does."""
    given = {"user": "certified", "sslrootcert": str(secured.files / "root.crt"), **parameters}
    pairs = {"hostaddr": HOST, "port": str(secured.server.port), "dbname": "shop", "sslmode": "verify-full", **given}
    return psycopg.connect(psycopg.conninfo.make_conninfo("", host=host, **pairs))


KEYS = {
    "PKCS#8 with a password": ("pkcs8", "-topk8", "-in", "client.key", "-passout", "pass:Numbat"),
    "RSA with a password": ("rsa", "-in", "client.key", "-aes256", "-traditional", "-passout", "pass:Numbat"),
    "PKCS#8 in DER": ("pkcs8", "-topk8", "-nocrypt", "-in", "client.key", "-outform", "DER"),
    "RSA in DER": ("rsa", "-in", "client.key", "-traditional", "-outform", "DER"),
    "EC in DER": ("ec", "-in", "curve.key", "-outform", "DER"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_may_be_whatever_libpq_reads(secured: Secured, kind: str, tmp_path: Path) -> None:
    certificate = "client.crt"
    if kind.startswith("EC"):
        certificate = "curve.crt"
        openssl(secured.files, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "curve.key")
        openssl(secured.files, "req", "-new", "-key", "curve.key", "-out", "curve.csr", "-subj", "/CN=certified")
        sign(secured.files, "curve")
    key = tmp_path / "key"
    openssl(secured.files, *KEYS[kind], "-out", str(key))
    key.chmod(0o600)
    given = {"sslcert": str(secured.files / certificate), "sslkey": str(key), "sslpassword": "Numbat"}
    libpq(secured, **given).close()
    upstream(secured, **given).connect(10).close()


@pytest.mark.parametrize(
    "kind", ["RSA with a password", pytest.param("PKCS#8 in DER", marks=pytest.mark.thorough, id="DER")]
)
def test_such_a_key_reaches_the_relay(show: Callable[..., Run], secured: Secured, kind: str) -> None:
    openssl(secured.files, *KEYS[kind], "-out", "locked.key")
    (secured.files / "locked.key").chmod(0o600)
    given = {**CERTIFIED, "sslkey": "{files}/locked.key", "sslpassword": "Numbat"}
    run = show("certified", sslmode="verify-full", sslrootcert="{files}/root.crt", **given)
    assert shown(run) == ["True", "/CN=certified", "certified"]
    assert "Numbat" not in run.stdout + run.stderr


def test_a_file_that_cannot_be_loaded_is_named_with_a_remedy(secured: Secured, tmp_path: Path) -> None:
    """Our own session has read them all, so they have changed since then, or belong to an OpenSSL engine."""
    locked, broken = tmp_path / "locked.key", tmp_path / "broken"
    openssl(secured.files, *KEYS["RSA with a password"], "-out", str(locked))
    broken.write_text("no certificate\n")
    certificate = str(secured.files / "client.crt")
    for given, parameter, remedy in (
        ({"sslcert": certificate, "sslkey": str(locked), "sslpassword": "wrong"}, "sslkey", "sslpassword"),
        ({"sslcert": certificate, "sslkey": str(broken)}, "sslkey", "openssl pkey"),
        ({"sslcert": certificate, "sslkey": str(tmp_path / "missing")}, "sslkey", "sslkey"),
        ({"sslrootcert": str(broken)}, "sslrootcert", "sslrootcert"),
        ({"sslrootcert": str(tmp_path / "missing")}, "sslrootcert", "can read"),
        ({"sslcrl": str(broken)}, "sslcrl", "sslcrl"),
    ):
        with pytest.raises(UnusableFileError) as caught:
            upstream(secured, **given).connect(10)
        assert f"{given[parameter]} ({parameter})" in str(caught.value)
        assert remedy in caught.value.remedy


def test_the_tool_is_told_the_file_and_the_remedy(show: Callable[..., Run], secured: Secured) -> None:
    """The key's file changes only after our own session and the relay's first connection were made."""
    key, spoilt = secured.files / "spoilt.key", "not a key any more"
    key.write_bytes((secured.files / "client.key").read_bytes())
    key.chmod(0o600)
    tool = secured.files / "tool.sh"
    tool.write_text(f"echo {spoilt} > {key}; psql -Atc 'SELECT 1'\n")
    given = {**CERTIFIED, "sslkey": str(key)}
    run = show("certified", command=f"sh {tool}", sslmode="verify-full", sslrootcert="{files}/root.crt", **given)
    assert run.wait() == 0
    assert run.outcome == "failed"
    told = "\n".join(record["message"] for record in run.logs("command.output"))
    assert f"the key {key} (sslkey)" in told
    assert "HINT:" in told


@pytest.mark.parametrize(
    "settings",
    [
        {"ssl_ciphers": "AES256-GCM-SHA384", "ssl_max_protocol_version": "TLSv1.2"},
        {"ssl_ciphers": "ECDHE-RSA-AES256-SHA", "ssl_max_protocol_version": "TLSv1.2"},
    ],
    ids=["the key by RSA", "SHA-1"],
)
def test_the_ciphers_are_openssls(secured: Secured, settings: dict[str, str]) -> None:
    given = {name: str(secured.files / f"client.{end}") for name, end in (("sslcert", "crt"), ("sslkey", "key"))}
    with configured(secured, **settings):
        libpq(secured, **given).close()
        upstream(secured, **given).connect(10).close()


# A certificate's subject and alternative name, and the host names to connect with.
NAMES = {
    ("127.0.0.1", ""): ("127.0.0.1", "localhost"),
    ("nobody", "DNS:127.0.0.1"): ("127.0.0.1",),
    ("nobody", "IP:127.0.0.1"): ("127.0.0.1", "localhost"),
    ("127.0.0.1", "DNS:db.test"): ("127.0.0.1", "db.test", "DB.TEST"),
    ("127.0.0.1", "IP:127.0.0.2"): ("127.0.0.1",),
    ("db.test", "IP:127.0.0.1"): ("db.test",),
    ("db.test", "DNS:other.test"): ("db.test",),
    ("nobody", "DNS:*.test"): ("db.test", "a.db.test", "test", ".test"),
    ("*.db.test", ""): ("a.db.test", "b.a.db.test", "db.test"),
    ("nobody", "DNS:d*.test"): ("db.test",),
}


def test_the_servers_name_is_libpqs_matter(secured: Secured) -> None:
    """The relay accepts what our own session accepts, and nothing else."""
    files = secured.files
    given = {name: str(files / f"client.{end}") for name, end in (("sslcert", "crt"), ("sslkey", "key"))}
    met = set()
    for number, ((subject, alternative), hosts) in enumerate(NAMES.items()):
        name = f"named{number}"
        more = ["-addext", f"subjectAltName={alternative}"] if alternative else []
        openssl(files, "req", "-new", "-key", "server.key", "-out", f"{name}.csr", "-subj", f"/CN={subject}", *more)
        sign(files, name)
        with configured(secured, ssl_cert_file=str(files / f"{name}.crt")):
            for host in hosts:
                ours, relays = True, True
                try:
                    libpq(secured, host, **given).close()
                except psycopg.OperationalError as error:
                    assert "does not match host name" in str(error)  # noqa: PT017 - either end is fine
                    ours = False
                try:
                    upstream(secured, host, **given).connect(10).close()
                except ssl.SSLCertVerificationError:
                    relays = False
                assert relays == ours, (subject, alternative, host)
                met.add(ours)
    assert met == {True, False}


@pytest.mark.thorough
def test_with_channel_binding_the_tool_goes_by_itself(show: Callable[..., Run]) -> None:
    run = show("scram", sslmode="require", channel_binding="require").ok()
    assert "channel_binding" in run.logs("command.direct")[0]["message"]
    assert "True|None|scram" in run.logs("command.output")[-1]["message"]


@pytest.mark.thorough
def test_where_python_has_no_tls_the_tool_goes_by_itself(show: Callable[..., Run], tmp_path: Path) -> None:
    """As in a Python built without OpenSSL; libpq has its own."""
    stand_in = tmp_path / "modules"
    stand_in.mkdir()
    (stand_in / "ssl.py").write_text("raise ImportError('No module named _ssl')\n")
    run = show("plain", python=stand_in).ok()
    assert "no TLS" in run.logs("command.direct")[0]["message"]
    assert "True|None|plain" in run.logs("command.output")[-1]["message"]
    assert "Traceback" not in run.stderr
    # Without encryption, the relay does not need TLS.
    assert not show("plain", python=stand_in, sslmode="disable").ok().logs("command.direct")
