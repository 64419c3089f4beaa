"""A holder that is gone is replaced, and a living one is not. And a commit in doubt is settled.

ENTRYPOINT_TEST_TAKEOVERS=20 kills twenty holders; the times are printed (pytest -s).
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from entrypoint.migration.ledger import tables
from entrypoint.migration.ledger.place import Place
from faults.invariants import check_output, check_world
from faults.machinery import STANDBY_WAITERS, commits_wait, let_commits_go
from faults.stage import Budgets, Stage, pause
from kit.processes import alive, until
from kit.proxy import Proxy
from scene import Told, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from faults.machinery import Machinery
    from kit.processes import Run

TAKEOVERS = int(os.environ.get("ENTRYPOINT_TEST_TAKEOVERS", "3"))
REPLACED_AFTER_DEATH = 2.0
REPLACED_AFTER_FREEZING = 35.0
LONG = Budgets(attempts=5, backoff=100, timeout=5000, lock=60_000, migration=120_000)

# The message that writes the second migration's row and commits it.
COMMIT = b"VALUES (2, '002_step.sql'"


@pytest.fixture
def stages(machinery: Machinery, tmp_path: Path) -> Iterator[Callable[[], Stage]]:
    """Yield a function that creates a stage; there may be several at once."""
    with contextlib.ExitStack() as stack:
        count = 0

        def make() -> Stage:
            nonlocal count
            count += 1
            directory = tmp_path / str(count)
            directory.mkdir()
            return stack.enter_context(Stage(machinery, directory))

        yield make


@pytest.fixture
def stage(stages: Callable[[], Stage]) -> Stage:
    return stages()


def at_the_gate(stage: Stage) -> Run:
    """Start the subject, let it reach the gate in its second migration, and let another replica wait for it."""
    stage.budgets = LONG
    stage.close_gate()
    stage.start_subject("start")
    stage.await_gate()
    other = stage.start(direct=True)
    other.until("lock.waiting")
    return other


def moment_of(run: Run, event: str, timeout: float = 15) -> float:
    """Wait for an event and return when it was logged, on the clock of `time.time()`."""
    return datetime.fromisoformat(run.until(event, timeout)["time"]).timestamp()


def end_well(run: Run) -> Told:
    result = told(run)
    check_output(run)
    assert not [record for record in run.logs() if record["level"] == "error"], run.report()
    return result


# --- Takeover -------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.timeout(60 + 10 * TAKEOVERS)
def test_a_killed_holder_is_replaced_at_once(stages: Callable[[], Stage]) -> None:
    """It is killed in the middle of a statement that does not end by itself."""
    times = []
    for _ in range(TAKEOVERS):
        stage = stages()
        other = at_the_gate(stage)
        backends = stage.backends(guard=True) + stage.backends(guard=False)
        assert len(backends) == 2
        stage.victim.kill()
        until(lambda: not any(map(alive, backends)), 5, "the end of the dead holder's backends")  # noqa: B023
        gone = time.time()
        # The log counts in milliseconds, so the event may seem to come before our own look.
        times.append(max(moment_of(other, "lock.acquired") - gone, 0.0))
        stage.held.close()
        assert end_well(other).outcome == "migrated"
        check_world(stage)
        stage.__exit__(None, None, None)
    print(  # noqa: T201 - the result of the run
        f"\n{TAKEOVERS} takeovers, seconds after the last backend's end: "
        f"min {min(times):.2f}, median {statistics.median(times):.2f}, max {max(times):.2f}"
    )
    assert max(times) < REPLACED_AFTER_DEATH, times


@pytest.mark.thorough
@pytest.mark.timeout(120)
def test_a_holder_that_does_not_answer_is_replaced(stages: Callable[[], Stage]) -> None:
    """Three at once, since it takes so long: stopped in a statement, stopped between two, and a node that vanishes."""
    in_statement, between, vanished = stages(), stages(), stages()
    others = {id(stage): at_the_gate(stage) for stage in (in_statement, between, vanished)}
    began = time.time()
    for stage in (in_statement, between):
        stage.victim.kill(signal.SIGSTOP)
    vanished.proxy.deafen()
    vanished.victim.kill()  # The server does not learn of its end.
    between.held.close()  # The statement ends; the session now waits for its client, inside the transaction.
    took = {}
    for name, stage in (("in a statement", in_statement), ("between", between), ("vanished", vanished)):
        other = others[id(stage)]
        took[name] = moment_of(other, "lock.acquired", began + REPLACED_AFTER_FREEZING + 5 - time.time()) - began
        stage.held.close()
        assert end_well(other).outcome == "migrated"
    print(f"\nreplaced after: {', '.join(f'{name} {seconds:.1f} s' for name, seconds in took.items())}")  # noqa: T201
    assert max(took.values()) < REPLACED_AFTER_FREEZING, took

    for stage in (in_statement, between):
        stage.victim.kill(signal.SIGCONT)
        # Its own transaction is gone. It notices, says so, and finds nothing left to do.
        assert end_well(stage.victim).version == "3"
        assert stage.victim.logs("lock.guard_lost"), stage.victim.report()
        applied = [record["version"] for record in stage.victim.logs("migration.applied")]
        assert applied == [1], stage.victim.report()
    vanished.proxy.cut()
    for stage in (in_statement, between, vanished):
        check_world(stage)


def test_a_guard_that_is_lost_while_its_holder_stands_still_robs_nobody(stage: Stage) -> None:
    """Somebody else can get the guard's lock for a moment, but not the row, which the fence protects."""
    other = at_the_gate(stage)
    (guard,) = stage.backends(guard=True)
    victim = stage.victim
    victim.kill(signal.SIGSTOP)
    stage.database.rows("SELECT pg_terminate_backend(%s)", (guard,))
    stage.held.close()
    # One more connection, for the guard, means that it has competed and lost.
    connected = len(other.logs("database.connected"))
    until(lambda: len(other.logs("database.connected")) > connected, 10, other.report)
    assert not other.logs("lock.acquired")
    victim.kill(signal.SIGCONT)
    assert end_well(victim).version == "3"
    assert end_well(other).version == "3"
    in_victim = [record["version"] for record in victim.logs("migration.applied")]
    assert in_victim[:2] == [1, 2], "what was fenced was committed by its holder"
    check_world(stage)


