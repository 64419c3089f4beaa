"""`check`, from outside, with the real linter."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demo.postgres import HOST, free_port
from entrypoint.migration.script import contraction, repetition
from entrypoint.operations.lint import NOT_REPORTED
from entrypoint.operations.silence import OWN_WARNINGS
from kit.migrations import write_migrations
from kit.processes import Run, until
from scene import Scene, only_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kit.databases import Database
    from kit.proxy import Proxy

    Start = Callable[..., Run]
    Check = Callable[..., list[dict[str, Any]]]

ROOT = Path(__file__).parent.parent
SQUAWK = Path(sys.executable).parent / "squawk"
# Neither we nor the linter have anything to say about it.
GOOD = {"001_good.sql": "CREATE TABLE good (id bigint PRIMARY KEY);\n"}
# One warning, at line 2, column 17.
DROPS = {"002_drops.sql": "-- Nobody reads it.\nALTER TABLE big DROP COLUMN x;\n"}
WARNING = ("migrations/002_drops.sql", 2, 17, "ban-drop-column")


@pytest.fixture
def check(run_entrypoint: Start) -> Check:
    """Return a function that runs `check --format json` to completion and returns what it found."""

    def findings(*arguments: str | Path, code: int = 0, env: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        run = run_entrypoint("check", "--format", "json", *arguments, env=env)
        assert run.wait() == code, run.report()
        answer = json.loads(run.stdout)
        for finding in answer:
            assert list(finding) == ["file", "line", "column", "level", "rule", "message", "remedy"]
        assert isinstance(answer, list)
        return answer

    return findings


def of_level(findings: list[dict[str, Any]], level: str) -> list[tuple[Any, ...]]:
    return [tuple(f[name] for name in ("file", "line", "column", "rule")) for f in findings if f["level"] == level]


def notes(findings: list[dict[str, Any]], rule: str) -> list[str]:
    return [finding["message"] for finding in findings if (finding["level"], finding["rule"]) == ("note", rule)]


# --- Errors ---------------------------------------------------------------------------------------------

BAD: dict[str, str | bytes] = {
    "003_syntax.sql": "SELECT 1;\nSELECT 'é', FROM;\n",
    "004_commit.sql": "SELECT 1; COMMIT AND CHAIN; SELECT 2;",
    "005_latin.sql": b"SELECT 1;\nSELECT 'gr\xfc\xdfe'",
    "Six.sql": "",
    "007_a.sql": "",
    "007_b.sql": "",
}
FAULTS = [
    ("migrations/Six.sql", None, None, "name"),
    ("migrations/007_a.sql", None, None, "number"),
    ("migrations/003_syntax.sql", 2, 13, "syntax"),
    ("migrations/004_commit.sql", 1, 11, "content"),
    ("migrations/005_latin.sql", 2, None, "encoding"),
]


def test_all_faults_are_told_with_their_places(check: Check, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, GOOD | BAD)
    found = check(code=65)
    assert of_level(found, "error") == FAULTS
    messages = [finding["message"] for finding in found if finding["level"] == "error"]
    assert messages[0] == "must be NNN_description.sql, for example NNN_six.sql"
    assert messages[1] == "007_a.sql and 007_b.sql: 2 files have the number 7; give each a different one"
    assert messages[2] == 'syntax error at or near "FROM"'


def test_a_person_sees_the_line_with_a_caret(run_entrypoint: Start, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, GOOD | BAD)
    run = run_entrypoint("check")
    assert run.wait() == 65
    assert run.stdout.endswith("6 migrations in migrations: 5 errors\n")
    assert (
        'migrations/003_syntax.sql:2:13: error: syntax error at or near "FROM"\n'
        "    LINE 2: SELECT 'é', FROM;\n"
        "                        ^\n"
    ) in run.stdout
    assert only_error(run)["message"] == "5 errors in the migration files"


def test_good_files(run_entrypoint: Start, migrations_dir: Path) -> None:
    write_migrations(
        migrations_dir,
        GOOD
        | {
            "002_empty.sql": "-- nothing\n",
            "003_own.sql": "BEGIN; SELECT 1; COMMIT;",
            "005_vacuum.sql": "VACUUM good;",
        },
    )
    run = run_entrypoint("check", "--strict").ok()
    assert run.stdout.endswith("4 migrations in migrations: no errors\n")
    for part in (
        "note: gap in the numbers: no migration 004",
        "migrations/002_empty.sql: note: is empty",
        "migrations/003_own.sql: note: has its own BEGIN and COMMIT",
        "migrations/005_vacuum.sql: note: runs outside a transaction, statement by statement (VACUUM)",
        "note: no database is configured, so every file was checked",
    ):
        assert f"\n{part}" in f"\n{run.stdout}"
    assert run.stderr == ""


@pytest.mark.thorough
def test_a_name_that_is_no_text(run_entrypoint: Start, migrations_dir: Path) -> None:
    (Path(os.fsdecode(os.fsencode(migrations_dir) + b"/\xff.sql"))).write_text("")
    for style in ("text", "json", "github", "sarif", "codequality"):
        run = run_entrypoint("check", "--format", style)
        assert run.wait() == 65, run.report()
        assert ("%FF.sql" if style == "sarif" else "udcff.sql") in run.stdout
        if style in ("json", "codequality"):
            # A lone surrogate must not appear, not even escaped: few programs accept it.
            assert [one for one in _texts(json.loads(run.stdout)) if "udcff" in one.encode().decode()]


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a JSON document."""
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(one)


