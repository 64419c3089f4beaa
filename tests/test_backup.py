"""Backups, from outside: by the `backup` command, and by the lock's holder before it migrates."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import missing, new_database
from demo.postgres import HOST, Server, free_port, installations
from kit.databases import Database
from kit.pooler import executable, pooler
from kit.processes import PROGRAM, alive, command_line, descendants, environ, open_fds, status, until
from scene import APPLICATION, Scene, application_of, lock_key, only_error, token_of, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from conftest import Servers
    from kit.processes import Run

    Start = Callable[..., Run]

PROMISE = 2.0
NAME = re.compile(r"[A-Za-z0-9_%-]+-\d{8}T\d{6}\.\d{3}Z-v\d+\.dump")
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])

SCHEMA = """\
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE thing (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, mood mood, at timestamptz);
INSERT INTO thing (name, mood, at) SELECT 'thing ' || n || E' \\\\ ''x'' \\n\\u00fc', 'bad', to_timestamp(n)
    FROM generate_series(1, 500) n;
CREATE TABLE part (thing integer REFERENCES thing, content bytea, CHECK (length(content) > 0));
INSERT INTO part SELECT id, decode(repeat(to_hex(id + 16), 20), 'hex') FROM thing WHERE id < 200;
CREATE INDEX ON part (thing) WHERE thing > 10;
CREATE SEQUENCE counter START 7 INCREMENT 3;
SELECT nextval('counter'), nextval('counter');
CREATE FUNCTION twice(n integer) RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT n * 2 $$;
CREATE VIEW bad_things AS SELECT id, twice(id) AS double FROM thing WHERE mood = 'bad';
CREATE TRIGGER touch BEFORE UPDATE ON thing FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
COMMENT ON VIEW bad_things IS 'they are';
"""
FIRST = {"001_held.sql": "CREATE TABLE held (n integer); INSERT INTO held VALUES (1);"}
SECOND = {"002_next.sql": "CREATE TABLE next_step ();"}
WAITS = """
    SELECT pid FROM pg_locks
    WHERE relation = 'held'::regclass AND mode = 'AccessShareLock' AND NOT granted
"""


@dataclass(frozen=True)
class Backups:
    """A directory for backups, and a database with a program that can back it up."""

    scene: Scene
    directory: Path

    @property
    def database(self) -> Database:
        return self.scene.database

    def environment(self, **env: str | int) -> dict[str, str]:
        return {
            "PATH": path_with(self.database.server),
            "DATABASE_URL": self.database.url,
            "MIGRATION_BACKUP_DIR": str(self.directory),
            **{name: str(value) for name, value in env.items()},
        }

    def start(self, *command: str, **env: str | int) -> Run:
        """Start `run`, or another command, with a directory for backups."""
        return self.scene.launch(*(command or ("run", "--", *APPLICATION)), env=self.environment(**env))

    def files(self) -> list[str]:
        """Return everything in the directory, including unfinished files."""
        return sorted(path.name for path in self.directory.iterdir())

    def only(self) -> Path:
        (name,) = self.files()
        assert NAME.fullmatch(name)
        return self.directory / name


def path_with(server: Server) -> str:
    """Return a PATH on which this server's programs come first."""
    return f"{server.bin}:{os.environ['PATH']}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "backups"
    path.mkdir()
    return path


@pytest.fixture
def backups(database: Database, migrations_dir: Path, run_entrypoint: Start, directory: Path) -> Backups:
    return Backups(Scene(database, migrations_dir, run_entrypoint), directory)


@pytest.fixture
def with_one_pending(backups: Backups) -> Backups:
    """Return a scene with one applied migration, which created the table `held`, and one pending."""
    backups.scene.write(FIRST)
    backups.scene.migrated()
    backups.scene.write(SECOND)
    return backups


class Held:
    """A table that `pg_dump` waits for, so that a test can look around meanwhile."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection = database.connect()
        self._connection.execute("BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def open(self) -> None:
        self._connection.close()

    def arrival(self, run: Run) -> int:
        """Wait until `pg_dump` blocks on the table, and return its pid."""
        until(lambda: self._database.rows(WAITS), 15, run.report)
        return pg_dump_of(run.pid)

    def departure(self) -> None:
        """Wait until `pg_dump`'s backend is gone."""
        until(lambda: not self._database.rows(WAITS), 5, "the end of pg_dump's backend")


def pg_dump_of(pid: int) -> int:
    (child,) = (child for child in descendants(pid) if Path(command_line(child)[0]).name == "pg_dump")
    return child


def restored(path: Path, server: Server) -> contextlib.AbstractContextManager[Database]:
    """Return a new database restored from the backup at `path`."""

    @contextlib.contextmanager
    def make() -> Iterator[Database]:
        with new_database(server, "restored") as database:
            command: list[str | Path] = [
                server.bin / "pg_restore",
                "--exit-on-error",
                "--dbname",
                database.conninfo,
                path,
            ]
            result = subprocess.run(command, capture_output=True, text=True, check=False, env={})
            assert result.returncode == 0, result.stderr
            yield database

    return make()


# --- The command ----------------------------------------------------------------------------------------


