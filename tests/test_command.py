"""MIGRATION_COMMAND: another migration tool runs under our lock, and is skipped if it has nothing to do.

The tool here is a small stand-in, `kit/programs/tool.py`. ENTRYPOINT_TEST_RACE_ROUNDS=50 runs the race fifty times.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import new_database
from demo.postgres import free_port
from kit.migrations import write_migrations
from kit.processes import until
from kit.web import Serving
from scene import APPLICATION, Gate, only_error, token_of, told

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.postgres import Server
    from kit.databases import Database
    from kit.processes import Record, Run
    from scene import Told

ROUNDS = int(os.environ.get("ENTRYPOINT_TEST_RACE_ROUNDS", "1"))
TOOL = Path(__file__).parent / "kit" / "programs" / "tool.py"
COMMAND = f"{sys.executable} {TOOL} steps"


@dataclass(frozen=True)
class Project:
    """An application with its own migration tool."""

    database: Database
    directory: Path
    launch: Callable[..., Run]

    def write(self, **steps: str) -> None:
        """Write the tool's steps, by name."""
        (self.directory / "steps").mkdir(exist_ok=True)
        for name, sql in steps.items():
            (self.directory / "steps" / f"{name}.sql").write_text(sql)

    def start(self, *command: str, **env: str) -> Run:
        """Start `run` with an application that prints what it was told, or another `command`; do not wait."""
        environment = {
            "DATABASE_URL": self.database.url,
            "MIGRATION_COMMAND": COMMAND,
            "MIGRATION_COMMAND_INPUTS": "steps",
            **env,
        }
        return self.launch(*(command or ("run", "--", *APPLICATION)), env=environment, directory=self.directory)

    def run(self, **env: str) -> Told:
        """Start, wait, and return what the application was told."""
        return told(self.start(**env))

    def times(self) -> int:
        """Return how often the tool has run."""
        log = self.directory / "ran.log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def statuses(self) -> list[str]:
        """Return how each recorded run ended."""
        return [str(row[0]) for row in self.database.rows("SELECT status FROM migration_commands ORDER BY id")]


@pytest.fixture
def project(database: Database, tmp_path: Path, run_entrypoint: Callable[..., Run]) -> Project:
    project = Project(database, tmp_path, run_entrypoint)
    project.write(a="CREATE TABLE a (id int)")
    return project


def event(run: Run, name: str) -> Record:
    found = [record for record in run.logs() if record["event"] == name]
    assert len(found) == 1, run.report()
    return found[0]


def test_it_runs_once_and_then_is_skipped(project: Project) -> None:
    first = project.start()
    assert told(first)[:2] == ("migrated", ""), first.report()
    assert "has not run here yet" in event(first, "command.started")["message"]
    assert [record["message"] for record in first.logs() if record["event"] == "command.output"] == ["applied a.sql"]
    assert event(first, "command.completed")["run"] == 1
    assert project.run()[:2] == ("up_to_date", "")
    assert project.times() == 1
    row = project.database.one("SELECT to_jsonb(c) FROM migration_commands c")
    assert isinstance(row, dict)
    assert (row["status"], row["exit_code"], row["inputs"], row["before"]) == ("completed", 0, ["steps/a.sql"], "none")
    assert row["output"] == "applied a.sql"
    assert row["command"] == COMMAND