CONTENDED_FOR = 5.0


@pytest.mark.thorough
def test_a_living_holder_that_gets_no_new_connection_is_not_robbed(stage: Stage) -> None:
    """Its guard is lost and the server admits nobody, but its worker is working, and its watcher says so in the row."""
    other = at_the_gate(stage)
    (guard,) = stage.backends(guard=True)
    until(lambda: len(stage.backends(guard=False)) == 2, 10, "the watcher's session")
    stage.proxy.refuse()
    stage.database.rows("SELECT pg_terminate_backend(%s)", (guard,))
    stage.victim.until("lock.guard_lost")
    connected = len(other.logs("database.connected"))
    until(lambda: len(other.logs("database.connected")) > connected, 10, other.report)
    pause(CONTENDED_FOR)
    assert not other.logs("lock.ended_zombie"), other.report()
    assert not other.logs("lock.acquired"), other.report()
    stage.proxy.accept()
    stage.held.close()
    assert end_well(stage.victim).version == end_well(other).version == "3"
    assert 2 in applied_by(stage.victim)
    check_world(stage)


WAITING_FOR_A_TRANSACTION = "SELECT pid FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"


def test_a_replica_that_creates_the_ledger_beside_us_is_no_failure(stage: Stage) -> None:
    """That happens only if one of the two has lost its guard. IF NOT EXISTS does not prevent it (23505)."""
    place = Place("public", True, {}, {})  # noqa: FBT003 - nothing is there yet
    with stage.database.connect() as other:
        other.execute("BEGIN")
        other.execute(tables.ddl(place).encode())
        subject = stage.start_subject("exit")
        until(lambda: stage.database.rows(WAITING_FOR_A_TRANSACTION), 15, subject.report)
        other.execute("COMMIT")
    assert end_well(subject).outcome == "migrated"
    check_world(stage)


