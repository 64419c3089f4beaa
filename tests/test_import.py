"""`import`, from outside: each tool's directory, and what it refuses without writing anything."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from entrypoint.errors import ConfigurationError
from entrypoint.operations.importing import texts
from entrypoint.operations.importing.naming import TargetFile
from entrypoint.operations.importing.values import UnreadableError
from entrypoint.operations.importing.writing import move, staged
from scene import Scene, only_error, warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

    Start = Callable[..., Run]

UP, DOWN, BEGIN = "-- +goose Up\n", "-- +goose Down\n", "-- +goose StatementBegin\n"
GOOSE = {
    "001_a.sql": f"{UP}CREATE TABLE a (i int);\n{DOWN}DROP TABLE a;\n",
    "002_b.sql": f"-- +goose NO TRANSACTION\n{UP}CREATE INDEX CONCURRENTLY a_i ON a (i);\n{DOWN}DROP INDEX a_i;\n",
}


def write(directory: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return directory


def tree(directory: Path) -> dict[str, str]:
    """Return the text of every file below a directory."""
    if not directory.exists():
        return {}
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes().decode("utf-8", "replace") for path in files}


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Return another tool's directory."""
    return tmp_path / "theirs"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "ours"


@pytest.fixture
def bring(run_entrypoint: Start, there: Path, into: Path) -> Callable[..., Run]:
    """Return a function that runs `import` to completion and checks its exit code."""

    def run(tool: str, *arguments: str | Path, code: int = 0, directory: Path = there, **env: str) -> Run:
        words = ("import", "--from", tool, directory, "--into", into, *arguments)
        done: Run = run_entrypoint(*words, env=env)
        assert done.wait() == code, done.report()
        assert not list(into.parent.glob(".entrypoint*")), "what was written on the way is gone"
        return done

    return run


def refusal(run: Run, into: Path) -> dict[str, Any]:
    """Return the only error of an import, which must have written nothing."""
    assert tree(into) == {}
    return only_error(run)


# --- Each tool: import, check, migrate ------------------------------------------------------------------

JOURNAL = {"dialect": "postgresql", "entries": [{"idx": i, "when": i, "tag": f"000{i}_t{i}"} for i in (0, 1)]}
FUNCTION = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN\n  RETURN 1;\nEND $$;\n"
FIRST, SECOND = f"CREATE TABLE a (i int);\n{FUNCTION}", "CREATE TABLE b (i int);\n"
BACK = "DROP TABLE b;\n"
INDEX = "CREATE INDEX CONCURRENTLY a_i ON a (i);\n"

