"""`migrate --rehearse`: everything happens as in a real run, under the lock, and leaves nothing behind."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from conftest import missing
from entrypoint.database.session import Session
from entrypoint.errors.migration import MigrationFailedError
from entrypoint.migration.ledger.place import Place
from entrypoint.migration.operator.rehearsal import HeldLock, select, strongest
from entrypoint.migration.script.files import MigrationFile
from entrypoint.migration.script.prepare import Prepared
from entrypoint.migration.script.statements import advise
from entrypoint.operations.rehearse import print_rehearsal
from entrypoint.settings import read_settings
from kit.databases import server_errors
from kit.migrations import non_idempotent
from kit.pooler import executable, pooler
from kit.processes import until
from scene import LEGACY, Gate, Scene, load_legacy, lock_key, odd_strings, only_error, warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

    Start = Callable[..., Run]


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Start) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def rehearse(scene: Scene, *options: str, code: int = 0, url: str = "", **env: str | int) -> Run:
    """Rehearse, expect exit code `code`, and check that nothing is left behind."""
    before = scene.database.contents()
    run = scene.start("migrate", "--rehearse", *options, url=url, **env)
    assert run.wait() == code, run.report()
    assert scene.database.contents() == before
    until(lambda: scene.database.sessions() == 0, what="the end of the sessions")
    assert scene.database.one(f"SELECT pg_try_advisory_xact_lock({lock_key()})")
    return run


def names(run: Run) -> list[str]:
    """Return the files that the report says were rehearsed."""
    return re.findall(r"^  (\d{3}_\S+) +[\d.]+m?s +\S", run.stdout, re.MULTILINE)


# --- What succeeds --------------------------------------------------------------------------------------


def test_a_rehearsal_leaves_nothing_behind(any_database: Database, migrations_dir: Path, run_entrypoint: Start) -> None:
    """On a new database, where not even the ledger exists, and again with migrations already applied."""
    scene = Scene(any_database, migrations_dir, run_entrypoint)
    scene.write(non_idempotent(3))
    run = rehearse(scene)
    assert names(run) == ["001_step.sql", "002_step.sql", "003_step.sql"]
    assert "Rehearsed 3 of 3 migrations in one transaction, and rolled it back:" in run.stdout
    assert [record["file"] for record in run.logs("rehearsal.file")] == names(run)
    assert not any_database.exists("schema_migrations")

    scene.start("migrate", "--to", "1").ok()
    assert names(rehearse(scene)) == ["002_step.sql", "003_step.sql"]
    assert names(rehearse(scene, "--to", "2")) == ["002_step.sql"]
    assert scene.lock_is_free()
    assert scene.ledger() == [(1, "completed")]
    scene.migrated()
    assert rehearse(scene).stdout.partition("\n")[2] == "Nothing is pending, so there is nothing to rehearse.\n"


def test_a_schema_that_is_not_there_yet_is_not_there_afterwards(scene: Scene) -> None:
    scene.write(non_idempotent(2))
    assert len(names(rehearse(scene, MIGRATION_SCHEMA="books"))) == 2
    assert scene.database.rows("SELECT FROM pg_namespace WHERE nspname = 'books'") == []


def test_notices_are_in_the_log_and_in_the_report(scene: Scene) -> None:
    scene.write({"001_a.sql": "DO $$ BEGIN RAISE NOTICE E'[red]half\\x1b[0m way'; RAISE WARNING 'oh'; END $$;"})
    run = rehearse(scene)
    assert [record["message"] for record in run.logs("migration.notice")] == [
        "001_a.sql: NOTICE: [red]half\x1b[0m way",
        "001_a.sql: WARNING: oh",
    ]
    assert "      NOTICE: [red]half[0m way\n      WARNING: oh\n" in run.stdout


@pytest.mark.thorough
def test_each_file_begins_as_it_does_in_earnest(scene: Scene) -> None:
    """What the previous file did to the session is undone, as it is between two transactions."""
    scene.write(
        {
            "001_dump.sql": "SELECT set_config('search_path', '', false); SET LOCAL TimeZone = 'Asia/Tokyo';\n"
            "CREATE TEMP TABLE left_over (id int); SET ROLE pg_monitor; SELECT pg_advisory_lock(4712);",
            "002_b.sql": "CREATE TABLE b (id int); CREATE TEMP TABLE left_over (id int);\n"
            "DO $$ BEGIN ASSERT current_setting('TimeZone') <> 'Asia/Tokyo'; ASSERT current_user = session_user;\n"
            "ASSERT current_setting('lock_timeout') = '7s'; END $$;",
        }
    )
    assert len(names(rehearse(scene, MIGRATION_DDL_LOCK_TIMEOUT_MS=7000))) == 2
    scene.migrated(MIGRATION_DDL_LOCK_TIMEOUT_MS=7000)


DEFERRED = """
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int CONSTRAINT has_parent REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE strict (id int CONSTRAINT at_once UNIQUE DEFERRABLE INITIALLY IMMEDIATE);
"""


def test_deferred_constraints_are_checked_at_the_end_of_each_file(scene: Scene) -> None:
    scene.write({"001_a.sql": DEFERRED, "002_b.sql": "INSERT INTO child VALUES (1); INSERT INTO parent VALUES (1);"})
    assert len(names(rehearse(scene))) == 2
    scene.write({"003_c.sql": "INSERT INTO child VALUES (2);"})
    error = only_error(rehearse(scene, code=70))
    assert error["file"] == "003_c.sql"
    assert error["sqlstate"] == "23503"


@pytest.mark.thorough
def test_constraints_that_are_not_deferred_stay_so(scene: Scene) -> None:
    """A second constraint that is only deferrable is not deferred along with those that are."""
    scene.write(
        {
            "001_a.sql": DEFERRED,
            "002_b.sql": "INSERT INTO strict VALUES (1), (1);\nDELETE FROM strict;",
        }
    )
    error = only_error(rehearse(scene, code=70))
    assert (error["file"], error["line"], error["sqlstate"]) == ("002_b.sql", 1, "23505")
    real = only_error(scene.migrate())
    assert (real["file"], real["line"], real["sqlstate"]) == ("002_b.sql", 1, "23505")


def test_an_isolation_level_is_kept(scene: Scene) -> None:
    asks = (
        "BEGIN ISOLATION LEVEL SERIALIZABLE;\nDO $$ BEGIN ASSERT current_setting('transaction_isolation') = {}; END $$;"
    )
    level = "'serializable'"
    scene.write({"001_a.sql": f"{asks.format(level)}\nCOMMIT;", "002_b.sql": "SELECT 1;"})
    run = rehearse(scene, code=10)
    assert names(run) == ["001_a.sql"]
    assert "Not rehearsed: 002_b.sql. 002_b.sql begins its transaction in another way" in run.stdout


# --- What cannot be rehearsed ---------------------------------------------------------------------------


@pytest.mark.case("D12")
def test_it_stops_before_a_file_outside_a_transaction(scene: Scene) -> None:
    scene.write(
        {
            "001_a.sql": "CREATE TABLE a (id int);",
            "002_index.sql": "CREATE UNIQUE INDEX CONCURRENTLY i ON a (id);",
            "003_c.sql": "INSERT INTO a VALUES (1) ON CONFLICT (id) DO NOTHING;",
        }
    )
    run = rehearse(scene, code=10)
    assert names(run) == ["001_a.sql"]
    assert "Rehearsed 1 of 3 migrations in one transaction, and rolled it back; 2 not rehearsed:" in run.stdout
    why = "002_index.sql runs outside a transaction (CREATE INDEX CONCURRENTLY); what comes after it may depend on it."
    assert f"Not rehearsed: 002_index.sql, 003_c.sql. {why}\n" in run.stdout
    (said,) = run.logs("rehearsal.incomplete")
    assert (said["level"], said["files"]) == ("warning", ["002_index.sql", "003_c.sql"])
    (scene.migrations / "001_a.sql").unlink()
    assert "Nothing could be rehearsed.\n" in rehearse(scene, code=10).stdout


@pytest.mark.thorough
@pytest.mark.case("D12")
def test_it_goes_on_after_an_index_that_no_later_file_names(scene: Scene) -> None:
    scene.write(
        {
            "001_a.sql": "CREATE TABLE a (id int);",
            "002_index.sql": "CREATE INDEX CONCURRENTLY i ON a (id); VACUUM a;",
            "003_c.sql": "CREATE TABLE c ();",
            "004_d.sql": "ALTER INDEX i RENAME TO j;",
            "005_e.sql": "CREATE TABLE e ();",
        }
    )
    run = rehearse(scene, code=10)
    assert names(run) == ["001_a.sql", "003_c.sql"]
    assert "Rehearsed 2 of 5 migrations in one transaction, and rolled it back; 3 not rehearsed:" in run.stdout
    assert "Passed over: 002_index.sql runs outside a transaction (CREATE INDEX CONCURRENTLY, VACUUM)." in run.stdout
    assert "Not rehearsed: 004_d.sql, 005_e.sql. 004_d.sql names i, which 002_index.sql makes;" in run.stdout
    (said,) = run.logs("rehearsal.incomplete")
    assert said["files"] == ["002_index.sql", "004_d.sql", "005_e.sql"]
    scene.migrated()


@pytest.mark.thorough
def test_a_new_value_of_an_enumeration_needs_a_commit(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE person (mood mood);"})
    scene.migrated()
    scene.write(
        {
            "002_b.sql": "ALTER TYPE mood ADD VALUE 'ok';",
            "003_c.sql": "CREATE TABLE c ();",
            "004_d.sql": "INSERT INTO person VALUES ('ok');",
            "005_e.sql": "",
        }
    )
    run = rehearse(scene, code=10)
    assert names(run) == ["002_b.sql", "003_c.sql"]
    assert "Not rehearsed: 004_d.sql, 005_e.sql. 004_d.sql uses a value of an enumeration" in run.stdout
    scene.migrated()


@pytest.mark.thorough
def test_where_strings_have_escapes_a_commit_behind_one_is_found(scene: Scene) -> None:
    odd_strings(scene.database)
    scene.write(
        {"001_a.sql": "CREATE TABLE a (t text);", "002_x.sql": "SELECT '\\''; ABORT AND CHAIN; SELECT ' AS a -- '\n"}
    )
    assert "002_x.sql:1: ABORT" in only_error(rehearse(scene, code=65))["faults"][0]
    scene.write({"002_x.sql": "INSERT INTO a VALUES ('a\\'; COMMIT; --');\n"})
    assert names(rehearse(scene)) == ["001_a.sql", "002_x.sql"]
    assert not scene.database.exists("a")


def test_a_commit_that_happens_all_the_same_is_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of defence, with the one before it removed."""
    monkeypatch.setattr(Session, "parameter", lambda *_: "on")
    odd_strings(scene.database)
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_x.sql": "SELECT '\\''; COMMIT; SELECT ' AS a -- '\n"})
    environment = {"DATABASE_URL": scene.database.url, "MIGRATIONS_DIR": str(scene.migrations)}
    output = io.StringIO()
    with pytest.raises(MigrationFailedError) as caught:
        print_rehearsal(read_settings(environment, asked_for=True), output.write, up_to=None)
    assert "002_x.sql ended the transaction it ran in; part of it was committed" in caught.value.message
    assert caught.value.message.endswith("what was rehearsed before it: 001_a.sql")
    assert "undo it by hand" in caught.value.remedy
    assert scene.database.exists("a")
    assert "back before the error: 1 migration" in output.getvalue()


