"""The applications in examples/, with the real tools: the tool runs once, however many replicas start."""

from __future__ import annotations

import os
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from conftest import missing
from demo.postgres import free_port
from kit.processes import until
from scene import APPLICATION, Gate, told
from tools.examples import EXAMPLES, FastApi, Knex

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Record, Run
    from scene import Told
    from tools.examples import Example

REPLICAS = 8
QUICK = bool(os.environ.get("QUICK"))
"""As in CI: a few rounds of what must hold fifty times, and the slow faults with one tool only."""
ROUNDS = 3 if QUICK else 50
# How long a guard outlives its frozen holder, with some time for a busy machine.
FROZEN = 60.0


@dataclass(frozen=True)
class Fleet:
    """An example, its database, and as many starts of its image as a test wants."""

    example: Example
    database: Database
    launch: Callable[..., Run]

    def start(self, *command: str, **env: str) -> Run:
        """Start `run` with an application that prints what it was told, or another command; do not wait."""
        environment = self.example.env(self.database.url, **env)
        return self.launch(*(command or ("run", "--", *APPLICATION)), env=environment, cwd=self.example.project)

    def run(self, **env: str) -> Told:
        """Start, wait, and return what the application was told."""
        return told(self.start(**env))

    def serve(self) -> tuple[Run, int]:
        """Start with the application itself; also return its port."""
        port = free_port()
        return self.start("run", "--", *self.example.serving(port), PORT=str(port)), port

    def prepare(self) -> None:
        """Apply the example's own migrations, and create a table for tries."""
        self.database.execute("CREATE TABLE tries (number integer)")
        assert self.run().outcome == "migrated"
        assert (self.applied, self.example.starts()) == (2, 1)

    @property
    def applied(self) -> int:
        """Return how many migrations the tool says are applied."""
        return self.example.applied(self.database)

    @property
    def tries(self) -> list[Any]:
        """Return what migrations have noted and committed."""
        return [number for (number,) in self.database.rows("SELECT number FROM tries ORDER BY 1")]


def note(number: int, before: str = "") -> str:
    """Return SQL that notes that a migration ran."""
    return f"{before}INSERT INTO tries VALUES ({number});"


def of(*kinds: type[Example]) -> pytest.MarkDecorator:
    """Run a test with these examples."""
    cases = [pytest.param(kind, id=kind.name, marks=pytest.mark.xdist_group(kind.name)) for kind in kinds]
    return pytest.mark.parametrize("kind", cases)


every = of(*EXAMPLES)
one_if_quick = of(*(EXAMPLES[:1] if QUICK else EXAMPLES))


@pytest.fixture
def fleet(kind: type[Example], database: Database, tmp_path: Path, run_entrypoint: Callable[..., Run]) -> Fleet:
    """Return an example with an empty database."""
    if reason := kind.missing():
        missing(reason)
    return Fleet(kind(tmp_path / "image"), database, run_entrypoint)


def answer(port: int) -> str:
    """Return what an application answers, or nothing while it does not listen."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/products", timeout=5) as response:
            return str(response.read().decode())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return ""


def failure(run: Run) -> Record:
    """Return the only error in the log; a traceback is the tool's own."""
    [record] = [record for record in run.logs() if record["level"] == "error"]
    return record


# --- The start ------------------------------------------------------------------------------------------


@every
def test_eight_replicas_at_once(fleet: Fleet) -> None:
    """The tool runs once, and every application answers from the tables that it created."""
    replicas = [fleet.serve() for _ in range(REPLICAS)]
    for run, port in replicas:
        said = until(lambda: answer(port), 60, run.report)  # noqa: B023 - called at once
        assert [fruit for fruit in ("apple", "pear") if fruit in said] == ["apple", "pear"]
    outcomes = Counter(run.outcome for run, _ in replicas)
    assert outcomes["migrated"] == 1, outcomes
    assert set(outcomes) <= {"migrated", "waited", "up_to_date"}, outcomes
    assert (fleet.example.starts(), fleet.applied) == (1, 2)


@of(FastApi)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_eight_replicas_at_once_again_and_again(fleet: Fleet, number: int) -> None:
    replicas = [fleet.start() for _ in range(REPLICAS)]
    outcomes = Counter(told(run).outcome for run in replicas)
    assert outcomes["migrated"] == 1, outcomes
    assert set(outcomes) <= {"migrated", "waited", "up_to_date"}, outcomes
    assert (fleet.example.starts(), fleet.applied) == (1, 2)


