"""The lock, from outside: who gets it, who does not, and what happens when something breaks."""

from __future__ import annotations

import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from entrypoint.migration.ledger import words
from entrypoint.settings import read_settings
from kit.processes import until
from scene import (
    APPLICATION,
    LEGACY,
    Gate,
    Scene,
    application_of,
    errors,
    load_legacy,
    lock_key,
    namesake,
    only_error,
    token_of,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

GOOD = {"001_good.sql": "CREATE TABLE good ();"}
GATED = {"001_gate.sql": f"CREATE TABLE a (); {Gate.PASS}", "002_b.sql": "CREATE TABLE b ()"}
LEGACY_FILES = str(LEGACY / "migrations")

BLOCKED = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


# --- Timeouts -------------------------------------------------------------------------------------------


def test_a_time_out_tells_who_since_when_what_and_what_to_do(scene: Scene) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start(MIGRATION_DDL_LOCK_TIMEOUT_MS=1000, MIGRATION_TIMEOUT_MS=60000)
        token_of(leader)
        # The DDL lock timeout applies to the gate too: the leader retries until it opens.
        leader.until("migration.progress")
        gate.arrival()
        began = time.monotonic()
        waiter = scene.start("migrate", MIGRATION_LOCK_TIMEOUT_MS=1234)
        assert waiter.wait() == 75
        assert 1.2 < time.monotonic() - began < 4
        error = only_error(waiter)
        assert error["message"].startswith("Failed to acquire migration lock after 1234ms: ")
        row = scene.lock()
        since = datetime.fromisoformat(row["locked_at"])
        for part in (row["locked_by"], str(leader.pid), "001_gate.sql", since.strftime("%Y-%m-%dT%H:%M:%SZ")):
            assert part in error["message"], error
        assert error["holder"] == row["locked_by"]
        assert error["process_id"] == leader.pid
        assert error["file"] == "001_gate.sql"
        # The waiter waits for less time than the holder may work, which most people need to change.
        assert "MIGRATION_LOCK_TIMEOUT_MS" in error["remedy"]
        assert "To stop it: entrypoint unlock --force." in error["remedy"]
        gate.open()
        assert told(leader).outcome == "migrated"


def test_the_application_is_started_after_a_time_out(scene: Scene) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start()
        gate.arrival()
        waiter = scene.start(MIGRATION_LOCK_TIMEOUT_MS=300, MIGRATION_TIMEOUT_MS=300)
        answer = told(waiter)
        assert answer.outcome == "failed"
        assert answer.error.startswith("Failed to acquire migration lock after 300ms")
        assert "MIGRATION_LOCK_TIMEOUT_MS" not in only_error(waiter)["remedy"]
        gate.open()
        assert told(leader).outcome == "migrated"


def test_by_default_it_is_thirty_seconds() -> None:
    """The documented error gives the number from the settings, so there is no need to wait for it."""
    settings = read_settings({})
    message = words.timed_out(None, settings.lock.timeout, settings.apply.timeout).message
    assert message.startswith("Failed to acquire migration lock after 30000ms")


# --- Replicas of the earlier system ---------------------------------------------------------------------

TAKE = "UPDATE migration_lock SET locked_at = now() - interval '{age}', locked_by = 'earlier-1', process_id = 4242"
ZONES: dict[str, tuple[str, dict[str, str]]] = {
    "same zone": ("UTC", {}),
    "server in the east": ("Pacific/Auckland", {"PGTZ": "UTC"}),
    "server in the west": ("America/Los_Angeles", {"PGTZ": "UTC"}),
    "server in the east, nobody says so": ("Pacific/Auckland", {}),
    "server in the west, nobody says so": ("America/Los_Angeles", {}),
}


@pytest.mark.sampled(7)
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("upgraded", [False, True], ids=["its own table", "upgraded table"])
def test_a_fresh_row_of_the_earlier_system_is_respected(scene: Scene, zone: str, upgraded: bool) -> None:  # noqa: FBT001
    server_zone, client = ZONES[zone]
    load_legacy(scene.database)
    scene.database.execute(f"ALTER DATABASE {scene.database.name} SET timezone TO '{server_zone}'")
    if upgraded:
        scene.migrated(MIGRATIONS_DIR=LEGACY_FILES)
        scene.write({"005_more.sql": "CREATE TABLE more ()"})
        for file in (LEGACY / "migrations").iterdir():
            (scene.migrations / file.name).write_bytes(file.read_bytes())
    directory = {} if upgraded else {"MIGRATIONS_DIR": LEGACY_FILES}
    scene.database.execute(TAKE.format(age="1 minute"))
    before = scene.database.contents()
    run = scene.start("migrate", MIGRATION_LOCK_TIMEOUT_MS=700, **client, **directory)
    assert run.wait() == 75, run.report()
    error = only_error(run)
    assert "earlier-1" in error["message"]
    assert "4242" in error["message"]
    assert "entrypoint unlock, which frees a lock older than 10 minutes" in error["remedy"]
    age = re.search(r"\((\d+) s\)", error["message"])
    assert age is not None
    assert 60 <= int(age[1]) < 70, error["message"]
    assert scene.database.contents() == before


@pytest.mark.sampled(2)
@pytest.mark.parametrize("zone", ZONES)
def test_a_stale_row_of_the_earlier_system_is_taken_over(scene: Scene, zone: str) -> None:
    server_zone, client = ZONES[zone]
    load_legacy(scene.database)
    scene.database.execute(f"ALTER DATABASE {scene.database.name} SET timezone TO '{server_zone}'")
    scene.database.execute(TAKE.format(age="11 minutes"))
    answer = scene.run(MIGRATIONS_DIR=LEGACY_FILES, MIGRATION_LOCK_TIMEOUT_MS=700, **client)
    assert answer[:2] == ("migrated", "4"), answer
    assert scene.lock_is_free()


def test_how_old_a_stale_row_is_can_be_set(scene: Scene) -> None:
    scene.write(GOOD)
    scene.migrated()
    scene.write({"002_b.sql": "CREATE TABLE b ()"})
    scene.database.execute(TAKE.format(age="1 minute"))
    assert scene.migrate(MIGRATION_LOCK_STALE_MS=70000, MIGRATION_LOCK_TIMEOUT_MS=400).code == 75
    assert scene.migrate(MIGRATION_LOCK_STALE_MS=50000, MIGRATION_LOCK_TIMEOUT_MS=400).code == 0


@pytest.mark.thorough
def test_we_wait_for_the_earlier_system_to_release(scene: Scene) -> None:
    scene.write(GOOD)
    scene.migrated()
    scene.write({"002_b.sql": "CREATE TABLE b ()"})
    scene.database.execute(TAKE.format(age="1 second"))
    waiter = scene.start()
    waiter.until("lock.waiting")
    scene.database.execute("SELECT release_migration_lock()")
    assert told(waiter)[:2] == ("migrated", "2")


@pytest.mark.thorough
def test_a_time_out_behind_a_frozen_holder_does_not_call_it_alive(scene: Scene) -> None:
    """Its guard is gone and its transaction is still open, and this user may not end its session."""
    login = f"peer_{scene.database.name}"[:60]  # Roles belong to the whole server, so the name must be unique.
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start("migrate")
        token = token_of(leader)
        gate.arrival()
        scene.database.execute(
            f"CREATE ROLE {login} LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO {login};"
            f"GRANT SELECT, UPDATE, INSERT, DELETE ON migration_lock, schema_migrations TO {login}"
        )
        leader.kill(signal.SIGSTOP)
        scene.database.rows("SELECT pg_terminate_backend(%s)", [scene.guard_pid(token)])
        waiter = scene.start(
            "migrate",
            DATABASE_URL=scene.database.server.url(scene.database.name, user=login),
            MIGRATION_LOCK_TIMEOUT_MS=16000,
        )
        assert waiter.wait(30) == 75, waiter.report()
        (left,) = waiter.logs("lock.zombie_left")[:1]
        assert "as that session's own user, a member of pg_signal_backend" in left["remedy"]
        error = only_error(waiter)
        assert error["remedy"].startswith("The holder no longer responds, but a transaction of one of its sessions")
        gate.open()
        leader.kill(signal.SIGCONT)
        assert leader.wait() == 0, leader.report()
    scene.database.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")


@pytest.mark.thorough
def test_a_frozen_holders_takeover_spares_sessions_that_only_have_its_name(scene: Scene) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start("migrate")
        token = token_of(leader)
        worker = gate.arrival()
        leader.kill(signal.SIGSTOP)
        scene.database.rows("SELECT pg_terminate_backend(%s)", [scene.guard_pid(token)])
        with namesake(scene.database, token) as is_there:
            waiter = scene.start("migrate")
            ended = waiter.until("lock.ended_zombie", 40)
            assert "ended its 1 session" in ended["message"]
            assert is_there()
        until(lambda: not scene.database.rows("SELECT FROM pg_stat_activity WHERE pid = %s", [worker]), 5, "its end")
        gate.open()
        assert waiter.wait() == 0, waiter.report()
    leader.kill(signal.SIGCONT)
    assert leader.wait() == 0, leader.report()


# --- Dead holders, and holders that only seem dead ----------------------------------------------------------


def test_a_dead_holder_is_replaced_within_two_seconds(scene: Scene) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        first = gate.arrival()
        waiter = scene.start()
        waiter.until("lock.waiting")
        leader.kill()
        began = time.time()
        until(lambda: not scene.backends(token), 5, "the end of the dead holder's backends")
        ended = time.time()
        # Without client_connection_check_interval, the backend would wait at the gate forever.
        assert ended - began < 2
        record = waiter.until("lock.acquired")
        assert datetime.fromisoformat(record["time"]).timestamp() - ended < 2
        assert gate.arrival() != first
        gate.open()
        assert told(waiter)[:2] == ("migrated", "2")
    assert scene.ledger() == [(1, "completed"), (2, "completed")]
    assert scene.lock_is_free()


def test_a_waiter_glances_at_the_lock_between_two_looks_at_the_ledger(scene: Scene) -> None:
    name, server = scene.database.name, scene.database.server
    scene.write(GATED)
    scene.database.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
    # This test has its own key: others use the same server.
    ask = rf"SELECT pg_catalog\.pg_try_advisory_xact_lock_shared\({lock_key('glanced')}\)"

    def asked() -> str:
        text = server.log_text(mark)
        return "".join(
            "g" if found[1] else "L" for found in re.finditer(f"(statement: {ask}$)|{ask}", text, re.MULTILINE)
        )

    with Gate(scene.database) as gate:
        leader = scene.start(MIGRATION_SCHEMA="glanced")
        gate.arrival()
        mark = server.log_size()
        waiter = scene.start(MIGRATION_SCHEMA="glanced")
        until(lambda: re.search("Lg+Lg", asked()), 10, "two looks of a waiter")
        # Looks are at least a second apart, glances at most 0.4 s.
        assert re.search("Lgg+Lg", asked()), asked()
        leader.kill()
        waiter.until("lock.acquired")
        # The glance that finds the holder gone triggers an immediate look.
        assert re.search("gL+$", asked()), asked()
        gate.open()
        assert told(waiter)[:2] == ("migrated", "2")


def test_the_loss_of_the_guard_robs_nobody(scene: Scene) -> None:
    scene.write({**GATED, "003_c.sql": "CREATE TABLE c ()"})
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        worker = gate.arrival()
        rivals = [scene.start(), scene.start()]
        for rival in rivals:
            rival.until("lock.waiting")
        scene.database.rows("SELECT pg_terminate_backend(%s)", [scene.guard_pid(token)])
        # The advisory lock is free now and the rivals try it, but the fence still stands.
        leader.until("lock.guard_lost", timeout=15)
        assert gate.arrival() == worker
        assert scene.lock()["token"] == token
        assert not any("lock.acquired" in rival.events() for rival in rivals)
        gate.open()
        answers = [told(replica) for replica in (leader, *rivals)]
    assert {answer.outcome for answer in answers} <= {"migrated", "waited"}, answers
    assert {answer.version for answer in answers} == {"3"}
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]
    assert scene.database.one("SELECT count(*) FROM pg_class WHERE relname IN ('a', 'b', 'c')") == 3
    assert scene.lock_is_free()