@pytest.mark.thorough
def test_a_visible_commit_is_refused_before_anything_runs(scene: Scene) -> None:
    scene.write(
        {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "BEGIN; CREATE TABLE b (); ROLLBACK; CREATE TABLE c ();"}
    )
    run = rehearse(scene, code=65)
    assert run.stdout == ""
    assert not run.logs("lock.acquired")
    scene.write({"002_b.sql": "DO $$ BEGIN COMMIT; END $$;"})
    assert only_error(rehearse(scene, code=70))["sqlstate"] == "2D000"


# --- What fails -----------------------------------------------------------------------------------------

BAD = "CREATE TABLE b ();\n\nSELECT 1,\n       nonsense FROM b;\n"


def test_a_failure_is_reported_as_in_earnest_and_not_recorded(scene: Scene) -> None:
    scene.write({"000_ledger.sql": ""})
    scene.migrated()
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_bad.sql": BAD, "003_c.sql": ""})
    run = rehearse(scene, code=70)
    rehearsed = only_error(run)
    assert "recorded as failed" not in rehearsed["message"]
    assert "DELETE FROM" not in rehearsed["remedy"]
    assert names(run) == ["001_a.sql"]
    # The rehearsal does not hold anything back.
    real = only_error(scene.migrate())
    assert real["event"] == rehearsed["event"] == "migration.failed"
    assert str(real["message"]).startswith(str(rehearsed["message"]))
    for fact in ("report", "version", "file", "line", "sqlstate"):
        assert real[fact] == rehearsed[fact]
    assert "LINE 4:        nonsense FROM b;\n               ^\nSQLSTATE:  42703" in real["report"]