def test_what_is_restored_is_what_was_there(
    any_database: Database, migrations_dir: Path, run_entrypoint: Start, directory: Path
) -> None:
    backups = Backups(Scene(any_database, migrations_dir, run_entrypoint), directory)
    backups.scene.write({"041_schema.sql": SCHEMA})
    backups.scene.migrated()
    began = time.time()
    run = backups.start("backup").ok()

    path = backups.only()
    assert path.name.startswith(f"{any_database.name}-")
    assert path.name.endswith("-v41.dump")
    moment = time.strptime(path.name.removeprefix(f"{any_database.name}-")[:15], "%Y%m%dT%H%M%S")
    assert -1 < time.mktime(moment) - time.timezone - began < 60
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    assert run.stdout == f"{path}\n  {len(content)} bytes\n  SHA-256 {checksum}\n"
    (record,) = run.logs("backup.taken")
    assert (record["backup"], record["bytes"], record["sha256"]) == (str(path), len(content), checksum)
    assert any_database.sessions() == 0
    with restored(path, any_database.server) as copy:
        assert copy.contents() == any_database.contents()
        assert copy.rows("SELECT max(double), count(*) FROM bad_things") == [(1000, 500)]
        assert copy.one("SELECT nextval('counter')") == 13


def test_a_backup_needs_no_migration_files_and_no_ledger(backups: Backups) -> None:
    backups.database.execute(SCHEMA)
    backups.scene.write({"bad name.sql": "nonsense"})
    backups.start("backup").ok()
    assert backups.only().name.endswith("-v0.dump")


@pytest.mark.thorough
def test_bytes_of_no_encoding_are_kept(server: Server, backups: Backups) -> None:
    """pg_dump must not ask for UTF-8: the server would refuse it for such a database."""
    name = f"{backups.database.name}_ascii"
    backups.database.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    ascii_database = Database(server, name)
    try:
        ascii_database.execute("CREATE TABLE t (x text); INSERT INTO t VALUES (E'\\xff\\xfe')")
        backups.start("backup", DATABASE_URL=ascii_database.url).ok()
        backups.only()
    finally:
        ascii_database.drop()


@pytest.mark.thorough
def test_a_name_that_no_file_should_have(server: Server, backups: Backups) -> None:
    name = f'../{backups.database.name} "\N{GREEK SMALL LETTER ALPHA}"'
    server.create_database(name)
    try:
        backups.start("backup", DATABASE_URL=server.url(name)).ok()
        assert backups.only().name.startswith("%2E%2E%2F")
    finally:
        server.drop_database(name)


