"""The migration files: every error in them is found, all are reported together, and nothing runs."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scene import Scene, only_error, told, warnings

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database
    from kit.processes import Run

GOOD = {"001_good.sql": "CREATE TABLE good ();"}


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


# Files added to GOOD, and what the message for each error must contain.
FAULTS: dict[str, tuple[dict[str, str | bytes], list[list[str]]]] = {
    "too few digits": ({"2_add_users.sql": ""}, [["2_add_users.sql", "002_add_users.sql"]]),
    "no number": ({"AddUsers.sql": ""}, [["AddUsers.sql", "NNN_add_users.sql"]]),
    "a dash": ({"002-add-users.sql": ""}, [["002-add-users.sql", "002_add_users.sql"]]),
    "a space": ({"002 add users.sql": ""}, [["002 add users.sql", "002_add_users.sql"]]),
    "upper case": ({"002_Add_Users.SQL": ""}, [["002_Add_Users.SQL", "002_add_users.sql"]]),
    "no description": ({"002.sql": ""}, [["002.sql", "002_description.sql"]]),
    "a letter beyond ASCII": ({"002_größe.sql": ""}, [["002_größe.sql", "002_gr_e.sql"]]),
    "a number of 19 digits": (
        {"2026112710150000001_x.sql": ""},
        [["2026112710150000001_x.sql", "the number has 19 digits; 18 are the most"]],
    ),
    "one number twice": (
        {"001_other.sql": "", "0001_third.sql": ""},
        [["001_good.sql", "001_other.sql", "0001_third.sql", "3 files", "number 1"]],
    ),
    "not UTF-8": ({"002_x.sql": b"SELECT 1;\nSELECT 'gr\xfc\xdfe'"}, [["002_x.sql:2", "UTF-8", "0xfc", "offset 20"]]),
    "UTF-16": ({"002_x.sql": "SELECT 1".encode("utf-16")}, [["002_x.sql:1", "UTF-8", "offset 0"]]),
    "a NUL": ({"002_x.sql": "SELECT 1;\nSELECT '\0'"}, [["002_x.sql:2", "NUL"]]),
    "a command of psql's": ({"002_x.sql": "SELECT 1;\n\\set name value\n"}, [["002_x.sql:2", "\\set", "psql"]]),
    "data for COPY": (
        {"002_x.sql": "CREATE TABLE x (a text);\nCOPY x (a) FROM stdin;\none\n\\.\n"},
        [["002_x.sql:2", "COPY"]],
    ),
    "a COMMIT in the middle": (
        {"002_x.sql": "SELECT 1;\nCOMMIT AND CHAIN;\nSELECT 2"},
        [["002_x.sql:2", "COMMIT", "transaction"]],
    ),
    "a quote that does not end": ({"002_x.sql": "SELECT 1;\nSELECT 'oh\n"}, [["002_x.sql:2", "never closed"]]),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_told_and_nothing_is_run(scene: Scene, case: str) -> None:
    files, expected = FAULTS[case]
    scene.write({**GOOD, **files})
    run = scene.migrate()
    assert run.code == 65, run.report()
    error = only_error(run)
    assert len(error["faults"]) == len(expected), error
    for fault, parts in zip(error["faults"], expected, strict=True):
        missing = [part for part in parts if part not in fault]
        assert not missing, fault
    assert error["faults"][0].splitlines()[0] in error["message"]
    assert scene.database.one("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0


@pytest.mark.case("A4")
@pytest.mark.parametrize(
    ("up", "down", "tool"),
    [
        ("-- +goose Up", "-- +goose Down", "goose"),
        ("-- migrate:up", "-- migrate:down", "dbmate"),
        ("-- Up Migration", "-- Down Migration", "node-pg-migrate"),
        ("", "---- create above / drop below ----", "tern"),
    ],
)
def test_another_tools_way_back_is_not_run(scene: Scene, up: str, down: str, tool: str) -> None:
    scene.database.execute("CREATE TABLE customers (id integer)")
    scene.write({"001_x.sql": f"{up}\nCREATE INDEX ON customers (id);\n{down}\nDROP TABLE customers;\n"})
    before = scene.database.contents()
    for command in (["check", "--no-lint"], ["migrate"]):
        run = scene.start(*command)
        assert run.wait() == 65, run.report()
        assert tool in run.stdout + run.stderr
        assert up in run.stdout + run.stderr
    answer = told(scene.start())
    assert answer.outcome == "failed"
    assert scene.database.contents() == before


def test_all_faults_of_all_files_are_told_together(scene: Scene) -> None:
    scene.write(
        {
            **GOOD,
            "002_x.sql": "COMMIT;\n\\i other.sql\nCOPY a FROM stdin;\n",
            "003_y.sql": b"\xff",
            "004_z.sql": "SELECT 1",
            "005_z.sql": "ROLLBACK AND CHAIN; SAVEPOINT a; COMMIT AND CHAIN",
        }
    )
    before = scene.database.contents()
    run = scene.migrate()
    assert run.code == 65
    faults = only_error(run)["faults"]
    assert {fault.partition(":")[0] for fault in faults} == {"002_x.sql", "003_y.sql", "005_z.sql"}
    assert len([fault for fault in faults if fault.startswith("005_z.sql")]) == 2
    assert scene.database.contents() == before


def test_bad_names_do_not_hide_bad_contents(scene: Scene) -> None:
    scene.write({**GOOD, "001_other.sql": "", "2_b.sql": "", "003_c.sql": b"\xff", "004_d.sql": "COMMIT AND CHAIN"})
    run = scene.migrate()
    assert run.code == 65
    faults = only_error(run)["faults"]
    assert len(faults) == 4, faults


def test_a_fault_in_what_is_applied_already_stops_nobody(scene: Scene) -> None:
    scene.write({**GOOD, "002_x.sql": "SELECT 1"})
    scene.migrated()
    scene.write({"002_x.sql": "\\echo what was run is run", "003_y.sql": "CREATE TABLE y ()"})
    assert scene.run()[:2] == ("migrated", "3")


def test_the_application_is_started_all_the_same_and_told(scene: Scene) -> None:
    scene.write({**GOOD, "2_x.sql": "", "003_y.sql": b"\xff"})
    run = scene.start()
    answer = told(run)
    assert answer.outcome == "failed"
    assert answer.version == ""
    assert answer.pid == run.pid
    assert "2_x.sql" in answer.error
    assert only_error(run)["event"] == "files.invalid"
    stopped = scene.start(MIGRATION_ON_FAILURE="exit")
    assert stopped.wait() == 65
    assert stopped.stdout == ""


@pytest.mark.parametrize("missing", ["nowhere", "001_good.sql"])
def test_a_directory_that_is_none(scene: Scene, missing: str) -> None:
    scene.write(GOOD)
    run = scene.migrate(MIGRATIONS_DIR=str(scene.migrations / missing))
    assert run.code == 78
    assert missing in only_error(run)["message"]
    assert "MIGRATIONS_DIR" in only_error(run)["remedy"]


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "dangling link": (lambda path: path.symlink_to("gone.sql"), "No such file"),
    "directory": (Path.mkdir, "not a regular file but a directory"),
    "pipe": (os.mkfifo, "not a regular file but a named pipe"),
    "endless": (lambda path: path.symlink_to("/dev/zero"), "not a regular file but a device"),
    "socket": (lambda path: os.mknod(path, 0o600 | stat.S_IFSOCK), "cannot be read"),
    "made up while it is read": (lambda path: path.symlink_to("/proc/self/environ"), "does not match its size"),
    "too large": (lambda path: subprocess.run(["truncate", "-s", "2G", path], check=True), "2048 MB, and the limit is"),
}


@pytest.mark.sampled(7)
@pytest.mark.case("B7")
@pytest.mark.parametrize("kind", ODD)
def test_a_file_that_cannot_be_read(scene: Scene, kind: str) -> None:
    """Skipping it silently would run the files after it without it."""
    scene.write({**GOOD, "003_after.sql": "CREATE TABLE after_all ()"})
    make, words = ODD[kind]
    make(scene.migrations / "002_odd.sql")
    run = scene.migrate()
    assert run.code == 65, run.report()
    assert "002_odd.sql" in only_error(run)["faults"][0]
    assert words in only_error(run)["faults"][0]
    assert not scene.database.exists("good")
    checked = scene.start("check", "--no-lint")
    assert checked.wait() == 65
    assert words in checked.stdout
    answer = told(scene.start())
    assert (answer.outcome, words in answer.error) == ("failed", True)


@pytest.mark.thorough
@pytest.mark.case("B7")
def test_a_reverse_file_that_cannot_be_read(scene: Scene) -> None:
    scene.write({**GOOD, "002_x.sql": "CREATE TABLE x ()"})
    scene.migrated()
    (scene.migrations / "rollback").mkdir()
    os.mkfifo(scene.migrations / "rollback" / "002_x.sql")
    for command in (["check", "--no-lint"], ["rollback", "--to", "1", "--yes"]):
        run = scene.start(*command)
        assert run.wait() == 65, run.report()
        assert "a named pipe" in run.stdout + run.stderr
    assert scene.database.exists("x")


@pytest.mark.case("B7")
def test_the_limit_of_a_file_is_set(scene: Scene) -> None:
    scene.write({**GOOD, "002_large.sql": f"CREATE TABLE large (); -- {'x' * (1 << 20)}"})
    run = scene.migrate(MIGRATION_FILE_LIMIT_MB=1)
    assert run.code == 65
    assert "MIGRATION_FILE_LIMIT_MB" in only_error(run)["faults"][0]
    scene.migrated(MIGRATION_FILE_LIMIT_MB=2)


def test_a_linked_directory_as_kubernetes_mounts_it(scene: Scene) -> None:
    data = scene.migrations / "..2026_01_01"
    data.mkdir()
    (data / "001_good.sql").write_text(GOOD["001_good.sql"])
    (scene.migrations / "..data").symlink_to(data.name)
    (scene.migrations / "001_good.sql").symlink_to("..data/001_good.sql")
    assert scene.run()[:2] == ("migrated", "1")


def test_what_is_no_migration_is_passed_over(scene: Scene) -> None:
    scene.write({**GOOD, "README.md": "", ".002_hidden.sql": "nonsense", "002_x.sql~": "nonsense", "003_x.sql.bak": ""})
    run = scene.start()
    assert told(run)[:2] == ("migrated", "1")
    assert warnings(run) == []


# --- Checksums ------------------------------------------------------------------------------------------

TEXT = "CREATE TABLE lines (\n    id integer\n);\nINSERT INTO lines VALUES (1);\n"
SPELLINGS = {
    "plain": TEXT.encode(),
    "CRLF": TEXT.replace("\n", "\r\n").encode(),
    "byte-order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "both": b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_checksum_is_sha256sum_of_the_plain_text(scene: Scene, tmp_path: Path, spelling: str) -> None:
    scene.write({"001_lines.sql": SPELLINGS[spelling]})
    assert scene.run().outcome == "migrated"
    plain = tmp_path / "plain"
    plain.write_text(TEXT)
    sums = subprocess.run(["sha256sum", plain], capture_output=True, text=True, check=True).stdout
    assert scene.database.one("SELECT checksum FROM schema_migrations") == sums.split()[0]
    # Another spelling of the same text, such as other line ends, counts as the same text.
    for other in SPELLINGS.values():
        scene.write({"001_lines.sql": other})
        again = scene.start()
        assert told(again).outcome == "up_to_date"
        assert warnings(again) == []


def test_a_checksum_of_the_raw_bytes_is_accepted(scene: Scene) -> None:
    scene.write({"001_lines.sql": SPELLINGS["both"]})
    scene.migrated()
    raw = hashlib.sha256(SPELLINGS["both"]).hexdigest()
    scene.database.execute("UPDATE schema_migrations SET checksum = %s", [raw])
    again = scene.start()
    assert told(again).outcome == "up_to_date"
    assert warnings(again) == []


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "content", [b"", b"\n", b"-- later\n/* perhaps */ ;;\n", b"\xef\xbb\xbf", b"BEGIN;\nCOMMIT;\n"]
)
def test_an_empty_file_counts_as_applied_and_is_remarked_on(scene: Scene, content: bytes) -> None:
    scene.write({**GOOD, "002_empty.sql": content, "003_after.sql": "CREATE TABLE after_all ()"})
    run = scene.start()
    assert told(run)[:2] == ("migrated", "3")
    assert [text for text in warnings(run) if "002_empty.sql" in text and "empty" in text]
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]


def test_gaps_are_remarked_on(scene: Scene) -> None:
    scene.write({**GOOD, "003_x.sql": "SELECT 1", "010_y.sql": "SELECT 1"})
    run = scene.start()
    assert told(run)[:2] == ("migrated", "10")
    (warning,) = warnings(run)
    assert "002, 004 to 009" in warning


def test_no_files_at_all(scene: Scene) -> None:
    run = scene.start()
    assert told(run)[:2] == ("up_to_date", "")
    assert len(warnings(run)) == 1
    assert not scene.database.exists("schema_migrations")


def test_a_file_that_changed_is_remarked_on_and_not_run_again(scene: Scene) -> None:
    scene.write(GOOD)
    scene.migrated()
    scene.write({"001_good.sql": "CREATE TABLE better ();"})
    run = scene.start()
    assert told(run)[:2] == ("up_to_date", "1")
    assert [text for text in warnings(run) if "001_good.sql" in text and "checksum" in text]
    assert not scene.database.exists("better")
