"""What our own statements expect of the ledger and the lock, and what happens when somebody has changed that."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kit.processes import until
from scene import Gate, Scene, errors, only_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run
    from kit.web import Serving

PASSWORD = "none-of-your-business"


@pytest.fixture
def scene(any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene without migrations."""
    return Scene(any_database, migrations_dir, run_entrypoint)


# --- Row-level security -----------------------------------------------------------------------------------


@pytest.fixture
def reader(scene: Scene) -> Iterator[str]:
    """Return the address of a login that may read the ledger but does not own it."""
    database = scene.database
    login = f"reader_{database.name}"[:60]
    scene.write({"001_a.sql": "CREATE TABLE a (id integer);"})
    scene.migrated()
    database.execute(f"""
        CREATE ROLE {login} LOGIN PASSWORD '{PASSWORD}';
        GRANT ALL ON schema_migrations, migration_lock TO {login}""")
    yield database.server.url(database.name, user=login, password=PASSWORD)
    database.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")


@pytest.mark.case("A12")
@pytest.mark.parametrize("table", ["schema_migrations", "migration_lock"])
def test_filtered_rows_are_not_taken_for_none(
    scene: Scene, reader: str, serve: Callable[..., Serving], table: str
) -> None:
    for words in ("status", "version", "wait --timeout 1"):
        scene.start(*words.split(), url=reader).ok()
    scene.database.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    scene.write({"002_b.sql": "CREATE TABLE b (id integer);"})
    commands: list[tuple[str, ...]] = [("status",), ("status", "--json"), ("wait", "--timeout", "1"), ("migrate",)]
    # Each of these reads only one of the tables.
    commands += [("version",), ("migrate", "--dry-run")] if table == "schema_migrations" else [("unlock",)]
    for command in commands:
        run = scene.start(*command, url=reader)
        assert run.wait() == 70, f"{command}: {run.stdout} {run.stderr}"
        error = only_error(run)
        assert table in error["message"]
        assert "DISABLE ROW LEVEL SECURITY" in error["remedy"]
        if command == ("status", "--json"):
            assert table in json.loads(run.stdout)["error"]
        else:
            assert run.stdout == ""
    answer = serve(reader).ask()
    assert answer.json["success"] is False
    assert table in answer.json["error"]
    assert "DISABLE ROW LEVEL SECURITY" in answer.json["remedy"]
    assert not scene.database.exists("b")


# --- A lock that is held forever --------------------------------------------------------------------------


@pytest.mark.case("B18")
@pytest.mark.parametrize("moment", ["infinity", "-infinity"])
def test_a_lock_that_is_held_for_ever_is_shown_and_freed(
    scene: Scene, serve: Callable[..., Serving], moment: str
) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a (id integer);"})
    scene.migrated()
    hold = f"UPDATE migration_lock SET locked_at = '{moment}', locked_by = 'eternity', process_id = 1 WHERE id = 1"
    scene.database.execute(hold)
    scene.write({"002_b.sql": "CREATE TABLE b (id integer);"})

    assert f"since {moment} (" in scene.start("status").ok().stdout
    answer = serve(scene.database.url)
    for text in (scene.start("status", "--json").ok().stdout, answer.ask().body.decode()):
        assert "Infinity" not in text
        lock = json.loads(text, parse_constant=pytest.fail)
        lock = lock.get("data", lock)["lock"]
        assert lock["since"] == moment
        assert (lock["heldForSeconds"] is None) is (moment == "infinity")
    assert answer.ask("/metrics").status == 200

    if moment == "infinity":
        run = scene.migrate(MIGRATION_LOCK_TIMEOUT_MS=500)
        assert run.wait() == 75
        assert "eternity (process 1), a replica of the earlier migration system, holds it forever" in run.stderr
        assert scene.start("unlock", "--yes").wait() == 75
        assert "holds it forever" in scene.start("unlock", "--force", "--yes").ok().stdout
    scene.migrated(MIGRATION_LOCK_TIMEOUT_MS=2000)
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


