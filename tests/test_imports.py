"""What a start costs when nothing is pending: modules, connections and round trips, seen from outside.

Almost every start of every container is like this, so the lists are exact. A module that joins one of them costs
everybody, and belongs in docs/startup-cost.md too.
"""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.postgres import free_port
from kit.databases import server_errors
from kit.migrations import non_idempotent, write_migrations
from kit.processes import until
from kit.proxy import TERMINATE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kit.databases import Database
    from kit.processes import Run
    from kit.proxy import Proxy

ROOT = Path(__file__).parents[1]
BUNDLE = runpy.run_path(str(ROOT / "packaging" / "bundle.py"))

# What the command's own script does, on a bare interpreter. It skips site-packages' start-up files, some of which
# import a lot in an editable installation. Just before the application is executed, an audit hook (os.exec:
# https://docs.python.org/3/library/audit_events.html) writes down what has been imported.
PROGRAM = """\
import subprocess
import sys
at_the_start = set(sys.modules)
sys.path[:] = {path!r}

def write_down(event, arguments, seen=[]):
    if event == "os.exec" and not seen:
        seen.append(event)
        imported = sorted(set(sys.modules) - at_the_start)
        sys.stdout.write("".join(name + chr(10) for name in imported))
        sys.stdout.flush()

sys.addaudithook(write_down)
from entrypoint.__main__ import main
sys.exit(main())
"""
# The same for a command, which execs nothing: it ends with os._exit, which no hook sees.
COMMAND = PROGRAM.replace(
    "from entrypoint",
    """\
import os
leave = os._exit

def last(code):
    write_down("os.exec", ())
    leave(code)

os._exit = last
from entrypoint""",
)

AT_EVERY_START = {
    "entrypoint",
    "entrypoint.__main__",
    "entrypoint.errors",
    "entrypoint.handover",
    "entrypoint.logs",
    "entrypoint.records",
    "entrypoint.redaction",
    "entrypoint.settings",
    "entrypoint.signals",
    "entrypoint.startup",
}
# Also imported if the feature is used.
OF_A_DRIVERS_ADDRESS = {"entrypoint.database.drivers", "entrypoint.database.translation"}
OF_A_COMMAND = {
    "entrypoint.command",
    "entrypoint.migration.ledger.runs",
    "entrypoint.migration.ledger.verdict",
    "entrypoint.tool",
    "entrypoint.tool.inputs",
}
OF_REPEATABLES = {"entrypoint.migration.ledger.repeatables"}
OF_A_PROBE = {"entrypoint.phase", "entrypoint.probe"}
OF_MIGRATE = {"entrypoint.commands", "entrypoint.commands.migrate"}
UP_TO_DATE = AT_EVERY_START | {
    "entrypoint.database",
    "entrypoint.database.address",
    "entrypoint.database.libpq",
    "entrypoint.database.quoting",
    "entrypoint.deadline",
    "entrypoint.migration",
    "entrypoint.migration.ledger",
    "entrypoint.migration.ledger.first_look",
    "entrypoint.migration.ledger.place",
    "entrypoint.migration.ledger.plan",
    "entrypoint.migration.ledger.rows",
    "entrypoint.migration.script",
    "entrypoint.migration.script.files",
}

# Python's own modules. Built-in C modules cost almost nothing, but are listed all the same. `_collections` is part of
# the interpreter, not a file.
PYTHONS_AT_EVERY_START = {"__future__", "_collections", "errno", "gc"}
# `os` and what it imports. In an ordinary start, `site` has already imported it.
PYTHONS_BY_SITE = {
    "_abc",
    "_collections_abc",
    "_stat",
    "abc",
    "genericpath",
    "io",
    "os",
    "os.path",
    "posixpath",
    "stat",
}
PYTHONS_UP_TO_DATE = PYTHONS_AT_EVERY_START | {
    "_ctypes",
    "itertools",
    "select",
    # SHA-256, under its names from Python 3.12 on and in 3.11.
    "_sha2",
    "_sha256",
}
# Also imported by a start that has ordinary files to apply and a direct connection. Of other packages, this is only the
# parser and what it imports. Modules written in C are not listed.
OTHERS_PENDING = {"pgparse"}
PYTHONS_PENDING = {
    *("binascii", "bisect", "collections", "contextlib", "copyreg", "enum", "errno", "fnmatch", "functools", "gc"),
    *("itertools", "json", "keyword", "math", "operator", "random", "re", "reprlib", "select", "threading", "types"),
    *("warnings", "zlib"),
}
PYTHONS_BY_THE_PARSER = {
    *("annotationlib", "ast", "dis", "importlib", "inspect", "linecache", "opcode", "token", "tokenize", "typing"),
    "weakref",  # imported by inspect, from Python 3.13 on
}