def test_dir_is_preferred_to_the_variable(backups: Backups, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    backups.start("backup", "--dir", "other", MIGRATION_BACKUP_DIR="/no/such/directory").ok()
    assert backups.files() == []
    assert len(list((tmp_path / "other").iterdir())) == 1


def test_it_must_be_said_where_to(backups: Backups) -> None:
    run = backups.start("backup", MIGRATION_BACKUP_DIR="")
    assert run.wait() == 64
    error = only_error(run)
    assert "MIGRATION_BACKUP_DIR" in error["message"]
    assert "--dir" in error["remedy"]


@pytest.mark.parametrize("which", ["missing", "a file"])
def test_a_directory_that_is_none(backups: Backups, tmp_path: Path, which: str) -> None:
    where = tmp_path / "nowhere"
    if which == "a file":
        where.write_text("")
    run = backups.start("backup", "--dir", str(where))
    assert run.wait() == 70
    assert str(where) in only_error(run)["message"]
    assert where.exists() == (which == "a file"), "a missing volume must not become a directory in the container"


def test_no_database(backups: Backups) -> None:
    url = f"postgresql://nobody@{HOST}:{free_port()}/shop"
    run = backups.start("backup", DATABASE_URL=url, DB_CONNECT_ATTEMPTS=1)
    assert run.wait() == 69
    only_error(run)
    assert backups.files() == []


@pytest.mark.thorough
def test_of_a_standby(fresh_server: Callable[..., Server], backups: Backups) -> None:
    server = fresh_server()
    database = Database(server, "postgres")
    database.execute(SCHEMA)
    before = database.contents()
    server.stop()
    server.start(standby=True)
    backups.start("backup", DATABASE_URL=database.url).ok()
    with restored(backups.only(), backups.database.server) as copy:
        assert copy.contents() == before


@pytest.mark.thorough
def test_with_a_role(backups: Backups) -> None:
    """A short-lived login may not be allowed to read anything itself."""
    name = backups.database.name
    backups.database.execute(
        f"CREATE ROLE {name}_owner; CREATE ROLE {name}_login LOGIN NOINHERIT; GRANT {name}_owner TO {name}_login;"
        f"CREATE TABLE secret (); ALTER TABLE secret OWNER TO {name}_owner"
    )
    try:
        url = backups.database.server.url(name, user=f"{name}_login")
        refused = backups.start("backup", DATABASE_URL=url)
        assert refused.wait() == 70
        assert "permission denied" in only_error(refused)["message"]
        assert backups.files() == []
        backups.start("backup", DATABASE_URL=url, MIGRATION_ROLE=f"{name}_owner").ok()
        backups.only()
    finally:
        backups.database.execute(f"DROP OWNED BY {name}_owner; DROP ROLE {name}_login, {name}_owner")


@pytest.mark.parametrize("command", ["backup", "migrate"])
def test_a_pooler_is_refused_with_the_remedy(backups: Backups, command: str) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    backups.scene.write(FIRST)
    with pooler(backups.database.server, pool_size=2) as port:
        url = backups.database.url_at(port)
        run = backups.start(command, DATABASE_URL=url)
        assert run.wait() == 78
        error = only_error(run)
        assert "pooler" in error["message"]
        assert "MIGRATION_DATABASE_URL" in error["remedy"]
        assert not backups.database.exists("held")
        assert not backups.database.exists("migration_lock"), "it is refused before anything is taken"
        backups.start(command, DATABASE_URL=url, MIGRATION_DATABASE_URL=backups.database.url).ok()
    backups.only()


# --- Old backups ----------------------------------------------------------------------------------------


def stage(directory: Path, names: list[str]) -> None:
    for name in names:
        (directory / name).write_text("old")


def test_keep(backups: Backups) -> None:
    name = backups.database.name
    old = [f"{name}-2020010{day}T000000.000Z-v{9 - day}.dump" for day in (1, 2, 3)]
    others = [f"{name}2-20200101T000000.000Z-v1.dump", f"{old[0]}.gz", f"{name}.dump", f"{name}-20200101T000000Z.dump"]
    stage(backups.directory, [*old, *others])
    (backups.directory / f"{name}-20191231T000000.000Z-v1.dump").mkdir()
    (backups.directory / f"{name}-20191230T000000.000Z-v1.dump").symlink_to(backups.directory / others[0])
    run = backups.start("backup", "--keep", "2").ok()
    left = set(backups.files())
    assert left >= {old[2], *others}
    assert not left & {old[0], old[1]}
    assert f"{name}-20191231T000000.000Z-v1.dump" in left
    assert f"{name}-20191230T000000.000Z-v1.dump" in left
    new = run.stdout.splitlines()[0]
    assert Path(new).name in left
    assert run.stdout.splitlines()[3:] == [f"deleted {backups.directory / gone}" for gone in old[:2]]


def test_one_that_fails_deletes_nothing(backups: Backups) -> None:
    old = [f"{backups.database.name}-2020010{day}T000000.000Z-v1.dump" for day in (1, 2)]
    stage(backups.directory, old)
    run = backups.start("backup", "--keep", "1", MIGRATION_ROLE="no_such_role")
    assert run.wait() == 78, run.report()
    backups.database.execute("CREATE TABLE held ()")
    with Held(backups.database):
        run = backups.start("backup", "--keep", "1", MIGRATION_TIMEOUT_MS=500)
        assert run.wait() == 70, run.report()
    assert "MIGRATION_TIMEOUT_MS" in only_error(run)["remedy"]
    assert backups.files() == old


@pytest.mark.thorough
def test_an_old_one_that_cannot_be_deleted_is_told(backups: Backups, run_program: Start) -> None:
    old = backups.directory / f"{backups.database.name}-20200101T000000.000Z-v1.dump"
    old.write_text("old")
    prefix = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$0" && exec "$@"', str(old)]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        missing("no permission to mount (unshare --mount)")
    command = [*prefix, *PROGRAM, "backup", "--keep", "1"]
    run = run_program(command, env=backups.environment())
    assert run.wait() == 70
    error = only_error(run)
    assert "was written, but" in error["message"]
    assert str(old) in error["message"]
    assert len(backups.files()) == 2


def test_what_a_killed_run_left_goes_after_a_day(backups: Backups) -> None:
    name = backups.database.name
    leftovers = [
        f".{name}-20200101T000000.000Z-v1.dump.partial",
        f".{name}-20200102T000000.000Z-v1.dump.partial",
        f".{name}2-20200101T000000.000Z-v1.dump.partial",
    ]
    stage(backups.directory, leftovers)
    long_ago = time.time() - 25 * 3600
    for leftover in (leftovers[0], leftovers[2]):
        os.utime(backups.directory / leftover, (long_ago, long_ago))
    run = backups.start("backup").ok()
    left = backups.files()
    assert leftovers[0] not in left
    assert leftovers[1] in left, "it may still be growing"
    assert leftovers[2] in left, "it is another database's"
    (record,) = run.logs("backup.leftover_removed")
    assert record["backup"] == str(backups.directory / leftovers[0])


# --- Which pg_dump --------------------------------------------------------------------------------------


def programs_of(version: int, directory: Path) -> str:
    """Create a directory with links to this version's `pg_dump` and `pg_restore`, and return it."""
    if version not in installations():
        missing(f"no PostgreSQL {version}")
    folder = directory / f"programs-{version}"
    folder.mkdir()
    for program in ("pg_dump", "pg_restore"):
        (folder / program).symlink_to(installations()[version].bin / program)
    return str(folder)


def none_installed(version: int) -> None:
    """Skip the test if `pg_dump` of this version or later is installed where it is found without PATH."""
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    places += [*Path("/usr/libexec").glob("postgresql*"), Path("/usr/local/pgsql/bin")]
    for program in (place / "pg_dump" for place in places):
        if program.exists():
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
            found = re.search(r"\) (\d+)", said)
            if found and int(found[1]) >= version:
                missing(f"a pg_dump of version {version} or later is installed: {program}")


@pytest.mark.parametrize("command", ["backup", "migrate"])
def test_one_that_is_too_old_for_the_server(
    servers_by_version: Servers, backups: Backups, tmp_path: Path, command: str
) -> None:
    none_installed(18)
    old = programs_of(16, tmp_path)
    backups.scene.write(FIRST)
    with new_database(servers_by_version[18], "too_old") as database:
        run = backups.start(command, DATABASE_URL=database.url, PATH=old)
        assert run.wait() == 70, run.report()
        error = only_error(run)
        assert "PostgreSQL 18" in error["message"]
        assert f"{old}/pg_dump 16." in error["message"]
        assert "postgresql-client-18" in error["remedy"]
        assert not database.exists("held")
        assert not database.exists("migration_lock"), "it is found out before the lock is taken"
    assert backups.files() == []


def test_the_servers_own_version_is_preferred_wherever_it_stands(
    servers_by_version: Servers, backups: Backups, tmp_path: Path
) -> None:
    folders = [programs_of(18, tmp_path), programs_of(16, tmp_path)]
    with new_database(servers_by_version[16], "preferred") as database:
        for path in (folders, folders[::-1]):
            run = backups.start("backup", DATABASE_URL=database.url, PATH=":".join(path)).ok()
            (record,) = run.logs("backup.started")
            assert record["program"] == f"{folders[1]}/pg_dump"


@pytest.mark.thorough
def test_a_newer_one_will_do(servers_by_version: Servers, backups: Backups, tmp_path: Path) -> None:
    with new_database(servers_by_version[16], "newer") as database:
        none_installed(16)
        folder = programs_of(18, tmp_path)
        run = backups.start("backup", DATABASE_URL=database.url, PATH=folder).ok()
        assert run.logs("backup.started")[0]["program"] == f"{folder}/pg_dump"


def script(directory: Path, server: Server, last_words: str) -> str:
    """Create a fake `pg_dump` that knows its version, and return a PATH with it."""
    folder = directory / "script"
    folder.mkdir()
    program = folder / "pg_dump"
    real = server.bin / "pg_dump"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec "{real}" --version\n{last_words}\n'.replace("REAL", str(real))
    )
    program.chmod(0o755)
    (folder / "pg_restore").symlink_to(server.bin / "pg_restore")
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("output", ['"REAL" "$@" | head -c 200', "true", "echo hello"], ids=["cut", "empty", "text"])
def test_what_pg_restore_cannot_read_is_no_backup(backups: Backups, tmp_path: Path, output: str) -> None:
    run = backups.start("backup", PATH=script(tmp_path, backups.database.server, output))
    assert run.wait() == 70
    assert "pg_restore: error" in only_error(run)["message"]
    assert backups.files() == []


