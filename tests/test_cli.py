"""The commands, from outside: help, usage, settings, exit codes and output."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from demo.postgres import HOST, free_port
from entrypoint import __version__
from kit.migrations import non_idempotent, write_migrations
from kit.processes import PROGRAM
from kit.terminal import Terminal
from scene import load_legacy, lock_key, only_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

    Start = Callable[..., Run]

COMMANDS = (
    "run",
    "migrate",
    "status",
    "version",
    "wait",
    "check",
    "new",
    "import",
    "adopt",
    "backup",
    "rollback",
    "baseline",
    "repair",
    "unlock",
    "help",
    "completion",
)


def error_of(run: Run, code: int) -> dict[str, Any]:
    """Return the only error in the log of a command, which must have exited with `code`."""
    assert run.wait() == code, run.report()
    assert "Traceback" not in run.stderr
    (record,) = [record for record in run.logs() if record["level"] == "error"]
    return record


# --- Help and usage -------------------------------------------------------------------------------------


@pytest.mark.sampled(4)
@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(run_entrypoint: Start, command: str) -> None:
    run = run_entrypoint(command, "--help").ok()
    assert run.stdout.startswith("usage: ")
    example = run.stdout.partition("example:\n")[2]
    assert re.search(rf"\bentrypoint {command}\b", example), run.report()
    assert run.stderr == ""
    assert run_entrypoint(command, "-h").ok().stdout == run.stdout


def test_help_lists_commands_and_exit_codes(run_entrypoint: Start) -> None:
    text = run_entrypoint("--help").ok().stdout
    for command in COMMANDS:
        assert re.search(rf"^    {command} ", text, re.MULTILINE)
    for code in (64, 65, 69, 70, 75, 78, 126, 127):
        assert str(code) in text
    assert "DATABASE_URL" in text


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_programs_own_version(run_entrypoint: Start, option: str) -> None:
    assert run_entrypoint(option).ok().stdout == f"entrypoint {__version__}\n"


def test_help_explains_what_help_does(run_entrypoint: Start) -> None:
    assert run_entrypoint("help").ok().stdout == run_entrypoint("--help").ok().stdout
    assert run_entrypoint("help", "status").ok().stdout == run_entrypoint("status", "--help").ok().stdout
    everything = run_entrypoint("help", "all").ok().stdout
    assert run_entrypoint("help", "env").ok().stdout in everything
    for command in COMMANDS:
        assert f"\n\nentrypoint {command}\n\nusage: " in everything


def test_what_was_probably_meant_is_named(run_entrypoint: Start) -> None:
    for words, meant in (
        (("stats",), "Did you mean status?"),
        (("migrate", "--dryrun"), "Did you mean --dry-run?"),
        (("migrate", "--dryrun=1"), "Did you mean --dry-run?"),
        (("--verson",), "Did you mean --version?"),
        (("help", "migrat"), "Did you mean migrate?"),
        (("help", "DATABASE_ULR"), "Did you mean DATABASE_URL?"),
        (("help", "ENV"), "Did you mean env?"),
        (("wait", "--for", "db"), "Did you mean database?"),
        (("check", "--format", "jsn"), "Did you mean json?"),
        (("import", "--from", "dbmat", "."), "Did you mean dbmate?"),
        (("adopt", "--from", "dbmat"), "Did you mean dbmate?"),
        # These suggest what other tools call the command, not the nearest spelling.
        (("create", "users"), "Did you mean new?"),
        (("up",), "Did you mean migrate?"),
        (("undo",), "Did you mean rollback?"),
        (("info",), "Did you mean status?"),
    ):
        assert error_of(run_entrypoint(*words), 64)["message"].endswith(meant)
    told = error_of(run_entrypoint("repair", "--all"), 64)
    assert told["message"] == "entrypoint repair has no option --all", "--failed has only its hyphens and two letters"
    # An application without a command is the most common mistake.
    told = error_of(run_entrypoint("node", "server.js"), 64)
    assert "Unknown command 'node'" in told["message"]
    assert "Did you mean" not in told["message"]
    assert "entrypoint run -- COMMAND" in told["remedy"]


def test_options_are_not_abbreviated(run_entrypoint: Start) -> None:
    """An abbreviation that works by accident breaks when a new option starts the same way."""
    assert error_of(run_entrypoint("status", "--js"), 64)["message"] == (
        "entrypoint status has no option --js. Did you mean --json?"
    )


def test_what_is_wrong_is_named_and_not_what_is_beside_it(run_entrypoint: Start) -> None:
    for words, message, remedy in (
        (
            ("init",),
            "Unknown command 'init'; there is nothing to initialize",
            "`entrypoint migrate` creates the tables it needs",
        ),
        (("--to", "3"), "--to goes after the command, not before it", "entrypoint COMMAND --to"),
        (
            ("--json", "status"),
            "--json goes after the command, not before it",
            "entrypoint status --json",
        ),
        (("rollback", "--steps", "1"), "entrypoint rollback has no option --steps", "--to N"),
        (("version", "--json"), "entrypoint version has no option --json", "entrypoint version"),
        (("status", "--json=yes"), "Argument --json: it takes no value", "--json"),
        (("status", "--", "--json"), "entrypoint status does not take the argument '--json'", "--json"),
    ):
        told = error_of(run_entrypoint(*words), 64)
        assert told["message"].startswith(message)
        assert remedy in told["remedy"]
    assert not error_of(run_entrypoint("version", "--json"), 64)["message"].endswith("?")


def test_an_option_is_given_once(run_entrypoint: Start) -> None:
    for arguments, says in (
        (("migrate", "--to=1", "--to", "2"), "--to is given twice"),
        (("check", "--lint", "--no-lint"), "not allowed with argument --lint"),
        (("check", "--json", "--format", "sarif"), "not allowed with argument --json"),
    ):
        run = run_entrypoint(*arguments)
        assert run.wait() == 64
        assert says in only_error(run)["message"], run.report()
    # `--repeatable` may be given more than once.
    run = run_entrypoint("migrate", "--repeatable", "a", "--repeatable", "b", "--to", "1")
    assert run.wait() == 64
    assert "--repeatable cannot go with" in only_error(run)["message"]


def test_a_misspelt_variable_is_named_unless_a_start_goes_well(
    run_entrypoint: Start, database: Database, migrations_dir: Path
) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();"})
    environment = {"DATABASE_URL": database.url, "MIGRATION_DIR": "elsewhere"}
    for command in ("status", "check"):
        (told,) = run_entrypoint(command, env=environment).ok().logs("configuration.misspelt")
        assert (
            told["message"]
            == "MIGRATION_DIR is set, but this program has no such variable. Did you mean MIGRATIONS_DIR?"
        )
    for arguments in (("run", "--", "true"), ("migrate",)):
        assert not run_entrypoint(*arguments, env=environment).ok().logs("configuration.misspelt")
    write_migrations(migrations_dir, {"002_b.sql": "SELECT no_such;"})
    assert run_entrypoint("run", "--", "true", env=environment).ok().logs("configuration.misspelt")
    run = run_entrypoint("migrate", env=environment)
    assert run.wait() == 70
    assert run.logs("configuration.misspelt")


def test_the_end_of_the_options_is_no_option(run_entrypoint: Start) -> None:
    assert run_entrypoint("--", "version", "--help").ok().stdout == run_entrypoint("help", "version", "--").ok().stdout
    for words in (("--no-color", "run", "--"), ("run", "--no-color", "--"), ("run", "--no-color")):
        assert run_entrypoint(*words, "echo", "it", env={"AUTO_MIGRATE": "false"}).ok().stdout == "it\n"


def test_help_on_a_variable(run_entrypoint: Start) -> None:
    first, *_ = run_entrypoint("help", "MIGRATION_ON_FAILURE").ok().stdout.splitlines()
    assert first == "MIGRATION_ON_FAILURE  start (start the application anyway) or exit (default: start)"


@pytest.mark.sampled(4)
@pytest.mark.parametrize("topic", [*COMMANDS, "env", "MIGRATION_DATABASE_URL", "serve"])
def test_help_fits_the_terminal(run_entrypoint: Start, topic: str) -> None:
    """Only what is to be typed is never broken."""
    texts = {}
    for columns in (60, 80, 120):
        texts[columns] = run_entrypoint("help", topic, env={"COLUMNS": str(columns)}).ok().stdout
        long = [line for line in texts[columns].splitlines() if len(line) > columns]
        assert all("entrypoint " in line and line.startswith("  ") for line in long), long
    for code in re.findall(r"`[^`]+`", texts[120]):
        assert all(code in text for text in texts.values()), "what is quoted as code stands on one line"
    words = [re.sub(r"^usage:.*?\n\n", "", text, flags=re.DOTALL).split() for text in texts.values()]
    assert all(sorted(one) == sorted(words[0]) for one in words), "nothing is left out"


def test_a_variables_description_stands_on_its_line_in_a_pipe(run_entrypoint: Start) -> None:
    for line in run_entrypoint("help", "env").ok().stdout.splitlines():
        assert re.match(r"[A-Z]|  [A-Z_]+ {2,}\S|$", line), line


def test_a_shell_may_be_called_by_its_path(run_entrypoint: Start) -> None:
    assert run_entrypoint("completion", "/bin/bash").ok().stdout == run_entrypoint("completion", "bash").ok().stdout


# --- Output that cannot be written ----------------------------------------------------------------------


@pytest.mark.parametrize("where", [">&-", pytest.param(">/dev/full", marks=pytest.mark.thorough)])
def test_output_that_cannot_be_written_is_told(
    run_program: Start, database: Database, migrations_dir: Path, where: str
) -> None:
    """Every command reports it, and so do help and version, which argparse would print without checking."""
    environment = {"DATABASE_URL": database.url}
    for words in (
        ("help", "all"),
        ("help", "env"),
        ("--help",),
        ("-V",),
        ("check", "--help"),
        ("completion", "bash"),
        ("status",),
        ("status", "--json"),
        ("migrate", "--rehearse"),
        ("unlock",),
    ):
        run = run_program(["sh", "-c", f'exec "$@" {where}', "sh", *PROGRAM, *words], env=environment)
        told = error_of(run, 70)
        assert told["message"].startswith("The output cannot be written: ")
        assert "run it again" in told["remedy"]
    run = run_program(["sh", "-c", f'exec "$@" {where}', "sh", *PROGRAM, "new", "It"], env=environment)
    told = error_of(run, 70)
    assert told["message"].endswith(". But migrations/001_it.sql has been written")
    assert "no need to run it again" in told["remedy"]


# --- On a terminal --------------------------------------------------------------------------------------


def test_alone_on_a_terminal_it_shows_the_help(run_entrypoint: Start) -> None:
    with Terminal() as terminal:
        run = run_entrypoint(env={"TERM": "xterm"}, **terminal.options)
        assert run.wait() == 64
        assert terminal.text == run_entrypoint("--help").ok().stdout


def test_a_wrong_command_line_is_told_to_a_person(run_entrypoint: Start) -> None:
    with Terminal() as terminal:
        assert run_entrypoint("stats", env={"TERM": "dumb"}, **terminal.options).wait() == 64
        first, second = terminal.text.splitlines()
    assert first == "error: Unknown command 'stats'. Did you mean status?"
    assert second.startswith("  Fix: `entrypoint help` lists the commands.")


@pytest.mark.parametrize(
    ("env", "words", "coloured"),
    [
        ({"TERM": "xterm"}, (), True),
        ({"TERM": "dumb"}, (), False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, (), False),
        ({"TERM": "xterm", "NO_COLOR": ""}, (), True),
        ({"TERM": "xterm"}, ("--no-color",), False),
        ({"TERM": "dumb", "CLICOLOR_FORCE": "1"}, (), True),
        ({"TERM": "dumb", "CLICOLOR_FORCE": "0"}, (), False),
        ({"TERM": "xterm", "CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, (), False),
    ],
)
def test_colours_on_a_terminal(
    run_entrypoint: Start, migrations_dir: Path, env: dict[str, str], words: tuple[str, ...], *, coloured: bool
) -> None:
    """The log and the table follow the same rule, wherever the option stands."""
    address = {"DATABASE_URL": f"postgresql://nobody@{HOST}:1/none", "DB_CONNECT_ATTEMPTS": "1"}
    for line in (("status", *words), (*words, "status")):
        with Terminal() as terminal:
            assert run_entrypoint(*line, env={**address, **env}, **terminal.options).wait() == 69
            assert ("\033[" in terminal.text) is coloured, terminal.text


def test_colours_where_there_is_no_terminal(run_entrypoint: Start, database: Database, three: dict[str, str]) -> None:
    assert three
    env = {"DATABASE_URL": database.url}
    assert "\033[" not in run_entrypoint("status", env=env).ok().stdout
    forced = run_entrypoint(
        "status", env={**env, "CLICOLOR_FORCE": "1", "LOG_FORMAT": "text", "LOG_LEVEL": "debug"}
    ).ok()
    assert "\033[33mpending" in forced.stdout
    assert "\033[2m" in forced.stderr


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "No command given"),
        (("no-such-command",), "no-such-command"),
        (("--no-such-option",), "--no-such-option"),
        (("run",), "command"),
        (("run", "--"), "command"),
        (("run", "--dry-run", "--", "true"), "--dry-run"),
        (("run", "-x"), "-x"),
        (("migrate", "--to"), "--to"),
        (("migrate", "--to", "two"), "two"),
        (("migrate", "--to", "-1"), "--to"),
        (("migrate", "--to", "1.5"), "1.5"),
        (("migrate", "now"), "now"),
        (("status", "--yaml"), "--yaml"),
        (("version", "1"), "1"),
        (("check", "--some"), "--some"),
        (("check", "--format", "xml"), "xml"),
        (("new",), "NAME"),
        (("backup", "--keep", "0"), "--keep"),
        (("backup", "--keep", "few"), "few"),
        (("backup",), "--dir"),
    ],
)
def test_usage(run_entrypoint: Start, migrations_dir: Path, arguments: tuple[str, ...], says: str) -> None:
    run = run_entrypoint(*arguments)
    record = error_of(run, 64)
    assert says in record["message"]
    assert "entrypoint" in record["remedy"]
    assert run.stdout == ""


def test_run_takes_the_applications_options_for_the_applications(run_entrypoint: Start) -> None:
    environment = {"AUTO_MIGRATE": "false"}
    for arguments in (("run", "--", "echo", "--help", "--"), ("run", "echo", "--help", "--")):
        assert run_entrypoint(*arguments, env=environment).ok().stdout == "--help --\n"


# --- Settings -------------------------------------------------------------------------------------------

BAD_SETTINGS = {
    "AUTO_MIGRATE": ("maybe", "true or false"),
    "MIGRATION_TIMEOUT_MS": ("5s", "300000"),
    "MIGRATION_LOCK_TIMEOUT_MS": ("-1", "30000"),
    "MIGRATION_LOCK_STALE_MS": ("1e6", "600000"),
    "MIGRATION_DDL_LOCK_TIMEOUT_MS": ("0", "5000"),
    "MIGRATION_ON_FAILURE": ("ignore", "start, exit"),
    "DB_CONNECT_ATTEMPTS": ("five", "5"),
    "DB_CONNECT_BACKOFF_MS": ("1.5", "1000"),
    "DB_CONNECT_TIMEOUT_MS": ("99999999999", "5000"),
    "DATABASE_URL_FILE": ("/no/such/file", "cannot be read"),
    "LOG_LEVEL": ("loud", "debug"),
    "LOG_FORMAT": ("xml", "json"),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", sorted(set(BAD_SETTINGS) - {"AUTO_MIGRATE"}))
def test_a_bad_setting_is_named_with_what_would_be_right(
    run_entrypoint: Start, migrations_dir: Path, name: str
) -> None:
    value, right = BAD_SETTINGS[name]
    run = run_entrypoint("migrate", env={name: value})
    record = error_of(run, 78)
    for part in (name, repr(value), right):
        assert part in record["message"]


def test_one_fault_is_told_once(run_entrypoint: Start) -> None:
    run = run_entrypoint("status", env={"AUTO_MIGRATE": "flase", "MIGRATION_ON_FAILURE": "stop", "LOG_FORMAT": "text"})
    assert run.wait() == 78
    assert run.stderr.count("MIGRATION_ON_FAILURE is 'stop'") == 1


def test_all_bad_settings_are_listed_together(run_entrypoint: Start, migrations_dir: Path) -> None:
    """Commands ignore `AUTO_MIGRATE`; all other errors are reported at once."""
    environment = {name: value for name, (value, _) in BAD_SETTINGS.items() if name != "AUTO_MIGRATE"}
    for command in (("migrate",), ("status",), ("version",)):
        record = error_of(run_entrypoint(*command, env=environment), 78)
        faults = "\n".join(record["faults"])
        assert [name for name in environment if f"{name} is " not in faults] == []


def test_run_lists_all_bad_settings_and_starts(run_entrypoint: Start, migrations_dir: Path) -> None:
    environment = {name: value for name, (value, _) in BAD_SETTINGS.items()}
    run = run_entrypoint(
        "run", "--", "sh", "-c", 'echo "$ENTRYPOINT_OUTCOME"; echo "$ENTRYPOINT_ERROR"', env=environment
    )
    run.ok()
    outcome, error = run.stdout.splitlines()
    assert outcome == "failed"
    assert "settings are invalid" in error
    said = run.stderr
    assert [name for name in environment if f"{name} is " not in said] == []


def test_run_exits_on_bad_settings_if_told_to(run_entrypoint: Start, migrations_dir: Path) -> None:
    environment = {"MIGRATION_ON_FAILURE": "exit", "DB_CONNECT_ATTEMPTS": "five"}
    run = run_entrypoint("run", "--", "echo", "started", env=environment)
    error_of(run, 78)
    assert run.stdout == ""


@pytest.mark.parametrize("name", ["LOG_LEVEL", "LOG_FORMAT"])
def test_run_exits_on_bad_log_settings_if_told_to(
    run_entrypoint: Start, database: Database, migrations_dir: Path, name: str
) -> None:
    """A bad value counts, whichever variable it is in."""
    environment = {"MIGRATION_ON_FAILURE": "exit", name: BAD_SETTINGS[name][0], "DATABASE_URL": database.url}
    run = run_entrypoint("run", "--", "echo", "started", env=environment)
    assert run.wait() == 78, run.report()
    assert run.stdout == ""


def test_empty_variables_count_as_unset(run_entrypoint: Start, database: Database, migrations_dir: Path) -> None:
    environment = dict.fromkeys(BAD_SETTINGS, "") | {"DATABASE_URL": database.url, "MIGRATION_DATABASE_URL": " "}
    run = run_entrypoint("run", "--", "echo", "started", env=environment).ok()
    assert run.stdout == "started\n"
    assert run.logs("schema.up_to_date")


def test_both_an_address_and_a_file_of_it(run_entrypoint: Start, migrations_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://127.0.0.1/a")
    environment = {"DATABASE_URL": "postgresql://127.0.0.1/b", "DATABASE_URL_FILE": "url"}
    record = error_of(run_entrypoint("status", env=environment), 78)
    assert "DATABASE_URL and DATABASE_URL_FILE are both set" in record["message"]


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "empty"), (b" \n", "empty"), (b"\xff\xfe", "UTF-8")], ids=["empty", "blank", "binary"]
)
def test_files_that_hold_no_address(
    run_entrypoint: Start, migrations_dir: Path, tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "url").write_bytes(content)
    record = error_of(run_entrypoint("status", env={"DATABASE_URL_FILE": "url"}), 78)
    assert "DATABASE_URL_FILE" in record["message"]
    assert says in record["message"]


def test_auto_migrate_false_looks_at_nothing_else(run_entrypoint: Start) -> None:
    environment = {name: value for name, (value, _) in BAD_SETTINGS.items() if not name.startswith("LOG_")}
    environment |= {"AUTO_MIGRATE": "False", "MIGRATION_ON_FAILURE": "exit"}
    run = run_entrypoint("run", "--", "sh", "-c", 'echo "$ENTRYPOINT_OUTCOME"', env=environment).ok()
    assert run.stdout == "disabled\n"


def test_a_missing_directory_of_migrations(run_entrypoint: Start, database: Database) -> None:
    record = error_of(run_entrypoint("migrate", env={"DATABASE_URL": database.url, "MIGRATIONS_DIR": "nowhere"}), 78)
    assert "'nowhere'" in record["message"]
    assert "MIGRATIONS_DIR" in record["remedy"]


# --- migrate --------------------------------------------------------------------------------------------


@pytest.fixture
def three(database: Database, migrations_dir: Path) -> dict[str, str]:
    """Return the environment for three migrations and an empty database."""
    write_migrations(migrations_dir, non_idempotent(3))
    return {"DATABASE_URL": database.url}


def applied(database: Database) -> list[int]:
    rows = database.rows("SELECT migration_number FROM schema_migrations WHERE status = 'completed' ORDER BY 1")
    return [number for (number,) in rows]


def test_migrate(run_entrypoint: Start, database: Database, three: dict[str, str]) -> None:
    run = run_entrypoint("migrate", env={**three, "AUTO_MIGRATE": "false", "APP_VERSION": "1.2.3"}).ok()
    assert run.stdout == ""
    assert applied(database) == [1, 2, 3]
    assert database.one("SELECT DISTINCT application_version FROM schema_migrations") == "1.2.3"
    again = run_entrypoint("migrate", env=three).ok()
    assert again.logs("schema.up_to_date")


def test_migrate_up_to_a_number(run_entrypoint: Start, database: Database, three: dict[str, str]) -> None:
    run_entrypoint("migrate", "--to", "2", env=three).ok()
    assert applied(database) == [1, 2]
    run_entrypoint("migrate", "--to", "001", env=three).ok()
    assert applied(database) == [1, 2]
    record = error_of(run_entrypoint("migrate", "--to", "9", env=three), 64)
    assert "no migration number 9" in record["message"]
    assert "1 to 3" in record["message"]
    assert applied(database) == [1, 2]
    run_entrypoint("migrate", "--to", "3", env=three).ok()
    assert applied(database) == [1, 2, 3]


@pytest.mark.thorough
def test_a_dry_run_changes_nothing(run_entrypoint: Start, database: Database, three: dict[str, str]) -> None:
    before = database.contents()
    run = run_entrypoint("migrate", "--dry-run", env=three).ok()
    assert re.findall(r"\d{3}_step\.sql", run.stdout) == ["001_step.sql", "002_step.sql", "003_step.sql"]
    limited = run_entrypoint("migrate", "--dry-run", "--to", "2", env=three).ok()
    assert re.findall(r"\d{3}_step\.sql", limited.stdout) == ["001_step.sql", "002_step.sql"]
    assert database.contents() == before
    run_entrypoint("migrate", "--to", "1", env=three).ok()
    before = database.contents()
    run = run_entrypoint("migrate", "--dry-run", env=three).ok()
    assert re.findall(r"\d{3}_step\.sql", run.stdout) == ["002_step.sql", "003_step.sql"]
    assert database.contents() == before
    run_entrypoint("migrate", env=three).ok()
    assert run_entrypoint("migrate", "--dry-run", env=three).ok().stdout.partition("\n")[2] == "Nothing is pending.\n"


@pytest.mark.thorough
def test_a_dry_run_leaves_an_earlier_systems_ledger_alone(
    run_entrypoint: Start, database: Database, three: dict[str, str]
) -> None:
    load_legacy(database)
    before = database.contents()
    for command in (("migrate", "--dry-run"), ("status",), ("status", "--json"), ("version",)):
        run_entrypoint(*command, env=three).wait()
    assert database.contents() == before


def test_a_migration_that_fails(run_entrypoint: Start, database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_good.sql": "CREATE TABLE good ();", "002_bad.sql": "SELECT nonsense;"})
    environment = {"DATABASE_URL": database.url}
    record = error_of(run_entrypoint("migrate", env=environment), 70)
    assert record["file"] == "002_bad.sql"
    assert applied(database) == [1]
    error_of(run_entrypoint("migrate", env=environment), 70)
    error_of(run_entrypoint("migrate", "--dry-run", env=environment), 70)
    exiting = run_entrypoint("run", "--", "echo", "no", env={**environment, "MIGRATION_ON_FAILURE": "exit"})
    error_of(exiting, 70)
    assert exiting.stdout == ""
    starting = run_entrypoint("run", "--", "echo", "yes", env=environment).ok()
    assert starting.stdout == "yes\n"


def test_bad_files(run_entrypoint: Start, database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "", "001_b.sql": "", "2_c.sql": ""})
    environment = {"DATABASE_URL": database.url}
    for command in (("migrate",), ("migrate", "--dry-run"), ("status",), ("version",)):
        record = error_of(run_entrypoint(*command, env=environment), 65)
        assert len(record["faults"]) == 2
    exiting = run_entrypoint("run", "--", "echo", "no", env={**environment, "MIGRATION_ON_FAILURE": "exit"})
    error_of(exiting, 65)
    assert run_entrypoint("run", "--", "echo", "yes", env=environment).ok().stdout == "yes\n"
    assert not database.exists("schema_migrations")


def test_a_lock_that_is_not_free_in_time(run_entrypoint: Start, database: Database, three: dict[str, str]) -> None:
    with database.connect() as holder:
        holder.execute(f"SELECT pg_advisory_lock({lock_key()})")
        record = error_of(run_entrypoint("migrate", env={**three, "MIGRATION_LOCK_TIMEOUT_MS": "300"}), 75)
    assert "Failed to acquire migration lock after 300ms" in record["message"]


# --- status and version ---------------------------------------------------------------------------------

KEYS: dict[str, type | tuple[type, ...]] = {
    "currentVersion": int,
    "latestVersion": int,
    "appliedMigrations": int,
    "pendingMigrations": int,
    "status": str,
    "lastMigration": (dict, type(None)),
}


def status_of(run_entrypoint: Start, env: dict[str, str], code: int = 0) -> dict[str, Any]:
    run = run_entrypoint("status", "--json", env=env)
    assert run.wait() == code, run.report()
    answer = json.loads(run.stdout)
    assert list(answer)[: len(KEYS)] == list(KEYS)
    for name, kind in KEYS.items():
        assert isinstance(answer[name], kind), name
    assert answer["status"] in {"up_to_date", "pending", "error"}
    last = answer["lastMigration"]
    if last is not None:
        assert list(last)[:3] == ["number", "filename", "appliedAt"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", last["appliedAt"])
    assert isinstance(answer, dict)
    return answer


def numbers(answer: dict[str, Any]) -> tuple[int, int, int, int, str]:
    current, latest, done, pending, status, _ = (answer[name] for name in KEYS)
    return current, latest, done, pending, status


def test_status(run_entrypoint: Start, database: Database, three: dict[str, str]) -> None:
    answer = status_of(run_entrypoint, three)
    assert numbers(answer) == (0, 3, 0, 3, "pending")
    assert answer["lastMigration"] is None
    assert run_entrypoint("version", env=three).ok().stdout == "0\n"
    assert not database.exists("schema_migrations"), "looking changes nothing"

    run_entrypoint("migrate", "--to", "2", env=three).ok()
    answer = status_of(run_entrypoint, three | {"PGTZ": "Asia/Tokyo"})
    assert numbers(answer) == (2, 3, 2, 1, "pending")
    at = database.one("SELECT applied_at AT TIME ZONE 'UTC' FROM schema_migrations WHERE migration_number = 2")
    assert answer["lastMigration"] == {
        "number": 2,
        "filename": "002_step.sql",
        "appliedAt": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    assert [line["state"] for line in answer["migrations"]] == ["applied", "applied", "pending"]
    table = run_entrypoint("status", env=three).ok().stdout
    assert "1 migration pending" in table
    assert re.search(r"^003 +003_step\.sql +pending$", table, re.MULTILINE)
    assert "Lock: free." in table
    assert run_entrypoint("version", env=three).ok().stdout == "2\n"

    run_entrypoint("migrate", env=three).ok()
    assert numbers(status_of(run_entrypoint, three)) == (3, 3, 3, 0, "up_to_date")
    assert "Up to date at version 3." in run_entrypoint("status", env=three).ok().stdout


@pytest.mark.thorough
def test_status_of_a_failure(run_entrypoint: Start, database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_good.sql": "CREATE TABLE good ();", "002_bad.sql": "SELECT nonsense;"})
    environment = {"DATABASE_URL": database.url}
    run_entrypoint("migrate", env=environment).wait()
    answer = status_of(run_entrypoint, environment)
    assert numbers(answer) == (1, 2, 1, 1, "error")
    assert answer["lastMigration"]["number"] == 1
    assert [line["state"] for line in answer["migrations"]] == ["applied", "failed"]
    assert "nonsense" in answer["migrations"][1]["error"]
    table = run_entrypoint("status", env=environment).ok().stdout
    assert "; 1 failed" in table
    assert re.search(r"^002 +002_bad\.sql +failed\b", table, re.MULTILINE)
    assert "LINE 1: SELECT nonsense;" in table


@pytest.mark.thorough
def test_status_of_what_was_changed_and_what_is_ahead(
    run_entrypoint: Start, three: dict[str, str], migrations_dir: Path
) -> None:
    run_entrypoint("migrate", env=three).ok()
    (migrations_dir / "002_step.sql").write_text("SELECT 'another text';")
    (migrations_dir / "003_step.sql").unlink()
    answer = status_of(run_entrypoint, three)
    assert numbers(answer) == (3, 2, 3, 0, "up_to_date")
    assert [line["state"] for line in answer["migrations"]] == ["applied", "changed", "ahead"]


def test_status_of_an_earlier_systems_ledger(run_entrypoint: Start, database: Database, migrations_dir: Path) -> None:
    """It is read as it is, before any upgrade: times without a zone are in the server's zone."""
    load_legacy(database, rows=False)
    database.execute(
        "INSERT INTO schema_migrations (migration_number, filename, applied_at)"
        " VALUES (1, '001_step.sql', '2024-03-01 12:30:00')"
    )
    write_migrations(migrations_dir, non_idempotent(2))
    answer = status_of(run_entrypoint, {"DATABASE_URL": database.url})
    assert numbers(answer) == (1, 2, 1, 1, "pending")
    assert answer["lastMigration"] == {"number": 1, "filename": "001_step.sql", "appliedAt": "2024-03-01T12:30:00Z"}


