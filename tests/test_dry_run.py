"""`migrate --dry-run`: what it shows. test_cli.py tests that it changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def shown(scene: Scene, *arguments: str) -> str:
    """Return the output below the line that names the database."""
    return scene.start("migrate", "--dry-run", *arguments).ok().stdout.partition("\n")[2]


def test_statements_and_what_there_is_to_say_about_them(scene: Scene) -> None:
    scene.write({"001_big.sql": "CREATE TABLE big (a bigint, x bigint);"})
    scene.migrated()
    scene.write(
        {
            "002_two.sql": "-- Nobody reads it.\nALTER TABLE big\n    DROP COLUMN x;\n\nSELECT   1;",
            "003_index.sql": "CREATE INDEX CONCURRENTLY i ON big (a);",
            "004_empty.sql": "-- later\n",
            "005_own.sql": "BEGIN; SELECT 2; COMMIT;",
            "006_says.sql": "-- entrypoint: no-transaction\nSELECT 3;",
        }
    )
    assert shown(scene) == (
        "5 migrations would run:\n"
        "  002_two.sql  (2 statements, one transaction)\n"
        "      ALTER TABLE big …\n"
        "      SELECT 1\n"
        "    line 3: warning: Dropping a column may break existing clients. [ban-drop-column]\n"
        "  003_index.sql  (1 statement, outside a transaction: CREATE INDEX CONCURRENTLY)\n"
        "      CREATE INDEX CONCURRENTLY i ON big (a)\n"
        "  004_empty.sql  (empty, one transaction)\n"
        "  005_own.sql  (1 statement, one transaction, without its own BEGIN and COMMIT)\n"
        "      SELECT 2\n"
        "  006_says.sql  (1 statement, outside a transaction: the file says so)\n"
        "      SELECT 3\n"
    )
    assert scene.ledger() == [(1, "completed")]
    assert shown(scene, "--to", "2").startswith("1 migration would run:\n")


def test_what_the_parser_does_not_understand_is_left_to_the_server(scene: Scene) -> None:
    """A real run asks the server too, but here the user is told."""
    scene.write({"001_bad.sql": "SELECT 1;\nSELEC 2;"})
    assert shown(scene) == (
        "1 migration would run:\n"
        "  001_bad.sql  (2 statements, one transaction)\n"
        "      SELECT 1\n"
        "      SELEC 2\n"
        '    line 2: error: syntax error at or near "SELEC"\n'
        "        LINE 2: SELEC 2;\n"
        "                ^\n"
    )


def test_of_many_statements_only_some_are_shown_and_none_at_full_length(scene: Scene) -> None:
    scene.write({"001_many.sql": f"SELECT '{'x' * 5000}';\n" * 1000})
    lines = shown(scene).splitlines()
    assert len(lines) == 2 + 20 + 1
    assert max(map(len, lines)) < 130
    assert lines[-1].strip() == "… and 980 more"


@pytest.mark.thorough
def test_no_password_is_shown(scene: Scene) -> None:
    scene.write(
        {
            "001_role.sql": "ALTER ROLE x\n  PASSWORD 'Quokka';\n"
            "CREATE ROLE y PASSWORD $$Quokka$$;\n"
            "SELECT dblink('postgresql://a:Quokka@b/c');\n"
            "CREATE TABLE t (password text);",
            "002_bad.sql": "ALTER ROLE z PASSWORD\n Quokka;",
        }
    )
    for command in (
        ("migrate", "--dry-run"),
        ("check",),
        ("check", "--format", "json"),
        ("check", "--format", "github"),
    ):
        run = scene.start(*command)
        run.wait()
        assert "Quokka" not in run.stdout + run.stderr, run.report()
    text = shown(scene)
    assert "ALTER … (not shown: the statement may contain a password)" in text
    assert "LINE 2: (not shown: the statement may contain a password)" in text
    assert "CREATE TABLE t (password text)" in text


def test_what_is_held_back_is_not_shown_as_if_it_would_run(scene: Scene) -> None:
    scene.write({"001_a.sql": "SELECT 1", "002_bad.sql": "SELECT nonsense"})
    assert scene.migrate().code == 70
    scene.database.execute("DELETE FROM schema_migrations WHERE migration_number = 1")
    text = shown(scene)
    assert "SELECT nonsense" not in text
    assert "Then it would stop: " in text


def test_a_linter_that_cannot_be_asked_is_no_reason_to_show_nothing(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / ".squawk.toml").write_text('excluded_rules = ["no-such-rule"]')
    scene.write({"001_a.sql": "SELECT 1"})
    lines = shown(scene).splitlines()
    assert lines[2] == "      SELECT 1"
    assert lines[3].startswith("note: The linter ")
    assert "no-such-rule" in lines[3]
