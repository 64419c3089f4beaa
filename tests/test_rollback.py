"""`rollback`: down migrations, newest first, under the lock, with the same machinery as migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kit.migrations import write_migrations
from kit.processes import until
from kit.proxy import Proxy
from kit.terminal import Terminal
from scene import Gate, Scene, blind, errors, load_legacy, only_error, token_of, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

FORWARD = {f"{n:03d}_t{n}.sql": f"CREATE TABLE t{n} (id integer);" for n in (1, 2, 3)}
REVERSE = {f"{n:03d}_t{n}.sql": f"INSERT INTO undone VALUES ({n}); DROP TABLE t{n};" for n in (1, 2, 3)}
LEAVES = 'DELETE FROM "public".schema_migrations'


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene whose database has three migrations; each has a down migration that records its turn."""
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write(FORWARD)
    reverses(scene, REVERSE)
    database.execute("CREATE TABLE undone (number integer, turn integer GENERATED ALWAYS AS IDENTITY)")
    scene.migrated()
    return scene


def reverses(scene: Scene, files: dict[str, str] | dict[str, bytes]) -> None:
    write_migrations(scene.migrations / "rollback", files)


def rollback(scene: Scene, to: int, *, url: str = "", **env: str | int) -> Run:
    return scene.start("rollback", "--to", str(to), "--yes", url=url, **env)


def refusal_of(run: Run, code: int) -> dict[str, Any]:
    assert run.wait() == code, run.report()
    return only_error(run)


def undone(scene: Scene) -> list[int]:
    return [number for (number,) in scene.database.rows("SELECT number FROM undone ORDER BY turn")]


def test_it_goes_down_to_a_migration_and_not_further(scene: Scene) -> None:
    run = rollback(scene, 1).ok()
    assert undone(scene) == [3, 2]
    assert scene.ledger() == [(1, "completed")]
    assert scene.database.exists("t1")
    assert not scene.database.exists("t2")
    assert [record["version"] for record in run.logs("migration.reversed")] == [3, 2]
    assert run.logs("schema.rolled_back")[0]["version"] == 1
    assert "at version 1" in run.stdout
    assert "applies them again" in run.stdout
    assert scene.lock_is_free()
    # As the output says.
    assert scene.run()[:2] == ("migrated", "3")
    assert scene.database.exists("t3")


@pytest.mark.thorough
def test_to_zero_it_takes_all_back(scene: Scene) -> None:
    rollback(scene, 0).ok()
    assert undone(scene) == [3, 2, 1]
    assert scene.ledger() == []


def test_nothing_above_is_nothing_to_do(scene: Scene) -> None:
    run = rollback(scene, 3).ok()
    assert run.stdout.partition("\n")[2] == "Nothing to reverse: the schema is at version 3.\n"
    assert "lock.acquired" not in run.events()


@pytest.mark.parametrize("arguments", [("--to", "7"), ("--to", "x"), ()])
def test_a_target_that_is_no_migration_is_refused(scene: Scene, arguments: tuple[str, ...]) -> None:
    run = scene.start("rollback", *arguments, "--yes")
    assert run.wait() == 64
    assert undone(scene) == []


