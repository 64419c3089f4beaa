"""Our image from outside: what is in it, how it starts, how it ends, and what an application's image adds to it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import entrypoint
from conftest import new_database
from demo.postgres import free_port
from entrypoint.cli import COMMANDS
from images.conftest import MARKER, ROOT
from images.kit import bases
from images.kit.engine import client
from kit.migrations import non_idempotent, write_migrations
from kit.processes import command_line, environ, open_fds, status, until
from scene import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from images.kit.container import Container
    from images.kit.engine import Engine
    from kit.databases import Database

HOME = "/usr/local/lib/pg-entrypoint"
# An application that exits cleanly on request: pid 1 has no default handlers.
APPLICATION = """\
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
told = [os.environ.get(f"ENTRYPOINT_{name}") for name in ("OUTCOME", "SCHEMA_VERSION")]
print("started", os.getpid(), *told, flush=True)
signal.pause()
"""
SERVING = ("python3", "-c", APPLICATION)
TELLING = ("python3", "-c", "import os; print(os.environ['ENTRYPOINT_OUTCOME'])")
LONG = "60000"
STOP_LIMIT = 2.0


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """Return a directory that any user may read, for a container's /app/migrations."""
    path = tmp_path / "migrations"
    path.mkdir()
    path.chmod(0o755)
    return path


def options(database: Database | str, migrations: Path | None = None, **env: str) -> list[str]:
    """Return options for `docker run`: the host's network, where the tests' server is, and the database's address."""
    url = database if isinstance(database, str) else database.url
    variables = {"DATABASE_URL": url, "MIGRATION_DDL_LOCK_TIMEOUT_MS": LONG, **env}
    mounts = [] if migrations is None else [f"--volume={migrations}:/app/migrations:ro"]
    return ["--network=host", *mounts, *(f"--env={name}={value}" for name, value in variables.items())]


def told(engine: Engine, image: str, *more: str) -> str:
    """Run to its end an application that prints the outcome of its start, and return that."""
    return engine.run("run", "--rm", *more, image, *TELLING).stdout.strip()