def test_what_pg_dump_says_though_it_succeeds_is_passed_on(backups: Backups, tmp_path: Path) -> None:
    says = 'echo "pg_dump: warning: circular" >&2; exec "REAL" "$@"'
    run = backups.start("backup", PATH=script(tmp_path, backups.database.server, says)).ok()
    assert [record["message"] for record in run.logs("backup.notice")] == ["pg_dump: warning: circular"]
    backups.only()


# --- Addresses ------------------------------------------------------------------------------------------

PASSWORD = "Quokka 'Wombat"
QUOTED = "Quokka%20%27Wombat"
IN_CONNINFO = r"'Quokka \'Wombat'"


@pytest.fixture(scope="module")
def strict_server() -> Iterator[Server]:
    """Return a server that requires the password of the role `app`."""
    with Server(hba=["host all app 127.0.0.1/32 scram-sha-256", "local all app scram-sha-256"]) as server:
        with server.connect() as connection:
            connection.execute("CREATE ROLE app LOGIN SUPERUSER PASSWORD 'Quokka ''Wombat'")
            connection.execute("CREATE DATABASE shop")
        yield server


VARIABLES = {"PGHOST": "{host}", "PGPORT": "{port}", "PGDATABASE": "shop", "PGUSER": "app"}
ADDRESSES: dict[str, dict[str, str]] = {
    "URL": {"DATABASE_URL": f"postgresql://app:{QUOTED}@{{host}}:{{port}}/shop"},
    "conninfo": {"DATABASE_URL": f"host={{host}} port={{port}} dbname=shop user=app password={IN_CONNINFO}"},
    "socket": {"DATABASE_URL": f"host={{socket}} port={{port}} dbname=shop user=app password={IN_CONNINFO}"},
    "several hosts": {
        "DATABASE_URL": f"postgresql://app:{QUOTED}@{{host}}:{{dead}},{{host}}:{{port}}/shop?target_session_attrs=any"
    },
    "variables": {**VARIABLES, "PGPASSWORD": PASSWORD},
    "variables beside a URL": {
        **VARIABLES,
        "PGPORT": "{dead}",
        "PGPASSWORD": PASSWORD,
        "DATABASE_URL": "postgresql://{host}:{port}",
    },
    "a URL against variables": {
        **VARIABLES,
        "PGPORT": "{dead}",
        "PGDATABASE": "template1",
        "PGUSER": "nobody",
        "PGPASSWORD": "wrong",
        "PGSSLMODE": "verify-full",
        "PGHOSTADDR": "127.0.0.9",
        "PGOPTIONS": "-c nonsense=1",
        "DATABASE_URL": f"postgresql://app:{QUOTED}@{{host}}:{{port}}/shop?sslmode=prefer&hostaddr=127.0.0.1"
        "&options=-c%20work_mem%3D1MB",
    },
    "passfile": {**VARIABLES, "PGPASSFILE": "{folder}/passfile"},
    "passfile in the address": {**VARIABLES, "DATABASE_URL": "passfile={folder}/passfile"},
    "service": {"DATABASE_URL": "service=shop", "PGSERVICEFILE": "{folder}/services"},
    "service by variables": {"PGSERVICE": "shop", "PGSERVICEFILE": "{folder}/services"},
    "service with another password": {
        "DATABASE_URL": f"postgresql://app:{QUOTED}@/?service=wrong",
        "PGSERVICEFILE": "{folder}/services",
    },
}


