"""The relay's way to a server that wants TLS: as our own session goes, whatever the tool itself could do."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from conftest import missing
from demo.postgres import HOST, PostgresMissingError, Server, workspace
from kit.databases import Database

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
    """A server with TLS, and the files that belong to it."""

    server: Server
    files: Path

    def url(self, user: str, host: str = "localhost", **parameters: str) -> str:
        """Return an address; `{files}` in a parameter is the folder of the certificates."""
        query = "&".join(f"{name}={value.format(files=self.files)}" for name, value in parameters.items())
        return f"postgresql://{user}:secret@{host}:{self.server.port}/shop?{query}"


def openssl(folder: Path, *words: str) -> None:
    """Run openssl in a folder."""
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def certificate(folder: Path, name: str, subject: str) -> None:
    """Make NAME.key and NAME.crt, signed by the authority there."""
    openssl(folder, "req", "-new", "-nodes", "-newkey", "rsa:2048", "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN={subject}", "-addext", f"subjectAltName=DNS:{subject}")  # fmt: skip
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "root.crt", "-CAkey", "root.key", "-CAcreateserial",
            "-copy_extensions", "copy", "-days", "2", "-out", f"{name}.crt")  # fmt: skip


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    """Return a server that lets in `plain` encrypted or not, `scram` and `certified` only encrypted."""
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
    """Return a function that starts the program with a tool that shows how it got in."""

    def start(user: str, *, python: Path | None = None, **parameters: str) -> Run:
        schema = f"of_{user}_{secured.server.log_size()}"
        url = secured.url(user, **parameters)
        environ = {
            "DATABASE_URL": url,
            # What is missing is missing for us, not for the tool.
            "MIGRATION_COMMAND": f'env -u PYTHONPATH "{sys.executable}" -c "{SHOW}"',
            "MIGRATION_SCHEMA": schema,
            **({} if python is None else {"PYTHONPATH": str(python)}),
        }
        return run_entrypoint("run", "--", "true", env=environ)

    return start


def shown(run: Run) -> list[str]:
    """Return what the tool has shown."""
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
    import ssl

    from entrypoint.tool.upstream import Server as Upstream

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


@pytest.mark.thorough
def test_with_channel_binding_the_tool_goes_by_itself(show: Callable[..., Run]) -> None:
    run = show("scram", sslmode="require", channel_binding="require").ok()
    assert "channel_binding" in run.logs("command.direct")[0]["message"]
    assert "True|None|scram" in run.logs("command.output")[-1]["message"]


@pytest.mark.thorough
def test_where_python_has_no_tls_the_tool_goes_by_itself(show: Callable[..., Run], tmp_path: Path) -> None:
    """As in a Python that was built without OpenSSL; libpq has its own."""
    stand_in = tmp_path / "modules"
    stand_in.mkdir()
    (stand_in / "ssl.py").write_text("raise ImportError('No module named _ssl')\n")
    run = show("plain", python=stand_in).ok()
    assert "no TLS" in run.logs("command.direct")[0]["message"]
    assert "True|None|plain" in run.logs("command.output")[-1]["message"]
    assert "Traceback" not in run.stderr
    # In the clear, the relay needs none.
    assert not show("plain", python=stand_in, sslmode="disable").ok().logs("command.direct")