def records(text: str) -> list[dict[str, Any]]:
    """Return the records of our log."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


# --- What is in it --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def contents(engine: Engine, image: str) -> dict[str, bytes]:
    """Return all files of the image."""
    return {f"/{member.name}": data for member, data in engine.files(image) if not member.isdir()}


def test_it_can_install_and_compile_nothing(contents: dict[str, bytes]) -> None:
    tools = (
        r"(pip|pipx|uv|easy_install|wheel|gcc|g\+\+|cc|c\+\+|cpp|clang|tcc|ld|ld\.(bfd|gold)|as|ar|strip|make|cmake)"
    )
    programs = {Path(name).name for name in contents if re.match(r"/(usr/)?(local/)?s?bin/|" + HOME + "/bin/", name)}
    assert not {name for name in programs if re.fullmatch(rf"{tools}[-\d.]*", name)}
    packages = {name.split("-packages/")[1].split("/")[0] for name in contents if "-packages/" in name}
    for forbidden in ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack", "ensurepip", "pygments"):
        assert not {name for name in packages if re.split(r"[-.]", name)[0].lower() == forbidden}
    assert not [name for name in contents if name.endswith(".whl")]
    assert not [name for name in contents if "/ensurepip/" in name]


def test_it_has_the_package_and_no_tests_or_tools_of_ours(contents: dict[str, bytes]) -> None:
    ours = {name.partition("-packages/")[2] for name in contents if name.startswith(f"{HOME}/lib/")}
    sources = {
        str(path.relative_to(ROOT)) for path in (ROOT / "entrypoint").rglob("*") if path.suffix in {".py", ".sql"}
    }
    assert sources <= ours
    assert not [
        name for name in ours if re.search(r"(^|/)(tests?|conftest\.py|test_\w+\.py|docker|benchmarks)(/|$)", name)
    ]
    assert not [name for name in contents if name.startswith(("/build/", "/mnt/", "/opt/entrypoint"))]


def test_no_secret_of_the_build_is_in_it(
    engine: Engine, image: str, contents: dict[str, bytes], build_secrets: dict[str, Path]
) -> None:
    """In no layer, and not in its configuration."""
    assert not [name for name in contents if name.startswith(("/run/secrets", "/etc/pip"))]
    assert all(MARKER in path.read_text() for path in build_secrets.values())
    saving = subprocess.Popen([client(), "save", image], env=engine.environment, stdout=subprocess.PIPE)
    assert saving.stdout is not None
    size, before = 0, b""
    with saving:
        while piece := saving.stdout.read(1 << 20):
            assert MARKER.encode() not in before[-100:] + piece
            size, before = size + len(piece), piece
    assert saving.returncode == 0
    assert size > 50e6


def test_what_it_adds_to_python_is_small(engine: Engine, image: str, python_base: str) -> None:
    sizes = [int(engine.inspect(name, "{{.Size}}")) for name in (image, python_base)]
    assert sizes[0] - sizes[1] < 25e6


def test_its_configuration(engine: Engine, image: str, python_base: str) -> None:
    config = json.loads(engine.inspect(image, "{{json .Config}}"))
    assert config["Entrypoint"] == ["entrypoint", "run", "--"]
    assert not config["Cmd"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"])
    assert config["WorkingDir"] == "/app"
    assert config["StopSignal"] == "SIGTERM"
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert {"title", "description", "licenses", "version", "revision"} <= set(labels)
    assert labels["version"] == entrypoint.__version__
    assert labels["licenses"] == "Apache-2.0"
    # It adds nothing to the environment that an application starts with.
    own = [entry for entry in config["Env"] or [] if not entry.startswith("PATH=")]
    assert own == json.loads(engine.inspect(python_base, "{{json .Config.Env}}") or "null") or own == []
    assert engine.run("run", "--rm", "--network=none", image, "env", check=False).returncode == 0


def test_the_bytecode_is_there_and_is_used(engine: Engine, image: str, database: Database, migrations: Path) -> None:
    """For every module of every start, ours and Python's, even if a tool has changed the times of our files."""
    write_migrations(migrations, non_idempotent(2))
    touch = f"find {HOME} -name '*.py' -exec touch {{}} + && exec setpriv --reuid=4242 --clear-groups "
    verbose = f"{HOME}/bin/python -I -v {HOME}/bin/entrypoint "
    for outcome in ("migrated", "up_to_date"):
        more = ["--user=0", "--entrypoint=sh", *options(database, migrations)]
        done = engine.run("run", "--rm", *more, image, "-c", f"{touch} {verbose} run -- printenv ENTRYPOINT_OUTCOME")
        assert done.stdout.split()[-1] == outcome
        loaded = re.findall(r"# code object from '([^']+)'", done.stderr)
        ours = [name for name in loaded if name.startswith(HOME) and "/entrypoint/" in name]
        assert not ours, f"what a start imports is in the bundles: {outcome}"
        assert [name for name in loaded if not name.startswith(HOME)]  # from the standard library
        assert not [name for name in loaded if not name.endswith(".pyc")]
        assert "# wrote" not in done.stderr


# --- How it starts --------------------------------------------------------------------------------------


def test_one_process_is_left_and_it_is_the_application(
    engine: Engine, image: str, database: Database, migrations: Path
) -> None:
    write_migrations(migrations, non_idempotent(3))
    for outcome in ("migrated", "up_to_date"):
        with engine.start(image, *SERVING, options=options(database, migrations)) as container:
            container.until_output("started")
            assert container.stdout.split() == ["started", "1", outcome, "3"]
            pid = container.pid
            assert container.processes() == [pid]
            assert command_line(pid) == list(SERVING)
            assert set(open_fds(pid)) == {0, 1, 2}
            assert {name for name in environ(pid) if name.startswith("PYTHON")} == set()
            until(lambda: database.sessions() == 0, 5, "the end of the backends")
    # And it starts with no signal ignored or blocked; an application in Python ignores some by itself.
    with engine.start(image, "sleep", "600", options=options(database, migrations)) as container:
        until(lambda: command_line(container.pid) == ["sleep", "600"], 30, lambda: f"the application in {container!r}")
        assert status(container.pid)["SigIgn"] == status(container.pid)["SigBlk"] == "0000000000000000"