@pytest.fixture
def filled_in(strict_server: Server, tmp_path: Path) -> Callable[[dict[str, str]], dict[str, str]]:
    """Return a function that fills this server into an environment from ADDRESSES."""
    common = f"host={HOST}\nport={strict_server.port}\nuser=app\ndbname=shop\n"
    (tmp_path / "services").write_text(
        f"[shop]\n{common}password={PASSWORD}\n[wrong]\n{common}password=wrong\napplication_name=x\n"
    )
    passfile = tmp_path / "passfile"
    passfile.write_text(f"*:*:shop:app:{PASSWORD}\n")
    passfile.chmod(0o600)
    facts = {
        "host": HOST,
        "port": strict_server.port,
        "dead": free_port(),
        "socket": strict_server.directory,
        "folder": tmp_path,
    }
    return lambda env: {name: value.format(**facts) for name, value in env.items()}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("spelling", ADDRESSES)
def test_addresses_of_every_spelling(
    backups: Backups, filled_in: Callable[[dict[str, str]], dict[str, str]], spelling: str
) -> None:
    run = backups.start("backup", **{"DATABASE_URL": "", **filled_in(ADDRESSES[spelling])}).ok()
    assert backups.only().name.startswith("shop-"), run.report()
    assert "Wombat" not in run.stdout + run.stderr


def test_the_addresses_options_reach_pg_dump(strict_server: Server, backups: Backups) -> None:
    mark = strict_server.log_size()
    options = "-c log_min_duration_statement=0"
    backups.start("backup", DATABASE_URL=strict_server.url("shop", user="app", password=PASSWORD, options=options)).ok()
    assert "SET DATESTYLE = ISO" in strict_server.log_text(mark)


@pytest.mark.thorough
def test_of_several_hosts_it_is_the_one_that_let_us_in(strict_server: Server, backups: Backups) -> None:
    """The backup must come from the server that will be migrated, even if another host is back by then."""
    database = Database(strict_server, "shop")
    database.execute("DROP TABLE IF EXISTS held; CREATE TABLE held ()")
    dead = free_port()
    with Held(database) as held:
        url = f"postgresql://app:{QUOTED}@{HOST}:{dead},{HOST}:{strict_server.port}/shop"
        run = backups.start("backup", DATABASE_URL=url)
        words = " ".join(command_line(held.arrival(run)))
    run.ok()
    assert f"port='{strict_server.port}'" in words
    assert str(dead) not in words


def test_no_secret_is_in_any_process_list(strict_server: Server, backups: Backups) -> None:
    """Nor does the server show one. Only the program's own user can read them, and only where they belong."""
    database = Database(strict_server, "shop")
    database.execute("DROP TABLE IF EXISTS held; CREATE TABLE held ()")
    url = strict_server.url("shop", user="app", password=PASSWORD, sslpassword="Numbat", sslmode="disable")
    with Held(database) as held:
        run = backups.start("backup", DATABASE_URL=url, LOG_LEVEL="debug")
        pg_dump = held.arrival(run)
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
            with contextlib.suppress(OSError):
                words = " ".join(command_line(pid))
                assert not re.search("Quokka|Wombat|Numbat", words), f"{pid}: {words}"
        assert "dbname=" in " ".join(command_line(pg_dump))
        shown = str(database.rows("SELECT a::text FROM pg_stat_activity a WHERE usename = 'app'"))
        environment = environ(pg_dump)
        assert environment["PGPASSWORD"] == PASSWORD
        assert "DATABASE_URL" not in environment
        assert stat.S_IMODE(Path(f"/proc/{pg_dump}/environ").stat().st_mode) == 0o400
        # No variable exists for this one, so it is in a file without a name.
        number = int(environment["PGSERVICEFILE"].rpartition("/")[2])
        assert "memfd" in open_fds(pg_dump)[number]
        assert "sslpassword=Numbat" in Path(f"/proc/{pg_dump}/fd/{number}").read_text()
    run.ok()
    for text in (shown, run.stdout, run.stderr):
        assert text
        assert not re.search("Quokka|Wombat|Numbat", text)
    assert backups.only()


# --- Before migrations ----------------------------------------------------------------------------------


