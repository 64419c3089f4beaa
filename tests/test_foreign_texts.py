"""Texts from outside are searched for secrets where they enter, and shown so that they cannot control a terminal."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import entrypoint
from demo.postgres import HOST, free_port
from entrypoint.settings import read_settings
from kit.manifests.program import variables_of
from kit.migrations import write_migrations
from kit.processes import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.databases import Database
    from kit.processes import Run
    from kit.web import Serving

    Start = Callable[..., Run]

PACKAGE = Path(entrypoint.__file__).parent
APPLICATION = ("run", "--", "sh", "-c", 'echo "told: $ENTRYPOINT_ERROR"')
QUICK = {"DB_CONNECT_ATTEMPTS": "1", "DB_CONNECT_TIMEOUT_MS": "1000"}
# A word that nothing else here contains, and not a generated password, which a second check would catch.
CANARY = "quokka"
# What a terminal obeys or hides: ESC, BEL, CSI as a C1 code, line ends, bidirectional overrides, line separators.
NASTY = "\x1b[2J\x07\x9b1m\nforged\r\u202egnp\u2028x\u2066"


def with_password(database: Database, password: str) -> str:
    """Return the URL of a server that accepts any password."""
    return database.url.replace("postgres@", f"postgres:{password}@")


def output(run: Run) -> str:
    run.wait()
    assert "Traceback" not in run.stderr, run.report()
    return run.stdout + run.stderr


def unseen(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.isprintable()] + [
        repr(one) for one in text if one in "\x1b\x07\x9b\r\u202e\u2028\u2066"
    ]


# --- Our own texts --------------------------------------------------------------------------------------


@pytest.mark.sampled(9)
@pytest.mark.case("C5")
@pytest.mark.parametrize("password", ["postgres", "orders", "migration", "1", "right", "failed", "statement", "wrong"])
def test_no_password_punches_holes_into_our_own_words(
    run_entrypoint: Start, database: Database, migrations_dir: Path, password: str
) -> None:
    write_migrations(migrations_dir, {"001_orders.sql": "CREATE TABLE a ();", "002_right.sql": "SELECT nothing_such;"})
    env = {"DATABASE_URL": with_password(database, password), "LOG_FORMAT": "json"}
    database.execute("SELECT")
    for command in (("check",), ("status",), ("migrate", "--dry-run"), APPLICATION, ("migrate",), ("status", "--json")):
        for style in ("json", "text"):
            assert "***" not in output(run_entrypoint(*command, env={**env, "LOG_FORMAT": style}))
    nowhere = f"postgresql://app:{password}@{HOST}:{free_port()}/shop"
    message = run_entrypoint(*APPLICATION, env={**QUICK, "DATABASE_URL": nowhere}).ok().logs("database.unavailable")[0]
    assert message["message"].startswith("Database connection failed after 1 ")
    assert "***" not in str(message["remedy"])


@pytest.mark.sampled(7)
@pytest.mark.case("C5")
@pytest.mark.parametrize("password", ["migration", "application", "number", "choice", "invalid", "migrate", "file"])
def test_no_password_punches_holes_into_what_is_said_of_the_command_line(
    run_entrypoint: Start, migrations_dir: Path, password: str
) -> None:
    env = {"AUTO_MIGRATE": "false", "DATABASE_URL": f"postgresql://app:{password}@{HOST}/shop"}
    for words, code in (
        (("migrate", "--to", "x"), 64),
        (("no-such-command",), 64),
        (("check", "x.sql"), 64),
        (("run", "--", "/no/such/program"), 127),
        (("run", "--x"), 64),
    ):
        run = run_entrypoint(*words, env=env)
        assert run.wait() == code
        assert "***" not in run.stderr
    for words in (
        (password + "s", "x"),
        ("migrate", "--to", f"://u:{CANARY}'@h"),
        ("migrate", f"--x=a://u:{CANARY}\\@h"),
    ):
        run = run_entrypoint(*words, env=env)
        assert run.wait() == 64
        assert CANARY not in run.stderr


# --- Texts from outside ---------------------------------------------------------------------------------


@pytest.mark.case("C5", "C7")
def test_what_others_wrote_into_the_tables(
    run_entrypoint: Start, database: Database, migrations_dir: Path, serve: Callable[..., Serving]
) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "SELECT nothing_such;"})
    url = with_password(database, CANARY)
    run_entrypoint("migrate", env={"DATABASE_URL": url}).wait()
    with database.connect() as connection:
        connection.execute(
            "UPDATE schema_migrations SET error_message = %s WHERE status = 'failed'", [f"{CANARY} {NASTY}"]
        )
        connection.execute(
            "UPDATE migration_lock SET locked_at = now(), locked_by = %s, process_id = 7, token = NULL",
            [f"{CANARY} {NASTY}"],
        )
    env = {"DATABASE_URL": url, "MIGRATION_LOCK_TIMEOUT_MS": "300", "LOG_LEVEL": "debug"}
    for command in (
        ("status",),
        ("status", "--json"),
        ("unlock",),
        APPLICATION,
        ("migrate", "--dry-run"),
        ("repair", "--failed"),
    ):
        for style in ("json", "text"):
            said = output(run_entrypoint(*command, env={**env, "LOG_FORMAT": style}))
            assert CANARY not in said, said
            assert not unseen(said)
    serving = serve(url)
    assert CANARY not in serving.ask().body.decode() + serving.run.stderr


@pytest.mark.case("A8")
@pytest.mark.parametrize("password", ["2", "statement", "of"])
def test_what_is_stored_to_be_read_back_is_not_searched(
    run_entrypoint: Start, database: Database, migrations_dir: Path, password: str
) -> None:
    blocks = "CREATE TABLE a ();\nDO $$ BEGIN LOCK TABLE busy; END $$;\nCREATE TABLE b ();"
    write_migrations(migrations_dir, {"001_a.sql": f"-- entrypoint: no-transaction\n{blocks}"})
    database.execute("CREATE TABLE busy ()")
    with database.connect() as other, other.transaction():
        other.execute("LOCK TABLE busy")
        run = run_entrypoint("migrate", env={"DATABASE_URL": database.url, "PGPASSWORD": password})
        stored = "SELECT error_message FROM schema_migrations WHERE error_message LIKE '%2 of 3%'"
        rows = until(lambda: database.rows(stored) if database.exists("schema_migrations") else [], 10, "its place")
    assert str(rows[0][0]).startswith("statement 2 of 3: ")
    assert run.wait() == 0


@pytest.mark.thorough
@pytest.mark.case("C5")
def test_what_a_blocker_calls_itself(run_entrypoint: Start, database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "LOCK TABLE busy;"})
    database.execute("CREATE TABLE busy ()")
    env = {
        "DATABASE_URL": with_password(database, CANARY),
        "LOG_LEVEL": "debug",
        "MIGRATION_DDL_LOCK_TIMEOUT_MS": "9000",
    }
    with database.connect(application_name=f"psql {CANARY}") as other:
        with other.transaction():
            other.execute(f'SELECT 1 AS "{CANARY}" FROM busy')
            run = run_entrypoint("migrate", env=env)
            run.until("migration.blocked")
            told = "SELECT progress_detail::text FROM migration_lock WHERE progress_detail::text LIKE '%blocked_by%'"
            shown = str(until(lambda: database.rows(told), 10, "the blocker in the lock's row"))
            shown += output(run_entrypoint("status", env=env)) + output(run_entrypoint("status", "--json", env=env))
        assert run.wait() == 0
    assert "psql ***" in shown
    assert CANARY not in shown + run.stderr


@pytest.mark.case("C10")
def test_what_pg_dump_says(run_entrypoint: Start, database: Database, migrations_dir: Path, tmp_path: Path) -> None:
    """pg_dump gets the password, but none of our tokens."""
    real = database.server.bin / "pg_dump"
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "pg_restore").symlink_to(database.server.bin / "pg_restore")
    program = folder / "pg_dump"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec "{real}" --version\n'
        f'printf "pg_dump: error: $PGPASSWORD \\033[2J ${{STATUS_TOKEN-no token}}\\n" >&2; exit 1\n'
    )
    program.chmod(0o755)
    env = {
        "DATABASE_URL": with_password(database, CANARY),
        "PATH": f"{folder}:{os.environ['PATH']}",
        "MIGRATION_BACKUP_DIR": str(tmp_path),
        "STATUS_TOKEN": "a-token-of-ours",
    }
    for style in ("json", "text"):
        said = output(run_entrypoint("backup", env={**env, "LOG_FORMAT": style}))
        assert "error: *** " in said
        assert "no token" in said
        assert CANARY not in said
        assert not unseen(said)


@pytest.mark.case("C7")
@pytest.mark.parametrize("style", ["json", "text"])
def test_a_notice_is_one_event(run_entrypoint: Start, database: Database, migrations_dir: Path, style: str) -> None:
    words = NASTY.replace("\r", "")
    write_migrations(migrations_dir, {"001_a.sql": f"DO $$ BEGIN RAISE NOTICE '%', '{words}'; END $$;"})
    run = run_entrypoint("migrate", env={"DATABASE_URL": database.url, "LOG_FORMAT": style})
    said = output(run)
    assert run.wait() == 0
    assert not unseen(said)
    assert not any(line.startswith("forged") for line in said.splitlines())
    assert "forged" in said
    if style == "json":
        assert words in run.logs("migration.notice")[0]["message"]


@pytest.mark.case("C7")
def test_names_of_files_command_no_terminal(run_entrypoint: Start, migrations_dir: Path) -> None:
    name = f"001_{NASTY.replace('/', '')}.sql"
    (migrations_dir / name).write_text("SELECT 1;")
    for command in (("check",), ("check", "--format", "github"), APPLICATION):
        said = output(run_entrypoint(*command, env={"LOG_FORMAT": "text", "DATABASE_URL": "host=127.0.0.1"}))
        assert "forged" in said
        assert not unseen(said)


# --- Addresses in SQL -----------------------------------------------------------------------------------

ADDRESSES_IN_SQL = {
    "subscription": "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:Quokka@127.0.0.1:1/d' PUBLICATION p;",
    "subscription-at": "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:Quok@ka@127.0.0.1:1/d' PUBLICATION p;",
    "subscription-bad": "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:x@h/d?quokka=1' PUBLICATION p;",
    "column-default": "CREATE TABLE t (a int DEFAULT 'postgresql://u:Quokka@h/d');",
    "column-default-conninfo": "CREATE TABLE t (a int DEFAULT 'host=h password=Quokka');",
    "alter-default": "ALTER TABLE no_such ALTER a SET DEFAULT 'postgresql://u:Quokka@h/d';",
    "cast": "SELECT 'postgresql://u:Quokka@h/d'::int;",
    "quote": "SELECT 'postgresql://u:Quo''kka@h/d'::int;",
    "row": "CREATE TABLE t (a text CHECK (a = '')); INSERT INTO t VALUES ('postgresql://u:Quokka@h/d');",
    "raised": "DO $$ BEGIN RAISE EXCEPTION 'no way to postgresql://u:Quokka@h/d'; END $$;",
    "executed": "DO $$ BEGIN EXECUTE 'SELECT dblink(''postgresql://u:Quokka@h/d'')'; END $$;",
    "notice": "DO $$ BEGIN RAISE NOTICE 'postgresql://u:Quokka@h/d'; END $$; SELECT no_such;",
    "mapping": "CREATE USER MAPPING FOR public SERVER no_such OPTIONS (sslpassword 'Quokka');",
    "mapping-quoted": "CREATE USER MAPPING FOR public SERVER no_such OPTIONS (\"password\" 'Quokka');",
    "conninfo-blanks": "SELECT 'host=h password = Quokka'::int;",
    "conninfo-blanks-quotes": "SELECT 'host=h password = ''my Quokka'''::int;",
    "line-end": "SELECT 'postgresql://u:Quo\nkka@h/d'::int;",
    "put-together": "SELECT ('postgresql://u:' || 'Quokka' || '@h/d')::int;",
    "json": 'SELECT \'{"password": "Quokka"}\'::int;',
    "yaml": "SELECT 'password: Quokka'::int;",
    "dotnet": "SELECT 'Server=h;Pwd=Quokka'::int;",
    "crypt": "SELECT crypt('Quokka', gen_salt('bf'));",
    "row-by-name": "CREATE TABLE t (password text CHECK (password = '')); INSERT INTO t (password) VALUES ('Quokka');",
    "key-by-name": "CREATE TABLE t (password text UNIQUE); DO $$ DECLARE i int; BEGIN FOR i IN 1..2 LOOP "
    "INSERT INTO t VALUES (convert_from('\\x51756f6b6b61', 'utf8')); END LOOP; END $$;",
    "notice-by-name": "DO $$ BEGIN RAISE NOTICE 'password: my Quokka'; END $$; SELECT no_such;",
    "subscription-blanks": "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1 password = Quokka' PUBLICATION p;",
}


@pytest.mark.sampled(26)
@pytest.mark.case("C3")
@pytest.mark.parametrize("name", ADDRESSES_IN_SQL)
def test_an_address_in_a_migration_that_fails(
    run_entrypoint: Start, database: Database, migrations_dir: Path, name: str, serve: Callable[..., Serving]
) -> None:
    mode = "-- entrypoint: no-transaction\n" if name.startswith("subscription") else ""
    write_migrations(migrations_dir, {"001_a.sql": mode + ADDRESSES_IN_SQL[name]})
    # A subscription is retried: for a file outside a transaction, a lost connection may have any cause.
    env = {"DATABASE_URL": database.url, "LOG_LEVEL": "debug", "MIGRATION_TIMEOUT_MS": "1500"}
    said = output(run_entrypoint(*APPLICATION, env=env))
    said += output(run_entrypoint("status", "--json", env=env)) + output(
        run_entrypoint("migrate", "--dry-run", env=env)
    )
    said += str(database.rows("SELECT s::text FROM schema_migrations s"))
    assert "001_a.sql" in said
    assert not [line for line in said.splitlines() if re.search("quok|kka", line, re.IGNORECASE)]


WHILE_IT_RUNS = {
    "subscription": "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port={port} sslpassword=Quokka' PUBLICATION p",
    "blanks": "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port={port} password = Quokka' PUBLICATION p",
    "url": "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:Quo kka@127.0.0.1:{port}/d' PUBLICATION p",
    "set": "CALL waits(set_config('app.password', 'Quokka', false))",
    "continued": "CALL waits('host=h password=''Quo'\n'kka''')",
    "long": "CALL waits('" + "x" * 150 + " postgresql://u:Quokka" + "y" * 50 + "@h')",
    "block": "BEGIN; CREATE TABLE t (); SELECT set_config('app.password', 'Quokka', false), pg_sleep(30); COMMIT",
}


@pytest.mark.sampled(7)
@pytest.mark.case("C3")
@pytest.mark.parametrize("name", WHILE_IT_RUNS)
def test_a_statement_that_is_under_way(
    run_entrypoint: Start, database: Database, migrations_dir: Path, name: str
) -> None:
    """The ledger keeps the beginning of the statement for people to read."""
    database.execute("CREATE PROCEDURE waits(text) LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(30); END'")
    with socket.create_server((HOST, 0)) as silent:
        statement = WHILE_IT_RUNS[name].format(port=silent.getsockname()[1])
        write_migrations(migrations_dir, {"001_a.sql": f"-- entrypoint: no-transaction\nSELECT 1;\n{statement};"})
        env = {"DATABASE_URL": database.url, "LOG_LEVEL": "debug", "MIGRATION_TIMEOUT_MS": "9000"}
        run = run_entrypoint("migrate", env=env)
        query = "SELECT error_message FROM schema_migrations WHERE error_message LIKE 'statement 2 of%'"
        shown = until(
            lambda: database.exists("schema_migrations") and database.rows(query), 10, "the statement in the ledger"
        )
        said = output(run_entrypoint("status", env=env)) + output(run_entrypoint("status", "--json", env=env))
        run.kill()
        said += output(run)
    assert not re.search("quo|kka", str(shown) + said, re.IGNORECASE)


# --- The environment ------------------------------------------------------------------------------------

VARIABLES = sorted(variables_of(read_settings))


@pytest.mark.sampled(11)
@pytest.mark.case("B14")
@pytest.mark.parametrize("name", VARIABLES)
def test_bytes_that_are_not_utf_8(run_entrypoint: Start, migrations_dir: Path, name: str) -> None:
    address = {} if "DATABASE_URL" in name else {"DATABASE_URL": f"postgresql://{HOST}:{free_port()}/shop"}
    run = run_entrypoint("migrate", env={**QUICK, **address, name: os.fsdecode(b"a\xff\xe9b")})
    if name == "AUTO_MIGRATE":
        run = run_entrypoint(*APPLICATION, env={**QUICK, **address, name: os.fsdecode(b"a\xff\xe9b")})
        assert "AUTO_MIGRATE is not valid UTF-8" in run.ok().stdout
        return
    assert run.wait() == 78, run.report()
    assert f"{name} is not valid UTF-8" in run.stderr
    assert "Internal error" not in run.stderr


@pytest.mark.thorough
@pytest.mark.sampled(9)
@pytest.mark.case("C8")
@pytest.mark.parametrize(
    "value",
    [
        "postgresql://app:Quo'kka@127.0.0.1/shop",
        "postgresql://app:Quo\\kka@127.0.0.1/shop",
        "postgresql://app:Quo kka/x?y@127.0.0.1/shop",
        "postgres://app:Quokka@127.0.0.1/shop",
        "host=127.0.0.1 password='Quo\\'kka'",
        "host=127.0.0.1 password = Quokka",
        "app:Quokka@127.0.0.1/shop",
        "//app:Quokka@127.0.0.1/shop",
        "/run/postgresql:%2f%2fapp:Quokka@127.0.0.1",
    ],
)
def test_an_address_in_another_variable(run_entrypoint: Start, migrations_dir: Path, value: str) -> None:
    for name in VARIABLES:
        if name in ("DATABASE_URL", "MIGRATION_DATABASE_URL", "APP_VERSION", "npm_package_version", "AUTO_MIGRATE"):
            continue
        run = run_entrypoint("migrate", env={**QUICK, "PGHOST": HOST, "PGPORT": str(free_port()), name: value})
        run.wait()
        # The word "quotation" is allowed.
        assert not re.search("quo(?!tation)|kka", run.stdout + run.stderr, re.IGNORECASE), run.report()
        if name.endswith(("_DIR", "_FILE", "_MB", "_MS")):
            assert run.wait() == 78, run.report()
            assert name in run.stderr


@pytest.mark.sampled(3)
@pytest.mark.case("C8")
@pytest.mark.parametrize("name", ["APP_VERSION", "npm_package_version"])
@pytest.mark.parametrize(
    "value", ["postgresql://u:Quokka@127.0.0.1/db", "host=h password = Quokka", "u:Quokka@127.0.0.1/db"]
)
def test_an_address_for_a_version(
    run_entrypoint: Start, database: Database, migrations_dir: Path, name: str, value: str
) -> None:
    """Many people can read the ledger."""
    write_migrations(migrations_dir, {"001_a.sql": "SELECT 1;", "002_b.sql": "SELECT no_such;"})
    env = {"DATABASE_URL": database.url, name: value}
    said = output(run_entrypoint("migrate", env=env))
    said += str(database.rows("SELECT s::text FROM schema_migrations s"))
    # As an earlier release may have written it.
    with database.connect() as connection:
        connection.execute(
            "UPDATE schema_migrations SET application_version = %s WHERE migration_number = 1",
            ["postgresql://u:Quokka@h"],
        )
    said += output(run_entrypoint("status", env=env)) + output(run_entrypoint("status", "--json", env=env))
    assert "(an address)" in said
    assert "Quokka" not in said


@pytest.mark.sampled(6)
@pytest.mark.case("C8")
@pytest.mark.parametrize("name", ["PGPORT", "PGSERVICE", "PGSSLMODE", "PGHOST", "PGDATABASE", "PGUSER", "PGTZ"])
@pytest.mark.parametrize(
    "value",
    [
        "host=h password = Quokka",
        "host=h password = 'my Quokka'",
        "postgresql://u:my Quokka@h/d",
        "u:Quokka@127.0.0.1/db",
        "Server=h;Pwd=Quokka;Database=d",
    ],
)
def test_an_address_in_a_variable_of_libpqs(
    run_entrypoint: Start, database: Database, migrations_dir: Path, name: str, value: str
) -> None:
    env = {"PGHOST": HOST, "PGPORT": str(database.server.port), **QUICK, name: value, "LOG_LEVEL": "debug"}
    assert "Quokka" not in output(run_entrypoint(*APPLICATION, env=env))


@pytest.mark.sampled(2)
@pytest.mark.case("C4")
@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u:x?9@Kd83jf/2@127.0.0.1/db",
        "postgresql://u:x?@Kd83jf@127.0.0.1/db",
        "postgresql://u:x#9?@Kd83jf:5@127.0.0.1/db",
        "postgresql://u:x@Kd83jf?dbname=y@127.0.0.1/db",
        "postgresql://u:x?@Kd83jf/@127.0.0.1",
    ],
)
def test_half_a_password_is_no_host(run_entrypoint: Start, migrations_dir: Path, address: str) -> None:
    run = run_entrypoint(*APPLICATION, env={**QUICK, "DATABASE_URL": address, "LOG_LEVEL": "debug"}).ok()
    assert "Kd83jf" not in run.stdout + run.stderr
    assert run.logs("configuration.invalid")
    assert not run.logs("database.unavailable")
    assert run_entrypoint("migrate", env={**QUICK, "DATABASE_URL": address}).wait() == 78


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u:x@127.0.0.1:{port}/d?application_name=me@home",
        "postgresql://127.0.0.1:{port}/d?user=u@tenant&password=p@q",
        "postgresql://u%40t:x%3F%2F@127.0.0.1:{port}/d",
        "postgresql:///d?host=@abstract&port={port}",
    ],
)
def test_an_at_sign_in_its_place(run_entrypoint: Start, migrations_dir: Path, address: str) -> None:
    assert run_entrypoint("migrate", env={**QUICK, "DATABASE_URL": address.format(port=free_port())}).wait() == 69


@pytest.mark.sampled(19)
@pytest.mark.case("C6")
@pytest.mark.parametrize(
    ("address", "words", "remedy"),
    [
        ("postgresql://u:Quokka@h/d?sslidentity=/i.p12", "the parameter sslidentity,", "MIGRATION_DATABASE_URL"),
        ("postgresql+asyncpg://u:Quokka@h/d?pool_siez=1", "number 1", "spelling"),
        ("postgresql://u:Quokka@h/d?schema=a&connection_limt=1", "number 2", "spelling"),
        ("postgresql://u:Quokka@h/d?conection_limit=1", "looks like connection_limit", "spelling"),
        ("postgresql://u:Quokka@h/d?Schema=a", "the parameter schema in capital letters", "schema"),
        ("jdbc:postgresql://h/d?user=u&password=Quokka&applicationname=a", "ApplicationName", "ApplicationName"),
        ("JDBC:postgresql://h/d?user=u&password=Quokka", "JDBC:postgresql://", "postgresql://user"),
        ("jdbc:postgresql://h/d?user=u&password=Quokka&socketFactory=a.Wombat", "socketFactory", "MIGRATION_DATABASE_"),
        ("postgresql://u:Quokka%b0@h/d", "is not valid UTF-8", "%C3%A4"),
        ("prisma+postgres://h/?api_key=Quokka", "prisma+postgres://", "postgresql://user"),
        ("mysql://u:Quokka@h/d", "mysql://", "postgresql://user"),
        ('"postgresql://u:Quokka@h/d"', "quotation mark", "quotation marks"),
        ("'host=h password=Quokka'", "quotation mark", "quotation marks"),
        ("${DB_URL}", "${DB_URL}", "the address itself"),
        ("$(DB_URL)", "$(DB_URL)", "the address itself"),
        ("$DB_URL", "a placeholder", "the address itself"),
        ("{{ .Values.url }}", "a placeholder", "the address itself"),
        ("postgresql://u:Quokka@${DB_HOST}:${DB_PORT}/db", "a placeholder for its host", "Compose"),
        ("postgresql://u:Quokka@${DB_HOST}:5432/db", "a placeholder for its host", "Compose"),
        ("POSTGRESQL://u:Quokka@h/d", "capital letters", "postgresql:// in small letters"),
        ("u:Quokka@127.0.0.1:1/d", "does not start with postgresql://", "postgresql://user"),
        ("psql 'postgresql://u:Quokka@h/d'", "psql", "only the address"),
        (
            "\N{LEFT DOUBLE QUOTATION MARK}postgresql://u:Quokka@h/d\N{RIGHT DOUBLE QUOTATION MARK}",
            "quotation mark",
            "quotation marks",
        ),
        ("DATABASE_URL=postgresql://u:Quokka@h/d", "the name of a variable", "after the ="),
        ("Host=127.0.0.1;Port=1;Username=u;Password=Quokka", ".NET", "dbname="),
        ("host=127.0.0.1;port=1;username=u;password=Quokka", ".NET", "dbname="),
        ("Server=127.0.0.1;User Id=u;Password=Quokka;", ".NET", "dbname="),
        ("jdbc:mysql://h/d?user=u&password=Quokka", "jdbc:mysql://", "postgresql://user"),
        ("dbname=d host=h password=Quokka role=owner", "the parameter role", "MIGRATION_DATABASE_URL"),
        ("dbname=d host=h pasword=Quokka", "number 3", "spelling"),
        ("dbname=d host=h pasword=Quokka", "looks like password", "spelling"),
        ("host=h password=my Quokka=1", "number 3", "single quotation marks"),
        ("postgresql://u:Quokka@h/d?SSLMODE=require", "the parameter sslmode in capital letters", "sslmode"),
        ("postgresql://u:Quokka@h/d?Quokka=1", "number 1", "not shown"),
        ('{"username": "u", "password": "Quokka"}', "JSON", "the address alone"),
    ],
)
def test_addresses_of_other_programs(
    run_entrypoint: Start, migrations_dir: Path, address: str, words: str, remedy: str
) -> None:
    run = run_entrypoint("migrate", env={**QUICK, "DATABASE_URL": address})
    assert run.wait() == 78
    (record,) = run.logs("configuration.invalid")
    assert words in record["message"]
    assert record["message"].startswith("DATABASE_URL ")
    assert remedy in record["remedy"]
    assert "ercent" not in record["remedy"]
    assert "Quokka" not in run.stderr
    assert "***" not in record["message"]


# --- The service, and children --------------------------------------------------------------------------


@pytest.mark.case("C10")
def test_a_request_with_two_ends_is_refused(
    database: Database, migrations_dir: Path, serve: Callable[..., Serving]
) -> None:
    serving = serve(database.url)
    with socket.create_connection((HOST, serving.port), 10) as client:
        client.sendall(
            b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(65536):
                received += piece
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.case("C10")
def test_children_get_none_of_our_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    from entrypoint.backup import programs

    for name in ("STATUS_TOKEN", "STATUS_TOKEN_FILE", "DATABASE_URL", "MIGRATION_DATABASE_URL_FILE", "PGPASSWORD"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("AWS_REGION", "of the application")
    environment = programs.environment()
    assert "secret" not in environment.values()
    assert environment["AWS_REGION"] == "of the application"


# In these files, `error_message` is the column, which `foreign_report` reads.
ROWS = {
    "migration/apply/leader.py",
    "migration/ledger/words.py",
    "migration/ledger/reading.py",
    "migration/operator/reversal.py",
    "operations/baseline.py",
    "operations/dry_run.py",
    "operations/repair.py",
    "operations/status.py",
}

# --- Every place where a text enters --------------------------------------------------------------------

# Errors whose text is ours, or has already been searched.
OURS = {
    "StatementError",
    "ConnectionLostError",
    "EntrypointError",
    "Failure",
    "Refused",
    "UsageError",
    "ConfigurationError",
    "LeaseLostError",
    "NotConnected",
    "NoPassword",
}


def foreign_errors_shown(source: str) -> Iterator[int]:
    """Yield the lines where somebody else's error becomes text without going through `foreign`."""
    for handler in ast.walk(ast.parse(source)):
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None or handler.type is None:
            continue
        kinds = {node.attr if isinstance(node, ast.Attribute) else node.id for node in ast.walk(handler.type)
                 if isinstance(node, ast.Attribute | ast.Name)}  # fmt: skip
        if not kinds - OURS - {"psycopg", "libpq"}:
            continue
        safe = {id(inner) for call in ast.walk(handler) if isinstance(call, ast.Call)
                and getattr(call.func, "id", "") in ("foreign", "failure_of", "type", "internal_error")
                for inner in ast.walk(call)}  # fmt: skip
        for node in ast.walk(handler):
            shown = (
                node.value if isinstance(node, ast.FormattedValue)
                else node.args[0] if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "str" and node.args
                else None
            )  # fmt: skip
            if isinstance(shown, ast.Name) and shown.id == handler.name and id(node) not in safe:
                yield handler.lineno


@pytest.mark.thorough
def test_no_error_of_others_is_shown_as_it_is() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "records.py"  # read only by developers of this program
        for line in foreign_errors_shown(path.read_text())
    ]
    assert not found


def test_the_search_for_forgotten_doors_finds_one() -> None:
    assert list(foreign_errors_shown('try:\n    f()\nexcept OSError as error:\n    say(f"no: {error}")')) == [3]
    assert list(foreign_errors_shown("try:\n    f()\nexcept Exception as error:\n    say(foreign(str(error)))")) == []


@pytest.mark.text
def test_the_servers_words_are_read_in_one_place() -> None:
    readers = ("error_field", "get_error_message", "result_error_message", "error_message")
    users = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in readers and not isinstance(node.ctx, ast.Store)
    }
    # The bindings raise it as NotConnected or PqError, and whoever catches those treats the text as foreign.
    bindings = {f"database/{name}.py" for name in ("libpq", "pq_ctypes", "pq_psycopg")}
    assert users <= {"database/answers.py", *bindings, *ROWS}
