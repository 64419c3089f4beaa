"""Addresses in other drivers' syntax, from outside: where they lead, and that the application gets them unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
import pytest

from conftest import missing
from demo.postgres import HOST, Owner, Server, installations
from entrypoint.database.quoting import identifier
from kit.migrations import write_migrations
from kit.pooler import executable, pooler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.databases import Database
    from kit.processes import Run
    from kit.web import Serving

    Start = Callable[..., Run]

THING = {"001_thing.sql": "CREATE TABLE thing ();"}
DEBUG = {"LOG_LEVEL": "debug", "LOG_FORMAT": "json"}
SHOW = ("run", "--", "sh", "-c", 'printf %s "$DATABASE_URL"')


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    """Return a server that only accepts the role `app`, whose password is hard to write in a URL."""
    with Server(hba=["host all app 127.0.0.1/32 scram-sha-256", "host all app ::1/128 scram-sha-256"]) as server:
        with server.connect() as connection:
            connection.execute(psycopg.sql.SQL("CREATE ROLE app LOGIN SUPERUSER PASSWORD {}").format(PASSWORD))
        yield server


PASSWORD = "Quo k+k&a=100%@/:?#'\"\\\N{EURO SIGN}"
RAW = quote(PASSWORD, safe="")


@pytest.mark.sampled(9)
@pytest.mark.case("C6")
@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg://app:{password}@{host}:{port}/postgres?sslmode=disable",
        "postgres+psycopg2://app:{password}@/postgres?host={host}:{port}",
        "postgresql+psycopg2://app:{password}@/postgres?host=127.0.0.1:1&host={host}:{port}",
        "postgresql+asyncpg://app:{password}@{host}:{port}/postgres?ssl=disable&prepared_statement_cache_size=0",
        "postgresql+asyncpg://{host}:{port}/postgres?user=app&password={password}&ssl=prefer",
        "postgis://app:{password}@{host}:{port}/postgres",
        "pgx5://app:{password}@{host}:{port}/postgres?x-migrations-table=versions",
        "postgresql://app:{password}@{host}:{port}/postgres?schema=public&connection_limit=5&pool_timeout=0",
        "postgresql://app:{password}@{host}:{port}/postgres?pool=5&prepared_statements=false&schema_search_path=public",
        "postgresql://app:{password}@{host}:{port}/postgres?pool_max_conns=3&search_path=public&TimeZone=Asia/Tokyo",
        "postgresql://app:{password}@{host}:{port}/postgres?options=-csearch_path=public",
        "jdbc:postgresql://{host}:{port}/postgres?user=app&password={password}&reWriteBatchedInserts=true&ssl=false",
        "jdbc:postgresql://{host}:1,{host}:{port}/postgres?user=app&password={password}&targetServerType=primary",
        "host={host} port={port} user=app password='{quoted}' dbname=postgres TimeZone=Asia/Tokyo",
    ],
)
def test_it_leads_there_and_the_application_gets_it_as_it_was(
    strict: Server, run_entrypoint: Start, migrations_dir: Path, address: str
) -> None:
    write_migrations(migrations_dir, {"001_one.sql": "SELECT 1;"})
    quoted = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
    url = address.format(password=RAW, quoted=quoted, host=HOST, port=strict.port)
    run = run_entrypoint(*SHOW, env={"DATABASE_URL": url, **DEBUG}).ok()
    assert run.outcome in ("migrated", "up_to_date"), run.report()
    assert run.stdout == url
    assert "Quo" not in run.stderr
    again = run_entrypoint(*SHOW, env={"DATABASE_URL": url, **DEBUG}).ok()
    assert again.outcome == "up_to_date", again.report()
    for start in (run, again):
        assert len(start.logs("database.address")) == ("options" not in address)
        assert "Quo" not in start.stderr


@pytest.mark.parametrize("way", ["DATABASE_URL_FILE", "MIGRATION_DATABASE_URL", "MIGRATION_DATABASE_URL_FILE"])
def test_the_other_variables(
    database: Database, run_entrypoint: Start, migrations_dir: Path, tmp_path: Path, way: str
) -> None:
    write_migrations(migrations_dir, THING)
    address = database.url.replace("postgresql://", "postgresql+asyncpg://") + "?prepared_statement_cache_size=0"
    file = tmp_path / "address"
    file.write_text(f"{address}\n")
    env = {"DATABASE_URL": "mongodb://elsewhere/db"} if way.startswith("MIGRATION") else {}
    env[way] = str(file) if way.endswith("_FILE") else address
    run = run_entrypoint("run", "--", "sh", "-c", f'printf %s "${way}"', env=env).ok()
    assert run.outcome == "migrated", run.report()
    assert run.stdout == env[way]
    assert database.exists("thing")


def test_the_applications_environment_is_untouched(
    database: Database, run_entrypoint: Start, migrations_dir: Path
) -> None:
    write_migrations(migrations_dir, THING)
    database.execute("CREATE SCHEMA shop")
    env = {"DATABASE_URL": f"{database.url}?schema=shop&connection_limit=3", "PGOPTIONS": "-c geqo=off"}
    run = run_entrypoint("run", "--", "env", "-0", env=env).ok()
    given = dict(entry.split("=", 1) for entry in run.stdout.split("\0") if entry)
    ours = {name for name in given if name.startswith("ENTRYPOINT_") and name not in os.environ}
    assert ours == {"ENTRYPOINT_OUTCOME", "ENTRYPOINT_SCHEMA_VERSION"} | (ours & {"ENTRYPOINT_ERROR"})
    assert given["DATABASE_URL"] == env["DATABASE_URL"]
    assert given["PGOPTIONS"] == env["PGOPTIONS"]
    assert not {name for name in given if name.startswith("PG")} - {"PGOPTIONS"} - os.environ.keys()


# --- The schema -----------------------------------------------------------------------------------------


def schema_of(database: Database, table: str) -> str:
    return str(database.one(f"SELECT string_agg(schemaname, ' ') FROM pg_tables WHERE tablename = '{table}'"))


@pytest.mark.parametrize(
    "name", ["shop", "Shop", 'o"dd na,me\\', "$user", "sch\N{LATIN SMALL LETTER O WITH DIAERESIS}n"]
)
def test_a_schema_is_where_migrations_and_their_ledger_go(
    database: Database, run_entrypoint: Start, migrations_dir: Path, name: str
) -> None:
    write_migrations(migrations_dir, THING)
    there = "postgres" if name == "$user" else name
    database.execute(f"CREATE SCHEMA {identifier(there)}")
    env = {"DATABASE_URL": f"{database.url}?schema={quote(name)}&pgbouncer=false"}
    assert run_entrypoint("run", "--", "true", env=env).ok().outcome == "migrated"
    assert schema_of(database, "thing") == schema_of(database, "schema_migrations") == there
    assert run_entrypoint("run", "--", "true", env=env).ok().outcome == "up_to_date"
    assert json.loads(run_entrypoint("status", "--json", env=env).ok().stdout)["currentVersion"] == 1


@pytest.mark.parametrize(
    ("parameters", "thing"),
    [
        ("schema=shop&options=-csearch_path%3Dother", "shop"),
        ("options=-csearch_path%3Dother%20-cgeqo%3Doff&schema=shop", "shop"),
        ("search_path=nowhere,other,shop", "other"),
        ("options=-csearch_path=other", "other"),
    ],
)
def test_beside_a_search_path_in_options(
    database: Database, run_entrypoint: Start, migrations_dir: Path, parameters: str, thing: str
) -> None:
    write_migrations(migrations_dir, THING)
    database.execute("CREATE SCHEMA shop; CREATE SCHEMA other")
    env = {"DATABASE_URL": f"{database.url}?{parameters}"}
    assert run_entrypoint("run", "--", "true", env=env).ok().outcome == "migrated"
    assert schema_of(database, "thing") == schema_of(database, "schema_migrations") == thing


def test_the_ledgers_schema_wins_for_the_ledger(
    database: Database, run_entrypoint: Start, migrations_dir: Path
) -> None:
    write_migrations(migrations_dir, THING)
    database.execute("CREATE SCHEMA shop; CREATE SCHEMA ops")
    env = {"DATABASE_URL": f"{database.url}?schema=shop", "MIGRATION_SCHEMA": "ops"}
    assert run_entrypoint("run", "--", "true", env=env).ok().outcome == "migrated"
    assert (schema_of(database, "thing"), schema_of(database, "schema_migrations")) == ("shop", "ops")


def test_options_of_the_environment_stay(database: Database, run_entrypoint: Start, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a AS SELECT current_setting('geqo') AS geqo;"})
    database.execute("CREATE SCHEMA shop")
    env = {"DATABASE_URL": f"{database.url}?schema=shop", "PGOPTIONS": "-c geqo=off"}
    run_entrypoint("migrate", env=env).ok()
    assert database.one("SELECT geqo FROM shop.a") == "off"


def test_a_schema_that_is_not_there(database: Database, run_entrypoint: Start, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, THING)
    run = run_entrypoint("migrate", env={"DATABASE_URL": f"{database.url}?schema=shop"})
    assert run.wait() == 78
    assert "create it" in run.stderr
    assert not database.exists("thing")


def test_an_up_to_date_start_asks_without_psycopg(
    database: Database, run_entrypoint: Start, migrations_dir: Path
) -> None:
    write_migrations(migrations_dir, THING)
    env = {"DATABASE_URL": f"{database.url}?schema=public&connection_limit=5", **DEBUG}
    run_entrypoint("run", "--", "true", env=env).ok()
    again = run_entrypoint("run", "--", "true", env=env).ok()
    assert again.outcome == "up_to_date"
    (note,) = again.logs("database.address")
    assert (note["level"], note["translated"], note["left_out"]) == ("debug", ["schema"], ["connection_limit"])
    assert len(again.logs("database.connected")) == 1


# --- Everything that connects ---------------------------------------------------------------------------


@pytest.mark.thorough
def test_wait_status_backup_and_the_service(
    database: Database, run_entrypoint: Start, migrations_dir: Path, tmp_path: Path, serve: Callable[..., Serving]
) -> None:
    write_migrations(migrations_dir, THING)
    database.execute("CREATE SCHEMA shop")
    url = database.url.replace("postgresql://", "postgresql+psycopg://") + "?schema=shop&pool_size=5"
    env = {"DATABASE_URL": url}
    run_entrypoint("migrate", env=env).ok()
    run_entrypoint("wait", "--for", "database", "--timeout", "5", env=env).ok()
    run_entrypoint("wait", "--timeout", "5", env=env).ok()
    assert json.loads(run_entrypoint("status", "--json", env=env).ok().stdout)["currentVersion"] == 1
    assert run_entrypoint("version", env=env).ok().stdout == "1\n"
    programs = f"{database.server.bin}:{os.environ['PATH']}"
    run_entrypoint("backup", env={**env, "MIGRATION_BACKUP_DIR": str(tmp_path), "PATH": programs}).ok()
    assert list(tmp_path.glob("*.dump"))
    serving = serve(url)
    assert serving.data()["currentVersion"] == 1


# --- Poolers --------------------------------------------------------------------------------------------


def test_a_pooler_that_refuses_the_schema(
    database: Database, server: Server, run_entrypoint: Start, migrations_dir: Path
) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    write_migrations(migrations_dir, THING)
    with pooler(server, pool_size=2) as port:
        run = run_entrypoint("migrate", env={"DATABASE_URL": f"{database.url_at(port)}&schema=public&pgbouncer=true"})
        assert run.wait() == 69
        (record,) = run.logs("database.unavailable")
        assert record["cause"] == "startup_parameter"
        assert "MIGRATION_DATABASE_URL" in record["remedy"]
        assert "ignore_startup_parameters" not in record["remedy"]
        # Without a schema, there is nothing to refuse.
        run_entrypoint("migrate", env={"DATABASE_URL": f"{database.url_at(port)}&pgbouncer=true"}).ok()


def test_a_pooler_that_drops_the_schema(
    database: Database, server: Server, run_entrypoint: Start, migrations_dir: Path
) -> None:
    """The migrations would go into another schema, and nobody would know."""
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    write_migrations(migrations_dir, THING)
    database.execute("CREATE SCHEMA shop")
    with pooler(server, pool_size=2, ignored="options") as port:
        url = f"{database.url_at(port)}&schema=shop"
        run = run_entrypoint("migrate", env={"DATABASE_URL": url})
        assert run.wait() == 78, run.report()
        assert "drops" in run.stderr
        assert "MIGRATION_DATABASE_URL" in run.stderr
        assert not database.exists("public.thing")
        # It also refuses if the history behind the pooler is up to date.
        run_entrypoint("migrate", env={"DATABASE_URL": database.url}).ok()
        start = run_entrypoint("run", "--", "true", env={"DATABASE_URL": url}).ok()
        assert start.outcome == "failed", start.report()


# --- TLS ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encrypted() -> Iterator[tuple[Server, Path, Path]]:
    """Return a server with TLS, its self-signed certificate's file, and another certificate's file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("no openssl, to make a certificate")
    if 15 not in installations():
        missing("no PostgreSQL 15, as the embedded one knows no TLS")
    owner = Owner.choose()
    # Not inside pytest's own directory, which only this account may enter.
    with tempfile.TemporaryDirectory(prefix="certificates-") as name:
        folder = Path(name)
        for label in ("server", "other"):
            command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
            files = ["-keyout", f"{folder}/{label}.key", "-out", f"{folder}/{label}.crt"]
            subprocess.run([*command, *files], capture_output=True, check=True)
        key = folder / "server.key"
        key.chmod(0o600)
        for path in (folder, *folder.iterdir()):
            owner.take(path)
        own = folder / "server.crt"
        with Server(15, settings={"ssl": "on", "ssl_cert_file": str(own), "ssl_key_file": str(key)}) as server:
            yield server, own, folder / "other.crt"


