"""`POST /api/admin/backup`: one at a time, in a child that ends with the service, while everything else goes on."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kit.migrations import write_migrations
from kit.processes import alive, command_line, descendants, until
from kit.web import BACKUP, STATUS, TOKEN, Serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection
    from psycopg.rows import TupleRow

    from kit.databases import Database
    from kit.processes import Run

    Serve = Callable[..., Serving]

PROMISE = 2.0
UTC = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
WAITS = """
    SELECT pid FROM pg_locks
    WHERE relation = 'held'::regclass AND mode = 'AccessShareLock' AND NOT granted
"""


@dataclass(frozen=True)
class Backups:
    """A service with a backup directory, and a table that `pg_dump` can be made to wait for."""

    database: Database
    directory: Path
    serving: Serving
    holder: Connection[TupleRow]

    def hold(self) -> None:
        self.holder.execute("BEGIN")
        self.holder.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")

    def let_go(self) -> None:
        self.holder.execute("ROLLBACK")

    def post(self, status: int = 202) -> dict[str, Any]:
        answer = self.serving.ask(BACKUP, method="POST")
        assert answer.status == status, answer
        assert answer.json["success"] is (status == 202)
        return answer.json

    def report(self) -> dict[str, Any]:
        answer = self.serving.ask(BACKUP)
        assert answer.status == 200
        found = answer.json["data"]
        assert isinstance(found, dict)
        return found

    def report_when(self, status: str) -> dict[str, Any]:
        until(lambda: self.report()["status"] == status, 30, lambda: f"{status}, but {self.report()}")
        return self.report()

    def arrival(self) -> int:
        """Wait until `pg_dump` is waiting for the table, and return its process's id."""
        until(lambda: self.database.rows(WAITS), 15, self.serving.run.report)
        (child,) = (
            child for child in descendants(self.serving.run.pid) if Path(command_line(child)[0]).name == "pg_dump"
        )
        return child

    def departure(self) -> None:
        until(lambda: not self.database.rows(WAITS), 5, "the end of pg_dump's backend")


@pytest.fixture
def backups(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run], serve: Serve, tmp_path: Path
) -> Iterator[Backups]:
    write_migrations(migrations_dir, {"001_held.sql": "CREATE TABLE held (n integer); INSERT INTO held VALUES (1);"})
    run_entrypoint("migrate", env={"DATABASE_URL": database.url}).ok()
    directory = tmp_path / "backups"
    directory.mkdir()
    path = f"{database.server.bin}:{os.environ['PATH']}"
    serving = serve(database.url, MIGRATION_BACKUP_DIR=str(directory), PATH=path)
    with database.connect() as holder:
        yield Backups(database, directory, serving, holder)


def test_a_backup_is_taken_and_told_of(backups: Backups) -> None:
    assert backups.report() == {
        "status": "none",
        "startedAt": None,
        "endedAt": None,
        "durationMs": None,
        "file": None,
        "bytes": None,
        "sha256": None,
        "error": None,
        "remedy": None,
    }
    answer = backups.serving.ask(BACKUP, method="POST")
    assert answer.status == 202
    assert answer.headers["location"] == BACKUP
    assert answer.json["success"] is True
    assert answer.json["data"]["status"] == "running"
    report = backups.report_when("succeeded")
    content = Path(report["file"]).read_bytes()
    assert [str(path) for path in backups.directory.iterdir()] == [report["file"]]
    assert report["bytes"] == len(content)
    assert report["sha256"] == hashlib.sha256(content).hexdigest()
    assert content.startswith(b"PGDMP")
    assert re.fullmatch(UTC, report["startedAt"])
    assert re.fullmatch(UTC, report["endedAt"])
    assert report["durationMs"] > 0
    assert (report["error"], report["remedy"]) == (None, None)
    taken = backups.serving.run.until("backup.taken")
    assert taken["backup"] == report["file"], "its log comes in the service's own"
    assert not descendants(backups.serving.run.pid)


def test_one_at_a_time_and_everything_else_goes_on(backups: Backups) -> None:
    backups.hold()
    backups.post()
    backups.arrival()
    for _ in range(3):
        refused = backups.post(409)
        assert refused["error"] == "A backup is already running"
        assert refused["data"]["status"] == "running"
    assert backups.report()["status"] == "running"
    for path in ("/livez", "/readyz", "/badge.svg"):
        answer = backups.serving.ask(path)
        assert (answer.status, answer.seconds < 2) == (200, True)
    assert backups.serving.data()["status"] == "up_to_date"
    backups.let_go()
    first = backups.report_when("succeeded")["file"]
    backups.post()
    second = backups.report_when("succeeded")["file"]
    assert first != second
    assert len(list(backups.directory.iterdir())) == 2