@pytest.mark.thorough
def test_status_while_somebody_migrates(run_entrypoint: Start, database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_wait.sql": "SELECT pg_advisory_lock(1); CREATE TABLE done ();"})
    environment = {"DATABASE_URL": database.url, "MIGRATION_DDL_LOCK_TIMEOUT_MS": "20000"}
    with database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(1)")
        working = run_entrypoint("migrate", env=environment)
        working.until("lock.acquired")
        answer = status_of(run_entrypoint, environment)
        assert numbers(answer) == (0, 1, 0, 1, "pending")
        assert answer["lock"]["held"] is True
        assert answer["lock"]["processId"] == working.pid
        assert f"process {working.pid}" in run_entrypoint("status", env=environment).ok().stdout
    working.ok()
    assert status_of(run_entrypoint, environment)["lock"]["held"] is False


@pytest.mark.thorough
def test_status_of_a_database_that_cannot_be_reached(run_entrypoint: Start, migrations_dir: Path) -> None:
    environment = {"DATABASE_URL": f"postgresql://a@{HOST}:{free_port()}/b", "DB_CONNECT_ATTEMPTS": "1"}
    answer = status_of(run_entrypoint, environment, 69)
    assert answer["status"] == "error"
    assert "Database connection failed after 1 attempt" in answer["error"]
    run = run_entrypoint("status", env=environment)
    assert run.wait() == 69
    assert run.stdout == ""


def test_status_with_bad_settings_or_files(run_entrypoint: Start, migrations_dir: Path) -> None:
    answer = status_of(run_entrypoint, {"DB_CONNECT_ATTEMPTS": "five"}, 78)
    assert "DB_CONNECT_ATTEMPTS" in answer["error"]
    answer = status_of(run_entrypoint, {"LOG_LEVEL": "loud"}, 78)
    assert "LOG_LEVEL" in answer["error"]
    write_migrations(migrations_dir, {"1_bad.sql": ""})
    assert "1_bad.sql" in status_of(run_entrypoint, {}, 65)["error"]


@pytest.mark.parametrize("arguments", [("status", "--json"), ("status",), ("version",), ("--help",)])
def test_a_reader_that_has_gone(run_entrypoint: Start, three: dict[str, str], arguments: tuple[str, ...]) -> None:
    """As in `entrypoint status | head -1`: no traceback, and nothing that looks like one."""
    reading, writing = os.pipe()
    os.close(reading)
    run = run_entrypoint(*arguments, env=three, stdout=writing)
    os.close(writing)
    run.wait()
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
    assert not [record for record in run.logs() if record["event"] == "internal_error"]


@pytest.mark.parametrize("words", [("run", "--", "true"), ("status",)], ids=lambda words: words[0])
def test_a_thread_that_is_not_to_be_had_is_a_limit_and_no_mistake(
    run_program: Start, database: Database, migrations_dir: Path, words: tuple[str, ...]
) -> None:
    """A process limit or an old seccomp profile has this effect; here, there is no room for a thread's stack."""
    write_migrations(migrations_dir, {"001_good.sql": "CREATE TABLE good ();"})
    little = 'ulimit -s 4000000 -v 3000000 && exec "$@"'
    run = run_program(["bash", "-c", little, "bash", *PROGRAM, *words], env={"DATABASE_URL": database.url})
    assert run.wait() == (0 if words[0] == "run" else 70), run.report()
    told = run.stderr + run.stdout
    assert "refused to start a thread" in told
    assert "clone3" in told
    assert "bug in pg-entrypoint" not in told
