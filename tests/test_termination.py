"""The reason for a failure in /dev/termination-log, as in a container in Kubernetes: here in a /dev of our own."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING, Protocol

import pytest

from conftest import missing
from demo.postgres import HOST, free_port
from kit.migrations import write_migrations
from kit.processes import PROGRAM
from scene import errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

pytestmark = pytest.mark.cold

# It has its own mount namespace, so its mounts disappear with the process.
PREPARE = """\
set -e
mkdir -p dev
mount -t tmpfs none dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
case $KIND in
    file) touch dev/termination-log; mount --bind termination-log dev/termination-log ;;
    read-only) touch dev/termination-log; mount --bind termination-log dev/termination-log
        mount -o remount,ro,bind dev/termination-log ;;
    fifo) mkfifo dev/termination-log ;;
    fifo-with-reader) touch dev/termination-log; mount --bind fifo dev/termination-log ;;
    device) touch dev/termination-log; mount --bind /dev/full dev/termination-log ;;
    directory) mkdir dev/termination-log ;;
    absent) ;;
esac
mount --rbind dev /dev
unset KIND
exec "$@"
"""


class Container(Protocol):
    """Start `entrypoint` with its own /dev."""

    def __call__(self, *args: str, kind: str = "file", stderr: int | None = None, **env: str) -> Run:
        """`kind` is what /dev/termination-log is, and `stderr` a descriptor to log to."""


@pytest.fixture
def message(tmp_path: Path) -> Path:
    """Return the file that is /dev/termination-log in the container, with old text in it."""
    path = tmp_path / "termination-log"
    path.write_text("what an earlier program left, longer than what comes: " + "x" * 5000)
    return path


@pytest.fixture
def container(run_program: Callable[..., Run], message: Path, migrations_dir: Path) -> Container:
    unshare = ["unshare", "--mount"]
    probe = [*unshare, "mount", "-t", "tmpfs", "none", str(migrations_dir)]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        missing("no permission to make a mount namespace (unshare --mount)")

    def start(*args: str, kind: str = "file", stderr: int | None = None, **env: str) -> Run:
        program = [*PROGRAM, *args]
        return run_program([*unshare, "sh", "-c", PREPARE, "sh", *program], env={"KIND": kind, **env}, stderr=stderr)

    return start


@pytest.fixture
def nowhere() -> str:
    return f"postgresql://nobody:s3cret%21@{HOST}:{free_port()}/nothing"


def untouched(message: Path) -> bool:
    return message.read_text().startswith("what an earlier program left")


@pytest.mark.parametrize("command", [("migrate",), ("run", "--", "true")], ids=["migrate", "run"])
def test_a_failure(container: Container, message: Path, nowhere: str, command: tuple[str, ...]) -> None:
    run = container(*command, DATABASE_URL=nowhere, MIGRATION_ON_FAILURE="exit", DB_CONNECT_ATTEMPTS="1")
    assert run.wait() == 69
    (error,) = errors(run)
    assert message.read_text() == f"{error['message']}\nFix: {error['remedy']}"
    assert error["message"].startswith("Database connection failed after 1 attempt: connection refused")


def test_a_migration_that_fails(container: Container, message: Path, database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_bad.sql": "SELECT nonsense"})
    assert container("migrate", DATABASE_URL=database.url).wait() == 70
    first, fix = message.read_text().splitlines()
    assert first == '001_bad.sql:1: column "nonsense" does not exist; it was rolled back and recorded as failed'
    assert fix.startswith("Fix: Correct the file and deploy it. If the cause was outside the file")


def test_a_migration_command_that_fails(container: Container, message: Path, database: Database) -> None:
    command = "sh -c 'echo the disk of the tool is full; exit 3'"
    run = container(
        "run", "--", "true", DATABASE_URL=database.url, MIGRATION_COMMAND=command, MIGRATION_ON_FAILURE="exit"
    )
    assert run.wait() == 70
    first, *_ = message.read_text().splitlines()
    assert first.endswith("failed with exit code 3: the disk of the tool is full")
    assert "The next start runs it again." in message.read_text()


@pytest.mark.thorough
def test_an_image_below_the_floor(
    container: Container, message: Path, database: Database, migrations_dir: Path
) -> None:
    """What `kubectl describe` shows if somebody starts an older image after the contract."""
    drop = "-- entrypoint: phase = after\n-- entrypoint: floor = 002_drop.sql\nSELECT 1"
    write_migrations(migrations_dir, {"001_a.sql": "SELECT 1", "002_drop.sql": drop})
    assert container("migrate", "--phase", "after", DATABASE_URL=database.url).wait() == 0
    (migrations_dir / "002_drop.sql").unlink()
    assert container("run", "--", "true", DATABASE_URL=database.url, MIGRATION_ON_FAILURE="exit").wait() == 78
    first, *_ = message.read_text().splitlines()
    assert first.startswith("This image is too old for the schema: it does not contain 002_drop.sql")
    assert "Fix: Start an image that has that file." in message.read_text()


def test_all_faults_of_the_files_as_far_as_there_is_room(
    container: Container, message: Path, migrations_dir: Path
) -> None:
    write_migrations(migrations_dir, {f"{number}-größe.sql": "" for number in range(3)})
    assert container("migrate").wait() == 65
    lines = message.read_text(encoding="utf-8").splitlines()
    assert [line.partition(":")[0] for line in lines[1:-1]] == [f"- {number}-größe.sql" for number in range(3)]
    write_migrations(migrations_dir, {f"{number}-größe.sql": "" for number in range(200)})
    assert container("migrate").wait() == 65
    assert 4000 < len(message.read_bytes()) <= 4096
    assert message.read_text(encoding="utf-8").splitlines()[-1].startswith("Fix: Correct the files")


def test_no_password(container: Container, message: Path, nowhere: str) -> None:
    run = container("migrate", "postgresql://x:s3cret%21@h/d", DATABASE_URL=nowhere)
    assert run.wait() == 64
    assert "does not take the argument" in message.read_text().lower()
    assert "s3cret" not in message.read_text()
    assert container("migrate", DATABASE_URL=nowhere.replace("%21@", "@x@"), DB_CONNECT_ATTEMPTS="1").wait() == 78
    assert "DATABASE_URL is malformed" in message.read_text()
    assert "s3cret" not in message.read_text()


def test_bad_settings(container: Container, message: Path) -> None:
    run = container("run", "--", "true", MIGRATION_ON_FAILURE="exit", MIGRATION_TIMEOUT_MS="5s", LOG_LEVEL="loud")
    assert run.wait() == 78
    assert "\n- MIGRATION_TIMEOUT_MS is '5s'" in message.read_text()
    assert "\n- LOG_LEVEL is 'loud'" in message.read_text()


@pytest.mark.every_case
@pytest.mark.parametrize(("command", "code"), [("no-such-program", 127), ("/etc", 126)])
def test_an_application_that_cannot_be_executed(container: Container, message: Path, command: str, code: int) -> None:
    assert container("run", "--", command, AUTO_MIGRATE="false").wait() == code
    assert message.read_text().startswith(f"Cannot start the application: {command}: ")


def test_a_command_line_that_says_nothing(container: Container, message: Path) -> None:
    assert container("run").wait() == 64
    assert message.read_text().startswith("run needs a command to start\nFix: entrypoint run -- ")


def test_nothing_if_the_application_starts_all_the_same(container: Container, message: Path, nowhere: str) -> None:
    container("run", "--", "true", DATABASE_URL=nowhere, DB_CONNECT_ATTEMPTS="1").ok()
    assert untouched(message)


def test_nothing_after_a_success_or_a_signal(
    container: Container, message: Path, database: Database, nowhere: str
) -> None:
    container("migrate", DATABASE_URL=database.url).ok()
    run = container("migrate", DATABASE_URL=nowhere, DB_CONNECT_BACKOFF_MS="60000")
    run.until("database.retry")
    run.kill(signal.SIGTERM)
    assert run.wait() == 143
    assert untouched(message)


@pytest.mark.parametrize("command", ["status", "version"])
def test_nothing_from_commands_beside_the_containers_own_program(
    container: Container, message: Path, nowhere: str, command: str
) -> None:
    assert container(command, DATABASE_URL=nowhere, DB_CONNECT_ATTEMPTS="1").wait() == 69
    assert untouched(message)


def test_nothing_from_a_terminal(container: Container, message: Path) -> None:
    """As with `kubectl exec -it`."""
    master, slave = os.openpty()
    try:
        assert container("migrate", "--bogus", stderr=slave).wait() == 64
        assert b"--bogus" in os.read(master, 4096)
    finally:
        os.close(master)
        os.close(slave)
    assert untouched(message)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["absent", "fifo", "device", "directory", "read-only"])
def test_a_file_that_cannot_be_written_is_let_be(container: Container, message: Path, nowhere: str, kind: str) -> None:
    run = container("migrate", kind=kind, DATABASE_URL=nowhere, DB_CONNECT_ATTEMPTS="1")
    assert run.wait() == 69
    assert len(errors(run)) == 1
    assert untouched(message)


@pytest.mark.thorough
def test_the_file_is_never_created(container: Container, nowhere: str) -> None:
    script = f"{shlex.join(PROGRAM)} migrate; echo $?; ls /dev/termination-log 2>&1; true"
    run = container(
        "run",
        "--",
        "sh",
        "-c",
        script,
        kind="absent",
        DATABASE_URL=nowhere,
        AUTO_MIGRATE="false",
        DB_CONNECT_ATTEMPTS="1",
    ).ok()
    code, listing = run.stdout.splitlines()
    assert code == "69"
    assert "No such file" in listing


def test_a_pipe_with_a_reader_gets_nothing(container: Container, tmp_path: Path, nowhere: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)
    try:
        assert container("migrate", kind="fifo-with-reader", DATABASE_URL=nowhere, DB_CONNECT_ATTEMPTS="1").wait() == 69
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
    finally:
        os.close(reader)
