"""Reports at the end of a start or a Job: MIGRATION_FAILURE_COMMAND and MIGRATION_METRICS_FILE."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from demo.postgres import HOST, free_port
from entrypoint.reporting import exposition
from entrypoint.startup import Outcome
from kit.migrations import write_migrations
from kit.processes import descendants, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database
    from kit.processes import Run

    Start = Callable[..., Run]

APPLICATION = ("run", "--", "sh", "-c", 'printf %s "$ENTRYPOINT_OUTCOME"')
BAD = {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "SELECT no_such;"}
GOOD = {"001_a.sql": "CREATE TABLE a ();"}
PREFIX = "pg_entrypoint_last"


@pytest.fixture
def told(tmp_path: Path) -> dict[str, str]:
    """Return the environment in which a command is told about a failure, and records everything that it gets."""
    path = tmp_path / "tell.sh"
    path.write_text(
        f"cat >> {tmp_path}/told; echo said so; echo loudly >&2\n"
        f'echo "$ENTRYPOINT_OUTCOME|$ENTRYPOINT_SCHEMA_VERSION|$ENTRYPOINT_ERROR" >> {tmp_path}/variables\n'
    )
    return {"MIGRATION_FAILURE_COMMAND": f"sh {path}"}


def records(tmp_path: Path) -> list[dict[str, object]]:
    path = tmp_path / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def metrics(path: Path) -> dict[str, tuple[float, dict[str, str]]]:
    """Return the values and labels in a file of metrics, as read by Prometheus' own parser."""
    families = text_string_to_metric_families(path.read_text())
    return {one.name.removeprefix(PREFIX)[1:]: (one.value, one.labels) for family in families for one in family.samples}


# --- MIGRATION_FAILURE_COMMAND


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("command", "more", "code"),
    [(APPLICATION, {}, 0), (APPLICATION, {"MIGRATION_ON_FAILURE": "exit"}, 70), (("migrate",), {}, 70)],
    ids=["run", "run-exit", "migrate"],
)
def test_a_command_is_told_of_a_failure_once(
    run_entrypoint: Start,
    database: Database,
    migrations_dir: Path,
    tmp_path: Path,
    told: dict[str, str],
    command: tuple[str, ...],
    more: dict[str, str],
    code: int,
) -> None:
    write_migrations(migrations_dir, BAD)
    run = run_entrypoint(*command, env={"DATABASE_URL": database.url, "LOG_FORMAT": "text", **told, **more})
    assert run.wait() == code, run.report()
    (record,) = records(tmp_path)
    assert record["event"] == "migration.failed"
    assert (record["file"], record["version"], record["sqlstate"]) == ("002_b.sql", 2, "42703")
    assert {"time", "message", "remedy", "report", "run_id", "severity", "database", "host"} <= record.keys()
    outcome, version, error = (tmp_path / "variables").read_text().strip().split("|")
    assert (outcome, version, error) == ("failed", "1", record["message"])
    assert "MIGRATION_FAILURE_COMMAND was run" in run.stderr
    # The command's output does not mix with the application's.
    assert run.stdout == ("failed" if code == 0 else "")
    assert "loudly" not in run.stderr


@pytest.mark.parametrize("command", [APPLICATION, ("migrate",)], ids=["run", "migrate"])
def test_it_is_told_what_comes_before_the_database(
    run_entrypoint: Start, migrations_dir: Path, tmp_path: Path, told: dict[str, str], command: tuple[str, ...]
) -> None:
    """A bad setting, bad files, no database."""
    url = f"postgresql://app:quokka@{HOST}:{free_port()}/shop"
    for env in ({"MIGRATION_TIMEOUT_MS": "5s"}, {"DB_CONNECT_ATTEMPTS": "1"}):
        run_entrypoint(*command, env={"DATABASE_URL": url, **env, **told}).wait()
    write_migrations(migrations_dir, {"1_a.sql": ""})
    run_entrypoint(*command, env={"DATABASE_URL": url, **told}).wait()
    events = [record["event"] for record in records(tmp_path)]
    assert events == ["configuration.invalid", "database.unavailable", "files.invalid"]
    assert "quokka" not in (tmp_path / "told").read_text() + (tmp_path / "variables").read_text()