@pytest.mark.parametrize("user", ["", "1234567:0", "0:0"], ids=["its own user", "a random uid", "root"])
def test_it_writes_nothing(engine: Engine, image: str, database: Database, migrations: Path, user: str) -> None:
    """With everything forbidden that can be, it works. With nothing forbidden, it still leaves nothing behind."""
    write_migrations(migrations, non_idempotent(2))
    as_user = [f"--user={user}"] if user else []
    strict = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", *as_user]
    command = ("python3", "-c", "import os; print(os.getuid(), os.environ['ENTRYPOINT_OUTCOME'])")
    done = engine.run("run", "--rm", *strict, *options(database, migrations), image, *command)
    assert done.stdout.split() == [user.partition(":")[0] or "65532", "migrated"]

    with engine.start(image, "true", options=[*as_user, *options(database, migrations)]) as container:
        assert container.wait() == 0
        # The engine creates the migrations' mount point.
        assert engine.run("diff", container.name).stdout.split() in ([], ["C", "/app", "A", "/app/migrations"])


def test_it_needs_no_shell(engine: Engine, image: str, database: Database, migrations: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        f'FROM {image}\nUSER 0\nRUN ["rm", "-f", "/bin/sh", "/bin/dash", "/bin/bash", "/bin/rbash"]\nUSER 65532\n'
    )
    engine.build(tmp_path, tag="pg-entrypoint-tests/no-shell")
    write_migrations(migrations, non_idempotent(1))
    more = options(database, migrations)
    shell = engine.run("run", "--rm", "--entrypoint=sh", "pg-entrypoint-tests/no-shell", "-c", "true", check=False)
    assert shell.returncode == 127
    assert told(engine, "pg-entrypoint-tests/no-shell", *more) == "migrated"


def test_the_environment_of_the_applications_python_is_not_ours(
    engine: Engine, image: str, database: Database, migrations: Path, tmp_path: Path
) -> None:
    write_migrations(migrations, non_idempotent(1))
    trap = tmp_path / "trap"
    trap.mkdir()
    trap.chmod(0o755)
    for name in ("ctypes.py", "entrypoint.py", "sitecustomize.py"):
        (trap / name).write_text("raise SystemExit('the application got in')\n")
    more = [*options(database, migrations, PYTHONPATH="/trap", PYTHONHOME="/nowhere"), f"--volume={trap}:/trap:ro"]
    done = engine.run("run", "--rm", *more, image, "printenv", "PYTHONPATH", "PYTHONHOME", "ENTRYPOINT_OUTCOME")
    assert done.stdout.split() == ["/trap", "/nowhere", "migrated"]


def test_without_a_command_it_says_what_to_do(engine: Engine, image: str) -> None:
    done = engine.run("run", "--rm", "--network=none", image, check=False)
    assert done.returncode == 64
    assert "entrypoint run -- COMMAND" in done.stderr


def test_the_address_comes_from_a_file(
    engine: Engine, image: str, database: Database, migrations: Path, tmp_path: Path
) -> None:
    write_migrations(migrations, non_idempotent(1))
    secret = tmp_path / "database-url"
    secret.write_text(f"{database.url}\n")
    secret.chmod(0o444)
    more = [f"--volume={secret}:/run/secrets/database-url:ro", f"--volume={migrations}:/app/migrations:ro"]
    more += ["--env=DATABASE_URL_FILE=/run/secrets/database-url", "--read-only", "--network=host"]
    assert told(engine, image, *more) == "migrated"
    assert database.url not in engine.run("history", "--no-trunc", image).stdout


@pytest.mark.parametrize("policy", ["exit", "start"])
def test_a_migration_that_fails(engine: Engine, image: str, database: Database, migrations: Path, policy: str) -> None:
    write_migrations(migrations, {"001_good.sql": "CREATE TABLE good (id int);", "002_bad.sql": "SELECT 1/0;"})
    more = options(database, migrations, MIGRATION_ON_FAILURE=policy)
    done = engine.run("run", "--rm", *more, image, *TELLING, check=False)
    assert [record["file"] for record in records(done.stderr) if record["event"] == "migration.failed"] == [
        "002_bad.sql"
    ]
    assert (done.returncode, done.stdout) == ((70, "") if policy == "exit" else (0, "failed\n"))
    assert database.exists("good")


def test_a_terminal_gets_its_table_and_its_bar(
    engine: Engine, image: str, database: Database, migrations: Path
) -> None:
    """With those of rich's requirements that are left."""
    write_migrations(migrations, {"001_slow.sql": "SELECT pg_sleep(1);", **non_idempotent(2)} | {"003_last.sql": ""})
    (migrations / "001_step.sql").unlink()
    (migrations / "002_step.sql").write_text("CREATE TABLE two (id int);")
    terminal = ["--tty", "--entrypoint=entrypoint", "--env=TERM=xterm", *options(database, migrations)]
    bar = engine.run("run", "--rm", *terminal, image, "migrate").stdout
    assert "━" in bar
    assert "applied 3 migrations" in bar
    table = engine.run("run", "--rm", *terminal, image, "status").stdout
    assert "001_slow.sql" in table
    assert "─" in table