def test_without_files_of_ours_none_of_our_ledger_is_made(project: Project) -> None:
    project.run()
    tables = project.database.rows(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    assert [name for (name,) in tables] == ["a", "knex_migrations", "migration_commands", "migration_lock"]


def test_a_new_step_runs_it_again(project: Project) -> None:
    project.run()
    project.write(b="CREATE TABLE b (id int)")
    run = project.start()
    assert told(run).outcome == "migrated"
    assert "inputs have changed" in event(run, "command.started")["message"]
    assert project.run().outcome == "up_to_date"
    assert project.times() == 2


def test_files_of_ours_come_first(project: Project, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_first.sql": "CREATE TABLE a_before (id int)"})
    project.write(a="INSERT INTO a_before VALUES (1)")
    assert project.run(MIGRATIONS_DIR=str(migrations_dir))[:2] == ("migrated", "1")
    assert project.run(MIGRATIONS_DIR=str(migrations_dir))[:2] == ("up_to_date", "1")
    assert project.database.one("SELECT count(*) FROM a_before") == 1
    write_migrations(migrations_dir, {"002_second.sql": "CREATE TABLE second (id int)"})
    assert project.run(MIGRATIONS_DIR=str(migrations_dir))[:2] == ("migrated", "2")
    assert project.times() == 1


@pytest.mark.timeout(60 + 15 * ROUNDS)
@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.thorough)])
def test_replicas_run_it_once(
    any_server: Server, tmp_path: Path, run_entrypoint: Callable[..., Run], count: int
) -> None:
    for number in range(ROUNDS):
        with new_database(any_server, "race") as database:
            directory = tmp_path / str(number)
            directory.mkdir()
            project = Project(database, directory, run_entrypoint)
            project.write(a="CREATE TABLE a (id int); SELECT pg_sleep(0.3)", b="INSERT INTO a VALUES (1)")
            replicas = [project.start() for _ in range(count)]
            outcomes = sorted(told(replica).outcome for replica in replicas)
            stories = "\n".join(replica.report() for replica in replicas)
            assert outcomes.count("migrated") == 1, stories
            assert set(outcomes) <= {"migrated", "waited", "up_to_date"}, stories
            assert project.times() == 1, stories
            assert database.one("SELECT count(*) FROM a") == 1
            assert project.statuses() == ["completed"]