URL = "://postgres@localhost:{port}/postgres?hostaddr=127.0.0.1"


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("address", "verified"),
    [
        ("postgresql" + URL + "&sslmode=no-verify", False),
        ("postgresql" + URL + "&ssl=true&max=5", False),
        ("postgresql" + URL + "&sslaccept=accept_invalid_certs&sslmode=require&sslcert=/no/such.pem", False),
        ("postgresql" + URL + "&sslaccept=strict&sslcert={authority}", True),
        ("postgresql+asyncpg" + URL + "&ssl=require", False),
        ("postgresql+asyncpg" + URL + "&ssl=verify-full&sslrootcert={authority}", True),
        ("postgresql+asyncpg" + URL + "&ssl=true&sslrootcert={authority}", True),
        ("postgres+ssl" + URL + "&ssl-mode=verify-ca&ssl-ca={authority}", True),
        ("jdbc:postgresql" + URL.replace("postgres@", "") + "&user=postgres&ssl=true&sslrootcert={authority}", True),
        ("jdbc:postgresql" + URL.replace("postgres@", "") + "&user=postgres&ssl=true&sslmode=require", False),
    ],
)
def test_the_server_is_verified_where_the_driver_verifies_it(
    encrypted: tuple[Server, Path, Path],
    run_entrypoint: Start,
    migrations_dir: Path,
    tmp_path: Path,
    address: str,
    verified: bool,  # noqa: FBT001
) -> None:
    del migrations_dir  # creates it, empty
    server, own, other = encrypted

    def version(url: str) -> Run:
        return run_entrypoint("version", env={"DB_CONNECT_ATTEMPTS": "1", "HOME": str(tmp_path), "DATABASE_URL": url})

    right = address.format(port=server.port, authority=own)
    version(right).ok()
    stranger = version(right.replace(str(own), str(other)))
    assert stranger.wait() == (69 if verified else 0), stranger.report()
    renamed = version(right.replace("localhost", "elsewhere.invalid"))
    assert renamed.wait() == (69 if verified and "verify-ca" not in address else 0), renamed.report()