# --- How it ends ----------------------------------------------------------------------------------------


def assert_stops(container: Container) -> None:
    seconds, code = container.stop()
    assert (code, seconds < STOP_LIMIT) == (143, True), f"{code} after {seconds:.2f} s: {container!r}"


def test_a_stop_while_it_connects(engine: Engine, image: str, migrations: Path) -> None:
    write_migrations(migrations, non_idempotent(1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        url = f"postgresql://shop@127.0.0.1:{silent.getsockname()[1]}/shop"
        more = options(url, migrations, DB_CONNECT_TIMEOUT_MS=LONG)
        with engine.start(image, *SERVING, options=more) as container:
            connection, _ = silent.accept()
            with connection:
                connection.settimeout(30)
                assert connection.recv(8)  # It is connected, and has sent what will never be answered.
                assert_stops(container)
            assert container.logs("interrupted")


def test_a_stop_while_it_migrates_and_one_while_it_waits(
    engine: Engine, image: str, database: Database, migrations: Path
) -> None:
    write_migrations(migrations, {"001_long.sql": f"CREATE TABLE half (id int); {Gate.PASS}"})
    more = options(database, migrations)
    with Gate(database) as gate, engine.start(image, *SERVING, options=more) as leader:
        gate.arrival(60)
        with engine.start(image, *SERVING, options=more) as waiter:
            waiter.until("lock.waiting")
            assert_stops(waiter)
            assert waiter.logs("interrupted")
            assert not waiter.stdout
        assert leader.running
        assert_stops(leader)
        assert leader.logs("interrupted")
        assert not leader.stdout
    assert not database.exists("half")
    # Nothing left of it blocks the next start.
    assert told(engine, image, *more) == "migrated"


def test_a_stop_of_the_application(engine: Engine, image: str, database: Database, migrations: Path) -> None:
    write_migrations(migrations, non_idempotent(1))
    with engine.start(image, *SERVING, options=options(database, migrations)) as container:
        container.until_output("started")
        assert_stops(container)


# --- An application's image -----------------------------------------------------------------------------


@pytest.fixture
def application(tmp_path: Path, image: str) -> Path:
    """Return the folder of an application's image, as in docs/image.md."""
    folder = tmp_path / "application"
    write_migrations(folder / "migrations", non_idempotent(2))
    (folder / "server.py").write_text(APPLICATION)
    (folder / "Dockerfile").write_text(
        f'FROM {image}\nCOPY server.py .\nCOPY migrations migrations\nCMD ["python3", "server.py"]\n'
    )
    return folder


def test_an_applications_image(engine: Engine, application: Path, database: Database) -> None:
    engine.build(application, tag="pg-entrypoint-tests/shop:1")
    before = json.loads(engine.inspect("pg-entrypoint-tests/shop:1", "{{json .RootFS.Layers}}"))
    with engine.start("pg-entrypoint-tests/shop:1", options=["--read-only", *options(database)]) as container:
        container.until_output("started 1 migrated 2")
        assert command_line(container.pid) == ["python3", "server.py"]

    # A release with another migration has one different layer, on the same base.
    write_migrations(application / "migrations", non_idempotent(3))
    engine.build(application, tag="pg-entrypoint-tests/shop:2")
    after = json.loads(engine.inspect("pg-entrypoint-tests/shop:2", "{{json .RootFS.Layers}}"))
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]
    with engine.start("pg-entrypoint-tests/shop:2", options=["--read-only", *options(database)]) as container:
        container.until_output("started 1 migrated 3")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of what the image is built from."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("bin", "docker", "entrypoint", "packaging", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_another_build_gives_the_same_files(
    engine: Engine, image: str, contents: dict[str, bytes], copy: Path, build_secrets: dict[str, Path]
) -> None:
    """In another place, later, without a cache: even the bytecode is the same."""
    for path in copy.rglob("*.py"):
        path.touch()
    tag = engine.build(copy, tag="pg-entrypoint-tests/again", secrets=build_secrets, options=["--no-cache"])
    again = {f"/{member.name}": data for member, data in engine.files(tag) if not member.isdir()}
    assert set(again) == set(contents)
    assert not [name for name in contents if contents[name] != again[name]]