SAMPLES: dict[str, dict[str, str]] = {
    "goose": {
        "20210101120000_t.sql": f"{UP}CREATE TABLE a (i int);\n{BEGIN}{FUNCTION}-- +goose StatementEnd\n",
        "20210101120001_t.sql": f"{UP}{SECOND}{DOWN}{BACK}",
        "20210101120002_i.sql": f"-- +goose NO TRANSACTION\n{UP}{INDEX}",
    },
    "dbmate": {
        "001_t.sql": f"-- migrate:up\n{FIRST}-- migrate:down\n",
        "002_t.sql": f"-- migrate:up\n{SECOND}-- migrate:down\n{BACK}",
        "003_i.sql": f"-- migrate:up transaction:false\n{INDEX}-- migrate:down\n",
    },
    "sql-migrate": {
        "1-t.sql": f"-- +migrate Up\n-- +migrate StatementBegin\n{FIRST}-- +migrate StatementEnd\n",
        "2-t.sql": f"-- +migrate Up\n{SECOND}-- +migrate Down\n{BACK}",
        "3-i.sql": f"-- +migrate Up notransaction\n{INDEX}",
    },
    "golang-migrate": {
        "000001_t.up.sql": FIRST,
        "000001_t.down.sql": "",
        "000002_t.up.sql": SECOND,
        "000002_t.down.sql": BACK,
        "000003_i.up.sql": INDEX,
    },
    "flyway": {
        "V1__t.sql": FIRST,
        "sub/V1_1__t.sql": SECOND,
        "U1.1__t.sql": BACK,
        "V2__i.sql": INDEX,
        "R__v.sql": "CREATE OR REPLACE VIEW v AS SELECT 1;\n",
    },
    "sqlx": {
        "1_t.sql": FIRST,
        "2_t.up.sql": SECOND,
        "2_t.down.sql": BACK,
        "3_i.sql": f"-- no-transaction\n{INDEX}",
    },
    "diesel": {
        "2021-01-01-120000_t/up.sql": FIRST,
        "2021-01-02-120000_t/up.sql": SECOND,
        "2021-01-02-120000_t/down.sql": BACK,
        "2021-01-03-120000_i/up.sql": INDEX,
        "2021-01-03-120000_i/metadata.toml": "run_in_transaction = false\n",
    },
    "prisma": {
        "migration_lock.toml": 'provider = "postgresql"\n',
        "0_t/migration.sql": FIRST,
        "20240101120000_t/migration.sql": SECOND,
        "20240101120000_t/down.sql": BACK,
        "20240101120001_i/migration.sql": INDEX,
    },
    "drizzle": {
        "meta/_journal.json": json.dumps(JOURNAL),
        "0000_t0.sql": f"{FIRST.strip()}--> statement-breakpoint\nSELECT 1",
        "0001_t1.sql": f"CREATE TABLE b (i int)--> statement-breakpoint\n{INDEX.replace('CONCURRENTLY ', '')}",
    },
    "supabase": {"001_t.sql": FIRST, "002_t.sql": SECOND, "003_i.sql": INDEX},
}


@pytest.mark.parametrize("tool", SAMPLES)
def test_import_check_migrate(
    tool: str, bring: Callable[..., Run], there: Path, into: Path, database: Database, run_entrypoint: Start
) -> None:
    write(there, SAMPLES[tool])
    before = tree(there)
    run = bring(tool)
    assert "no errors" in run.stdout, run.report()
    assert tree(there) == before
    for name, text in tree(into).items():
        assert text.startswith(f"-- entrypoint: origin = {tool} "), name
    scene = Scene(database, into, run_entrypoint)
    env = {"MIGRATIONS_DIR": str(into)}
    scene.migrated(**env)
    expected = [("a",), ("b",)]
    tables = "SELECT relname FROM pg_class WHERE relname IN ('a', 'b') ORDER BY 1"
    assert database.rows(tables) == expected
    assert database.one("SELECT f()") == 1
    assert database.one("SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_i'::regclass")
    if tool in ("drizzle", "supabase"):
        assert not (into / "rollback").exists()
        return
    highest = database.rows("SELECT migration_number FROM schema_migrations ORDER BY 1")
    database.execute("DELETE FROM schema_migrations WHERE migration_number = %s", highest[-1])
    scene.start("rollback", "--to", str(highest[0][0]), "--yes", **env).ok()
    assert database.rows(tables) == expected[:1]


def test_the_lines_between_the_marks_are_taken_byte_for_byte(
    bring: Callable[..., Run], there: Path, into: Path
) -> None:
    sql = "  SELECT\t'é';\r\n\r\n-- a comment\r\nSELECT 2;\r\n"
    text = f"-- +goose Up\r\n{sql}-- +goose Down\r\nSELECT 3;"
    write(there, {"001_a.sql": b"\xef\xbb\xbf" + text.encode()})
    bring("goose")
    header = "-- entrypoint: origin = goose 1\r\n"
    assert tree(into) == {"001_a.sql": header + sql, "rollback/001_a.sql": f"{header}SELECT 3;"}


