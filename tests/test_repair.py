"""`repair`: makes the ledger agree with the files, row by row, after showing each change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from entrypoint.migration.ledger import writing
from entrypoint.migration.script.files import checksum
from entrypoint.operations import repair as operation
from entrypoint.settings import read_settings
from kit.terminal import Terminal
from scene import Gate, Scene, only_error, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

CHANGED = "CREATE TABLE t1 (); -- with a comment"


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene with one row of each kind: 1 changed, 2 gone, 3 interrupted, 4 failed, 7 ahead, 8 failed ahead."""
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({f"{n:03d}_t{n}.sql": f"CREATE TABLE t{n} ();" for n in (1, 2, 3, 7)})
    scene.migrated()
    scene.write({"001_t1.sql": CHANGED, "004_bad.sql": "SELECT nonsense"})
    assert scene.migrate().code == 70
    (migrations_dir / "002_t2.sql").unlink()
    (migrations_dir / "007_t7.sql").unlink()
    database.execute(
        "UPDATE schema_migrations SET status = 'running', error_message = 'statement 1 of 1: VACUUM'"
        " WHERE migration_number = 3;"
        "INSERT INTO schema_migrations (migration_number, filename, status) VALUES (8, '008_t8.sql', 'failed')"
    )
    return scene


def repair(scene: Scene, *options: str, directory: str = "migrations") -> Run:
    return scene.start("repair", "--yes", *options, MIGRATIONS_DIR=directory)


def numbers(scene: Scene) -> list[int]:
    return [number for number, _ in scene.ledger()]


def checksum_of_1(scene: Scene) -> object:
    return scene.database.one("SELECT checksum FROM schema_migrations WHERE migration_number = 1")


def test_all_that_is_safe_is_repaired(scene: Scene) -> None:
    run = repair(scene).ok()
    # A file that is gone may be missing only here.
    assert numbers(scene) == [1, 2, 3, 7, 8]
    assert "\n1 row no longer has a file. To forget it: entrypoint repair --missing\n" in run.stdout
    assert checksum_of_1(scene) == checksum(CHANGED.encode())
    assert [record["version"] for record in run.logs("ledger.repaired")] == [1, 4]
    done, _, left = run.stdout.partition("Left alone:")
    for name in ("001_t1.sql", "004_bad.sql"):
        assert name in done
    for name in (
        "002_t2.sql",
        "003_t3.sql  (running, or interrupted, at statement 1 of 1: VACUUM",
        "007_t7.sql",
        "008_t8.sql",
    ):
        assert name in left
    assert "--ahead" in left
    assert scene.lock_is_free()


@pytest.mark.thorough
def test_then_there_is_nothing_to_repair(scene: Scene) -> None:
    repair(scene).ok()
    before = scene.database.contents()
    run = repair(scene).ok()
    assert run.stdout.partition("\n")[2].startswith("Nothing to repair.\nLeft alone:\n")
    assert "lock.acquired" not in run.events()
    assert scene.database.contents() == before


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("options", "left", "accepted"),
    [
        (("--checksums",), [1, 2, 3, 4, 7, 8], True),
        (("--failed",), [1, 2, 3, 7, 8], False),
        (("--missing",), [1, 3, 4, 7, 8], False),
        (("--ahead",), [1, 2, 3, 4], False),
        (("--failed", "--missing"), [1, 3, 7, 8], False),
        (("--checksums", "--failed", "--missing", "--ahead"), [1, 3], True),
    ],
    ids=str,
)
def test_only_what_was_chosen(scene: Scene, options: tuple[str, ...], left: list[int], accepted: bool) -> None:  # noqa: FBT001
    before = checksum_of_1(scene)
    repair(scene, *options).ok()
    assert numbers(scene) == left
    assert (checksum_of_1(scene) != before) == accepted


@pytest.mark.thorough
def test_what_failed_elsewhere_is_not_taken_for_repaired(scene: Scene) -> None:
    """If you type `repair --failed && migrate` in a pod of the old release, it must not look as if all were well."""
    scene.database.execute("DELETE FROM schema_migrations WHERE migration_number = 4")
    scene.database.execute("UPDATE schema_migrations SET status = 'failed' WHERE migration_number = 8")
    before = scene.database.contents()
    run = repair(scene, "--failed")
    assert run.wait() == 70
    error = only_error(run)
    assert "008_t8.sql failed, and this image does not have that file" in error["message"]
    assert "repair --ahead" in error["remedy"]
    assert scene.database.contents() == before
    repair(scene, "--ahead").ok()
    assert repair(scene, "--failed").ok().stdout.partition("\n")[2].startswith("Nothing to repair.")


