"""`python -m demo`: three replicas start at once on an empty database, and everything is checked.

`perform` has the acts in order. `Checks` collects the promises, and whether each was kept. The exit code is 0 only if
all were.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from demo.postgres import Server, ServerError
from demo.replica import HOST, Answer, Replica, ReplicaError, await_answers, free_ports
from demo.screen import BLUE, BOLD, CYAN, GREEN, MAGENTA, RED, YELLOW, Screen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
MIGRATIONS = ROOT / "migrations"
DATABASE = "inventory"

ENTRYPOINT = [sys.executable, "-m", "entrypoint"]
APPLICATION = [sys.executable, "demo/app.py"]
REPLICA = [*ENTRYPOINT, "run", "--", *APPLICATION]

REPLICAS = ("replica-1", "replica-2", "replica-3")
ALONE = "alone"
COLOURS = dict(zip((*REPLICAS, ALONE), (CYAN, MAGENTA, YELLOW, BLUE), strict=True))

STORIES = {
    "migrated": "won the lock and migrated",
    "waited": "waited until that was done",
    "up_to_date": "found nothing left to do",
}

# Variables that a developer has set for other work must not affect the demonstration.
FOREIGN = ("PG", "DATABASE_URL", "MIGRATION", "AUTO_MIGRATE", "DB_CONNECT_", "ENTRYPOINT_")

# Errors that can occur apart from a broken promise. Anything else is a bug of ours, and shows a traceback.
TROUBLE = (
    ReplicaError,
    ServerError,
    psycopg.Error,
    HTTPException,
    subprocess.SubprocessError,
    OSError,
    ValueError,
)

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

LEDGER = """
    SELECT migration_number, filename, status, coalesce(execution_time_ms, 0), applied_at
    FROM schema_migrations
    ORDER BY migration_number, id
"""
LOCK = "SELECT locked_at, locked_by, process_id, token FROM migration_lock"


class Applied(NamedTuple):
    """One row of the ledger."""

    number: int
    filename: str
    status: str
    milliseconds: int
    applied_at: object


class Checks:
    """The demonstration's promises, and whether each was kept."""

    def __init__(self) -> None:
        """Start with none."""
        self.results: list[tuple[str, bool]] = []

    def expect(self, claim: str, actual: object, expected: object) -> None:
        """Record whether `actual` is as expected. If not, the claim says what it is instead."""
        holds = actual == expected
        self.results.append((claim if holds else f"{claim}: no, {actual!r} instead of {expected!r}", holds))

    def fail(self, problem: str) -> None:
        """Record a problem that made further checks impossible."""
        self.results.append((problem, False))

    @property
    def all_held(self) -> bool:
        """Whether every promise was kept, and there was at least one."""
        return bool(self.results) and all(holds for _, holds in self.results)