def test_a_database_without_a_ledger_stays_without(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    write_migrations(migrations_dir, FORWARD)
    run = run_entrypoint("rollback", "--to", "0", "--yes", env={"DATABASE_URL": database.url}).ok()
    assert "Nothing to reverse" in run.stdout
    assert not database.exists("schema_migrations")


# --- Checked before anything runs -----------------------------------------------------------------------


def test_every_missing_reverse_file_is_named(scene: Scene) -> None:
    for name in ("002_t2.sql", "003_t3.sql"):
        (scene.migrations / "rollback" / name).unlink()
    before = scene.database.contents()
    run = rollback(scene, 0)
    assert run.wait() == 65
    faults = only_error(run)["faults"]
    assert [fault.partition(":")[0] for fault in faults] == ["003_t3.sql", "002_t2.sql"]
    assert "rollback/002_" in faults[1]
    assert scene.database.contents() == before


def test_a_row_of_a_newer_image_cannot_be_taken_back_by_an_older_one(scene: Scene) -> None:
    (scene.migrations / "003_t3.sql").unlink()
    (scene.migrations / "rollback" / "003_t3.sql").unlink()
    run = rollback(scene, 1)
    assert run.wait() == 65
    (fault,) = only_error(run)["faults"]
    assert "a newer image applied it" in fault
    assert undone(scene) == []


@pytest.mark.thorough
def test_all_faults_of_reverse_files_are_listed(scene: Scene) -> None:
    reverses(scene, {"003_t3.sql": "DROP TABLE t3;\nCOMMIT AND CHAIN;\nDROP INDEX CONCURRENTLY i;"})
    (scene.migrations / "rollback" / "002_t2.sql").write_bytes(b"SELECT '\xff';")
    reverses(scene, {"1-Bad.sql": "", "001_again.sql": ""})
    before = scene.database.contents()
    run = rollback(scene, 0)
    assert run.wait() == 65
    faults = "\n".join(only_error(run)["faults"])
    for part in (
        "rollback/003_t3.sql:2: COMMIT",
        "rollback/002_t2.sql:1: is not valid UTF-8",
        "1-Bad.sql",
        "001_again.sql",
    ):
        assert part in faults, faults
    assert scene.database.contents() == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SELECT 1;\nDROP INDEX CONCURRENTLY i;", "003_t3.sql:2: DROP INDEX CONCURRENTLY cannot run inside"),
        ("-- entrypoint: no-transaction\nDROP TABLE t3;", "remove the directive"),
    ],
)
def test_a_reverse_file_must_be_one_transaction(scene: Scene, text: str, says: str) -> None:
    reverses(scene, {"003_t3.sql": text})
    run = rollback(scene, 2)
    assert run.wait() == 65
    (fault,) = only_error(run)["faults"]
    assert says in fault
    assert scene.ledger()[-1] == (3, "completed")


@pytest.mark.thorough
def test_a_standby_or_a_read_only_database_is_told(scene: Scene) -> None:
    scene.database.execute(f"ALTER DATABASE {scene.database.name} SET default_transaction_read_only TO on")
    run = rollback(scene, 1)
    assert run.wait() == 69
    assert only_error(run)["event"] == "database.read_only"


# --- Consent --------------------------------------------------------------------------------------------


def test_without_a_terminal_it_shows_what_it_would_do_and_needs_yes(scene: Scene) -> None:
    before = scene.database.contents()
    run = scene.start("rollback", "--to", "1")
    assert run.wait() == 64
    assert "--yes" in only_error(run)["remedy"]
    assert run.stdout.index("003_t3.sql") < run.stdout.index("002_t2.sql")
    assert "001_t1.sql" not in run.stdout
    assert scene.database.contents() == before


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("YES\n", 0), ("n\n", 64), ("\n", 64), ("\x04", 64)])
def test_on_a_terminal_it_asks(scene: Scene, answer: str, code: int) -> None:
    with Terminal() as terminal:
        env = {"DATABASE_URL": scene.database.url}
        run = scene.launch("rollback", "--to", "1", env=env, **terminal.options)
        shown = terminal.asked(run)
        assert shown.index("003_t3.sql") < shown.index("002_t2.sql")
        # Nobody has to wait while somebody thinks.
        assert scene.database.sessions() == 0
        assert terminal.answer(run, answer) == code, terminal.text
    assert undone(scene) == ([3, 2] if code == 0 else [])


@pytest.mark.thorough
@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_a_signal_at_the_question_ends_it(scene: Scene, signal: str) -> None:
    import signal as signals

    number = signals.Signals[signal]
    with Terminal() as terminal:
        env = {"DATABASE_URL": scene.database.url}
        run = scene.launch("rollback", "--to", "1", env=env, **terminal.options)
        terminal.asked(run)
        run.kill(number)
        assert run.wait(5) == 128 + number
    assert undone(scene) == []