# --- Commit in doubt ------------------------------------------------------------------------------------


def verdict_of(run: Run) -> str:
    return str(run.until("migration.commit_in_doubt")["verdict"])


def committing(stage: Stage) -> Run:
    """Bring the subject into its second COMMIT, which is on disk and waits for a standby."""
    gate = stage.close_gate()
    subject = stage.start_subject("exit")
    stage.await_gate()
    with commits_wait(stage.database):
        gate.open()
        until(lambda: stage.database.rows(STANDBY_WAITERS), 10, stage.sessions)
    return subject


def applied_by(run: Run) -> list[int]:
    return [record["version"] for record in run.logs("migration.applied")]


def test_a_commit_whose_answer_is_lost_is_in(stage: Stage) -> None:
    # From then on, the next COMMIT that the server answers is this one.
    stage.proxy.when_client_sends(COMMIT, lambda proxy: proxy.when_server_sends(b"COMMIT\0", Proxy.cut))
    subject = stage.start_subject("exit")
    assert verdict_of(subject) == "committed", subject.report()
    assert end_well(subject).outcome == "migrated"
    assert applied_by(subject) == [1, 2, 3]
    check_world(stage)


def test_a_commit_that_never_arrived_is_not_in_and_done_again(stage: Stage) -> None:
    stage.proxy.when_client_sends(COMMIT, Proxy.cut, deliver=False)
    subject = stage.start_subject("exit")
    assert verdict_of(subject) == "aborted", subject.report()
    assert end_well(subject).outcome == "migrated"
    assert applied_by(subject) == [1, 2, 3]
    check_world(stage)


def test_a_commit_that_is_still_under_way_is_waited_for(stage: Stage) -> None:
    subject = committing(stage)
    before = stage.proxy.connections
    stage.proxy.cut()
    # Reading the ledger at once would say no, so it has to ask again and again.
    until(lambda: stage.proxy.connections >= before + 4, 10, subject.report)
    assert not subject.logs("migration.commit_in_doubt"), subject.report()
    let_commits_go(stage.database)
    assert verdict_of(subject) == "committed", subject.report()
    assert end_well(subject).outcome == "migrated"
    assert applied_by(subject) == [1, 2, 3]
    check_world(stage)


@pytest.mark.thorough
def test_a_commit_that_nobody_can_know_about_in_time_is_called_unknown(stage: Stage) -> None:
    stage.budgets = stage.budgets._replace(migration=2500)
    subject = committing(stage)
    stage.proxy.cut()
    assert subject.wait(stage.budgets.promise) == 70, subject.report()
    check_output(subject)
    assert verdict_of(subject) == "unknown"
    (error,) = (record for record in subject.logs() if record["level"] == "error")
    assert "unknown" in error["message"]
    assert "failed" not in error["message"]
    let_commits_go(stage.database)
    until(lambda: stage.ours() == 0, 5, "the end of its session")
    assert stage.database.rows("SELECT migration_number, status FROM schema_migrations ORDER BY 1") == [
        (1, "completed"),
        (2, "completed"),
    ]
    check_world(stage)


@pytest.mark.thorough
@pytest.mark.sampled(2)
@pytest.mark.parametrize("arrived", [True, False], ids=["it was on disk", "it never arrived"])
def test_a_commit_during_which_the_server_was_killed(stage: Stage, arrived: bool) -> None:  # noqa: FBT001
    """After a restart, it does not ask about the transaction's number, but reads the ledger."""
    if arrived:
        subject = committing(stage)
        stage.server.kill()
    else:
        lost = stage.proxy.when_client_sends(COMMIT, Proxy.deafen, deliver=False)
        subject = stage.start_subject("exit")
        until(lost.is_set, 15, subject.report)
        stage.server.kill()
        stage.proxy.hear()
    stage.server.start()
    assert verdict_of(subject) == ("committed" if arrived else "aborted"), subject.report()
    assert end_well(subject).outcome == "migrated"
    assert applied_by(subject) == [1, 2, 3]
    check_world(stage)
