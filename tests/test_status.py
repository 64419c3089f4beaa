"""`status` for people and for scripts: the table on a terminal and in a pipe, the lock's line, the exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from demo.postgres import HOST, free_port
from entrypoint import logs
from entrypoint.migration.ledger.reading import LockRow
from entrypoint.operations.display import clean, duration
from entrypoint.operations.status import Line, Status
from entrypoint.operations.status_table import as_text
from entrypoint.operations.whereabouts import Whereabouts
from kit.migrations import non_idempotent, write_migrations
from kit.processes import Run, until
from scene import Gate, Scene, lock_key, only_error, token_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database

    Start = Callable[..., Run]

ESCAPE = "\x1b"
LONG_NAME = f"002_{'a_very_long_description_' * 8}end.sql"


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Start) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def on_a_terminal(scene: Scene, *, columns: int, **env: str) -> str:
    """Return what `status` writes to a terminal with this many columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST  # do not translate line ends
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    try:
        run = scene.launch("status", env={"DATABASE_URL": scene.database.url, "TERM": "xterm", **env}, stdout=theirs)
        os.close(theirs)
        text = b""
        while piece := read_terminal(ours):
            text += piece
        run.ok()
    finally:
        os.close(ours)
    return text.decode()


def read_terminal(descriptor: int) -> bytes:
    """Read from a terminal; nothing once everybody has closed its other side."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def table(scene: Scene, **env: str) -> list[str]:
    """Return the lines that `status` writes to a pipe or a file."""
    return scene.start("status", **env).ok().stdout.splitlines()


def test_a_pipe_gets_one_plain_line_for_each_migration(scene: Scene) -> None:
    scene.write({"001_a.sql": "", LONG_NAME: "CREATE TABLE b ();", "003_c.sql": "CREATE TABLE c ();"})
    scene.start("migrate", "--to", "2", APP_VERSION="1.2.3-with-a-long-suffix+" + "0123456789abcdef" * 3).ok()
    lines = table(scene, COLUMNS="30", FORCE_COLOR="1", TERM="xterm")
    assert not [line for line in lines if ESCAPE in line or line != line.rstrip()]
    (row,) = [line for line in lines if line.startswith("002")]
    cells = re.split(r" {2,}", row)
    assert cells[:3] == ["002", LONG_NAME, "applied"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", cells[3])
    assert re.fullmatch(r"\d+ms|\d\.\ds", cells[4])
    assert cells[5].endswith("0123456789abcdef")
    assert lines[3].split() == ["number", "file", "state", "when", "took", "by", "version"]
    assert re.split(r" {2,}", lines[-3]) == ["003", "003_c.sql", "pending"]
    assert lines[-1] == "Lock: free."


def test_texts_from_outside_are_only_texts(scene: Scene) -> None:
    """Neither rich's markup nor a terminal's control sequences have any effect."""
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    scene.migrated(APP_VERSION="[red]1.0[/red] :bug:")
    scene.database.execute(
        "INSERT INTO schema_migrations (migration_number, filename, status, error_message) VALUES"
        " (7, E'[red]x[/red]\\x1b[31m\\nsecond\\u202eline', 'failed',"
        " E'[bold]why[/bold]\\x1b]0;title\\x07\\n  ^ [/]\\u009b1m')"
    )
    for text in ("\n".join(table(scene)), on_a_terminal(scene, columns=200, NO_COLOR="1")):
        assert ESCAPE not in text
        assert "[red]1.0[/red] :bug:" in text
        assert "007" in text
        assert "[red]x[/red][31m secondline" in text
        assert "  [bold]why[/bold]]0;title\n    ^ [/]1m\n" in text
        assert not set(text) & {"\x07", "\x9b", "\u202e"}


def test_colours_only_on_a_terminal_that_wants_them(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "SELECT nonsense;"})
    scene.migrate()
    coloured = on_a_terminal(scene, columns=120)
    assert f"{ESCAPE}[32mapplied" in coloured
    assert f"{ESCAPE}[1;31mfailed" in coloured
    for unwanted in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}):
        plain = on_a_terminal(scene, columns=120, **unwanted)
        assert ESCAPE not in plain
        assert plain == re.sub(r"\x1b\[[\d;]*m", "", coloured)


@pytest.mark.parametrize(
    ("columns", "header"),
    [
        (120, ["number", "file", "state", "when", "took", "by version"]),
        (97, ["number", "file", "state", "when", "by version"]),
        (77, ["number", "file", "state", "when"]),
        (68, ["file", "state", "when"]),
        (45, ["file", "state"]),
        (30, ["file", "state"]),
    ],
)
def test_a_narrow_terminal_does_without_columns_before_a_name_is_broken(
    scene: Scene, columns: int, header: list[str]
) -> None:
    name = "002_a_name_of_thirty_letters_x.sql"
    scene.write({"001_a.sql": "CREATE TABLE a ();", name: "CREATE TABLE b ();"})
    scene.migrated(APP_VERSION="1.4.0-g0123456789")
    text = on_a_terminal(scene, columns=columns, NO_COLOR="1")
    first = text.split("\n\n")[1].splitlines()[0]
    assert re.split(r" {2,}", first.strip()) == header
    rows = text.partition("─\n")[2].partition("\n\n")[0].splitlines()
    assert max(map(len, rows)) <= columns
    assert (name in text) is (columns >= 45)
    # Text may be wrapped, but is never cut.
    assert "…" not in text
    assert name in text or name in "".join(row.split("  ")[0].strip() for row in rows)


def test_the_headline_counts_what_is_wrong_and_says_what_helps() -> None:
    states = ("applied", "changed", "missing", "missing", "failed", "pending")
    lines = tuple(Line(n, f"{n:03d}_a.sql", state, None, None, None, None) for n, state in enumerate(states, 1))
    where = Whereabouts("db:5432", "shop", "shop_owner", "public")
    status = Status("error", 4, 6, 4, 2, lines, None, None, guarded=False, where=where)
    first, second, *fixes = as_text(status, width=None, colours=False).partition("\n\n")[0].splitlines()
    assert first == "shop on db:5432 as shop_owner, schema public"
    assert second == "At version 4; 1 failed, 1 pending; applied files: 1 changed, 2 missing."
    assert [fix.partition(":")[0] for fix in fixes] == ["  Fix (failed)", "  Fix (changed)", "  Fix (missing)"]
    assert fixes[2].endswith("entrypoint repair --missing")
    # What is right is not mentioned, and what is merely notable has words of its own.
    good = status._replace(name="up_to_date", lines=lines[:2])
    assert (
        as_text(good, width=None, colours=False).splitlines()[1] == "Up to date at version 4; applied files: 1 changed."
    )
    good = status._replace(name="up_to_date", lines=lines[:1])
    assert as_text(good, width=None, colours=False).splitlines()[1:3] == ["Up to date at version 4.", ""]
    # On a narrow terminal, lines break between words.
    words = as_text(status, width=40, colours=False).partition("\n\n")[0].split()
    assert words == " ".join((first, second, *fixes)).split()


def test_a_part_of_the_list_can_be_asked_for(scene: Scene) -> None:
    scene.write({f"{n:03d}_a.sql": f"CREATE TABLE t{n} ();" for n in range(1, 5)})
    scene.migrated()
    scene.write({"005_b.sql": "SELECT no_such;", "006_c.sql": "SELECT 1;"})
    assert scene.migrate().code == 70

    def listed(*options: str) -> list[str]:
        answer = json.loads(scene.start("status", "--json", *options).ok().stdout)
        assert (answer["appliedMigrations"], answer["pendingMigrations"]) == (4, 2)
        rows = [
            line.split()[0]
            for line in scene.start("status", *options).ok().stdout.splitlines()
            if re.match(r"\d{3} ", line)
        ]
        assert rows == [f"{line['number']:03d}" for line in answer["migrations"]]
        return rows

    assert listed("--pending") == ["005", "006"]
    assert listed("--last", "2") == ["003", "004"]
    assert listed("--last", "2", "--pending") == ["003", "004", "005", "006"]
    assert listed("--last", "9") == ["001", "002", "003", "004"]
    assert len(listed()) == 6
    run = scene.start("status", "--last", "0")
    assert run.wait() == 64


def test_strict_has_an_exit_code_of_its_own(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE b ();"})
    scene.migrated()

    def code(*options: str) -> int | None:
        return scene.start("status", *options).wait()

    assert code("--strict") == 0
    scene.write({"001_a.sql": "CREATE TABLE a (); --"})
    assert [code("--strict"), code("--exit-code"), code()] == [12, 0, 0]
    scene.write({"001_a.sql": "CREATE TABLE a ();", "003_c.sql": "SELECT 1;"})
    assert [code("--strict"), code("--exit-code")] == [10, 10]
    (scene.migrations / "001_a.sql").unlink()
    assert [code("--strict", "--json"), code("--exit-code")] == [12, 10]
    scene.write({"003_c.sql": "SELECT no_such;"})
    scene.migrate()
    assert code("--strict") == 11


def test_a_column_that_says_nothing_goes_first(scene: Scene) -> None:
    """Nothing is applied, so three columns have only their headings, which also take up room."""
    scene.write({"001_customers.sql": "SELECT 1;", "002_order_states_of_all.sql": "SELECT 2;"})
    shown = on_a_terminal(scene, columns=60)
    assert "002_order_states_of_all.sql" in shown
    assert "number" in shown
    assert "by version" not in shown


@pytest.mark.thorough
def test_the_terminals_locale_may_lack_letters(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    scene.migrated(APP_VERSION="ähnlich")
    lines = table(scene, PYTHONIOENCODING="ascii")
    assert any(line.endswith(r"\xe4hnlich") for line in lines)


@pytest.mark.parametrize(("options", "drawn"), [(("--json",), False), ((), True)])
def test_only_a_table_costs_the_import_of_rich(
    scene: Scene, run_program: Callable[..., Run], options: tuple[str, ...], *, drawn: bool
) -> None:
    argv = [sys.executable, "-X", "importtime", "-m", "entrypoint", "status", *options]
    run = run_program(argv, env={"DATABASE_URL": scene.database.url}).ok()
    assert bool(re.search(r"\| +rich\.table$", run.stderr, re.MULTILINE)) is drawn


# --- The lock -------------------------------------------------------------------------------------------


def test_the_lock_and_its_holder(scene: Scene) -> None:
    scene.write({"001_wait.sql": f"SELECT 1; {Gate.PASS}"})
    with Gate(scene.database) as gate:
        working = scene.start("migrate")
        gate.arrival()
        until(lambda: scene.lock()["progress_statement"], what="the watcher's first look")
        said = next(line for line in table(scene) if line.startswith("Lock: "))
        pattern = (
            rf"Lock: held by \S+ \(process {working.pid}\), since \d{{4}}-\S+Z \(\d+(ms|\.\ds|m\d\ds)\), "
            r"at 001_wait\.sql, statement [12](?: or later)? of 2(?: or later)?, for \d+ s.*\."
        )
        assert re.fullmatch(pattern, said), said
        lock = json.loads(scene.start("status", "--json").ok().stdout)["lock"]
        assert (lock["migration"], lock["statements"], lock["alive"]) == ("001_wait.sql", 2, True)
        assert lock["statement"] in {1, 2}, "the server may keep the first one's answer back"
        assert lock["heldForSeconds"] > 0
    working.ok()
    lock = json.loads(scene.start("status", "--json").ok().stdout)["lock"]
    assert (lock["held"], lock["heldForSeconds"], lock["alive"]) == (False, None, False)


def test_a_holder_that_is_gone_is_not_shown_as_if_it_lived(scene: Scene) -> None:
    scene.write({"001_wait.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        working = scene.start("migrate")
        guard = scene.guard_pid(token_of(working))
        gate.arrival()
        working.kill()
        until(
            lambda: not scene.database.rows("SELECT FROM pg_stat_activity WHERE pid = %s", (guard,)),
            what="the guard's end",
        )
        assert table(scene)[-1].endswith("; that process is gone, and the next start takes over.")
        assert json.loads(scene.start("status", "--json").ok().stdout)["lock"]["alive"] is False


@pytest.mark.thorough
def test_a_replica_of_the_earlier_system_holds_the_lock(scene: Scene) -> None:
    scene.write({"001_a.sql": ""})
    scene.migrated()
    scene.database.execute("UPDATE migration_lock SET locked_at = now(), locked_by = '[b]old[/b]', process_id = 7")
    said = table(scene)[-1]
    assert said.startswith("Lock: held by [b]old[/b] (process 7), since ")
    assert said.endswith("; a replica of the earlier migration system.")


# --- The exit code --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "guarded", "at", "shown", "headline"),
    [
        ("pending", True, "002_b.sql", "running", "At version 1; 1 migration pending, up to 2."),
        ("failed", True, "002_b.sql", "running", "At version 1; 1 running."),
        ("pending", False, "002_b.sql", "pending", "At version 1; 1 migration pending, up to 2."),
        ("pending", True, None, "pending", "At version 1; 1 migration pending, up to 2."),
        ("running", True, "002_b.sql", "running", "At version 1; 1 migration pending, up to 2."),
        ("running", False, "002_b.sql", "interrupted", "At version 1; 1 migration pending, up to 2."),
        ("running", True, "003_c.sql", "interrupted", "At version 1; 1 migration pending, up to 2."),
        # On a standby, the row is believed.
        ("running", None, "003_c.sql", "running", "At version 1; 1 migration pending, up to 2."),
    ],
)
def test_what_the_holder_is_running(
    state: str,
    guarded: bool | None,  # noqa: FBT001 - a case
    at: str | None,
    shown: str,
    headline: str,
) -> None:
    lines = (
        Line(1, "001_a.sql", "applied", "2026-11-22T18:46:04Z", 1, None, None),
        Line(2, "002_b.sql", state, None, None, None, None),
    )
    lock = LockRow(
        held=True, since=None, seconds=1.0, holder="host", process_id=7, token="a.1", migration=at,
        statement=None, statements=None, detail={},
    )  # fmt: skip
    failed = state == "failed"
    status = Status("error" if failed else "pending", 1, 2, 1, 1, lines, lines[0], lock, guarded=guarded)
    text = as_text(status, width=None, colours=False)
    assert text.splitlines()[1] == headline
    assert re.search(rf"^002 +002_b.sql +{shown}$", text, re.MULTILINE)


def test_a_misnamed_file_does_not_hide_what_the_database_knows(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_bad.sql": "SELECT nonsense;"})
    scene.migrate()
    (scene.migrations / "2_bad.sql").touch()
    run = scene.start("status")
    assert run.wait() == 65
    assert "2_bad.sql: must be NNN_description.sql" in only_error(run)["message"]
    lines = run.stdout.splitlines()
    assert lines[1] == (
        "At version 1; the migration files have errors, so this is only what is recorded. 1 migration has failed."
    )
    assert [line.split()[:3] for line in lines if line.startswith("00")][:2] == [
        ["001", "001_a.sql", "applied"],
        ["002", "002_bad.sql", "failed"],
    ]
    assert lines[-1] == "Lock: free."
    # To a program, that is no answer, but it learns which database this is about.
    run = scene.start("status", "--json")
    assert run.wait() == 65
    answer = json.loads(run.stdout)
    assert (answer["appliedMigrations"], answer["migrations"], answer["database"]) == (0, [], scene.database.name)


def code(scene: Scene, *options: str) -> int:
    run = scene.start("status", *options)
    result = run.wait()
    assert run.stdout, run.report()
    return result


@pytest.mark.thorough
def test_the_exit_code_tells_if_it_is_asked_for(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_bad.sql": "SELECT nonsense;"})
    assert (code(scene), code(scene, "--exit-code"), code(scene, "--json", "--exit-code")) == (0, 10, 10)
    scene.migrate()
    assert (code(scene), code(scene, "--exit-code"), code(scene, "--json", "--exit-code")) == (0, 11, 11)
    scene.write({"002_bad.sql": "CREATE TABLE b ();"})
    assert code(scene, "--exit-code") == 11, "nobody has tried again yet"
    scene.migrated()
    assert code(scene, "--exit-code") == 0
    scene.write({"001_a.sql": "CREATE TABLE another ();"})
    assert code(scene, "--exit-code") == 0, "a changed file is no reason to do anything"
    (scene.migrations / "002_bad.sql").unlink()
    assert code(scene, "--exit-code") == 0, "ahead is up to date"
    assert any("ahead" in line for line in table(scene))


def test_no_answer_has_the_exit_code_of_its_reason(run_entrypoint: Start, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, non_idempotent(1))
    nobody = {"DATABASE_URL": f"postgresql://a@{HOST}:{free_port()}/b", "DB_CONNECT_ATTEMPTS": "1"}
    for options in ((), ("--json",)):
        assert run_entrypoint("status", "--exit-code", *options, env=nobody).wait() == 69
    write_migrations(migrations_dir, {"1_bad.sql": ""})
    assert run_entrypoint("status", "--exit-code", env=nobody).wait() == 65


# --- Pure functions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (0, "0ms"),
        (999, "999ms"),
        (1000, "1.0s"),
        (1449, "1.4s"),
        (59_949, "59.9s"),
        (59_950, "1m00s"),
        (125_000, "2m05s"),
        (3_599_999, "1h00m"),
        (11_520_000, "3h12m"),
        (86_399_999, "1d00h"),
        (187_200_000, "2d04h"),
    ],
)
def test_durations(milliseconds: float, words: str) -> None:
    assert duration(milliseconds) == words


def test_clean() -> None:
    assert clean("a\r\n\tb\x00\x7f\x85c\u200bd\ud800e") == "a b cde"
    assert clean("日本 ä €") == "日本 ä €"


# --- Who keeps everybody out, and whose ledger it is ------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.sampled(5)
@pytest.mark.case("C9")
@pytest.mark.parametrize("mode", ["", "_shared"], ids=["exclusive", "shared"])
@pytest.mark.parametrize("second", [False, True], ids=["guard's key", "session's key"])
@pytest.mark.parametrize("dead", [False, True], ids=["row free", "row of a dead holder"])
def test_a_stranger_that_holds_a_key_is_named(scene: Scene, mode: str, *, second: bool, dead: bool) -> None:
    if second and dead and mode:
        pytest.skip("that is what a session of that holder looks like which has another name meanwhile")
    scene.write({"001_a.sql": ""})
    scene.migrated()
    if dead:
        scene.database.execute(
            "UPDATE migration_lock SET locked_at = now(), locked_by = 'dead', token = 'dead.1', "
            "guard_token = 'dead.1', guard_pid = 1"
        )
    first, key = lock_key().split(", ")
    with scene.database.connect() as stranger:
        stranger.execute("SET application_name = 'a \\curious\\ person'")
        stranger.execute(f"SELECT pg_advisory_lock{mode}({int(first) + second}, {key})")
        pid = stranger.info.backend_pid
        said = table(scene)[-1]
        named = rf"backend {pid} of postgres (a \curious\ person)"
        assert f"{named} has its key, and nobody can migrate until it lets go" in said
        assert said.startswith("Lock: held by dead, since" if dead else "Lock: held by no migration, but")
        answer = json.loads(scene.start("status", "--json").ok().stdout)
        assert answer["strangers"] == [{"pid": pid, "user": "postgres", "application": r"a \curious\ person"}]
        assert answer["lock"]["alive"] is False, "the stranger is no holder"
    until(lambda: "strangers" not in table(scene)[-1] and "its key" not in table(scene)[-1], what="its end")
    assert json.loads(scene.start("status", "--json").ok().stdout)["strangers"] == []


@pytest.mark.parametrize("looks", [3, pytest.param(10, marks=pytest.mark.thorough)])
def test_a_holder_and_who_contends_are_no_strangers(scene: Scene, looks: int) -> None:
    scene.write({"001_wait.sql": Gate.PASS, "002_b.sql": "-- entrypoint: no-transaction\nSET application_name = 'x'"})
    with Gate(scene.database) as gate:
        working = scene.start("migrate")
        gate.arrival()
        waiting = scene.start("migrate")
        waiting.until("lock.waiting")
        for _ in range(looks):
            answer = json.loads(scene.start("status", "--json").ok().stdout)
            assert (answer["strangers"], answer["untrusted"], answer["lock"]["alive"]) == ([], None, True)
    working.ok()
    waiting.ok()


@pytest.mark.thorough
@pytest.mark.case("C2")
def test_a_ledger_on_which_no_start_relies_is_shown_as_one(scene: Scene) -> None:
    scene.write({"001_a.sql": ""})
    scene.migrated()
    intruder = f"intruder_{scene.database.name}"[:60]
    scene.database.execute(f"CREATE ROLE {intruder}; ALTER TABLE schema_migrations OWNER TO {intruder}")
    try:
        (warning,) = (line for line in table(scene) if line.startswith("Warning: "))
        assert f"The table schema_migrations in schema 'public' belongs to {intruder}" in warning
        untrusted = json.loads(scene.start("status", "--json").ok().stdout)["untrusted"]
        assert intruder in untrusted
        dry = scene.start("migrate", "--dry-run")
        assert dry.wait() == 78, dry.report()
    finally:
        scene.database.execute(f"REASSIGN OWNED BY {intruder} TO postgres; DROP ROLE {intruder}")
    assert not [line for line in table(scene) if line.startswith("Warning: ")]


@pytest.mark.thorough
@pytest.mark.case("C9")
def test_who_keeps_a_ledger_from_being_made_is_named(scene: Scene) -> None:
    scene.write({"001_a.sql": ""})
    first = int(lock_key().split(", ")[0])
    with scene.database.connect() as stranger:
        stranger.execute(f"SELECT pg_advisory_lock({first + 2}, 0)")
        pid = stranger.info.backend_pid
        assert f"but backend {pid} of postgres" in table(scene)[-1]
        assert [one["pid"] for one in json.loads(scene.start("status", "--json").ok().stdout)["strangers"]] == [pid]


def test_who_has_locked_the_locks_row_or_table_is_named(scene: Scene) -> None:
    """As `unlock` names them: nobody can migrate, though the lock is free."""
    scene.write({"001_good.sql": "CREATE TABLE good ();"})
    scene.migrated()
    with scene.database.connect(application_name="a person's psql") as other:
        pid = other.info.backend_pid
        other.execute("BEGIN; SELECT FROM migration_lock FOR UPDATE")
        last = scene.start("status").ok().stdout.splitlines()[-1]
        assert last.startswith(f"Lock: held by no migration, but the migration history is locked by backend {pid} (")
        assert last.endswith("(see entrypoint unlock).")
        other.execute("ROLLBACK; BEGIN; LOCK TABLE migration_lock")
        run = scene.start("status")
        assert run.wait() == 75, run.report()
        record = only_error(run)
        assert f"is locked by backend {pid} (" in record["message"]
        assert f"pg_terminate_backend({pid})" in record["remedy"]
        other.execute("ROLLBACK")
    assert scene.start("status").ok().stdout.splitlines()[-1] == "Lock: free."


def test_without_a_directory_it_does_not_suggest_to_turn_migrations_off(scene: Scene) -> None:
    """AUTO_MIGRATE is about starts."""
    for command in ("status", "migrate"):
        run = scene.start(command, MIGRATIONS_DIR="nope")
        assert run.wait() == 78
        remedy = str(only_error(run)["remedy"])
        assert ("AUTO_MIGRATE" in remedy) == (command == "migrate")
        assert "MIGRATIONS_DIR" in remedy


def test_a_terminal_shows_no_empty_column_and_no_time_of_a_failure(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ()", "002_b.sql": "SELECT 1/0"})
    assert scene.migrate().wait() == 70
    for columns in (80, 120):
        shown = on_a_terminal(scene, columns=columns, NO_COLOR="1")
        assert "took" in shown
        assert "by version" not in shown
        assert "0ms" not in next(line for line in shown.splitlines() if "002_b" in line)
    scene.write({"003_c.sql": "CREATE TABLE c ()"})
    scene.migrate(APP_VERSION="1.4.0").wait()


def test_durations_in_messages() -> None:
    assert [logs.took(milliseconds) for milliseconds in (0, 470.4, 1000, 38993)] == [
        "0 ms",
        "470 ms",
        "1.0 s",
        "39.0 s",
    ]


def test_the_second_line_of_a_fix_is_indented_like_the_first(scene: Scene) -> None:
    scene.write({"001_a.sql": "SELECT 1/0"})
    assert scene.migrate().wait() == 70
    lines = on_a_terminal(scene, columns=60, NO_COLOR="1").replace("\r", "").splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("  Fix (failed): "))
    assert lines[first + 1].startswith("  ")
    assert lines[first + 1].strip()
