"""Passwords that expire: DATABASE_PASSWORD_COMMAND for each new connection, DATABASE_URL_FILE for each attempt."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import new_database
from demo.postgres import HOST, Server, free_port
from kit.migrations import write_migrations
from kit.processes import descendants, until
from kit.proxy import Proxy
from scene import only_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.databases import Database
    from kit.processes import Record, Run
    from kit.web import Serving

    Start = Callable[..., Run]

APPLICATION = ("run", "--", "sh", "-c", 'printf %s "$ENTRYPOINT_OUTCOME"; env >&2')
QUICK = {"DB_CONNECT_ATTEMPTS": "2", "DB_CONNECT_BACKOFF_MS": "10"}
DEBUG = {"LOG_LEVEL": "debug"}
# Part of every password; nobody may see it. The brackets would confuse code that takes it for part of an address.
CANARY = "quokka:@/[\\"

# Each new password voids the previous one, so no two connections can share one.
ISSUE = """
import os, pathlib, sys, psycopg
passwords = pathlib.Path(sys.argv[2])
password = {canary!r} + os.urandom(600).hex()
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    connection.execute(psycopg.sql.SQL("ALTER ROLE app PASSWORD {{}}").format(password))
with passwords.open("a") as file:
    file.write(password + chr(10))
print(password)
"""


@pytest.fixture(scope="module")
def guarded_server() -> Iterator[Server]:
    """Return a server that only accepts `app` with its password."""
    with Server(hba=["host all app 127.0.0.1/32 scram-sha-256"]) as server:
        with server.connect() as connection:
            connection.execute("CREATE ROLE app LOGIN")
        yield server


@pytest.fixture
def guarded(guarded_server: Server) -> Iterator[Database]:
    """Return a database owned by `app`."""
    with new_database(guarded_server, "guarded") as database:
        database.execute(f"ALTER DATABASE {database.name} OWNER TO app; ALTER SCHEMA public OWNER TO app")
        yield database


@pytest.fixture
def issue(tmp_path: Path) -> None:
    """Write a command that issues passwords."""
    (tmp_path / "issue.py").write_text(ISSUE.format(canary=CANARY))


@pytest.fixture
def issued(issue: None, tmp_path: Path) -> Callable[[], list[str]]:
    """Return a function that returns all passwords issued so far."""

    def read() -> list[str]:
        path = tmp_path / "passwords"
        return path.read_text().splitlines() if path.exists() else []

    return read


@pytest.fixture
def env(guarded: Database, issued: object, tmp_path: Path) -> dict[str, str]:
    """Return the environment for a start in which every connection needs its own password."""
    command = f"{sys.executable} {tmp_path}/issue.py '{guarded.conninfo}' {tmp_path}/passwords"
    return {
        "DATABASE_URL": guarded.server.url(guarded.name, user="app"),
        "DATABASE_PASSWORD_COMMAND": command,
        # Each password takes a Python start, which is slow on a busy machine.
        "DB_CONNECT_TIMEOUT_MS": "20000",
        **DEBUG,
    }


def encryption_of(method: str) -> dict[str, str]:
    return {"password_encryption": "md5" if method == "md5" else "scram-sha-256"}


def script(tmp_path: Path, text: str) -> str:
    """Write a shell script and return the command line that runs it."""
    path = tmp_path / "command.sh"
    path.write_text(text)
    return f"sh {path}"


def nothing_in(*outputs: str) -> None:
    for output in outputs:
        assert "quokka" not in output


def unavailable(run: Run, code: int = 69) -> Record:
    assert run.wait() == code, run.report()
    return only_error(run)


# --- DATABASE_PASSWORD_COMMAND


def test_each_connection_of_a_start_has_a_password_of_its_own(
    run_entrypoint: Start,
    guarded: Database,
    issued: Callable[[], list[str]],
    env: dict[str, str],
    migrations_dir: Path,
    tmp_path: Path,
) -> None:
    """Each one voids the previous one. The application gets none of them."""
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();"})
    mark = guarded.server.log_size()
    for outcome in ("migrated", "up_to_date"):
        run = run_entrypoint(*APPLICATION, env=env).ok()
        assert run.stdout == outcome
        nothing_in(run.stderr)
    assert len(issued()) == len(set(issued())) == 3
    assert "FATAL" not in guarded.server.log_text(mark)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "command",
    [("backup",), ("migrate",), ("status",), ("version",), ("wait", "--timeout", "5"), ("unlock", "--yes")],
    ids=lambda command: command[0],
)
def test_commands_ask_for_it_as_well(
    run_entrypoint: Start,
    guarded: Database,
    issued: Callable[[], list[str]],
    env: dict[str, str],
    migrations_dir: Path,
    tmp_path: Path,
    command: tuple[str, ...],
) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();"})
    run_entrypoint("migrate", env=env).ok()
    before = len(issued())
    path = {"PATH": f"{guarded.server.bin}:{os.environ['PATH']}", "MIGRATION_BACKUP_DIR": str(tmp_path)}
    run = run_entrypoint(*command, env={**env, **path}).ok()
    # pg_dump connects too.
    assert len(issued()) - before == (2 if command == ("backup",) else 1)
    nothing_in(run.stdout, run.stderr)


@pytest.mark.thorough
def test_a_backup_before_migrations_has_a_password_of_its_own(
    run_entrypoint: Start,
    guarded: Database,
    issued: Callable[[], list[str]],
    env: dict[str, str],
    migrations_dir: Path,
    tmp_path: Path,
) -> None:
    """The password is in no environment: a wrapper around pg_dump does not see it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pg_restore").symlink_to(guarded.server.bin / "pg_restore")
    (tmp_path / "bin" / "pg_dump").write_text(
        f'#!/bin/sh\n(env; echo "$@") >> {tmp_path}/seen\nexec "{guarded.server.bin}/pg_dump" "$@"\n'
    )
    (tmp_path / "bin" / "pg_dump").chmod(0o755)
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();"})
    path = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "MIGRATION_BACKUP_DIR": str(tmp_path)}
    run = run_entrypoint(*APPLICATION, env={**env, **path}).ok()
    assert run.logs("backup.taken"), run.report()
    assert len(issued()) == 3
    nothing_in((tmp_path / "seen").read_text(), run.stderr)