@pytest.mark.thorough
def test_what_changed_while_somebody_thought_is_not_reversed(scene: Scene) -> None:
    with Terminal() as terminal:
        env = {"DATABASE_URL": scene.database.url}
        run = scene.launch("rollback", "--to", "1", env=env, **terminal.options)
        scene.write({"004_t4.sql": "CREATE TABLE t4 ()"})
        assert terminal.answer(run, "y\n", scene.migrated) == 70
        assert "has changed since" in terminal.text
    assert undone(scene) == []
    assert len(scene.ledger()) == 4
    assert scene.lock_is_free()


# --- Rows that are not completed ------------------------------------------------------------------------


def test_a_failed_row_goes_without_running_anything(scene: Scene) -> None:
    scene.write({"004_bad.sql": "SELECT nonsense"})
    assert scene.migrate().code == 70
    assert scene.ledger()[-1] == (4, "failed")
    run = rollback(scene, 2).ok()
    assert "004_bad.sql  (failed" in run.stdout
    assert undone(scene) == [3]
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


def test_a_file_that_failed_outside_a_transaction_is_a_persons_business(scene: Scene) -> None:
    scene.write({"004_half.sql": "-- entrypoint: no-transaction\nCREATE TABLE half (); SELECT nonsense;"})
    assert scene.migrate().code == 70
    run = rollback(scene, 2)
    assert run.wait() == 70
    assert "004_half.sql" in only_error(run)["message"]
    assert undone(scene) == []
    # As the remedy says.
    scene.database.execute("DROP TABLE half; DELETE FROM schema_migrations WHERE migration_number = 4")
    rollback(scene, 2).ok()
    assert undone(scene) == [3]


@pytest.mark.thorough
def test_a_file_that_committed_its_first_half_is_a_persons_business(scene: Scene) -> None:
    scene = blind(scene)
    scene.write({"004_x.sql": "CREATE TABLE x ();\nSELECT '\\''; COMMIT; SELECT ' AS a -- '\n"})
    assert scene.migrate().code == 70
    assert scene.database.exists("x")
    run = rollback(scene, 2)
    assert run.wait() == 70
    assert "004_x.sql is failed" in only_error(run)["message"]


@pytest.mark.thorough
def test_an_interrupted_file_is_a_persons_business(scene: Scene) -> None:
    scene.database.execute("UPDATE schema_migrations SET status = 'running' WHERE migration_number = 3")
    run = rollback(scene, 2)
    assert run.wait() == 70
    assert "003_t3.sql is running" in only_error(run)["message"]


# --- While it runs --------------------------------------------------------------------------------------


def test_a_reverse_that_fails_leaves_its_migration_applied(scene: Scene) -> None:
    reverses(scene, {"002_t2.sql": "DROP TABLE t2;\nSELECT nonsense;"})
    run = rollback(scene, 0)
    assert run.wait() == 70
    error = only_error(run)
    assert "rollback/002_t2.sql:2" in error["message"]
    assert "LINE 2: SELECT nonsense;" in error["report"]
    assert "still applied" in error["message"]
    assert "DELETE" not in error["remedy"]
    assert scene.ledger() == [(1, "completed"), (2, "completed")]
    assert scene.database.exists("t2")
    reverses(scene, {"002_t2.sql": REVERSE["002_t2.sql"]})
    rollback(scene, 0).ok()
    assert scene.ledger() == []


@pytest.mark.thorough
def test_a_reverse_that_ends_the_transaction_is_detected(scene: Scene) -> None:
    scene = blind(scene)
    reverses(scene, {"003_t3.sql": "SELECT '\\''; COMMIT; SELECT ' AS a -- '\n"})
    run = rollback(scene, 2)
    assert run.wait() == 70
    assert "migration 3 is still applied" in only_error(run)["message"]
    assert scene.ledger()[-1] == (3, "completed")


@pytest.mark.thorough
def test_a_lock_in_the_way_is_waited_for_as_by_a_migration(scene: Scene) -> None:
    with scene.database.connect() as other:
        other.execute("BEGIN; LOCK TABLE t3")
        run = rollback(scene, 2, MIGRATION_DDL_LOCK_TIMEOUT_MS=200)
        record = run.until("migration.retry")
        assert record["sqlstate"] == "55P03"
        assert record["file"] == "rollback/003_t3.sql"
    run.ok()
    assert undone(scene) == [3]