@pytest.mark.thorough
def test_an_older_image_does_not_run_it(project: Project, tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    old = Project(project.database, older, project.launch)
    old.write(a="CREATE TABLE a (id int)")
    assert old.run().outcome == "migrated"
    project.write(b="CREATE TABLE b (id int)")
    assert project.run().outcome == "migrated"
    again = old.start()
    assert told(again).outcome == "ahead"
    assert "continued" in event(again, "command.ahead")["message"]
    assert (old.times(), project.times()) == (1, 1)


@pytest.mark.thorough
def test_a_rebuilt_older_image_does_not_run_it_and_says_so(project: Project, tmp_path: Path) -> None:
    project.write(b="CREATE TABLE b (id int)")
    assert project.run().outcome == "migrated"
    older = tmp_path / "older"
    older.mkdir()
    old = Project(project.database, older, project.launch)
    old.write(a="CREATE TABLE a (id int) -- as it was before")
    run = old.start()
    assert told(run).outcome == "ahead"
    assert event(run, "command.ahead")["level"] == "warning"
    assert old.times() == 0


@pytest.mark.thorough
@pytest.mark.parametrize("first", ["older", "newer"])
def test_an_older_and_a_newer_image_at_the_same_moment(project: Project, tmp_path: Path, first: str) -> None:
    """The second one looks again under the lock: a newer image then runs its step, and an older one runs nothing."""
    older = tmp_path / "older"
    older.mkdir()
    images = {"older": Project(project.database, older, project.launch), "newer": project}
    with Gate(project.database) as gate:
        images["older"].write(a=f"{Gate.PASS} CREATE TABLE a (id int)")
        images["newer"].write(a=f"{Gate.PASS} CREATE TABLE a (id int)", b="CREATE TABLE b (id int)")
        second = "newer" if first == "older" else "older"
        runs = {first: images[first].start()}
        gate.arrival()
        runs[second] = images[second].start()
        runs[second].until("lock.waiting")
    outcomes = {name: told(run).outcome for name, run in runs.items()}
    assert outcomes == {"older": "migrated" if first == "older" else "ahead", "newer": "migrated"}
    assert images["newer"].times() == 1
    assert images["older"].times() == (first == "older")
    assert project.database.rows("SELECT name FROM knex_migrations ORDER BY 1") == [("a.sql",), ("b.sql",)]


@pytest.mark.thorough
def test_after_a_downgrade_by_hand_it_runs(project: Project) -> None:
    project.run()
    project.database.execute("DELETE FROM knex_migrations; DROP TABLE a")
    run = project.start()
    assert told(run).outcome == "migrated"
    assert "has changed since its last run" in event(run, "command.started")["message"]
    assert project.times() == 2


@pytest.mark.thorough
def test_without_inputs_it_runs_at_each_start_and_says_so(project: Project) -> None:
    for _ in range(2):
        run = project.start(MIGRATION_COMMAND_INPUTS="")
        assert told(run).outcome == "migrated"
        assert "MIGRATION_COMMAND_INPUTS" in event(run, "command.always")["message"]
    assert project.times() == 2


@pytest.mark.thorough
def test_a_table_that_nobody_knows_has_to_be_named(project: Project) -> None:
    command = f"{COMMAND} my_history"
    for _ in range(2):
        run = project.start(MIGRATION_COMMAND=command)
        assert told(run).outcome == "migrated"
        assert "MIGRATION_COMMAND_STATE" in event(run, "command.always")["message"]
    for state in ("my_history", "public.my_history"):
        assert project.run(MIGRATION_COMMAND=command, MIGRATION_COMMAND_STATE=state).outcome in (
            "migrated",
            "up_to_date",
        )
        assert project.run(MIGRATION_COMMAND=command, MIGRATION_COMMAND_STATE=state).outcome == "up_to_date"


def test_a_failure_is_told_and_tried_again_by_the_next_start(project: Project) -> None:
    project.write(b="SELECT 1/0")
    run = project.start()
    assert told(run)[:2] == ("failed", "")
    error = only_error(run)
    assert error["event"] == "command.failed"
    assert "exit code 1" in error["message"]
    assert "division by zero" in error["report"]
    assert project.start(MIGRATION_ON_FAILURE="exit").wait() == 70
    assert project.statuses() == ["failed", "failed"]
    project.write(b="SELECT 1")
    assert project.run().outcome == "migrated"


@pytest.mark.thorough
def test_who_waited_does_not_repeat_a_failure(project: Project) -> None:
    with Gate(project.database) as gate:
        project.write(b=f"{Gate.PASS} SELECT 1/0")
        holder = project.start()
        token_of(holder)
        gate.arrival()
        waiters = [project.start() for _ in range(3)]
        for waiter in waiters:
            waiter.until("lock.waiting")
    assert told(holder).outcome == "failed"
    for waiter in waiters:
        assert told(waiter).outcome == "failed"
        assert "failed in another replica" in only_error(waiter)["message"]
    assert project.times() == 1


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"MIGRATION_COMMAND": "no-such-program up"}, "no-such-program"),
        ({"MIGRATION_COMMAND": "./steps/a.sql"}, "cannot be executed"),
        ({"MIGRATION_COMMAND": "./nothing"}, "does not exist"),
        ({"MIGRATION_COMMAND": "sh -c 'true"}, "quotation mark"),
        ({"MIGRATION_COMMAND": "''"}, "no program"),
        ({"MIGRATION_COMMAND_INPUTS": "steps/*.rb"}, "matches no file"),
        ({"MIGRATION_COMMAND_INPUTS": "elsewhere"}, "No such file"),
        ({"MIGRATION_COMMAND_INPUTS": "postgresql://u:hunter2@h/db"}, "address"),
        ({"MIGRATION_COMMAND_INPUTS": '""'}, "empty word"),
        ({"MIGRATION_COMMAND_STATE": "a.b.c"}, "SCHEMA.TABLE"),
    ],
)
def test_what_cannot_be_is_refused_before_the_lock_is_taken(project: Project, env: dict[str, str], said: str) -> None:
    run = project.start(**env, MIGRATION_ON_FAILURE="exit")
    assert run.wait() == 78, run.report()
    assert said in run.stderr
    assert "hunter2" not in run.stderr
    assert "lock.acquired" not in run.stderr
    assert project.database.one("SELECT to_regclass('migration_lock')") is None


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("#!/no/such/interpreter", "'/no/such/interpreter'"),
        ("#!/bin/sh\r", "Windows line endings"),
        ("echo hello", "does not start with #!"),
    ],
)
def test_a_script_that_no_kernel_starts_is_refused_as_early(project: Project, first: str, said: str) -> None:
    script = project.directory / "migrate"
    script.write_text(f"{first}\n")
    script.chmod(0o755)
    run = project.start(MIGRATION_COMMAND="./migrate up", MIGRATION_ON_FAILURE="exit")
    assert run.wait() == 78, run.report()
    assert said in run.stderr
    assert project.database.one("SELECT to_regclass('migration_lock')") is None