def test_the_service_asks_for_each_connection(
    serve: Callable[..., Serving], issued: Callable[[], list[str]], env: dict[str, str], migrations_dir: Path
) -> None:
    more = {name: value for name, value in env.items() if name != "DATABASE_URL"}
    service = serve(env["DATABASE_URL"], **more)
    assert service.until_answer(200).status == 200
    assert len(issued()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exit 3", "exit code 3"),
        ("echo no credentials >&2; echo '  for app ' >&2; exit 1", "exit code 1: no credentials; for app"),
        ("kill -9 $$", "signal 9"),
        ("true", "it printed nothing"),
        ("echo; echo ' '", "it printed nothing"),
        ("echo quokka; echo wombat", "it printed more than one line"),
        ("printf 'a\\033[2J'", "it printed control characters"),
        ("printf '\\377'", "its output is not valid UTF-8"),
        ("echo quokka-of-some-length; echo 'for quokka-of-some-length' >&2; exit 1", "exit code 1: for ***"),
        ("exec sleep 60", "it did not finish within 0.7 s"),
        ("sleep 60 & sleep 60", "it did not finish within 0.7 s"),
    ],
)
def test_a_command_that_gives_no_password(
    run_entrypoint: Start, guarded: Database, tmp_path: Path, migrations_dir: Path, text: str, said: str
) -> None:
    """It counts as an attempt, and so does the time it takes."""
    url = guarded.server.url(guarded.name, user="app")
    command = script(tmp_path, text)
    timeout = {"DB_CONNECT_TIMEOUT_MS": "700" if "sleep" in text else "20000"}
    run = run_entrypoint("migrate", env={"DATABASE_URL": url, "DATABASE_PASSWORD_COMMAND": command, **QUICK, **timeout})
    record = unavailable(run)
    assert record["message"] == (
        f"Database connection failed after 2 attempts: DATABASE_PASSWORD_COMMAND returned no password ({said})"
    )
    assert (record["cause"], record["attempts"]) == ("password_command", 2)
    assert "DB_CONNECT_TIMEOUT_MS" in record["remedy"]
    nothing_in(run.stderr)