def test_the_report(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, {**GOOSE, "003_c.go": "package x", "notes.sql": ""})
    write(there, {"004_d.sql": f"{UP}VACUUM;\n{DOWN}VACUUM;\n"})
    run = bring("goose", code=65)
    vacuum = "its down migration has VACUUM, which cannot run in a transaction; files in rollback/ always do"
    assert run.stdout.splitlines() == [
        f"{there}/001_a.sql -> {into}/001_a.sql, {into}/rollback/001_a.sql",
        f"{there}/002_b.sql -> {into}/002_b.sql, {into}/rollback/002_b.sql (outside a transaction)",
        f"{there}/004_d.sql -> {into}/004_d.sql",
        "Write by hand:",
        f"  {there}/003_c.go: it is written in Go",
        f"    Write what it does in SQL, into {into}/003_c.sql, below the line: -- entrypoint: origin = goose 3",
        "Not imported:",
        f"  {there}/notes.sql: goose ignores it: a migration is called NUMBER_description.sql",
        "    Nothing to do, unless it should be a migration: then rename it.",
        f"  {there}/004_d.sql: {vacuum}",
        f"    To be able to roll back, write {into}/rollback/004_d.sql without it.",
        "For a database that goose has migrated: entrypoint adopt --from goose",
        f"3 migrations and 2 rollbacks in {into}: no errors",
    ]
    assert only_error(run)["message"] == "1 of 4 migrations could not be imported"
    assert set(tree(into)) == {"001_a.sql", "002_b.sql", "004_d.sql", "rollback/001_a.sql", "rollback/002_b.sql"}


def test_repeatable_ones_are_written_for_the_next_start(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, SAMPLES["flyway"])
    run = bring("flyway")
    assert f"1 file in {into}/repeatable: the next start applies it whatever Flyway has applied" in run.stdout
    assert "Renumbered in the order Flyway runs them: sub/V1_1__t.sql has no whole number." in run.stdout
    text = "-- entrypoint: origin = flyway R__v\nCREATE OR REPLACE VIEW v AS SELECT 1;\n"
    assert tree(into)["repeatable/v.sql"] == text
    assert set(tree(into)) > {"001_t.sql", "002_t.sql", "003_i.sql", "rollback/002_t.sql"}


def test_a_dry_run_says_the_same_and_writes_nothing(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, {**GOOSE, "003_c.sql": f"{UP}SELECT 1;\nSELEC 2;\n"})
    dry = bring("goose", "--dry-run", code=65)
    assert not into.exists()
    real = bring("goose", code=65)
    assert f"{into.name}/003_c.sql:3:1: error: syntax error" in real.stdout
    hint = "For a database that goose has migrated: entrypoint adopt --from goose\n"
    assert hint in real.stdout
    said = real.stdout.replace(hint, "")
    assert dry.stdout == said.replace("1 error\n", "1 error; nothing was written (--dry-run)\n")
    assert only_error(dry)["message"] == only_error(real)["message"]
    assert len(tree(into)) == 5


def test_without_into_it_is_the_directory_of_the_migrations(run_entrypoint: Start, there: Path, into: Path) -> None:
    write(there, GOOSE)
    run_entrypoint("import", "--from", "goose", there, env={"MIGRATIONS_DIR": str(into / "deep")}).ok()
    assert len(tree(into / "deep")) == 4


@pytest.mark.thorough
def test_into_a_folder_that_has_others(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, GOOSE)
    write(into, {"007_x.sql": "SELECT 7;", "README.md": "x"})
    bring("goose")
    assert set(tree(into)) == {*GOOSE, "rollback/001_a.sql", "rollback/002_b.sql", "007_x.sql", "README.md"}


# --- Refusals, which write nothing ----------------------------------------------------------------------


def test_nothing_is_overwritten(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, GOOSE)
    others = {"rollback/001_leftover.sql": "SELECT 3;", "rollback/2_bad.sql": "SELECT 4;"}
    before = tree(write(into, {"rollback/002_b.sql": "SELECT 1;", "0001_other.sql": "SELECT 2;", **others}))
    run = bring("goose", code=65)
    assert tree(into) == before
    assert only_error(run)["faults"] == [
        f"{into}/rollback/002_b.sql: exists already",
        f"{into}/0001_other.sql: has the number that 001_a.sql would have",
        f"{into}/rollback/001_leftover.sql: has the number that 001_a.sql would have",
        f"{into}/rollback/2_bad.sql: has the number that 002_b.sql would have",
    ]
    assert not run.stdout


def test_a_second_time(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, GOOSE)
    bring("goose")
    before = tree(into)
    assert len(only_error(bring("goose", code=65))["faults"]) == 4
    assert tree(into) == before


