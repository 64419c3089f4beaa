r"""Scripts for psql, and dumps: backslash commands that the server does not need are skipped, others are refused."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import missing, new_database
from fuzz.whole import psql
from scene import Scene, odd_strings, only_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.postgres import Server
    from kit.databases import Database
    from kit.processes import Run

SCHEMA = Path(__file__).parent / "fixtures" / "dump" / "schema.sql"
# Keeps the ledger apart from what is dumped.
APART = {"MIGRATION_SCHEMA": "ledger"}
LEFT_OUT = r"""\restrict hDq1
\set ON_ERROR_STOP on
\echo it''s 'COMMIT;' -- "no" comment
BEGIN;
CREATE TABLE made (a text);
\timing on \pset null '\\' \\ INSERT INTO made VALUES ('one'),
\qecho "it's" in a statement
  ('two');
\encoding UTF8
\x off
\unset name
COMMIT;
\unrestrict hDq1
"""


@pytest.fixture
def scene(any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene on a server of each version in turn."""
    return Scene(any_database, migrations_dir, run_entrypoint)


def dump(database: Database, *options: str) -> str:
    """Return what the server's own pg_dump writes."""
    command = [str(database.server.bin / "pg_dump"), "--exclude-schema=ledger", *options, database.url]
    return subprocess.run(command, capture_output=True, check=True, encoding="utf-8", timeout=60).stdout


def comparable(text: str) -> str:
    """Return a dump without the key, which is different in each."""
    return re.sub(r"(?m)^(\\(?:un)?restrict) .*", r"\1", text)


def made(scene: Scene) -> list[object]:
    return [value for (value,) in scene.database.rows("SELECT a FROM made ORDER BY a")]


@pytest.mark.parametrize("option", ["--schema-only", "--inserts"])
def test_a_dump_is_a_migration_as_it_is(scene: Scene, any_server: Server, option: str) -> None:
    if not (any_server.bin / "pg_dump").exists():
        missing(f"no pg_dump in {any_server.bin}")
    with new_database(any_server, "dumped") as source:
        source.execute(SCHEMA.read_text())
        text = dump(source, option)
    scene.write({"001_dump.sql": text})
    scene.start("check", "--no-lint").ok()
    scene.migrated(**APART)
    assert comparable(dump(scene.database, option)) == comparable(text)
    if "\\restrict" in text:
        headline = "one transaction, without psql's \\restrict, \\unrestrict"
        with new_database(any_server, "to_be") as empty:
            assert headline in scene.start("migrate", "--dry-run", url=empty.url, **APART).ok().stdout


def test_a_dump_with_data_for_copy_is_refused_with_the_way_to_have_it(scene: Scene, any_server: Server) -> None:
    with new_database(any_server, "dumped") as source:
        source.execute(SCHEMA.read_text())
        text = dump(source)
    scene.write({"001_dump.sql": text})
    run = scene.migrate()
    assert run.wait() == 65
    faults = only_error(run)["faults"]
    lines = [number for number, line in enumerate(text.splitlines(), 1) if re.match("COPY .* FROM stdin;", line)]
    assert [fault.partition(": ")[0] for fault in faults] == [f"001_dump.sql:{line}" for line in lines]
    assert all("pg_dump --inserts" in fault for fault in faults)
    assert scene.database.rows("SELECT FROM pg_namespace WHERE nspname = 'shop'") == []


@pytest.mark.parametrize("head", ["", "-- entrypoint: no-transaction\n"])
def test_what_the_server_does_not_need_is_left_out(scene: Scene, head: str) -> None:
    scene.write({"001_x.sql": head + LEFT_OUT})
    scene.migrated()
    assert made(scene) == ["one", "two"]
    assert scene.ledger() == [(1, "completed")]


def test_so_it_is_to_psql(scene: Scene, any_server: Server, tmp_path: Path) -> None:
    """The key is left out, because psql would refuse every command but the one that ends the restriction."""
    program = psql(any_server) or missing("no psql")
    file = tmp_path / "x.sql"
    file.write_text(re.sub(r"(?m)^\\(un)?restrict.*", "", LEFT_OUT))
    done = subprocess.run(
        [str(program), "-X", "-q", "-f", str(file), scene.database.url],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert made(scene) == ["one", "two"]


def test_where_strings_have_escapes(scene: Scene) -> None:
    odd_strings(scene.database)
    script = (
        "\\echo /* it\\'s' \"'\"\nCREATE TABLE made (a text);\n\\echo 'it\\'s'\nINSERT INTO made VALUES ('it\\'s');\n"
    )
    scene.write({"001_x.sql": script.replace("it\\'s' \"", 'its "')})
    scene.migrated()
    assert made(scene) == ["it's"]


def test_check_says_what_is_left_out_and_why(scene: Scene) -> None:
    scene.write({"001_x.sql": LEFT_OUT + "\\echo once more\n"})
    (scene.migrations / "rollback").mkdir()
    (scene.migrations / "rollback" / "001_x.sql").write_text("\\echo back\nDROP TABLE made;\n")
    told = scene.start("check", "--no-lint", "--all").ok().stdout.splitlines()
    notes = [line.partition(": note: psql's command ")[::2] for line in told if "psql's command" in line]
    assert [(place, note.partition(":")[0]) for place, note in notes] == [
        ("migrations/001_x.sql:1:1", r"\restrict is left out"),
        ("migrations/001_x.sql:2:1", r"\set ON_ERROR_STOP is left out"),
        ("migrations/001_x.sql:3:1", r"\echo is left out (2 times)"),
        ("migrations/001_x.sql:6:1", r"\timing is left out"),
        ("migrations/001_x.sql:6:12", r"\pset is left out"),
        ("migrations/001_x.sql:7:1", r"\qecho is left out"),
        ("migrations/001_x.sql:9:1", r"\encoding is left out"),
        ("migrations/001_x.sql:10:1", r"\x is left out"),
        ("migrations/001_x.sql:11:1", r"\unset is left out"),
        ("migrations/001_x.sql:13:1", r"\unrestrict is left out"),
        ("migrations/rollback/001_x.sql:1:1", r"\echo is left out"),
    ]


@pytest.mark.parametrize("head", ["\\restrict x\n", "-- entrypoint: no-transaction\n"])
def test_an_error_is_shown_in_its_place(scene: Scene, head: str) -> None:
    scene.write({"001_x.sql": head + "\\echo one\nSELECT 1,\n\\echo two\n  nonsense;\n"})
    told = only_error(scene.migrate())
    assert told["line"] == 5
    assert "LINE 5:   nonsense;\n          ^" in told["report"], told["report"]


def test_the_checksum_is_the_files(scene: Scene) -> None:
    scene.write({"001_x.sql": LEFT_OUT})
    scene.migrated()
    expected = subprocess.run(["sha256sum", scene.migrations / "001_x.sql"], capture_output=True, text=True, check=True)
    assert scene.database.one("SELECT checksum FROM schema_migrations") == expected.stdout.split()[0]
