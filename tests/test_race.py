"""Replicas that start together: one migrates, the others wait without getting in anybody's way.

ENTRYPOINT_TEST_RACE_ROUNDS=50 races fifty times on every version of PostgreSQL.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from conftest import new_database
from kit.databases import server_errors
from kit.migrations import non_idempotent, write_migrations
from kit.processes import peak_memory, until
from scene import Gate, Scene, application_of, lock_key, token_of, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from demo.postgres import Server
    from kit.databases import Database
    from kit.processes import Run

ROUNDS = int(os.environ.get("ENTRYPOINT_TEST_RACE_ROUNDS", "2"))
REPLICAS = 8
STEPS = 20


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


@pytest.mark.timeout(60 + 15 * ROUNDS)
def test_eight_replicas_started_together(
    any_server: Server, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    for _ in range(ROUNDS):
        with new_database(any_server, "race") as database:
            race(any_server, Scene(database, migrations_dir, run_entrypoint))


def race(server: Server, scene: Scene) -> None:
    scene.write(non_idempotent(STEPS))
    mark = server.log_size()
    replicas = [scene.start() for _ in range(REPLICAS)]
    everybody = [told(replica) for replica in replicas]
    stories = "\n".join(replica.report() for replica in replicas)

    outcomes = sorted(one.outcome for one in everybody)
    assert outcomes.count("migrated") == 1, stories
    assert set(outcomes) <= {"migrated", "waited", "up_to_date"}, stories
    assert {(one.version, one.error) for one in everybody} == {(str(STEPS), "")}, stories
    assert [one.pid for one in everybody] == [replica.pid for replica in replicas]

    numbers = list(range(1, STEPS + 1))
    assert scene.ledger() == [(number, "completed") for number in numbers]
    assert scene.database.rows("SELECT number FROM step ORDER BY done_at") == [(number,) for number in numbers]
    assert scene.database.one("SELECT count(DISTINCT backend) FROM step") == 1
    until(lambda: scene.database.sessions() == 0, 5, "the end of all sessions")
    assert scene.lock_is_free(), scene.lock()
    assert server_errors(server, mark) == []


@pytest.mark.thorough
@pytest.mark.sampled(2)
@pytest.mark.case("A1", "A2")
@pytest.mark.timeout(60 + 15 * ROUNDS)
@pytest.mark.parametrize("held", [True, False], ids=["let loose at one moment", "started together"])
def test_eight_replicas_that_look_in_different_places_make_one_ledger(
    server: Server, migrations_dir: Path, run_entrypoint: Callable[..., Run], *, held: bool
) -> None:
    """They have two users and two search_paths, so their guards' keys differ.

    Only the lock for creating the ledger keeps them apart.
    """
    for _ in range(ROUNDS):
        with new_database(server, "making") as database, two_logins(database) as logins:
            paths = ("one,two", "two,one")
            addresses = [
                server.url(database.name, user=login, options=f"-csearch_path={path}")
                for login in logins
                for path in paths
            ]
            race_to_make(Scene(database, migrations_dir, run_entrypoint), addresses, held=held)


@contextlib.contextmanager
def two_logins(database: Database) -> Iterator[tuple[str, str]]:
    """Create two schemas that belong to a role, and yield two logins that are members of it."""
    team = f"team_{database.name}"[:60]
    logins = (f"{team}_a", f"{team}_b")
    database.execute(
        f"CREATE ROLE {team}; CREATE ROLE {logins[0]} LOGIN IN ROLE {team};"
        f"CREATE ROLE {logins[1]} LOGIN IN ROLE {team};"
        f"CREATE SCHEMA one AUTHORIZATION {team}; CREATE SCHEMA two AUTHORIZATION {team};"
    )
    yield logins
    database.execute(f"DROP OWNED BY {team} CASCADE; DROP ROLE {logins[0]}, {logins[1]}, {team}")


def race_to_make(scene: Scene, addresses: Sequence[str], *, held: bool) -> None:
    role = str(scene.database.one("SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'one'"))
    scene.write({f"00{n}_once.sql": f"CREATE TABLE one.once_{n} ();" for n in (1, 2, 3)})
    database, mark = scene.database, scene.database.server.log_size()
    ledgers = "SELECT count(*) FROM pg_class WHERE relname = 'schema_migrations'"
    names = "SELECT count(DISTINCT application_name) FROM pg_stat_activity WHERE application_name LIKE 'entrypoint:%'"
    with database.connect() as maker:
        if held:
            # It looks like one of ours, so everybody waits for it.
            maker.execute("SET application_name = 'entrypoint:another replica'")
            maker.execute("SELECT pg_advisory_lock(1885824370, 0)")
        replicas = [
            scene.start(url=addresses[n % len(addresses)], MIGRATION_ROLE=role, MIGRATION_LOCK_TIMEOUT_MS=60000)
            for n in range(REPLICAS)
        ]
        if held:
            for replica in replicas:  # Each has tried once.
                replica.until("lock.waiting", timeout=30)
            query = f"{names} AND datname = '{database.name}'"
            until(lambda: database.one(query) == REPLICAS + 1, 15, "all replicas")
            assert database.one(ledgers) == 0
            maker.execute("SELECT pg_advisory_unlock_all()")
        everybody = [told(replica) for replica in replicas]
    stories = "\n".join(replica.report() for replica in replicas)
    assert database.one(ledgers) == 1, stories
    outcomes = [one.outcome for one in everybody]
    assert outcomes.count("migrated") == 1, stories
    assert set(outcomes) <= {"migrated", "waited", "up_to_date"}, stories
    assert {(one.version, one.error) for one in everybody} == {("3", "")}, stories
    assert server_errors(database.server, mark) == []


@pytest.mark.thorough
def test_a_second_wave_changes_nothing(scene: Scene) -> None:
    scene.write(non_idempotent(3))
    assert scene.run().outcome == "migrated"
    before = scene.database.contents()
    wave = [scene.start() for _ in range(4)]
    assert {told(replica).outcome for replica in wave} == {"up_to_date"}
    assert scene.database.contents() == before


# --- Waiting --------------------------------------------------------------------------------------------

# pid, whether it is idle and holds nothing, and what it waits for; one row per waiter.
WAITERS = """
    SELECT a.pid, a.state = 'idle' AND a.backend_xmin IS NULL AND a.backend_xid IS NULL AND NOT EXISTS (
        SELECT FROM pg_locks l WHERE l.pid = a.pid), coalesce(a.wait_event_type, '')
    FROM pg_stat_activity a
    WHERE a.application_name LIKE 'entrypoint:%%' AND a.application_name <> %s AND a.datname = current_database()