@pytest.fixture
def imported_by(run_program: Callable[..., Run], migrations_dir: Path) -> Callable[..., set[str]]:
    """Return a function that starts `entrypoint run -- true`, or other arguments, and returns what it imported."""

    def start(env: Mapping[str, str], *words: str) -> set[str]:
        program = (COMMAND if words else PROGRAM).format(path=[entry for entry in sys.path if entry])
        # -S leaves out site and what it reads; -I leaves out everything that the environment could add.
        argv = [sys.executable, "-I", "-S", "-c", program, *(words or ("run", "--", "true"))]
        run = run_program(argv, env={"MIGRATIONS_DIR": str(migrations_dir), **env}).ok()
        names = set(run.stdout.split())
        assert "entrypoint.__main__" in names, run.report()
        return names

    return start


@pytest.fixture
def up_to_date(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Database:
    """Return a database in which every file in `migrations_dir` is applied."""
    write_migrations(migrations_dir, non_idempotent(30))
    run_entrypoint("migrate", env={"DATABASE_URL": database.url}).ok()
    return database


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] == "entrypoint"}


def pythons(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] in sys.stdlib_module_names} - PYTHONS_BY_SITE


def others(names: set[str]) -> set[str]:
    return names - ours(names) - pythons(names) - PYTHONS_BY_SITE


def test_an_up_to_date_start_imports_just_this(
    up_to_date: Database, imported_by: Callable[[Mapping[str, str]], set[str]]
) -> None:
    names = imported_by({"DATABASE_URL": up_to_date.url})
    assert ours(names) == UP_TO_DATE
    assert pythons(names) <= PYTHONS_UP_TO_DATE
    assert not others(names)


def test_a_start_without_migrations_imports_just_this(imported_by: Callable[[Mapping[str, str]], set[str]]) -> None:
    names = imported_by({"AUTO_MIGRATE": "false", "DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/nowhere"})
    assert ours(names) == AT_EVERY_START
    assert pythons(names) <= PYTHONS_AT_EVERY_START
    assert not others(names)


def test_migrate_costs_two_modules_and_no_parser_of_options(
    up_to_date: Database, imported_by: Callable[..., set[str]]
) -> None:
    names = imported_by({"DATABASE_URL": up_to_date.url}, "migrate")
    assert ours(names) == UP_TO_DATE | OF_MIGRATE
    assert pythons(names) <= PYTHONS_UP_TO_DATE
    assert not others(names)
    assert "argparse" in imported_by({"DATABASE_URL": up_to_date.url}, "migrate", "--to", "30")


def test_a_secret_costs_no_more(up_to_date: Database, imported_by: Callable[[Mapping[str, str]], set[str]]) -> None:
    """Only an ordinary one: an escaped one must be unescaped, to recognise it in every form."""
    url = up_to_date.url.replace("postgres@", "postgres:correct-horse@")
    assert ":correct-horse@" in url
    assert pythons(imported_by({"DATABASE_URL": url})) <= PYTHONS_UP_TO_DATE
    assert "urllib.parse" in imported_by({"DATABASE_URL": url.replace("-horse", "%20horse")})


def test_another_drivers_address_costs_two_modules(
    up_to_date: Database, imported_by: Callable[[Mapping[str, str]], set[str]]
) -> None:
    names = imported_by({"DATABASE_URL": f"{up_to_date.url}?schema=public&connection_limit=5"})
    assert ours(names) == UP_TO_DATE | OF_A_DRIVERS_ADDRESS
    assert pythons(names) <= PYTHONS_UP_TO_DATE
    assert not others(names)


def test_another_tools_history_costs_nothing_where_nothing_is_pending(
    up_to_date: Database, imported_by: Callable[[Mapping[str, str]], set[str]]
) -> None:
    names = imported_by({"DATABASE_URL": up_to_date.url, "MIGRATION_ADOPT": "goose:ops.versions"})
    assert ours(names) == UP_TO_DATE
    assert pythons(names) <= PYTHONS_UP_TO_DATE
    assert not others(names)