def test_a_password_of_the_commands_that_is_wrong(
    run_entrypoint: Start, guarded: Database, tmp_path: Path, migrations_dir: Path
) -> None:
    """The address has no password to check, and none may be put there."""
    url = guarded.server.url(guarded.name, user="app")
    run = run_entrypoint(
        "migrate",
        env={"DATABASE_URL": url, "DATABASE_PASSWORD_COMMAND": script(tmp_path, "echo quokka-of-old"), **QUICK},
    )
    record = unavailable(run)
    assert record["cause"] == "wrong_password"
    assert "DATABASE_PASSWORD_COMMAND" in record["remedy"]
    assert "DATABASE_URL" not in record["remedy"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/no/such/program --token", "cannot be run: No such file or directory"),
        ("/etc/passwd", "cannot be run: Permission denied"),
        ("sh -c 'echo", "cannot be split into words"),
        ("''", "names no program"),
    ],
)
def test_a_command_that_cannot_be_run_is_bad_configuration(
    run_entrypoint: Start, guarded: Database, migrations_dir: Path, command: str, said: str
) -> None:
    url = guarded.server.url(guarded.name, user="app")
    run = run_entrypoint("migrate", env={"DATABASE_URL": url, "DATABASE_PASSWORD_COMMAND": command, **QUICK})
    assert f"DATABASE_PASSWORD_COMMAND {said}" in unavailable(run, 78)["message"]
    assert not run.logs("database.retry")


@pytest.mark.parametrize("name", ["DATABASE_URL", "MIGRATION_DATABASE_URL", "DATABASE_URL_FILE"])
def test_two_passwords_are_refused(run_entrypoint: Start, migrations_dir: Path, tmp_path: Path, name: str) -> None:
    """Nobody can tell which one was meant; an owner's address has somebody else's password."""
    url = f"postgresql://app:quokka@{HOST}:{free_port()}/shop"
    if name.endswith("_FILE"):
        (tmp_path / "url").write_text(url)
    value = str(tmp_path / "url") if name.endswith("_FILE") else url
    run = run_entrypoint("migrate", env={name: value, "DATABASE_PASSWORD_COMMAND": "echo wombat"})
    record = unavailable(run, 78)
    assert record["message"] == f"{name} contains a password, and DATABASE_PASSWORD_COMMAND is set as well"
    nothing_in(run.stderr)


def test_it_goes_before_a_password_from_elsewhere(
    run_entrypoint: Start, env: dict[str, str], migrations_dir: Path, tmp_path: Path
) -> None:
    """By itself, libpq would prefer a password in the address to PGPASSWORD or a password file."""
    (tmp_path / "passfile").write_text("*:*:*:*:wrong\n")
    (tmp_path / "passfile").chmod(0o600)
    more = {"PGPASSWORD": "wrong", "PGPASSFILE": str(tmp_path / "passfile")}
    run_entrypoint("status", env={**env, **more}).ok()


def test_a_signal_ends_the_command_as_well(
    run_entrypoint: Start, guarded: Database, tmp_path: Path, migrations_dir: Path
) -> None:
    command = script(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 60 & sleep 60")
    url = guarded.server.url(guarded.name, user="app")
    run = run_entrypoint(*APPLICATION, env={"DATABASE_URL": url, "DATABASE_PASSWORD_COMMAND": command})
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), 10, "the command")
    group = int((tmp_path / "pid").read_text())
    children = [group, *descendants(group)]
    began = time.monotonic()
    run.process.terminate()
    assert run.wait() == 143
    assert time.monotonic() - began < 2
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 5, "the end of the command's session")