@pytest.mark.thorough
def test_it_is_not_told_of_anything_else(
    run_entrypoint: Start, database: Database, migrations_dir: Path, tmp_path: Path, told: dict[str, str]
) -> None:
    env = {"DATABASE_URL": database.url, **told}
    write_migrations(migrations_dir, GOOD)
    for command in (APPLICATION, ("migrate",), ("status",)):
        run_entrypoint(*command, env=env).ok()
    assert run_entrypoint("migrate", "--to", "x", env=env).wait() == 64
    assert run_entrypoint("run", env=env).wait() == 64
    run_entrypoint(*APPLICATION, env={**env, "AUTO_MIGRATE": "false"}).ok()
    write_migrations(migrations_dir, BAD)
    run_entrypoint("migrate", "--dry-run", env=env).ok()
    assert run_entrypoint("migrate", "--rehearse", env=env).wait() == 70
    assert run_entrypoint("check", env={**env, "MIGRATION_TIMEOUT_MS": "5s"}).wait() == 78
    assert records(tmp_path) == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/no/such/program", "cannot be run: No such file or directory"),
        ("sh -c 'echo quokka of app >&2; exit 3'", "ended with exit code 3: *** of app"),
        ("sh -c 'kill -9 $$'", "ended with signal 9"),
    ],
)
def test_its_own_failure_is_a_warning(
    run_entrypoint: Start, database: Database, migrations_dir: Path, command: str, said: str
) -> None:
    write_migrations(migrations_dir, BAD)
    url = database.url.replace("postgres@", "postgres:quokka@")
    run = run_entrypoint(*APPLICATION, env={"DATABASE_URL": url, "MIGRATION_FAILURE_COMMAND": command}).ok()
    (record,) = run.logs("failure_command.failed")
    assert (record["message"], record["level"]) == (f"MIGRATION_FAILURE_COMMAND {said}", "warning")
    assert run.stdout == "failed"


def test_it_holds_the_start_up_for_ten_seconds_at_most(
    run_entrypoint: Start, database: Database, migrations_dir: Path, tmp_path: Path
) -> None:
    """And it leaves no child processes to the application."""
    write_migrations(migrations_dir, BAD)
    command = f"sh -c 'echo $$ > {tmp_path}/pid; sleep 60 & sleep 60'"
    run = run_entrypoint(*APPLICATION, env={"DATABASE_URL": database.url, "MIGRATION_FAILURE_COMMAND": command})
    run.until("migration.failed")
    began = time.monotonic()
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), 10, "the command")
    children = descendants(int((tmp_path / "pid").read_text()))
    run.ok()
    assert 9 < time.monotonic() - began < 14
    assert "did not finish within 10 s and was killed" in run.logs("failure_command.failed")[0]["message"]
    assert run.stdout == "failed"
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 5, "the end of its children")


def test_a_signal_ends_it(run_entrypoint: Start, database: Database, migrations_dir: Path, tmp_path: Path) -> None:
    write_migrations(migrations_dir, BAD)
    command = f"sh -c 'echo $$ > {tmp_path}/pid; sleep 60'"
    run = run_entrypoint(*APPLICATION, env={"DATABASE_URL": database.url, "MIGRATION_FAILURE_COMMAND": command})
    until((tmp_path / "pid").exists, 20, "the command")
    began = time.monotonic()
    run.process.terminate()
    assert run.wait() == 143
    assert time.monotonic() - began < 2


# --- MIGRATION_METRICS_FILE