# --- With everything ------------------------------------------------------------------------------------


def modules_that_cannot_be_imported(engine: Engine, image: str) -> set[str]:
    program = (
        "import importlib, pkgutil, entrypoint\n"
        "for module in pkgutil.walk_packages(entrypoint.__path__, 'entrypoint.', onerror=lambda name: None):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        try: importlib.import_module(module.name)\n"
        "        except ImportError: print(module.name)\n"
    )
    python = ["--network=none", f"--entrypoint={HOME}/bin/python"]
    return set(engine.run("run", "--rm", *python, image, "-I", "-c", program).stdout.split())


def test_each_has_what_its_modules_need(engine: Engine, image: str, full_image: str) -> None:
    assert not {
        name for name in modules_that_cannot_be_imported(engine, image) if not name.startswith("entrypoint.service")
    }
    assert not modules_that_cannot_be_imported(engine, full_image)
    commands = engine.run("run", "--rm", "--network=none", "--entrypoint=entrypoint", full_image, "--help").stdout
    assert set(COMMANDS) <= set(commands.split())


def test_the_full_image_serves_and_the_other_says_why_not(
    engine: Engine, image: str, full_image: str, database: Database, migrations: Path
) -> None:
    write_migrations(migrations, non_idempotent(2))
    strict = ["--read-only", "--user=4242", "--cap-drop=ALL", "--entrypoint=entrypoint"]
    more = [*strict, *options(database, migrations, STATUS_PORT=str(free_port()), STATUS_TOKEN="t" * 32)]
    with engine.start(full_image, "serve", options=more) as service:
        (address,) = service.until("service.listening")["addresses"]
        connection = HTTPConnection(address, timeout=30)
        connection.request("GET", "/api/admin/migrations/status", headers={"Authorization": f"Bearer {'t' * 32}"})
        answer = connection.getresponse()
        assert (answer.status, b"002_step.sql" in answer.read()) == (200, True)
        connection.close()
        seconds, code = service.stop()
        assert (code, seconds < STOP_LIMIT) == (0, True), f"{code} after {seconds:.2f} s: {service!r}"

    done = engine.run("run", "--rm", *more, image, "serve", check=False)
    assert done.returncode == 78
    assert "serve" in records(done.stderr)[-1]["remedy"]


@pytest.fixture
def backup_database(any_server: Any) -> Iterator[Database]:
    """Return a database on a server of each version in turn."""
    with new_database(any_server, "backup") as database:
        yield database


def test_the_full_image_makes_a_backup(
    engine: Engine, full_image: str, backup_database: Database, tmp_path: Path
) -> None:
    backup_database.execute("CREATE TABLE kept (id int); INSERT INTO kept SELECT generate_series(1, 100)")
    target = tmp_path / "backups"
    target.mkdir()
    target.chmod(0o777)
    more = ["--read-only", "--user=4242:4242", f"--volume={target}:/backups", "--entrypoint=entrypoint"]
    more += options(backup_database, MIGRATION_BACKUP_DIR="/backups")
    engine.run("run", "--rm", *more, full_image, "backup")
    (backup,) = (path for path in target.iterdir() if path.suffix == ".dump")
    listing = engine.run(
        *("run", "--rm", "--network=none", f"--volume={target}:/backups:ro", "--user=4242"),
        f"--entrypoint=/usr/lib/postgresql/{bases.CLIENT_OF_PYTHON}/bin/pg_restore",
        *(full_image, "--list", f"/backups/{backup.name}"),
    )
    assert "TABLE DATA public kept" in listing.stdout


def test_it_builds_on_another_base(engine: Engine, database: Database, migrations: Path) -> None:
    """On Debian's own, older Python; with pg_dump of the version that the Dockerfile names."""
    base = bases.provide(engine, bases.PYTHON_OF_DEBIAN)
    tag = engine.build(ROOT, tag="pg-entrypoint-tests/on-trixie", target="full", arguments={"BASE": base})
    write_migrations(migrations, non_idempotent(1))
    assert told(engine, tag, *options(database, migrations)) == "migrated"
    version = engine.run(
        *("run", "--rm", "--network=none", "--entrypoint=/usr/lib/postgresql/17/bin/pg_dump", tag, "--version")
    )
    assert "(PostgreSQL) 17." in version.stdout
