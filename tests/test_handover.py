"""The application cannot tell that we ran first: `look` is started directly and through `entrypoint run --`."""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from demo.postgres import HOST
from kit.migrations import write_migrations
from kit.processes import PROGRAM, Observation, Run, until, without_internal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.databases import Database

    Start = Callable[..., Run]

pytestmark = pytest.mark.cold

GOOD = "CREATE TABLE thing (id integer PRIMARY KEY);"
BAD = "SELECT 1;\nSELECT nonsense;\n"
OURS = b"ENTRYPOINT_"


# --- The paths to the application -----------------------------------------------------------------------


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return a port that accepts and never answers, so the attempt to connect is abandoned in its thread."""
    with socket.create_server((HOST, 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture(params=["disabled", "fast", "migrated", "failed", "abandoned"])
def way(
    request: pytest.FixtureRequest,
    database: Database,
    migrations_dir: Path,
    run_entrypoint: Start,
    silent_port: int,
) -> dict[str, str]:
    """Return the environment for each of the outcomes after which the application starts."""
    name = request.param
    environment = {"DATABASE_URL": database.url, "LOG_LEVEL": "debug", "WAY": name}
    if name == "disabled":
        return environment | {"AUTO_MIGRATE": "false"}
    if name == "abandoned":
        url = database.url_at(silent_port)
        return environment | {"DATABASE_URL": url, "DB_CONNECT_ATTEMPTS": "1", "DB_CONNECT_TIMEOUT_MS": "200"}
    write_migrations(migrations_dir, {"007_thing.sql": BAD if name == "failed" else GOOD})
    if name == "fast":
        run_entrypoint("migrate", env=environment).ok()
    return environment


OUTCOMES = {
    "disabled": {"OUTCOME": "disabled", "SCHEMA_VERSION": ""},
    "fast": {"OUTCOME": "up_to_date", "SCHEMA_VERSION": "7"},
    "migrated": {"OUTCOME": "migrated", "SCHEMA_VERSION": "7"},
    "failed": {"OUTCOME": "failed", "SCHEMA_VERSION": ""},
    "abandoned": {"OUTCOME": "failed", "SCHEMA_VERSION": ""},
}


class Both:
    """Starts a program directly and through `entrypoint run --`, in the same way."""

    def __init__(self, run_program: Start, run_entrypoint: Start) -> None:
        self._run_program = run_program
        self._run_entrypoint = run_entrypoint

    def __call__(self, *argv: str | bytes | Path, **options: Any) -> tuple[Observation, Observation]:
        """Return what the program saw, directly and through us."""
        direct = self._run_program(argv, **options)
        ours = self._run_entrypoint("run", "--", *argv, **options)
        seen = Observation.of(direct), Observation.of(ours)
        for run, observation in zip((direct, ours), seen, strict=True):
            assert observation.facts["pid"] == run.pid, "another process than the one that was started"
            assert observation.facts["ppid"] == os.getpid()
            assert run.leftovers() == []
        return seen


@pytest.fixture
def both(run_program: Start, run_entrypoint: Start) -> Both:
    return Both(run_program, run_entrypoint)


# --- What must be the same ------------------------------------------------------------------------------


def ignore_and_block() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD, signal.SIGALRM, signal.SIGRTMIN + 3})


def ignore_and_block_what_we_handle() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGPIPE})


def close_stdin_and_set_limits() -> None:
    os.close(0)
    os.nice(7)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))


@pytest.mark.sampled(3)
def test_nothing_shows(both: Both, look: Path, way: dict[str, str]) -> None:
    direct, ours = both(look, env=way)
    assert ours.comparable() == direct.comparable()
    assert ours.facts["sid"] == ours.facts["pid"]
    added = [entry for entry in ours.environ if entry.startswith(OURS)]
    assert [entry for entry in ours.environ if entry not in added] == direct.environ
    values = dict(os.fsdecode(entry).removeprefix("ENTRYPOINT_").split("=", 1) for entry in added)
    error = values.pop("ERROR", None)
    assert len(added) == len(values) + (error is not None)
    assert values == OUTCOMES[way["WAY"]]
    assert (error is not None) == (values["OUTCOME"] == "failed")
    if error is not None:
        assert error
        assert "\n" not in error


@pytest.mark.sampled(3)
@pytest.mark.parametrize("signals", [ignore_and_block, ignore_and_block_what_we_handle])
def test_ignored_and_blocked_signals_stay_so(
    both: Both, look: Path, way: dict[str, str], signals: Callable[[], None]
) -> None:
    direct, ours = both(look, env=way, before_exec=signals)
    assert int(without_internal(direct.facts["SigIgn"]), 16)
    assert int(direct.facts["SigBlk"], 16)
    assert ours.comparable() == direct.comparable()


@pytest.mark.sampled(3)
def test_closed_stdin_descriptors_directory_umask_limits_and_nice(
    both: Both, look: Path, way: dict[str, str], tmp_path: Path, migrations_dir: Path
) -> None:
    elsewhere = tmp_path / "else\twhere"
    elsewhere.mkdir()
    reading, writing = os.pipe()
    high = os.dup2(writing, 177)
    try:
        direct, ours = both(
            look,
            env=way | {"MIGRATIONS_DIR": str(migrations_dir)},
            before_exec=close_stdin_and_set_limits,
            pass_fds=(reading, high),
            cwd=elsewhere,
            umask=0o137,
        )
    finally:
        for descriptor in (reading, writing, high):
            os.close(descriptor)
    assert [fd["fd"] for fd in direct.facts["fds"]] == [1, 2, reading, high]
    assert direct.facts["umask"] == 0o137
    # 7 more than the tests' own niceness.
    assert direct.facts["nice"] == min(os.nice(0) + 7, 19)
    assert direct.facts["limits"]["NOFILE"][0] == 200
    assert ours.comparable() == direct.comparable()


@pytest.mark.sampled(3)
def test_closed_stderr(both: Both, look: Path, way: dict[str, str]) -> None:
    direct, ours = both(look, env=way, before_exec=lambda: os.close(2))
    assert [fd["fd"] for fd in direct.facts["fds"]] == [0, 1]
    assert ours.comparable() == direct.comparable()


@pytest.mark.sampled(3)
def test_closed_stdout(run_entrypoint: Start, look: Path, way: dict[str, str], tmp_path: Path) -> None:
    """Without a stdout, `look` must write elsewhere; nothing of ours may have taken descriptor 1."""
    seen = tmp_path / "fds"
    script = f"ls -l /proc/$$/fd > {seen} 2>&1"
    run_entrypoint("run", "--", "sh", "-c", script, env=way, before_exec=lambda: os.close(1)).ok()
    assert "socket:" not in seen.read_text()


def test_group_and_session_of_a_shell(run_program: Start, look: Path, migrations_dir: Path, database: Database) -> None:
    """The program is a shell's child, not the leader of a session or group."""
    write_migrations(migrations_dir, {"001_thing.sql": GOOD})
    way = {"DATABASE_URL": database.url}
    command = f"{shlex.quote(str(look))}; :"
    direct = run_program(["sh", "-c", command], env=way)
    ours = run_program(["sh", "-c", f"{shlex.join(PROGRAM)} run -- {command}"], env=way)
    for run in (direct, ours):
        facts = Observation.of(run).facts
        assert [facts[name] for name in ("ppid", "pgid", "sid")] == [run.pid] * 3