@pytest.mark.parametrize(
    "address",
    [
        "postgresql" + URL + "&sslaccept=strict",
        "postgresql+asyncpg" + URL + "&ssl=true",
        "ecto" + URL + "&ssl=true",
        "jdbc:postgresql" + URL.replace("postgres@", "") + "&user=postgres&ssl=true",
        "jdbc:postgresql" + URL.replace("postgres@", "") + "&user=postgres&sslmode=require&sslfactory="
        "org.postgresql.ssl.DefaultJavaSSLFactory",
    ],
)
def test_without_an_authority_nobody_is_trusted(
    encrypted: tuple[Server, Path, Path], run_entrypoint: Start, migrations_dir: Path, tmp_path: Path, address: str
) -> None:
    del migrations_dir  # creates it, empty
    server, own, _ = encrypted
    env = {"DB_CONNECT_ATTEMPTS": "1", "HOME": str(tmp_path), "DATABASE_URL": address.format(port=server.port)}
    run = run_entrypoint("version", env=env)
    assert run.wait() == 69
    assert run.logs("database.unavailable")[0]["cause"] == "certificate"
    # JDBC uses libpq's default, a file. The others use the system's certificates, which OpenSSL finds through a
    # variable.
    named = "PGSSLROOTCERT" if "&ssl=true" in address and "jdbc" in address else "SSL_CERT_FILE"
    run_entrypoint("version", env={**env, named: str(own)}).ok()