def test_another_migration_tool_costs_five_modules_and_no_round_trip(
    up_to_date: Database, proxy: Proxy, imported_by: Callable[[Mapping[str, str]], set[str]], migrations_dir: Path
) -> None:
    """When the tool has nothing to do, with or without our own files alongside."""
    command = {"MIGRATION_COMMAND": "true", "MIGRATION_COMMAND_INPUTS": str(migrations_dir / "*.sql")}
    up_to_date.execute("CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('a')")
    for directory in (str(migrations_dir), ""):
        env = {"DATABASE_URL": up_to_date.url, "MIGRATIONS_DIR": directory, **command}
        imported_by(env)
        before = proxy.connections
        names = imported_by({**env, "DATABASE_URL": up_to_date.url_at(proxy.port)})
        assert (proxy.connections - before, proxy.round_trips[before]) == (1, 2)
        assert ours(names) == UP_TO_DATE | OF_A_COMMAND
        assert pythons(names) <= PYTHONS_UP_TO_DATE
        assert not others(names)


def test_repeatable_files_cost_one_module_and_no_round_trip(
    up_to_date: Database,
    proxy: Proxy,
    migrations_dir: Path,
    imported_by: Callable[[Mapping[str, str]], set[str]],
    run_entrypoint: Callable[..., Run],
) -> None:
    (migrations_dir / "repeatable").mkdir()
    write_migrations(migrations_dir, {"repeatable/README.md": ""})
    assert ours(imported_by({"DATABASE_URL": up_to_date.url})) == UP_TO_DATE, (
        "a folder without such files costs nothing"
    )
    write_migrations(migrations_dir, {"repeatable/v.sql": "CREATE OR REPLACE VIEW v AS SELECT 1 AS one;"})
    run_entrypoint("migrate", env={"DATABASE_URL": up_to_date.url}).ok()
    names = imported_by({"DATABASE_URL": up_to_date.url_at(proxy.port)})
    assert ours(names) == UP_TO_DATE | OF_REPEATABLES
    assert pythons(names) <= PYTHONS_UP_TO_DATE
    assert not others(names)
    assert (proxy.connections, proxy.round_trips[0]) == (1, 2)


def test_fields_for_the_log_cost_one_module_and_json(
    up_to_date: Database, imported_by: Callable[[Mapping[str, str]], set[str]]
) -> None:
    names = imported_by({"DATABASE_URL": up_to_date.url, "APP_VERSION": "1.4.0", "MIGRATION_SCHEMA": "public"})
    assert ours(names) == UP_TO_DATE
    names = imported_by({"DATABASE_URL": up_to_date.url, "LOG_FIELDS": '{"team": "checkout", "shard": 7}'})
    assert ours(names) == UP_TO_DATE | {"entrypoint.settings.log_fields"}
    assert {"json"} <= pythons(names) - PYTHONS_UP_TO_DATE
    assert not {"logging", "pythonjsonlogger"} & names


def test_metrics_cost_one_module_and_whom_to_tell_another(
    up_to_date: Database, imported_by: Callable[[Mapping[str, str]], set[str]], tmp_path: Path
) -> None:
    """If nothing failed, nobody is notified, so nothing that runs a program is imported."""
    metrics = {"MIGRATION_METRICS_FILE": str(tmp_path / "shop.prom")}
    names = imported_by({"DATABASE_URL": up_to_date.url, **metrics})
    assert ours(names) == UP_TO_DATE | {"entrypoint.reporting"}
    assert pythons(names) <= PYTHONS_UP_TO_DATE
    assert not others(names)
    names = imported_by({"DATABASE_URL": up_to_date.url, **metrics, "MIGRATION_FAILURE_COMMAND": "true"})
    assert ours(names) == UP_TO_DATE | {"entrypoint.reporting", "entrypoint.command"}
    assert pythons(names) <= PYTHONS_UP_TO_DATE


def test_a_probe_costs_two_modules_where_it_is_asked_for(
    up_to_date: Database, imported_by: Callable[[Mapping[str, str]], set[str]]
) -> None:
    names = imported_by({"DATABASE_URL": up_to_date.url, "MIGRATION_PROBE_PORT": str(free_port())})
    assert ours(names) == UP_TO_DATE | OF_A_PROBE
    assert not others(names)