@pytest.mark.thorough
@pytest.mark.case("B18")
@pytest.mark.parametrize(
    ("moment", "told"),
    [("now() + interval '1 year'", "in the future, according to the server's clock"), ("'-infinity'", "forever")],
)
def test_a_time_that_is_none_is_not_counted_from(scene: Scene, moment: str, told: str) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a (id integer);"})
    scene.migrated()
    hold = f"UPDATE migration_lock SET locked_at = {moment}, locked_by = 'tomorrow', process_id = 1 WHERE id = 1"
    scene.database.execute(hold)
    for command in (["status"], ["unlock", "--yes"]):
        run = scene.start(*command)
        run.wait()
        assert f"({told})" in run.stdout, run.report()


# --- A migration that changes the lock's row --------------------------------------------------------------

RELEASE = "UPDATE migration_lock SET locked_at = NULL, locked_by = NULL, process_id = NULL WHERE id = 1"
WAYS = {
    "plainly": f"{RELEASE};",
    "in a block with EXCEPTION": f"DO $$ BEGIN {RELEASE}; EXCEPTION WHEN OTHERS THEN NULL; END $$;",
    "in a block in a block": f"DO $$ BEGIN BEGIN {RELEASE}; EXCEPTION WHEN OTHERS THEN NULL; END; "
    "EXCEPTION WHEN OTHERS THEN NULL; END $$;",
    "behind a savepoint": f"SAVEPOINT s; {RELEASE}; RELEASE s;",
    "and takes that back": f"SAVEPOINT s; {RELEASE}; ROLLBACK TO s;",
    "without naming it": "DO $$ BEGIN EXECUTE replace('UPDATE migration+lock SET locked_at = NULL', '+', '_'); END $$;",
    "token and all": "DO $$ BEGIN UPDATE migration_lock SET locked_at = NULL, token = NULL; "
    "EXCEPTION WHEN OTHERS THEN NULL; END $$;",
}


@pytest.mark.sampled(5)
@pytest.mark.case("A10")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_migration_that_frees_the_lock_does_not_stop_the_next(scene: Scene, way: str) -> None:
    scene.write({"001_a.sql": way, "002_b.sql": "CREATE TABLE b (id integer);"})
    scene.migrated()
    assert scene.ledger() == [(1, "completed"), (2, "completed")]
    assert scene.lock_is_free()


@pytest.mark.case("A10")
def test_an_operator_who_frees_it_meanwhile_is_heard(scene: Scene) -> None:
    mentions = "DO $$ BEGIN PERFORM FROM migration_lock; EXCEPTION WHEN OTHERS THEN NULL; END $$;"
    scene.write({"001_a.sql": f"{mentions} {Gate.PASS}", "002_b.sql": "CREATE TABLE b (id integer);"})
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival()
        scene.database.execute(RELEASE)
        gate.open()
        assert run.wait() == 75
    assert "An operator freed the migration lock" in run.stderr
    assert not scene.database.exists("b")
    assert errors(run)


OUTSIDE = "-- entrypoint: no-transaction\n"
COMMITTED_WAYS = {
    "in a block": f"DO $$ BEGIN {RELEASE}; COMMIT; END $$;",
    "in a procedure": f"CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN {RELEASE}; COMMIT; END $$; CALL p();",
    "token and all": "DO $$ BEGIN UPDATE migration_lock SET locked_at = NULL, token = NULL; COMMIT; END $$;",
    "as the last statement": f"DO $$ BEGIN {RELEASE}; COMMIT; END $$; --",
    "by deleting it": "DO $$ BEGIN EXECUTE 'DELETE FROM migration' || '_lock'; COMMIT; END $$;",
    "in a session that reads only": f"DO $$ BEGIN {RELEASE}; COMMIT; SET default_transaction_read_only = on; END $$;",
}