def test_of_three_replicas_one_takes_a_backup(with_one_pending: Backups) -> None:
    backups = with_one_pending
    backups.database.execute(SCHEMA)
    before = backups.database.schema()
    replicas = [backups.start() for _ in range(3)]
    outcomes = [told(replica).outcome for replica in replicas]
    assert outcomes.count("migrated") == 1
    assert set(outcomes) <= {"migrated", "waited", "up_to_date"}
    path = backups.only()
    assert path.name.endswith("-v1.dump")
    (taken,) = [record for replica in replicas for record in replica.logs("backup.taken")]
    assert taken["backup"] == str(path)
    (leader,) = [replica for replica in replicas if replica.logs("backup.taken")]
    events = leader.events()
    assert events.index("lock.acquired") < events.index("backup.taken") < events.index("migration.applied")
    with restored(path, backups.database.server) as copy:
        assert copy.schema() == before
        assert copy.rows("SELECT migration_number FROM schema_migrations") == [(1,)]
        # The lock was held when the backup was taken, but that does not stop a start on the restored database.
        assert backups.scene.run(url=copy.url).outcome == "migrated"


@pytest.mark.thorough
def test_none_where_nothing_is_to_run(backups: Backups) -> None:
    backups.scene.write(FIRST)
    backups.start("migrate", "--dry-run").ok()
    assert backups.files() == []
    backups.start("migrate").ok()
    first = backups.only()
    assert told(backups.start()).outcome == "up_to_date"
    backups.start("migrate", PATH="/nowhere").ok()
    assert backups.only() == first, "nothing was pending"
    backups.scene.write({"002_bad.sql": "nonsense"})
    assert backups.start("migrate").wait() == 70
    assert len(backups.files()) == 2
    held_back = backups.start("migrate")
    assert held_back.wait() == 70
    assert len(backups.files()) == 2, "a migration that is held back does not run"
    assert told(backups.start(AUTO_MIGRATE="false")).outcome == "disabled"
    assert len(backups.files()) == 2


@pytest.mark.thorough
def test_none_where_only_the_ledger_is_upgraded(backups: Backups) -> None:
    backups.scene.write(FIRST)
    backups.scene.migrated()
    backups.database.execute("ALTER TABLE migration_lock DROP COLUMN progress_at")
    run = backups.start("migrate").ok()
    assert run.logs("ledger.created")
    assert backups.files() == []


@pytest.mark.parametrize("on_failure", ["start", "exit"])
@pytest.mark.parametrize("fault", ["pg_dump", "directory", "program"])
def test_without_a_backup_nothing_is_migrated(
    with_one_pending: Backups, tmp_path: Path, on_failure: str, fault: str
) -> None:
    backups = with_one_pending
    name = backups.database.name
    env: dict[str, str | int] = {"MIGRATION_ON_FAILURE": on_failure}
    if fault == "directory":
        env["MIGRATION_BACKUP_DIR"] = "/no/such/directory"
    elif fault == "program":
        none_installed(backups.database.server.version)
        (tmp_path / "alone").mkdir()
        alone = tmp_path / "alone" / "pg_dump"
        alone.write_text(f'#!/bin/sh\nexec "{backups.database.server.bin}/pg_dump" "$@"\n')
        alone.chmod(0o755)
        env["PATH"] = f"{alone.parent}:/usr/bin:/bin"
    else:
        # It may change the schema, but may not read one of the tables.
        backups.database.execute(
            f"CREATE TABLE secret (); CREATE ROLE {name}_app LOGIN; GRANT ALL ON SCHEMA public TO {name}_app;"
            f"GRANT ALL ON schema_migrations, migration_lock, schema_migrations_id_seq, held TO {name}_app"
        )
        env["DATABASE_URL"] = backups.database.server.url(name, user=f"{name}_app")
    try:
        run = backups.start(**env)
        if on_failure == "exit":
            assert run.wait() == 70, run.report()
            assert run.stdout == ""
        else:
            application = told(run)
            assert application.outcome == "failed"
            assert application.version == "1"
            assert application.error.startswith("Nothing was migrated, because the backup failed: ")
        error = only_error(run)
        assert error["event"] == "backup.failed"
        assert error["message"].startswith("Nothing was migrated, because the backup failed: ")
        if fault == "program":
            assert f"{tmp_path}/alone/pg_dump {backups.database.server.version}" in error["message"]
            assert "no pg_restore" in error["message"]
        if fault == "pg_dump":
            assert "permission denied for table secret" in error["message"]
            assert "MIGRATION_ROLE" in error["remedy"]
        assert backups.scene.ledger() == [(1, "completed")]
        assert not backups.database.exists("next_step")
        assert backups.scene.lock_is_free()
        assert backups.files() == []
    finally:
        if fault == "pg_dump":
            backups.database.execute(f"DROP OWNED BY {name}_app; DROP ROLE {name}_app")
    assert told(backups.start()).outcome == "migrated", "the failure was not recorded as a migration's"


def test_it_counts_into_the_time_for_all_migrations(with_one_pending: Backups) -> None:
    backups = with_one_pending
    with Held(backups.database) as held:
        run = backups.start("migrate", MIGRATION_TIMEOUT_MS=1500)
        assert run.wait() == 70
        held.departure()
    error = only_error(run)
    assert "1500ms" in error["message"]
    assert "MIGRATION_TIMEOUT_MS" in error["remedy"]
    assert backups.scene.ledger() == [(1, "completed")]
    assert backups.scene.lock_is_free()
    assert backups.files() == []


