"""Files that cannot run in one transaction are detected, run one unit at a time, and recognized after a crash."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from entrypoint.database.target import target
from entrypoint.deadline import Deadline
from entrypoint.migration.ledger.finding import find
from entrypoint.migration.lock.guard import Guard
from entrypoint.migration.script.statements import advise
from entrypoint.migration.script.units import Unit, left_in_session, reached, repeatable, units_of
from kit.migrations import write_migrations
from kit.processes import open_fds, until
from scene import lock_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

BASE = "CREATE TABLE t (a int, b int); INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g;"


def ledger(database: Database) -> list[tuple[int, str]]:
    return [
        (number, status)
        for number, status in database.rows(
            "SELECT migration_number, status FROM schema_migrations ORDER BY migration_number"
        )
    ]


def indexes(database: Database) -> list[tuple[str, bool]]:
    return [
        (name, valid)
        for name, valid in database.rows(
            "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "WHERE i.indrelid = 't'::regclass ORDER BY 1"
        )
    ]


def test_all_kinds_run_in_order_without_any_directive(
    any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    write_migrations(
        migrations_dir,
        {
            "001_base.sql": BASE,
            "002_alone.sql": """
                SET search_path TO public;
                CREATE INDEX CONCURRENTLY t_a ON t (a);
                INSERT INTO t VALUES (0, 0);
                VACUUM t;
                REINDEX INDEX CONCURRENTLY t_a;
                ALTER SYSTEM SET work_mem = '5MB';
                ALTER SYSTEM RESET work_mem;
                DISCARD ALL;
                CREATE UNIQUE INDEX CONCURRENTLY t_b ON t (b);
                DROP INDEX CONCURRENTLY t_a;
            """,
            "003_enum.sql": "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE m (x mood);\n"
            "ALTER TYPE mood ADD VALUE 'ok'; INSERT INTO m VALUES ('ok');",
            "004_procedure.sql": "-- entrypoint: no-transaction\n"
            "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (7, 70000); COMMIT; END $$;\n"
            "CALL p();\nBEGIN; INSERT INTO t VALUES (8, 80000); COMMIT;",
            "005_after.sql": "CREATE TABLE after_all (x int);",
        },
    )
    run_entrypoint("migrate", env={"DATABASE_URL": any_database.url}).ok()
    assert ledger(any_database) == [(number, "completed") for number in range(1, 6)]
    assert indexes(any_database) == [("t_b", True)]
    assert any_database.one("SELECT count(*) FROM t") == 1003
    assert any_database.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


@pytest.mark.parametrize(
    "statement", ["REINDEX TABLE parted", "REINDEX INDEX parted_a", "CLUSTER parted USING parted_a"]
)
def test_what_the_server_refuses_for_a_partitioned_table_runs_as_the_message_says(
    any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run], statement: str
) -> None:
    """Only the server knows which tables are partitioned, so the file's text does not tell."""
    base = (
        "CREATE TABLE parted (a int) PARTITION BY RANGE (a); CREATE INDEX parted_a ON parted (a);\n"
        "CREATE TABLE part PARTITION OF parted DEFAULT;"
    )
    rest = f"INSERT INTO parted VALUES (1);\n{statement};\nINSERT INTO parted VALUES (2);"
    write_migrations(migrations_dir, {"001_base.sql": base, "002_rest.sql": rest})
    env = {"DATABASE_URL": any_database.url}
    refused = run_entrypoint("migrate", env=env)
    assert refused.wait() == 70
    assert "put `-- entrypoint: no-transaction` at the top of the file" in refused.stderr
    write_migrations(migrations_dir, {"002_rest.sql": f"-- entrypoint: no-transaction\n{rest}"})
    run_entrypoint("migrate", env=env).ok()
    assert ledger(any_database) == [(1, "completed"), (2, "completed")]
    assert any_database.one("SELECT array_agg(a ORDER BY a) FROM parted") == [1, 2]