def test_a_start_with_one_file_pending_imports_no_driver(
    up_to_date: Database, migrations_dir: Path, imported_by: Callable[[Mapping[str, str]], set[str]]
) -> None:
    """Nor asyncio, logging, importlib.metadata or typing_extensions, which are most of a driver's cost."""
    write_migrations(migrations_dir, {"031_notice.sql": """DO $$ BEGIN RAISE NOTICE 'a "quoted" one'; END $$;"""})
    names = imported_by({"DATABASE_URL": up_to_date.url})
    public = {name.partition(".")[0] for name in pythons(names) if not name.startswith("_")}
    assert public - PYTHONS_PENDING - PYTHONS_BY_THE_PARSER - PYTHONS_BY_SITE == set()
    assert {name for name in others(names) if "cython" not in name} == OTHERS_PENDING


def test_a_plain_file_does_without_the_parser(
    up_to_date: Database, migrations_dir: Path, imported_by: Callable[[Mapping[str, str]], set[str]]
) -> None:
    write_migrations(migrations_dir, {"031_a.sql": "CREATE TABLE a (name text DEFAULT 'x'); CREATE INDEX ON a (name);"})
    names = imported_by({"DATABASE_URL": up_to_date.url})
    assert not others(names)
    assert not names & PYTHONS_BY_THE_PARSER - {"importlib"}


def test_the_rest_is_imported_when_there_is_a_use_for_it(
    database: Database, migrations_dir: Path, imported_by: Callable[[Mapping[str, str]], set[str]]
) -> None:
    """These tests would notice an import."""
    write_migrations(migrations_dir, {"001_a.sql": "DO $$ BEGIN END $$;"})
    names = imported_by({"DATABASE_URL": database.url})
    assert {"entrypoint.migration.lock.lease", "entrypoint.migration.script.statements"} <= ours(names) - UP_TO_DATE
    assert "pgparse" in others(names)
    assert "tenacity" not in names

    nobody = f"postgresql://127.0.0.1:{free_port()}/nowhere"
    names = imported_by({"DATABASE_URL": nobody, "DB_CONNECT_ATTEMPTS": "2", "DB_CONNECT_BACKOFF_MS": "1"})
    assert "entrypoint.database.backoff" in ours(names) - UP_TO_DATE
    assert "tenacity" in others(names)
    assert "pgparse" not in names


@pytest.mark.every_case
@pytest.mark.parametrize(
    "setting",
    [{}, {"MIGRATION_SCHEMA": "public"}, {"MIGRATION_ROLE": "postgres"}, {"MIGRATION_ADOPT": "goose"}],
    ids=str,
)
def test_an_up_to_date_start_asks_twice_and_says_good_bye(
    up_to_date: Database, proxy: Proxy, run_entrypoint: Callable[..., Run], setting: dict[str, str]
) -> None:
    said_good_bye = proxy.when_client_sends(TERMINATE, lambda _: None)
    mark = up_to_date.server.log_size()

    url = f"{up_to_date.url_at(proxy.port)}&options=-c%20log_disconnections%3Don"
    run = run_entrypoint("run", "--", "true", env={"DATABASE_URL": url, **setting}).ok()

    assert run.outcome == "up_to_date"
    assert proxy.connections == 1
    assert proxy.cancels == 0
    assert proxy.round_trips[0] <= 2
    assert said_good_bye.wait(5)
    log = until(
        lambda: text if "disconnection:" in (text := up_to_date.server.log_text(mark)) else "", 5, "the server's log"
    )
    # No end without Terminate, no reset, no open transaction.
    assert "could not receive data" not in log
    assert "unexpected EOF" not in log
    assert not server_errors(up_to_date.server, mark)