@pytest.mark.sampled(3)
@pytest.mark.case("A10")
@pytest.mark.parametrize("way", COMMITTED_WAYS.values(), ids=COMMITTED_WAYS.keys())
def test_a_migration_that_frees_the_lock_and_commits_that_goes_on(scene: Scene, way: str) -> None:
    scene.write(
        {
            "001_a.sql": "CREATE TABLE a (id integer);",
            "002_b.sql": f"{OUTSIDE}{way} INSERT INTO a VALUES (1);\nVACUUM a;",
            "003_c.sql": "CREATE TABLE c (id integer);",
        }
    )
    scene.migrated()
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]
    assert scene.lock_is_free()


@pytest.mark.thorough
@pytest.mark.case("A10")
def test_a_long_statement_that_has_freed_the_lock_is_not_stopped(scene: Scene) -> None:
    wait = f"PERFORM {Gate.PASS.removeprefix('SELECT ')}"
    scene.write({"001_a.sql": f"{OUTSIDE}DO $$ BEGIN {RELEASE}; COMMIT; {wait} END $$;\nCREATE TABLE a ();"})
    with Gate(scene.database) as gate:
        run = scene.start("migrate", MIGRATION_LOCK_TIMEOUT_MS=60_000)
        gate.arrival()
        # By then, we have checked whether the row is still ours.
        run.until("migration.blocked", 30)
        gate.open()
        run.ok()
    assert scene.ledger() == [(1, "completed")]
    assert scene.database.exists("a")


@pytest.mark.thorough
@pytest.mark.case("A10")
def test_an_operator_who_frees_it_during_a_procedure_is_heard(scene: Scene) -> None:
    procedure = "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN COMMIT; PERFORM pg_advisory_lock(4711); END $$;"
    scene.write({"001_a.sql": f"{OUTSIDE}{procedure} CALL p();\nCREATE TABLE b ();"})
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival()
        scene.database.execute(RELEASE)
        gate.open()
        assert run.wait() == 75
    assert "An operator freed the migration lock" in run.stderr
    assert not scene.database.exists("b")


# --- Rows that cannot be written, and rows that are gone ---------------------------------------------------

OUT_OF_THE_WAY = """
CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE FUNCTION public.gone() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN DELETE FROM public.schema_migrations WHERE migration_number = NEW.migration_number; RETURN NULL; END $$;
"""
KEPT_OUT = {
    "a trigger before": "CREATE TRIGGER t BEFORE INSERT ON schema_migrations FOR EACH ROW EXECUTE FUNCTION nothing()",
    "a trigger after": "CREATE TRIGGER t AFTER INSERT ON schema_migrations FOR EACH ROW EXECUTE FUNCTION gone()",
    "a rule": "CREATE RULE r AS ON INSERT TO schema_migrations DO INSTEAD NOTHING",
}
MODES = {"inside": "", "outside": "-- entrypoint: no-transaction\n"}
mode = pytest.mark.parametrize("head", MODES.values(), ids=MODES.keys())


@mode
@pytest.mark.case("A14")
@pytest.mark.parametrize("way", KEPT_OUT.values(), ids=KEPT_OUT.keys())
def test_a_row_that_cannot_be_written_takes_its_migration_with_it(scene: Scene, way: str, head: str) -> None:
    scene.write(
        {
            "001_a.sql": f"{OUT_OF_THE_WAY} CREATE TABLE a (id integer);",
            "002_b.sql": f"{head}CREATE TABLE b (id integer);\nINSERT INTO a VALUES (2);\n{way};",
            "003_c.sql": "CREATE TABLE c (id integer);",
        }
    )
    run = scene.migrate()
    assert run.wait() == 70
    error = only_error(run)
    assert "002_b.sql: its row was not written to schema_migrations" in error["message"] or head
    assert "trigger" in error["remedy"]
    assert "rule" in error["remedy"]
    assert not scene.database.exists("c")
    if not head:
        assert scene.ledger() == [(1, "completed")]
        assert not scene.database.exists("b")