def test_a_holder_that_lost_its_guard_and_then_its_row_contends_again(scene: Scene) -> None:
    """The guard pings every few seconds; this happens before it notices."""
    scene.write({**GATED, "003_c.sql": "CREATE TABLE c ()"})
    rob = (
        f"BEGIN; SELECT pg_advisory_xact_lock({lock_key()}); SELECT FROM migration_lock FOR UPDATE;"
        "UPDATE migration_lock SET token = 'rival', locked_at = now(), locked_by = 'rival'; COMMIT"
    )
    with Gate(scene.database) as gate, scene.database.connect() as rival, ThreadPoolExecutor() as threads:
        leader = scene.start()
        token = token_of(leader)
        gate.arrival()
        scene.database.rows("SELECT pg_terminate_backend(%s)", [scene.guard_pid(token)])
        # Takes the guard's lock at once, then the row when the first migration's fence is gone, then dies.
        robbery = threads.submit(rival.execute, rob)
        until(lambda: scene.database.rows(BLOCKED, [rival.info.backend_pid]), 5, "the rival at the fence")
        gate.open()
        robbery.result(timeout=10)
        answer = told(leader)
    assert answer[:2] == ("migrated", "3"), leader.report()
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]
    assert scene.lock_is_free()


def test_a_holder_whose_row_was_taken_commits_nothing_before_it_has_it_back(scene: Scene) -> None:
    """The next migration's fence finds somebody else's token."""
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start("migrate")
        token_of(leader)
        gate.arrival()
        # The rules do not allow this. The columns are not part of a key, so the fence does not prevent it.
        scene.database.execute("UPDATE migration_lock SET token = 'robber'")
        with scene.database.connect() as robber, ThreadPoolExecutor() as threads:
            # Queues for the guard's lock, to get it the moment the holder releases it to start again.
            robbery = threads.submit(robber.execute, f"BEGIN; SELECT pg_advisory_xact_lock({lock_key()})")
            until(lambda: scene.database.rows(BLOCKED, [robber.info.backend_pid]), 5, "the robber in the queue")
            gate.open()
            robbery.result(timeout=10)
            assert scene.ledger() == [(1, "completed")]
            assert not scene.database.exists("b")
            assert scene.lock()["token"] == "robber", "what is another's is not freed"
            leader.until("lock.waiting")
            robber.execute("COMMIT")
        assert leader.wait() == 0, leader.report()
    assert "lock.lost" in leader.events()
    assert scene.ledger() == [(1, "completed"), (2, "completed")]
    assert scene.lock_is_free()


