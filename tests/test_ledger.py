"""The ledger and the lock's row as tables: created, upgraded in place, repaired, or left alone if not ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from conftest import new_database
from entrypoint.database import transactions
from entrypoint.database.target import target
from entrypoint.deadline import Deadline
from entrypoint.migration.apply.doubt import settle
from entrypoint.migration.ledger import tables, writing
from entrypoint.migration.ledger.finding import find
from entrypoint.migration.ledger.keys import guard_key
from entrypoint.migration.ledger.place import Place
from entrypoint.migration.lock.takeover import _end_zombie
from entrypoint.migration.lock.waiting import Streak
from kit.databases import server_errors
from kit.processes import until
from scene import LEGACY, Gate, Scene, errors, load_legacy, lock_key, only_error, token_of, told, warnings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServerFactory
    from demo.postgres import Server
    from entrypoint.migration.lock.guard import Guard
    from kit.databases import Database
    from kit.processes import Run

GOOD = {"001_good.sql": "CREATE TABLE good ();"}
LEGACY_FILES = str(LEGACY / "migrations")


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


@pytest.fixture
def legacy(scene: Scene) -> Scene:
    """Return a scene with the earlier system's database; its files are LEGACY_FILES."""
    load_legacy(scene.database)
    return scene


COLUMNS = """
    SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
LEDGER_COLUMNS = {
    "id": "integer",
    "migration_number": "integer",
    "filename": "text",
    "applied_at": "timestamp with time zone",
    "application_version": "text",
    "execution_time_ms": "integer",
    "status": "text",
    "error_message": "text",
    "checksum": "character varying(64)",
    "floor": "text",
    "initial_up_to": "bigint",
}
LOCK_COLUMNS = {
    "id": "integer",
    "locked_at": "timestamp with time zone",
    "locked_by": "text",
    "process_id": "integer",
    "token": "text",
}
VIEW_COLUMNS = [
    "total_migrations",
    "latest_migration",
    "last_migration_time",
    "total_execution_time_ms",
    "failed_migrations",
]
FUNCTIONS = """
    SELECT proname::text, pg_get_function_arguments(oid), pg_get_function_result(oid) FROM pg_proc
    WHERE pronamespace = %s::regnamespace ORDER BY 1
"""
SIGNATURES = [
    ("acquire_migration_lock", "lock_holder character varying, pid integer", "boolean"),
    ("is_migration_locked", "", "boolean"),
    ("release_migration_lock", "", "void"),
    ("release_stale_migration_locks", "", "integer"),
]


def functions_are_ours(database: Database) -> bool:
    """Our functions skip what is locked; the earlier system's wait or fail."""
    sources = database.rows(
        "SELECT prosrc FROM pg_proc WHERE proname IN ('acquire_migration_lock', 'release_stale_migration_locks',"
        " 'release_migration_lock') AND pronamespace = 'public'::regnamespace"
    )
    return len(sources) == 3 and all("SKIP LOCKED" in source for (source,) in sources)


# --- A new database -------------------------------------------------------------------------------------