@pytest.mark.parametrize("style", ["text", "sarif", "codequality"])
def test_a_named_pipe_is_told_and_not_waited_for(run_entrypoint: Start, migrations_dir: Path, style: str) -> None:
    os.mkfifo(migrations_dir / "001_pipe.sql")
    run = run_entrypoint("check", "--format", style)
    assert run.wait() == 65, run.report()
    assert "named pipe" in run.stdout


def test_a_tool_that_is_not_there_does_not_tell_the_path(run_entrypoint: Start, migrations_dir: Path) -> None:
    """The report is for others to read, so it must not contain PATH."""
    run = run_entrypoint(
        "check", "--format", "codequality", env={"MIGRATION_COMMAND": "no-such-tool", "PATH": "/nowhere"}
    )
    assert run.wait() == 65, run.report()
    assert "no-such-tool" in run.stdout
    assert "/nowhere" not in run.stdout


def test_output_that_cannot_be_written_is_no_mistake_of_ours(run_entrypoint: Start, migrations_dir: Path) -> None:
    """It notices this for large output and for small, which fits in a buffer."""
    for files in (1, 200):
        write_migrations(migrations_dir, {f"{number:03d}_x.sql": "" for number in range(1, files + 1)})
        with Path("/dev/full").open("w") as full:
            run = run_entrypoint("check", "--format", "sarif", stdout=full.fileno())
            assert run.wait() == 70, run.report()
        assert "No space left on device" in only_error(run)["message"]
        assert "bug in" not in only_error(run)["remedy"]


# --- The linter -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "line", "column"),
    [
        (b"-- Nobody reads it.\n", 2, 17),
        (b"-- Nobody reads it.\r\n", 2, 17),
        (b"-- Nobody reads it.\r", 2, 17),
        (b"", 1, 17),
        (b"\xef\xbb\xbf", 1, 17),
        (b"\xef\xbb\xbf-- Nobody reads it.\r\n", 2, 17),
        ("/* Größe 🦜 */ ".encode(), 1, 31),
    ],
)
def test_a_warning_has_its_place_in_characters(
    check: Check, migrations_dir: Path, before: bytes, line: int, column: int
) -> None:
    write_migrations(migrations_dir, {**GOOD, "002_drops.sql": before + b"ALTER TABLE big DROP COLUMN x;"})
    assert of_level(check(), "warning") == [("migrations/002_drops.sql", line, column, "ban-drop-column")]


def test_warnings_end_with_65_only_if_asked(run_entrypoint: Start, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, GOOD | DROPS)
    run = run_entrypoint("check").ok()
    assert "migrations/002_drops.sql:2:17: warning: Dropping a column may break existing clients." in run.stdout
    assert "[ban-drop-column]\n" in run.stdout
    assert run.stdout.endswith("2 migrations in migrations: no errors, 1 warning\n")
    assert run.stderr == ""
    strict = run_entrypoint("check", "--strict")
    assert strict.wait() == 65
    assert strict.stdout == run.stdout
    assert "1 warning" in only_error(strict)["message"]
    assert "squawk-ignore" in only_error(strict)["remedy"]
    silenced = DROPS["002_drops.sql"].replace("ALTER", "-- squawk-ignore ban-drop-column\nALTER")
    write_migrations(migrations_dir, {"002_drops.sql": silenced})
    run_entrypoint("check", "--strict").ok()
    write_migrations(migrations_dir, DROPS)
    run_entrypoint("check", "--strict", "--no-lint").ok()


# --- A release alongside the previous one ----------------------------------------------------------------


def test_the_linters_warning_has_our_recipe(check: Check, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, GOOD | DROPS)
    (warning,) = [finding for finding in check() if finding["level"] == "warning"]
    assert warning["rule"] == "ban-drop-column"
    assert warning["remedy"] == (
        "Stop using it in this release, and drop it in a file with `-- entrypoint: phase = after`."
    )


def test_after_the_rollout_there_is_nothing_to_say(check: Check, migrations_dir: Path) -> None:
    drops = "-- entrypoint: phase = after\nALTER TABLE big DROP COLUMN x;\nTRUNCATE a;\n"
    write_migrations(migrations_dir, GOOD | {"002_drops.sql": drops})
    assert not of_level(check("--strict"), "warning")
    write_migrations(migrations_dir, {"002_drops.sql": drops.replace("phase = after", "timeout = 5min")})
    assert [rule for *_, rule in of_level(check(), "warning")] == ["ban-drop-column", "needs-phase-after"]


@pytest.mark.thorough
def test_a_comment_excepts_a_statement_from_our_rule(check: Check, migrations_dir: Path) -> None:
    """The linter does not know our rule; its complaint about the name is dropped."""
    write_migrations(migrations_dir, GOOD | {"002_empty.sql": "TRUNCATE a;\n"})
    assert of_level(check(), "warning") == [("migrations/002_empty.sql", 1, 1, "needs-phase-after")]
    write_migrations(migrations_dir, {"002_empty.sql": "-- squawk-ignore needs-phase-after\nTRUNCATE a;\n"})
    assert not of_level(check("--strict"), "warning")


@pytest.mark.thorough
def test_of_applied_files_and_of_another_tools_nothing_is_said(
    check: Check, database: Database, migrations_dir: Path, run_entrypoint: Start
) -> None:
    write_migrations(
        migrations_dir,
        GOOD | {"002_a.sql": "TRUNCATE good;", "003_b.sql": "-- entrypoint: origin = goose 3\nTRUNCATE good;"},
    )
    assert of_level(check(), "warning") == [("migrations/002_a.sql", 1, 1, "needs-phase-after")]
    env = {"DATABASE_URL": database.url}
    run_entrypoint("migrate", "--to", "2", env=env).ok()
    assert not of_level(check(env=env), "warning")