def test_the_loss_of_both_connections_is_made_good(scene: Scene) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        gate.arrival()
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s ORDER BY pid"
        scene.database.rows(ended, [application_of(token)])
        gate.open()
        answer = told(leader)
    # An operator did this on purpose: the holder either stops with a clear message or competes again.
    assert answer.outcome in {"migrated", "failed"}
    assert (1, "failed") not in scene.ledger() if scene.database.exists("schema_migrations") else True
    assert scene.run()[:2] in {("up_to_date", "2"), ("migrated", "2")}
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


# --- Connections ----------------------------------------------------------------------------------------


def limited(scene: Scene, limit: int) -> str:
    """Let at most `limit` ordinary users connect; return the address of one of them."""
    login = f"login_{scene.database.name}"[:60]
    scene.database.execute(
        f"CREATE ROLE {login} LOGIN; GRANT ALL ON SCHEMA public TO {login};"
        f"ALTER DATABASE {scene.database.name} CONNECTION LIMIT {limit}"
    )
    return scene.database.server.url(scene.database.name, user=login)


def test_nothing_is_taken_unless_both_connections_are_there(scene: Scene) -> None:
    scene.write(GOOD)
    url = limited(scene, 1)
    waiter = scene.start("migrate", url=url, MIGRATION_LOCK_TIMEOUT_MS=2500)
    waiter.until("lock.no_connection")
    # Holding only half of the lock would be worse than holding none.
    assert not scene.database.exists("schema_migrations")
    assert scene.database.one(f"SELECT pg_try_advisory_xact_lock({lock_key()})") is True
    assert waiter.wait() in {69, 75}
    error = only_error(waiter)
    assert "too many" in error["message"], error
    assert "alive" not in error["remedy"], "there is no holder"
    assert not scene.database.exists("schema_migrations")