def test_a_terminal(both: Both, look: Path, migrations_dir: Path, database: Database) -> None:
    write_migrations(migrations_dir, {"001_thing.sql": GOOD})
    master, slave = os.openpty()
    try:
        direct, ours = both(look, env={"DATABASE_URL": database.url}, stdin=slave, stderr=slave)
        assert ours.comparable() == direct.comparable()
    finally:
        os.close(master)
        os.close(slave)


ARGUMENTS: list[bytes] = [
    b"",
    b"-x",
    b"--",
    b"--help",
    b"two words",
    "schön".encode(),
    b"\xff\xfe\x80 not UTF-8",
    b"new\nline",
    b"'quotes\" $HOME `x` \\",
    b"\xed\xb3\xbf a lone surrogate",
    b"",
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C"}, {"LC_ALL": ""}, {"LC_ALL": "C.UTF-8"}, {"LANG": "C"}], ids=str)
def test_arguments_and_environment_byte_for_byte(
    both: Both, look: Path, database: Database, migrations_dir: Path, locale: dict[str, str]
) -> None:
    write_migrations(migrations_dir, {"001_thing.sql": GOOD})
    environment = {
        b"ZULU": b"last name first",
        b"BINARY": bytes(range(1, 256)),
        b"EMPTY": b"",
        b"ENTRYPOINT_ERROR": b"stale",
        b"ENTRYPOINT_OUTCOME": b"stale",
        b"ENTRYPOINT_OTHER": b"somebody else's",
        b"NEWLINE": b"a\nb\n",
        b"EQUALS": b"a=b=c",
        b"N\xc3\xa4me": b"x",
        b"N\xe4me": b"y",
        b"with space": b"z",
        b"DATABASE_URL": database.url.encode(),
        b"LONG": b"x" * 100_000,
        b"ALPHA": b"first name last",
        **{name.encode(): value.encode() for name, value in locale.items()},
    }
    direct, ours = both(look, *ARGUMENTS, env=environment)
    assert direct.argv == [os.fsencode(look), *ARGUMENTS]
    assert ours.argv == direct.argv
    added = [b"ENTRYPOINT_OUTCOME=migrated", b"ENTRYPOINT_SCHEMA_VERSION=1"]
    stale = [b"ENTRYPOINT_OUTCOME=stale", b"ENTRYPOINT_ERROR=stale"]
    assert [entry for entry in ours.environ if entry not in added] == [
        entry for entry in direct.environ if entry not in stale
    ]
    assert sorted(entry for entry in ours.environ if entry in added) == added


def test_an_environment_entry_without_a_name(both: Both, look: Path) -> None:
    """The kernel and other programs accept it; Python's own execve does not."""
    direct, ours = both(look, env={b"": b"nameless", b"AUTO_MIGRATE": b"false"})
    assert b"=nameless" in direct.environ
    assert [entry for entry in ours.environ if not entry.startswith(OURS)] == direct.environ


@pytest.mark.sampled(3)
def test_stdin_and_stdout_are_the_applications(run_entrypoint: Start, way: dict[str, str]) -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b"not ours to read")
    finally:
        os.close(writing)
    try:
        run = run_entrypoint("run", "--", "cat", env=way, stdin=reading).ok()
    finally:
        os.close(reading)
    assert run.stdout == "not ours to read"