"""


@pytest.mark.cold
def test_a_waiter_holds_no_lock_and_no_snapshot_and_little_memory(scene: Scene) -> None:
    scene.write({"001_gate.sql": Gate.PASS, **{f"{n:03d}_x.sql": f"CREATE TABLE t{n} ()" for n in range(2, 20)}})
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        gate.arrival()
        waiters = [scene.start(), scene.start()]
        for waiter in waiters:
            record = waiter.until("lock.waiting")
            assert record["pending"] == 19
            assert record["holder"]
        samples: list[bool] = []
        with scene.database.connect() as look:
            until(lambda: len(look.execute(WAITERS, (application_of(token),)).fetchall()) == 2, 5, "two waiters")
            for _ in range(100):
                seen = look.execute(WAITERS, (application_of(token),)).fetchall()
                assert len(seen) == 2, "a waiter keeps its only connection between looks"
                assert all(event != "Lock" for _, _, event in seen), "a waiter never queues in the server"
                samples += [resting for _, resting, _ in seen]
                look.execute("SELECT pg_sleep(0.02)")  # a sampling rate, not a hope
        # A waiter that held something between two looks would be seen with it every time.
        assert sum(samples) > 0.8 * len(samples), f"at rest in {sum(samples)} of {len(samples)} samples"
        memory = [peak_memory(waiter.pid) for waiter in waiters]
        assert max(memory) < 40_000_000, memory
        gate.open()
        assert told(leader).outcome == "migrated"
        assert [told(waiter).outcome for waiter in waiters] == ["waited", "waited"]


def test_the_guard_keeps_no_snapshot(scene: Scene) -> None:
    scene.write({"001_gate.sql": Gate.PASS})
    # The worst case: a database where every transaction keeps its snapshot.
    scene.database.execute(f"ALTER DATABASE {scene.database.name} SET default_transaction_isolation TO 'serializable'")
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        gate.arrival()
        waiter = scene.start()
        waiter.until("lock.waiting")
        guard = scene.guard_pid(token)
        snapshot = "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = %s"
        assert scene.database.one(snapshot, [guard]) is False
        gate.open()
        assert {told(leader).outcome, told(waiter).outcome} == {"migrated", "waited"}


def test_a_waiter_leaves_when_nothing_is_pending_though_the_lock_is_held(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    scene.migrated()
    scene.write({"002_b.sql": "CREATE TABLE b ()"})
    with scene.database.connect() as other:
        other.execute(f"SELECT pg_advisory_lock({lock_key()})")
        waiter = scene.start()
        waiter.until("lock.waiting")
        other.execute("INSERT INTO schema_migrations (migration_number, filename) VALUES (2, '002_b.sql')")
        assert told(waiter)[:2] == ("waited", "2")
        assert not scene.database.exists("b")
        assert other.execute(f"SELECT pg_advisory_unlock({lock_key()})").fetchone() == (True,)


def test_a_waiter_contends_when_the_lock_is_free(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    with scene.database.connect() as other:
        other.execute(f"SELECT pg_advisory_lock({lock_key()})")
        waiter = scene.start()
        waiter.until("lock.waiting")
        assert not scene.database.exists("schema_migrations"), "the ledger is made under the guard's lock only"
        other.execute("SELECT pg_advisory_unlock_all()")
        assert told(waiter)[:2] == ("migrated", "1")
    assert scene.lock_is_free()


OTHERS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'entrypoint:%%' AND application_name <> %s"
QUEUED = """
    SELECT a.pid, a.query_start FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE NOT l.granted AND l.locktype = 'relation' AND a.datname = current_database()
