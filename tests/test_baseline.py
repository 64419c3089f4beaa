"""`baseline` declares that an existing database is already at a migration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kit.proxy import Proxy
from kit.terminal import Terminal
from scene import Gate, Scene, errors, load_legacy, only_error, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

# Gaps are allowed, and so are numbers below 1.
FILES = {f"{n:03d}_t{n}.sql": f"CREATE TABLE t{n} ();" for n in (0, 1, 2, 5, 6)}
COMMIT = b"Q\0\0\0\x0bCOMMIT\0"


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene whose database was built by hand, up to migration 5."""
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write(FILES)
    database.execute("CREATE TABLE t0 (); CREATE TABLE t1 (); CREATE TABLE t2 (); CREATE TABLE t5 ();")
    return scene


def baseline(scene: Scene, number: int | str, *, url: str = "", **env: str | int) -> Run:
    return scene.start("baseline", str(number), "--yes", url=url, **env)


def test_the_files_up_to_it_are_recorded_and_the_rest_stays_pending(scene: Scene) -> None:
    run = baseline(scene, 5, APP_VERSION="abc").ok()
    rows = scene.database.rows(
        "SELECT migration_number, filename, status, execution_time_ms, application_version FROM schema_migrations"
        " ORDER BY 1"
    )
    assert rows == [(n, f"{n:03d}_t{n}.sql", "completed", 0, "abc") for n in (0, 1, 2, 5)]
    assert run.logs("ledger.baseline")[0]["version"] == 5
    assert "counts as version 5" in run.stdout
    assert scene.lock_is_free()
    # Only 6 is pending, and no checksum differs.
    assert scene.run()[:2] == ("migrated", "6")
    assert "files.changed" not in scene.migrated().events()


def test_it_is_done_only_once(scene: Scene) -> None:
    baseline(scene, 5).ok()
    before = scene.database.contents()
    assert (
        baseline(scene, 5).ok().stdout.partition("\n")[2]
        == "Nothing to record: everything up to 5 is already recorded as completed.\n"
    )
    assert scene.database.contents() == before


@pytest.mark.thorough
@pytest.mark.case("D8")
def test_one_is_spoken_of_as_one_and_two_as_two(scene: Scene) -> None:
    run = baseline(scene, 0).ok()
    assert "Will record 1 migration as completed in schema public, without running it:" in run.stdout
    assert run.logs("ledger.baseline")[0]["message"] == "recorded 1 migration as completed, without running it"
    assert "Recorded 1 migration; " in run.stdout

    run = baseline(scene, 2).ok()
    assert "Will record 2 migrations as completed in schema public, without running them:" in run.stdout
    assert "1 migration is already recorded and kept." in run.stdout
    assert run.logs("ledger.baseline")[0]["message"] == "recorded 2 migrations as completed, without running them"

    baseline(scene, 5).ok()
    run = scene.migrated()
    assert run.logs("migration.pending")[0]["message"] == "1 migration pending: 006_t6.sql"
    assert run.logs("schema.migrated")[0]["message"].startswith("applied 1 migration in ")


@pytest.mark.thorough
def test_rows_that_are_there_are_kept(scene: Scene) -> None:
    scene.database.execute("DROP TABLE t0, t1, t2, t5")
    scene.migrated()
    scene.database.execute("DELETE FROM schema_migrations WHERE migration_number IN (2, 5, 6)")
    run = baseline(scene, 5).ok()
    assert "002_t2.sql" in run.stdout
    assert "001_t1.sql" not in run.stdout
    assert "2 migrations are already recorded" in run.stdout
    assert [number for number, _ in scene.ledger()] == [0, 1, 2, 5]


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("(6, '006_t6.sql', 'completed')", "006_t6.sql (completed)"),
        ("(9, '009_newer.sql', 'completed')", "009_newer.sql (completed)"),
        ("(6, '006_t6.sql', 'failed')", "006_t6.sql (failed)"),
        ("(2, '002_t2.sql', 'failed')", "002_t2.sql is recorded as failed"),
        ("(2, '002_t2.sql', 'running')", "002_t2.sql is recorded as running"),
    ],
)
def test_what_contradicts_it_is_refused(scene: Scene, row: str, says: str) -> None:
    baseline(scene, 1).ok()
    scene.database.execute(f"INSERT INTO schema_migrations (migration_number, filename, status) VALUES {row}")
    before = scene.database.contents()
    run = baseline(scene, 5)
    assert run.wait() == 70
    assert says in only_error(run)["message"]
    assert scene.database.contents() == before


@pytest.mark.parametrize("number", ["3", "7", "x", "-1"])
def test_a_number_without_a_file_is_refused(scene: Scene, number: str) -> None:
    assert baseline(scene, number).wait() == 64
    assert not scene.database.exists("schema_migrations")