@pytest.mark.thorough
def test_others_see_that_a_backup_is_being_taken(with_one_pending: Backups) -> None:
    backups = with_one_pending
    with Held(backups.database) as held:
        leader = backups.start()
        held.arrival(leader)
        waiter = backups.start()
        assert "is backing up" in waiter.until("lock.waiting")["message"]
        shown = json.loads(backups.start("status", "--json").ok().stdout)
        assert shown["lock"]["migration"] == "backup"
        assert "taking a backup" in backups.start("status").ok().stdout
        impatient = backups.start("migrate", MIGRATION_LOCK_TIMEOUT_MS=300)
        assert impatient.wait() == 75
        assert "is backing up" in only_error(impatient)["message"]
    assert told(leader).outcome == "migrated"
    assert told(waiter).outcome == "waited"
    assert backups.only()


@pytest.mark.thorough
def test_an_operator_frees_the_row_meanwhile(with_one_pending: Backups) -> None:
    backups = with_one_pending
    with Held(backups.database) as held:
        run = backups.start("migrate")
        pg_dump = held.arrival(run)
        backups.database.execute(
            "UPDATE migration_lock SET locked_at = NULL, locked_by = NULL, process_id = NULL WHERE id = 1"
        )
        assert run.wait() == 75
        until(lambda: not alive(pg_dump), 2, "the end of pg_dump")
        held.departure()
    assert only_error(run)["by_operator"] is True
    assert backups.scene.ledger() == [(1, "completed")]
    assert backups.scene.lock_is_free()
    assert backups.files() == []


def test_the_guard_is_lost_meanwhile(with_one_pending: Backups) -> None:
    """Somebody else has the lock now, so the run gives up its backup and competes for the lock again."""
    backups = with_one_pending
    with Held(backups.database) as held, backups.database.connect() as rival:
        run = backups.start("migrate")
        pg_dump = held.arrival(run)
        guard = backups.scene.guard_pid(token_of(run))
        # It queues for the guard's lock, so it gets it before the guard can win it back.
        rival.execute(
            f"DO $$ BEGIN PERFORM pg_terminate_backend({guard}); PERFORM pg_advisory_lock({lock_key()}); END $$"
        )
        run.until("lock.lost")
        until(lambda: not alive(pg_dump), 5, "the end of pg_dump")
        held.departure()
        assert backups.files() == []
        run.until("lock.waiting")
        held.open()
        rival.execute(f"SELECT pg_advisory_unlock({lock_key()})")
        run.ok()
    backups.only()
    assert len(run.logs("backup.taken")) == 1
    assert backups.scene.ledger() == [(1, "completed"), (2, "completed")]


@pytest.mark.thorough
def test_a_second_lease_needs_no_second_backup(with_one_pending: Backups) -> None:
    backups = with_one_pending
    backups.scene.write({"002_next.sql": "CREATE TABLE next_step (); LOCK TABLE held;"})
    with backups.database.connect() as connection:
        connection.execute("BEGIN; LOCK TABLE held IN ROW EXCLUSIVE MODE")
        run = backups.start("migrate", MIGRATION_DDL_LOCK_TIMEOUT_MS=60_000)
        run.until("backup.taken")
        application = application_of(token_of(run))
        waiting = (
            "SELECT pg_terminate_backend(pid), pg_terminate_backend(%s) FROM pg_stat_activity"
            " WHERE application_name = %s AND wait_event_type = 'Lock'"
        )
        guard = backups.scene.guard_pid(token_of(run))
        with backups.database.connect() as rival:
            until(
                lambda: rival.execute(
                    "SELECT FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'",
                    (application,),
                ).fetchall(),
                15,
                run.report,
            )
            rival.execute(waiting, (guard, application))
            rival.execute(f"SELECT pg_advisory_lock({lock_key()})")
            run.until("lock.waiting")
    run.ok()
    assert len(run.logs("lock.acquired")) == 2
    assert len(run.logs("backup.taken")) == 1
    backups.only()


@pytest.mark.thorough
def test_short_of_connections_it_is_tried_again(with_one_pending: Backups) -> None:
    backups = with_one_pending
    name = backups.database.name
    backups.database.execute(f"CREATE ROLE {name}_few LOGIN CONNECTION LIMIT 3; GRANT pg_read_all_data TO {name}_few")
    url = backups.database.server.url(name, user=f"{name}_few")
    backups.database.execute(
        f"GRANT ALL ON SCHEMA public TO {name}_few; GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}_few;"
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}_few"
    )
    try:
        with backups.database.connect(user=f"{name}_few"):
            run = backups.start("migrate", DATABASE_URL=url)
            assert run.until("backup.retry")["cause"] == "too_many_clients"
        run.ok()
        backups.only()
    finally:
        backups.database.execute(f"DROP OWNED BY {name}_few; DROP ROLE {name}_few")


# --- Interruptions --------------------------------------------------------------------------------------