@pytest.mark.thorough
def test_an_earlier_failure_stands_in_the_way_as_in_earnest(scene: Scene) -> None:
    scene.write({"002_bad.sql": BAD})
    scene.migrate()
    assert only_error(rehearse(scene, code=70))["event"] == "migration.held_back"
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    run = rehearse(scene, code=70)
    assert names(run) == ["001_a.sql"]
    assert only_error(run)["event"] == "migration.held_back"
    scene.write({"002_bad.sql": "CREATE TABLE b ();"})
    assert names(rehearse(scene)) == ["001_a.sql", "002_bad.sql"]


@pytest.mark.thorough
def test_a_ledger_that_cannot_be_written_is_found_out(scene: Scene) -> None:
    scene.write({"001_a.sql": ""})
    scene.migrated()
    if not scene.database.rows("SELECT FROM pg_roles WHERE rolname = 'keeper'"):
        scene.database.execute("CREATE ROLE keeper")
    scene.database.execute(
        "GRANT SELECT ON schema_migrations TO keeper; GRANT ALL ON migration_lock TO keeper; "
        "GRANT CREATE ON SCHEMA public TO keeper"
    )
    scene.write({"002_b.sql": "CREATE TABLE b ();"})
    error = only_error(rehearse(scene, code=70, MIGRATION_ROLE="keeper"))
    assert error["message"].startswith("The migration history could not be written: permission denied")


