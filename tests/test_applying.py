"""Applying migrations one after another: what is committed and reported, and what a file leaves to the next."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from kit.databases import server_errors
from kit.processes import until
from scene import (
    Gate,
    Scene,
    application_of,
    blind,
    errors,
    needs_odd_strings,
    only_error,
    token_of,
    told,
    warnings,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Record, Run
    from kit.proxy import Proxy

GOOD = {"001_good.sql": "CREATE TABLE good ();"}
LAST = {"009_last.sql": "CREATE TABLE last ()"}


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


# --- The transaction ------------------------------------------------------------------------------------


def test_the_row_commits_with_the_migration(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a AS SELECT pg_current_xact_id()::text AS id"})
    scene.migrated()
    same = (
        "SELECT a.xmin = m.xmin AND a.id::bigint % (1::bigint << 32) = m.xmin::text::bigint FROM a, schema_migrations m"
    )
    assert scene.database.one(same) is True


def test_each_further_file_costs_two_round_trips(scene: Scene, proxy: Proxy) -> None:
    """One for the file, and one that ends its transaction and begins the next."""
    trips = []
    for first, last in ((1, 2), (3, 12), (13, 32)):
        scene.write({f"{number:03}_t.sql": f"CREATE TABLE t{number} ();" for number in range(first, last + 1)})
        before = proxy.connections
        scene.migrate(url=scene.database.url_at(proxy.port)).ok()
        trips.append(proxy.round_trips[before])
    assert trips[2] - trips[1] == 20, trips
    assert [number for number, _ in scene.ledger()] == [*range(1, 33)]


def test_what_is_prepared_for_one_file_after_the_other_is_not_seen_by_any_that_could_use_it(scene: Scene) -> None:
    """Ordinary files have their row written by a prepared statement; a DO could prepare, deallocate or look."""
    count = "DO $$ BEGIN INSERT INTO seen SELECT count(*), string_agg(name, ' ') FROM pg_prepared_statements; END $$;"
    ordinary = "INSERT INTO seen SELECT count(*), min(name) FROM pg_prepared_statements;"
    texts = ["CREATE TABLE seen (prepared integer, name text);"]
    for name in ("b", "c"):
        texts += [f"CREATE TABLE {name} ();", ordinary, f"DROP TABLE {name};", count]
    scene.write({f"{number:03}_f.sql": text for number, text in enumerate(texts, 1)})
    scene.migrated()
    rows = scene.database.rows("SELECT prepared, name LIKE 'entrypoint\\_%' FROM seen ORDER BY ctid")
    assert [prepared for prepared, _ in rows] == [7, 0, 7, 0]
    assert [ours for _, ours in rows] == [True, None, True, None]


def test_a_file_that_has_our_prepared_statements_deallocated_is_applied(scene: Scene) -> None:
    """A function deallocates them, which the text does not show. The file runs twice but takes effect once."""
    forget = (
        "CREATE FUNCTION forget() RETURNS integer LANGUAGE plpgsql AS 'BEGIN EXECUTE ''DEALLOCATE ALL''; RETURN 1; END'"
    )
    scene.write(
        {
            "001_a.sql": f"CREATE TABLE a (one integer); {forget};",
            "002_b.sql": "CREATE TABLE b ();",
            "003_c.sql": "INSERT INTO a VALUES (forget());",
            "004_d.sql": "CREATE TABLE d ();",
            "005_e.sql": "CREATE TABLE e ();",
        }
    )
    migrated = scene.migrated()
    assert scene.ledger() == [(number, "completed") for number in range(1, 6)]
    assert scene.database.rows("SELECT one FROM a") == [(1,)]
    assert [record["attempt"] for record in migrated.logs("migration.applied")] == [1, 1, 2, 1, 1]


@pytest.mark.every_case
@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_what_is_in_the_way_of_the_next_fence_is_not_the_commits_affair(scene: Scene, how: str) -> None:
    """The message that commits also asks for the next fence."""
    scene.write({"001_a.sql": f"CREATE TABLE a (); {Gate.PASS}", "002_b.sql": "CREATE TABLE b ()"})
    waiting = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'migration_lock'::regclass"
    with Gate(scene.database) as gate, scene.database.connect() as other, ThreadPoolExecutor() as threads:
        # The first file's gate is a lock as well.
        leader = scene.start("migrate", MIGRATION_DDL_LOCK_TIMEOUT_MS=5000 if how == "timeout" else 60000)
        gate.arrival()
        other.execute("BEGIN")
        locking = threads.submit(other.execute, b"LOCK TABLE migration_lock")
        until(lambda: scene.database.rows(waiting), 10, "somebody who wants the table")
        gate.open()
        # The commit lets the other session in, and the next fence has to wait.
        locking.result(20)
        ((pid,),) = until(lambda: scene.database.rows(waiting), 10, "the next fence")
        assert scene.ledger() == [(1, "completed")]
        if how == "cancel":
            scene.database.rows("SELECT pg_cancel_backend(%s)", [pid])
            assert leader.wait() == 70
            assert only_error(leader)["event"] == "migration.stopped"
            assert scene.ledger() == [(1, "completed")]
        else:
            leader.until("migration.retry", timeout=20)
        other.execute("ROLLBACK")
        assert leader.wait() == (70 if how == "cancel" else 0)
    assert scene.ledger() == [(1, "completed"), (2, "completed")][: 1 if how == "cancel" else 2]


def test_nothing_is_seen_before_the_end(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ()", "002_b.sql": f"CREATE TABLE b (); {Gate.PASS}"})
    with Gate(scene.database) as gate:
        leader = scene.start()
        gate.arrival()
        assert scene.ledger() == [(1, "completed")]
        assert not scene.database.exists("b")
        assert scene.lock()["progress_migration"] == "002_b.sql"
        gate.open()
        assert told(leader).version == "2"
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


def test_the_row_says_how_long_it_took_and_for_which_version(scene: Scene) -> None:
    scene.write({"001_a.sql": "SELECT pg_sleep(0.2)"})
    scene.migrated(npm_package_version="2.5.0")
    version, elapsed = scene.database.one("SELECT application_version, execution_time_ms FROM schema_migrations")
    assert version == "2.5.0"
    assert 200 <= elapsed < 5000
    hashed = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    scene.write({"002_b.sql": "SELECT 1"})
    scene.migrated(npm_package_version="2.5.0", APP_VERSION=hashed)
    scene.write({"003_c.sql": "SELECT 1"})
    scene.migrated(APP_VERSION="Größe 'x' \\ 7")
    scene.write({"004_d.sql": "SELECT 1"})
    scene.migrated()
    versions = scene.database.rows(
        "SELECT application_version FROM schema_migrations ORDER BY migration_number OFFSET 1"
    )
    assert versions == [(hashed,), ("Größe 'x' \\ 7",), (None,)]


def notices(run: Run) -> list[Record]:
    return run.logs("migration.notice")


def test_notices_reach_the_log_while_the_migration_runs(scene: Scene) -> None:
    scene.write(
        {
            "001_a.sql": "DO $$ BEGIN RAISE NOTICE '% of %', 1, 2; RAISE WARNING 'look out' USING HINT = 'duck';"
            f" PERFORM pg_advisory_xact_lock(4711); RAISE NOTICE 'done'; END $$; {Gate.PASS}"
        }
    )
    with Gate(scene.database) as gate:
        leader = scene.start()
        leader.until("migration.notice")
        gate.arrival()
        assert leader.running
        first, second = notices(leader)
        assert "1 of 2" in first["message"]
        assert (first["file"], first["version"], first["level"]) == ("001_a.sql", 1, "info")
        assert (second["level"], second["hint"]) == ("warning", "duck")
        gate.open()
        assert told(leader).outcome == "migrated"
    assert "done" in notices(leader)[-1]["message"]


def test_a_file_may_bring_its_own_begin_and_commit(scene: Scene) -> None:
    level = (
        "CREATE TABLE {0} AS SELECT current_setting('transaction_isolation') AS level,"
        " pg_current_xact_id()::text AS id;"
    )
    scene.write(
        {
            "001_a.sql": f"-- first\nBEGIN;\n{level.format('a')}\nCOMMIT;\n",
            "002_b.sql": f"BEGIN ISOLATION LEVEL SERIALIZABLE;\n{level.format('b')}\nEND;",
            "003_c.sql": f"START TRANSACTION ISOLATION LEVEL REPEATABLE READ;\n{level.format('c')}\nCOMMIT WORK;",
            "004_d.sql": f"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;\n{level.format('d')}",
            "005_e.sql": f"SAVEPOINT s; SELECT 1; ROLLBACK TO s; RELEASE s; {level.format('e')}",
        }
    )
    assert scene.run().version == "5"
    levels = {}
    for number, table in enumerate("abcde", 1):
        levels[table], same = scene.database.one(
            f"SELECT t.level, t.id = m.xmin::text FROM {table} t, schema_migrations m WHERE migration_number = {number}"
        )
        assert same, f"{table} is not in the transaction of its row"
    assert levels == {
        "a": "read committed", "b": "serializable", "c": "repeatable read", "d": "serializable", "e": "read committed"
    }  # fmt: skip


CONTROL = [
    "BEGIN",
    "START TRANSACTION",
    "COMMIT AND CHAIN",
    "PREPARE TRANSACTION 'x'",
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("control", CONTROL)
def test_other_transaction_control_is_refused_before_anything_runs(scene: Scene, control: str) -> None:
    scene.write({**GOOD, "002_x.sql": f"CREATE TABLE x ();\n  {control};\nCREATE TABLE y ();"})
    run = scene.migrate()
    assert run.code == 65
    (fault,) = only_error(run)["faults"]
    assert fault.startswith(f"002_x.sql:2: {control}")
    assert not scene.database.exists("good")


def test_a_hidden_commit_is_detected(scene: Scene) -> None:
    scene = blind(scene)
    scene.write({**GOOD, "002_x.sql": "CREATE TABLE x ();\nSELECT '\\''; COMMIT; SELECT ' AS a -- '\n", **LAST})
    run = scene.migrate()
    assert run.code == 70, run.report()
    error = only_error(run)
    assert "002_x.sql" in error["message"]
    assert "ended the transaction" in error["message"]
    assert "COMMIT" in error["remedy"]
    # What the file committed stays. No row says that it was applied, and nothing after it ran.
    assert scene.database.exists("x")
    assert (2, "completed") not in scene.ledger()
    assert not scene.database.exists("last")
    until(lambda: scene.database.sessions() == 0, 5, "the end of the sessions")


@pytest.mark.thorough
def test_a_file_with_a_hidden_commit_is_not_run_again_by_every_replica(scene: Scene) -> None:
    scene = blind(scene)
    scene.database.execute("CREATE TABLE effects (i integer)")
    scene.write({"001_x.sql": "INSERT INTO effects VALUES (1);\nSELECT '\\''; COMMIT; SELECT ' AS a -- '\n"})
    for _ in range(3):
        assert scene.run().outcome == "failed"
    assert scene.database.one("SELECT count(*) FROM effects") == 1


@pytest.mark.thorough
def test_a_hidden_commit_and_begin_is_detected_too(scene: Scene) -> None:
    scene = blind(scene)
    hidden = "SELECT '\\''; COMMIT; BEGIN; CREATE TABLE y (); SELECT ' AS a -- '\n"
    scene.write({"002_x.sql": hidden, **LAST})
    run = scene.migrate()
    assert run.code == 70
    assert "ended the transaction" in only_error(run)["message"]
    assert not scene.database.exists("y")
    assert not scene.database.exists("last")
    assert (2, "completed") not in scene.ledger()


# --- Errors ---------------------------------------------------------------------------------------------

# A file, and the report as psql would print it, up to what differs between versions.
REPORTS: dict[str, tuple[str, str, int | None]] = {
    "a table that is not there": (
        "CREATE TABLE a ();\n\n-- a comment\nSELECT 1,\n       b FROM nowhere;\n",
        (
            '002_bad.sql:5: ERROR:  relation "nowhere" does not exist\n'
            "LINE 5:        b FROM nowhere;\n"
            "                      ^\n"
            "SQLSTATE:  42P01"
        ),
        5,
    ),
    "a mistake in the syntax": (
        "SELECT 1;\nCREATE TABEL x ();\n",
        (
            '002_bad.sql:2: ERROR:  syntax error at or near "TABEL"\n'
            "LINE 2: CREATE TABEL x ();\n               ^\nSQLSTATE:  42601"
        ),
        2,
    ),
    "letters beyond ASCII": (
        "-- Größe €\nSELECT 'äöü', 'x'::integer;\n",
        (
            '002_bad.sql:2: ERROR:  invalid input syntax for type integer: "x"\n'
            "LINE 2: SELECT 'äöü', 'x'::integer;\n"
            "                      ^\n"
            "SQLSTATE:  22P02"
        ),
        2,
    ),
    "no position": (
        "SELECT 1;\n\nSELECT\n  1/0;\n",
        "002_bad.sql:3: ERROR:  division by zero\nLINE 3: SELECT\nSQLSTATE:  22012",
        3,
    ),
    "detail": (
        "CREATE TABLE u (i integer PRIMARY KEY);\nINSERT INTO u VALUES (1), (1);",
        (
            '002_bad.sql:2: ERROR:  duplicate key value violates unique constraint "u_pkey"\n'
            "LINE 2: INSERT INTO u VALUES (1), (1);\n"
            "SQLSTATE:  23505\n"
            "DETAIL:  Key (i)=(1) already exists."
        ),
        2,
    ),
    "hint": (
        "SELECT lenght('a');",
        (
            "002_bad.sql:1: ERROR:  function lenght(unknown) does not exist\n"
            "LINE 1: SELECT lenght('a');\n"
            "               ^\n"
            "SQLSTATE:  42883\n"
        ),
        1,
    ),
    "in a DO block": (
        "SELECT 1;\nDO $$\nBEGIN\n    RAISE EXCEPTION 'no' USING ERRCODE = 'P0815', DETAIL = 'd', HINT = 'h';\nEND $$;",
        (
            "002_bad.sql:2: ERROR:  no\n"
            "LINE 2: DO $$\n"
            "SQLSTATE:  P0815\n"
            "DETAIL:  d\n"
            "HINT:  h\n"
            "CONTEXT:  PL/pgSQL function inline_code_block line 3 at RAISE"
        ),
        2,
    ),
    "in a statement of a DO block": (
        "SELECT 1;\nDO $$\nBEGIN\n    PERFORM b FROM nowhere;\nEND $$;",
        '002_bad.sql:2: ERROR:  relation "nowhere" does not exist\nLINE 2: DO $$\nSQLSTATE:  42P01\n',
        2,
    ),
    "in a function": (
        "CREATE FUNCTION f() RETURNS integer LANGUAGE sql AS 'SELECT 1/0';\nSELECT f();",
        '002_bad.sql:2: ERROR:  division by zero\nLINE 2: SELECT f();\nSQLSTATE:  22012\nCONTEXT:  SQL function "f"',
        2,
    ),
    "a deferred constraint": (
        (
            "CREATE TABLE p (i integer PRIMARY KEY);\n"
            "CREATE TABLE c (i integer CONSTRAINT to_p REFERENCES p DEFERRABLE INITIALLY DEFERRED);\n"
            "INSERT INTO c VALUES (7);"
        ),
        (
            '002_bad.sql: ERROR:  insert or update on table "c" violates foreign key constraint "to_p"\n'
            "SQLSTATE:  23503\n"
            'DETAIL:  Key (i)=(7) is not present in table "p".'
        ),
        None,
    ),
    "in its own BEGIN and COMMIT": (
        "BEGIN;\nSELECT 1;\nSELECT 1/0;\nCOMMIT;",
        "002_bad.sql:3: ERROR:  division by zero\nLINE 3: SELECT 1/0;\nSQLSTATE:  22012",
        3,
    ),
}


@pytest.mark.sampled(7)
@pytest.mark.parametrize("case", REPORTS)
def test_an_error_is_shown_as_psql_shows_it(scene: Scene, case: str) -> None:
    text, report, line = REPORTS[case]
    scene.write({**GOOD, "002_bad.sql": text, **LAST})
    run = scene.migrate()
    assert run.code == 70, run.report()
    error = only_error(run)
    assert error["report"].startswith(report), error["report"]
    if not report.endswith("\n") and "CONTEXT" not in report:
        assert error["report"] == report
    message, _, fate = error["message"].rpartition("; ")
    assert message == report.splitlines()[0].replace("ERROR:  ", "")
    assert fate.startswith("it was rolled back and ")
    assert error.get("line") == line
    assert f"SQLSTATE:  {error['sqlstate']}" in report
    # The full report is in the ledger, where an operator looks, and nothing else is.
    assert scene.ledger() == [(1, "completed"), (2, "failed")]
    recorded, checksum = scene.database.one(
        "SELECT error_message, checksum FROM schema_migrations WHERE migration_number = 2"
    )
    assert recorded == error["report"]
    assert len(checksum) == 64
    assert (
        scene.database.one(
            "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname IN ('a', 'u', 'p', 'c', 'last')"
        )
        == 0
    )
    assert scene.lock_is_free()


def test_the_report_is_what_psql_prints(scene: Scene) -> None:
    """Compare with psql itself: file, line, LINE and caret."""
    import subprocess

    text = "SELECT 1;\nSELECT 'ü',\n\tnope\n  FROM pg_class;\n"
    scene.write({"001_bad.sql": text})
    run = scene.migrate()
    server = scene.database.server
    psql = subprocess.run(
        [server.bin / "psql", "-X", "-q", "-d", scene.database.url, "-v", "ON_ERROR_STOP=1", "-f", "001_bad.sql"],
        cwd=scene.migrations,
        capture_output=True,
        text=True,
        check=False,
        env={"PGCLIENTENCODING": "utf8"},
    )
    # psql counts a statement's lines from where the statement starts, and names the line where it ends.
    theirs = [line.partition(": ")[2] for line in psql.stderr.splitlines()[1:]]
    ours = [line.partition(": ")[2] for line in only_error(run)["report"].splitlines()[1:3]]
    assert ours[0] == theirs[0]
    assert only_error(run)["report"].splitlines()[2].rstrip()[-1] == "^"


def test_a_failure_is_told_to_the_application(scene: Scene) -> None:
    scene.write({**GOOD, "002_bad.sql": "SELECT 1;\nSELECT 1/0;", **LAST})
    run = scene.start()
    answer = told(run)
    assert answer == (
        "failed",
        "1",
        run.pid,
        "002_bad.sql:2: division by zero; it was rolled back and recorded as failed",
    )
    error = only_error(run)
    assert error["event"] == "migration.failed"
    assert (error["file"], error["version"], error["sqlstate"]) == ("002_bad.sql", 2, "22012")
    stopped = scene.start(MIGRATION_ON_FAILURE="exit")
    assert stopped.wait() == 70
    assert stopped.stdout == ""


def test_a_failure_is_not_tried_again_until_somebody_acts(scene: Scene) -> None:
    scene.write({**GOOD, "002_bad.sql": "SELECT nextval('tries'); SELECT * FROM wanted;", **LAST})
    scene.database.execute("CREATE SEQUENCE tries")  # counts even what is rolled back
    assert scene.run().outcome == "failed"
    tries = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM tries"
    assert scene.database.one(tries) == 1
    run = scene.start()
    answer = told(run)
    assert answer.outcome == "failed"
    assert "002_bad.sql" in answer.error
    error = only_error(run)
    assert error["event"] == "migration.held_back"
    assert 'relation "wanted" does not exist' in error["message"]
    assert "Correct the file and deploy it." in error["remedy"]
    assert scene.database.one(tries) == 1
    assert scene.migrate().code == 70
    # The cause is fixed elsewhere, and the row deleted.
    scene.database.execute("CREATE TABLE wanted (); DELETE FROM schema_migrations WHERE status = 'failed'")
    assert scene.run()[:2] == ("migrated", "9")
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (9, "completed")]


def test_a_mended_file_runs_by_itself(scene: Scene) -> None:
    scene.write({**GOOD, "002_bad.sql": "SELECT 1/0", **LAST})
    assert scene.migrate().code == 70
    failed = scene.database.one("SELECT id FROM schema_migrations WHERE migration_number = 2")
    scene.write({"002_bad.sql": "SELECT 1/1"})
    assert scene.run()[:2] == ("migrated", "9")
    assert scene.database.one("SELECT id, status, error_message FROM schema_migrations WHERE migration_number = 2") == (
        failed,
        "completed",
        None,
    )


@pytest.mark.thorough
def test_what_stands_before_a_failure_runs(scene: Scene) -> None:
    scene.write({"002_bad.sql": "SELECT 1/0"})
    assert scene.migrate().code == 70
    scene.write(GOOD)
    run = scene.migrate()
    assert run.code == 70
    assert only_error(run)["event"] == "migration.held_back"
    assert scene.ledger() == [(1, "completed"), (2, "failed")]


def test_eight_replicas_try_a_bad_migration_once(scene: Scene) -> None:
    scene.database.execute("CREATE SEQUENCE tries")
    scene.write({**GOOD, "002_bad.sql": "SELECT nextval('tries'); SELECT 1/0"})
    replicas = [scene.start() for _ in range(4)]
    assert {told(replica).outcome for replica in replicas} == {"failed"}
    assert scene.database.one("SELECT last_value FROM tries") == 1


# --- Time, locks and operators --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE slow (); SELECT pg_sleep(60)",
        "CREATE TABLE slow (); " + "SELECT pg_sleep(0.3);" * 50,
        "CREATE TABLE slow (); SET statement_timeout = 0; SELECT pg_sleep(60)",
    ],
    ids=["one statement", "many statements", "a file that sets the time-out itself"],
)
def test_a_migration_that_takes_too_long_is_rolled_back(scene: Scene, text: str) -> None:
    scene.write({**GOOD, "002_slow.sql": text})
    began = time.monotonic()
    run = scene.migrate(MIGRATION_TIMEOUT_MS=1000)
    assert time.monotonic() - began < 4
    assert run.code == 70
    error = only_error(run)
    assert "1000ms" in error["message"]
    assert "002_slow.sql" in error["message"]
    assert "MIGRATION_TIMEOUT_MS" in error["remedy"]
    assert scene.ledger() == [(1, "completed")]
    assert not scene.database.exists("slow")
    until(lambda: scene.database.sessions() == 0, 5, "the end of the sessions")
    assert scene.lock_is_free()


def test_it_comes_back_while_somebody_locks_the_table(scene: Scene) -> None:
    scene.database.execute("CREATE TABLE busy (a integer)")
    scene.write({"001_alter.sql": "SELECT 1;\nALTER TABLE busy ADD COLUMN b integer;"})
    with scene.database.connect(application_name="nightly report") as other:
        pid = other.info.backend_pid
        other.execute("BEGIN; SELECT 'secret 123' FROM busy")
        run = scene.start(MIGRATION_DDL_LOCK_TIMEOUT_MS=500)
        blocked = run.until("migration.blocked")
        assert blocked["blocker"] == pid
        assert "nightly report" in blocked["message"]
        assert "secret" not in blocked["message"], "the values of a query are somebody else's"
        retry = run.until("migration.retry")
        assert (retry["attempt"], retry["sqlstate"], retry["file"]) == (1, "55P03", "001_alter.sql")
        # Between two attempts nothing queues, so others can pass.
        assert scene.ledger() == []
        run.until(lambda record: record.get("event") == "migration.retry" and record["attempt"] == 2)
        other.execute("COMMIT")
        assert told(run).outcome == "migrated"
    assert errors(run) == []
    assert scene.ledger() == [(1, "completed")]


def test_an_operators_cancel_ends_the_run_and_marks_nothing(scene: Scene) -> None:
    scene.write({"001_gate.sql": Gate.PASS, **LAST})
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        token_of(run)
        scene.database.rows("SELECT pg_cancel_backend(%s)", [gate.arrival()])
        assert run.wait() == 70
    error = only_error(run)
    assert error["event"] == "migration.stopped"
    assert "001_gate.sql" in error["message"]
    assert scene.ledger() == []
    assert scene.lock_is_free()
    assert scene.run()[:2] == ("migrated", "9")


@pytest.mark.thorough
def test_an_operators_terminate_ends_the_run_and_marks_nothing(scene: Scene) -> None:
    scene.write({"001_gate.sql": f"SELECT nextval('tries'); {Gate.PASS}", **LAST})
    scene.database.execute("CREATE SEQUENCE tries")
    with Gate(scene.database) as gate:
        run = scene.start("migrate", MIGRATION_TIMEOUT_MS=3000)
        token_of(run)
        scene.database.rows("SELECT pg_terminate_backend(%s)", [gate.arrival()])
        assert run.wait() in {69, 70}
    assert "Traceback" not in run.stderr
    assert scene.database.one("SELECT last_value FROM tries") == 1, "whoever ended it did not want it tried again"
    assert scene.ledger() == []
    assert scene.run()[:2] == ("migrated", "9")


def test_a_deadlock_is_tried_again(scene: Scene) -> None:
    scene.database.execute("CREATE TABLE one (); CREATE TABLE two ()")
    scene.write({"001_x.sql": f"LOCK TABLE one; {Gate.PASS} LOCK TABLE two"})
    with Gate(scene.database) as gate, scene.database.connect() as rival:
        # The session that waits longer than its deadlock_timeout gives up, so this one does not.
        rival.execute("SET deadlock_timeout = '60s'; BEGIN; LOCK TABLE two")
        run = scene.start()
        gate.arrival()
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor() as threads:
            locking = threads.submit(rival.execute, "LOCK TABLE one; COMMIT")
            queued = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'one'::regclass"
            until(lambda: scene.database.rows(queued), 5, "the rival in the queue")
            gate.open()
            locking.result(timeout=20)
        assert told(run).outcome == "migrated"
    (retry,) = run.logs("migration.retry")
    assert retry["sqlstate"] == "40P01"


# --- What a file does to its session --------------------------------------------------------------------

SESSION = {
    "search_path": "SELECT pg_catalog.set_config('search_path', '', false); CREATE TABLE public.made ();",
    "search_path elsewhere": "CREATE SCHEMA other; SET search_path = other; CREATE TABLE public.made ();"
    " CREATE TABLE schema_migrations (x integer);",
    "a pg_dump preamble": "SET statement_timeout = 0; SET lock_timeout = 0;"
    " SET idle_in_transaction_session_timeout = 0;"
    " SET client_encoding = 'UTF8'; SET standard_conforming_strings = on; SET check_function_bodies = false;"
    " SET xmloption = content; SET client_min_messages = warning; SET row_security = off;"
    " SELECT pg_catalog.set_config('search_path', '', false); CREATE TABLE public.made ();",
    "role": "CREATE TABLE made (); CREATE ROLE {role}; SET ROLE {role};",
    "session authorization": "CREATE TABLE made (); CREATE ROLE {role}; SET SESSION AUTHORIZATION {role};",
    "time zone": "CREATE TABLE made (); SET TIME ZONE 'Asia/Tokyo'; SET datestyle = 'German';",
    "application_name": "CREATE TABLE made (); SET application_name = 'mine';",
    "temporary table": "CREATE TABLE made (); CREATE TEMP TABLE schema_migrations (x integer);"
    " CREATE TEMP TABLE left_over ();",
    "default isolation": "CREATE TABLE made (); SET default_transaction_isolation = 'serializable';"
    " SET default_transaction_read_only = on;",
    "advisory lock": "CREATE TABLE made (); SELECT pg_advisory_lock(815);",
    "encoding": "CREATE TABLE made (); SET client_encoding = 'LATIN1';",
    "odd strings": "CREATE TABLE made (); SET standard_conforming_strings = off;",
    "cursor and listening": "CREATE TABLE made (); DECLARE c CURSOR WITH HOLD FOR SELECT 1; LISTEN news;",
    "a trap in the path": "CREATE TABLE made ();"
    " CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
    " AS 'SELECT NULL::timestamptz'; SET search_path = public, pg_catalog;",
    "replication role": "CREATE TABLE made (); SET session_replication_role = replica;",
}
OBSERVED = """
    CREATE TABLE observed AS
    SELECT current_user::text AS "user", session_user::text AS session, current_setting('search_path') AS path,
           current_setting('TimeZone') AS zone, current_setting('DateStyle') AS dates,
           current_setting('application_name') AS application, current_setting('transaction_isolation') AS isolation,
           current_setting('client_encoding') AS encoding, current_setting('standard_conforming_strings') AS strings,
           current_setting('client_min_messages') AS messages, current_setting('row_security') AS rows,
           current_setting('check_function_bodies') AS bodies,
           current_setting('session_replication_role') AS replication,
           current_setting('lock_timeout') AS lock_timeout,
           (SELECT count(*) FROM pg_class WHERE relpersistence = 't') AS temporary,
           (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 815) AS locks,
           (SELECT count(*) FROM pg_cursors WHERE is_holdable) AS cursors,
           (SELECT count(*) FROM pg_listening_channels()) AS channels;