def test_the_application_has_no_children_of_the_command(
    run_entrypoint: Start, guarded: Database, tmp_path: Path, migrations_dir: Path
) -> None:
    """No background process and no zombie; and output in the background does not delay us."""
    guarded.execute("ALTER ROLE app PASSWORD 'quokka'")
    command = script(tmp_path, f"(sleep 60; echo later) & echo $! > {tmp_path}/pid; echo quokka")
    url = guarded.server.url(guarded.name, user="app")
    show = ("run", "--", "sh", "-c", 'read -r children < "/proc/$$/task/$$/children"; echo "<$children>"')
    began = time.monotonic()
    run = run_entrypoint(*show, env={"DATABASE_URL": url, "DATABASE_PASSWORD_COMMAND": command})
    assert run.ok().stdout == "<>\n"
    assert time.monotonic() - began < 20
    assert run.logs("schema.up_to_date")
    left = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}")
    until(lambda: not left.exists(), 5, "the end of what was in the background")


# --- Another migration tool

TOOL = """
import os, psycopg
for number in range(2):
    with psycopg.connect(os.environ['DATABASE_URL']) as connection:
        print('seen', *connection.execute('SELECT current_user, current_setting($$application_name$$)').fetchone())
with psycopg.connect('') as connection:
    print('seen', *connection.execute('SELECT current_user').fetchone())
print('holds', sum('quok' 'ka' in value for value in os.environ.values()))
"""


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["scram-sha-256", "md5", "password", "trust"])
def test_a_tool_logs_in_by_the_relay(
    run_entrypoint: Start, tmp_path: Path, migrations_dir: Path, issue: None, method: str
) -> None:
    """Each of its connections gets its own password, and none is in its environment."""
    with Server(hba=[f"host all app 127.0.0.1/32 {method}"], settings=encryption_of(method)) as server:
        with server.connect() as connection:
            connection.execute("CREATE ROLE app LOGIN")
            connection.execute("GRANT CREATE ON SCHEMA public TO app")
        (tmp_path / "tool.py").write_text(TOOL)
        issuing = f"{sys.executable} {tmp_path}/issue.py '{server.conninfo()}' {tmp_path}/passwords"
        run = run_entrypoint(
            *APPLICATION,
            env={
                "DATABASE_URL": server.url(user="app"),
                "DATABASE_PASSWORD_COMMAND": issuing,
                "DB_CONNECT_TIMEOUT_MS": "20000",
                "MIGRATION_COMMAND": f"{sys.executable} {tmp_path}/tool.py",
                "MIGRATIONS_DIR": "",
                "PGPASSWORD": "wrong",
                **DEBUG,
            },
        ).ok()
    said = [record["message"] for record in run.logs("command.output")]
    assert sum("seen app" in line for line in said) == 3, run.report()
    assert sum("seen app entrypoint:" in line and line.endswith(":tool") for line in said) == 2
    assert any(line.endswith("holds 0") for line in said)
    # Two sessions of ours and three of the tool's.
    assert len((tmp_path / "passwords").read_text().splitlines()) == 5
    nothing_in(run.stderr)


@pytest.mark.thorough
def test_whoever_has_not_the_key_does_not_get_through(
    run_entrypoint: Start, guarded: Database, env: dict[str, str], tmp_path: Path, migrations_dir: Path
) -> None:
    """Other users of this machine can reach the relay's port too."""
    text = "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL'], password='wrong')"
    (tmp_path / "tool.py").write_text(text)
    command = {"MIGRATION_COMMAND": f"{sys.executable} {tmp_path}/tool.py", "MIGRATIONS_DIR": ""}
    run = run_entrypoint("migrate", env={**env, **command})
    assert run.wait() == 70, run.report()
    assert "the password must be the one in DATABASE_URL or PGPASSWORD" in run.stderr
    nothing_in(run.stderr)