def test_bad_files_are_refused(scene: Scene) -> None:
    scene.write({"001_again.sql": ""})
    assert baseline(scene, 5).wait() == 65
    assert not scene.database.exists("schema_migrations")


@pytest.mark.thorough
def test_it_needs_consent(scene: Scene) -> None:
    run = scene.start("baseline", "5")
    assert run.wait() == 64
    assert "005_t5.sql" in run.stdout
    assert not scene.database.exists("schema_migrations")
    with Terminal() as terminal:
        run = scene.launch("baseline", "5", env={"DATABASE_URL": scene.database.url}, **terminal.options)
        assert terminal.answer(run, "n\n") == 64
        assert not scene.database.exists("schema_migrations")
    with Terminal() as terminal:
        run = scene.launch("baseline", "5", env={"DATABASE_URL": scene.database.url}, **terminal.options)
        assert terminal.answer(run, "y\n") == 0
    assert len(scene.ledger()) == 4


@pytest.mark.thorough
def test_what_changed_while_somebody_thought_is_left_alone(scene: Scene) -> None:
    scene.database.execute("DROP TABLE t0, t1, t2, t5")
    with Terminal() as terminal:
        run = scene.launch("baseline", "5", env={"DATABASE_URL": scene.database.url}, **terminal.options)
        assert terminal.answer(run, "y\n", scene.migrated) == 70
        assert "has changed since" in terminal.text
    assert [number for number, _ in scene.ledger()] == [0, 1, 2, 5, 6], "all of them were applied meanwhile"


def test_it_waits_for_a_migration(scene: Scene) -> None:
    scene.database.execute("DROP TABLE t0, t1, t2, t5")
    scene.write({"000_t0.sql": f"CREATE TABLE t0 (); {Gate.PASS}"})
    with Gate(scene.database) as gate:
        replica = scene.start()
        gate.arrival()
        run = baseline(scene, 5)
        run.until("lock.waiting")
        gate.open()
        assert told(replica).outcome == "migrated"
        assert run.wait() == 70
    assert only_error(run)["event"] == "ledger.changed"
    late = baseline(scene, 5, MIGRATION_LOCK_TIMEOUT_MS=300)
    assert late.wait() == 70, "006 is applied"


def test_an_earlier_systems_ledger_is_upgraded_on_the_way(scene: Scene) -> None:
    load_legacy(scene.database, rows=False)
    scene.database.execute("INSERT INTO schema_migrations (migration_number, filename) VALUES (1, '001_t1.sql')")
    baseline(scene, 2).ok()
    assert scene.ledger() == [(0, "completed"), (1, "completed"), (2, "completed")]


def test_a_schema_of_its_own_is_created(scene: Scene) -> None:
    baseline(scene, 5, MIGRATION_SCHEMA="ledger").ok()
    assert scene.database.one("SELECT count(*) FROM ledger.schema_migrations") == 4
    assert not scene.database.exists("public.schema_migrations")


@pytest.mark.parametrize("deliver", [True, False], ids=["committed", "aborted"])
def test_a_commit_in_doubt_is_settled(scene: Scene, proxy: Proxy, deliver: bool) -> None:  # noqa: FBT001
    cut = proxy.when_client_sends(COMMIT, Proxy.cut, deliver=deliver)
    run = baseline(scene, 5, url=scene.database.url_at(proxy.port)).ok()
    assert cut.is_set()
    (record,) = run.logs("ledger.commit_in_doubt")
    assert record["verdict"] == ("committed" if deliver else "aborted")
    assert len(scene.ledger()) == 4
    assert errors(run) == []


@pytest.mark.thorough
def test_a_lock_on_the_ledger_is_waited_for(scene: Scene) -> None:
    baseline(scene, 1).ok()
    with scene.database.connect() as other:
        # Readers are not blocked.
        other.execute("BEGIN; LOCK TABLE schema_migrations IN ROW EXCLUSIVE MODE")
        run = baseline(scene, 5)
        run.until("ledger.locked")
        assert len(scene.ledger()) == 2
    run.ok()
    assert len(scene.ledger()) == 4


def test_a_database_that_was_there_before_is_led_to_it(scene: Scene) -> None:
    """The most common first contact with an existing database: the first file finds its tables already there."""
    rehearsing = scene.start("migrate", "--rehearse")
    assert rehearsing.wait() == 70
    assert only_error(rehearsing)["remedy"].endswith("record how far it is: entrypoint baseline N."), (
        "there is no row to repair"
    )
    remedy = only_error(scene.migrate())["remedy"]
    assert remedy.endswith("record how far it is: entrypoint repair --failed, then entrypoint baseline N.")
    scene.start("repair", "--failed", "--yes").ok()
    baseline(scene, 5).ok()
    scene.migrated()
    assert scene.ledger() == [(number, "completed") for number in (0, 1, 2, 5, 6)]