def test_a_tool_that_fails_and_prints_nothing(project: Project) -> None:
    run = project.start(MIGRATION_COMMAND="sh -c 'exit 3'", MIGRATION_ON_FAILURE="exit")
    assert run.wait() == 70, run.report()
    assert "It printed nothing" in only_error(run)["remedy"]


def test_an_address_in_the_command_is_hidden(project: Project) -> None:
    url = project.database.url.replace("postgres@", "postgres:hunter2-s3cret@")
    assert "hunter2" in url
    run = project.start(MIGRATION_COMMAND=f"{COMMAND} knex_migrations {url}")
    run.wait()
    assert "hunter2" not in run.stderr + run.stdout
    assert "hunter2" not in str(project.database.rows("SELECT c::text FROM migration_commands c"))


@pytest.mark.thorough
def test_a_holder_that_was_killed_is_replaced(project: Project) -> None:
    with Gate(project.database) as gate:
        project.write(b=f"{Gate.PASS} CREATE TABLE b (id int)")
        holder = project.start()
        token_of(holder)
        gate.arrival()
        waiter = project.start()
        waiter.until("lock.waiting")
        holder.kill()
        project.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks "
            "WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
        )
        until(lambda: "interrupted" in project.statuses(), what="the killed run to be marked")
    assert told(waiter).outcome == "migrated"
    assert project.statuses() == ["interrupted", "completed"]
    assert project.database.one("SELECT count(*) FROM knex_migrations") == 2
    event(waiter, "command.interrupted")


@pytest.mark.thorough
def test_a_dry_run_says_whether_it_would_run_and_why(project: Project) -> None:
    assert "would run: it has not run here yet" in project.start("migrate", "--dry-run").ok().stdout
    assert project.times() == 0
    project.start("migrate").ok()
    assert (
        "would not run: its inputs and its history are unchanged" in project.start("migrate", "--dry-run").ok().stdout
    )
    assert project.times() == 1


def test_status_tells_of_it(project: Project) -> None:
    def status(*options: str) -> Run:
        return project.start("status", *options)

    assert json.loads(status("--json").ok().stdout)["command"]["state"] == "pending"
    assert status("--exit-code").wait() == 10
    project.run()
    answer = json.loads(status("--json").ok().stdout)
    assert (answer["status"], answer["command"]["state"]) == ("up_to_date", "up_to_date")
    assert answer["command"]["lastRun"] | {"startedAt": "", "finishedAt": "", "holder": ""} == {
        "number": 1,
        "status": "completed",
        "startedAt": "",
        "finishedAt": "",
        "exitCode": 0,
        "applicationVersion": None,
        "holder": "",
        "output": "applied a.sql",
    }
    assert "up to date" in status().ok().stdout
    project.write(b="SELECT 1/0")
    project.run()
    assert status("--exit-code").wait() == 11
    text = status().ok().stdout
    assert "The migration command has failed." in text
    assert "\n\n\n" not in text
    assert "  b.sql: division by zero" in text
    project.write(b="SELECT 1")
    assert json.loads(status("--json").ok().stdout)["command"]["state"] == "pending"


def test_wait_waits_for_it(project: Project) -> None:
    with Gate(project.database) as gate:
        project.write(b=f"{Gate.PASS} SELECT 1")
        holder = project.start()
        gate.arrival()
        waiting = project.start("wait", "--for", "schema")
        record = waiting.until("wait.waiting")
        assert "is pending" in record["message"]
        running = json.loads(project.start("status", "--json").ok().stdout)
        assert running["command"]["state"] == "running"
        assert running["lock"]["migration"] == COMMAND
    assert told(holder).outcome == "migrated"
    assert waiting.wait() == 0


@pytest.mark.thorough
def test_the_other_commands_know_it(project: Project) -> None:
    assert project.start("check").wait() == 0
    assert project.start("check", MIGRATION_COMMAND_INPUTS="nothing/*.sql").wait() == 65
    assert project.start("new", "Add users").wait() == 78
    project.run()
    assert "Lock" in project.start("status").ok().stdout
    assert "Row: free." in project.start("unlock").ok().stdout
    assert "the next start runs it again" in project.start("repair").ok().stdout
    rehearsal = project.start("migrate", "--rehearse").ok()
    assert "Nothing is pending" in rehearsal.stdout
    project.write(b="SELECT 1")
    event(project.start("migrate", "--rehearse").ok(), "rehearsal.command")
    assert project.times() == 1


