"""`unlock`: shows who holds the migration lock, and takes it from a dead holder, or by force from a living one."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from kit.pooler import executable, pooler
from kit.processes import until
from kit.terminal import Terminal
from scene import Gate, Scene, errors, load_legacy, lock_key, namesake, only_error, token_of, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

GATED = {"001_gate.sql": f"CREATE TABLE a (); {Gate.PASS}", "002_b.sql": "CREATE TABLE b ()"}
FREED = {"locked_at": None, "locked_by": None, "process_id": None}
TAKE = "UPDATE migration_lock SET locked_at = now() - interval '{age}', locked_by = 'earlier-1', process_id = 4242"


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def unlock(scene: Scene, *options: str, url: str = "") -> Run:
    return scene.start("unlock", *options, url=url)


def end_of(scene: Scene, leader: Run, token: str) -> None:
    """Kill a holder, and wait until the server has noticed."""
    leader.kill()
    until(lambda: not scene.backends(token), 10, "the end of its sessions")


def test_a_free_lock_needs_nothing(scene: Scene) -> None:
    assert "The lock is free." in unlock(scene).ok().stdout
    assert not scene.database.exists("migration_lock"), "looking changes nothing"
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    scene.migrated()
    for options in ((), ("--force",)):
        run = unlock(scene, *options).ok()
        assert run.stdout.splitlines()[1:] == [
            "Row: free.",
            "Guard: no session holds its advisory lock.",
            "The lock is free.",
        ]


def test_a_living_holder_is_shown_and_left_alone(scene: Scene) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        worker = gate.arrival()
        until(lambda: scene.lock()["progress_migration"], 15, "the file in the row")
        before = scene.lock()
        run = unlock(scene)
        assert run.wait() == 75
        # The command answers a question, so this is not an error.
        (error,) = run.logs("lock.held")
        assert error["level"] == "warning"
        assert error["process_id"] == leader.pid
        assert error["holder"] == before["locked_by"]
        assert "--force" in error["remedy"]
        for part in (before["locked_by"], f"process {leader.pid}", token, "001_gate.sql"):
            assert part in run.stdout
        assert f"Guard: backend {scene.guard_pid(token)} of postgres, from 127.0.0.1, idle in transaction" in run.stdout
        assert f"Worker: backend {worker} of postgres, from 127.0.0.1, active" in run.stdout
        after = scene.lock()
        assert {name: after[name] for name in FREED} == {name: before[name] for name in FREED}
        gate.open()
        assert told(leader).outcome == "migrated"


def test_a_dead_holders_row_is_freed_without_asking(scene: Scene) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        gate.arrival()
        end_of(scene, leader, token)
    assert scene.lock()["locked_at"] is not None
    run = unlock(scene).ok()
    assert "Freed the row." in run.stdout
    assert run.stdout.endswith("The lock is free.\n")
    assert run.logs("lock.freed")[0]["level"] == "info"
    row = scene.lock()
    # Exactly the documented UPDATE: the token tells a late holder that an operator freed the lock.
    assert {name: row[name] for name in FREED} == FREED
    assert row["token"] == token
    assert told(scene.start())[:2] == ("migrated", "2")


def test_force_makes_a_living_holder_stop(scene: Scene) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start("migrate")
        gate.arrival()
        refused = unlock(scene, "--force")
        assert refused.wait() == 64
        assert leader.running
        run = unlock(scene, "--force", "--yes").ok()
        assert leader.wait() == 75
    assert only_error(leader)["by_operator"] is True
    assert "Ended backend" not in run.stdout, "it went by itself"
    assert run.stdout.endswith("The lock is free.\n")
    assert run.logs("lock.freed")[0]["level"] == "warning"
    assert not scene.database.exists("a")
    assert told(scene.start())[:2] == ("migrated", "2")


def test_on_a_terminal_force_asks(scene: Scene) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        gate.arrival()
        with Terminal() as terminal:
            run = scene.launch("unlock", "--force", env={"DATABASE_URL": scene.database.url}, **terminal.options)
            assert f"process {leader.pid}" in terminal.asked(run)
            assert terminal.answer(run, "n\n") == 64
        assert scene.lock()["locked_at"] is not None
        with Terminal() as terminal:
            run = scene.launch("unlock", "--force", env={"DATABASE_URL": scene.database.url}, **terminal.options)
            terminal.asked(run)
            # By the time we answer, somebody else holds it.
            scene.database.execute("UPDATE migration_lock SET token = 'another.1'")
            terminal.type("y\n")
            assert run.wait() == 70
            assert "has changed since" in terminal.text
        scene.database.execute("UPDATE migration_lock SET token = %s", [token])
        gate.open()
        assert told(leader).outcome == "migrated"


@pytest.mark.thorough
def test_force_ends_the_sessions_of_a_frozen_holder(scene: Scene) -> None:
    """Its worker has changed its name, and is recognized by the fence.

    Without the privilege to end it, you are told which one you need.
    """
    # Roles belong to the whole server, so the name must be unique.
    login = f"poor_{scene.database.name}"[:60]
    scene.write({"001_gate.sql": f"SET application_name = 'mine'; CREATE TABLE a (); {Gate.PASS}"})
    with ExitStack() as stack, Gate(scene.database) as gate:
        leader = scene.start("migrate")
        token = token_of(leader)
        worker = gate.arrival()
        guard = scene.guard_pid(token)
        leader.kill(signal.SIGSTOP)
        is_there = stack.enter_context(namesake(scene.database, token))
        scene.database.execute(
            f"CREATE ROLE {login} LOGIN; GRANT USAGE ON SCHEMA public TO {login};"
            f"GRANT SELECT, UPDATE, INSERT ON migration_lock, schema_migrations TO {login}"
        )
        poor = unlock(scene, "--force", "--yes", url=scene.database.server.url(scene.database.name, user=login))
        assert poor.wait() == 75, poor.report()
        error = only_error(poor)
        assert "may not end" in error["message"]
        assert "postgres" in error["remedy"]
        assert "pg_signal_backend" in error["remedy"]
        run = unlock(scene, "--force", "--yes").ok()
        for part in (f"Ended backend {guard}.", f"Ended backend {worker}.", "The lock is free."):
            assert part in run.stdout, run.report()
        assert run.logs("lock.ended_holder")
        assert scene.database.one(f"SELECT pg_try_advisory_xact_lock({lock_key()})") is True
        assert not scene.database.rows("SELECT FROM pg_stat_activity WHERE pid IN (%s, %s)", [guard, worker])
        assert is_there(), "it only had the same name"
        gate.open()
        scene.migrated()
    leader.kill(signal.SIGCONT)
    # It wakes up and finds that it holds nothing. It competes like any other, and nothing is pending.
    assert leader.wait() == 0, leader.report()
    assert scene.ledger() == [(1, "completed")]
    assert errors(leader) == []
    scene.database.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")


@pytest.mark.thorough
def test_a_dead_guards_worker_is_left_to_end_by_itself_unless_forced(scene: Scene) -> None:
    scene.write(GATED)
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        worker = gate.arrival()
        leader.kill(signal.SIGSTOP)
        scene.database.rows("SELECT pg_terminate_backend(%s)", [scene.guard_pid(token)])
        until(
            lambda: [pid for pid, _, guards in scene.backends(token) if not guards] == [worker], 10, "the guard's end"
        )
        run = unlock(scene).ok()
        assert "To end them now: --force" in run.stdout
        assert scene.lock()["locked_at"] is None
        assert scene.backends(token), "it was not ended"
        run = unlock(scene, "--force").ok()
        assert f"Ended backend {worker}." in run.stdout
        until(lambda: not scene.backends(token), 10, "its end")


def test_a_statement_outside_a_transaction_lives_by_its_own_lock(scene: Scene) -> None:
    """Nobody can take over before it ends, whatever became of the guard."""
    scene.write({"001_a.sql": f"-- entrypoint: no-transaction\n{Gate.PASS}"})
    with Gate(scene.database) as gate:
        leader = scene.start()
        token = token_of(leader)
        worker = gate.arrival()
        leader.kill(signal.SIGSTOP)
        scene.database.rows("SELECT pg_terminate_backend(%s)", [scene.guard_pid(token)])
        until(lambda: [pid for pid, *_ in scene.backends(token)] == [worker], 10, "the guard's end")
        run = unlock(scene)
        assert run.wait() == 75
        assert f"Worker: backend {worker}" in run.stdout
        assert "outside a transaction" in run.stdout
        assert scene.lock()["locked_at"] is not None


@pytest.mark.parametrize("upgraded", [False, True], ids=["its own table", "upgraded table"])
def test_a_row_of_the_earlier_system(scene: Scene, upgraded: bool) -> None:  # noqa: FBT001
    load_legacy(scene.database, rows=False)
    scene.database.execute(f"ALTER DATABASE {scene.database.name} SET timezone TO 'Pacific/Auckland'")
    if upgraded:
        scene.write({"001_a.sql": "CREATE TABLE a ()"})
        scene.migrated()
    scene.database.execute(TAKE.format(age="9 minutes"))
    run = unlock(scene)
    assert run.wait() == 75
    assert "earlier migration system" in run.logs("lock.held")[0]["message"]
    assert "earlier-1 (process 4242)" in run.stdout
    assert scene.lock()["locked_by"] == "earlier-1"
    # As old as release_stale_migration_locks() requires.
    scene.database.execute(TAKE.format(age="11 minutes"))
    assert unlock(scene).ok().stdout.endswith("The lock is free.\n")
    assert {name: scene.lock()[name] for name in FREED} == FREED
    scene.database.execute(TAKE.format(age="1 minute"))
    assert unlock(scene, "--force").wait() == 64
    assert unlock(scene, "--force", "--yes").ok().stdout.endswith("The lock is free.\n")
    assert {name: scene.lock()[name] for name in FREED} == FREED


@pytest.mark.thorough
def test_through_a_pooler(scene: Scene) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    scene.write(GATED)
    with pooler(scene.database.server, pool_size=4) as port, Gate(scene.database) as gate:
        url = scene.database.url_at(port)
        leader = scene.start("migrate", url=url)
        token = token_of(leader)
        worker = gate.arrival()
        run = unlock(scene, url=url)
        assert run.wait() == 75
        assert f"Guard: backend {scene.guard_pid(token)}" in run.stdout
        assert f"Worker: backend {worker}" in run.stdout
        assert unlock(scene, "--force", "--yes", url=url).ok().stdout.endswith("The lock is free.\n")
        assert leader.wait() == 75


@pytest.mark.thorough
def test_bad_files_are_no_reason_not_to(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    scene.migrated()
    scene.write({"1-bad.sql": ""})
    unlock(scene).ok()
    scene.launch("unlock", env={"DATABASE_URL": scene.database.url, "MIGRATIONS_DIR": "nowhere"}).ok()


@pytest.mark.thorough
def test_a_waiter_has_it_as_soon_as_it_is_free(scene: Scene) -> None:
    scene.write({"001_gate.sql": f"INSERT INTO tries VALUES (1); {Gate.PASS}"})
    scene.database.execute("CREATE TABLE tries (i integer)")
    with Gate(scene.database) as gate:
        leader = scene.start("migrate")
        gate.arrival()
        waiter = scene.start("migrate")
        waiter.until("lock.waiting")
        run = unlock(scene, "--force", "--yes").ok()
        assert leader.wait() == 75
        # The waiter becomes a holder like any other, and was not the one to end.
        waiter.until("lock.acquired")
        gate.arrival()
        assert "Ended backend" not in run.stdout
        gate.open()
        waiter.ok()
    assert scene.database.one("SELECT count(*) FROM tries") == 1


@pytest.mark.thorough
def test_the_ledger_may_be_another_roles(scene: Scene) -> None:
    """The row is read and freed as MIGRATION_ROLE. Sessions are looked up as the login user, who owns them."""
    name = scene.database.name[:50]
    owner, login, stranger = (f"{role}_{name}" for role in ("owner", "login", "stranger"))
    scene.database.execute(
        "REVOKE ALL ON SCHEMA public FROM public;"
        f"CREATE ROLE {owner}; GRANT CREATE, USAGE ON SCHEMA public TO {owner};"
        f"CREATE ROLE {login} LOGIN IN ROLE {owner}; CREATE ROLE {stranger} LOGIN NOINHERIT IN ROLE {owner}"
    )

    def start(user: str, *command: str) -> Run:
        url = scene.database.server.url(scene.database.name, user=user)
        env = {"DATABASE_URL": url, "MIGRATION_ROLE": owner, "MIGRATION_DDL_LOCK_TIMEOUT_MS": "60000"}
        return scene.launch(*command, env={**env, "MIGRATION_SCHEMA": "public"})

    try:
        scene.write(GATED)
        with Gate(scene.database) as gate:
            leader = start(login, "migrate")
            worker = gate.arrival()
            run = start(login, "unlock")
            assert run.wait() == 75, run.report()
            assert f"Worker: backend {worker} of {login}, from 127.0.0.1, active" in run.stdout
            run = start(stranger, "unlock")
            assert run.wait() == 75, run.report()
            assert f"Worker: backend {worker} of {login}, this user may not see what it is doing" in run.stdout
            start(login, "unlock", "--force", "--yes").ok()
            assert leader.wait() == 75
            gate.open()
        start(stranger, "migrate").ok()
        scene.database.execute("UPDATE migration_lock SET locked_at = now(), locked_by = 'dead', token = 'dead.1'")
        assert start(stranger, "unlock").ok().stdout.endswith("The lock is free.\n")
        (scene.migrations / "rollback").mkdir()
        (scene.migrations / "rollback" / "002_b.sql").write_text("DROP TABLE b")
        start(stranger, "rollback", "--to", "1", "--yes").ok()
        start(stranger, "baseline", "2", "--yes").ok()
        scene.write({"002_b.sql": "SELECT 1"})
        start(stranger, "repair", "--yes").ok()
        assert scene.ledger() == [(1, "completed"), (2, "completed")]
    finally:
        until(lambda: scene.database.sessions() == 0, 10, "the end of the sessions")
        scene.database.execute(f"DROP OWNED BY {owner}; DROP ROLE {login}, {stranger}, {owner}")


# docs/lock.md, "The keys": held while a ledger is created.
MAKING_KEY = "1885824370, 0"


# Our own sessions never hold the first key shared or the second one exclusively, but anybody may.
@pytest.mark.sampled(5)
@pytest.mark.case("C9")
@pytest.mark.parametrize("mode", ["", "_shared"], ids=["exclusive", "shared"])
@pytest.mark.parametrize("second", [False, True], ids=["guard's key", "session's key"])
@pytest.mark.parametrize("dead", [False, True], ids=["row free", "row of a dead holder"])
def test_a_stranger_that_holds_a_key_is_named_and_ended_by_force(
    scene: Scene, mode: str, *, second: bool, dead: bool
) -> None:
    if second and dead and mode:
        pytest.skip("that is what a session of that holder looks like which has another name meanwhile")
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    scene.migrated()
    if dead:
        scene.database.execute(
            "UPDATE migration_lock SET locked_at = now(), locked_by = 'dead', token = 'dead.1', "
            "guard_token = 'dead.1', guard_pid = 1"
        )
    first, key = lock_key().split(", ")
    with scene.database.connect() as stranger, scene.database.connect() as bystander:
        for connection in (stranger, bystander):
            connection.execute("SET application_name = 'a curious person'")
        stranger.execute(f"SELECT pg_advisory_lock{mode}({int(first) + second}, {key})")
        pid = stranger.info.backend_pid
        run = unlock(scene)
        assert run.wait() == 75
        error = only_error(run)
        for part in (f"backend {pid} of postgres (a curious person)", "connected since"):
            assert part in error["message"]
        assert f"pg_terminate_backend({pid})" in error["remedy"]
        assert f"Stranger: backend {pid} of postgres, application a curious person" in run.stdout
        assert unlock(scene, "--force").wait() == 64, "it asks"
        run = unlock(scene, "--force", "--yes").ok()
        assert f"Ended backend {pid}." in run.stdout
        assert run.stdout.endswith("The lock is free.\n")
        assert bystander.execute("SELECT 1").fetchone() == (1,), "it has the same name, and nothing to do with the key"


@pytest.mark.thorough
@pytest.mark.case("C9")
@pytest.mark.parametrize("mode", ["", "_shared"], ids=["exclusive", "shared"])
def test_a_stranger_that_keeps_the_ledger_from_being_made_is_named_and_ended_by_force(scene: Scene, mode: str) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    with scene.database.connect() as stranger:
        stranger.execute("SET application_name = 'a curious person'")
        stranger.execute(f"SELECT pg_advisory_lock{mode}({MAKING_KEY})")
        pid = stranger.info.backend_pid
        run = unlock(scene)
        assert run.wait() == 75
        error = only_error(run)
        assert (
            "A session that is not migrating holds the key that protects creating the migration history"
            in error["message"]
        )
        assert f"backend {pid} of postgres (a curious person), connected since" in error["message"]
        assert f"pg_terminate_backend({pid})" in error["remedy"]
        assert f"Stranger: backend {pid} of postgres, application a curious person" in run.stdout
        waiting = scene.start("migrate", MIGRATION_LOCK_TIMEOUT_MS=3000)
        assert waiting.wait() == 75
        who = f"server process {pid} (a curious person) has the key that protects creating the migration history"
        assert who in only_error(waiting)["message"]
        assert f"pg_terminate_backend({pid})" in only_error(waiting)["remedy"]
        assert any(who in record["message"] for record in waiting.logs("lock.waiting")), waiting.report()
        run = unlock(scene, "--force", "--yes").ok()
        assert f"Ended backend {pid}." in run.stdout
        assert run.stdout.endswith("The lock is free.\n")
    scene.migrated()


@pytest.mark.thorough
@pytest.mark.case("C9")
def test_where_there_is_a_ledger_nobody_needs_the_key_under_which_it_was_made(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    scene.migrated()
    scene.write({"002_b.sql": "CREATE TABLE b ()"})
    with scene.database.connect() as stranger:
        stranger.execute(f"SELECT pg_advisory_lock({MAKING_KEY})")
        assert "Stranger" not in unlock(scene).ok().stdout
        scene.migrated()


@pytest.mark.thorough
@pytest.mark.case("C9")
def test_who_may_not_end_a_stranger_is_told_what_is_missing(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    scene.migrated()
    login = f"poor_{scene.database.name}"[:60]
    scene.database.execute(f"CREATE ROLE {login} LOGIN; GRANT SELECT, UPDATE ON migration_lock TO {login}")
    try:
        with scene.database.connect() as stranger:
            stranger.execute(f"SELECT pg_advisory_lock_shared({lock_key()})")
            run = unlock(scene, "--force", "--yes", url=scene.database.server.url(scene.database.name, user=login))
            assert run.wait() == 75
            error = only_error(run)
            assert str(stranger.info.backend_pid) in error["message"]
            assert "pg_signal_backend" in error["remedy"]
    finally:
        scene.database.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")