def test_what_is_not_repeatable_in_repeatable_files(check: Check, migrations_dir: Path) -> None:
    (migrations_dir / "repeatable").mkdir()
    write_migrations(
        migrations_dir,
        GOOD
        | {
            "repeatable/a.sql": "CREATE OR REPLACE VIEW a AS SELECT 1;\n\nCREATE VIEW b AS SELECT 1;\n",
            "repeatable/t.sql": "CREATE TABLE t ();",
        },
    )
    found = check()
    assert of_level(found, "warning") == [
        ("migrations/repeatable/a.sql", 3, 1, "not-repeatable"),
        ("migrations/repeatable/t.sql", 1, 1, "not-repeatable"),
    ]
    said = [(finding["message"], finding["remedy"]) for finding in found if finding["level"] == "warning"]
    assert said[0] == ("CREATE VIEW without OR REPLACE: it fails the second time", "Write CREATE OR REPLACE VIEW.")
    check("--strict", code=65)


def test_a_migration_that_drops_what_a_repeatable_file_makes(check: Check, migrations_dir: Path) -> None:
    (migrations_dir / "repeatable").mkdir()
    drop = "DROP VIEW IF EXISTS v;\n"
    write_migrations(
        migrations_dir,
        GOOD | {"repeatable/v.sql": "CREATE OR REPLACE VIEW v AS SELECT 1;", "002_drop.sql": f"SELECT 1;\n{drop}"},
    )
    (warning,) = [finding for finding in check("--no-lint") if finding["level"] == "warning"]
    assert (warning["file"], warning["line"], warning["rule"]) == ("migrations/002_drop.sql", 2, "refresh")
    assert warning["remedy"] == "Write `-- entrypoint: refresh = v` at the top of the file."
    write_migrations(migrations_dir, {"002_drop.sql": "-- entrypoint: refresh = v\nDROP VIEW v;"})
    (warning,) = [finding for finding in check("--no-lint") if finding["level"] == "warning"]
    assert warning["message"].endswith("in a new database it does not exist yet")
    for text in (f"-- entrypoint: refresh = v\n{drop}", f"{drop}CREATE VIEW v AS SELECT 1;\n"):
        write_migrations(migrations_dir, {"002_drop.sql": text})
        assert not of_level(check("--no-lint"), "warning")


EXCEPTED = {
    "not-repeatable": ("repeatable/v.sql", "CREATE VIEW v AS SELECT 1;\n"),
    "commit-in-block": ("002_block.sql", "DO $$ BEGIN COMMIT; END $$;\n"),
    "idle-commit": ("003_idle.sql", "COMMIT;\n"),
    "needs-phase-after": ("004_drops.sql", "TRUNCATE big;\n"),
    "refresh": ("005_drop.sql", "-- squawk-ignore-file ban-drop-view\nDROP VIEW IF EXISTS good_view;\n"),
    "repack-concurrently": ("006_repack.sql", "REPACK (CONCURRENTLY) big;\n"),
    "requires": ("009_late.sql", "-- entrypoint: requires = 8\n"),
}


def test_a_comment_excepts_from_every_rule_of_ours(check: Check, migrations_dir: Path, run_entrypoint: Start) -> None:
    """The fix shown by --strict suggests it. The linter's complaint about our rules' names is dropped."""
    (migrations_dir / "repeatable").mkdir()
    assert set(EXCEPTED) | {"out-of-order"} == OWN_WARNINGS
    assert warnings_in_the_code() - {"command"} == OWN_WARNINGS
    write_migrations(
        migrations_dir, GOOD | {"repeatable/good_view.sql": "CREATE OR REPLACE VIEW good_view AS SELECT 1;"}
    )

    def told(before: str, between: str) -> list[str]:
        """Write files with these texts before and after another statement, and return the rules of the warnings."""
        for rule, (name, text) in EXCEPTED.items():
            lines = (before.format(rule), "SELECT 1;\n", between.format(rule), text)
            of_file = f"{text}-- squawk-ignore-file {rule}\n" if between else text
            write_migrations(migrations_dir, {name: of_file if rule == "requires" else "".join(lines)})
        return sorted(found for *_, found in of_level(check(), "warning"))

    assert told("", "") == sorted(EXCEPTED)
    strict = run_entrypoint("check", "--strict")
    assert strict.wait() == 65, strict.report()
    remedy = only_error(strict)["remedy"]
    assert '"-- squawk-ignore RULE" above a statement' in remedy
    assert '"-- squawk-ignore-file RULE" in a file' in remedy
    assert told("", "-- squawk-ignore {}\n") == []
    assert told("", "-- squawk-ignore ban-char-field, {}\n") == []
    assert told("", "-- squawk-ignore {} -- nobody is there at night\n") == []
    assert told("", "/* squawk-ignore {} */\n") == []
    # A comment on another statement does not count.
    assert told("-- squawk-ignore {}\n", "") == sorted(EXCEPTED)


def warnings_in_the_code() -> set[str]:
    """Return the rules of the warnings that the program itself gives."""
    found = set()
    named = {"contraction.RULE": contraction.RULE, "repetition.RULE": repetition.RULE, "REQUIRES": "requires"}
    named |= {"REFRESH": "refresh"}
    for path in sorted((ROOT / "entrypoint" / "operations").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"Finding", "_at"}:
                words = [ast.unparse(one) for one in node.args]
                if words[0] == "'warning'" and words[1] != "rule":
                    found.add(named.get(words[1], words[1].strip("'")))
                elif ast.unparse(node.func) == "_at":
                    found.add(named[words[2]])
    return found