def test_what_is_created(any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> None:
    scene = Scene(any_database, migrations_dir, run_entrypoint)
    scene.write(GOOD)
    assert scene.run(APP_VERSION="1.0.0").outcome == "migrated"
    database = scene.database
    assert dict(database.rows(COLUMNS, ["schema_migrations"])) == LEDGER_COLUMNS
    lock = dict(database.rows(COLUMNS, ["migration_lock"]))
    assert list(lock.items())[:5] == list(LOCK_COLUMNS.items())
    more = [name for name in list(lock)[5:] if not name.startswith("progress_")]
    assert more == ["guard_pid", "guard_token", "until"]
    assert [name for name, _ in database.rows(COLUMNS, ["migration_status"])] == VIEW_COLUMNS
    assert database.rows(FUNCTIONS, ["public"]) == SIGNATURES
    row = database.one(
        "SELECT to_jsonb(m) - '{id,applied_at,execution_time_ms,checksum}'::text[] FROM schema_migrations m"
    )
    assert row == {
        "migration_number": 1,
        "filename": "001_good.sql",
        "application_version": "1.0.0",
        "status": "completed",
        "error_message": None,
        "floor": None,
        "initial_up_to": None,
    }
    assert database.one(
        "SELECT applied_at BETWEEN now() - interval '1 minute' AND now() AND execution_time_ms BETWEEN 0 AND 60000"
        " AND length(checksum) = 64 FROM schema_migrations"
    )
    total, latest, last, time, failed = database.one("SELECT * FROM migration_status")
    assert (total, latest, failed) == (1, 1, 0)
    assert last == database.one("SELECT applied_at FROM schema_migrations")
    assert time >= 0
    assert scene.lock_is_free()
    with pytest.raises(Exception, match="check constraint"):
        database.execute("INSERT INTO migration_lock (id) VALUES (2)")
    with pytest.raises(Exception, match="unique"):
        database.execute("INSERT INTO schema_migrations (migration_number, filename) VALUES (1, 'again')")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_any_default_isolation_will_do(scene: Scene, level: str) -> None:
    scene.database.execute(f"ALTER DATABASE {scene.database.name} SET default_transaction_isolation TO '{level}'")
    scene.write({**GOOD, "002_b.sql": "CREATE TABLE b ()"})
    mark = scene.database.server.log_size()
    replicas = [scene.start() for _ in range(3)]
    assert sorted(told(replica).outcome for replica in replicas).count("migrated") == 1
    assert scene.ledger() == [(1, "completed"), (2, "completed")]
    assert scene.lock_is_free()
    assert server_errors(scene.database.server, mark) == []
    scene.write({"003_bad.sql": "SELECT 1/0"})
    assert scene.run().outcome == "failed"
    assert scene.ledger()[-1] == (3, "failed")
    assert scene.lock_is_free()


def test_a_lock_row_that_somebody_deleted_is_made_again(scene: Scene) -> None:
    scene.write(GOOD)
    scene.migrated()
    scene.database.execute("DELETE FROM migration_lock")
    scene.write({"002_b.sql": "CREATE TABLE b ()"})
    answer = scene.run(MIGRATION_LOCK_TIMEOUT_MS=2000)
    assert answer[:2] == ("migrated", "2"), answer
    assert scene.lock_is_free()


# --- Upgrading what an earlier system left --------------------------------------------------------------

ROWS = """
    SELECT id, migration_number, filename, application_version, execution_time_ms, status, error_message, checksum
    FROM schema_migrations WHERE migration_number < 3 ORDER BY migration_number
"""
TIMES = """
    SELECT to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS') FROM schema_migrations
    WHERE migration_number < 3 ORDER BY migration_number
"""


def test_an_earlier_systems_database_is_upgraded_in_place(
    any_server: Server, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    with new_database(any_server, "upgrade") as database:
        scene = Scene(database, migrations_dir, run_entrypoint)
        load_legacy(database)
        before = database.rows(ROWS)
        mark = any_server.log_size()
        run = scene.start(MIGRATIONS_DIR=LEGACY_FILES, APP_VERSION="a" * 40)
        assert told(run)[:2] == ("migrated", "4")
        assert [text for text in warnings(run) if "checksum" in text] == [], "its raw checksums are accepted"
        assert database.rows(ROWS) == before
        assert [time for (time,) in database.rows(TIMES)] == [
            "2024-03-11 09:15:22.481",
            "2024-03-11 09:15:22.655",
            "2024-07-02 16:40:05.020",
        ]
        assert database.one("SELECT application_version FROM schema_migrations WHERE migration_number = 4") == "a" * 40
        ledger, lock = (
            dict(database.rows(COLUMNS, ["schema_migrations"])),
            dict(database.rows(COLUMNS, ["migration_lock"])),
        )
        assert ledger["applied_at"] == lock["locked_at"] == "timestamp with time zone"
        assert ledger["application_version"] == "text"
        assert lock["token"] == "text"
        assert [name for name, _ in database.rows(COLUMNS, ["migration_status"])] == VIEW_COLUMNS
        assert database.rows(FUNCTIONS, ["public"]) == SIGNATURES
        assert functions_are_ours(database)
        assert scene.lock_is_free()
        assert server_errors(any_server, mark) == []
        after = database.schema()
        assert scene.run(MIGRATIONS_DIR=LEGACY_FILES).outcome == "up_to_date"
        assert database.schema() == after


def test_it_is_upgraded_even_if_nothing_is_pending_and_by_one_of_many(legacy: Scene) -> None:
    legacy.write({file.name: file.read_bytes() for file in (LEGACY / "migrations").glob("00[012]*")})
    mark = legacy.database.server.log_size()
    replicas = [legacy.start() for _ in range(4)]
    assert {told(replica).outcome for replica in replicas} <= {"up_to_date", "waited"}
    assert functions_are_ours(legacy.database)
    assert sum("ledger.created" in replica.events() for replica in replicas) == 1
    assert len(legacy.ledger()) == 3
    assert server_errors(legacy.database.server, mark) == []


# Tokyo has no daylight saving time: 09:15 there is 00:15 UTC.
TOKYO = ["2024-03-11 00:15:22.481", "2024-03-11 00:15:22.655", "2024-07-02 07:40:05.020"]


@pytest.mark.parametrize("client", [{}, {"PGTZ": "America/Lima"}, {"TZ": "America/Lima"}], ids=["", "PGTZ", "TZ"])
def test_times_are_converted_in_the_databases_own_time_zone(legacy: Scene, client: dict[str, str]) -> None:
    legacy.database.execute(f"ALTER DATABASE {legacy.database.name} SET timezone TO 'Asia/Tokyo'")
    legacy.migrated(MIGRATIONS_DIR=LEGACY_FILES, **client)
    assert [time for (time,) in legacy.database.rows(TIMES)] == TOKYO


@pytest.mark.parametrize("client", [{}, {"PGTZ": "America/Lima"}], ids=["", "PGTZ"])
def test_times_are_converted_in_the_servers_own_time_zone(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run], client: dict[str, str]
) -> None:
    server = fresh_server(settings={"timezone": "Asia/Tokyo"})
    with new_database(server, "zone") as database:
        load_legacy(database)
        Scene(database, migrations_dir, run_entrypoint).migrated(MIGRATIONS_DIR=LEGACY_FILES, **client)
        assert [time for (time,) in database.rows(TIMES)] == TOKYO


@pytest.mark.thorough
def test_summer_time_counts_for_each_row(legacy: Scene) -> None:
    legacy.database.execute(f"ALTER DATABASE {legacy.database.name} SET timezone TO 'Europe/Berlin'")
    legacy.migrated(MIGRATIONS_DIR=LEGACY_FILES)
    hours = [time[11:13] for (time,) in legacy.database.rows(TIMES)]
    assert hours == ["08", "08", "14"]


@pytest.mark.thorough
def test_failed_rows_do_not_count_as_applied(legacy: Scene) -> None:
    """The earlier system counted them, but what such a row stands for is not in the database."""
    legacy.database.execute(
        "INSERT INTO schema_migrations (migration_number, filename, status, error_message)"
        " VALUES (3, '003_empty.sql', 'failed', 'it rained')"
    )
    run = legacy.start(MIGRATIONS_DIR=LEGACY_FILES)
    answer = told(run)
    assert answer.outcome == "failed"
    assert "003_empty.sql" in answer.error
    assert "it rained" in answer.error
    assert not legacy.database.exists("inspections")
    legacy.database.execute("DELETE FROM schema_migrations WHERE migration_number = 3 AND status = 'failed'")
    assert legacy.run(MIGRATIONS_DIR=LEGACY_FILES)[:2] == ("migrated", "4")


def test_a_ledger_of_its_first_days_gets_the_columns_that_it_lacks(scene: Scene) -> None:
    """Before its 000 file ran, the earlier system's table had four columns, and there was no lock."""
    scene.database.execute(
        "CREATE TABLE schema_migrations (id serial PRIMARY KEY, migration_number integer UNIQUE NOT NULL,"
        " filename varchar(255) NOT NULL, applied_at timestamp DEFAULT now());"
        "INSERT INTO schema_migrations (migration_number, filename) VALUES (1, '001_initial.sql')"
    )
    scene.migrated(MIGRATIONS_DIR=LEGACY_FILES)
    assert scene.ledger() == [(number, "completed") for number in range(5)]
    assert LEDGER_COLUMNS.keys() <= dict(scene.database.rows(COLUMNS, ["schema_migrations"])).keys()
    assert not scene.database.exists("sites"), "001 was applied already"


# --- The earlier system's script as a migration ---------------------------------------------------------

SAME_TRANSACTION = """
    SELECT bool_and(p.xmin = m.xmin) FROM pg_proc p, schema_migrations m
    WHERE m.migration_number = 0 AND p.pronamespace = 'public'::regnamespace
"""


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_its_own_script_runs_as_an_ordinary_migration(scene: Scene, first: str) -> None:
    if first == "ours":
        scene.write(GOOD)
        scene.migrated()
    else:
        load_legacy(scene.database, rows=False)
    script = (LEGACY / "migrations" / "000_migration_system.sql").read_bytes()
    scene.write({"000_migration_system.sql": script, **GOOD, "002_last.sql": "CREATE TABLE last ()"})
    mark = scene.database.server.log_size()
    assert scene.run()[:2] == ("migrated", "2")
    assert scene.ledger() == [(0, "completed"), (1, "completed"), (2, "completed")]
    assert functions_are_ours(scene.database)
    assert scene.database.one(SAME_TRANSACTION) is True
    assert dict(scene.database.rows(COLUMNS, ["schema_migrations"]))["applied_at"] == "timestamp with time zone"
    assert [name for name, _ in scene.database.rows(COLUMNS, ["migration_status"])] == VIEW_COLUMNS
    assert scene.lock_is_free()
    assert server_errors(scene.database.server, mark) == []


TAMPERING = {
    "makes the lock's table again": "DROP TABLE migration_lock CASCADE;"
    " CREATE TABLE migration_lock (id integer PRIMARY KEY DEFAULT 1, locked_at timestamp, locked_by varchar(255),"
    " process_id integer); INSERT INTO migration_lock (id) VALUES (1);",
    "empties the lock's row": "UPDATE migration_lock SET locked_at = NULL, locked_by = NULL, process_id = NULL,"
    " token = NULL;",
    "calls the functions": "SELECT release_stale_migration_locks(); SELECT release_migration_lock();",
    "deletes the lock's row": "DELETE FROM migration_lock;",
    "drops the view": "DROP VIEW migration_status;",
    "drops a function": "DROP FUNCTION acquire_migration_lock(varchar, integer);",
    "by another name, dynamically": "DO $$ BEGIN EXECUTE 'DROP VIEW migration' || '_status'; END $$;",
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("case", TAMPERING)
def test_what_a_migration_did_to_the_bookkeeping_is_put_right(scene: Scene, case: str) -> None:
    scene.write({**GOOD, "002_tamper.sql": TAMPERING[case], "003_last.sql": "CREATE TABLE last ()"})
    assert scene.run()[:2] == ("migrated", "3")
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]
    if "dynamically" not in case:
        assert functions_are_ours(scene.database)
        assert scene.database.exists("migration_status")
    assert scene.lock_is_free()
    scene.write({"004_more.sql": "CREATE TABLE more ()"})
    assert scene.run()[:2] == ("migrated", "4")


# --- The functions --------------------------------------------------------------------------------------

HOLDER = "SELECT locked_by, process_id, token FROM migration_lock"


def acquire(database: Database) -> Any:
    return database.one("SELECT acquire_migration_lock('earlier-1', 4242)")


def test_the_functions_among_themselves(scene: Scene) -> None:
    scene.write(GOOD)
    scene.migrated()
    database = scene.database
    assert database.one("SELECT is_migration_locked()") is False
    assert acquire(database) is True
    assert database.one(HOLDER) == ("earlier-1", 4242, None)
    assert database.one("SELECT is_migration_locked()") is True
    assert acquire(database) is False
    assert database.one("SELECT release_stale_migration_locks()") == 0
    database.one("SELECT release_migration_lock()")
    assert database.one("SELECT is_migration_locked()") is False
    assert acquire(database) is True
    database.execute("UPDATE migration_lock SET locked_at = now() - interval '601 seconds'")
    assert database.one("SELECT release_stale_migration_locks()") == 1
    assert scene.lock_is_free()


def test_the_functions_respect_a_living_holder(scene: Scene) -> None:
    scene.write({**GOOD, "002_gate.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        gate.arrival()
        database = scene.database
        held = database.one(HOLDER)
        assert held[1:] == (leader.pid, token)
        database.execute("UPDATE migration_lock SET locked_at = now() - interval '1 year'")  # age does not matter
        with database.connect(options="-c statement_timeout=2000") as earlier:  # and nobody has to wait
            assert earlier.execute("SELECT release_stale_migration_locks()").fetchone() == (0,)
            assert earlier.execute("SELECT acquire_migration_lock('earlier-1', 4242)").fetchone() == (False,)
            earlier.execute("SELECT release_migration_lock()")
        assert database.one(HOLDER) == held
        assert database.one("SELECT is_migration_locked()") is True
        # Between two migrations only the guard is held, no fence, as if the worker's transaction had ended.
        gate.open()
        assert told(leader)[:2] == ("migrated", "2")
    assert scene.lock_is_free()


@pytest.mark.thorough
def test_the_functions_respect_the_guard_alone(scene: Scene) -> None:
    scene.write(GOOD)
    scene.migrated()
    database = scene.database
    database.execute("UPDATE migration_lock SET locked_at = now(), locked_by = 'x', process_id = 1, token = 'living'")
    with database.connect() as guard:
        guard.execute(f"SELECT pg_advisory_lock({lock_key()})")
        assert acquire(database) is False
        assert database.one("SELECT release_stale_migration_locks()") == 0
        # After an operator has freed the row, it is still not free while the holder lives.
        database.execute("UPDATE migration_lock SET locked_at = NULL, locked_by = NULL, process_id = NULL WHERE id = 1")
        assert acquire(database) is False


@pytest.mark.parametrize("what", ["acquire", "release_stale"])
def test_the_functions_replace_a_dead_holder_at_once(scene: Scene, what: str) -> None:
    scene.write({**GOOD, "002_gate.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        gate.arrival()
        leader.kill()
        until(lambda: not scene.backends(token), 5, "the end of the dead holder's backends")
        database = scene.database
        assert database.one("SELECT token FROM migration_lock") == token
        database.one("SELECT release_migration_lock()")  # frees only a lock without a token
        assert database.one("SELECT token FROM migration_lock") == token
        if what == "acquire":
            assert acquire(database) is True
            assert database.one(HOLDER) == ("earlier-1", 4242, None)
        else:
            assert database.one("SELECT release_stale_migration_locks()") == 1
            assert scene.lock_is_free()


# --- What an operator may do ----------------------------------------------------------------------------

FREE = "UPDATE migration_lock SET locked_at = NULL, locked_by = NULL, process_id = NULL WHERE id = 1"


@pytest.mark.parametrize("when", ["noticed by the watcher", "noticed by the next fence"])
def test_a_running_holder_stops_when_its_row_is_freed(scene: Scene, when: str) -> None:
    watched = when == "noticed by the watcher"
    scene.write({**GOOD, "002_gate.sql": Gate.PASS + "CREATE TABLE b ()", "003_c.sql": "CREATE TABLE c ()"})
    with Gate(scene.database) as gate:
        # The watcher looks after half of the lock timeout, but within 3 s.
        leader = scene.start(MIGRATION_DDL_LOCK_TIMEOUT_MS=1000 if watched else 60000)
        token_of(leader)
        gate.arrival()
        scene.database.execute(FREE)
        if watched:
            leader.until("lock.revoked")
        else:
            gate.open()
        answer = told(leader)
    assert answer.outcome == "failed"
    assert "lock" in answer.error
    assert "operator" in answer.error
    assert only_error(leader)["event"] == "lock.lost"
    assert not scene.database.exists("c")
    if watched:
        assert not scene.database.exists("b")
    assert (2, "failed") not in scene.ledger()
    assert scene.lock_is_free()
    assert scene.run()[:2] == ("migrated", "3")


def test_a_holder_that_is_stopped_exits_with_75(scene: Scene) -> None:
    scene.write({"001_gate.sql": Gate.PASS, "002_b.sql": "CREATE TABLE b ()"})
    with Gate(scene.database) as gate:
        leader = scene.start("migrate")
        token_of(leader)
        gate.arrival()
        scene.database.execute(FREE)
        gate.open()
        assert leader.wait() == 75
    assert not scene.database.exists("b")


@pytest.mark.thorough
def test_a_failed_row_can_be_deleted_as_documented(scene: Scene) -> None:
    scene.write({"001_a.sql": "SELECT * FROM wanted"})
    assert scene.migrate().code == 70
    scene.database.execute("CREATE TABLE wanted ()")
    assert scene.migrate().code == 70, "not tried again by itself"
    scene.database.execute("DELETE FROM schema_migrations WHERE migration_number = 1 AND status = 'failed'")
    scene.migrated()
    assert scene.ledger() == [(1, "completed")]


@pytest.mark.thorough
def test_what_became_runnable_while_we_waited_runs_too(scene: Scene) -> None:
    """The failed row is deleted after the first look, which therefore skipped 002 and 003."""
    scene.write({"002_b.sql": "SELECT * FROM wanted"})
    assert scene.migrate().code == 70
    scene.write({"001_a.sql": "CREATE TABLE wanted ()", "003_c.sql": "CREATE TABLE c ()"})
    with scene.database.connect() as other:
        other.execute(f"SELECT pg_advisory_lock({lock_key()})")
        waiter = scene.start()
        waiter.until("lock.waiting")
        other.execute("DELETE FROM schema_migrations WHERE migration_number = 2 AND status = 'failed'")
        other.execute("SELECT pg_advisory_unlock_all()")
        answer = told(waiter)
    assert answer[:2] == ("migrated", "3"), answer
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]


# --- Whose ledger it is ---------------------------------------------------------------------------------

FOREIGN = {
    "Rails": "CREATE TABLE schema_migrations (version varchar PRIMARY KEY);"
    " INSERT INTO schema_migrations VALUES ('20240101')",
    "dbmate": "CREATE TABLE schema_migrations (version varchar(128) PRIMARY KEY)",
    "golang-migrate": "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)",
    "Ecto": "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, inserted_at timestamp(0))",
    "another tool": "CREATE TABLE schema_migrations (name text PRIMARY KEY, batch integer)",
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("tool", FOREIGN)
def test_another_tools_ledger_is_left_alone(scene: Scene, tool: str) -> None:
    scene.database.execute(FOREIGN[tool])
    scene.write(GOOD)
    before = scene.database.contents()
    run = scene.migrate()
    assert run.code == 78
    error = only_error(run)
    assert tool in error["message"]
    assert "MIGRATION_SCHEMA" in error["remedy"]
    assert scene.database.contents() == before


def test_beside_another_tools_ledger(scene: Scene) -> None:
    scene.database.execute(FOREIGN["Rails"])
    scene.write(GOOD)
    scene.migrated(MIGRATION_SCHEMA="entrypoint")
    assert scene.database.exists("good")
    assert scene.database.one("SELECT count(*) FROM entrypoint.schema_migrations") == 1
    assert scene.database.one("SELECT version FROM schema_migrations") == "20240101"


# --- Where the ledger is --------------------------------------------------------------------------------


@pytest.mark.sampled(11)
@pytest.mark.parametrize("exists", [True, False], ids=["existing", "missing"])
@pytest.mark.parametrize(
    "name", ["ops", 'Odd "quoted" Näme', "with.dot", "it's", "100%s", "back\\slash", "select", "{schema}"]
)
def test_a_schema_of_its_own(scene: Scene, name: str, exists: bool) -> None:  # noqa: FBT001
    quoted = '"' + name.replace('"', '""') + '"'
    if exists:
        scene.database.execute(f"CREATE SCHEMA {quoted}")
    scene.write({**GOOD, "002_b.sql": "CREATE TABLE b ()"})
    assert scene.run(MIGRATION_SCHEMA=name)[:2] == ("migrated", "2")
    assert scene.run(MIGRATION_SCHEMA=name)[:2] == ("up_to_date", "2")
    database = scene.database
    found = "SELECT relname::text FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"
    relations = {relation for (relation,) in database.rows(found + " AND relkind IN ('r', 'v')", [name])}
    assert relations == {"schema_migrations", "migration_lock", "migration_status"}
    assert database.rows(FUNCTIONS, [quoted]) == SIGNATURES
    assert database.one(f"SELECT {quoted}.is_migration_locked()") is False
    assert database.one(f"SELECT {quoted}.acquire_migration_lock('a', 1)") is True
    # The migrations themselves still go to the same schema.
    assert database.exists("public.good")
    assert not database.exists("public.schema_migrations")


def test_a_schemas_name_that_is_too_long(scene: Scene) -> None:
    """PostgreSQL cuts the name at 63 bytes; if the ledger were not found again, everything would run again."""
    scene.write(
        {"001_once.sql": "CREATE TABLE IF NOT EXISTS once (); ALTER TABLE once ADD COLUMN IF NOT EXISTS a integer;"}
    )
    first = scene.migrate(MIGRATION_SCHEMA="s" * 64)
    if first.code == 0:
        again = scene.start(MIGRATION_SCHEMA="s" * 64)
        assert told(again).outcome == "up_to_date"
    else:
        assert first.code == 78
        assert "MIGRATION_SCHEMA" in only_error(first)["message"] + str(only_error(first).get("faults"))


def test_two_schemas_do_not_stand_in_each_others_way(scene: Scene) -> None:
    scene.write({"001_gate.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        first = scene.start(MIGRATION_SCHEMA="one")
        token_of(first)
        gate.arrival()
        other = scene.migrations.parent / "other"
        other.mkdir()
        (other / "001_good.sql").write_text(GOOD["001_good.sql"])
        assert scene.run(MIGRATION_SCHEMA="two", MIGRATIONS_DIR=str(other)).outcome == "migrated"
        gate.open()
        assert told(first).outcome == "migrated"


def test_without_a_current_schema(scene: Scene) -> None:
    scene.write(GOOD)
    url = scene.database.server.url(scene.database.name, options="-c search_path=nowhere")
    run = scene.migrate(url=url)
    assert run.code == 78
    assert "no current schema" in only_error(run)["message"]
    assert "MIGRATION_SCHEMA" in only_error(run)["remedy"]
    assert not scene.database.exists("public.schema_migrations")


# --- With another role ----------------------------------------------------------------------------------


def make_roles(scene: Scene, inherits: str) -> tuple[str, str]:
    """Create an owner, who may create objects, and a login that can do nothing but become that owner."""
    owner, login = f"owner_{scene.database.name}"[:60], f"login_{scene.database.name}"[:60]
    scene.database.execute(
        f"CREATE ROLE {owner}; CREATE ROLE {login} LOGIN {inherits}; GRANT {owner} TO {login};"
        f"GRANT CREATE, USAGE ON SCHEMA public TO {owner}; REVOKE CREATE ON SCHEMA public FROM public;"
        f"GRANT CREATE ON DATABASE {scene.database.name} TO {owner}"
    )
    return owner, login


@pytest.mark.thorough
def test_a_login_without_rights_of_its_own_is_watched(scene: Scene) -> None:
    """The progress row belongs to the role, but only the login may see PostgreSQL's details of its session."""
    owner, login = make_roles(scene, "NOINHERIT")
    scene.write({"001_gate.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        run = scene.start(
            url=scene.database.server.url(scene.database.name, user=login),
            MIGRATION_ROLE=owner,
            MIGRATION_DDL_LOCK_TIMEOUT_MS=10000,
        )
        gate.arrival()
        detail = until(lambda: scene.lock()["progress_detail"], 15, "progress in the row")
        assert detail["blocked_by"].startswith("backend ")
        scene.database.execute(FREE)
        run.until("lock.revoked")
        assert told(run).outcome == "failed"


@pytest.mark.sampled(3)
@pytest.mark.case("B12")
@pytest.mark.parametrize("locked_at", ["now() - interval '1 minute'", "NULL"], ids=["held", "freed by an operator"])
@pytest.mark.parametrize("inherits", ["NOINHERIT", "INHERIT"])
def test_a_frozen_holders_session_is_ended_as_the_login(scene: Scene, inherits: str, locked_at: str) -> None:
    """The row belongs to the role and the session to the login, and the role is not a member of the login."""
    owner, login = make_roles(scene, inherits)
    url = scene.database.server.url(scene.database.name, user=login)
    scene.write(GOOD)
    assert told(scene.start(url=url, MIGRATION_ROLE=owner)).outcome == "migrated"
    zombie = target(url, "DATABASE_URL", "f00d").connect(10)
    worker, guard = (target(url, "DATABASE_URL", "beef").connect(10) for _ in range(2))
    deadline = Deadline(10)
    place = find(worker, None, deadline)
    guard.query(f"BEGIN; SELECT pg_try_advisory_xact_lock({guard_key(place)})", deadline)
    scene.database.execute(
        f"UPDATE migration_lock SET token = 'f00d.1', locked_at = {locked_at}, locked_by = NULL, progress_at = NULL"
    )
    zombie.query(f"BEGIN; SET LOCAL ROLE {owner}; SELECT FROM migration_lock FOR KEY SHARE", deadline)
    begin = transactions.begin(deadline, server_version=worker.server_version, lock_timeout_ms=1000, role=owner)
    guarded = cast("Guard", SimpleNamespace(backend_pid=guard.login_pid))
    _end_zombie(worker, place, begin, guarded, Streak(), deadline)
    gone = "SELECT FROM pg_stat_activity WHERE pid = %s"
    until(lambda: not scene.database.rows(gone, (zombie.login_pid,)), 5, "the end of the frozen session")
    assert scene.database.rows(gone, (guard.login_pid,))
    for session in (zombie, worker, guard):
        session.close()


@pytest.mark.parametrize("inherits", ["NOINHERIT", "INHERIT"])
def test_a_commit_in_doubt_is_looked_up_as_the_role(scene: Scene, inherits: str) -> None:
    """After a failover only the ledger counts, and a login may have no privileges on it."""
    owner, login = make_roles(scene, inherits)
    url = scene.database.server.url(scene.database.name, user=login)
    scene.write(GOOD)
    assert told(scene.start(url=url, MIGRATION_ROLE=owner)).outcome == "migrated"
    place = Place("public", True, {}, {}, server_start="another")  # noqa: FBT003 - the schema exists
    address = target(url, "DATABASE_URL", "0")
    for number, verdict in ((1, "committed"), (2, "aborted")):
        sign = writing.is_applied(place, number)
        assert settle("1", address, place, sign, owner, Deadline(10)) == verdict


@pytest.mark.thorough
@pytest.mark.parametrize("inherits", ["NOINHERIT", "INHERIT"])
def test_what_is_made_belongs_to_the_role(scene: Scene, inherits: str) -> None:
    owner, login = make_roles(scene, inherits)
    url = scene.database.server.url(scene.database.name, user=login)
    for schema, who in (("", "who"), ("ops", "whose")):
        # A second ledger of the same migrations would be refused.
        scene.write({f"001_{who}.sql": f"CREATE TABLE {who} AS SELECT current_user::text AS name"})
        place = {"MIGRATION_SCHEMA": schema, "MIGRATION_ROLE": owner}
        run = scene.start(url=url, **place)
        assert told(run)[:2] == ("migrated", "1"), run.report()
        assert scene.run(url=url, **place).outcome == "up_to_date"
        assert scene.database.one(f"SELECT name FROM {who}") == owner
        (scene.migrations / f"001_{who}.sql").unlink()
    owners = scene.database.rows(
        "SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class"
        " WHERE relnamespace IN ('public'::regnamespace, 'ops'::regnamespace)"
        " UNION SELECT pg_get_userbyid(proowner)::text FROM pg_proc"
        " WHERE pronamespace IN ('public'::regnamespace, 'ops'::regnamespace)"
        " UNION SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'ops'"
    )
    assert owners == [(owner,)]
    # The role also records a failure, and another start reads it as the role.
    scene.write({"002_bad.sql": "SELECT 1/0"})
    assert scene.migrate(url=url, MIGRATION_ROLE=owner).code == 70
    assert scene.ledger()[-1] == (2, "failed")
    run = scene.migrate(url=url, MIGRATION_ROLE=owner)
    assert only_error(run)["event"] == "migration.held_back"


def test_a_role_that_is_not_there(scene: Scene) -> None:
    scene.write(GOOD)
    run = scene.migrate(MIGRATION_ROLE="nobody_at_all")
    assert run.code in {70, 78}
    error = only_error(run)
    assert "nobody_at_all" in error["message"]
    assert "MIGRATION_ROLE" in error["message"] + error["remedy"], error
    assert not scene.database.exists("schema_migrations")


@pytest.mark.parametrize("schema", ["", "ops"])
def test_permission_denied_gives_one_clear_message(scene: Scene, schema: str) -> None:
    _, login = make_roles(scene, "NOINHERIT")
    url = scene.database.server.url(scene.database.name, user=login)
    scene.write(GOOD)
    run = scene.migrate(url=url, MIGRATION_SCHEMA=schema)
    assert run.code == 70
    error = only_error(run)
    assert "permission denied" in error["message"]
    assert "MIGRATION_ROLE" in error["remedy"]
    assert not scene.database.exists("schema_migrations")
    until(lambda: scene.database.sessions() == 0, what="the end of the sessions")


@pytest.mark.thorough
def test_a_ledger_that_may_not_be_read_gives_one_clear_message(scene: Scene) -> None:
    scene.write(GOOD)
    scene.migrated()
    _, login = make_roles(scene, "NOINHERIT")
    run = scene.migrate(url=scene.database.server.url(scene.database.name, user=login))
    assert run.code == 70
    assert "permission denied" in only_error(run)["message"]


def test_an_upgrade_that_is_not_permitted_does_not_keep_an_application_back(legacy: Scene) -> None:
    legacy.write({file.name: file.read_bytes() for file in (LEGACY / "migrations").glob("00[012]*")})
    _, login = make_roles(legacy, "NOINHERIT")
    legacy.database.execute(f"GRANT SELECT ON schema_migrations, migration_lock TO {login}")
    run = legacy.start(url=legacy.database.server.url(legacy.database.name, user=login))
    assert told(run)[:2] == ("up_to_date", "2")
    assert errors(run) == []


def test_a_new_ledger_is_what_an_upgrade_makes(database: Database) -> None:
    """The statements differ: where nothing exists, nothing is upgraded."""
    new = Place("public", True, {}, {})  # noqa: FBT003
    upgraded = new._replace(lock={"id": "another type"})
    schemas = []
    for place in (new, upgraded):
        database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        database.execute(tables.ddl(place))
        schemas.append(database.schema())
        assert database.rows("SELECT id, locked_at FROM migration_lock") == [(1, None)]
        # The upgrade can also run on a complete ledger.
        database.execute(tables.ddl(upgraded))
        assert database.schema() == schemas[0]
    assert tables.ddl(new) != tables.ddl(upgraded)