def test_it_goes_on_as_soon_as_there_are_connections(scene: Scene) -> None:
    scene.write(GOOD)
    url = limited(scene, 1)
    waiter = scene.start(url=url)
    waiter.until("lock.no_connection")
    scene.database.execute(f"ALTER DATABASE {scene.database.name} CONNECTION LIMIT -1")
    assert told(waiter)[:2] == ("migrated", "1")
    assert errors(waiter) == []


def test_many_replicas_with_few_connections(scene: Scene) -> None:
    scene.write({f"{number:03d}_x.sql": f"CREATE TABLE t{number} ()" for number in range(1, 6)})
    url = limited(scene, 3)
    replicas = [scene.start(url=url) for _ in range(6)]
    answers = [told(replica) for replica in replicas]
    assert sorted(answer.outcome for answer in answers).count("migrated") == 1
    assert {answer.outcome for answer in answers} <= {"migrated", "waited", "up_to_date"}
    assert len(scene.ledger()) == 5
    assert scene.lock_is_free()


def test_nobody_is_left_behind(scene: Scene) -> None:
    scene.write(GOOD)
    run = scene.start("run", "--", *APPLICATION)
    told(run)
    until(lambda: scene.database.sessions() == 0, 5, "the end of the sessions")
    assert run.leftovers() == []