def test_two_tools_in_one_directory(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, {**GOOSE, "003_c.sql": "SELECT 1;\n-- migrate:up\nSELECT 2;", "V4__d.sql": "", "5_e/up.sql": ""})
    error = refusal(bring("goose", code=65), into)
    assert error["message"].startswith(f"{str(there)!r} has files of another tool besides those of goose; nothing was")
    assert error["faults"] == [
        "003_c.sql:2: is a file of dbmate, recognized by -- migrate:up",
        "5_e/up.sql: is a file of diesel, recognized by its name",
        "V4__d.sql: is a file of Flyway, recognized by its name",
    ]


@pytest.mark.parametrize("tool", ["supabase", "sqlx"])
def test_files_that_drizzle_writes_and_another_tool_applies(
    tool: str, bring: Callable[..., Run], there: Path, into: Path
) -> None:
    write(there, {"20240101120000_a.sql": "SELECT 1;--> statement-breakpoint\nSELECT 2;\n", "meta/_journal.json": "{}"})
    bring(tool)
    text = f"-- entrypoint: origin = {tool} 20240101120000\nSELECT 1;--> statement-breakpoint\nSELECT 2;\n"
    assert tree(into) == {"20240101120000_a.sql": text}


@pytest.mark.thorough
def test_prisma_and_drizzle_are_told_apart_by_what_is_beside(
    bring: Callable[..., Run], there: Path, into: Path
) -> None:
    write(there, {"20240101120000_a/migration.sql": "SELECT 1;", "20240101120000_a/snapshot.json": "{}"})
    assert "a file of Drizzle" in refusal(bring("prisma", code=65), into)["message"]
    (there / "20240101120000_a/snapshot.json").unlink()
    write(there, {"migration_lock.toml": 'provider = "postgresql"'})
    assert "a file of Prisma" in refusal(bring("drizzle", code=65), into)["message"]


@pytest.mark.parametrize("tool", SAMPLES)
def test_another_tools_directory(tool: str, bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, SAMPLES[tool])
    other = "dbmate" if tool == "goose" else "goose"
    if tool in ("supabase", "sqlx"):  # their simple files do not show which tool they belong to
        shutil.rmtree(there)
        write(there, {"1_t.up.sql": FIRST})
    error = refusal(bring(other, code=65), into)
    assert f"has files of another tool, and none of {other}" in error["message"]
    own = "golang-migrate" if tool == "supabase" else tool
    assert f"entrypoint import --from {own} {there}" in error["remedy"]


def test_files_of_our_own(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, {"001_a.sql": "-- entrypoint: timeout = 5s\nSELECT 1;"})
    error = refusal(bring("sqlx", code=65), into)
    assert error["faults"] == ["001_a.sql:1: is a file of this program, recognized by -- entrypoint: timeout = 5s"]


def test_a_line_of_ours_in_another_tools_file_is_obeyed_here(
    bring: Callable[..., Run], there: Path, into: Path
) -> None:
    write(there, {"001_a.sql": f"{UP}-- entrypoint: timeout = 5s\nSELECT 1;\n{DOWN}SELECT 2;\n"})
    bring("goose")
    assert tree(into)["001_a.sql"] == "-- entrypoint: origin = goose 1\n-- entrypoint: timeout = 5s\nSELECT 1;\n"


@pytest.mark.thorough
def test_an_empty_directory_beside_others(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, {"20240101000000_a/migration.sql": "SELECT 1;", "20240101000000_a/README.md": ""})
    (there / "20240102000000_b").mkdir()
    (there / ".hidden").mkdir()
    error = refusal(bring("prisma", code=65), into)
    assert error["faults"] == ["20240102000000_b: Prisma rejects it too: there is no migration.sql in it"]


