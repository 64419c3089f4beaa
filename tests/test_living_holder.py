"""A waiter waits for a living holder until the holder's time is up, unless MIGRATION_LOCK_TIMEOUT_MS is set.

The 30 s default is shorter here, so that a test can soon see what follows; one test waits for the real one.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from kit.pooler import executable, pooler
from kit.processes import until
from scene import APPLICATION, Gate, Scene, lock_key, only_error, token_of, told

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database
    from kit.processes import Record, Run

IMPATIENT = Path(__file__).parent / "kit" / "programs" / "impatient.py"
DEFAULT_MS = 700

ANOTHER = {"002_b.sql": "CREATE TABLE b ()"}
GATED = {"001_gate.sql": f"{Gate.PASS} CREATE TABLE a ()"}


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_program: Callable[..., Run]) -> Scene:
    def launch(*args: str, env: dict[str, str]) -> Run:
        return run_program([sys.executable, IMPATIENT, str(DEFAULT_MS), *args], env=env)

    return Scene(database, migrations_dir, launch)


def has_waited(run: Run, seconds: float) -> Record:
    """Check that a run has waited for the lock for this long, and still waits."""
    first = run.until("lock.waiting")
    began = time.monotonic()
    until(lambda: time.monotonic() - began > seconds, seconds + 5, "time to pass")
    assert run.running, run.report()
    assert not run.logs("lock.timeout"), run.report()
    return first


@pytest.mark.case("B13")
@pytest.mark.parametrize("started", ["by the same release", "at the holder's second start"])
def test_a_healthy_holder_is_waited_for(scene: Scene, started: str) -> None:
    if started != "by the same release":
        scene.write({"000_x.sql": "SELECT 1"})
        scene.migrated()
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        gate.arrival()
        row = scene.lock()
        assert (row["guard_pid"], row["guard_token"]) == (scene.guard_pid(token), token)
        waiters = [scene.start(), scene.start()]
        for waiter in waiters:
            assert "process" in has_waited(waiter, 3 * DEFAULT_MS / 1000)["message"]
        gate.open()
        assert told(leader).outcome == "migrated"
        assert [told(waiter).outcome for waiter in waiters] == ["waited", "waited"]
    assert scene.lock_is_free(), scene.lock()


@pytest.mark.case("B13")
def test_a_time_out_that_is_set_is_a_hard_limit(scene: Scene) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start()
        gate.arrival()
        waiter = scene.start(MIGRATION_LOCK_TIMEOUT_MS=DEFAULT_MS)
        assert told(waiter).outcome == "failed"
        assert f"after {DEFAULT_MS}ms" in only_error(waiter)["message"]
        gate.open()
        assert told(leader).outcome == "migrated"


def test_time_that_a_file_declares_counts(scene: Scene) -> None:
    scene.write({"001_gate.sql": f"-- entrypoint: timeout = 10min\n{Gate.PASS} CREATE TABLE a ()"})
    with Gate(scene.database) as gate:
        leader = scene.start(MIGRATION_TIMEOUT_MS=1000)
        gate.arrival()
        left = scene.database.one("SELECT extract(epoch FROM until - clock_timestamp()) FROM migration_lock")
        assert 590 < float(str(left)) <= 601
        waiter = scene.start(MIGRATION_TIMEOUT_MS=1000)
        has_waited(waiter, 1 + 2 * DEFAULT_MS / 1000)
        gate.open()
        assert (told(leader).outcome, told(waiter).outcome) == ("migrated", "waited")


@pytest.mark.thorough
def test_a_guard_that_was_won_back_is_known_again(scene: Scene) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start(MIGRATION_DDL_LOCK_TIMEOUT_MS=60000)
        token = token_of(leader)
        gate.arrival()
        guard = scene.guard_pid(token)
        scene.database.execute("SELECT pg_terminate_backend(%s)", (guard,))
        leader.until("lock.guard_regained")
        until(lambda: scene.lock()["guard_pid"] == scene.guard_pid(token) != guard, 15, "the guard's new process")
        waiter = scene.start()
        has_waited(waiter, 3 * DEFAULT_MS / 1000)
        gate.open()
        assert (told(leader).outcome, told(waiter).outcome) == ("migrated", "waited")


@pytest.mark.thorough
def test_a_holder_that_has_locked_the_ledger_is_waited_for(scene: Scene) -> None:
    """Replicas that start later cannot even read what is pending."""
    scene.write({"001_a.sql": "SELECT 1"})
    scene.migrated()
    scene.write({"002_gate.sql": f"LOCK TABLE schema_migrations; {Gate.PASS} CREATE TABLE a ()"})
    with Gate(scene.database) as gate:
        leader = scene.start()
        gate.arrival()
        late = scene.start()
        for _ in range(3):  # each look takes at least 0.5 s
            count = len(late.logs("ledger.locked"))
            until(lambda count=count: len(late.logs("ledger.locked")) > count, 10, "another look")  # type: ignore[misc]
        assert late.running, late.report()
        gate.open()
        assert told(leader).outcome == "migrated"
        assert told(late).outcome in ("waited", "up_to_date")


@pytest.mark.sampled(3)
@pytest.mark.case("B13", "C9")
@pytest.mark.parametrize("mode", ["", "_shared"], ids=["exclusive", "shared"])
@pytest.mark.parametrize("second", [False, True], ids=["guard's key", "session's key"])
def test_a_stranger_that_holds_the_key_is_named(scene: Scene, mode: str, *, second: bool) -> None:
    scene.write({"001_a.sql": "SELECT 1"})
    scene.migrated()
    scene.write(ANOTHER)
    with scene.database.connect() as other:
        other.execute("SET application_name = 'a curious person'")
        first, key = lock_key().split(", ")
        other.execute(f"SELECT pg_advisory_lock{mode}({int(first) + second}, {key})")
        waiter = scene.start("migrate")
        assert waiter.wait() == 75
        error = only_error(waiter)
        assert f"server process {other.info.backend_pid} (a curious person)" in error["message"]
        assert f"after {DEFAULT_MS}ms" in error["message"]
        assert f"pg_terminate_backend({other.info.backend_pid})" in error["remedy"]


def test_a_guard_whose_row_is_not_written_yet_is_no_stranger(scene: Scene, run_entrypoint: Callable[..., Run]) -> None:
    """A moment passes between the lock and the row, and the page about strangers says how to end their sessions."""
    scene.write({"001_a.sql": "SELECT 1"})
    scene.migrated()
    scene.write(ANOTHER)
    with scene.database.connect() as guard:
        guard.execute("SET application_name = 'entrypoint:0123456789abcdef'")
        guard.execute(f"SELECT pg_advisory_lock({lock_key()})")
        waiter = run_entrypoint("migrate", env={"DATABASE_URL": scene.database.url})
        assert "another session has just taken it" in waiter.until("lock.waiting")["message"]
        # But a lock that stays without a row is reported.
        stranger = f"server process {guard.info.backend_pid} (entrypoint:0123456789abcdef) has its key"
        waiter.until(lambda record: stranger in record["message"])
        guard.execute("SELECT pg_advisory_unlock_all()")
        assert waiter.wait() == 0, waiter.report()


@pytest.mark.sampled(3)
@pytest.mark.case("B13")
@pytest.mark.parametrize(
    ("guard_token", "ends", "seconds"),
    [
        pytest.param("0123456789abcdef.1", "1 second", 1.0, id="ours"),
        pytest.param("0123456789abcdef.1", "-1 hour", 0.0, id="ours, late"),
        pytest.param("0123456789abcdef.1", "infinity", 0.0, id="ours, with a time that is none"),
        pytest.param("fedcba9876543210.1", "-1 hour", 3.0, id="an earlier release's"),
        pytest.param("fedcba9876543210.1", "1 hour", 3.0, id="an earlier release's, after one of ours"),
    ],
)
def test_when_the_holder_s_time_is_over_the_default_counts(
    scene: Scene, guard_token: str, ends: str, seconds: float
) -> None:
    """A holder of an earlier release has as much time as we have.

    It leaves in the row what a holder of this release wrote; through a pooler, even its server process may be the same.
    """
    scene.write({"001_a.sql": "SELECT 1"})
    scene.migrated()
    scene.write(ANOTHER)
    with scene.database.connect() as guard:
        guard.execute(f"SELECT pg_advisory_lock({lock_key()})")
        taken = time.monotonic()
        guard.execute(
            "UPDATE migration_lock SET locked_at = clock_timestamp(), locked_by = 'earlier', process_id = 7,"
            " token = '0123456789abcdef.1', guard_token = %s, guard_pid = pg_backend_pid(),"
            " until = CASE WHEN %s THEN 'infinity' ELSE clock_timestamp() + %s::text::interval END",
            (guard_token, ends == "infinity", ends if ends != "infinity" else "0"),
        )
        waiter = scene.start("migrate", MIGRATION_TIMEOUT_MS=3000)
        assert waiter.wait() == 75
        waited = int(only_error(waiter)["message"].partition(" lock after ")[2].partition("ms")[0])
        longest = (seconds + 1.5) * 1000 + 2 * DEFAULT_MS
        assert waited < longest, waiter.report()
        # The time counts from the start that the holder's row records, since the waiter may have come later. The time
        # it waited before it saw the holder counts too; on a busy machine that is a few hundredths of a second.
        assert time.monotonic() - taken >= seconds + DEFAULT_MS / 1000 - 0.3


def test_the_default_is_a_hard_limit_beside_the_earlier_system(scene: Scene) -> None:
    scene.write({"001_a.sql": "SELECT 1"})
    scene.migrated()
    scene.write(ANOTHER)
    scene.database.execute("UPDATE migration_lock SET locked_at = now(), locked_by = 'earlier-1', process_id = 4242")
    waiter = scene.start("migrate")
    assert waiter.wait() == 75
    assert f"after {DEFAULT_MS}ms: earlier-1" in only_error(waiter)["message"]


@pytest.mark.case("B13")
def test_through_a_pooler(scene: Scene) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    scene.write(GATED)
    with pooler(scene.database.server, pool_size=6) as port, Gate(scene.database) as gate:
        url = scene.database.url_at(port)
        leader = scene.start(url=url)
        gate.arrival()
        waiter = scene.start(url=url)
        has_waited(waiter, 3 * DEFAULT_MS / 1000)
        gate.open()
        assert (told(leader).outcome, told(waiter).outcome) == ("migrated", "waited")


@pytest.mark.parametrize("limit", [[], ["--timeout", "1.5"]], ids=["by default", "with a limit"])
def test_wait_waits_for_a_living_holder_unless_it_is_told_how_long(scene: Scene, limit: list[str]) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start()
        gate.arrival()
        waiter = scene.start("wait", *limit, MIGRATION_TIMEOUT_MS=1500)
        if limit:
            assert waiter.wait() == 75
            assert "Waited 1.5 s" in only_error(waiter)["message"]
        else:
            waiter.until("wait.waiting")
            until(lambda: len(waiter.logs("wait.waiting")) == 2, 15, "another report, 5 s later")
        gate.open()
        assert told(leader).outcome == "migrated"
        assert waiter.wait() == (75 if limit else 0)


@pytest.mark.thorough
@pytest.mark.case("B13")
@pytest.mark.timeout(180)
def test_eight_replicas_beside_a_migration_that_takes_longer_than_the_default(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_long.sql": "CREATE TABLE a (); SELECT pg_sleep(45);"})
    env = {"DATABASE_URL": database.url}
    replicas = [run_entrypoint("run", "--", *APPLICATION, env=env) for _ in range(8)]
    outcomes = sorted(told(replica.ok(120)).outcome for replica in replicas)
    assert outcomes == ["migrated"] + ["waited"] * 7, "\n".join(replica.report() for replica in replicas)