@pytest.mark.thorough
def test_a_hundred_at_once_are_one(backups: Backups) -> None:
    from concurrent.futures import ThreadPoolExecutor

    backups.hold()
    with ThreadPoolExecutor(max_workers=20) as pool:
        statuses = [*pool.map(lambda _: backups.serving.ask(BACKUP, method="POST").status, range(100))]
    assert sorted(statuses) == [202] + [409] * 99
    backups.let_go()
    backups.report_when("succeeded")
    assert len(list(backups.directory.iterdir())) == 1


@pytest.mark.thorough
def test_one_that_fails_is_told_with_its_reason_and_does_not_stand_in_the_way(backups: Backups) -> None:
    backups.directory.rename(backups.directory.with_name("elsewhere"))
    backups.post()
    report = backups.report_when("failed")
    assert report["error"] == f"The backup directory {backups.directory} does not exist"
    assert report["remedy"].startswith("Mount the volume or create the directory")
    assert (report["file"], report["bytes"], report["sha256"]) == (None, None, None)
    assert backups.serving.run.until("backup.failed")["level"] == "error"
    backups.directory.with_name("elsewhere").rename(backups.directory)
    backups.post()
    assert backups.report_when("succeeded")["error"] is None


@pytest.mark.thorough
def test_one_whose_program_is_killed(backups: Backups) -> None:
    backups.hold()
    backups.post()
    os.kill(backups.arrival(), signal.SIGKILL)
    assert "signal 9" in backups.report_when("failed")["error"]
    assert not list(backups.directory.iterdir())


@pytest.mark.thorough
def test_one_that_is_killed_as_a_whole(backups: Backups) -> None:
    backups.hold()
    backups.post()
    dump = backups.arrival()
    (child,) = (pid for pid in descendants(backups.serving.run.pid) if command_line(pid)[-1] == "backup")
    os.kill(child, signal.SIGKILL)
    assert backups.report_when("failed")["error"] == "The backup ended with exit code -9"
    until(lambda: not alive(dump), 5, "pg_dump's end")
    backups.let_go()


@pytest.mark.thorough
def test_without_a_directory_there_is_none(database: Database, migrations_dir: Path, serve: Serve) -> None:
    write_migrations(migrations_dir, {"001_a.sql": ""})
    answer = serve(database.url).ask(BACKUP, method="POST")
    assert answer.status == 501
    assert answer.json["success"] is False
    assert "MIGRATION_BACKUP_DIR" in answer.json["error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_of_the_service_is_the_end_of_its_backup(backups: Backups, number: signal.Signals) -> None:
    backups.hold()
    backups.post()
    dump = backups.arrival()
    began = time.monotonic()
    backups.serving.run.kill(number)
    assert backups.serving.run.wait(10) == 0
    assert time.monotonic() - began < PROMISE
    assert not alive(dump)
    assert not backups.serving.run.leftovers()
    assert not list(backups.directory.iterdir()), "nothing half done is left"
    backups.departure()


@pytest.mark.thorough
def test_a_backup_that_does_not_end_is_killed_in_time(backups: Backups) -> None:
    """Even though the service also has something else to wait for: a client that waits for the database."""
    backups.serving.data()
    ((backend,),) = backups.database.rows(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'entrypoint:%'"
    )
    backups.hold()
    backups.post()
    dump = backups.arrival()
    (child,) = (pid for pid in descendants(backups.serving.run.pid) if command_line(pid)[-1] == "backup")
    time.sleep(1.1)  # so that nothing is cached any more
    os.kill(backend, signal.SIGSTOP)
    try:
        with backups.serving.connect() as client:
            client.sendall(f"GET {STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
            backups.serving.ask("/livez")  # came later, so the other one must be waiting by now
            os.kill(child, signal.SIGSTOP)
            began = time.monotonic()
            backups.serving.run.terminate()
            assert backups.serving.run.wait(10) == 0
            assert time.monotonic() - began < PROMISE
            assert client.recv(65536).startswith(b"HTTP/1.1 503 ")
    finally:
        os.kill(backend, signal.SIGCONT)
    assert not alive(child)
    until(lambda: not alive(dump), 5, "pg_dump's end")
    assert not backups.serving.run.leftovers()


@pytest.mark.thorough
def test_a_module_in_the_working_directory_is_not_taken_for_the_program(backups: Backups, tmp_path: Path) -> None:
    """An image's working directory is the application's, and may contain an entrypoint.py of the application's."""
    for name in ("entrypoint.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit(99)")
    backups.post()
    backups.report_when("succeeded")


@pytest.mark.thorough
def test_a_service_that_is_killed_takes_its_backup_along(backups: Backups) -> None:
    """The unfinished file may stay, as with any backup that is killed: a later one removes it."""
    backups.hold()
    backups.post()
    dump = backups.arrival()
    backups.serving.run.kill()
    until(lambda: not alive(dump), 5, "pg_dump's end")
    until(lambda: not backups.serving.run.leftovers(), 5, "the end of all children")
    backups.departure()
    assert not list(backups.directory.glob("*.dump"))
