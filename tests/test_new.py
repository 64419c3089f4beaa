"""`new`: what it writes, what it leaves alone, and that the new files run."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from entrypoint.errors import ConfigurationError
from entrypoint.errors.operator import UsageError
from entrypoint.migration.script.files import slug
from entrypoint.operations.new import _write, new, next_number, without_accents
from kit.migrations import write_migrations
from scene import Scene, only_error, warnings

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database
    from kit.processes import Run

    Start = Callable[..., Run]

ROOT = Path(__file__).parent.parent
NOW = datetime(2026, 11, 27, 10, 15, 0, 678901, UTC)


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Start) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def files_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def fill_in(directory: Path, sql: str = "SELECT 1;\n") -> None:
    """Write some SQL into every file that has none yet."""
    for path in directory.rglob("*.sql"):
        if "\n-- Write the SQL below this line." in path.read_text():
            path.write_text(path.read_text() + sql)


# --- Names and numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "001"),
        (["README.md", "007_x.txt", ".008_hidden.sql"], "001"),
        (["000_a.sql"], "001"),
        (["001_a.sql", "002_b.sql"], "003"),
        (["001_a.sql", "009_b.sql"], "010"),
        (["0001_a.sql", "0002_b.sql"], "0003"),
        (["001_a.sql", "00002_b.sql"], "00003"),
        (["999_a.sql"], "1000"),
        (["9999_a.sql", "001_b.sql"], "10000"),
        # Somebody will fix the bad name, and the file will then have that number.
        (["001_a.sql", "4-Foo.sql"], "005"),
        (["001_a.sql", "00004-Foo.sql"], "005"),
        (["001_a.sql", "9999999_b.sql"], "10000000"),
        (["000000000000000001_a.sql"], "000000000000000002"),
        # None of our numbers has that many digits.
        (["001_a.sql", "0202401311200001234_a.sql"], "002"),
        # The newest file has a timestamp: write one with as many digits, and a higher one.
        (["001_a.sql", "20240131120000_a.sql"], "20261127101500"),
        (["20240131120000_a.sql", "20240201-b.sql"], "20261127101500"),
        (["20261127101500_a.sql"], "20261127101501"),
        (["20261127101559_a.sql"], "20261127101560"),
        (["20991231235959_from_a_wrong_clock.sql"], "20991231235960"),
        (["20240131_a.sql"], "20261127"),
        (["20261127_a.sql"], "20261128"),
        (["1706702400_a.sql"], "1795774500"),
        (["202401311200_a.sql"], "202611271015"),
        (["1706702400123_a.sql"], "1795774500678"),
        (["20240131120000123_a.sql"], "20261127101500678"),
        # We do not know this format, so just count on.
        (["202401311200001_a.sql"], "202401311200002"),
        (["2026112701_a.sql"], "2026112702"),
    ],
)
def test_next_number(names: list[str], expected: str) -> None:
    assert next_number(names, NOW) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "20261127101500"),
        (["001_a.sql", "002_b.sql"], "20261127101500"),
        (["1706702400_a.sql"], "20261127101500"),
        (["20261127101500_a.sql"], "20261127101501"),
        (["20240131120000123_a.sql"], "20240131120000124"),
    ],
)
def test_a_timestamp_can_be_asked_for(names: list[str], expected: str) -> None:
    assert next_number(names, NOW, timestamp=True) == expected


@pytest.mark.parametrize("timestamp", [False, True])
def test_there_is_a_last_number(timestamp: bool) -> None:  # noqa: FBT001
    with pytest.raises(UsageError, match="999999999999999999"):
        next_number(["999999999999999999_a.sql"], NOW, timestamp=timestamp)


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Add users table", "add_users_table"),
        ("  Größe: Élan & Co.  ", "grosse_elan_co"),
        ("addUsersTable", "add_users_table"),
        ("ﬁle № 2", "file_no_2"),
        ("Таблица users", "users"),
        ("日本", ""),
        ("--- !", ""),
    ],
)
def test_the_name_of_a_title(title: str, expected: str) -> None:
    assert slug(without_accents(title)) == expected


# --- Files ----------------------------------------------------------------------------------------------


def test_paths_are_printed_and_nothing_else(run_entrypoint: Start, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"012_tokens.sql": ""})
    run = run_entrypoint("new", "Add users table").ok()
    assert run.stdout == "migrations/013_add_users_table.sql\n"
    assert run.stderr == ""
    assert run_entrypoint("new", "Add", "users", "table").ok().stdout == "migrations/014_add_users_table.sql\n"
    assert files_in(migrations_dir) == {"012_tokens.sql", "013_add_users_table.sql", "014_add_users_table.sql"}
    text = (migrations_dir / "013_add_users_table.sql").read_text()
    assert text.startswith("-- Migration 013: Add users table\n")
    assert [line[:3] for line in text.splitlines()] == ["-- "] * 3
    assert (migrations_dir / "012_tokens.sql").read_text() == ""


def test_the_name_of_a_file_is_taken_as_such(run_entrypoint: Start, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"004_a.sql": ""})
    assert run_entrypoint("new", "005_add_users.sql").ok().stdout == "migrations/005_add_users.sql\n"
    assert run_entrypoint("new", "003_foo").ok().stdout == "migrations/006_foo.sql\n"
    assert run_entrypoint("new", "2 factor login").ok().stdout == "migrations/007_2_factor_login.sql\n"


def test_a_rollback(run_entrypoint: Start, migrations_dir: Path) -> None:
    run = run_entrypoint("new", "--rollback", "Add users table").ok()
    assert run.stdout.splitlines() == [
        "migrations/001_add_users_table.sql",
        "migrations/rollback/001_add_users_table.sql",
    ]
    assert files_in(migrations_dir) == {"001_add_users_table.sql", "rollback/001_add_users_table.sql"}
    text = (migrations_dir / "rollback" / "001_add_users_table.sql").read_text()
    assert text.startswith("-- Rollback of migration 001: Add users table\n")


def test_timestamps(run_entrypoint: Start, migrations_dir: Path) -> None:
    """The first one is asked for. Later ones follow it, no matter how many are created in one second, or by whom."""
    write_migrations(migrations_dir, {"012_tokens.sql": ""})
    before = f"{datetime.now(UTC):%Y%m%d%H%M%S}"
    (first,) = run_entrypoint("new", "--timestamp", "First", env={"TZ": "Asia/Tokyo"}).ok().stdout.split()
    after = f"{datetime.now(UTC):%Y%m%d%H%M%S}"
    number = first.removeprefix("migrations/").removesuffix("_first.sql")
    assert before <= number <= after
    assert f"-- Migration {number}: First\n" in (migrations_dir / f"{number}_first.sql").read_text()
    together = [run_entrypoint("new", "--rollback", f"At once {n}") for n in range(6)]
    for run in together:
        run.ok()
    numbers = [int(path.name.partition("_")[0]) for path in migrations_dir.glob("*.sql")]
    assert len(set(numbers)) == 8
    assert sorted(numbers)[1] == int(number)
    fill_in(migrations_dir)
    run_entrypoint("check", "--no-lint").ok()


def test_a_missing_directory_is_made(run_entrypoint: Start, tmp_path: Path) -> None:
    run = run_entrypoint("new", "--rollback", "First", env={"MIGRATIONS_DIR": "db/migrations"}).ok()
    assert run.stdout.startswith("db/migrations/001_first.sql\n")
    assert "'db/migrations'" in run.logs("files.directory_made")[0]["message"]
    again = run_entrypoint("new", "Second", env={"MIGRATIONS_DIR": "db/migrations"}).ok()
    assert again.logs() == []
    assert files_in(tmp_path / "db") == {
        "migrations/001_first.sql",
        "migrations/rollback/001_first.sql",
        "migrations/002_second.sql",
    }


def test_nothing_is_overwritten(run_entrypoint: Start, migrations_dir: Path) -> None:
    """The number is free, but a down migration without a migration may already have it."""
    write_migrations(migrations_dir / "rollback", {"001_first.sql": "precious"})
    run = run_entrypoint("new", "--rollback", "First")
    assert run.wait() == 78
    assert "migrations/rollback/001_first.sql" in only_error(run)["message"]
    assert run.stdout == ""
    assert files_in(migrations_dir) == {"rollback/001_first.sql"}
    assert (migrations_dir / "rollback" / "001_first.sql").read_text() == "precious"


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_not_even_what_came_a_moment_ago(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "b"
    if kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to("nowhere")
    with pytest.raises(ConfigurationError, match="already exists"):
        _write({str(tmp_path / "a"): "new", str(path): "new"})
    assert list(tmp_path.iterdir()) == [path]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("title", ["日本", "---", "x" * 300])
def test_titles_that_make_no_name(run_entrypoint: Start, migrations_dir: Path, title: str) -> None:
    run = run_entrypoint("new", title)
    assert run.wait() == 64
    assert only_error(run)["remedy"]
    assert files_in(migrations_dir) == set()


def test_a_directory_that_cannot_be_one(run_entrypoint: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in ("file", "file/below", "/proc/none"):
        run = run_entrypoint("new", "First", env={"MIGRATIONS_DIR": directory})
        assert run.wait() == 78
        assert "MIGRATIONS_DIR" in only_error(run)["remedy"]


def test_a_title_stays_within_its_comment(run_entrypoint: Start, migrations_dir: Path) -> None:
    title = "Users;\n\\! rm -rf\r*/ {name} \x1b[0m"
    run_entrypoint("new", "--rollback", title, "--", "-x").ok()
    fill_in(migrations_dir)
    run_entrypoint("check", "--strict").ok()
    [text] = [path.read_text() for path in migrations_dir.glob("*.sql")]
    assert "-- Migration 001: Users; \\! rm -rf */ {name} [0m -x\n" in text


# --- What is written ------------------------------------------------------------------------------------


def test_a_file_in_which_nothing_was_written_is_refused(scene: Scene) -> None:
    """Once applied, it would never run again, and a rollback would remove its row and leave the table behind."""
    scene.start("new", "First", "--rollback").ok()
    first, back = scene.migrations / "001_first.sql", scene.migrations / "rollback" / "001_first.sql"
    checked = scene.start("check", "--no-lint")
    assert checked.wait() == 65, checked.report()
    for path in ("migrations/001_first.sql", "migrations/rollback/001_first.sql"):
        assert f"{path}: error: the file is as `entrypoint new` created it: write the SQL" in checked.stdout
    assert scene.migrate().wait() == 65
    assert not scene.database.exists("schema_migrations")

    first.write_text(first.read_text() + "CREATE TABLE a ();\n")
    scene.migrated()
    assert scene.start("rollback", "--to", "0", "--yes").wait() == 65
    assert scene.ledger() == [(1, "completed")]
    assert scene.start("check", "--no-lint").wait() == 65
    back.write_text(back.read_text() + "DROP TABLE a;\n")
    scene.start("check", "--no-lint", "--strict").ok()
    scene.start("rollback", "--to", "0", "--yes").ok()
    assert not scene.database.exists("a")


def test_one_that_is_applied_is_left_alone(scene: Scene) -> None:
    """An image that did not refuse it may have applied it. Here, a baseline did."""
    scene.start("new", "First").ok()
    scene.start("baseline", "1", "--yes").ok()
    assert scene.migrated().outcome == "up_to_date"
    scene.start("check", "--no-lint").ok()
    # To apply a file that does nothing on purpose, delete the line that says what is missing.
    scene.start("new", "Second").ok()
    second = scene.migrations / "002_second.sql"
    second.write_text("".join(second.read_text().splitlines(keepends=True)[:2]))
    scene.migrated()
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


def test_what_is_written_has_no_warnings_of_its_own(run_entrypoint: Start, migrations_dir: Path) -> None:
    run_entrypoint("new", "--rollback", "First").ok()
    run_entrypoint("new", "--rollback", "--after", "Second").ok()
    fill_in(migrations_dir)
    run = run_entrypoint("check", "--strict", "--lint", "--all").ok()
    assert run.stdout.endswith("2 migrations and 2 rollbacks in migrations: no errors\n")


def test_the_rollbacks_do_not_disturb_the_migrations(scene: Scene) -> None:
    """Starts ignore the names and numbers in `rollback`, and run nothing there."""
    scene.write({"001_a.sql": "CREATE TABLE a ()", "002_b.sql": "CREATE TABLE b ()"})
    rollbacks = {"001_a.sql": "DROP TABLE a", "003_c.sql": "nonsense", "Bad Name.sql": "nonsense"}
    write_migrations(scene.migrations / "rollback", rollbacks)
    run = scene.migrated()
    assert warnings(run) == []
    assert scene.ledger() == [(1, "completed"), (2, "completed")]
    assert scene.database.exists("a")
    again = scene.migrated()
    assert again.outcome == "up_to_date"
    assert warnings(again) == []


def test_the_documentation_shows_the_templates(tmp_path: Path) -> None:
    shown = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "commands" / "new.md").read_text(), re.DOTALL)
    (tmp_path / "012_tokens.sql").write_text("")
    written = [Path(path).read_text() for path in new(str(tmp_path), "Add users table", rollback=True)]
    assert shown == written


def test_a_name_that_is_not_utf8_is_refused(run_entrypoint: Start, migrations_dir: Path) -> None:
    run = run_entrypoint("new", b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert run.wait() == 64, run.report()
    assert "is not UTF-8" in only_error(run)["message"]
    assert not files_in(migrations_dir)


def test_a_file_for_after_the_rollout(scene: Scene) -> None:
    """It has the directives, it and its down migration pass `check`, and both run."""
    scene.write({"001_t.sql": "CREATE TABLE example (note text);"})
    scene.migrated()
    run = scene.start("new", "Drop the note", "--after", "--rollback").ok()
    names = ["002_drop_the_note.sql", "rollback/002_drop_the_note.sql"]
    assert [path.partition("migrations/")[2] for path in run.stdout.splitlines()] == names
    forth, back = (scene.migrations / name for name in names)
    forth.write_text(forth.read_text() + "ALTER TABLE example DROP COLUMN note;\n")
    back.write_text(back.read_text() + "ALTER TABLE example ADD COLUMN note text;\n")
    scene.start("check", "--no-lint").ok()
    assert "migration.applied" not in scene.migrated().events()
    scene.start("migrate", "--phase", "after").ok()
    floor = "SELECT floor FROM schema_migrations WHERE migration_number = 2"
    assert scene.database.one(floor) == "002_drop_the_note.sql"
    scene.start("rollback", "--to", "1", "--yes").ok()
    assert scene.database.rows("SELECT note FROM example") == []