@pytest.mark.case("D8")
def test_a_server_that_takes_no_writes(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    url = f"{scene.database.url}?options=-cdefault_transaction_read_only%3Don"
    error = only_error(rehearse(scene, code=69, url=url))
    assert error["event"] == "database.read_only"
    assert error["message"] == "1 migration is pending, and the database is read-only by default; nothing was run"


# --- Locks ----------------------------------------------------------------------------------------------


def test_the_locks_that_hurt_under_traffic(scene: Scene) -> None:
    scene.database.execute(
        "CREATE TABLE orders (id serial PRIMARY KEY); CREATE TABLE customers (id int PRIMARY KEY);"
        "CREATE TABLE gone (id int); CREATE SCHEMA other; CREATE TABLE other.log (line text); CREATE TABLE quiet ();"
    )
    scene.write(
        {
            "001_a.sql": "INSERT INTO orders DEFAULT VALUES; CREATE TABLE fresh (id serial); SELECT * FROM quiet;",
            "002_b.sql": "ALTER TABLE orders ADD COLUMN customer int REFERENCES customers;\n"
            "CREATE INDEX ON other.log (line); INSERT INTO fresh DEFAULT VALUES;",
            "003_c.sql": "DROP TABLE gone; ANALYZE other.log;",
        }
    )
    before = scene.database.one("SELECT last_value FROM orders_id_seq")
    run = scene.start("migrate", "--rehearse").ok()
    lines = [re.split(r" {2,}", line.strip()) for line in run.stdout.partition("strongest first:\n\n")[2].splitlines()]
    table = {line[0]: line[1:] for line in lines if len(line) == 4}
    assert table == {
        "public.gone": ["ACCESS EXCLUSIVE", "blocks reading and writing", "since 003_c.sql"],
        "public.orders": ["ACCESS EXCLUSIVE", "blocks reading and writing", "since 002_b.sql"],
        "public.customers": ["SHARE ROW EXCLUSIVE", "blocks writing", "since 002_b.sql"],
        "other.log": ["SHARE", "blocks writing", "since 002_b.sql"],
    }
    assert list(table)[:3] == ["public.gone", "public.orders", "public.customers"]
    assert run.stdout.endswith("values taken from public.orders_id_seq.\n")
    assert before == 1
    assert scene.database.one("SELECT last_value, is_called FROM orders_id_seq") == (1, True), "the note is true"


@pytest.mark.thorough
def test_no_locks_worth_a_word(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    assert rehearse(scene).stdout.endswith("No locks on existing tables.\n")
    scene.migrated()
    scene.write({"002_b.sql": "CREATE TABLE b ();"})
    assert rehearse(scene).stdout.endswith("No locks on existing tables.\n")


def test_a_lock_that_is_not_to_be_had_is_tried_again(scene: Scene) -> None:
    scene.database.execute("CREATE TABLE orders (id int)")
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "ALTER TABLE orders ADD COLUMN a int;"})
    with scene.database.connect() as reader:
        reader.execute("BEGIN; SELECT * FROM orders")
        run = scene.start("migrate", "--rehearse", MIGRATION_DDL_LOCK_TIMEOUT_MS=200)
        said = run.until("migration.retry")
        assert (said["file"], said["sqlstate"]) == ("002_b.sql", "55P03")
        run.until("migration.blocked")
        late = scene.start("migrate", "--rehearse", MIGRATION_DDL_LOCK_TIMEOUT_MS=200, MIGRATION_LOCK_TIMEOUT_MS=300)
        assert late.wait() == 75, "there is one rehearsal at a time"
        reader.execute("COMMIT")
        assert names(run.ok()) == ["001_a.sql", "002_b.sql"]
        reader.execute("BEGIN; SELECT * FROM orders")
        late = scene.start("migrate", "--rehearse", MIGRATION_DDL_LOCK_TIMEOUT_MS=100, MIGRATION_TIMEOUT_MS=4000)
        assert late.wait() == 70
        assert only_error(late)["event"] == "migration.timeout"
    assert not scene.database.exists("a")