def test_replicas_wait_for_it_and_an_operator_sees_it(scene: Scene) -> None:
    reverses(scene, {"002_t2.sql": f"DROP TABLE t2; {Gate.PASS}"})
    scene.write({"004_t4.sql": "CREATE TABLE t4 ()"})
    with Gate(scene.database) as gate:
        run = rollback(scene, 1)
        gate.arrival()
        replica = scene.start()
        replica.until("lock.waiting")
        until(lambda: scene.lock()["progress_migration"] == "rollback/002_t2.sql", 15, "progress in the row")
        assert scene.ledger() == [(1, "completed"), (2, "completed")]
        gate.open()
        run.ok()
        # The replica's image has all four files.
        assert told(replica)[:2] == ("migrated", "4")
    assert [number for number, _ in scene.ledger()] == [1, 2, 3, 4]


@pytest.mark.thorough
def test_an_operator_can_stop_it(scene: Scene) -> None:
    reverses(scene, {"002_t2.sql": f"DROP TABLE t2; {Gate.PASS}"})
    with Gate(scene.database) as gate:
        run = rollback(scene, 1)
        gate.arrival()
        scene.database.execute(
            "UPDATE migration_lock SET locked_at = NULL, locked_by = NULL, process_id = NULL WHERE id = 1"
        )
        assert run.wait() == 75
    assert only_error(run)["event"] == "lock.lost"
    assert scene.database.exists("t2")
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


@pytest.mark.thorough
def test_the_time_for_all_of_it_is_bounded(scene: Scene) -> None:
    reverses(scene, {"002_t2.sql": f"DROP TABLE t2; {Gate.PASS}"})
    with Gate(scene.database):
        run = rollback(scene, 1, MIGRATION_TIMEOUT_MS=1500)
        assert run.wait() == 70
    assert only_error(run)["event"] == "migration.timeout"
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


def test_a_holder_that_is_killed_leaves_nothing_half_done(scene: Scene) -> None:
    reverses(scene, {"002_t2.sql": f"INSERT INTO undone VALUES (2); DROP TABLE t2; {Gate.PASS}"})
    with Gate(scene.database) as gate:
        run = rollback(scene, 0)
        token = token_of(run)
        gate.arrival()
        run.kill()
        until(lambda: not scene.backends(token), 10, "the end of its sessions")
    assert scene.ledger() == [(1, "completed"), (2, "completed")]
    assert undone(scene) == [3]
    reverses(scene, REVERSE)
    rollback(scene, 0).ok()
    assert undone(scene) == [3, 2, 1]


@pytest.mark.parametrize("deliver", [True, False], ids=["committed", "aborted"])
def test_a_commit_in_doubt_is_settled(scene: Scene, proxy: Proxy, deliver: bool) -> None:  # noqa: FBT001
    cut = proxy.when_client_sends(LEAVES.encode(), Proxy.cut, deliver=deliver)
    run = rollback(scene, 0, url=scene.database.url_at(proxy.port)).ok()
    assert cut.is_set()
    (record,) = run.logs("migration.commit_in_doubt")
    assert record["verdict"] == ("committed" if deliver else "aborted")
    assert undone(scene) == [3, 2, 1]
    assert scene.ledger() == []
    assert errors(run) == []


@pytest.mark.thorough
def test_an_empty_reverse_file_only_removes_the_row(scene: Scene) -> None:
    reverses(scene, {"003_t3.sql": "-- there is nothing to take back\n"})
    run = rollback(scene, 2).ok()
    assert "rollback/003_t3.sql is empty" in run.stdout
    assert scene.ledger() == [(1, "completed"), (2, "completed")]
    assert scene.database.exists("t3")