@mode
@pytest.mark.case("A14")
def test_what_somebody_else_records_meanwhile_is_not_done_twice(scene: Scene, head: str) -> None:
    begin = "BEGIN; " if head else ""
    end = "COMMIT;" if head else ""
    scene.write({"001_a.sql": f"{head}{begin}CREATE TABLE a (id integer); {Gate.PASS} {end}"})
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival()
        scene.database.execute(
            "INSERT INTO schema_migrations (migration_number, filename, status, application_version) "
            "VALUES (1, '001_a.sql', 'completed', 'by hand')"
        )
        gate.open()
        assert run.wait() == 70
    error = only_error(run)
    assert "001_a.sql: another session recorded it as completed while it ran" in error["message"]
    assert not scene.database.exists("a")
    assert scene.database.one("SELECT application_version FROM schema_migrations") == "by hand"
    scene.migrated()
    assert not scene.database.exists("a")


TRUNCATE_ALL = """
DO $$ DECLARE t record; BEGIN
    FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('TRUNCATE public.%I CASCADE', t.tablename);
    END LOOP;
END $$;
"""
REMOVES = {
    "truncates all tables": TRUNCATE_ALL,
    "deletes a row": "DELETE FROM schema_migrations WHERE migration_number = 1;",
    "deletes the lock's row": "DO $$ BEGIN EXECUTE 'DELETE FROM migration' || '_lock'; END $$;",
}


@mode
@pytest.mark.case("A11")
@pytest.mark.parametrize("how", REMOVES.values(), ids=REMOVES.keys())
def test_a_migration_that_removes_the_ledgers_rows_fails(scene: Scene, how: str, head: str) -> None:
    scene.write(
        {
            "001_a.sql": "CREATE TABLE a (id integer); INSERT INTO a VALUES (1);",
            "002_b.sql": f"{head}{how}",
            "003_c.sql": "CREATE TABLE c (id integer);",
        }
    )
    run = scene.migrate()
    assert run.wait() == 70
    error = only_error(run)
    assert error["file"] == "002_b.sql"
    assert "removed rows from schema_migrations or migration_lock" in error["message"]
    assert "MIGRATION_SCHEMA" in error["remedy"]
    assert scene.ledger() == [(1, "completed"), (2, "failed")]
    assert scene.database.one("SELECT count(*) FROM a") == 1
    assert not scene.database.exists("c")


@mode
@pytest.mark.case("A11")
def test_rows_that_somebody_else_removes_meanwhile_are_not_blamed_on_the_file(scene: Scene, head: str) -> None:
    scene.write(
        {
            "001_a.sql": "CREATE TABLE a ();",
            "002_b.sql": f"{head}BEGIN; CREATE TABLE b (); {Gate.PASS} COMMIT;",
            "003_c.sql": "CREATE TABLE c ();",
        }
    )
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival()
        scene.database.execute("DELETE FROM schema_migrations WHERE migration_number = 1")
        gate.open()
        assert run.wait() == 70
    error = only_error(run)
    assert error["file"] == "002_b.sql"
    assert "another session" in error["message"]
    assert "migration_number: 1" in error["message"]
    assert "entrypoint baseline" in error["remedy"]
    assert not scene.database.exists("b")
    assert not scene.database.exists("c")
    if head:
        # One of the file's own statements may have done it, and committed that. The message is true in both cases.
        assert "or another session" in error["message"]
        return
    assert error["event"] == "ledger.changed"
    assert scene.ledger() == []
    # As the remedy says.
    assert scene.start("baseline", "1", "--yes").wait() == 0
    scene.migrated()
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]


EMPTIES = "DELETE FROM schema_migrations; DELETE FROM migration_lock"
BEYOND_A_ROLLBACK = {
    "truncates all tables": TRUNCATE_ALL.replace("END $$", "COMMIT; END $$"),
    "deletes rows": "DO $$ BEGIN DELETE FROM schema_migrations; COMMIT; END $$;",
    "and goes on": "DO $$ BEGIN DELETE FROM schema_migrations; COMMIT; END $$; VACUUM a;",
    "in a procedure": "CALL p();",
    "in a procedure, and goes on": "CALL p();\nINSERT INTO a VALUES (2);",
    "and fails": "DO $$ BEGIN DELETE FROM schema_migrations; COMMIT; PERFORM 1 / 0; END $$;",
}