@pytest.mark.thorough
def test_a_comment_about_the_rollout_is_heard_with_the_linter_too(check: Check, migrations_dir: Path) -> None:
    """It says that the previous release needs none of this, so the linter's rules about that stay silent."""
    write_migrations(migrations_dir, GOOD | DROPS)
    text = "SELECT 1;\n-- squawk-ignore needs-phase-after\n" + DROPS["002_drops.sql"]
    write_migrations(migrations_dir, {"002_drops.sql": f"{text}ALTER TABLE big DROP COLUMN y;\n"})
    assert of_level(check(), "warning") == [("migrations/002_drops.sql", 5, 17, "ban-drop-column")]
    # Its warnings about locks remain.
    text = "-- squawk-ignore needs-phase-after\nALTER TABLE big ALTER COLUMN x TYPE bigint;\n"
    write_migrations(migrations_dir, {"002_drops.sql": text})
    assert [rule for *_, rule in of_level(check(), "warning")] == ["changing-column-type"]


def test_a_comment_for_a_file_that_is_out_of_order(check: Check, migrations_dir: Path, tmp_path: Path) -> None:
    """With `--against`; tests/test_check_against.py covers the rest."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    write_migrations(migrations_dir, GOOD | {"005_new.sql": "SELECT 5;"})
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=one"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"], "HOME": "/"})
    write_migrations(migrations_dir, {"003_late.sql": "SELECT 3;"})
    assert [rule for *_, rule in of_level(check("--against", "main"), "warning")] == ["out-of-order"]
    for form in ("-file", ""):
        write_migrations(migrations_dir, {"003_late.sql": f"-- squawk-ignore{form} out-of-order\nSELECT 3;"})
        assert not of_level(check("--against", "main"), "warning")
    # Without a rule, it applies to the statement.
    write_migrations(migrations_dir, {"003_late.sql": "-- squawk-ignore\nSELECT 3;"})
    assert [rule for *_, rule in of_level(check("--against", "main"), "warning")] == ["out-of-order"]


def test_an_error_cannot_be_silenced(check: Check, migrations_dir: Path) -> None:
    """The linter takes the rule's name for a typo; its complaint is not repeated."""
    write_migrations(migrations_dir, GOOD | {"003_comment.sql": "-- squawk-ignore syntax, sintax\nSELECT 3;\n"})
    said = [(one["rule"], one["message"]) for one in check() if one["level"] == "warning"]
    assert said == [
        ("unused-ignore", "syntax is an error, and an error cannot be silenced"),
        ("unused-ignore", "unknown name sintax"),
    ]


def test_what_files_say_of_others_that_are_not_there(check: Check, migrations_dir: Path) -> None:
    write_migrations(
        migrations_dir,
        GOOD
        | {
            "002_a.sql": "-- entrypoint: requires = 3\n",
            "003_b.sql": "-- entrypoint: phase = after\n-- entrypoint: floor = 009_gone.sql\n",
            "004_c.sql": "-- entrypoint: replaces = 001_good.sql\n",
            "005_d.sql": "-- entrypoint: refresh = gone\n",
        },
    )
    found = check(code=65)
    assert [(file, rule) for file, _, _, rule in of_level(found, "error")] == [
        ("migrations/003_b.sql", "floor"),
        ("migrations/004_c.sql", "replaces"),
        ("migrations/005_d.sql", "refresh"),
        ("migrations/002_a.sql", "requires"),
    ]
    for file in ("002_a", "003_b", "004_c", "005_d"):
        (migrations_dir / f"{file}.sql").unlink()
    write_migrations(migrations_dir, {"008_a.sql": "-- entrypoint: requires = 7\nSELECT 1;"})
    assert [rule for *_, rule in of_level(check(), "warning")] == ["requires"]


