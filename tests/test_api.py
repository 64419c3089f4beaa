"""`entrypoint.api`: migrate, status and check from Python, in the caller's process, alongside the program."""

from __future__ import annotations

import copy
import gc
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conftest import missing
from demo.postgres import free_port
from entrypoint import api
from entrypoint.errors import ConfigurationError, DatabaseUnavailableError, EntrypointError
from entrypoint.errors.migration import (
    LockTimeoutError,
    MigrationFailedError,
    MigrationFilesError,
    OutOfOrderError,
)
from kit.migrations import non_idempotent, write_migrations
from kit.processes import until
from scene import Gate, load_legacy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kit.databases import Database
    from kit.processes import Run

ROOT = Path(__file__).parents[1]


def finish(program: subprocess.Popen[str], seconds: float = 30) -> tuple[str, str]:
    try:
        return program.communicate(timeout=seconds)
    finally:
        program.kill()


def python(code: str, *arguments: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a separate Python that runs `code`."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


# --- Results --------------------------------------------------------------------------------------------


def test_migrate_tells_what_it_did(database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, non_idempotent(3))
    (migrations_dir / "repeatable").mkdir()
    write_migrations(migrations_dir, {"repeatable/v.sql": "CREATE OR REPLACE VIEW v AS SELECT 1 AS one;"})

    first = api.migrate(database.url, migrations_dir, to=2, app_version="1.4.0")
    assert (first.outcome, first.schema_version, first.repeatables) == ("migrated", 2, ())
    assert [one.number for one in first.applied] == [1, 2]
    assert [one.filename for one in first.applied] == sorted(non_idempotent(3))[:2]
    assert 0 < sum(one.seconds for one in first.applied) < first.seconds

    second = api.migrate(database.url, str(migrations_dir))
    assert (second.outcome, second.schema_version, second.repeatables) == ("migrated", 3, ("repeatable/v.sql",))
    assert [one.number for one in second.applied] == [3]
    assert second.run_id != first.run_id

    third = api.migrate(database.url, migrations_dir)
    assert (third.outcome, third.schema_version, third.applied) == ("up_to_date", 3, ())
    versions = database.rows("SELECT application_version FROM schema_migrations ORDER BY migration_number")
    assert versions == [("1.4.0",), ("1.4.0",), (None,)]


def test_status_is_what_the_program_says(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    write_migrations(migrations_dir, non_idempotent(3))
    api.migrate(database.url, migrations_dir, to=2)
    found = api.status(database.url, migrations_dir)
    assert (found.state, found.schema_version, found.latest_version, found.applied, found.pending) == (
        "pending", 2, 3, 2, 1,
    )  # fmt: skip
    assert [one.state for one in found.migrations] == ["applied", "applied", "pending"]
    assert found.migrations[0].seconds is not None
    run = run_entrypoint("status", "--json", env={"DATABASE_URL": database.url}).ok()
    assert json.loads(run.stdout) == found.document


def test_check_tells_what_it_found_and_raises_nothing_for_it(database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "SELEC 1;", "002_b.sql": "ALTER TABLE t DROP COLUMN x;"})
    found = api.check(migrations_dir)
    (fault,) = found.errors
    assert (fault.rule, fault.line, fault.column, Path(str(fault.file)).name) == ("syntax", 1, 1, "001_a.sql")
    assert [one.rule for one in found.warnings] == ["ban-drop-column"]
    assert not api.check(migrations_dir, lint=False).warnings
    only = api.check(migrations_dir, files=[migrations_dir / "002_b.sql"])
    assert not only.errors
    assert only.warnings

    # For applied files it reports only errors, if it can ask a database.
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE t (x int);"})
    api.migrate(database.url, migrations_dir)
    assert api.check(migrations_dir).warnings
    assert not api.check(migrations_dir, url=database.url).warnings


def test_what_comes_back_can_be_copied_and_pickled(database: Database, migrations_dir: Path) -> None:
    """A ProcessPoolExecutor and pytest-xdist pickle results."""
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();"})
    results = [api.migrate(database.url, migrations_dir), api.check(migrations_dir)]
    write_migrations(migrations_dir, {"002_b.sql": "SELECT 1/0;"})
    with pytest.raises(MigrationFailedError) as failed:
        api.migrate(database.url, migrations_dir)
    (migrations_dir / "3_b.sql").write_text("")
    write_migrations(migrations_dir, {"003_c.sql": "SELECT 3;"})
    with pytest.raises(MigrationFilesError) as refused:
        api.migrate(database.url, migrations_dir)
    for result in results:
        assert copy.deepcopy(result) == pickle.loads(pickle.dumps(result)) == result  # noqa: S301 - our own
    for error in (failed.value, refused.value):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        assert (type(again), str(again), again.remedy, again.report, again.fields) == (
            type(error), str(error), error.remedy, error.report, error.fields,
        )  # fmt: skip
    assert not refused.value.report


# --- Errors ---------------------------------------------------------------------------------------------


def test_an_error_has_its_facts_and_a_remedy(database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "SELECT 1/0;"})
    with pytest.raises(MigrationFailedError) as failed:
        api.migrate(database.url, migrations_dir)
    assert failed.value.applied == ("001_a.sql",)
    assert failed.value.schema_version == 1
    assert failed.value.remedy
    assert "SELECT 1/0" in failed.value.report
    assert api.status(database.url, migrations_dir).state == "error"

    once = {"DB_CONNECT_ATTEMPTS": "1"}
    with pytest.raises(DatabaseUnavailableError):
        api.status(f"postgresql://127.0.0.1:{free_port()}/nowhere", migrations_dir, variables=once)

    write_migrations(migrations_dir, {"Bad.sql": ""})
    with pytest.raises(MigrationFilesError) as files:
        api.migrate(database.url, migrations_dir)
    assert files.value.faults


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schema": "s" * 64}, "63 bytes"),
        ({"variables": {"MIGRATION_COMMAND": "true"}}, "'MIGRATION_COMMAND'"),
        ({"variables": {"DB_CONNECT_ATTEMPTS": "many"}}, "DB_CONNECT_ATTEMPTS is 'many'"),
    ],
    ids=str,
)
def test_a_bad_setting_is_refused(migrations_dir: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match="Bad configuration") as refused:
        api.migrate("postgresql://127.0.0.1/nowhere", migrations_dir, **options)  # type: ignore[arg-type]  # to be refused
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((None, "{dir}"), {}, "url must be str, not NoneType"),
        (("postgresql://h/d", b"dir"), {}, "directory must be str or .*, not bytes"),
        (("postgresql://h/d", None), {}, "directory must be str or .*, not NoneType"),
        (("postgresql://h/d", "{dir}"), {"variables": []}, "variables must be Mapping or None, not list"),
        (("postgresql://h/d", "{dir}"), {"to": "2"}, "to must be int or None, not str"),
        (("postgresql://h/d", "{dir}"), {"to": True}, "to must be int or None, not bool"),
        (("postgresql://h/d", "{dir}"), {"after": "yes"}, "after must be bool, not str"),
        (("postgresql://h/d", "{dir}"), {"schema": 5}, "schema must be str or None, not int"),
        (("postgresql://h/d", "{dir}"), {"timeout": "5"}, "timeout must be float or int or None, not str"),
        (("postgresql://h/d", "{dir}"), {"variables": {"DB_CONNECT_ATTEMPTS": 1}}, "must be str, not int"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(
    migrations_dir: Path, arguments: tuple[object, ...], options: dict[str, object], said: str
) -> None:
    given = [str(migrations_dir) if one == "{dir}" else one for one in arguments]
    with pytest.raises(TypeError, match=said):
        api.migrate(*given, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("character", ["\0", "\ud800"])
@pytest.mark.parametrize("parameter", ["url", "schema", "role", "app_version", "directory", "variables"])
def test_what_no_text_has_is_refused(migrations_dir: Path, parameter: str, character: str) -> None:
    """A NUL used to be dropped silently, which changed the schema's name, or to cause an internal error."""
    odd = f"a{character}b"
    given: dict[str, Any] = {"url": "postgresql://h/d", "directory": migrations_dir}
    given[parameter] = {"DATABASE_PASSWORD_COMMAND": odd} if parameter == "variables" else odd
    with pytest.raises(ConfigurationError, match=parameter if character == "\0" else None) as caught:
        api.migrate(**given)
    assert "Internal" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "directory", "options", "said"),
    [
        ("", "{dir}", {}, "url is empty"),
        ("postgresql://h/d", "", {}, "directory is empty"),
        ("postgresql://h/d", "{dir}/nowhere", {}, "does not exist"),
        ("{dir}", "postgresql://u:Quokka@h/d", {}, "directory is a database address"),
        ("{dir}", "host=h password=Quokka", {}, "directory is a database address"),
        ("postgresql://h/d", "{dir}", {"timeout": 0}, "timeout is 0 seconds"),
        ("postgresql://h/d", "{dir}", {"timeout": 1e-9}, "timeout is 1e-09 seconds"),
        ("postgresql://h/d", "{dir}", {"lock_timeout": float("inf")}, "lock_timeout is inf seconds"),
        ("postgresql://h/d", "{dir}", {"timeout": float("nan")}, "timeout is nan seconds"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(
    migrations_dir: Path, url: str, directory: str, options: dict[str, float], said: str
) -> None:
    where = str(migrations_dir)
    with pytest.raises(ConfigurationError, match=said) as refused:
        api.migrate(url.replace("{dir}", where), directory.replace("{dir}", where), **options)  # type: ignore[arg-type]
    assert refused.value.remedy
    assert "Quokka" not in str(refused.value)


def test_no_files_are_not_all_files(migrations_dir: Path) -> None:
    """A caller that finds no changed files passes an empty list, and wants nothing checked."""
    write_migrations(migrations_dir, {"001_a.sql": "SELEC 1;"})
    assert api.check(migrations_dir, files=[]) == api.CheckResult(())
    assert [one.rule for one in api.check(migrations_dir, lint=False).errors] == ["syntax"]
    for wrong in ([b"x"], [3]):
        with pytest.raises(TypeError, match=r"^files must be str or os.PathLike\[str\], not (bytes|int)$"):
            api.check(migrations_dir, files=wrong)  # type: ignore[arg-type]


def test_remedies_name_parameters(database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "SELECT pg_sleep(60);"})
    with pytest.raises(EntrypointError) as late:
        api.migrate(database.url, migrations_dir, timeout=0.3)
    assert "timeout" in late.value.remedy
    assert "MIGRATION_TIMEOUT_MS" not in late.value.remedy
    with pytest.raises(EntrypointError, match="role cannot be used") as nobody:
        api.migrate(database.url, migrations_dir, role="no_such_role")
    assert "MIGRATION_ROLE" not in str(nobody.value)
    with pytest.raises(EntrypointError) as nowhere:
        api.migrate(database.url, migrations_dir, to=99)
    assert nowhere.value.remedy == "Pass the number of one of them as `to`."
    with pytest.raises(EntrypointError) as no_file:
        api.check(migrations_dir, files=["no_such.sql"])
    assert no_file.value.remedy.startswith("Pass paths relative to the current directory")
    with pytest.raises(EntrypointError) as elsewhere:
        api.check(migrations_dir, files=["/etc/passwd"])
    assert elsewhere.value.remedy.endswith(': check("db/migrations", files=["db/migrations/001_a.sql"])')
    with pytest.raises(EntrypointError, match=r"^against needs a git repository") as no_git:
        api.check(migrations_dir, against="main")
    assert no_git.value.remedy == "Set directory to the migrations in the checkout, or leave out against."
    with pytest.raises(TypeError, match="lint must be bool or None"):
        api.check(migrations_dir, lint="no")  # type: ignore[arg-type]
    write_migrations(migrations_dir, {"001_a.sql": "SELECT 1;"})
    api.migrate(database.url, migrations_dir)
    (told,) = [one for one in api.check(migrations_dir, url=database.url).findings if one.rule == "database"]
    assert told.remedy == "Leave out url for everything."


def test_files_are_names_and_not_one_name(migrations_dir: Path) -> None:
    with pytest.raises(TypeError, match="files must be a collection of names"):
        api.check(migrations_dir, files="001_a.sql")


def test_a_password_of_libpqs_variables_is_no_less_secret(
    database: Database, migrations_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "DO $$ BEGIN RAISE EXCEPTION 'it is Quokka7'; END $$;"})
    monkeypatch.setenv("PGPASSWORD", "Quokka7")
    with pytest.raises(MigrationFailedError) as failed:
        api.migrate(database.url, migrations_dir)
    assert "Quokka7" not in f"{failed.value} {failed.value.report}"
    assert "Quokka7" not in str(database.rows("SELECT error_message FROM schema_migrations"))


def test_a_forked_child_may_check_as_its_parent_did(tmp_path: Path) -> None:
    """The parser's thread does not exist in the child."""
    (tmp_path / "001_a.sql").write_text("DO $$ BEGIN NULL; END $$;")
    code = """
        import os, sys
        from entrypoint import api
        assert not api.check(sys.argv[1], lint=False).errors
        child = os.fork()
        if not child:
            os._exit(bool(api.check(sys.argv[1], lint=False).errors))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    out, err = finish(python(code, tmp_path))
    assert out == "0\n", err


def test_records_with_attributes_of_the_same_name_are_written(
    database: Database, migrations_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();"})
    before = logging.getLogRecordFactory()

    def with_run(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = before(*arguments, **named)
        record.run_id = "theirs"
        return record

    logging.setLogRecordFactory(with_run)
    try:
        with caplog.at_level(logging.INFO, "entrypoint"):
            api.migrate(database.url, migrations_dir)
    finally:
        logging.setLogRecordFactory(before)
    assert any("applied 001_a.sql" in record.getMessage() for record in caplog.records)


UNCAUGHT = """
    import sys
    from entrypoint import api
    api.migrate(*sys.argv[1:])
"""


def test_an_error_that_nobody_catches_says_all_there_is_to_say(database: Database, migrations_dir: Path) -> None:
    """It shows what psql would show and the fix, without frames of the worker thread."""
    write_migrations(migrations_dir, {"001_a.sql": "SELECT 1;\nSELECT nope();"})
    _, errors = finish(python(UNCAUGHT, database.url, migrations_dir))
    assert "LINE 2: SELECT nope();\n               ^\n" in errors
    assert errors.splitlines()[-1].startswith("Fix: Correct the file and deploy it.")
    frames = [line for line in errors.splitlines() if line.startswith("  File ")]
    assert len(frames) == 3
    assert "During handling" not in errors
    assert "direct cause" not in errors
    # The same for a refusal before that thread starts.
    _, errors = finish(python(UNCAUGHT, "", migrations_dir))
    assert errors.splitlines()[-1].startswith("Fix: Pass the database's address")


def test_a_mistake_of_ours_has_its_own_traceback(
    database: Database, migrations_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LookupError("of ours")

    monkeypatch.setattr("entrypoint.startup.bring_up_to_date", broken)
    write_migrations(migrations_dir, non_idempotent(1))
    with pytest.raises(EntrypointError, match="Internal error: LookupError") as raised:
        api.migrate(database.url, migrations_dir)
    assert isinstance(raised.value.__cause__, LookupError)
    assert raised.value.__cause__.__traceback__ is not None


def test_a_number_that_no_file_has_is_refused(database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, non_idempotent(2))
    with pytest.raises(EntrypointError, match="no migration number 7"):
        api.migrate(database.url, migrations_dir, to=7)


def test_a_password_is_in_no_error_and_in_no_line(
    database: Database, migrations_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "entrypoint")
    url = database.url.replace("postgres@", "postgres:Aq3Zr9Kw7Lm2@")
    write_migrations(migrations_dir, {"001_a.sql": "DO $$ BEGIN RAISE NOTICE 'Aq3Zr9Kw7Lm2'; END $$; SELECT 1/0;"})
    with pytest.raises(MigrationFailedError) as failed:
        api.migrate(url, migrations_dir)
    assert "NOTICE: ***" in caplog.text
    assert "Aq3Zr9Kw7Lm2" not in caplog.text + str(failed.value) + failed.value.report
    assert "Aq3Zr9Kw7Lm2" not in repr([vars(record) for record in caplog.records])


def test_other_settings_go_by_the_programs_names(
    database: Database,
    migrations_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It runs pg_dump before the first migration, with a password from a command for each connection."""
    caplog.set_level(logging.DEBUG, "entrypoint")
    # The server's own pg_dump, found through PATH as for any child process.
    monkeypatch.setenv("PATH", f"{database.server.bin}:{os.environ['PATH']}")
    database.execute("CREATE TABLE before_it (id int)")
    write_migrations(migrations_dir, {"001_a.sql": "DO $$ BEGIN RAISE NOTICE 'Zq3vT8mP1xLw'; END $$;"})
    (tmp_path / "backups").mkdir()
    variables = {
        "MIGRATION_BACKUP_DIR": str(tmp_path / "backups"),
        "DATABASE_PASSWORD_COMMAND": "echo Zq3vT8mP1xLw",
        "MIGRATION_OUT_OF_ORDER": "refuse",
    }
    assert api.migrate(database.url, migrations_dir, variables=variables).outcome == "migrated"
    assert len(list((tmp_path / "backups").iterdir())) == 1
    assert "NOTICE: ***" in caplog.text
    assert "Zq3vT8mP1xLw" not in caplog.text
    write_migrations(migrations_dir, {"003_c.sql": "SELECT 1;"})
    api.migrate(database.url, migrations_dir)
    write_migrations(migrations_dir, {"002_b.sql": "SELECT 1;"})
    with pytest.raises(OutOfOrderError):
        api.migrate(database.url, migrations_dir, variables={"MIGRATION_OUT_OF_ORDER": "refuse"})


# --- The log --------------------------------------------------------------------------------------------


def test_events_go_to_a_logger_of_ours(
    database: Database, migrations_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "entrypoint")
    write_migrations(migrations_dir, {"001_a.sql": "DO $$ BEGIN RAISE NOTICE '100 %% of a'; END $$;"})
    result = api.migrate(database.url, migrations_dir)
    records = [record for record in caplog.records if record.name == "entrypoint"]
    events = [record.event for record in records]  # type: ignore[attr-defined]  # ours
    assert events[-1] == "schema.migrated"
    assert {"migration.pending", "lock.acquired", "migration.applied"} <= set(events)
    assert {record.run_id for record in records} == {result.run_id}  # type: ignore[attr-defined]  # ours
    applied = records[events.index("migration.applied")]
    assert applied.fields["version"] == 1  # type: ignore[attr-defined]  # ours
    assert "100 % of a" in caplog.text


def test_a_handler_that_raises_disturbs_nothing(database: Database, migrations_dir: Path) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(record.name)

    handler = Broken()
    logging.getLogger("entrypoint").addHandler(handler)
    try:
        write_migrations(migrations_dir, non_idempotent(2))
        assert api.migrate(database.url, migrations_dir).outcome == "migrated"
    finally:
        logging.getLogger("entrypoint").removeHandler(handler)


# --- The process stays untouched ------------------------------------------------------------------------

UNTOUCHED = """
    import gc, json, logging, os, signal, sys, threading
    def state():
        return {
            "environ": dict(os.environ),
            "signals": {str(one): str(signal.getsignal(one)) for one in signal.valid_signals()},
            "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "hooks": [str(sys.unraisablehook), str(sys.excepthook), str(threading.excepthook)],
            "handlers": [str(logging.getLogger(name).handlers) for name in (None, "entrypoint")],
            "levels": [logging.getLogger(name).level for name in (None, "entrypoint")],
            "logging": [logging.raiseExceptions, str(logging.getLogRecordFactory())],
            "gc": gc.isenabled(),
            "stack": threading.stack_size(),
            "directory": os.getcwd(),
            "umask": [os.umask(0o22), os.umask(0o22)],
            "threads": sorted(one.name for one in threading.enumerate() if one.name != "pgparse"),
            "descriptors": len(os.listdir("/proc/self/fd")),
        }
    gc.disable()
    url, directory, nowhere = sys.argv[1:]
    from entrypoint import api
    import entrypoint.startup
    api.check(directory)
    # Only what stays open for good: the parser's thread has none, a library that is loaded has none.
    before = state()
    assert api.migrate(url, directory).outcome == "migrated"
    assert api.migrate(url, directory).outcome == "up_to_date"
    assert api.status(url, directory).state == "up_to_date"
    try:
        api.migrate(nowhere, directory, variables={"DB_CONNECT_ATTEMPTS": "2", "DB_CONNECT_BACKOFF_MS": "1"})
    except api.errors.DatabaseUnavailableError:
        pass
    import time
    end = time.monotonic() + 5
    while state() != before and time.monotonic() < end:
        time.sleep(0.05)  # A connection's thread ends a moment after it is closed.
    after = state()
    print(json.dumps({name: [before[name], after[name]] for name in before if before[name] != after[name]}))
"""


def test_a_call_leaves_the_process_as_it_was(database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {**non_idempotent(2), "003_notice.sql": "DO $$ BEGIN RAISE NOTICE 'x'; END $$;"})
    nowhere = f"postgresql://127.0.0.1:{free_port()}/nowhere"
    output, errors = finish(
        python(UNTOUCHED, database.url, migrations_dir, nowhere, env={**os.environ, "PGTZ": "Asia/Tokyo"})
    )
    assert output == "{}\n", errors


def test_the_variables_of_the_program_are_not_read(
    database: Database, migrations_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "DATABASE_URL": "postgresql://127.0.0.1:1/nowhere",
        "MIGRATIONS_DIR": "/nowhere",
        "AUTO_MIGRATE": "false",
        "MIGRATION_SCHEMA": "elsewhere",
        "MIGRATION_COMMAND": "false",
        "MIGRATION_PROBE_PORT": "1",
        "LOG_LEVEL": "none of them",
    }.items():
        monkeypatch.setenv(name, value)
    write_migrations(migrations_dir, non_idempotent(2))
    assert api.migrate(database.url, migrations_dir).outcome == "migrated"
    assert database.exists("public.schema_migrations")


def test_pgtz_is_refused_where_it_would_misread_the_earlier_systems_times(
    database: Database, migrations_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    load_legacy(database)
    write_migrations(migrations_dir, non_idempotent(2))
    with pytest.raises(ConfigurationError, match="PGTZ is set"):
        api.migrate(database.url, migrations_dir)
    assert os.environ["PGTZ"] == "Asia/Tokyo"
    with pytest.raises(ConfigurationError, match="PGTZ is set"):
        api.status(database.url, migrations_dir)


def test_to_import_it_costs_little() -> None:
    code = """
        import sys
        before = set(sys.modules)
        import entrypoint.api
        print(*sorted(name for name in set(sys.modules) - before), sep="\\n")
    """
    output, errors = finish(python(code))
    assert not errors
    names = set(output.split())
    assert {name for name in names if name.startswith("entrypoint")} == {
        "entrypoint",
        "entrypoint.api",
        "entrypoint.deadline",
        "entrypoint.errors",
        "entrypoint.logs",
        "entrypoint.records",
        "entrypoint.redaction",
        "entrypoint.signals",
    }
    assert not names & {"logging", "threading", "re", "ctypes", "dataclasses", "typing", "psycopg", "pgparse"}


CHILDREN_FORGOTTEN = """
    import signal, sys
    from entrypoint import api
    url, directory, command, backups = sys.argv[1:]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if backups:
        try:
            api.migrate(url, directory, variables={"MIGRATION_BACKUP_DIR": backups})
        except api.errors.EntrypointError as error:
            print(type(error).__name__, error.message)
    result = api.migrate(url, directory, variables={"DATABASE_PASSWORD_COMMAND": command})
    print(result.outcome)
    try:
        api.check(directory, against="no-such-branch")
    except api.errors.EntrypointError as error:
        print(type(error).__name__, error.message)
"""


def test_a_process_that_ignores_sigchld(database: Database, migrations_dir: Path, tmp_path: Path) -> None:
    """Daemons do this, and the kernel discards exit statuses. Only what needs them is refused."""
    write_migrations(migrations_dir, non_idempotent(1))
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=one"]):
        subprocess.run([*git, *words], cwd=migrations_dir, check=True, env={"PATH": os.environ["PATH"], "HOME": "/"})
    said = tmp_path / "asked"
    command = f"sh -c 'echo x >> {said}; echo secret'"
    (tmp_path / "backups").mkdir()
    output, errors = finish(python(CHILDREN_FORGOTTEN, database.url, migrations_dir, command, tmp_path / "backups"))
    refused, outcome, branch = output.splitlines()
    assert refused.startswith("BackupFailedError Nothing was migrated"), errors
    assert "SIGCHLD is ignored in this process" in refused
    assert outcome == "migrated", errors
    assert said.exists()
    assert branch.startswith("UsageError The git repository of "), errors
    assert "has no commit 'no-such-branch'" in branch, errors


# --- Concurrent calls -----------------------------------------------------------------------------------


@pytest.mark.every_case
def test_threads_and_programs_at_once_and_one_applies(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    """Four threads of this process, two other processes that use the module, and two runs of the program."""
    write_migrations(migrations_dir, non_idempotent(6))
    code = """
        import sys
        from entrypoint import api
        result = api.migrate(*sys.argv[1:])
        print(result.outcome, len(result.applied))
    """
    others = [python(code, database.url, migrations_dir) for _ in range(2)]
    programs = [run_entrypoint("migrate", env={"DATABASE_URL": database.url, "LOG_FORMAT": "json"}) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: api.migrate(database.url, migrations_dir), range(4)))
    applied = [len(result.applied) for result in results]
    for other in others:
        output, errors = finish(other)
        outcome, number = output.split()
        assert outcome in {"migrated", "waited", "up_to_date"}, errors
        applied.append(int(number))
    applied += [len(program.ok().logs("migration.applied")) for program in programs]
    assert sorted(applied) == [0] * 7 + [6]
    assert {result.schema_version for result in results} == {6}
    assert len({result.run_id for result in results}) == 4
    assert database.one("SELECT count(*) FROM schema_migrations WHERE status = 'completed'") == 6


def test_no_thread_is_remembered_that_has_ended(
    database: Database, migrations_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`logging` asks `threading` for the name of each thread that logs something."""
    caplog.set_level(logging.DEBUG, "entrypoint")
    write_migrations(migrations_dir, non_idempotent(1))
    before = set(threading.enumerate())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: api.migrate(database.url, migrations_dir), range(8)))
    assert not [record.threadName for record in caplog.records if "Dummy" in str(record.threadName)]
    until(lambda: not {one for one in threading.enumerate() if one.name != "pgparse"} - before, 5, "the threads' end")


def test_two_calls_know_nothing_of_each_other(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each has its own schema, password, log and failure, while the other is in the middle of a migration."""
    caplog.set_level(logging.INFO, "entrypoint")
    database.execute("CREATE SCHEMA one; CREATE SCHEMA two")
    for name, sql in {"one": Gate.PASS, "two": "SELECT 1/0;"}.items():
        (tmp_path / name).mkdir()
        notice = f"DO $$ BEGIN RAISE NOTICE 'opensesame {name}'; END $$;"
        write_migrations(tmp_path / name, {"001_a.sql": f"{notice} {sql}"})
    secret = database.url.replace("postgres@", "postgres:opensesame@")
    with ThreadPoolExecutor(1) as pool, Gate(database) as gate:
        waiting = pool.submit(api.migrate, secret, tmp_path / "one", schema="one")
        gate.arrival()
        with pytest.raises(MigrationFailedError):
            api.migrate(database.url, tmp_path / "two", schema="two")
        gate.open()
        result = waiting.result(30)
    assert result.outcome == "migrated"
    said: dict[str, str] = {}
    for record in caplog.records:
        if "opensesame" in record.getMessage() or "***" in record.getMessage():
            said.setdefault(record.run_id, record.getMessage())  # type: ignore[attr-defined]  # ours
    assert "*** one" in said.pop(result.run_id)
    assert "opensesame two" in said.popitem()[1]
    assert database.one("SELECT status FROM two.schema_migrations") == "failed"


def test_the_lock_is_the_programs(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> None:
    write_migrations(migrations_dir, {"001_a.sql": Gate.PASS})
    with Gate(database) as gate:
        program = run_entrypoint("migrate", env={"DATABASE_URL": database.url})
        gate.arrival()
        with pytest.raises(LockTimeoutError) as late:
            api.migrate(database.url, migrations_dir, lock_timeout=0.5)
        assert late.value.remedy
        lock = api.status(database.url, migrations_dir).document["lock"]
        assert (lock["held"], lock["processId"]) == (True, program.pid)
        gate.open()
        program.ok()


# --- Interruptions --------------------------------------------------------------------------------------


INTERRUPTED = """
    import signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background jobs begin without it.
    from entrypoint import api
    try:
        api.migrate(*sys.argv[1:])
    except KeyboardInterrupt:
        assert not api.status(*sys.argv[1:]).document["lock"]["held"]
        print("interrupted")
"""


@pytest.mark.every_case
@pytest.mark.parametrize("outside", [False, True], ids=["transaction", "outside"])
def test_a_keyboard_interrupt_leaves_nothing_half_done(
    database: Database, migrations_dir: Path, *, outside: bool
) -> None:
    directive = "-- entrypoint: no-transaction\n" if outside else ""
    files = {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": f"{directive}CREATE TABLE b ();\n{Gate.PASS}"}
    write_migrations(migrations_dir, files)
    with Gate(database) as gate:
        program = python(INTERRUPTED, database.url, migrations_dir)
        gate.arrival()
        program.send_signal(signal.SIGINT)
        output, errors = finish(program, 10)
        assert output.endswith("interrupted\n"), errors
        until(lambda: database.sessions(ours=2) == 0, 5, "the end of its sessions")
        assert database.exists("b") is outside
    # The next caller continues without waiting.
    if not outside:
        assert api.migrate(database.url, migrations_dir, lock_timeout=1).schema_version == 2


def test_another_exception_in_the_caller_stops_it_too(database: Database, migrations_dir: Path) -> None:
    """For example a test's timeout, which raises in a signal handler."""
    write_migrations(migrations_dir, {"001_a.sql": Gate.PASS})

    class TooLate(BaseException):
        pass

    def raise_it(*_: object) -> None:
        raise TooLate

    def interrupt_at(gate: Gate) -> None:
        gate.arrival()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, raise_it)
    try:
        with Gate(database) as gate:
            arrived = threading.Thread(target=interrupt_at, args=(gate,))
            arrived.start()
            with pytest.raises(TooLate):
                api.migrate(database.url, migrations_dir)
            arrived.join()
            assert api.status(database.url, migrations_dir).document["lock"]["held"] is False
            assert not [one for one in threading.enumerate() if one.name in {"entrypoint", "guard", "watcher"}]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_texts_are_parsed_for_many_at_once(tmp_path: Path) -> None:
    """The parser's only thread is replaced by one with a larger stack while others are asking it."""
    for number in range(8):
        (tmp_path / str(number)).mkdir()
        text = f"DO $$ BEGIN {'NULL; ' * (number * 2_500)} END $$;"
        write_migrations(tmp_path / str(number), {f"00{one}_a.sql": text for one in range(1, 5)})
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: api.check(tmp_path / str(number), lint=False), range(8)))
    assert not [fault for result in found for fault in result.errors]
    assert threading.stack_size() == 0
    assert gc.isenabled()


# --- Types ----------------------------------------------------------------------------------------------

CONSUMER = """
from pathlib import Path

from entrypoint import api
from entrypoint.errors import EntrypointError


def up_to_date(url: str) -> int:
    try:
        result = api.migrate(url, Path("migrations"), timeout=60.0, variables={"DB_CONNECT_ATTEMPTS": "1"})
    except EntrypointError as error:
        raise SystemExit(f"{error.message} {error.remedy} {error.applied}") from error
    names: list[str] = [one.filename for one in result.applied]
    state: str = api.status(url).state
    lines: list[int | None] = [one.line for one in api.check(lint=False).errors]
    print(names, state, lines)
    return result.schema_version or 0
"""


@pytest.mark.text
def test_a_user_of_it_is_checked_by_mypy(tmp_path: Path) -> None:
    """One file uses the module correctly; another has two mistakes that only types reveal."""
    if find_spec("mypy") is None:
        missing("mypy is not installed; `make check` has it")
    (tmp_path / "well.py").write_text(CONSUMER)
    wrong = CONSUMER.replace("-> int:", "-> str:").replace("timeout=60.0", 'timeout="60"')
    (tmp_path / "wrong.py").write_text(wrong)
    # Keep a cache: without it, checking our own modules takes half a minute each time.
    options = ["--strict", f"--cache-dir={ROOT / '.mypy_cache' / 'consumer'}", "--config-file="]
    command = [sys.executable, "-m", "mypy", *options, "well.py", "wrong.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    faults = [line for line in run.stdout.splitlines() if "error:" in line]
    assert len(faults) == 2, run.stdout + run.stderr
    assert all(fault.startswith("wrong.py:") for fault in faults)
    assert "[arg-type]" in faults[0]
    assert "[return-value]" in faults[1]