# --- Next to others -------------------------------------------------------------------------------------


@pytest.fixture(params=["no ledger", "a ledger"])
def prepared(request: pytest.FixtureRequest, scene: Scene) -> Scene:
    """Return a scene with a gate to rehearse at, with and without an existing ledger."""
    if request.param == "a ledger":
        scene.write({"001_a.sql": ""})
        scene.migrated()
    scene.write({"001_a.sql": "", "002_wait.sql": f"CREATE TABLE b (); {Gate.PASS}", "003_c.sql": "CREATE TABLE c ();"})
    return scene


def test_nobody_migrates_beside_a_rehearsal(prepared: Scene) -> None:
    scene = prepared
    with Gate(scene.database) as gate:
        rehearsing = scene.start("migrate", "--rehearse")
        gate.arrival()
        migrating = scene.start("migrate")
        migrating.until("lock.waiting")
        assert scene.start("status").ok().stdout.splitlines()[-1].startswith(("Lock: held by", "Lock: just taken"))
    rehearsing.ok()
    migrating.ok()
    assert migrating.outcome == "migrated"
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]


@pytest.mark.thorough
def test_a_rehearsal_waits_while_somebody_migrates(prepared: Scene) -> None:
    scene = prepared
    with Gate(scene.database) as gate:
        migrating = scene.start("migrate")
        gate.arrival()
        rehearsing = scene.start("migrate", "--rehearse")
        rehearsing.until("lock.waiting")
    migrating.ok()
    assert rehearsing.ok().stdout.partition("\n")[2] == "Nothing is pending, so there is nothing to rehearse.\n"


@pytest.mark.thorough
def test_sigterm_ends_it(prepared: Scene) -> None:
    scene = prepared
    before = scene.database.contents()
    with Gate(scene.database) as gate:
        run = scene.start("migrate", "--rehearse")
        gate.arrival()
        run.terminate()
        assert run.wait(10) == 143
        until(lambda: scene.database.sessions(ours=2) == 0, what="the end of its sessions")
    now = scene.database.contents()
    # What there was no time to free is left to the next start.
    assert _without_lock(now) == _without_lock(before)
    scene.migrated()


def _without_lock(contents: str) -> list[str]:
    return [line for line in contents.splitlines() if not line.startswith("INSERT INTO public.migration_lock")]


