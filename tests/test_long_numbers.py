"""Numbers too long for an integer: timestamps with up to 18 digits, and the ledger's column that holds them."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from psycopg.errors import DependentObjectsStillExist, FeatureNotSupported

from conftest import missing, new_database
from entrypoint.migration.ledger import widening
from entrypoint.migration.ledger.place import Place
from entrypoint.service import sessions
from kit.databases import server_errors
from kit.migrations import write_migrations
from kit.pooler import executable, pooler
from kit.processes import until
from kit.web import TOKEN
from scene import LEGACY, Scene, errors, load_legacy, only_error, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from psycopg import Connection
    from psycopg.rows import TupleRow

    from demo.postgres import Server
    from kit.databases import Database
    from kit.processes import Run
    from kit.web import Serving

SHORT = {"001_first.sql": "CREATE TABLE first ();", "2147483647_last_short.sql": "CREATE TABLE last_short ();"}
LONG = {
    "20261127101500_stamped.sql": "CREATE TABLE stamped ();",
    "999999999999999999_highest.sql": "CREATE TABLE highest ();",
}
HIGHEST = 999999999999999999
TYPE = "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s"


def type_of(scene: Scene, relation: str = "schema_migrations", column: str = "migration_number") -> str:
    return str(scene.database.one(TYPE, [relation, column]))


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def test_the_column_is_widened_when_the_first_long_number_is_written(
    any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    """Until then the column keeps its type, even while a long number waits behind a failing file."""
    scene = Scene(any_database, migrations_dir, run_entrypoint)
    scene.write({**SHORT, **LONG, "002_fails.sql": "SELECT 1/0"})
    assert scene.run().outcome == "failed"
    assert type_of(scene) == type_of(scene, "migration_status", "latest_migration") == "integer"
    scene.write({"002_fails.sql": "SELECT 1"})
    run = scene.start()
    assert told(run)[:2] == ("migrated", str(HIGHEST))
    assert [record["schema"] for record in run.logs() if record.get("event") == "ledger.widened"] == ["public"]
    assert type_of(scene) == type_of(scene, "migration_status", "latest_migration") == "bigint"
    numbers = [1, 2, 2147483647, 20261127101500, HIGHEST]
    assert scene.ledger() == [(number, "completed") for number in numbers]
    assert scene.database.one("SELECT total_migrations, latest_migration FROM migration_status") == (5, HIGHEST)
    again = scene.start()
    assert told(again)[:2] == ("up_to_date", str(HIGHEST))
    assert not errors(again)


def test_a_short_number_leaves_the_column_alone(scene: Scene) -> None:
    scene.write(SHORT)
    scene.migrated()
    scene.migrated()
    assert type_of(scene) == "integer"


@pytest.mark.thorough
def test_baseline_widens_it_too(scene: Scene) -> None:
    scene.write({**SHORT, **LONG})
    scene.start("baseline", "2147483647", "--yes").ok()
    assert type_of(scene) == "integer"
    scene.start("baseline", str(HIGHEST), "--yes").ok()
    assert type_of(scene) == "bigint"
    assert len(scene.ledger()) == 4
    assert not scene.database.exists("stamped")


# --- What blocks the change -----------------------------------------------------------------------------

# Objects that stop PostgreSQL from changing the column, and what we call them.
OBSTACLES = {
    "CREATE VIEW mine AS SELECT max(migration_number) FROM schema_migrations": "the view public.mine",
    "CREATE VIEW next AS SELECT latest_migration + 1 AS number FROM migration_status": "the view public.next",
    "CREATE MATERIALIZED VIEW kept AS SELECT migration_number FROM schema_migrations":
        "the materialized view public.kept",
    "CREATE RULE quiet AS ON UPDATE TO schema_migrations WHERE new.migration_number = 0 DO INSTEAD NOTHING":
        "the rule quiet on public.schema_migrations",
    "CREATE POLICY few ON schema_migrations USING (migration_number > 0)": "the policy few on public.schema_migrations",
    "ALTER TABLE schema_migrations ADD twice bigint GENERATED ALWAYS AS (migration_number::bigint * 2) STORED":
        "the generated column twice",
    "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
    " CREATE TRIGGER after_number AFTER UPDATE OF migration_number ON schema_migrations"
    " FOR EACH ROW EXECUTE FUNCTION nothing()": "the trigger after_number on public.schema_migrations",
    "CREATE FUNCTION newest() RETURNS integer LANGUAGE sql"
    " BEGIN ATOMIC SELECT max(migration_number) FROM schema_migrations; END": "the function public.newest()",
    "CREATE PUBLICATION few FOR TABLE schema_migrations WHERE (migration_number > 0)": "the publication few",
    "CREATE TABLE noted (relation regclass DEFAULT 'migration_status'::regclass)":
        "the default of the column relation of public.noted",
    "CREATE TABLE copies (id integer, row schema_migrations)": "column row of table public.copies",
    "CREATE FUNCTION shown() RETURNS SETOF migration_status LANGUAGE sql AS 'SELECT * FROM migration_status'":
        "the function public.shown()",
}  # fmt: skip
# Objects that PostgreSQL rebuilds itself.
HARMLESS = (
    "CREATE INDEX ON schema_migrations (migration_number, status)",
    "CREATE STATISTICS two (dependencies) ON migration_number, status FROM schema_migrations",
    "ALTER TABLE schema_migrations ADD CONSTRAINT positive CHECK (migration_number >= 0)",
    "ALTER TABLE schema_migrations ALTER migration_number SET DEFAULT 0",
    "CREATE TABLE notes (number integer REFERENCES schema_migrations (migration_number))",
    "CREATE VIEW names AS SELECT filename FROM schema_migrations",
    "ALTER VIEW migration_status ALTER COLUMN latest_migration SET DEFAULT 0",
    "CREATE FUNCTION all_of_them() RETURNS SETOF schema_migrations LANGUAGE sql AS 'SELECT * FROM schema_migrations'",
)


@pytest.mark.every_version
def test_what_stands_in_the_way_is_known_as_the_server_knows_it(
    any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    scene = Scene(any_database, migrations_dir, run_entrypoint)
    scene.write(SHORT)
    scene.migrated()
    place = Place("public", True, {}, {})  # noqa: FBT003
    alter = "ALTER TABLE schema_migrations ALTER COLUMN migration_number TYPE bigint"

    def ask(connection: Connection[TupleRow]) -> widening.NumberColumn:
        connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        column = widening.read_column(connection.execute(widening.question(place)).fetchall())
        connection.execute("SET LOCAL search_path TO DEFAULT")
        return column

    for sql, words in OBSTACLES.items():
        with any_database.connect() as connection, connection.transaction(force_rollback=True):
            connection.execute(sql)
            column = ask(connection)
            assert column.in_the_way == (words,), sql
            with (
                pytest.raises(FeatureNotSupported)
                if "_status" not in sql
                else pytest.raises(DependentObjectsStillExist)
            ):
                connection.execute(f"DROP VIEW migration_status; {alter}")
    with any_database.connect() as connection, connection.transaction(force_rollback=True):
        for sql in HARMLESS:
            connection.execute(sql)
        column = ask(connection)
        assert (column.narrow, column.in_the_way, column.has_view) == (True, (), True)
        connection.execute(widening.change(place, column))
        assert not ask(connection).narrow


@pytest.mark.thorough
def test_it_is_named_before_anything_is_changed(scene: Scene) -> None:
    scene.write(SHORT)
    scene.migrated()
    scene.database.execute(
        "CREATE VIEW mine AS SELECT max(migration_number) FROM schema_migrations;"
        "CREATE POLICY few ON schema_migrations USING (migration_number > 0)"
    )
    scene.write(LONG)
    for command in (("migrate",), ("migrate", "--rehearse"), ("baseline", str(HIGHEST), "--yes")):
        run = scene.start(*command)
        assert run.wait() == 78, run.report()
        error = only_error(run)
        assert (
            "the policy few on public.schema_migrations, the view public.mine; the column was not changed"
            in error["message"]
        )
        assert scene.ledger() == [(1, "completed"), (2147483647, "completed")]
        assert type_of(scene) == "integer"
        assert scene.lock_is_free()
    told_so = scene.run()
    assert (told_so.outcome, told_so.version) == ("failed", "2147483647")
    assert "the view public.mine" in told_so.error
    scene.database.execute("DROP VIEW mine; DROP POLICY few ON schema_migrations")
    assert scene.run()[:2] == ("migrated", str(HIGHEST))


def test_a_dry_run_foresees_it(scene: Scene) -> None:
    scene.write(SHORT)
    scene.migrated()
    scene.write(LONG)
    assert "20261127101500_stamped.sql" in scene.start("migrate", "--dry-run").ok().stdout
    scene.database.execute("CREATE VIEW mine AS SELECT max(migration_number) FROM schema_migrations")
    run = scene.start("migrate", "--dry-run")
    assert run.wait() == 78, run.report()
    assert "because of the view public.mine; the column was not changed" in only_error(run)["message"]
    # Short numbers still run.
    scene.write({"002_second.sql": "CREATE TABLE second ()"})
    shown = scene.start("migrate", "--dry-run").ok().stdout
    assert "002_second.sql" in shown
    assert "It would stop before 20261127101500_stamped.sql: Numbers above 2147483647 need the column" in shown
    assert "  Fix: Drop these objects, start again" in shown
    assert scene.migrate().code == 78
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (2147483647, "completed")]


def test_what_depends_on_the_view_is_only_in_the_way_where_it_has_to_be_made_again(scene: Scene) -> None:
    """After a file that names the ledger, the program repairs its own objects."""
    scene.write(
        {
            "001_report.sql": "CREATE VIEW report AS SELECT latest_migration FROM migration_status;"
            "GRANT SELECT ON migration_status TO public;",
            "002_reader.sql": "CREATE TABLE copy AS SELECT migration_number FROM schema_migrations;",
        }
    )
    scene.migrated()
    assert scene.database.one("SELECT latest_migration FROM report") == 2
    assert scene.database.one("SELECT relacl::text FROM pg_class WHERE oid = 'migration_status'::regclass")
    # Now it must be created again: it is no longer our view, and a view that depends on it prevents that.
    scene.write(
        {
            "003_other.sql": "DROP VIEW report, migration_status; CREATE VIEW migration_status AS SELECT 1 AS other;"
            "CREATE VIEW report AS TABLE migration_status;"
        }
    )
    run = scene.migrate()
    assert run.code == 70, run.report()
    told_all = json.dumps(only_error(run))
    assert "something is in the way: view public.report depends on view public.migration_status" in told_all
    assert "Drop what depends on the view migration_status" in told_all


def test_the_view_keeps_its_owner_privileges_options_and_comments(scene: Scene) -> None:
    scene.write(SHORT)
    scene.migrated()
    database, names = scene.database, {name: f"{name}_{scene.database.name}" for name in ("owner", "reader")}
    database.execute(
        'CREATE ROLE {owner}; CREATE ROLE "{reader} of it"; GRANT CREATE, USAGE ON SCHEMA public TO {owner};'
        "GRANT SELECT ON schema_migrations TO {owner}; ALTER VIEW migration_status OWNER TO {owner};"
        "ALTER VIEW migration_status SET (security_barrier = true);"
        "COMMENT ON VIEW migration_status IS 'For the ''monitor''';"
        "COMMENT ON COLUMN migration_status.failed_migrations IS 'Should be 0';"
        'GRANT SELECT ON migration_status TO "{reader} of it" WITH GRANT OPTION;'
        "GRANT SELECT (latest_migration) ON migration_status TO PUBLIC".format(**names)
    )
    facts = """
        SELECT c.relowner::regrole, c.relacl::text, c.reloptions, obj_description(c.oid),
               (SELECT array_agg((a.attname, a.attacl, col_description(c.oid, a.attnum))::text ORDER BY a.attnum)
                FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)
        FROM pg_class c WHERE c.oid = 'migration_status'::regclass"""
    before = database.rows(facts)
    try:
        scene.write(LONG)
        assert scene.run()[:2] == ("migrated", str(HIGHEST))
        assert type_of(scene, "migration_status", "latest_migration") == "bigint"
        assert database.rows(facts) == before
    finally:
        database.execute(
            'DROP VIEW migration_status; DROP OWNED BY {owner}; DROP OWNED BY "{reader} of it";'
            'DROP ROLE {owner}; DROP ROLE "{reader} of it"'.format(**names)
        )


@pytest.mark.thorough
def test_without_the_view_there_is_none_afterwards(scene: Scene) -> None:
    scene.write(SHORT)
    scene.migrated()
    scene.database.execute("DROP VIEW migration_status")
    scene.write(LONG)
    scene.migrated()
    assert type_of(scene) == "bigint"
    assert not scene.database.exists("migration_status")


@pytest.mark.thorough
def test_it_takes_the_owner(scene: Scene) -> None:
    scene.write(SHORT)
    scene.migrated()
    login, owner = f"login_{scene.database.name}", f"owner_{scene.database.name}"
    scene.database.execute(
        f"CREATE ROLE {owner}; CREATE ROLE {login} LOGIN; GRANT CREATE ON SCHEMA public TO {login}, {owner};"
        f"ALTER SCHEMA public OWNER TO {owner};"
        f"ALTER TABLE schema_migrations OWNER TO {owner}; ALTER TABLE migration_lock OWNER TO {owner};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON schema_migrations, migration_lock TO {login}"
    )
    try:
        scene.write(LONG)
        run = scene.migrate(url=scene.database.server.url(scene.database.name, user=login))
        assert run.code == 70, run.report()
        error = only_error(run)
        assert error["message"].startswith("Could not change the column migration_number to bigint: must be owner of ")
        assert f"GRANT {owner} TO {login}" in error["remedy"]
        assert scene.ledger() == [(1, "completed"), (2147483647, "completed")]
    finally:
        scene.database.execute(
            "ALTER SCHEMA public OWNER TO pg_database_owner; DROP VIEW migration_status;"
            f"DROP OWNED BY {login}, {owner}; DROP ROLE {login}, {owner}"
        )


@pytest.mark.thorough
def test_nobody_is_told_to_become_a_superuser(scene: Scene) -> None:
    """A superuser ran the first start, so the ledger belongs to it."""
    scene.write(SHORT)
    scene.migrated()
    login = f"login_{scene.database.name}"
    scene.database.execute(
        f"CREATE ROLE {login} LOGIN; GRANT CREATE ON SCHEMA public TO {login};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON schema_migrations, migration_lock TO {login}"
    )
    url = scene.database.server.url(scene.database.name, user=login)
    try:
        scene.write(LONG)
        run = scene.migrate(url=url)
        assert run.code == 70, run.report()
        remedy = only_error(run)["remedy"]
        owned = f"ALTER TABLE public.schema_migrations OWNER TO {login}; ALTER TABLE public.migration_lock OWNER TO"
        assert owned in remedy
        assert "GRANT" not in remedy
        # Following the remedy works.
        for statement in remedy.partition(": ")[2].partition(". Or")[0].split("; "):
            scene.database.execute(statement)
        assert scene.migrate(url=url).code == 0
        superuser = str(scene.database.one("SELECT current_user"))
        run = scene.migrate(url=url, MIGRATION_ROLE=superuser)
        assert "GRANT " + superuser not in json.dumps(errors(run))
    finally:
        scene.database.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")


@pytest.mark.thorough
def test_a_reader_that_keeps_it_locked_is_named_and_waited_for(scene: Scene) -> None:
    scene.write(SHORT)
    scene.migrated()
    scene.write(LONG)
    with scene.database.connect(application_name="a dump") as reader:
        with reader.transaction():
            reader.execute("SELECT FROM schema_migrations")
            run = scene.start()
            message = str(run.until("ledger.locked")["message"])
            assert message.startswith(
                "could not change the column migration_number to bigint: the migration history is locked by"
            )
            assert "a dump" in message
            # Between two attempts, nobody queues behind us.
            late = scene.start("status").ok()
            assert "20261127101500_stamped.sql" in late.stdout
        assert told(run)[:2] == ("migrated", str(HIGHEST))
        with reader.transaction():
            reader.execute("SELECT FROM schema_migrations")
            assert scene.run().outcome == "up_to_date"


@pytest.mark.thorough
def test_a_reader_that_never_ends(scene: Scene) -> None:
    scene.write(SHORT)
    scene.migrated()
    scene.write(LONG)
    with scene.database.connect(application_name="a dump") as reader, reader.transaction():
        reader.execute("SELECT FROM schema_migrations")
        run = scene.migrate(MIGRATION_TIMEOUT_MS=1500)
        assert run.code == 75, run.report()
        error = only_error(run)
        assert "a dump" in error["message"]
        assert "pg_terminate_backend" in error["remedy"]
    assert type_of(scene) == "integer"
    assert scene.lock_is_free()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_whoever_is_ended_meanwhile_leaves_nothing_behind(scene: Scene, end: signal.Signals) -> None:
    scene.write(SHORT)
    scene.migrated()
    scene.write(LONG)
    with scene.database.connect(application_name="a dump") as reader, reader.transaction():
        reader.execute("SELECT FROM schema_migrations")
        run = scene.start()
        run.until("ledger.locked")
        run.kill(end)
        assert run.wait(timeout=2.5) in (128 + signal.SIGTERM, -signal.SIGKILL)
        until(lambda: scene.database.sessions() == 1, 5, "the end of its sessions")
        assert type_of(scene) == "integer"
    assert scene.run()[:2] == ("migrated", str(HIGHEST))


@pytest.mark.thorough
def test_an_operator_who_frees_the_lock_is_heard(scene: Scene) -> None:
    scene.write(SHORT)
    scene.migrated()
    scene.write(LONG)
    with scene.database.connect(application_name="a dump") as reader, reader.transaction():
        reader.execute("SELECT FROM schema_migrations")
        run = scene.start("migrate")
        run.until("ledger.locked")
        scene.database.execute("UPDATE migration_lock SET locked_at = NULL, locked_by = NULL, process_id = NULL")
        assert run.wait() == 75, run.report()
        assert "An operator freed the migration lock" in only_error(run)["message"]
    assert type_of(scene) == "integer"


@pytest.mark.thorough
def test_through_a_pooler(scene: Scene) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    scene.write(SHORT)
    scene.migrated()
    scene.write(LONG)
    with pooler(scene.database.server, pool_size=2) as port:
        assert scene.run(url=scene.database.url_at(port))[:2] == ("migrated", str(HIGHEST))
        assert scene.run(url=scene.database.url_at(port))[:2] == ("up_to_date", str(HIGHEST))
    assert type_of(scene) == "bigint"


# --- The earlier system ---------------------------------------------------------------------------------


def test_an_earlier_systems_ledger_and_its_own_script(scene: Scene) -> None:
    """Its script's CREATE OR REPLACE VIEW fails if a column's type differs. Run it before, alongside and after."""
    load_legacy(scene.database)
    legacy = {path.name: path.read_bytes() for path in (LEGACY / "migrations").iterdir()}
    scene.write({**legacy, **LONG})
    assert scene.run()[:2] == ("migrated", str(HIGHEST))
    assert type_of(scene) == type_of(scene, "migration_status", "latest_migration") == "bigint"
    script = legacy["000_migration_system.sql"]
    scene.write({"20261127101501_migration_system_again.sql": script})
    assert scene.run()[:2] == ("migrated", str(HIGHEST))
    assert scene.database.one("SELECT latest_migration FROM migration_status") == HIGHEST
    scene.database.execute(script.decode())
    assert scene.database.one("SELECT latest_migration FROM migration_status") == HIGHEST
    assert scene.run()[:2] == ("up_to_date", str(HIGHEST))


@pytest.mark.parametrize("upgraded", [True, False], ids=["our tables", "its own tables"])
def test_not_while_a_replica_of_it_holds_the_lock(scene: Scene, upgraded: bool) -> None:  # noqa: FBT001
    if upgraded:
        scene.write(SHORT)
        scene.migrated()
        assert scene.database.one("SELECT acquire_migration_lock('earlier-1', 4242)") is True
    else:
        load_legacy(scene.database, rows=False)
        scene.database.execute("UPDATE migration_lock SET locked_at = now(), locked_by = 'earlier-1', process_id = 1")
    scene.write({**SHORT, **LONG})
    run = scene.start()
    run.until("lock.waiting")
    assert type_of(scene) == "integer"
    scene.database.execute("UPDATE migration_lock SET locked_at = NULL, locked_by = NULL, process_id = NULL")
    assert told(run)[:2] == ("migrated", str(HIGHEST))
    assert type_of(scene) == "bigint"


# --- Everything that shows a number ---------------------------------------------------------------------


@pytest.mark.thorough
def test_every_command_takes_it(scene: Scene) -> None:
    scene.write({**SHORT, **LONG})
    write_migrations(scene.migrations / "rollback", {f"{HIGHEST}_highest.sql": "DROP TABLE highest"})
    scene.start("migrate", "--to", "20261127101500").ok()
    assert scene.ledger()[-1] == (20261127101500, "completed")
    scene.start("wait", "--version", "20261127101500", "--timeout", "1").ok()
    assert scene.start("wait", "--version", str(HIGHEST), "--timeout", "0").wait() == 75
    dry = scene.start("migrate", "--dry-run").ok()
    assert f"{HIGHEST}_highest.sql" in dry.stdout
    scene.migrated()
    run = scene.start("status", "--json").ok()
    status = json.loads(run.stdout)
    assert (status["currentVersion"], status["latestVersion"], status["lastMigration"]["number"]) == (HIGHEST,) * 3
    table = scene.start("status").ok().stdout
    assert f"Up to date at version {HIGHEST}." in table
    assert f"\n{HIGHEST}  {HIGHEST}_highest.sql" in table
    assert scene.start("version").ok().stdout == f"{HIGHEST}\n"
    scene.start("rollback", "--to", "20261127101500", "--yes").ok()
    assert scene.ledger()[-1] == (20261127101500, "completed")
    assert scene.start("check", "--no-lint").ok().stdout


@pytest.mark.thorough
def test_the_service_takes_it(scene: Scene, serve: Callable[..., Serving]) -> None:
    """The page and the badge are text. JSON has numbers, and a metric is exact up to 15 digits."""
    scene.write({**SHORT, "20261127101500_stamped.sql": LONG["20261127101500_stamped.sql"]})
    scene.migrated()
    scene.write(LONG)
    serving = serve(scene.database.url)
    data = serving.data()
    assert (data["currentVersion"], data["latestVersion"]) == (20261127101500, HIGHEST)
    assert data["lastMigration"]["number"] == data["migrations"][2]["number"] == 20261127101500
    assert "v20261127101500, 1 pending" in serving.ask("/badge.svg").body.decode()
    (version,) = re.findall(r"\npg_entrypoint_schema_version{.*} (.*)\n", serving.ask("/metrics").body.decode())
    assert float(version) == 20261127101500
    cookie = f"{sessions.COOKIE}={sessions.issue(TOKEN)}"
    page = serving.ask("/admin", token=None, headers={"Cookie": cookie}).body.decode()
    assert f"At version 20261127101500; the newest file is version {HIGHEST}." in page


@pytest.mark.thorough
def test_an_image_with_short_numbers_only_on_a_wide_column(scene: Scene, tmp_path: Path) -> None:
    scene.write({**SHORT, **LONG})
    scene.migrated()
    older = tmp_path / "older"
    write_migrations(older, SHORT)
    assert scene.run(MIGRATIONS_DIR=str(older))[:2] == ("ahead", str(HIGHEST))
    script = (LEGACY / "migrations" / "000_migration_system.sql").read_bytes()
    write_migrations(older, {"000_migration_system.sql": script, "002_more.sql": "CREATE TABLE more ()"})
    assert scene.run(MIGRATIONS_DIR=str(older))[:2] == ("migrated", str(HIGHEST))
    assert type_of(scene) == type_of(scene, "migration_status", "latest_migration") == "bigint"


@pytest.mark.thorough
def test_a_failure_is_recorded_and_repaired(scene: Scene) -> None:
    scene.write({**SHORT, f"{HIGHEST}_fails.sql": "SELECT 1/0"})
    run = scene.migrate()
    assert run.code == 70
    assert (only_error(run)["version"], only_error(run)["file"]) == (HIGHEST, f"{HIGHEST}_fails.sql")
    assert scene.ledger()[-1] == (HIGHEST, "failed")
    scene.start("repair", "--failed", "--yes").ok()
    scene.write({f"{HIGHEST}_fails.sql": "SELECT 1"})
    scene.migrated()
    scene.write({f"{HIGHEST}_fails.sql": "SELECT 2"})
    scene.start("repair", "--checksums", "--yes").ok()
    assert scene.run().outcome == "up_to_date"


def test_outside_a_transaction(scene: Scene) -> None:
    scene.write(
        {
            **SHORT,
            f"{HIGHEST}_index.sql": "CREATE INDEX CONCURRENTLY i ON t (id);",
            "002_t.sql": "CREATE TABLE t (id integer)",
        }
    )
    assert scene.run()[:2] == ("migrated", str(HIGHEST))
    assert scene.ledger()[-1] == (HIGHEST, "completed")


@pytest.mark.thorough
def test_rows_that_a_file_removes_are_named(scene: Scene) -> None:
    scene.write({**SHORT, **LONG})
    scene.migrated()
    scene.write({"20261127101501_truncates.sql": "TRUNCATE schema_migrations"})
    run = scene.migrate()
    assert run.code == 70
    assert "removed rows from schema_migrations" in only_error(run)["message"]
    assert len(scene.ledger()) == 5


@pytest.mark.thorough
def test_a_rehearsal_leaves_the_column_as_it_is(scene: Scene) -> None:
    scene.write(SHORT)
    scene.migrated()
    scene.write(LONG)
    run = scene.start("migrate", "--rehearse").ok()
    assert "Rehearsed 2 of 2 migrations" in run.stdout
    assert type_of(scene) == "integer"
    scene.migrated()
    scene.write({"20261127101502_more.sql": "CREATE TABLE more ()"})
    scene.start("migrate", "--rehearse").ok()


# --- Several replicas -----------------------------------------------------------------------------------

ROUNDS = int(os.environ.get("ENTRYPOINT_TEST_RACE_ROUNDS", "1"))


@pytest.mark.parametrize("replicas", [3, pytest.param(8, marks=pytest.mark.thorough)])
@pytest.mark.timeout(60 + 15 * ROUNDS)
def test_replicas_at_a_short_ledger(
    any_server: Server, migrations_dir: Path, run_entrypoint: Callable[..., Run], replicas: int
) -> None:
    """A program that constantly reads the table and the view never sees an error or an empty table."""
    for _ in range(ROUNDS):
        with new_database(any_server, "long") as database:
            race(Scene(database, migrations_dir, run_entrypoint), replicas)


def race(scene: Scene, count: int) -> None:
    for path in scene.migrations.iterdir():
        path.unlink()
    scene.write(SHORT)
    scene.migrated()
    mark = scene.database.server.log_size()
    scene.write(LONG)
    over = threading.Event()
    seen: set[tuple[int, int]] = set()

    def read() -> None:
        with scene.database.connect(application_name="reader") as connection:
            connection.prepare_threshold = None
            while not over.is_set():
                (rows,) = connection.execute("SELECT count(*) FROM schema_migrations").fetchall()
                (status,) = connection.execute("SELECT latest_migration FROM migration_status").fetchall()
                seen.add((rows[0], status[0]))

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        try:
            replicas = [scene.start() for _ in range(count)]
            everybody = [told(replica) for replica in replicas]
        finally:
            over.set()
        reading.result()
    stories = "\n".join(replica.report() for replica in replicas)
    outcomes = sorted(one.outcome for one in everybody)
    assert outcomes.count("migrated") == 1, stories
    assert set(outcomes) <= {"migrated", "waited", "up_to_date"}, stories
    assert {(one.version, one.error) for one in everybody} == {(str(HIGHEST), "")}, stories
    assert stories.count('"ledger.widened"') == 1, stories
    assert [number for number, _ in scene.ledger()] == [1, 2147483647, 20261127101500, HIGHEST]
    assert {count for count, _ in seen} <= {2, 3, 4}
    assert {latest for _, latest in seen} <= {2147483647, 20261127101500, HIGHEST}
    assert server_errors(scene.database.server, mark) == []


@pytest.mark.parametrize("command", [["wait", "--version"], ["migrate", "--to"], ["baseline"], ["rollback", "--to"]])
def test_a_number_that_no_file_can_have_is_a_mistake(run_entrypoint: Callable[..., Run], command: list[str]) -> None:
    """Waiting for such a number would never end."""
    run = run_entrypoint(*command, "1" * 19)
    assert run.wait() == 64
    assert "up to 18 digits" in only_error(run)["message"]