"""


@pytest.mark.sampled(9)
@pytest.mark.parametrize("case", SESSION)
def test_what_a_file_does_to_its_session_ends_with_it(scene: Scene, case: str) -> None:
    if case == "odd strings":
        needs_odd_strings(scene.database.server)
    role = f"role_{scene.database.name}"[:60]
    text = SESSION[case].format(role=role)
    # Both observers must see the same session; the tampering file starts with it too.
    after = OBSERVED.replace("observed", "observed_after", 1)
    scene.write({"001_before.sql": OBSERVED, "002_tamper.sql": text, "003_after.sql": after})
    mark = scene.database.server.log_size()
    run = scene.start(APP_VERSION="Größe", MIGRATION_SCHEMA="Größe")
    token = token_of(run)
    assert told(run)[:2] == ("migrated", "3"), run.report()
    before, later = (
        scene.database.one(f"SELECT to_jsonb(o) FROM public.{table} o") for table in ("observed", "observed_after")
    )
    assert later == before
    assert before["application"] == application_of(token)
    ledger = scene.database.rows(
        "SELECT migration_number, status, application_version, applied_at > now() - interval '1 minute'"
        ' FROM "Größe".schema_migrations ORDER BY 1'
    )
    assert ledger == [(number, "completed", "Größe", True) for number in (1, 2, 3)]
    assert scene.database.exists("public.made")
    assert server_errors(scene.database.server, mark) == []


@pytest.mark.thorough
def test_a_failure_in_a_changed_session_is_recorded(scene: Scene) -> None:
    role = f"role_{scene.database.name}"[:60]
    session = f"CREATE ROLE {role}; SET ROLE {role}; SET search_path = ''; SET client_encoding = 'LATIN1';"
    scene.write({"001_x.sql": session + "DO $$ BEGIN RAISE 'schön'; END $$"})
    run = scene.migrate()
    assert run.code == 70
    assert scene.ledger() == [(1, "failed")]
    assert scene.database.one("SELECT error_message ~ 'sch.+n' FROM schema_migrations") is True


def test_a_deferred_constraint_is_checked_as_the_file_left_the_session(scene: Scene) -> None:
    """Its trigger needs the search_path that the file set, so it must run before the session is reset."""
    scene.write(
        {
            "001_x.sql": "CREATE SCHEMA other; CREATE TABLE other.wanted (); SET search_path = other, public;"
            "CREATE TABLE public.t (i integer);"
            "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM 1 FROM wanted; RETURN NULL; END $$;"
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON public.t DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION public.f(); INSERT INTO public.t VALUES (1);"
        }
    )
    assert scene.run().outcome == "migrated"


# --- Order ----------------------------------------------------------------------------------------------


def test_a_ledger_that_is_ahead_is_no_error(scene: Scene) -> None:
    scene.write({**GOOD, "002_b.sql": "CREATE TABLE b ()", "003_c.sql": "CREATE TABLE c ()"})
    scene.migrated()
    for newer in ("002_b.sql", "003_c.sql"):
        (scene.migrations / newer).unlink()
    before = scene.database.contents()
    run = scene.start(MIGRATION_ON_FAILURE="exit")
    assert told(run)[:2] == ("ahead", "3")
    assert warnings(run) == []
    assert scene.database.contents() == before


@pytest.mark.thorough
def test_a_file_out_of_order_is_applied_and_remarked_on(scene: Scene) -> None:
    scene.write({**GOOD, "003_c.sql": "CREATE TABLE c ()"})
    scene.migrated()
    scene.write({"002_b.sql": "CREATE TABLE b ()"})
    run = scene.start()
    assert told(run)[:2] == ("migrated", "3")
    assert [text for text in warnings(run) if "002_b.sql" in text]
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]


def test_a_changed_and_a_missing_file_are_remarked_on(scene: Scene) -> None:
    scene.write({**GOOD, "002_b.sql": "CREATE TABLE b ()", "003_c.sql": "CREATE TABLE c ()"})
    scene.migrated()
    (scene.migrations / "002_b.sql").unlink()
    scene.write({"001_good.sql": "CREATE TABLE better ()", "004_d.sql": "CREATE TABLE d ()"})
    run = scene.start()
    assert told(run)[:2] == ("migrated", "4")
    texts = warnings(run)
    assert any("001_good.sql" in text and "checksum" in text for text in texts), texts
    assert any("002_b.sql" in text and "its file is missing" in text for text in texts), texts
    assert not scene.database.exists("better")


def test_files_run_in_the_order_of_their_numbers(scene: Scene) -> None:
    names = ["1000_d.sql", "010_b.sql", "100_c.sql", "002_a.sql"]
    scene.write(
        {
            name: f"SELECT '{name}'; CREATE TABLE IF NOT EXISTS seen (name text); INSERT INTO seen VALUES ('{name}')"
            for name in names
        }
    )
    scene.migrated()
    assert [name for (name,) in scene.database.rows("SELECT name FROM seen ORDER BY ctid")] == sorted(
        names,
        key=lambda name: int(re.match(r"\d+", name)[0]),  # type: ignore[index]
    )


def test_what_is_committed_before_a_failure_stays(scene: Scene) -> None:
    scene.write({**GOOD, "002_b.sql": "CREATE TABLE b ()", "003_bad.sql": "CREATE TABLE c (); SELECT 1/0", **LAST})
    assert scene.run().outcome == "failed"
    assert [scene.database.exists(name) for name in ("good", "b", "c", "last")] == [True, True, False, False]
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "failed")]


# --- Large files ------------------------------------------------------------------------------------------

# More than fits in one message.
ROW = f"INSERT INTO big VALUES ('grün {'x' * 1000}');\n"
LARGE = "CREATE TABLE big (t text);\nSET client_encoding = 'LATIN1';\n" + ROW * 2500


def test_a_large_file_is_one_transaction_in_several_messages(scene: Scene, proxy: Proxy) -> None:
    scene.write({"001_big.sql": LARGE})
    scene.start("migrate", url=scene.database.url_at(proxy.port)).ok()
    assert max(proxy.round_trips) >= 3 + 2
    assert scene.database.one("SELECT count(*), min(left(t, 5)), max(left(t, 5)) FROM big") == (2500, "grün ", "grün ")
    assert scene.database.one("SELECT count(DISTINCT xmin::text) FROM big") == 1
    assert scene.ledger() == [(1, "completed")]


@pytest.mark.thorough
def test_an_error_in_a_large_file_is_shown_in_its_place(scene: Scene) -> None:
    scene.write({"001_big.sql": LARGE + "SELECT nonsense FROM big;\n" + ROW})
    run = scene.start("migrate")
    assert run.wait() == 70
    (failed,) = run.logs("migration.failed")
    assert failed["line"] == 2503
    assert "001_big.sql:2503" in failed["message"]
    assert "SELECT nonsense FROM big;" in failed["report"]
    assert not scene.database.exists("big")


@pytest.mark.thorough
def test_a_statement_at_a_border_is_counted_right(scene: Scene) -> None:
    scene.write({"001_big.sql": f"SELECT '{'x' * 1_100_000}';\n{Gate.PASS}\nSELECT 1;\n"})
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival()
        blocked = run.until("migration.blocked")
        assert (blocked["statement"], blocked["statements"]) == (2, 3)
        gate.open()
        run.ok()


@pytest.mark.thorough
def test_a_commit_that_is_hidden_in_a_large_file_is_detected(scene: Scene) -> None:
    """It is in the first piece: before each later one, strings are set to be read as even a blind program assumes."""
    scene = blind(scene)
    hidden = "SELECT '\\''; COMMIT; SELECT ' AS a -- ';\n"
    scene.write({"001_big.sql": hidden + LARGE})
    run = scene.start("migrate")
    assert run.wait() == 70
    assert "ended the transaction" in only_error(run)["message"]
    assert scene.ledger() == [(1, "failed")]