def test_advice_is_told(check: Check, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_index.sql": "CREATE INDEX i ON big (a);"})
    [warning] = [finding for finding in check() if finding["level"] == "warning"]
    assert warning["rule"] == "require-concurrent-index-creation"
    assert "concurrently" in warning["remedy"]


# Whatever squawk says about these, from its settings or its own assumptions, does not apply here.
OURS = {
    "001_slow.sql": "CREATE TABLE a (id bigint);\nALTER TABLE big ADD COLUMN b text;\nALTER TABLE big ADD c text;",
    "002_own.sql": "BEGIN;\nALTER TABLE big ADD COLUMN d text;\nALTER TABLE big ADD COLUMN e text;\nCOMMIT;",
    "003_index.sql": "CREATE INDEX CONCURRENTLY i ON big (d);",
    "004_two.sql": "CREATE INDEX CONCURRENTLY IF NOT EXISTS j ON big (d);\n"
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS k ON big (e);",
}


def test_rules_that_make_no_sense_here_are_not_reported(check: Check, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, OURS)
    said = set()
    for option in ("--assume-in-transaction", "--no-assume-in-transaction"):
        run = subprocess.run(
            [SQUAWK, "--reporter=json", option, *sorted(migrations_dir.iterdir())],
            capture_output=True,
            check=False,
            timeout=60,
        )
        said |= {violation["rule_name"] for violation in json.loads(run.stdout)}
    assert said == {
        "require-lock-timeout",
        "require-statement-timeout",
        "transaction-nesting",
        "ban-concurrent-index-creation-in-transaction",
        "prefer-robust-stmts",
    }
    assert of_level(check("--strict"), "warning") == []


def test_a_file_outside_a_transaction_that_can_fail_part_way(check: Check, migrations_dir: Path) -> None:
    """Here squawk is right: a retry starts again from the first statement."""
    one, two = "CREATE INDEX CONCURRENTLY i ON big (a);\n", "CREATE INDEX CONCURRENTLY j ON big (b);\n"
    write_migrations(migrations_dir, {"001_one.sql": one, "002_two.sql": one + two})
    assert of_level(check(), "warning") == [
        ("migrations/002_two.sql", 1, 1, "prefer-robust-stmts"),
        ("migrations/002_two.sql", 2, 1, "prefer-robust-stmts"),
    ]


@pytest.mark.thorough
def test_what_is_too_large_for_the_parser_is_at_least_seen_by_the_linter(check: Check, migrations_dir: Path) -> None:
    large = "SELECT 1;\n" * 11_000
    write_migrations(migrations_dir, {"001_large.sql": large, "002_bad.sql": f"{large}SELEC 1;\n"})
    found = check()
    assert {finding["rule"] for finding in found if finding["level"] == "warning"} == {"syntax-error"}
    assert {(finding["file"], finding["line"]) for finding in found if finding["rule"] == "syntax-error"} == {
        ("migrations/002_bad.sql", 11_001)
    }


@pytest.mark.thorough
def test_the_projects_own_configuration_counts(
    check: Check, run_entrypoint: Start, migrations_dir: Path, tmp_path: Path
) -> None:
    write_migrations(migrations_dir, GOOD | DROPS | {"003_drops.sql": "ALTER TABLE big DROP COLUMN y;"})
    configuration = tmp_path / ".squawk.toml"
    assert len(of_level(check(), "warning")) == 2
    configuration.write_text('excluded_paths = ["migrations/003*.sql"]\n')
    assert of_level(check(), "warning") == [WARNING]
    configuration.write_text('excluded_paths = ["*"]\n')
    assert of_level(check(), "warning") == []
    configuration.write_text('excluded_rules = ["ban-drop-column"]\nassume_in_transaction = false\n')
    assert of_level(check(), "warning") == []

    configuration.write_text('excluded_rules = ["no-such-rule"]\n')
    run = run_entrypoint("check")
    assert run.wait() == 78
    error = only_error(run)
    assert "no-such-rule" in error["message"]
    assert ".squawk.toml" in error["remedy"]
    run_entrypoint("check", "--no-lint").ok()
    # A broken linter does not hide what would stop a start.
    write_migrations(migrations_dir, {"004_bad.sql": "SELEC 1;"})
    found = check(code=65)
    assert of_level(found, "error") == [("migrations/004_bad.sql", 1, 1, "syntax")]
    assert "no-such-rule" in notes(found, "no-linter")[0]


def test_a_directory_whose_name_is_a_pattern(check: Check, tmp_path: Path) -> None:
    write_migrations(tmp_path / "[a-z]*?", DROPS)
    found = check(env={"MIGRATIONS_DIR": "[a-z]*?"})
    assert of_level(found, "warning") == [("[a-z]*?/002_drops.sql", *WARNING[1:])]


def test_the_linter_is_told_how_a_file_will_run(check: Check, migrations_dir: Path) -> None:
    """Validating a constraint in the transaction that adds it gains nothing; in two transactions it helps."""
    both = "ALTER TABLE big ADD CONSTRAINT c CHECK (a > 0) NOT VALID;\nALTER TABLE big VALIDATE CONSTRAINT c;\n"
    write_migrations(
        migrations_dir,
        {
            "001_one.sql": both,
            "002_own.sql": f"BEGIN;\n{both}COMMIT;",
            "003_outside.sql": f"-- entrypoint: no-transaction\n{both}",
        },
    )
    found = {finding["file"] for finding in check() if finding["rule"] == "constraint-missing-not-valid"}
    assert found == {"migrations/001_one.sql", "migrations/002_own.sql"}


# --- Without the linter, or with a broken one ------------------------------------------------------------


@pytest.fixture
def elsewhere(run_program: Callable[..., Run], tmp_path: Path) -> Callable[..., Run]:
    """Return a function that starts `entrypoint` from a Python without squawk, unless it is given one."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python").symlink_to(Path(sys.executable).resolve())

    def start(*arguments: str, squawk: str = "", path: str = "/usr/bin:/bin", **env: str) -> Run:
        if squawk:
            (programs / "squawk").write_text(f"#!/bin/sh\n{squawk}\n")
            (programs / "squawk").chmod(0o755)
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": path, **env}
        return run_program([programs / "python", "-m", "entrypoint", *arguments], env=environment)

    return start


def test_without_the_linter_the_rest_is_done(elsewhere: Callable[..., Run], migrations_dir: Path) -> None:
    write_migrations(migrations_dir, GOOD | DROPS)
    run = elsewhere("check").ok()
    assert "note: the linter squawk is not installed" in run.stdout
    assert "migrations/002_drops.sql:2:1: warning: drops a column" in run.stdout
    assert elsewhere("check", "--strict").wait() == 65
    elsewhere("check", "--strict", "--no-lint").ok()
    assert "pip install 'pg-entrypoint[lint]'" in run.stdout
    assert "squawk" not in elsewhere("check", "--no-lint").ok().stdout
    insisting = elsewhere("check", "--lint")
    assert insisting.wait() == 78
    assert "pg-entrypoint[lint]" in only_error(insisting)["remedy"]
    assert insisting.stdout == ""
    write_migrations(migrations_dir, BAD)
    assert elsewhere("check").wait() == 65


def test_the_linter_is_found_on_the_path(elsewhere: Callable[..., Run], migrations_dir: Path) -> None:
    write_migrations(migrations_dir, GOOD | DROPS)
    run = elsewhere("check", "--lint", path=f"{SQUAWK.parent}:/usr/bin:/bin").ok()
    assert "[ban-drop-column]" in run.stdout


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("squawk", "says"),
    [
        ("echo 'no such option' >&2; exit 2", "no such option"),
        ("exit 3", "code 3"),
        ("exit 1", "code 1"),
        ("kill -9 $$", "killed by SIGKILL"),
        ("echo '[{]'; exit 1", "code 1"),
        ("echo '{}'", "not squawk's JSON, and it exited with code 0"),
        ("echo 'squawk 0.1'", "its output is not squawk's JSON"),
        ('echo \'[{"file": "migrations/001_good.sql"}]\'; exit 1', "its output could not be understood"),
        (
            'echo \'[{"file": "migrations/001_good.sql", "rule_name": "x", "line": 9, "column": 0}]\'; exit 1',
            "its output could not be understood",
        ),
    ],
)
def test_a_linter_that_cannot_be_asked(
    elsewhere: Callable[..., Run], migrations_dir: Path, squawk: str, says: str
) -> None:
    write_migrations(migrations_dir, GOOD)
    run = elsewhere("check", squawk=squawk)
    assert run.wait() == 78, run.report()
    assert says in only_error(run)["message"]
    assert "--no-lint" in only_error(run)["remedy"]
    assert "too old" in only_error(run)["remedy"]


def test_the_linter_is_not_given_what_it_does_not_need(
    elsewhere: Callable[..., Run], migrations_dir: Path, tmp_path: Path
) -> None:
    """It gets no address, and no GITHUB_ACTIONS, with which some versions write more than JSON."""
    write_migrations(migrations_dir, GOOD)
    secret = "postgresql://a:geheim@b/c"
    elsewhere(
        "check", "--all", squawk=f"env > {tmp_path}/seen; echo '[]'", DATABASE_URL=secret, GITHUB_ACTIONS="true"
    ).ok()
    seen = (tmp_path / "seen").read_text()
    assert "PATH=" in seen
    assert "geheim" not in seen
    assert "GITHUB" not in seen


def test_the_linter_does_not_outlive_a_signal(
    elsewhere: Callable[..., Run], migrations_dir: Path, tmp_path: Path
) -> None:
    write_migrations(migrations_dir, GOOD)
    run = elsewhere("check", squawk=f"touch {tmp_path}/asked; exec sleep 1000")
    until((tmp_path / "asked").exists, 15, run.report)
    run.terminate()
    assert run.wait() == 128 + 15
    assert run.leftovers() == []


# --- The database ---------------------------------------------------------------------------------------


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Start) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def test_a_comment_that_is_nearly_a_directive(scene: Scene, check: Check) -> None:
    """It stops a pending file. An applied file has already run with it and cannot change any more."""
    scene.write({"001_drop.sql": "/* entrypoint: phase = after */\nDROP TABLE IF EXISTS gone;"})
    environment = {"DATABASE_URL": scene.database.url}
    (told,) = [one for one in check(env=environment, code=65) if one["level"] == "error"]
    assert 'did you mean "-- entrypoint: phase = after"?' in told["message"]
    run = scene.migrate()
    assert run.wait() == 65, run.report()
    scene.start("baseline", "1", "--yes").ok()
    assert of_level(check(env=environment), "error") == []
    scene.write({"002_next.sql": "SELECT 1;"})
    scene.migrated()


def test_of_applied_files_only_faults_are_told(scene: Scene, check: Check) -> None:
    scene.write({"001_big.sql": "CREATE TABLE big (x bigint, y bigint);", **DROPS, "003_empty.sql": ""})
    none = check("--no-lint", env={"DATABASE_URL": scene.database.url})
    assert notes(none, "database") == ["no migrations are applied yet"]
    scene.migrated()
    scene.write({"004_drops.sql": "ALTER TABLE big DROP COLUMN y;", "005_empty.sql": ""})
    before = scene.database.contents()
    environment = {"DATABASE_URL": scene.database.url}
    found = check(env=environment)
    pending = ("migrations/004_drops.sql", 1, 17, "ban-drop-column")
    assert of_level(found, "warning") == [pending]
    assert [finding["file"] for finding in found if finding["rule"] == "empty"] == ["migrations/005_empty.sql"]
    assert notes(found, "database") == ["3 migrations are already applied; for those, only errors are shown"]

    everything = check("--all", env=environment)
    assert of_level(everything, "warning") == [WARNING, pending]
    assert len([finding for finding in everything if finding["rule"] == "empty"]) == 2
    assert notes(everything, "database") == []

    scene.write({"002_drops.sql": "SELEC 1;"})
    assert of_level(check(env=environment, code=65), "error") == [("migrations/002_drops.sql", 1, 1, "syntax")]
    assert scene.database.contents() == before


def test_a_database_that_cannot_be_reached_is_asked_once_and_then_everything_is_told(
    check: Check, migrations_dir: Path, tmp_path: Path
) -> None:
    write_migrations(migrations_dir, GOOD | DROPS)
    nobody = f"postgresql://a:geheim@{HOST}:{free_port()}/b"
    assert "after 1 attempt" in notes(check(env={"DATABASE_URL": nobody}), "database")[0]
    for address in (nobody, "postgresql://a:geh@eim@/b"):
        found = check(env={"DATABASE_URL": address})
        assert of_level(found, "warning") == [WARNING]
        [note] = notes(found, "database")
        assert note.startswith(
            "the database did not say what is applied, so every file was checked as if it were pending: "
        )
        assert "geh" not in note


def test_a_ledger_that_is_somebody_elses(scene: Scene, check: Check) -> None:
    scene.write(GOOD | DROPS)
    scene.database.execute("CREATE TABLE schema_migrations (version text)")
    found = check(env={"DATABASE_URL": scene.database.url})
    assert of_level(found, "warning") == [WARNING]
    assert "schema_migrations" in notes(found, "database")[0]


@pytest.mark.thorough
def test_with_names_or_for_everything_the_database_is_not_asked(scene: Scene, check: Check, proxy: Proxy) -> None:
    scene.write({"001_big.sql": "CREATE TABLE big (x bigint);", **DROPS})
    scene.migrated()
    environment = {"DATABASE_URL": scene.database.url_at(proxy.port)}
    for arguments in (["migrations/002_drops.sql"], ["--all"]):
        found = check(*arguments, env=environment)
        assert of_level(found, "warning") == [WARNING]
    assert proxy.connections == 0
    assert of_level(check(env=environment), "warning") == []
    assert proxy.connections == 1


# --- Files by name --------------------------------------------------------------------------------------


def test_only_these_files(check: Check, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, GOOD | DROPS | {"003_bad.sql": "SELEC 1;", "005_empty.sql": ""})
    assert check("migrations/001_good.sql") == []
    assert of_level(check("migrations/001_good.sql", "migrations/002_drops.sql"), "warning") == [WARNING]
    assert of_level(check(migrations_dir / "002_drops.sql"), "warning") == [WARNING]
    [note] = check("./migrations/../migrations/005_empty.sql")
    assert (note["file"], note["rule"]) == ("migrations/005_empty.sql", "empty")
    assert of_level(check("migrations/003_bad.sql", code=65), "error") == [("migrations/003_bad.sql", 1, 1, "syntax")]


def test_a_repeatable_file_by_its_name(check: Check, migrations_dir: Path, run_entrypoint: Start) -> None:
    (migrations_dir / "repeatable").mkdir()
    write_migrations(
        migrations_dir,
        GOOD
        | {"repeatable/v.sql": "CREATE VIEW v AS SELECT 1;", "repeatable/w.sql": "SELEC 1;", "002_bad.sql": "SELEC;"},
    )
    found = check("migrations/repeatable/v.sql")
    assert [(one["level"], one["file"], one["rule"]) for one in found] == [
        ("warning", "migrations/repeatable/v.sql", "not-repeatable")
    ]
    assert of_level(check("migrations/repeatable/w.sql", code=65), "error") == [
        ("migrations/repeatable/w.sql", 1, 1, "syntax")
    ]
    assert check("migrations/001_good.sql") == []
    both = run_entrypoint("check", "migrations/001_good.sql", "migrations/repeatable/v.sql").ok()
    assert both.stdout.endswith("1 migration and 1 repeatable file in migrations: no errors, 1 warning\n")


def test_what_is_no_migration_is_passed_by(check: Check, migrations_dir: Path) -> None:
    """`git diff` may name such files; the rest is still checked."""
    (migrations_dir / "archive").mkdir()
    write_migrations(migrations_dir, GOOD | {"README.md": "", ".x.sql": "", "archive/000_old.sql": "SELEC;"})
    names = ["migrations/README.md", "migrations/.x.sql", "migrations/archive/000_old.sql"]
    found = check("--strict", *names, "migrations/001_good.sql")
    assert [(one["level"], one["file"], one["rule"]) for one in found] == [
        ("note", name, "no-migration") for name in names
    ]


@pytest.mark.thorough
def test_numbers_are_compared_with_all_files(check: Check, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, GOOD | {"002_a.sql": "", "002_b.sql": "", "3_c.sql": ""})
    found = check("migrations/001_good.sql", code=65)
    assert of_level(found, "error") == [
        ("migrations/3_c.sql", None, None, "name"),
        ("migrations/002_a.sql", None, None, "number"),
    ]
    assert of_level(check("migrations/3_c.sql", code=65), "error") == of_level(found, "error")


@pytest.mark.parametrize("name", ["migrations/009_none.sql", "other/001_good.sql", "README.md", "migrations"])
def test_names_of_what_is_elsewhere(run_entrypoint: Start, migrations_dir: Path, tmp_path: Path, name: str) -> None:
    write_migrations(migrations_dir, GOOD)
    write_migrations(tmp_path / "other", GOOD)
    (tmp_path / "README.md").write_text("")
    run = run_entrypoint("check", name)
    assert run.wait() == 64
    assert repr(name) in only_error(run)["message"]
    assert ("Leave the argument out" in only_error(run)["remedy"]) is (name == "migrations")
    assert run.stdout == ""


def test_in_another_directory(run_entrypoint: Start, tmp_path: Path) -> None:
    """The most common mistake in a pipeline, which has neither an image nor a start."""
    run = run_entrypoint("check", directory=tmp_path)
    assert run.wait() == 78
    told = only_error(run)
    assert str(tmp_path) in told["message"]
    assert "MIGRATIONS_DIR=db/migrations entrypoint check" in told["remedy"]
    assert "image" not in told["remedy"]


# --- Rollbacks ------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_rollbacks_are_checked_and_not_linted(check: Check, migrations_dir: Path) -> None:
    """Nobody wants to find a syntax error during an emergency. That a down migration drops things is its purpose."""
    write_migrations(migrations_dir, GOOD)
    write_migrations(migrations_dir / "rollback", {"001_good.sql": "DROP TABLE good;", "7_x.sql": ""})
    assert of_level(check(code=65), "error") == [("migrations/rollback/7_x.sql", None, None, "name")]
    (migrations_dir / "rollback" / "7_x.sql").unlink()
    assert [finding["rule"] for finding in check("--strict")] == ["database"]
    write_migrations(migrations_dir / "rollback", {"001_good.sql": "DROP TABLE;"})
    place = ("migrations/rollback/001_good.sql", 1, 11, "syntax")
    assert of_level(check(code=65), "error") == [place]
    assert of_level(check("migrations/rollback/001_good.sql", code=65), "error") == [place]
    assert check("migrations/001_good.sql") == []


# --- Formats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "arguments", "code"),
    [(GOOD, (), 0), (GOOD | DROPS, (), 0), (GOOD | DROPS, ("--strict",), 65), (GOOD | BAD, (), 65)],
)
def test_every_format_has_the_same_exit_codes(
    run_entrypoint: Start, migrations_dir: Path, files: dict[str, str | bytes], arguments: tuple[str, ...], code: int
) -> None:
    write_migrations(migrations_dir, files)
    for style in ("text", "json", "github"):
        run = run_entrypoint("check", "--format", style, *arguments)
        assert run.wait() == code, run.report()


def test_for_github(run_entrypoint: Start, migrations_dir: Path, tmp_path: Path) -> None:
    write_migrations(migrations_dir, GOOD | DROPS | {"a,b:100%\n.sql": "", "003_bad.sql": "SELECT '%' 5%% ,: FROM;"})
    # The path is relative to the repository, however the directory was given.
    run = run_entrypoint("check", "--format", "github", env={"MIGRATIONS_DIR": str(migrations_dir)})
    assert run.wait() == 65
    lines = run.stdout.splitlines()
    assert lines[0] == (
        "::error file=migrations/a%2Cb%3A100%25%0A.sql,title=name::"
        "must be NNN_description.sql, for example NNN_a_b_100.sql"
    )
    assert (
        "::warning file=migrations/002_drops.sql,line=2,col=17,title=ban-drop-column::Dropping a column" in run.stdout
    )
    assert any(
        re.match(r"::error file=migrations/003_bad\.sql,line=1,col=\d+,title=syntax::syntax error", x) for x in lines
    )
    assert [line for line in lines if not re.match(r"::(error|warning|notice) \S+::", line)] == []


# --- pre-commit -----------------------------------------------------------------------------------------


def test_the_hook_for_pre_commit(run_entrypoint: Start, migrations_dir: Path) -> None:
    """Check its keys without a YAML parser: each is on its own line."""
    text = (ROOT / ".pre-commit-hooks.yaml").read_text()
    hook = dict(re.findall(r"^(?:- |  )(\w+): (.*)$", text, re.MULTILINE))
    assert hook["id"] == "entrypoint-check"
    assert hook["language"] == "python"
    program, *arguments = hook["entry"].split()
    assert program == "entrypoint"
    names = ["migrations/001_good.sql", "migrations/002_drops.sql", "migrations/rollback/002_drops.sql"]
    names.append("migrations/repeatable/v.sql")
    assert all(re.search(hook["files"], name) for name in names)
    assert not re.search(hook["files"], "migrations/README.md")
    (migrations_dir / "repeatable").mkdir()
    write_migrations(migrations_dir, GOOD | DROPS | {"repeatable/v.sql": "CREATE OR REPLACE VIEW v AS SELECT 1;"})
    write_migrations(migrations_dir / "rollback", {"002_drops.sql": "ALTER TABLE big ADD COLUMN x text;"})
    run = run_entrypoint(*arguments, *names).ok()
    assert run.stdout.endswith("2 migrations, 1 repeatable file and 1 rollback in migrations: no errors, 1 warning\n")


def test_the_documentation_has_every_rule_that_is_not_reported() -> None:
    page = (ROOT / "docs" / "commands" / "check.md").read_text()
    assert [rule for rule in [*NOT_REPORTED, "prefer-robust-stmts", "syntax-error"] if f"`{rule}`" not in page] == []


def test_it_warns_of_what_repack_does_to_running_transactions(check: Check, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {**GOOD, "002_x.sql": "SELECT 1;\nREPACK (CONCURRENTLY) big;\n"})
    found = check()
    warnings = [finding for finding in found if finding["level"] == "warning"]
    assert [(one["line"], one["rule"]) for one in warnings] == [(2, "repack-concurrently")], found
    assert "snapshot" in warnings[0]["message"]
    assert not [finding for finding in found if finding["level"] == "error"]


def test_two_files_of_one_origin(run_entrypoint: Callable[..., Run], migrations_dir: Path) -> None:
    """With the same origin in both, `adopt` could not tell which of them is applied."""
    line = "-- entrypoint: origin = goose 7\nSELECT 1;\n"
    write_migrations(migrations_dir, {"001_a.sql": line, "002_b.sql": line})
    run = run_entrypoint("check", "--no-lint")
    assert run.wait() == 65, run.report()
    assert "002_b.sql" in run.stdout
    assert "has the same origin as 001_a.sql" in run.stdout