def test_a_failed_concurrent_build_leaves_no_invalid_index_and_can_be_mended(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    write_migrations(
        migrations_dir,
        {
            "001_base.sql": BASE + " INSERT INTO t VALUES (5, 5);",
            "002_index.sql": "CREATE INDEX CONCURRENTLY IF NOT EXISTS t_a ON t (a);\n"
            "CREATE UNIQUE INDEX CONCURRENTLY t_b ON t (b);",
        },
    )
    env = {"DATABASE_URL": database.url}
    failed = run_entrypoint("migrate", env=env)
    assert failed.wait() == 70
    assert "002_index.sql:2" in failed.stderr
    assert ledger(database) == [(1, "completed"), (2, "failed")]
    assert indexes(database) == [("t_a", True)]
    database.execute("DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t)")
    database.execute("DELETE FROM schema_migrations WHERE migration_number = 2 AND status = 'failed'")
    run_entrypoint("migrate", env=env).ok()
    assert indexes(database) == [("t_a", True), ("t_b", True)]


def _until_active(database: Database, query: str) -> None:
    """Wait until the server is running a statement that begins with `query`."""
    like = f"{query}%"
    until(
        lambda: database.rows(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
            "AND pid <> pg_backend_pid() AND query ILIKE %s",
            (like,),
        ),
        what=f"{query} to run",
    )


def _kill_in_the_middle(database: Database, run: Run, query: str) -> None:
    """Kill `run` while the server is running a statement that begins with `query`; wait for its sessions to end."""
    _until_active(database, query)
    run.kill(signal.SIGKILL)
    until(
        lambda: (
            not database.rows(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name LIKE 'entrypoint:%'"
            )
        ),
        what="the killed program's sessions to end",
    )


def test_an_interrupted_index_is_dropped_and_built_again(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    write_migrations(
        migrations_dir,
        {
            "001_base.sql": BASE,
            "002_index.sql": "INSERT INTO t VALUES (2000, 2000);\nCREATE INDEX CONCURRENTLY t_a ON t (a);\n"
            "INSERT INTO t VALUES (3000, 3000);",
        },
    )
    env = {"DATABASE_URL": database.url}
    run_entrypoint("migrate", "--to", "1", env=env).ok()
    with database.connect() as other:
        # A concurrent build waits for every transaction that might still see the old table.
        other.execute("BEGIN; INSERT INTO t VALUES (1, 1)")
        run = run_entrypoint("migrate", env=env)
        _kill_in_the_middle(database, run, "CREATE INDEX CONCURRENTLY")
        assert ledger(database) == [(1, "completed"), (2, "running")]
        other.execute("ROLLBACK")
    assert indexes(database) == [("t_a", False)]
    again = run_entrypoint("migrate", env=env).ok()
    assert "migration.resumed" in again.events()
    assert indexes(database) == [("t_a", True)]
    assert ledger(database) == [(1, "completed"), (2, "completed")]
    assert database.one("SELECT count(*) FROM t WHERE a >= 2000") == 2, "each statement ran once"


@pytest.mark.parametrize("password", [None, "2"], ids=["no password", "a password that is a number"])
@pytest.mark.case("A8")
def test_what_nobody_can_know_after_a_crash_is_said_and_not_run_again(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run], password: str | None
) -> None:
    write_migrations(
        migrations_dir,
        {
            "001_base.sql": BASE,
            "002_call.sql": "-- entrypoint: no-transaction\nCREATE PROCEDURE p() LANGUAGE plpgsql AS\n"
            "$$ BEGIN INSERT INTO t VALUES (7, 7777); COMMIT; PERFORM pg_sleep(60); END $$;\nCALL p();\n"
            "INSERT INTO t VALUES (8, 8888);",
        },
    )
    env = {"DATABASE_URL": database.url, **({"PGPASSWORD": password} if password else {})}
    run_entrypoint("migrate", "--to", "1", env=env).ok()
    run = run_entrypoint("migrate", env=env)
    _kill_in_the_middle(database, run, "CALL p()")
    row = str(database.one("SELECT error_message FROM schema_migrations WHERE migration_number = 2"))
    assert row.startswith(
        "statement 2 of 3: CALL p()\nunit 2 of 3, statement 2, line 4; sha256 of the statements before "
    )
    again = run_entrypoint("migrate", env=env)
    assert again.wait() == 70
    assert "interrupted at statement 2 of 3: CALL p()" in again.stderr
    assert ledger(database) == [(1, "completed"), (2, "failed")]
    assert database.one("SELECT count(*) FROM t WHERE b IN (7777, 8888)") == 1
    third = run_entrypoint("migrate", env=env)
    assert third.wait() == 70
    assert "interrupted at statement 2 of 3" in third.stderr


def test_nobody_takes_over_while_a_statement_outside_a_transaction_still_runs(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    """Nothing holds the fence then, but the second advisory lock is held."""
    write_migrations(migrations_dir, {"001_base.sql": BASE, "002_index.sql": "CREATE INDEX CONCURRENTLY t_a ON t (a);"})
    env = {"DATABASE_URL": database.url}
    run_entrypoint("migrate", "--to", "1", env=env).ok()
    with database.connect() as other:
        other.execute("BEGIN; INSERT INTO t VALUES (1, 1)")
        first = run_entrypoint("migrate", env=env)
        first.until(lambda record: record["event"] == "lock.acquired")
        until(lambda: ledger(database) == [(1, "completed"), (2, "running")])
        second = run_entrypoint("migrate", env=env)
        second.until("lock.waiting")
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        first.until("lock.guard_regained")
        assert second.running
        other.execute("ROLLBACK")
    first.ok()
    second.ok()
    assert (first.outcome, second.outcome) == ("migrated", "waited")
    assert indexes(database) == [("t_a", True)]


@pytest.mark.case("A9")
@pytest.mark.parametrize(
    "unlock", ["pg_advisory_unlock_all()", "pg_advisory_unlock_shared({key})"], ids=["all", "ours"]
)
def test_a_file_that_lets_our_lock_go_is_not_overtaken(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run], unlock: str
) -> None:
    key = lock_key().replace("1885824368", "1885824369")
    write_migrations(
        migrations_dir,
        {
            "001_base.sql": BASE,
            "002_index.sql": "-- entrypoint: no-transaction\n"
            f"SELECT {unlock.format(key=key)};\nCREATE INDEX CONCURRENTLY t_a ON t (a);",
        },
    )
    env = {"DATABASE_URL": database.url}
    run_entrypoint("migrate", "--to", "1", env=env).ok()
    with database.connect() as other:
        other.execute("BEGIN; INSERT INTO t VALUES (1, 1)")
        first = run_entrypoint("migrate", env=env)
        _until_active(database, "CREATE INDEX CONCURRENTLY")
        first.kill(signal.SIGSTOP)
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        second = run_entrypoint("migrate", env=env)
        # The successor first ends the frozen holder's statement, and gets the lock only after that.
        taken = second.until(lambda record: record["event"] in ("lock.acquired", "lock.ended_zombie"), 30)
        assert taken["event"] == "lock.ended_zombie", second.report()
        second.until("lock.acquired")
        other.execute("ROLLBACK")
    # Nobody knows what a SELECT did to the session.
    assert second.wait(20) == 70
    first.kill(signal.SIGCONT)
    first.wait(20)
    assert indexes(database) == [("t_a", False)]


ORDERS = "CREATE SCHEMA app; CREATE TABLE app.orders (id int); CREATE TABLE public.orders (id int);"
PATH_BY_SELECT = """-- entrypoint: no-transaction
SELECT set_config('search_path', 'app', false);
CREATE INDEX CONCURRENTLY orders_id ON orders (id);
ALTER TABLE orders ADD COLUMN extra int;
"""
FUNCTIONS = """
CREATE TABLE log (says text);
CREATE TABLE app.log_of_triggers (a timestamptz);
CREATE FUNCTION use(t text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('search_path', t, false) $$;
CREATE FUNCTION hidden(a text, b uuid) RETURNS text LANGUAGE sql STABLE AS $$ SELECT a || b $$;
CREATE FUNCTION log_of_triggers() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE VIEW using_view AS SELECT use('app') AS says;
CREATE VIEW over_that AS SELECT * FROM using_view;
CREATE MATERIALIZED VIEW used_by_view AS SELECT * FROM over_that WITH NO DATA;
"""
WITH_EXTRA = "SELECT table_schema FROM information_schema.columns WHERE column_name = 'extra'"


@pytest.mark.case("A13")
def test_an_attempt_after_a_lock_time_out_has_the_session_of_the_first(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    write_migrations(migrations_dir, {"001_orders.sql": ORDERS, "002_extra.sql": PATH_BY_SELECT})
    env = {"DATABASE_URL": database.url, "MIGRATION_DDL_LOCK_TIMEOUT_MS": "300"}
    run_entrypoint("migrate", "--to", "1", env=env).ok()
    with database.connect() as other:
        other.execute("BEGIN; LOCK TABLE app.orders IN ACCESS SHARE MODE")
        run = run_entrypoint("migrate", env=env)
        run.until("migration.retry")
        other.execute("ROLLBACK")
    run.ok()
    assert database.rows(WITH_EXTRA) == [("app",)]
    assert ledger(database) == [(1, "completed"), (2, "completed")]


@pytest.mark.thorough
@pytest.mark.sampled(9)
@pytest.mark.case("A13")
@pytest.mark.parametrize(
    ("says", "goes_on"),
    [
        ("SET search_path = app", True),
        ("BEGIN; SET search_path = public; SET search_path = app; COMMIT", True),
        ("SELECT set_config('search_path', 'public', false); DISCARD ALL; SET search_path = app", True),
        ("SELECT set_config('search_path', 'app', false)", True),
        ("SELECT set_config('search_path', 'a' || 'pp', false)", False),
        ("SET search_path = app; DO $$ BEGIN END $$", False),
        ("INSERT INTO log SELECT use('app')", False),
        ("INSERT INTO log VALUES ('a'); UPDATE log SET says = use('app')", False),
        ("CREATE TABLE used AS SELECT public.use('app')", False),
        ("INSERT INTO log VALUES ('a'); ALTER TABLE log ADD COLUMN used text DEFAULT use('app')", False),
        ("SET search_path = app; REFRESH MATERIALIZED VIEW public.used_by_view", True),
        ("INSERT INTO log SELECT says FROM over_that", False),
        ("SET search_path = app; INSERT INTO public.log SELECT public.hidden(lower('A'), gen_random_uuid())", True),
        ("SET search_path = app, pg_temp; INSERT INTO log_of_triggers (a) VALUES (now())", True),
        ("SET search_path = app; CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT a'", True),
    ],
)
def test_a_new_session_has_what_the_old_one_had_or_the_file_is_not_gone_on_with(
    database: Database,
    migrations_dir: Path,
    run_entrypoint: Callable[..., Run],
    *,
    says: str,
    goes_on: bool,
) -> None:
    text = PATH_BY_SELECT.replace("SELECT set_config('search_path', 'app', false)", says)
    write_migrations(migrations_dir, {"001_orders.sql": f"{ORDERS} {FUNCTIONS}", "002_extra.sql": text})
    env = {"DATABASE_URL": database.url}
    run_entrypoint("migrate", "--to", "1", env=env).ok()
    with database.connect() as other:
        other.execute("BEGIN; INSERT INTO app.orders VALUES (1)")
        _kill_in_the_middle(database, run_entrypoint("migrate", env=env), "CREATE INDEX CONCURRENTLY")
        other.execute("ROLLBACK")
    again = run_entrypoint("migrate", env=env)
    assert again.wait() == (0 if goes_on else 70), again.report()
    assert database.rows(WITH_EXTRA) == ([("app",)] if goes_on else [])
    if not goes_on:
        assert "to its session is lost" in again.stderr
        assert ledger(database) == [(1, "completed"), (2, "failed")]


@pytest.mark.case("A15")
def test_a_row_that_could_not_be_written_is_not_the_statement_before_it(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    """The statement has run, and this process knows it. Only the write of its row hit a deadlock."""
    database.execute(f"ALTER DATABASE {database.name} SET deadlock_timeout = '2s'")
    write_migrations(
        migrations_dir,
        {"001_base.sql": f"{BASE} CREATE INDEX t_a ON t (a);", "002_drop.sql": "DROP INDEX CONCURRENTLY t_a;"},
    )
    env = {"DATABASE_URL": database.url}
    run_entrypoint("migrate", "--to", "1", env=env).ok()
    with database.connect() as user, database.connect() as locker:
        user.execute("BEGIN; SELECT FROM t WHERE a = 1")
        run = run_entrypoint("migrate", env=env)
        _until_active(database, "DROP INDEX CONCURRENTLY")
        # Let the worker be the one to detect the deadlock.
        locker.execute("SET deadlock_timeout = '10min'; BEGIN; LOCK TABLE schema_migrations IN SHARE MODE")
        user.execute("ROLLBACK")
        queued = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'schema_migrations'::regclass"
        until(lambda: database.rows(queued), 10, "the ledger's row")
        locker.execute("SELECT FROM migration_lock WHERE id = 1 FOR UPDATE")
        locker.execute("ROLLBACK")
    run.ok()
    assert [record["sqlstate"] for record in run.logs("migration.retry")] == ["40P01"], run.report()
    assert ledger(database) == [(1, "completed"), (2, "completed")]
    assert indexes(database) == []


@pytest.mark.thorough
def test_waiters_do_not_stop_a_concurrent_build(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    write_migrations(
        migrations_dir,
        {
            "001_base.sql": BASE,
            "002_index.sql": "-- entrypoint: no-transaction\nSELECT pg_advisory_lock(99);\n"
            "SELECT pg_advisory_unlock(99);\nCREATE INDEX CONCURRENTLY t_a ON t (a);",
        },
    )
    database.execute("ALTER DATABASE " + database.name + " SET default_transaction_isolation = 'repeatable read'")
    env = {"DATABASE_URL": database.url}
    with database.connect() as gate:
        gate.execute("SELECT pg_advisory_lock(99)")
        first = run_entrypoint("migrate", env=env)
        first.until("lock.acquired")
        waiters = [run_entrypoint("migrate", env=env) for _ in range(4)]
        for waiter in waiters:
            waiter.until("lock.waiting")
        gate.execute("SELECT pg_advisory_unlock(99)")
        first.ok(20)
    for waiter in waiters:
        waiter.ok()
    assert indexes(database) == [("t_a", True)]


@pytest.mark.sampled(5)
@pytest.mark.case("A7")
@pytest.mark.parametrize(
    ("block", "line", "says"),
    [
        ("PREPARE TRANSACTION 'x'; COMMIT PREPARED 'x';\nINSERT INTO t VALUES (3, 3);", 2, "a prepared transaction"),
        ("\nROLLBACK;", 3, "a block that is rolled back"),
        ("\nCOMMIT AND CHAIN; COMMIT;", 3, "write COMMIT and BEGIN"),
        ("\nSELECT 1;", 2, "never ended"),
        ("COMMIT; SAVEPOINT s; INSERT INTO t VALUES (2, 2);\nROLLBACK TO s;", 3, "there is no savepoint here"),
    ],
)
def test_a_block_that_cannot_be_is_refused_before_anything_runs(
    database: Database,
    migrations_dir: Path,
    run_entrypoint: Callable[..., Run],
    block: str,
    line: int,
    says: str,
) -> None:
    text = f"-- entrypoint: no-transaction\nBEGIN; INSERT INTO t VALUES (1, 1); {block}"
    write_migrations(migrations_dir, {"001_base.sql": BASE, "002_block.sql": text})
    env = {"DATABASE_URL": database.url, "MIGRATION_ON_FAILURE": "exit"}
    for command in (("check",), ("migrate",), ("run", "--", "true")):
        run = run_entrypoint(*command, env=env)
        assert run.wait() == 65, run.report()
        assert re.search(rf"002_block\.sql:{line}:.*{says}", run.stdout + run.stderr), run.report()
    assert not database.exists("t")


@pytest.mark.case("A7")
@pytest.mark.parametrize(
    "text",
    [
        "-- entrypoint: no-transaction\nSAVEPOINT s; INSERT INTO t VALUES (1, 1);\n{};",
        "-- entrypoint: no-transaction\nBEGIN; SAVEPOINT s; COMMIT;\n{};",
        "VACUUM t; SAVEPOINT s; INSERT INTO t VALUES (1, 1);\n{};",
        "CREATE TYPE e AS ENUM (); ALTER TYPE e ADD VALUE 'a'; SAVEPOINT s; SELECT 'a'::e;\n{};",
    ],
    ids=["no block", "another block", "not asked for", "a value of an enumeration"],
)
@pytest.mark.parametrize("back", ["ROLLBACK TO s", "ROLLBACK WORK TO SAVEPOINT s", "RELEASE s", "RELEASE SAVEPOINT s"])
def test_there_are_no_savepoints_where_each_statement_is_its_own_transaction(text: str, back: str) -> None:
    (fault,) = advise(text.format(back)).faults
    assert (fault.line, fault.message.partition(":")[0]) == (text.format(back).count("\n") + 1, back)
    assert "there is no savepoint here" in fault.message
    (fault,) = advise(text.format(back), parse_limit=0).faults


def _units(text: str) -> tuple[Unit, ...]:
    return units_of(text, advise(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("VACUUM; SELECT 1;", [(1, "", "VACUUM"), (2, "BEGIN", "SELECT 1")]),
        (
            "-- entrypoint: no-transaction\nBEGIN; SELECT 1; SELECT 2; COMMIT; CALL p();",
            [(1, "BEGIN", "SELECT 1; SELECT 2;"), (5, "", "CALL p()")],
        ),
        (
            "-- entrypoint: no-transaction\nBEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; END;",
            [(1, "BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT 1;")],
        ),
        ("-- entrypoint: no-transaction\nDO $$ BEGIN COMMIT; END $$;", [(1, "", "DO $$ BEGIN COMMIT; END $$")]),
        ("-- entrypoint: no-transaction\nDO $$ BEGIN NULL; END $$;", [(1, "BEGIN", "DO $$ BEGIN NULL; END $$")]),
        (
            "-- entrypoint: no-transaction\nBEGIN; SAVEPOINT a; ROLLBACK TRANSACTION TO SAVEPOINT a; SELECT 1; COMMIT;",
            [(1, "BEGIN", "SAVEPOINT a; ROLLBACK TRANSACTION TO SAVEPOINT a; SELECT 1;")],
        ),
        ("-- entrypoint: no-transaction\nCOMMIT; SELECT 1; ROLLBACK;", [(2, "BEGIN", "SELECT 1")]),
    ],
)
def test_units(text: str, expected: list[tuple[int, str, str]]) -> None:
    assert [(unit.number, unit.begin, unit.sql.strip()) for unit in _units(text)] == expected
    for unit in _units(text):
        assert text[unit.start :].startswith(unit.sql)


@pytest.mark.parametrize(
    ("sql", "index", "again"),
    [
        ("CREATE INDEX CONCURRENTLY i ON t (a)", ("i", "t"), False),
        ('create unique index concurrently if not exists "I x" on only s."T" (a)', ('"I x"', 's."T"'), False),
        ("CREATE INDEX CONCURRENTLY ON t (a)", None, False),
        ("DROP INDEX CONCURRENTLY IF EXISTS i", None, True),
        ("DROP INDEX CONCURRENTLY i", None, False),
        ("VACUUM ANALYZE t", None, True),
        ("REINDEX TABLE CONCURRENTLY t", None, True),
        ("ALTER SYSTEM SET work_mem = '1MB'", None, True),
        ("CREATE DATABASE d", None, False),
    ],
)
def test_what_may_run_again(sql: str, index: tuple[str, str] | None, *, again: bool) -> None:
    (unit,) = _units(sql)
    assert unit.built_index == index
    assert repeatable(unit) is again


@pytest.mark.case("A13")
@pytest.mark.parametrize(
    ("text", "settings", "unknown"),
    [
        ("SET a = 1; RESET b; CREATE TABLE t (); INSERT INTO t VALUES (1); VACUUM;", ["SET a = 1", "RESET b"], None),
        ("SET LOCAL a = 1; SET CONSTRAINTS ALL DEFERRED; SET TRANSACTION READ ONLY;", [], None),
        ("SET SESSION a = 1; SET ROLE r; RESET ROLE; SET SESSION AUTHORIZATION r; RESET ALL;", 5, None),
        ("BEGIN; SET a = 1; SAVEPOINT s; COMMIT;", ["SET a = 1"], None),
        ("BEGIN; SAVEPOINT s; SET a = 1; ROLLBACK TO s; COMMIT;", ["SET a = 1"], 4),
        ("SELECT pg_catalog.set_config('search_path', '', false);", 1, None),
        ("select set_config ( 'a', 'b', true );", 1, None),
        ("SELECT set_config('a', 'b' || 'c', false);", [], 1),
        ("SELECT set_config('a', E'\\x', false);", [], 1),
        ("SELECT set_config('a', '1', false), f();", [], 1),
        ("VACUUM; SELECT 1;", [], 2),
        ("INSERT INTO t SELECT set_config('a', 'b', false);", [], 1),
        ("CREATE TEMP TABLE t ();", [], 1),
        ("CREATE TABLE pg_temp.t ();", [], 1),
        ("CREATE TABLE attempt ();", [], None),
        ("DO $$ BEGIN END $$;", [], 1),
        ("CALL p();", [], 1),
        ("PREPARE p AS SELECT 1;", [], 1),
        ("LISTEN x;", [], 1),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1;", [], 1),
        ("LOAD 'x';", [], 1),
        ("SET a = 1; SELECT 1; DISCARD ALL; SET b = 1; VACUUM;", ["SET b = 1"], None),
        ("SET search_path = pg_temp; CREATE TABLE t ();", 1, 1),
        ("SET search_path TO 'pg_temp', public; CREATE TABLE t ();", 1, 1),
        ("SELECT set_config('search_path', 'pg_temp', false);", 1, 1),
        ("SET SCHEMA 'pg_temp';", 1, 1),
        ("SET search_path = public, pg_temp; CREATE TABLE t ();", 1, None),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'x'; INSERT INTO t SELECT f(); DROP FUNCTION f();", [], 2),
        ("CREATE FUNCTION f() RETURNS int IMMUTABLE LANGUAGE sql AS 'x'; UPDATE t SET a = f();", [], None),
    ],
)
def test_what_a_file_leaves_in_its_session(text: str, settings: list[str] | int, unknown: int | None) -> None:
    text = f"-- entrypoint: no-transaction\n{text}"
    left = left_in_session(text, _units(text))
    found = [setting.sql for setting in left.settings]
    assert (len(found) if isinstance(settings, int) else found) == settings
    assert left.unknown == unknown
    assert all(text[setting.start :].startswith(setting.sql) for setting in left.settings)


@pytest.mark.case("A13")
@pytest.mark.parametrize(
    ("text", "calls", "names"),
    [
        ("INSERT INTO s.t (a) SELECT f(1), G ('h(2)'), \"I\"() FROM v;", {"f", "g", "I"}, {"t", "v"}),
        ("UPDATE t SET a = s.f(b) WHERE c IN (1);", {"f", "in"}, {"t", "b"}),
        ("CREATE TABLE t AS SELECT f();", {"f"}, {"t"}),
        ("DELETE FROM v;", set(), {"v"}),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY v;", None, None),
        ("CREATE TABLE t (a int DEFAULT f());", None, None),
        ("CREATE INDEX i ON t (f(a));", None, None),
        ("GRANT EXECUTE ON FUNCTION f() TO r; COMMENT ON FUNCTION f() IS 'f';", None, None),
        ("INSERT INTO t SELECT f(); DISCARD ALL;", None, None),
    ],
)
def test_what_a_statement_may_have_run(text: str, calls: set[str] | None, names: set[str] | None) -> None:
    text = f"-- entrypoint: no-transaction\n{text}"
    runs = left_in_session(text, _units(text)).runs
    if calls is None or names is None:
        assert runs == ()
    else:
        ((_, called, named),) = runs
        assert called == calls
        assert named >= calls | names


def test_the_row_names_the_statement() -> None:
    first, second = _units("VACUUM;\nCREATE INDEX CONCURRENTLY i\n  ON t (a);")
    assert (first.place(2), first.shown) == ("statement 1 of 2", "VACUUM")
    assert (second.place(2), second.shown) == ("statement 2 of 2", "CREATE INDEX CONCURRENTLY i ON t (a)")
    assert reached("statement 2 of 2: CREATE INDEX CONCURRENTLY i ON t (a)", 2) == reached("statement 2 of 2", 2) == 2


@pytest.mark.case("A8")
@pytest.mark.parametrize("message", ["statement *** of 2: VACUUM", "statement 2 of 3: VACUUM", "", "something else"])
def test_a_row_that_names_no_statement_of_the_file_names_none(message: str) -> None:
    assert reached(message, 2) is None


def test_a_prepared_statement_does_not_reach_the_next_file(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    prepared = "PREPARE same AS SELECT 1; EXECUTE same;"
    write_migrations(migrations_dir, {"001_one.sql": prepared, "002_two.sql": prepared})
    run_entrypoint("migrate", env={"DATABASE_URL": database.url}).ok()


def test_a_files_own_time_out_is_its_own_failure(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    write_migrations(migrations_dir, {"001_slow.sql": "SET statement_timeout = '100ms'; SELECT pg_sleep(60);"})
    run = run_entrypoint("migrate", env={"DATABASE_URL": database.url})
    assert run.wait() == 70
    assert ledger(database) == [(1, "failed")]


def test_an_attempt_to_take_the_lock_leaves_no_descriptor(database: Database) -> None:
    where = target(database.url, "DATABASE_URL", token="t")
    session = where.connect(5)
    place = find(session, None, Deadline(5))
    before = set(open_fds(os.getpid()))
    for rival_has_it in (False, True, False):
        rival = Guard(where, place, 5)
        assert rival_has_it is False or rival.try_lock(Deadline(5))
        guard = Guard(where, place, 5)
        assert guard.try_lock(Deadline(5)) is not rival_has_it
        guard.release()
        rival.release()
    assert set(open_fds(os.getpid())) == before
    session.close()