@pytest.mark.sampled(6)
@pytest.mark.case("A11")
@pytest.mark.parametrize("how", BEYOND_A_ROLLBACK.values(), ids=BEYOND_A_ROLLBACK.keys())
def test_a_migration_that_removes_the_ledgers_rows_and_commits_that_fails_itself(scene: Scene, how: str) -> None:
    procedure = "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN TRUNCATE schema_migrations; COMMIT; END $$;"
    scene.write(
        {
            "001_a.sql": f"CREATE TABLE a (id integer); {procedure}",
            "002_b.sql": f"{OUTSIDE}{how}",
            "003_c.sql": "CREATE TABLE c (id integer);",
        }
    )
    run = scene.migrate()
    assert run.wait() == 70
    error = only_error(run)
    assert error["file"] == "002_b.sql"
    assert "schema_migrations" in error["message"]
    assert "(migration_number: 1)" in error["message"]
    assert "entrypoint repair --failed, then entrypoint baseline 1." in error["remedy"]
    assert scene.ledger() == [(2, "failed")]
    assert not scene.database.exists("c")
    # As the remedy says.
    scene.write({"002_b.sql": "INSERT INTO a VALUES (1);"})
    scene.start("repair", "--failed", "--yes").ok()
    scene.start("baseline", "1", "--yes").ok()
    scene.migrated()
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]


@mode
@pytest.mark.case("A11")
def test_a_password_in_the_file_does_not_hide_what_became_of_the_rows(scene: Scene, head: str) -> None:
    block = "BEGIN; SELECT 'password: x'; DELETE FROM schema_migrations WHERE migration_number = 1; COMMIT;"
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": f"{head}{block}"})
    run = scene.migrate()
    assert run.wait() == 70
    assert "002_b.sql removed rows from schema_migrations" in only_error(run)["message"]
    assert scene.ledger() == [(1, "completed"), (2, "failed")]


@pytest.mark.case("A11")
def test_nothing_is_applied_twice_in_one_start(scene: Scene) -> None:
    scene.write(
        {
            "001_a.sql": "CREATE TABLE a (id integer);",
            "002_b.sql": "CREATE INDEX CONCURRENTLY a_id ON a (id);",
            "003_c.sql": "CREATE TABLE c (id integer);",
        }
    )
    with scene.database.connect() as other:
        # A concurrent index build waits for every older snapshot.
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        run = scene.start("migrate")
        until(lambda: scene.database.exists("schema_migrations") and (2, "running") in scene.ledger(), what="002")
        scene.database.execute(EMPTIES)
        other.execute("ROLLBACK")
        assert run.wait() == 70
    assert "001_a.sql: applied by this start, but its row in schema_migrations is gone" in errors(run)[-1]["message"]
    assert not scene.database.exists("c")