FIPS = """\
openssl_conf = settings
[settings]
providers = modules
[modules]
fips = module
[module]
activate = 1
module = /usr/lib/ossl-modules/fips.so
"""


def test_an_openssl_that_cannot_be_set_up_is_told_from_a_server_that_refuses(
    encrypted: tuple[Server, Path, Path], run_entrypoint: Start, migrations_dir: Path, tmp_path: Path
) -> None:
    """OPENSSL_CONF names a broken file, as in some FIPS images. Nothing has been sent to the server yet."""
    del migrations_dir
    server, _, _ = encrypted
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(FIPS)
    address = f"postgresql{URL.format(port=server.port)}&sslmode=require"
    run = run_entrypoint("version", env={"DATABASE_URL": address, "OPENSSL_CONF": str(configuration)})
    assert run.wait() == 69
    (record,) = run.logs("database.unavailable")
    assert record["cause"] == "tls"
    assert "failed: OpenSSL could not be set up for TLS" in record["message"]
    assert "OPENSSL_CONF" in record["remedy"]
    assert "server's log" not in record["remedy"]


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_a_variable_names_and_that_are_not_there(
    encrypted: tuple[Server, Path, Path], run_entrypoint: Start, migrations_dir: Path, variable: str
) -> None:
    del migrations_dir
    server, own, _ = encrypted
    address = f"postgresql{URL.format(port=server.port)}&sslrootcert=system"
    for path, said in ((own.parent / "none", True), (own if variable == "SSL_CERT_FILE" else own.parent, False)):
        run = run_entrypoint("version", env={"DATABASE_URL": address, variable: str(path)})
        code = run.wait()
        if code:
            (record,) = run.logs("database.unavailable")
            assert record["cause"] == "certificate"
            assert (f"{variable} names {path}, which does not exist" in record["remedy"]) is said
        assert code == 69 or (path == own and code == 0)