def test_every_fault_is_told(bring: Callable[..., Run], there: Path, into: Path) -> None:
    bad: dict[str, str | bytes] = {
        "003_c.sql": "SELECT 1;",
        "004_d.sql": f"{UP}SELECT 'gr".encode() + b"\xfc\xdfe';",
        "002_e.sql": UP,
        "005_huge.sql": f"{UP}SELECT 1;{' ' * 2_000_000}",
    }
    write(there, {**GOOSE, **bad})
    (there / "006_lost.sql").symlink_to("nowhere")
    (there / "007_linked.sql").symlink_to(there / "001_a.sql")
    error = refusal(bring("goose", code=65, MIGRATION_FILE_LIMIT_MB="1"), into)
    assert error["faults"] == [
        "005_huge.sql: cannot be read: it has 1 MB, and the limit is 1 MB (MIGRATION_FILE_LIMIT_MB)",
        "006_lost.sql: cannot be read: No such file or directory",
        "003_c.sql: goose rejects it too: it has no line `-- +goose Up`",
        "002_b.sql and 002_e.sql: 2 migrations have the version 2, which goose rejects too; give each its own",
        "004_d.sql:2: is not UTF-8: byte 0xfc at offset 23; save it as UTF-8",
    ]


def test_names_that_cannot_be_written_into_a_line(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, {"001\n-- x.sql": "-- +migrate Up\n", "002_b.sql": "-- +migrate Up\n"})
    (there / os.fsdecode(b"003_\xff.sql")).write_text("-- +migrate Up\n")
    error = refusal(bring("sql-migrate", code=65), into)
    assert [fault.partition(": ")[2] for fault in error["faults"]] == [
        "its name has characters that a comment line cannot hold; rename it first"
    ] * 2


@pytest.mark.parametrize(
    ("files", "below", "tool"),
    [
        ({"migrations/0_init/migration.sql": "", "schema.prisma": ""}, "migrations", "prisma"),
        ({"prisma/migrations/0_init/migration.sql": ""}, "prisma/migrations", "prisma"),
        ({"db/migrations/1_a.sql": "-- migrate:up\n"}, "db/migrations", "dbmate"),
        ({"changes/001_a.sql": UP}, "changes", "goose"),
        ({"supabase/migrations/1_a.sql": "", "supabase/config.toml": ""}, "supabase/migrations", "supabase"),
    ],
)
def test_the_directory_above(
    files: dict[str, str], below: str, tool: str, bring: Callable[..., Run], there: Path, into: Path
) -> None:
    write(there, files)
    error = refusal(bring(tool, code=64), into)
    assert error["remedy"] == f"Did you mean the directory below? entrypoint import --from {tool} {there}/{below}"


@pytest.mark.parametrize("tool", SAMPLES)
def test_an_empty_directory(tool: str, bring: Callable[..., Run], there: Path, into: Path) -> None:
    there.mkdir()
    assert "has no migrations of" in refusal(bring(tool, code=64), into)["message"]


def test_a_directory_that_is_not_there(bring: Callable[..., Run], there: Path, into: Path) -> None:
    assert "No such file or directory" in refusal(bring("goose", code=64), into)["message"]


def test_the_same_directory(bring: Callable[..., Run], into: Path) -> None:
    before = tree(write(into, GOOSE))
    error = only_error(bring("goose", code=64, directory=into))
    assert "is also where the files would be written" in error["message"]
    assert tree(into) == before


def test_a_tool_without_sql_files_is_named_with_what_works(bring: Callable[..., Run], there: Path, into: Path) -> None:
    error = refusal(bring("Alembic", code=64), into)
    assert "migrations are programs" in error["message"]
    assert "it must be one of: goose, dbmate" in refusal(bring("tern", code=64), into)["message"]


@pytest.mark.thorough
def test_the_case_of_the_tools_name_does_not_matter(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, GOOSE)
    bring("Goose")
    assert tree(into)["001_a.sql"].startswith("-- entrypoint: origin = goose 1\n")


@pytest.mark.parametrize(
    "words",
    [
        ("import", "db"),
        ("import", "--from", "goose"),
        ("import", "--from", "tern", "db"),
        ("import", "--from", "alembic", "db"),
    ],
)
def test_a_wrong_command_line(words: tuple[str, ...], run_entrypoint: Start) -> None:
    run = run_entrypoint(*words)
    assert run.wait() == 64
    assert "import" in only_error(run)["remedy"]