class Demonstration:
    """The acts, and the state that they share."""

    def __init__(self, screen: Screen, server: Server, checks: Checks) -> None:
        """Prepare what all acts need; `server` must be running."""
        self.screen = screen
        self.server = server
        self.checks = checks
        self.files = sorted(path.name for path in MIGRATIONS.glob("*.sql"))
        self.latest = max(int(name.partition("_")[0]) for name in self.files)
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
            "DATABASE_URL": server.url(DATABASE),
            "MIGRATIONS_DIR": str(MIGRATIONS),
            "APP_VERSION": "demo",
            "LOG_FORMAT": "text",
        }

    def perform(self) -> None:
        """Perform all acts in order."""
        mark = self.prepare()
        with ExitStack() as stack:
            replicas = self.start_together(stack)
            answers = await_answers(replicas)
            self.compare(replicas, answers)
            ledger = self.read_ledger()
            self.stop(replicas)
        self.start_again(ledger)
        self.show_commands()
        self.read_log(mark)

    def prepare(self) -> int:
        """Create the empty database; return the size of the server's log at that time."""
        self.server.create_database(DATABASE)
        with self.server.connect() as connection:
            version = connection.info.parameter_status("server_version")
        self.screen.heading("An empty database")
        self.screen.note(f"PostgreSQL {version} on {HOST}:{self.server.port}; database {DATABASE!r} is empty.")
        self.screen.note(f"{len(self.files)} files in migrations/: {self.files[0]} to {self.files[-1]}.")
        return self.server.log_size()

    def replica(self, name: str, argv: Sequence[str], port: int) -> Replica:
        """Start a program; its lines are shown after its name."""
        prefix = self.screen.paint(f"{name:>11} |", COLOURS[name])
        return Replica(
            name,
            argv,
            port=port,
            environ=self.environ,
            cwd=ROOT,
            show=lambda line: self.screen.line(f"{prefix} {line}"),
        )

    def start_together(self, stack: ExitStack) -> list[Replica]:
        """Start the three replicas at once; `stack` ends them."""
        self.screen.heading("Three replicas start at the same moment")
        self.screen.command("entrypoint run -- python demo/app.py")
        return [
            stack.enter_context(self.replica(name, REPLICA, port))
            for name, port in zip(REPLICAS, free_ports(len(REPLICAS)), strict=True)
        ]

    def compare(self, replicas: list[Replica], answers: list[Answer]) -> None:
        """Show what each application answered, and check it."""
        self.screen.heading("Each application answers over HTTP, from tables that were not there before")
        for replica, answer in zip(replicas, answers, strict=True):
            outcome = f"{answer.outcome or 'no outcome':<10}"
            story = STORIES.get(answer.outcome or "", "")
            name = self.screen.paint(replica.name, COLOURS[replica.name])
            emphasis = (BOLD, GREEN) if answer.outcome == "migrated" else ()
            self.screen.note(
                f"{name}  {self.screen.paint(outcome, *emphasis)}  {story:<26}  "
                f"pid {replica.pid} at its start, {answer.pid} now, after {replica.answered_after:.2f} s"
            )
        first = answers[0]
        self.screen.note(f"{first.companies} companies ({', '.join(first.names)}), {first.devices} devices")

        outcomes = [answer.outcome for answer in answers]
        expect = self.checks.expect
        expect(
            "each application has the pid that its replica was started with",
            [(answer.replica, answer.pid) for answer in answers],
            [(replica.name, replica.pid) for replica in replicas],
        )
        expect("exactly one replica migrated", outcomes.count("migrated"), 1)
        expect(
            "the others waited, or found everything up to date",
            [other for other in outcomes if other not in ("migrated", "waited", "up_to_date")],
            [],
        )
        expect("no application has ENTRYPOINT_ERROR set", {answer.error for answer in answers}, {None})
        versions = {answer.schema_version for answer in answers}
        expect(f"each application knows the schema version, {self.latest}", versions, {self.latest})
        expect(
            "all three answer with the same rows",
            len({(answer.companies, answer.devices, *answer.names) for answer in answers}),
            1,
        )

    def read_ledger(self) -> list[Applied]:
        """Show the migrations with their times, and check the ledger and the lock."""
        with self.server.connect(DATABASE) as connection:
            ledger = [Applied(*row) for row in connection.execute(LEDGER)]
            locks = connection.execute(LOCK).fetchall()

        self.screen.heading("The migration history: each migration ran once")
        longest = max((row.milliseconds for row in ledger), default=0) or 1
        for row in ledger:
            name, bar = row.filename.removesuffix(".sql"), self.screen.bar(row.milliseconds / longest)
            self.screen.note(f"{name:<34} {row.milliseconds:>5} ms  {bar}")
        self.screen.note(f"{'in total':<34} {sum(row.milliseconds for row in ledger):>5} ms")

        self.checks.expect(
            f"the migration history has each of the {len(self.files)} migrations exactly once",
            [row.filename for row in ledger],
            self.files,
        )
        self.checks.expect("every migration is completed", {row.status for row in ledger}, {"completed"})
        self.checks.expect("the lock is free", locks, [(None, None, None, None)])
        return ledger

    def stop(self, replicas: list[Replica]) -> None:
        """Stop the applications as a container runtime does."""
        codes = [replica.stop() for replica in replicas]
        self.checks.expect("SIGTERM reaches each application, which exits with 0", codes, [0] * len(codes))

    def start_again(self, ledger: list[Applied]) -> None:
        """Start one replica on the finished schema, and compare its time with the application alone."""
        self.screen.heading("The next start has nothing to do")
        port, port_alone = free_ports(2)
        self.screen.command("entrypoint run -- python demo/app.py")
        with self.replica(REPLICAS[0], REPLICA, port) as replica:
            (answer,) = await_answers([replica])
            code = replica.stop()
        self.screen.command("python demo/app.py")
        with self.replica(ALONE, APPLICATION, port_alone) as alone:
            await_answers([alone])
            alone.stop()
        self.screen.note(
            f"Outcome {answer.outcome}. From the start of the process to the first HTTP answer: "
            f"{self.screen.paint(f'{replica.answered_after:.2f} s', BOLD)}."
        )
        self.screen.note(f"The application alone, without entrypoint, takes {alone.answered_after:.2f} s.")

        self.checks.expect("a second start finds everything up to date", answer.outcome, "up_to_date")
        self.checks.expect("it also keeps its pid and exits with 0", (answer.pid, code), (replica.pid, 0))
        with self.server.connect(DATABASE) as connection:
            after = [Applied(*row) for row in connection.execute(LEDGER)]
        self.checks.expect("it does not change the migration history", after, ledger)

    def show_commands(self) -> None:
        """Show what an operator sees."""
        self.screen.heading("What an operator sees")
        for command in ("status", "version"):
            self.screen.command(f"entrypoint {command}")
            for line in self.run(command).splitlines():
                self.screen.note(line)
        status = json.loads(self.run("status", "--json"))
        self.checks.expect("the status is up to date", status.get("status"), "up_to_date")
        self.checks.expect("at the latest version", status.get("currentVersion"), self.latest)

    def read_log(self, mark: int) -> None:
        """Check what the server has logged since `mark`."""
        log = self.server.log_text(mark).splitlines()
        faults = [line for line in log if any(f"{word}: " in line for word in ("ERROR", "FATAL", "PANIC"))]
        self.checks.expect("PostgreSQL's own log contains no error", faults, [])

    def run(self, *arguments: str) -> str:
        """Run one of our commands, check its exit code, and return its output."""
        done = subprocess.run(
            [*ENTRYPOINT, *arguments],
            env=self.environ,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if done.stderr:
            self.screen.line(done.stderr.rstrip())
        self.checks.expect(f"entrypoint {' '.join(arguments)} exits with 0", done.returncode, 0)
        return done.stdout


def answers_on(port: int) -> bool:
    """Tell whether anything listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class Interrupted(KeyboardInterrupt):
    """We should end: because of Ctrl-C, SIGTERM, or a closed terminal."""

    def __init__(self, number: int) -> None:
        """Take the signal's number, for the exit code."""
        super().__init__()
        self.number = number


def interrupt(number: int, _frame: FrameType | None) -> None:
    """Turn the first signal into an exception, so that everything is cleaned up. Later signals are ignored."""
    for other in ENDINGS:
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)


def main() -> int:
    """Run the demonstration; return the exit code."""
    screen = Screen(sys.stdout, os.environ)
    for number in ENDINGS:
        signal.signal(number, interrupt)
    checks = Checks()
    began = time.monotonic()
    try:
        with Server() as server:
            Demonstration(screen, server, checks).perform()
        checks.expect("the server is gone again", answers_on(server.port), expected=False)
    except Interrupted as interruption:
        screen.line(screen.paint("Interrupted: everything has been stopped.", RED))
        return 128 + interruption.number
    except TROUBLE as error:
        checks.fail(f"the demonstration could not continue: {str(error).strip()}")

    screen.heading("The promises, and whether they were kept")
    for claim, holds in checks.results:
        screen.verdict(claim, holds=holds)
    screen.line()
    kept = sum(holds for _, holds in checks.results)
    total = f"{kept} of {len(checks.results)} promises kept, in {time.monotonic() - began:.1f} s"
    screen.line(screen.paint(total, BOLD, GREEN if checks.all_held else RED))
    return 0 if checks.all_held else 1


if __name__ == "__main__":
    sys.exit(main())
