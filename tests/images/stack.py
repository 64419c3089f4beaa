"""The shipped Compose files, run by docker-compose in an engine with a separate network."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from images.kit.container import Container
from images.kit.engine import client
from kit.processes import Run, StillWaitingError, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from images.kit.engine import Engine

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
PROGRAMS = Path(__file__).parent / "programs"

FRONT = "http://127.0.0.1:8080"
STATUS = "http://127.0.0.1:3001"
REPLICAS = 3
PATIENCE = 240


class Stack:
    """A copy of compose/ with its own secrets, as a Compose project; a context manager that leaves nothing behind."""

    def __init__(self, engine: Engine, directory: Path, *files: str, version: str = "1", **variables: str) -> None:
        """Copy the files and create the secrets; nothing is started yet.

        `files` are used in addition to compose.yaml, `version` is the application's, and `variables` are for the files.
        """
        self.engine = engine
        self.directory = directory / "compose"
        shutil.copytree(COMPOSE, self.directory, ignore=shutil.ignore_patterns("secrets"))
        # Also let anything that calls `docker` use the client that belongs to the daemon.
        path = f"{Path(client()).parent}:{engine.environment['PATH']}"
        self.variables = {"PATH": path, "COMPOSE_FILE": ":".join(("compose.yaml", *files)), **variables}
        self.version = version
        self._runs: list[Run] = []
        self.output = self.engine.command("./make-secrets", cwd=self.directory).stderr

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove containers, networks and volumes."""
        for run in self._runs:
            run.close()
        leftovers = self.engine.run("ps", "--all", "--quiet").stdout.split()
        if leftovers:
            self.engine.run("rm", "--force", "--volumes", *leftovers)
        self.compose("down", "--volumes", "--remove-orphans")

    # Commands, as in the documentation

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables for the commands below."""
        return {**self.variables, "SHOP_VERSION": self.version}

    def compose(self, *arguments: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run docker-compose."""
        done = self.engine.command(
            "docker-compose", *arguments, check=check, timeout=timeout, env=self.environment, cwd=self.directory
        )
        self.output += done.stdout + done.stderr
        return done

    def upgrade(self, version: str, *, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ./upgrade to another version."""
        self.version = version
        self.variables |= variables
        environment = {**self.environment, "COMPOSE": "docker-compose"}
        done = self.engine.command("./upgrade", check=check, timeout=900, env=environment, cwd=self.directory)
        self.output += done.stdout + done.stderr
        return done

    def spawn_upgrade(self, version: str) -> Run:
        """Run ./upgrade to another version, without waiting for its end."""
        self.version = version
        environment = {**self.engine.environment, **self.environment, "COMPOSE": "docker-compose"}
        return self._spawn([self.directory / "upgrade"], env=environment)

    def up(self) -> None:
        """Start everything, and wait until all replicas are healthy and the balancer sends them requests."""
        self.compose("up", "--detach")
        self.until_serving()

    def until_serving(self, replicas: int = REPLICAS) -> None:
        """Wait until this many replicas get requests."""
        awaited = lambda: f"{replicas} replicas at the balancer, of {self.replicas()}"  # noqa: E731 - a message
        until(calmly(lambda: self.serving() >= replicas), PATIENCE, awaited)

    def serving(self) -> int:
        """Return how many replicas the balancer sends requests to; 0 if it does not say."""
        done = self.engine.run(
            "exec", self.service("balancer").name, "wget", "-q", "-O", "-", "http://127.0.0.1:8404/", check=False
        )
        return int(done.stdout) if done.returncode == 0 else 0

    # What there is

    def containers(self, service: str) -> list[Container]:
        """Return the containers of a service, the oldest first, including those that have ended."""
        label = f"label=com.docker.compose.service={service}"
        one_off = "label=com.docker.compose.oneoff=False"
        listed = self.engine.run("ps", "--all", "--quiet", "--no-trunc", "--filter", label, "--filter", one_off)
        found = [Container(self.engine, name) for name in listed.stdout.split()]
        return sorted(found, key=lambda container: container.state("{{.Created}}"))

    def service(self, name: str) -> Container:
        """Return the only container of a service."""
        (container,) = self.containers(name)
        return container

    def replicas(self) -> list[Container]:
        """Return the application's containers."""
        return self.containers("app")

    def sql(self, text: str) -> str:
        """Return what psql in the database's container prints: one line per row, `|` between columns."""
        return self.service("db").exec("psql", "-U", "shop", "-XAtqc", text, "shop").stdout.strip()

    def session(self, text: str) -> Session:
        """Run `text` in a psql session that stays open until `close()`, and wait until it is done."""
        psql = ["exec", "--interactive", self.service("db").name, "psql", "-U", "shop", "-XAtq", "shop"]
        session = Session([client(), *psql], directory=self.directory, env=self.engine.environment)
        self._runs.append(session)
        session.say(f"{text};\n\\echo done\n")
        session.until_output("done", 30)
        return session

    def ledger(self) -> list[str]:
        """Return the ledger: `number status`, in order."""
        rows = "SELECT migration_number || ' ' || status FROM schema_migrations ORDER BY migration_number"
        return self.sql(rows).splitlines()

    def passwords(self) -> list[str]:
        """Return what no output may show."""
        files = ("postgres_password", "status_token")
        return [(self.directory / "secrets" / name).read_text().strip() for name in files]

    def everything_said(self) -> str:
        """Return all output of commands and containers so far, and what `docker inspect` shows of the containers."""
        names = self.engine.run("ps", "--all", "--quiet").stdout.split()
        logs = [Container(self.engine, name).output() for name in names]
        return "\n".join([self.output, *logs, self.engine.run("inspect", *names).stdout])

    # Visitors

    def ask(self, url: str, body: str = "", token: str = "") -> tuple[int, Any]:
        """Send a request from the machine, and return the status and the body, parsed if it is JSON."""
        done = self.engine.command(sys.executable, PROGRAMS / "ask.py", url, body, token)
        answer = json.loads(done.stdout)
        try:
            return answer["status"], json.loads(answer["body"])
        except json.JSONDecodeError:
            return answer["status"], answer["body"]

    def spawn_ask(self, url: str, body: str) -> Run:
        """Send a request, and return the program that waits for its answer; it prints what `ask` returns."""
        return self._spawn(self.engine.inside(sys.executable, PROGRAMS / "ask.py", url, body))

    def spawn_docker(self, *arguments: str) -> Run:
        """Run `docker` with these arguments, without waiting for its end."""
        return self._spawn([client(), *arguments], env=self.engine.environment)

    def _spawn(self, argv: Sequence[str | Path], **options: Any) -> Run:
        """Start a program, which ends with this stack at the latest."""
        run = Run(argv, directory=self.directory, **options)
        self._runs.append(run)
        return run

    def visitors(self, number: int = 6) -> Visitors:
        """Send visitors, who look and order until `result` is asked for."""
        program = PROGRAMS / "visitors.py"
        return Visitors(self._spawn(self.engine.inside(sys.executable, program, FRONT, str(number))))


class Session(Run):
    """A program that reads from us, and ends when there is no more to read."""

    def __init__(self, argv: Sequence[str | Path], **options: Any) -> None:
        """Start it."""
        super().__init__(argv, stdin=subprocess.PIPE, **options)
        assert self.process.stdin is not None
        self._mouth = self.process.stdin

    def say(self, text: str) -> None:
        """Send it `text`."""
        self._mouth.write(text.encode())
        self._mouth.flush()

    def close(self) -> None:
        """Let it end. May be called twice."""
        self._mouth.close()
        with contextlib.suppress(StillWaitingError):
            self.wait(10)
        super().close()


class Visitors:
    """Visitors who are there."""

    def __init__(self, run: Run) -> None:
        """`run` is the program that simulates them."""
        self._run = run

    def result(self) -> dict[str, Any]:
        """Call them back, and return what they have seen: the fields of `Diary` in programs/visitors.py."""
        self._run.terminate()
        self._run.ok(60)
        found: dict[str, Any] = json.loads(self._run.stdout)
        return found


def calmly(condition: Callable[[], object]) -> Callable[[], object]:
    """Return `condition` for `until`, polled less often: each time starts a program or two."""

    def asked() -> object:
        found = condition()
        if not found:
            time.sleep(0.2)
        return found

    return asked