def test_the_service_shows_it(project: Project) -> None:
    port = free_port()
    service = project.start("serve", STATUS_PORT=str(port))
    service.until("service.listening")
    web = Serving(service, port)
    assert web.data()["command"]["state"] == "pending"
    assert "The migration command is pending" in web.ask("/admin").body.decode()
    assert "pg_entrypoint_command_pending{" in web.ask("/metrics").body.decode()


@pytest.mark.thorough
def test_a_backup_comes_first(project: Project, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    env = {"MIGRATION_BACKUP_DIR": str(backups), "PATH": f"{project.database.server.bin}:{os.environ['PATH']}"}
    assert project.run(**env).outcome == "migrated"
    assert len(list(backups.iterdir())) == 1
    assert project.run(**env).outcome == "up_to_date"
    assert len(list(backups.iterdir())) == 1


@pytest.mark.thorough
def test_a_tools_own_schema_migrations_is_left_alone(project: Project, migrations_dir: Path) -> None:
    project.database.execute("CREATE TABLE schema_migrations (version text PRIMARY KEY)")
    assert project.run().outcome == "migrated"
    assert project.run().outcome == "up_to_date"
    write_migrations(migrations_dir, {"001_first.sql": "SELECT 1"})
    run = project.start(MIGRATIONS_DIR=str(migrations_dir), MIGRATION_ON_FAILURE="exit")
    assert run.wait() == 78
    assert "MIGRATION_SCHEMA" in run.stderr


@pytest.mark.thorough
def test_a_history_that_may_not_be_read_is_unknown(project: Project) -> None:
    reader = f"reader_{project.database.name}"[:60]
    project.database.execute(
        "CREATE TABLE alembic_version (n int); ALTER TABLE alembic_version ENABLE ROW LEVEL SECURITY;"
        f"CREATE ROLE {reader} LOGIN; GRANT ALL ON SCHEMA public TO {reader}"
    )
    try:
        url = project.database.url.replace("postgres@", f"{reader}@")
        assert f"{reader}@" in url
        run = project.start(DATABASE_URL=url)
        assert told(run).outcome == "migrated", run.report()
        assert "cannot be read" in event(run, "command.always")["message"]
    finally:
        project.database.execute(f"DROP OWNED BY {reader}; DROP ROLE {reader}")


@pytest.mark.thorough
def test_an_older_releases_table_is_upgraded(project: Project) -> None:
    project.run()
    project.database.execute("ALTER TABLE migration_commands DROP COLUMN holder")
    assert project.run().outcome == "up_to_date"
    assert project.database.one("SELECT count(holder) FROM migration_commands") == 0


@pytest.mark.thorough
def test_status_while_it_runs(project: Project) -> None:
    go = project.directory / "go"
    command = f"sh -c 'while [ ! -e {go} ]; do sleep 0.05; done'"
    run = project.start(MIGRATION_COMMAND=command)
    run.until("command.started")
    printed = project.start("status", MIGRATION_COMMAND=command).ok().stdout
    assert "The migration command is running." in printed
    assert "interrupted" not in printed
    go.touch()
    run.ok()


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (
            "UPDATE migration_lock SET token = NULL, locked_at = NULL, locked_by = NULL; SELECT pg_sleep(60)",
            "lost 3 times",
        ),
        ("DROP TABLE migration_commands", "migration_commands"),
        ("DELETE FROM migration_commands", "its row no longer exists"),
    ],
)
def test_a_tool_that_changes_our_tables_ends_the_start(project: Project, does: str, said: str) -> None:
    script = "import os, psycopg; connection = psycopg.connect(os.environ['DATABASE_URL'], autocommit=True)"
    script += "".join(f"; connection.execute({statement!r})" for statement in does.split("; "))
    run = project.start(MIGRATION_COMMAND=shlex.join([sys.executable, "-c", script]), MIGRATION_ON_FAILURE="exit")
    assert run.wait(60) == 70, run.report()
    error = only_error(run)
    assert said in error["message"]
    assert "migration_commands or migration_lock" in error["remedy"]