"""


def test_a_waiter_whose_session_is_ended_connects_again(scene: Scene) -> None:
    scene.write({"001_gate.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        leader = scene.start()
        leaders = [application_of(token_of(leader))]
        gate.arrival()
        waiter = scene.start()
        waiter.until("lock.waiting")
        scene.database.rows(f"SELECT pg_terminate_backend(pid) FROM ({OTHERS}) AS theirs", leaders)
        waiter.until("lock.waiter_disconnected")
        gate.open()
        assert told(leader).outcome == "migrated"
        assert told(waiter).outcome == "waited"


@pytest.mark.thorough
@pytest.mark.sampled(2)
@pytest.mark.parametrize("early", [True, False], ids=["at its first look", "at a later look"])
def test_a_waiter_waits_for_a_locked_ledger_too(scene: Scene, early: bool) -> None:  # noqa: FBT001
    """A migration may lock the ledger itself; then anybody who wants to read it has to wait."""
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    scene.migrated()
    # The first gate comes before the LOCK, the second one after it.
    scene.write(
        {
            "002_b.sql": "SELECT pg_advisory_xact_lock(4712); LOCK TABLE schema_migrations, migration_lock;"
            f"{Gate.PASS} CREATE TABLE b ()"
        }
    )
    with Gate(scene.database) as gate, scene.database.connect() as first:
        first.execute("SELECT pg_advisory_lock(4712)")
        leader = scene.start()
        leader.until("lock.acquired")
        if early:
            first.execute("SELECT pg_advisory_unlock_all()")
            gate.arrival()
        waiter = scene.start()
        if not early:
            waiter.until("lock.waiting")
            first.execute("SELECT pg_advisory_unlock_all()")
            gate.arrival()
        looks = until(lambda: scene.database.rows(QUEUED), 10, "a look at the locked ledger")
        until(lambda: scene.database.rows(QUEUED) != looks, 10, "the end of that look, by its own short time-out")
        gate.open()
        assert told(leader).outcome == "migrated"
        # A waiter that could not read the ledger until it was complete has never seen anything pending.
        assert told(waiter).outcome in ({"waited", "up_to_date"} if early else {"waited"}), waiter.report()


# Each of the two gates stops the holder: the waiter looks before 002 is applied, and the holder can be killed after it.
_IMAGE = {
    "001_a.sql": "SELECT pg_advisory_xact_lock(4711);",
    "002_b.sql": "CREATE TABLE b ();",
    "003_c.sql": "SELECT pg_advisory_xact_lock(4712);",
}


@pytest.mark.sampled(2)
@pytest.mark.case("B21")
@pytest.mark.parametrize("killed", [False, True], ids=["as waiter", "as holder"])
def test_a_file_that_another_image_applied_meanwhile_is_told(scene: Scene, tmp_path: Path, killed: bool) -> None:  # noqa: FBT001
    """At the first look, nothing was different yet."""
    scene.write(_IMAGE)
    write_migrations(tmp_path / "other", _IMAGE | {"002_b.sql": "CREATE TABLE b (id integer);"})
    with contextlib.closing(scene.database.connect()) as second:
        second.execute("SELECT pg_advisory_lock(4712)")
        with Gate(scene.database) as first:
            holder = scene.start()
            first.arrival()
            late = scene.start(MIGRATIONS_DIR=str(tmp_path / "other"))
            late.until("lock.waiting")
        at_the_second = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4712 AND NOT granted"
        until(lambda: scene.database.rows(at_the_second), 15, "the holder at the second gate")
        if killed:
            holder.kill()
    assert told(late).outcome == ("migrated" if killed else "waited")
    assert [record["file"] for record in late.logs("files.changed")] == ["002_b.sql"]
    assert not holder.logs("files.changed")