def test_a_start_with_one_file_pending_goes_on_where_it_asked(
    up_to_date: Database, proxy: Proxy, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    """It uses two connections: this one and the guard's. Each says goodbye to the server."""
    write_migrations(migrations_dir, {"031_a.sql": "CREATE TABLE a ();"})
    mark = up_to_date.server.log_size()
    run = run_entrypoint("run", "--", "true", env={"DATABASE_URL": up_to_date.url_at(proxy.port)}).ok()
    assert run.outcome == "migrated"
    assert proxy.connections == 2
    until(lambda: up_to_date.sessions() == 0, 5, "the end of the sessions")
    assert not server_errors(up_to_date.server, mark)


@pytest.mark.thorough
@pytest.mark.parametrize(("attribute", "questions"), [("IN ROLE {owner}", 2), ("SUPERUSER", 3)])
def test_whom_to_trust_is_asked_in_full_only_where_a_glance_does_not_tell(
    up_to_date: Database, proxy: Proxy, run_entrypoint: Callable[..., Run], attribute: str, questions: int
) -> None:
    """A superuser is a member of every role; here it trusts the owner of the database."""
    owner, login = (f"{role}_{up_to_date.name}"[:60] for role in ("owner", "login"))
    up_to_date.execute(
        f"CREATE ROLE {owner}; CREATE ROLE {login} LOGIN {attribute.format(owner=owner)};"
        f"GRANT CREATE ON SCHEMA public TO {owner}; ALTER DATABASE {up_to_date.name} OWNER TO {owner};"
        f"ALTER TABLE schema_migrations OWNER TO {owner}; ALTER TABLE migration_lock OWNER TO {owner}"
    )
    try:
        url = up_to_date.server.url(up_to_date.name, user=login, port=proxy.port, sslmode="disable")
        run = run_entrypoint("run", "--", "true", env={"DATABASE_URL": url}).ok()
        assert run.outcome == "up_to_date"
        assert proxy.connections == 1
        assert proxy.round_trips[0] == questions
    finally:
        up_to_date.execute(
            f"REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}; DROP ROLE {login}; DROP ROLE {owner}"
        )


@pytest.mark.thorough
def test_among_many_ledgers_the_server_is_asked_to_search(
    up_to_date: Database, proxy: Proxy, run_entrypoint: Callable[..., Run]
) -> None:
    up_to_date.execute(
        "DO $$ BEGIN FOR n IN 1 .. 20 LOOP EXECUTE format('CREATE SCHEMA s%s', n); EXECUTE "
        "format('CREATE TABLE s%s.schema_migrations (migration_number integer, filename text)', n); END LOOP; END $$"
    )
    run = run_entrypoint("run", "--", "true", env={"DATABASE_URL": up_to_date.url_at(proxy.port)}).ok()
    assert run.outcome == "up_to_date"
    assert (proxy.connections, proxy.round_trips[0]) == (1, 3)


def test_a_start_without_migrations_asks_nobody(proxy: Proxy, run_entrypoint: Callable[..., Run]) -> None:
    url = f"postgresql://127.0.0.1:{proxy.port}/postgres?sslmode=disable"
    run_entrypoint("run", "--", "true", env={"AUTO_MIGRATE": "false", "DATABASE_URL": url}).ok()
    assert proxy.connections == 0


def test_a_command_imports_nothing_for_the_others() -> None:
    """What one command needs would slow down all. `importlib.resources` takes 14 ms, as it imports archives."""
    names = "importlib.resources", "shutil", "tempfile", "difflib", "rich", "psycopg"
    code = f"import sys, entrypoint.cli; print(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- The image and the self-contained build keep these modules in one file


def test_the_bundle_holds_what_an_up_to_date_start_imports() -> None:
    assert sorted(BUNDLE["START"]) == sorted(UP_TO_DATE)
    beside = {*OF_A_DRIVERS_ADDRESS, *OF_A_COMMAND, *OF_REPEATABLES, *OF_A_PROBE, *OF_MIGRATE}
    assert sorted(BUNDLE["ON_DEMAND"]) == sorted(beside)


def test_a_start_with_something_pending_imports_nothing_of_ours_from_a_file(
    tmp_path: Path, database: Database, migrations_dir: Path, run_program: Callable[..., Run]
) -> None:
    packages = tmp_path / "packages"
    shutil.copytree(ROOT / "entrypoint", packages / "entrypoint", ignore=shutil.ignore_patterns("__pycache__"))
    BUNDLE["write"](packages, packages, optimize=0)
    for source in packages.rglob("*.py"):
        source.write_text("raise SystemExit('imported from a file')\n")
    script = tmp_path / "entrypoint"
    path = [entry for entry in sys.path if entry.endswith("site-packages")]
    compiled = (
        "import re\nordinary = re._compiler.compile\n"
        "re._compiler.compile = lambda *asked: print('compiled', *asked) or ordinary(*asked)\n"
    )
    before = f"import sys\nsys.path[:0] = [{str(packages)!r}]\nsys.path += {path!r}\n{compiled}"
    command = (ROOT / "bin" / "entrypoint").read_text()
    script.write_text(BUNDLE["with_bundle"](before + command, repr(str(packages))))
    # The first start creates the ledger. Its file needs the parser; the next start has a plain one.
    for number, sql in enumerate(("DO $$ BEGIN RAISE NOTICE 'a'; END $$;", "CREATE TABLE a ();"), 1):
        write_migrations(migrations_dir, {f"{number:03}_a.sql": sql})
        env = {"MIGRATIONS_DIR": str(migrations_dir), "DATABASE_URL": database.url}
        argv = [sys.executable, "-I", "-S", script, "run", "--", "sh", "-c", 'echo "$ENTRYPOINT_OUTCOME"']
        run = run_program(argv, env=env).ok()
        assert run.stdout.split()[-1] == "migrated", run.report()
    # In the last start, nothing was compiled for the program's own modules.
    assert not [line for line in run.stdout.splitlines() if line.startswith("compiled")], run.stdout


def test_two_threads_may_import_what_is_pending_at_the_same_moment(
    tmp_path: Path, run_program: Callable[..., Run]
) -> None:
    """A start connects in one thread and reads files in another, which arrives while the first imports `re`."""
    packages = tmp_path / "packages"
    shutil.copytree(ROOT / "entrypoint", packages / "entrypoint", ignore=shutil.ignore_patterns("__pycache__"))
    BUNDLE["write"](packages, packages, optimize=0)
    path = [entry for entry in sys.path if entry.endswith("site-packages")]
    script = tmp_path / "script.py"
    script.write_text(
        f"""\
import marshal, sys, threading

packages = {str(packages)!r}
sys.path[:0] = [packages]
sys.path += {path!r}
with open(packages + "/{BUNDLE["NAME"]}", "rb") as bundle:
    loader, modules = marshal.loads(bundle.read())
exec(loader)
here, go_on = threading.Event(), threading.Event()

class Slow:
    def find_spec(name, path=None, target=None):
        if name == "re" and not go_on.is_set():
            here.set()
            go_on.wait()

for name in [name for name in sys.modules if name == "re" or name.startswith("re.")]:
    del sys.modules[name]
sys.meta_path.insert(0, Slow)
threads = [threading.Thread(target=__import__, args=(name,)) for name in {BUNDLE["PENDING"][:2]!r}]
threads[0].start()
here.wait()
threads[1].start()
threads[1].join(0.5)
go_on.set()
for thread in threads:
    thread.join()
print("imported")
"""
    )
    run = run_program([sys.executable, "-I", "-S", script]).ok()
    assert (run.stdout, run.stderr) == ("imported\n", "")


def test_a_start_imports_from_the_bundle_and_the_rest_from_files(
    tmp_path: Path, database: Database, migrations_dir: Path, run_program: Callable[..., Run]
) -> None:
    packages = tmp_path / "packages"
    shutil.copytree(ROOT / "entrypoint", packages / "entrypoint", ignore=shutil.ignore_patterns("__pycache__"))
    BUNDLE["write"](packages, packages, optimize=0)
    for name in (*BUNDLE["START"], *BUNDLE["ON_DEMAND"]):
        BUNDLE["source_of"](name, packages).write_text("raise SystemExit('imported from a file')\n")
    script = tmp_path / "entrypoint"
    # It needs psycopg and the like from the environment, but not this program's editable installation.
    path = [entry for entry in sys.path if entry.endswith("site-packages")]
    before = f"import sys\nsys.path[:0] = [{str(packages)!r}]\nsys.path += {path!r}\n"
    command = (ROOT / "bin" / "entrypoint").read_text()
    script.write_text(BUNDLE["with_bundle"](before + command, repr(str(packages))))
    write_migrations(migrations_dir, non_idempotent(3))
    database.execute("CREATE TABLE alembic_version (version_num text)")
    # Use every feature, except those that exclude each other.
    env = {
        "MIGRATIONS_DIR": str(migrations_dir),
        "DATABASE_URL": f"{database.url}?schema=public",
        "MIGRATION_PROBE_PORT": str(free_port()),
        "MIGRATION_COMMAND": "true",
        "MIGRATION_COMMAND_INPUTS": f"{migrations_dir}/*",
    }
    for outcome in ("migrated", "up_to_date"):
        argv = [sys.executable, "-I", "-S", script, "run", "--", "sh", "-c", 'echo "$ENTRYPOINT_OUTCOME"']
        run = run_program(argv, env=env).ok()
        assert run.stdout.strip() == outcome, run.report()