def test_metrics_are_written_at_the_end(
    run_entrypoint: Start, database: Database, migrations_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "textfile" / "shop.prom"
    path.parent.mkdir()
    env = {"DATABASE_URL": database.url, "MIGRATION_METRICS_FILE": str(path), "APP_VERSION": '1.4.0 "x"'}
    write_migrations(migrations_dir, GOOD)
    began = time.time()
    run_entrypoint(*APPLICATION, env=env, before_exec=lambda: os.umask(0o077)).ok()
    found = metrics(path)
    labels = {"command": "run", "database": database.name, "schema": "public", "app_version": '1.4.0 "x"'}
    assert found["run_outcome"] == (1.0, {**labels, "outcome": "migrated"})
    assert found["run_failed"] == (0.0, labels)
    assert found["run_schema_version"] == (1.0, labels)
    assert began - 1 < found["run_timestamp_seconds"][0] < time.time() + 1
    assert 0 < found["run_duration_seconds"][0] < 60
    success = found["success_timestamp_seconds"][0]
    assert success == found["run_timestamp_seconds"][0]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644, "node_exporter is another user"
    assert list(path.parent.iterdir()) == [path]

    write_migrations(migrations_dir, BAD)
    assert run_entrypoint("migrate", env=env).wait() == 70
    found = metrics(path)
    assert found["run_failed"] == (1.0, {**labels, "command": "migrate"})
    assert found["run_outcome"][1]["outcome"] == "failed"
    assert found["run_timestamp_seconds"][0] > success
    assert found["success_timestamp_seconds"][0] == success, "it is kept"
    run_entrypoint("migrate", "--to", "1", env=env).ok()
    assert metrics(path)["run_outcome"][1]["outcome"] == "up_to_date"
    before = path.read_bytes()
    run_entrypoint(*APPLICATION, env={**env, "AUTO_MIGRATE": "false"}).ok()
    run_entrypoint("status", env=env).ok()
    assert run_entrypoint("migrate", "--dry-run", env=env).wait() == 70
    assert path.read_bytes() == before


def test_whoever_reads_meanwhile_gets_all_of_it(
    run_entrypoint: Start, database: Database, migrations_dir: Path, tmp_path: Path
) -> None:
    """The file is replaced, never written in place."""
    path = tmp_path / "shop.prom"
    path.write_text("old\n")
    with path.open() as reader:
        run_entrypoint(*APPLICATION, env={"DATABASE_URL": database.url, "MIGRATION_METRICS_FILE": str(path)}).ok()
        assert reader.read() == "old\n"
    assert metrics(path)["run_failed"][0] == 0


@pytest.mark.parametrize("where", ["no/such/shop.prom", "shop.prom"])
def test_a_file_that_cannot_be_written_is_a_warning(
    run_entrypoint: Start, database: Database, migrations_dir: Path, tmp_path: Path, where: str
) -> None:
    (tmp_path / "shop.prom").mkdir()
    env = {"DATABASE_URL": database.url, "MIGRATION_METRICS_FILE": str(tmp_path / where)}
    run = run_entrypoint(*APPLICATION, env=env).ok()
    assert run.stdout == "up_to_date"
    assert len(run.logs("metrics_file.not_written")) == 1
    assert [one for one in tmp_path.iterdir() if one.name.startswith(".shop")] == []


def test_a_file_that_nobody_would_read_is_a_bad_value(run_entrypoint: Start, migrations_dir: Path) -> None:
    run = run_entrypoint("check", env={"MIGRATION_METRICS_FILE": "/tmp/shop.txt"})
    assert run.wait() == 78
    assert "must end in .prom" in run.logs("configuration.invalid")[0]["message"]


def test_without_a_version_and_an_earlier_success() -> None:
    labels = {"command": "run", "database": 'a"b\\c\nd'}
    text = exposition(Outcome("ahead"), labels, 1.0, 2.0, None)
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    assert {one.labels["database"] for one in samples} == {labels["database"]}
    assert {one.name for one in samples} == {
        f"{PREFIX}_run_{name}" for name in ("timestamp_seconds", "duration_seconds", "failed", "outcome")
    }