def test_the_applications_exit_code(run_entrypoint: Start) -> None:
    env = {"AUTO_MIGRATE": "false"}
    assert run_entrypoint("run", "--", "sh", "-c", "exit 42", env=env).wait() == 42
    assert run_entrypoint("run", "--", "sh", "-c", "kill -USR1 $$", env=env).wait() == -signal.SIGUSR1
    assert run_entrypoint("run", "sh", "-c", "exit 43", env=env).wait() == 43


def test_a_broken_pipe_ends_the_application(run_entrypoint: Start) -> None:
    """CPython ignores SIGPIPE; an application that inherited that would keep writing."""
    environment = {"AUTO_MIGRATE": "false"}
    reading, writing = os.pipe()
    try:
        os.close(reading)
        run = run_entrypoint("run", "--", "yes", env=environment, stdout=writing)
        assert run.wait() == -signal.SIGPIPE
    finally:
        os.close(writing)


# --- A signal at the last moment ------------------------------------------------------------------------

SHIM = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>
int execve(const char *path, char *const argv[], char *const envp[])
{
    int (*real)(const char *, char *const *, char *const *) = dlsym(RTLD_NEXT, "execve");
    raise(SIGTERM);
    return real(path, argv, envp);
}
"""


def test_a_signal_between_the_last_look_and_exec_is_not_lost(run_entrypoint: Start, look: Path, tmp_path: Path) -> None:
    """The handler has recorded it, but no Python code runs any more that could react."""
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c", "-ldl"], check=True, timeout=60, cwd=tmp_path
    )
    environment = {"AUTO_MIGRATE": "false", "LD_PRELOAD": str(shim)}
    run = run_entrypoint("run", "--", "/bin/sleep", "60", env=environment)
    with contextlib.suppress(AssertionError):
        until(lambda: not run.running, 5)
    assert run.code in (-signal.SIGTERM, 128 + signal.SIGTERM), f"the signal was lost: {run.report()}"


# --- What cannot be executed ----------------------------------------------------------------------------


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """Return a directory of files that look like commands."""
    path = tmp_path / "bin"
    (path / "directory").mkdir(parents=True)
    (path / "plain").write_text("#!/bin/sh\necho no\n")
    (path / "plain").chmod(0o644)
    (path / "headless").write_text("echo no\n")
    (path / "headless").chmod(0o755)
    (path / "orphan").write_text("#!/no/such/interpreter\n")
    (path / "orphan").chmod(0o755)
    (path / "empty").touch(mode=0o755)
    (path / "windows").write_bytes(b"#!/bin/sh\r\necho no\r\n")
    (path / "windows").chmod(0o755)
    for name, interpreter in (("data", path / "plain"), ("folder", path / "directory"), ("second", path / "orphan")):
        (path / name).write_text(f"#!{interpreter}\n")
        (path / name).chmod(0o755)
    return path


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("no-such-command", 127, "no-such-command: not found"),
        ("./no-such-command", 127, "not found"),
        ("{bin}/no-such-command", 127, "not found"),
        ("{bin}/plain/below", 127, "not found"),
        pytest.param("{bin}/orphan", 127, "'/no/such/interpreter'", marks=pytest.mark.case("D4")),
        pytest.param("orphan", 127, "'/no/such/interpreter'", marks=pytest.mark.case("D4")),
        pytest.param("{bin}/windows", 127, "'/bin/sh\\r' was not found; the file has", marks=pytest.mark.case("D4")),
        pytest.param("{bin}/data", 126, "/plain', from its first line, is not", marks=pytest.mark.case("D4")),
        pytest.param("{bin}/folder", 126, "/directory', from its first line, is a", marks=pytest.mark.case("D4")),
        pytest.param(
            "{bin}/second",
            127,
            "/orphan' is its interpreter, whose interpreter '/no/such/interpreter', from its first line, was not",
            marks=pytest.mark.case("D4"),
        ),
        ("{bin}/plain", 126, "Permission denied"),
        ("plain", 126, "Permission denied"),
        ("{bin}/directory", 126, "Permission denied"),
        ("{bin}/headless", 126, "#!"),
        ("headless", 126, "#!"),
        ("{bin}/empty", 126, "#!"),
    ],
)
def test_what_cannot_be_executed(run_entrypoint: Start, commands: Path, command: str, code: int, says: str) -> None:
    environment = {"AUTO_MIGRATE": "false", "PATH": f"{commands}:/usr/bin:/bin"}
    run = run_entrypoint("run", "--", command.format(bin=commands), env=environment)
    assert run.wait() == code, run.report()
    (record,) = run.logs("start.cannot_execute")
    assert says in record["message"]
    assert record["level"] == "error"
    assert record["remedy"]
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_a_command_in_one_word(run_entrypoint: Start) -> None:
    """As in `command: ["python app.py"]`, with an unknown value of MIGRATION_ON_FAILURE."""
    run = run_entrypoint("run", "python app.py", env={"MIGRATION_ON_FAILURE": "stop"})
    assert run.wait() == 127, run.report()
    (record,) = run.logs("start.cannot_execute")
    assert record["remedy"].endswith("Pass each word separately: entrypoint run -- python app.py")
    (started,) = run.logs("start.after_failure")
    assert "MIGRATION_ON_FAILURE is 'stop', which is neither start nor exit" in started["message"]


def test_an_empty_command(run_entrypoint: Start) -> None:
    """As in `run -- "$COMMAND"` with the variable unset."""
    run = run_entrypoint("run", "--", "", env={"AUTO_MIGRATE": "false"})
    assert run.wait() in (64, 127), run.report()
    assert "Traceback" not in run.stderr


def test_the_command_is_looked_up_in_path(
    run_program: Start, run_entrypoint: Start, look: Path, commands: Path, tmp_path: Path
) -> None:
    """Like execvp(3), it skips files that cannot be executed, and `argv[0]` is the name that was given."""
    (commands / "look").write_text("not executable")
    (commands / "look").chmod(0o644)
    here = tmp_path / "here"
    here.mkdir()
    (here / "link").symlink_to(look)
    for command, path in (
        ("look", f"{commands}:/no/such/directory:{look.parent}"),
        ("link", f"{commands}:here"),
        ("link", f"{here}:{commands}"),
        ("here/link", "/nowhere"),
        ("./here/link", "/nowhere"),
    ):
        environment = {"AUTO_MIGRATE": "false", "PATH": path}
        observation = Observation.of(run_entrypoint("run", "--", command, env=environment))
        assert observation.argv == [command.encode()]
        assert f"PATH={path}".encode() in observation.environ


def test_an_empty_element_of_path_is_the_current_directory(run_entrypoint: Start, look: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(look)
    observation = Observation.of(
        run_entrypoint("run", "--", "link", env={"AUTO_MIGRATE": "false", "PATH": "/nowhere:"})
    )
    assert observation.argv == [b"link"]