def interrupted(run: Run, number: signal.Signals, pg_dump: int, *, pid: int | None = None) -> None:
    """Send the signal; fail unless everything, including pg_dump, ends in time."""
    began = time.monotonic()
    os.kill(pid or run.pid, number)
    assert run.wait(20) == 128 + number, run.report()
    assert time.monotonic() - began < PROMISE
    until(lambda: not alive(pg_dump), 2, "the end of pg_dump")
    assert run.leftovers() == []
    assert "Traceback" not in run.stderr


@BOTH
@pytest.mark.parametrize(
    "command", [("run", "--", *APPLICATION), ("migrate",), ("backup",)], ids=["run", "migrate", "backup"]
)
def test_a_signal_ends_everything(with_one_pending: Backups, command: tuple[str, ...], number: signal.Signals) -> None:
    backups = with_one_pending
    with Held(backups.database) as held:
        run = backups.start(*command)
        interrupted(run, number, held.arrival(run))
        held.departure()
        until(lambda: backups.database.sessions(ours=2) == 0, 2, "the end of the backends")
    assert run.stdout == "", "the application was not started"
    assert backups.files() == []
    assert backups.scene.lock_is_free()


@pytest.mark.thorough
def test_a_signal_as_pid_1(with_one_pending: Backups, run_program: Start) -> None:
    backups = with_one_pending
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        missing("no permission to make a pid namespace (unshare --pid)")
    with Held(backups.database) as held:
        command = [*unshare, *PROGRAM, "migrate"]
        run = run_program(command, env=backups.environment())
        pg_dump = held.arrival(run)
        pid = descendants(run.pid)[0]
        assert status(pid)["NSpid"].split()[-1] == "1"
        interrupted(run, signal.SIGTERM, pg_dump, pid=pid)
        held.departure()
    assert backups.files() == []


@pytest.mark.thorough
def test_a_signal_while_the_server_is_frozen(fresh_server: Callable[..., Server], backups: Backups) -> None:
    """pg_dump's own clean-up asks the server and would wait for its answer."""
    server = fresh_server()
    database = Database(server, "postgres")
    database.execute("CREATE TABLE held ()")
    backups.scene.write(SECOND)
    with Held(database) as held:
        run = backups.start("migrate", DATABASE_URL=database.url)
        pg_dump = held.arrival(run)
        server.freeze()
        interrupted(run, signal.SIGTERM, pg_dump)
        server.thaw()
    assert backups.files() == []


def test_pg_dump_does_not_outlive_a_program_that_is_killed(with_one_pending: Backups) -> None:
    backups = with_one_pending
    with Held(backups.database) as held:
        run = backups.start("migrate")
        pg_dump = held.arrival(run)
        run.kill()
        until(lambda: not alive(pg_dump), 5, "the end of pg_dump")
        held.departure()
        (leftover,) = backups.files()
        assert leftover.startswith("."), "nothing has the name of a backup"
    backups.start("migrate").ok()
    assert len([name for name in backups.files() if NAME.fullmatch(name)]) == 1


@pytest.mark.thorough
def test_pg_dump_is_killed(with_one_pending: Backups) -> None:
    backups = with_one_pending
    with Held(backups.database) as held:
        run = backups.start("migrate")
        os.kill(held.arrival(run), signal.SIGKILL)
        assert run.wait() == 70
    assert "signal 9" in only_error(run)["message"]
    assert backups.files() == []
    assert backups.scene.ledger() == [(1, "completed")]


@pytest.mark.thorough
def test_an_operator_ends_pg_dumps_session(with_one_pending: Backups) -> None:
    backups = with_one_pending
    with Held(backups.database) as held:
        run = backups.start("migrate")
        held.arrival(run)
        backups.database.execute(f"SELECT pg_terminate_backend(pid) FROM ({WAITS}) waits")
        assert run.wait() == 69
    assert "terminating connection" in only_error(run)["message"]
    assert backups.files() == []
    assert backups.scene.ledger() == [(1, "completed")]


MOUNTED = 'mount -t tmpfs -o size=256k,"$1" tmpfs "$0" && shift && "$@"; code=$?; ls -A "$0"; exit "$code"'


@pytest.mark.thorough
@pytest.mark.every_case
@pytest.mark.parametrize(("options", "says"), [("rw", "No space left on device"), ("ro", "not writable")])
def test_a_disk_that_takes_nothing(with_one_pending: Backups, run_program: Start, options: str, says: str) -> None:
    backups = with_one_pending
    unshare = ["unshare", "--mount"]
    mount: list[str | Path] = [*unshare, "mount", "-t", "tmpfs", "tmpfs", backups.directory]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        missing("no permission to mount (unshare --mount)")
    backups.database.execute(
        "CREATE TABLE big AS SELECT string_agg(md5(n::text || m::text), '') FROM generate_series(1, 100) m,"
        " generate_series(1, 300) n GROUP BY m"
    )
    for command in ("migrate", "backup"):
        run = run_program(
            [*unshare, "sh", "-c", MOUNTED, backups.directory, options, *PROGRAM, command],
            env=backups.environment(),
        )
        assert run.wait() == 70, run.report()
        assert says in only_error(run)["message"]
        assert run.stdout == "", "nothing is left in the directory"
    assert backups.scene.ledger() == [(1, "completed")]