@pytest.mark.thorough
def test_a_tool_is_told_that_there_is_no_password(
    run_entrypoint: Start, guarded: Database, env: dict[str, str], tmp_path: Path, migrations_dir: Path
) -> None:
    """Our own sessions have theirs; the command fails only after that."""
    (tmp_path / "tool.py").write_text("import os, psycopg; psycopg.connect(os.environ['DATABASE_URL'])")
    issuing = env["DATABASE_PASSWORD_COMMAND"]
    issue = script(tmp_path, f"test -e {tmp_path}/tool.py.ran && echo none left >&2 && exit 1\nexec {issuing}\n")
    tool = tmp_path / "tool.sh"
    tool.write_text(f"touch {tmp_path}/tool.py.ran; exec {sys.executable} {tmp_path}/tool.py\n")
    more = {"DATABASE_PASSWORD_COMMAND": issue, "MIGRATION_COMMAND": f"sh {tool}", "MIGRATIONS_DIR": ""}
    run = run_entrypoint("migrate", env={**env, **more})
    assert run.wait() == 70, run.report()
    (record,) = run.logs("command.no_password")
    assert "DATABASE_PASSWORD_COMMAND returned no password (exit code 1: none left)" in record["message"]
    assert "none left" in run.logs("command.failed")[0]["report"] or "none left" in run.stderr


# --- DATABASE_URL_FILE


def test_the_file_is_read_again_for_each_attempt(
    run_entrypoint: Start, guarded: Database, tmp_path: Path, migrations_dir: Path
) -> None:
    """A secret is rotated while we retry: Kubernetes writes the new one into the mounted file."""
    guarded.execute("ALTER ROLE app PASSWORD 'quokka-two'")
    secret = tmp_path / "url"
    secret.write_text(guarded.server.url(guarded.name, user="app", password="quokka-one"))
    env = {"DATABASE_URL_FILE": str(secret), "DB_CONNECT_ATTEMPTS": "20", "DB_CONNECT_BACKOFF_MS": "100", **DEBUG}
    run = run_entrypoint(*APPLICATION, env=env)
    assert run.until("database.retry")["cause"] == "wrong_password"
    for interim in ("", "postgresql://app:quokka-three@h:no-port/", "\xff"):
        secret.write_text(interim, encoding="latin-1")
        count = len(run.logs("database.retry"))
        until(lambda: len(run.logs("database.retry")) > count, 20, "another attempt")  # noqa: B023 - asked at once
    secret.write_text(guarded.server.url(guarded.name, user="app", password="quokka-two") + "\n")
    assert run.ok().stdout == "up_to_date"
    nothing_in(run.stderr)


@pytest.mark.thorough
def test_the_file_is_read_again_for_the_next_connection(
    run_entrypoint: Start, guarded: Database, tmp_path: Path, migrations_dir: Path
) -> None:
    """The secret is rotated after the first look, before the guard connects."""
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();"})
    guarded.execute("ALTER ROLE app PASSWORD 'quokka-one'")
    secret = tmp_path / "url"
    with Proxy(guarded.server.port) as proxy:

        def write(password: str) -> None:
            url = guarded.server.url(guarded.name, user="app", password=password, port=proxy.port, sslmode="disable")
            secret.write_text(url)

        def rotate(_: Proxy) -> None:
            guarded.execute("ALTER ROLE app PASSWORD 'quokka-two'")
            write("quokka-two")

        write("quokka-one")
        rotated = proxy.when_client_sends(b"schema_migrations", rotate)
        run = run_entrypoint(*APPLICATION, env={"DATABASE_URL_FILE": str(secret), **DEBUG}).ok()
    assert rotated.is_set()
    assert run.stdout == "migrated"
    nothing_in(run.stderr)