@pytest.mark.thorough
def test_an_operator_can_end_it(scene: Scene) -> None:
    scene.write({"001_a.sql": ""})
    scene.migrated()
    scene.write({"002_wait.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        run = scene.start("migrate", "--rehearse")
        gate.arrival()
        scene.database.execute("UPDATE migration_lock SET locked_at = NULL, locked_by = NULL, process_id = NULL")
        assert run.wait() == 75, run.report()
        assert only_error(run)["by_operator"] is True


def test_a_cancelled_statement_ends_it(scene: Scene) -> None:
    scene.write({"001_wait.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        run = scene.start("migrate", "--rehearse")
        scene.database.execute("SELECT pg_cancel_backend(%s)", (gate.arrival(),))
        assert run.wait() == 70
        assert only_error(run)["event"] == "migration.stopped"
    assert not scene.database.exists("schema_migrations")


# --- An earlier system's ledger -------------------------------------------------------------------------


@pytest.mark.thorough
def test_an_earlier_systems_ledger_is_left_as_it_is(scene: Scene) -> None:
    load_legacy(scene.database, rows=False)
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    assert names(rehearse(scene)) == ["001_a.sql"]
    script = (LEGACY / "migrations" / "000_migration_system.sql").read_bytes()
    scene.write({"000_migration_system.sql": script})
    assert names(rehearse(scene)) == ["000_migration_system.sql", "001_a.sql"]


def test_an_upgrade_that_cannot_work_is_found_out(scene: Scene) -> None:
    load_legacy(scene.database, rows=False)
    scene.database.execute("CREATE VIEW mine AS SELECT applied_at FROM schema_migrations")
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    error = only_error(rehearse(scene, code=70))
    assert error["message"].startswith("The migration history could not be created or upgraded: ")
    assert "view" in error["remedy"]


def test_an_earlier_systems_ledger_can_be_read_meanwhile(scene: Scene) -> None:
    load_legacy(scene.database, rows=False)
    scene.write({"001_wait.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        run = scene.start("migrate", "--rehearse")
        gate.arrival()
        with scene.database.connect(options="-clock_timeout=3s") as reader:
            reader.execute("SELECT FROM schema_migrations, migration_lock")
    run.ok()


def test_a_living_replica_of_the_earlier_system_is_waited_for(scene: Scene) -> None:
    load_legacy(scene.database, rows=False)
    scene.database.execute("UPDATE migration_lock SET locked_at = now(), locked_by = 'old', process_id = 1")
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    assert only_error(rehearse(scene, code=75, MIGRATION_LOCK_TIMEOUT_MS=500))["event"] == "lock.timeout"


# --- Through a pooler -----------------------------------------------------------------------------------


@pytest.fixture
def pool(database: Database) -> Iterator[str]:
    """Return the address of the database through PgBouncer, with the fewest connections that can work."""
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    with pooler(database.server, pool_size=2) as port:
        yield database.url_at(port)


def test_nothing_leaks_through_a_pooler(scene: Scene, pool: str) -> None:
    def states() -> list[tuple[Any, ...]]:
        """Return the state of both server connections of the pool, by keeping two transactions open at once."""
        ask = (
            "SELECT current_setting('search_path'), current_user::text, current_setting('lock_timeout'),"
            " to_regclass('pg_temp.left_over')::text, (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')"
        )
        with psycopg.connect(pool, prepare_threshold=None) as one, psycopg.connect(pool, prepare_threshold=None) as two:
            return [connection.execute(ask).fetchall()[0] for connection in (one, two)]

    before = states()
    leaving = (
        "SET search_path = ''; SET lock_timeout = 77; CREATE TEMP TABLE left_over (); SELECT pg_advisory_lock(4712);"
    )
    for code, last in ((0, "SELECT 1;"), (70, "SELECT nonsense;")):
        scene.write({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": f"{leaving} {last}"})
        run = scene.start("migrate", "--rehearse", url=pool)
        assert run.wait() == code, run.report()
        assert states() == before
        assert not scene.database.exists("a")


@pytest.mark.thorough
def test_a_rehearsal_through_a_pooler(scene: Scene, pool: str) -> None:
    scene.write(non_idempotent(3))
    scene.start("migrate", "--to", "1", url=pool).ok()
    mark = scene.database.server.log_size()
    run = scene.start("migrate", "--rehearse", url=pool).ok()
    assert len(names(run)) == 2
    assert server_errors(scene.database.server, mark) == []
    assert scene.ledger() == [(1, "completed")]
    assert scene.lock_is_free()
    scene.write({"004_vacuum.sql": "VACUUM"})
    refused = scene.start("migrate", "--rehearse", url=pool)
    assert refused.wait() == 78
    assert "MIGRATION_DATABASE_URL" in only_error(refused)["remedy"]


# --- Usage, and pure functions --------------------------------------------------------------------------


def test_a_rehearsal_is_not_a_dry_run(scene: Scene) -> None:
    run = scene.start("migrate", "--rehearse", "--dry-run")
    assert run.wait() == 64
    assert "--dry-run" in only_error(run)["message"]


@pytest.mark.thorough
def test_it_makes_no_noise(scene: Scene) -> None:
    """It causes no warnings, here or in the server's log."""
    scene.write(non_idempotent(2))
    mark = scene.database.server.log_size()
    assert warnings(rehearse(scene)) == []
    scene.start("migrate", "--to", "1").ok()
    assert warnings(rehearse(scene)) == []
    assert server_errors(scene.database.server, mark) == []


def prepared_of(number: int, text: str) -> Prepared:
    return Prepared(MigrationFile(number, f"{number:03d}_x.sql", "", "", ""), text, advise(text))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("texts", "rehearsed", "passed", "why"),
    [
        ((), (), 0, ""),
        (("SELECT 1", "SELECT 2"), (0, 1), 0, ""),
        (("SELECT 1", "VACUUM", "SELECT 2"), (0, 2), 1, ""),
        (("VACUUM", "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT", "SELECT 2"), (1,), 1, "003_x.sql begins"),
        (("SELECT 1", "VACUUM; DROP INDEX CONCURRENTLY i", "SELECT 2"), (0,), 0, r"002_x.sql runs outside .*\(DROP"),
        (("CREATE INDEX CONCURRENTLY i_1 ON t (a)", "SELECT i_10, ai_1"), (1,), 1, ""),
        (("CREATE INDEX CONCURRENTLY I_1 ON t (a)", "-- i_1"), (), 1, "002_x.sql names I_1, which 001_x.sql makes"),
        (("CREATE INDEX CONCURRENTLY i ON t (a)", "REINDEX INDEX CONCURRENTLY i"), (), 1, "002_x.sql runs outside"),
        (("CREATE INDEX CONCURRENTLY ON t (a)", "SELECT 1"), (), 0, "001_x.sql runs outside"),
        (("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", "SELECT 1"), (), 0, "001_x.sql runs outside"),
        (
            ("-- entrypoint: no-transaction\nSELECT 1",),
            (),
            0,
            r"001_x.sql runs outside a transaction \(the file says so\)",
        ),
        (("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT",), (0,), 0, ""),
        (
            ("SELECT 1", "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT"),
            (0,),
            0,
            "002_x.sql begins its transact",
        ),
    ],
)
@pytest.mark.case("D12")
def test_what_can_be_rehearsed(texts: tuple[str, ...], rehearsed: tuple[int, ...], passed: int, why: str) -> None:
    selection = select([prepared_of(number, text) for number, text in enumerate(texts, 1)])
    assert (selection.rehearsed, len(selection.passed_over)) == (rehearsed, passed)
    assert re.match(why, selection.why) if why else selection.why == ""


def test_the_strongest_lock_of_each_relation_that_is_there() -> None:
    place = Place("app", True, {}, {})  # noqa: FBT003 - the schema exists
    seen = {
        ("1", "RowExclusiveLock"): "001",
        ("1", "ShareLock"): "002",
        ("1", "AccessShareLock"): "001",
        ("2", "AccessExclusiveLock"): "003",
        ("3", "RowExclusiveLock"): "001",
        ("4", "RowShareLock"): "001",
        ("5", "RowShareLock"): "001",
        ("6", "AccessExclusiveLock"): "001",
        ("7", "AccessExclusiveLock"): "001",
    }
    relations = [
        ("1", "s", "table", "r"),
        ("2", "s", "index", "i"),
        ("3", "s", "written_index", "i"),
        ("4", "app", "migration_lock", "r"),
        ("5", "other", "migration_lock", "r"),
        ("6", "app", "schema_migrations", "r"),
    ]
    assert strongest(seen, relations, place) == [
        HeldLock("app.schema_migrations", "r", "AccessExclusiveLock", "001"),
        HeldLock("s.index", "i", "AccessExclusiveLock", "003"),
        HeldLock("s.table", "r", "ShareLock", "002"),
        HeldLock("other.migration_lock", "r", "RowShareLock", "001"),
    ]