def test_an_earlier_systems_ledger_is_upgraded_on_the_way(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    load_legacy(database, rows=False)
    database.execute(
        "CREATE TABLE undone (number integer); CREATE TABLE t1 ();"
        "INSERT INTO schema_migrations (migration_number, filename) VALUES (1, '001_t1.sql')"
    )
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_t1.sql": FORWARD["001_t1.sql"]})
    reverses(scene, {"001_t1.sql": REVERSE["001_t1.sql"]})
    rollback(scene, 0).ok()
    assert scene.ledger() == []
    assert not database.exists("t1")


@pytest.mark.case("A11")
@pytest.mark.parametrize(
    "how",
    [
        "DELETE FROM schema_migrations WHERE migration_number = 3;",
        "DELETE FROM schema_migrations WHERE filename = '003_t3.sql' AND status = 'completed';",
    ],
)
def test_a_reverse_file_may_remove_its_own_row(scene: Scene, how: str) -> None:
    reverses(scene, {"003_t3.sql": f"{REVERSE['003_t3.sql']} {how}"})
    rollback(scene, 1).ok()
    assert undone(scene) == [3, 2]
    assert scene.ledger() == [(1, "completed")]


@pytest.mark.case("A11")
@pytest.mark.parametrize("number", [1, 2], ids=["one that stays", "one that is taken back next"])
def test_a_reverse_file_may_not_remove_other_rows(scene: Scene, number: int) -> None:
    delete = f"DELETE FROM schema_migrations WHERE migration_number IN (3, {number});"
    reverses(scene, {"003_t3.sql": f"{REVERSE['003_t3.sql']} {delete}"})
    run = rollback(scene, 1)
    assert run.wait() == 70
    error = only_error(run)
    assert "rollback/003_t3.sql removed rows from schema_migrations" in error["message"]
    assert "migration 3 is still applied" in error["message"]
    assert undone(scene) == []
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]


@pytest.mark.case("A14")
def test_a_row_that_cannot_be_removed_is_named(scene: Scene) -> None:
    scene.database.execute("""
        CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER keep BEFORE DELETE ON schema_migrations FOR EACH ROW EXECUTE FUNCTION nothing()""")
    run = rollback(scene, 2)
    assert run.wait() == 70
    error = only_error(run)
    assert "the row of migration 3 was not removed from schema_migrations" in error["message"]
    assert "trigger" in error["remedy"]
    assert undone(scene) == []
    assert scene.database.exists("t3")


@pytest.mark.case("D5")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("-- entrypoint: no-transaction\nDROP TABLE t3;", "a down migration is one transaction; remove the directive"),
        ("DROP INDEX CONCURRENTLY i;", "DROP INDEX CONCURRENTLY cannot run inside a transaction, and a down migration"),
    ],
)
def test_check_finds_what_it_would_refuse(scene: Scene, text: str, told: str) -> None:
    reverses(scene, {"003_t3.sql": text})
    refused = refusal_of(rollback(scene, 2), 65)
    assert told in refused["faults"][0]
    assert "`entrypoint check` lists all errors" in refused["remedy"]
    run = scene.start("check", "--no-lint")
    assert run.wait() == 65, run.report()
    assert told in run.stdout


@pytest.mark.thorough
@pytest.mark.case("D5")
def test_a_missing_reverse_file_is_nothing_that_check_could_show(scene: Scene) -> None:
    (scene.migrations / "rollback" / "003_t3.sql").unlink()
    refused = refusal_of(rollback(scene, 2), 65)
    assert "there is no down migration rollback/003_" in refused["message"]
    assert "check" not in refused["remedy"]
    assert "Write each down migration that is missing" in refused["remedy"]


@pytest.mark.thorough
@pytest.mark.case("D5")
def test_a_block_that_commits_is_not_told_to_leave_the_transaction(scene: Scene) -> None:
    reverses(scene, {"003_t3.sql": "DO $$ BEGIN COMMIT; END $$"})
    told = refusal_of(rollback(scene, 2), 70)
    assert told["sqlstate"] == "2D000"
    checked = scene.start("check", "--no-lint").ok().stdout
    assert "rollback/003_t3.sql:1: warning: this DO block" in checked
    assert "DELETE FROM public.schema_migrations WHERE migration_number = 3" in told["remedy"]
    assert "delete the row with migration_number = 3 from your schema_migrations" in checked
    for remedy in (told["remedy"], checked):
        assert "no-transaction" not in remedy
        assert "run the file with psql and then " in remedy