def test_a_migration_may_remove_rows_whose_files_are_gone(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a (id integer);"})
    scene.migrated()
    (scene.migrations / "001_a.sql").unlink()
    scene.write({"002_b.sql": "DELETE FROM schema_migrations WHERE migration_number = 1; SAVEPOINT left_open;"})
    scene.migrated()
    assert scene.ledger() == [(2, "completed")]


EVERY_TABLE = """
CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not without a tenant'; END $$;
DO $$ DECLARE t regclass; BEGIN
    FOR t IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('CREATE TRIGGER mine BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION mine()', t);
    END LOOP;
END $$"""
IN_THE_WAY = {
    "made again": "CREATE TABLE public.schema_migrations (version text)",
    "schema dropped": "DROP SCHEMA public CASCADE",
    "a trigger on every table": EVERY_TABLE,
    "column renamed": "ALTER TABLE schema_migrations RENAME COLUMN filename TO file",
    "table renamed": "ALTER TABLE schema_migrations RENAME TO old_migrations",
    "lock dropped": "DROP TABLE migration_lock CASCADE",
}


@pytest.mark.sampled(3)
@pytest.mark.case("D11")
@pytest.mark.parametrize("sql", IN_THE_WAY.values(), ids=IN_THE_WAY.keys())
def test_a_file_that_is_in_the_ledgers_way_is_told_so(scene: Scene, sql: str) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    scene.migrated()
    scene.write({"002_b.sql": f"CREATE TABLE b ();\n{sql};"})
    run = scene.migrate()
    if run.code == 0:
        # The program repaired it after the file.
        assert scene.ledger() == [(1, "completed"), (2, "completed")]
        return
    assert run.code == 70
    error = only_error(run)
    for part in ("002_b.sql", "schema_migrations"):
        assert part in error["message"]
    assert "in schema public" in error["message"] or "removed rows from" in error["message"]
    assert "MIGRATION_SCHEMA" in error["remedy"]
    assert "rolled back" in f"{error['message']} {error['remedy']}"
    assert scene.database.exists("a")
    assert not scene.database.exists("b")
    assert scene.ledger() == [(1, "completed"), (2, "failed")]


@pytest.mark.sampled(9)
@pytest.mark.case("D11")
@pytest.mark.parametrize("block", [True, False], ids=["in a block", "alone"])
@pytest.mark.parametrize("sql", IN_THE_WAY.values(), ids=IN_THE_WAY.keys())
def test_a_file_outside_a_transaction_that_is_in_the_ledgers_way_is_told_so(
    scene: Scene,
    sql: str,
    block: bool,  # noqa: FBT001
) -> None:
    """What its earlier statements did is committed.

    What is in the way is not, since the row is in the same transaction.
    """
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    scene.migrated()
    text = f"BEGIN;\n{sql};\nCOMMIT;" if block else f"{sql};"
    scene.write({"002_b.sql": f"-- entrypoint: no-transaction\nCREATE TABLE b ();\n{text}\nCREATE TABLE c ();"})
    run = scene.migrate()
    assert run.code == 70, run.report()
    told = only_error(run)
    for part in ("002_b.sql", "schema_migrations"):
        assert part in told["message"], told
    assert "in schema public" in told["message"] or "removed rows from" in told["message"], told
    assert "MIGRATION_SCHEMA" in told["remedy"]
    assert scene.database.exists("a")
    assert not scene.database.exists("c")
    assert scene.lock_is_free()
    # As the remedy says: once fixed, it continues, or the row is deleted.
    scene.write({"002_b.sql": "CREATE TABLE c ()"})
    scene.migrated()


@pytest.mark.thorough
@pytest.mark.case("D11")
@pytest.mark.parametrize("sql", ["DROP SCHEMA public CASCADE", "ALTER TABLE schema_migrations RENAME TO old"])
def test_a_block_that_commits_the_ledgers_end_is_told_so(scene: Scene, sql: str) -> None:
    """What runs outside a transaction is already committed when we find out."""
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    scene.migrated()
    scene.write({"002_b.sql": f"-- entrypoint: no-transaction\nDO $$ BEGIN {sql}; COMMIT; END $$;\nCREATE TABLE c ();"})
    run = scene.migrate()
    assert run.code == 70, run.report()
    told = errors(run)[-1]
    for part in ("002_b.sql", "schema_migrations"):
        assert part in told["message"], run.report()
    assert "MIGRATION_SCHEMA" in told["remedy"], run.report()


@pytest.mark.case("D11")
def test_a_file_that_fails_at_its_own_deferred_constraint_is_not(scene: Scene) -> None:
    scene.write(
        {
            "001_a.sql": "CREATE TABLE a (id int PRIMARY KEY, b int REFERENCES a DEFERRABLE INITIALLY DEFERRED); "
            "INSERT INTO a VALUES (1, 2)"
        }
    )
    run = scene.migrate()
    assert run.code == 70
    assert "schema_migrations and" not in only_error(run)["message"]