def test_a_good_ledger_needs_no_consent(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    assert scene.start("repair").ok().stdout.partition("\n")[2] == "Nothing to repair.\n"
    assert not database.exists("schema_migrations"), "looking changes nothing"
    scene.migrated()
    assert scene.start("repair").ok().stdout.partition("\n")[2] == "Nothing to repair.\n"


def test_after_a_repair_the_failed_file_is_tried_again(scene: Scene) -> None:
    """A failed row holds its file back. Here the cause was fixed outside the file."""
    scene.database.execute("DELETE FROM schema_migrations WHERE migration_number = 3; DROP TABLE t3")
    scene.write({"004_bad.sql": "SELECT * FROM needed"})
    assert scene.migrate().code == 70
    scene.database.execute("CREATE TABLE needed ()")
    assert scene.migrate().code == 70
    repair(scene, "--failed").ok()
    scene.migrated()
    assert (4, "completed") in scene.ledger()


def test_without_any_files_nothing_is_forgotten(scene: Scene, tmp_path: Path) -> None:
    """A wrong MIGRATIONS_DIR is more likely than a project without migrations."""
    (tmp_path / "empty").mkdir()
    before = scene.database.contents()
    run = repair(scene, "--ahead", "--missing", directory="empty")
    assert run.wait() == 78
    assert "MIGRATIONS_DIR" in only_error(run)["remedy"]
    assert scene.database.contents() == before


@pytest.mark.thorough
def test_it_needs_consent(scene: Scene) -> None:
    before = scene.database.contents()
    run = scene.start("repair")
    assert run.wait() == 64
    assert "004_bad.sql" in run.stdout
    with Terminal() as terminal:
        run = scene.launch("repair", env={"DATABASE_URL": scene.database.url}, **terminal.options)
        assert "004_bad.sql" in terminal.asked(run)
        assert terminal.answer(run, "\n") == 64
    assert scene.database.contents() == before
    with Terminal() as terminal:
        run = scene.launch("repair", env={"DATABASE_URL": scene.database.url}, **terminal.options)
        assert terminal.answer(run, "y\n") == 0
    assert numbers(scene) == [1, 2, 3, 7, 8]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM schema_migrations WHERE migration_number = 4",
        "UPDATE schema_migrations SET status = 'completed' WHERE migration_number = 4",
        "UPDATE schema_migrations SET checksum = 'other' WHERE migration_number = 1",
        "INSERT INTO schema_migrations (migration_number, filename) VALUES (5, '005_x.sql')",
    ],
)
def test_only_what_was_shown_is_changed(scene: Scene, change: str) -> None:
    with Terminal() as terminal:
        run = scene.launch("repair", env={"DATABASE_URL": scene.database.url}, **terminal.options)
        terminal.asked(run)
        scene.database.execute(change)
        # The lock's row and its update sequence are not part of the ledger.
        ledger = scene.database.rows("SELECT * FROM schema_migrations ORDER BY 1")
        terminal.type("y\n")
        assert run.wait() == 70
        assert "has changed since" in terminal.text
    assert scene.database.rows("SELECT * FROM schema_migrations ORDER BY 1") == ledger
    assert scene.lock_is_free()


@pytest.mark.thorough
def test_it_waits_for_a_migration(scene: Scene) -> None:
    scene.database.execute("DELETE FROM schema_migrations WHERE migration_number = 3; DROP TABLE t3")
    scene.write({"004_bad.sql": f"SELECT 1; {Gate.PASS}"})
    with Gate(scene.database) as gate:
        replica = scene.start()
        gate.arrival()
        run = repair(scene)
        run.until("lock.waiting")
        gate.open()
        assert told(replica).outcome == "migrated"
        # The row that had failed is now completed.
        assert run.wait() == 70
    assert only_error(run)["event"] == "ledger.changed"
    assert (4, "completed") in scene.ledger()


@pytest.mark.thorough
def test_a_password_in_an_error_message_is_not_shown(scene: Scene) -> None:
    scene.database.execute(
        "UPDATE schema_migrations SET error_message = 'statement 1 of 1: CREATE ROLE a PASSWORD ''hunter22'''"
        " WHERE migration_number = 3"
    )
    run = repair(scene, "--checksums").ok()
    assert "003_t3.sql" in run.stdout
    assert "hunter22" not in run.stdout + run.stderr


@pytest.mark.thorough
def test_the_ledger_itself_tells_whether_a_repair_is_in(scene: Scene) -> None:
    """After a failover, nothing else can tell whether a commit in doubt succeeded."""
    settings = read_settings({"DATABASE_URL": scene.database.url, "MIGRATIONS_DIR": str(scene.migrations)})
    planned = operation.plan(settings, {"checksums", "failed"})
    sign = operation._sign(planned.survey.place, planned.fixes)
    assert scene.database.rows(sign) == []
    repair(scene, "--failed").ok()
    assert scene.database.rows(sign) == []
    repair(scene, "--checksums").ok()
    assert scene.database.rows(sign) == [(1,)]
    place = planned.survey.place
    for number, applied, forgotten in ((1, True, False), (3, False, False), (4, False, True)):
        assert bool(scene.database.rows(writing.is_applied(place, number))) == applied
        assert bool(scene.database.rows(writing.is_forgotten(place, number))) == forgotten