@pytest.mark.parametrize(
    ("name", "tool", "other", "whose"),
    [
        ("a/up.sql", "diesel", "", "diesel"),
        ("a/migration.sql", "prisma", " (or drizzle)", "Prisma or Drizzle"),
        ("a/x.sql", "", "", ""),
    ],
)
def test_another_tools_directories_are_known_where_there_is_nothing_else(
    name: str, tool: str, other: str, whose: str, there: Path, database: Database, run_entrypoint: Start
) -> None:
    write(there, {name: "SELECT 1;"})
    run = run_entrypoint("migrate", env={"DATABASE_URL": database.url, "MIGRATIONS_DIR": str(there)}).ok()
    helps = f"; to import the {whose} migrations in its subdirectories: entrypoint import --from {tool} {there}{other}"
    assert f"there are no migrations in {str(there)!r}{helps if tool else ''}" in warnings(run)


# --- Writing to disk ------------------------------------------------------------------------------------


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    stage, into = tmp_path / "stage", tmp_path / "new" / "ours"
    write(stage, {"001_a.sql": "1", "rollback/001_a.sql": "1"})
    with pytest.raises(ConfigurationError, match="cannot be written"):
        move(str(stage), str(into), ["001_a.sql", "rollback/001_a.sql", "002_gone.sql"])
    assert not into.parent.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UnreadableError("001_a.sql", "gone")])
def test_an_interruption_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    class Source:
        paths = ("001_a.sql", "002_b.sql")
        folders = ()

        def content(self, path: str) -> bytes:
            if path == "002_b.sql":
                raise error
            return b"SELECT 1;"

    targets = [TargetFile(path, texts.whole(path, b"SELECT 1;"), ()) for path in Source.paths]
    with pytest.raises((KeyboardInterrupt, ConfigurationError)), staged(str(tmp_path), targets, Source()):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_made_a_moment_ago_stays(tmp_path: Path) -> None:
    stage, into = tmp_path / "stage", tmp_path / "ours"
    write(stage, {"001_a.sql": "1", "002_b.sql": "2"})
    write(into, {"002_b.sql": "theirs"})
    with pytest.raises(ConfigurationError, match=r"002_b\.sql' cannot be written: File exists"):
        move(str(stage), str(into), ["001_a.sql", "002_b.sql"])
    assert tree(into) == {"002_b.sql": "theirs"}


def test_where_there_are_no_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "stage", {"001_a.sql": "1"})
    move(str(tmp_path / "stage"), str(tmp_path / "ours"), ["001_a.sql"])
    assert tree(tmp_path / "ours") == {"001_a.sql": "1"}
    with pytest.raises(ConfigurationError, match="File exists"):
        move(str(tmp_path / "stage"), str(tmp_path / "ours"), ["001_a.sql"])
    assert tree(tmp_path / "ours") == {"001_a.sql": "1"}


@pytest.mark.thorough
def test_a_directory_that_leads_back_to_itself(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, {"sub/V1__a.sql": "SELECT 1;"})
    (there / "sub" / "loop").symlink_to(there)
    bring("flyway")
    assert set(tree(into)) == {"001_a.sql"}


@pytest.mark.thorough
@pytest.mark.parametrize("below", ["", "sub/dir"])
def test_a_link_that_leads_nowhere(below: str, there: Path, into: Path, run_entrypoint: Start) -> None:
    write(there, GOOSE)
    into.symlink_to("gone")
    run = run_entrypoint("import", "--from", "goose", there, "--into", into / below)
    assert run.wait() == 78
    error = only_error(run)
    assert error["message"] == f"'{into}' is a symbolic link to 'gone', which does not exist; nothing was written"
    assert error["remedy"] == "Create that directory, or name another one: --into DIRECTORY."


def test_a_place_that_cannot_be_written_to(bring: Callable[..., Run], there: Path, into: Path) -> None:
    write(there, GOOSE)
    into.write_text("a file")
    assert only_error(bring("goose", code=78))["message"].endswith("cannot be read: Not a directory")