@every
def test_up_to_date_new_and_older_images(fleet: Fleet) -> None:
    fleet.prepare()
    assert fleet.run().outcome == "up_to_date"
    assert fleet.example.starts() == 1

    newest = fleet.example.add(3, note(3))
    outcomes = Counter(told(run).outcome for run in [fleet.start() for _ in range(3)])
    assert outcomes["migrated"] == 1, outcomes
    assert (fleet.example.starts(), fleet.applied, fleet.tries) == (2, 3, [3])
    assert fleet.run().outcome == "up_to_date"

    newest.unlink()
    fleet.example.forget(3)
    assert fleet.run().outcome == "ahead"
    assert (fleet.example.starts(), fleet.applied, fleet.tries) == (2, 3, [3])


@every
def test_a_broken_migration(fleet: Fleet) -> None:
    fleet.prepare()
    broken = fleet.example.add(3, note(3, "SELECT nothing FROM nowhere; "))
    failed = fleet.start()
    assert told(failed).outcome == "failed"
    assert "nowhere" in failed.stderr or not fleet.example.says_why
    assert failure(failed)["remedy"]
    assert fleet.start(MIGRATION_ON_FAILURE="exit").wait() == 70
    assert fleet.start("migrate").wait() == 70
    assert (fleet.applied, fleet.tries) == (2, [])

    text = broken.read_text()
    broken.write_text(text.replace("SELECT nothing FROM nowhere; ", ""))
    assert fleet.run().outcome == "migrated"
    assert (fleet.applied, fleet.tries) == (3, [3])


@every
def test_an_init_container_or_a_job_migrates(fleet: Fleet) -> None:
    """`migrate` in one container, `wait` in the others, as in k8s/; then the application finds nothing to do."""
    waiting = fleet.start("wait")
    fleet.start("migrate").ok(60)
    waiting.ok(60)
    assert fleet.run().outcome == "up_to_date"
    assert fleet.run(AUTO_MIGRATE="false").outcome == "disabled"
    fleet.start("migrate").ok()
    assert (fleet.example.starts(), fleet.applied) == (1, 2)


# --- Faults ---------------------------------------------------------------------------------------------


@every
def test_a_killed_holder(fleet: Fleet) -> None:
    """The tool and its session end with the container, and the next replica runs the tool again."""
    fleet.prepare()
    fleet.example.add(3, note(3, Gate.PASS))
    with Gate(fleet.database) as gate:
        holder = fleet.start()
        gate.arrival()
        waiter = fleet.start()
        waiter.until("lock.waiting")
        holder.kill()
        killed = time.monotonic()
        waiter.until("lock.acquired")
        assert time.monotonic() - killed < 10
        gate.arrival()
        gate.open()
        assert told(waiter).outcome == "migrated"
    assert not holder.leftovers()
    assert (fleet.applied, fleet.tries) == (3, [3])


@of(Knex)
def test_a_lock_that_stays(fleet: Fleet) -> None:
    """Outside a transaction, knex commits its own lock first. After a kill, only a person can free it."""
    fleet.prepare()
    knex = fleet.example
    assert isinstance(knex, Knex)
    knex.outside(3, note(3, Gate.PASS))
    with Gate(fleet.database) as gate:
        holder = fleet.start()
        gate.arrival()
        holder.kill()
        failed = fleet.start()
        assert told(failed).outcome == "failed"
    assert "knex migrate:unlock" in failure(failed)["remedy"]
    knex.unlock(fleet.database.url)
    assert fleet.run().outcome == "migrated"
    assert (fleet.applied, fleet.tries) == (3, [3])


@one_if_quick
def test_a_frozen_holder(fleet: Fleet) -> None:
    """PostgreSQL ends the frozen holder's guard. When the holder wakes up, its tool cannot commit anything."""
    fleet.prepare()
    fleet.example.add(3, note(3, Gate.PASS))
    with Gate(fleet.database) as gate:
        holder = fleet.start()
        gate.arrival()
        holder.kill(signal.SIGSTOP)
        waiter = fleet.start(MIGRATION_LOCK_TIMEOUT_MS="120000")
        waiter.until("lock.acquired", FROZEN)
        gate.arrival()
        holder.kill(signal.SIGCONT)
        holder.until("lock.lost")
        gate.open()
        assert told(waiter).outcome == "migrated"
        assert told(holder).outcome == "waited"
    assert (fleet.applied, fleet.tries) == (3, [3])


@of(FastApi)
def test_a_terminated_holder(fleet: Fleet) -> None:
    """As with `docker stop`: everything ends within two seconds, and the next start runs the tool again."""
    fleet.prepare()
    fleet.example.add(3, note(3, Gate.PASS))
    with Gate(fleet.database) as gate:
        holder = fleet.start()
        gate.arrival()
        holder.terminate()
        assert holder.wait(3) == 143
        assert not holder.leftovers()
    assert fleet.tries == []
    assert fleet.run().outcome == "migrated"
    assert (fleet.applied, fleet.tries) == (3, [3])
