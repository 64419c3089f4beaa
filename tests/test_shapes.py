"""Files with their own transaction control: run as one transaction if psql's result is the same, otherwise as units."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from fuzz.whole import psql
from kit.pooler import executable, pooler
from kit.processes import until
from scene import Gate, Scene, errors, only_error, warnings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


BASE = """
CREATE SCHEMA app; CREATE TABLE t (i int UNIQUE);
CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE moods (m mood);
CREATE TABLE seen (i int, setting text);
"""
SHAPES = {
    "statements behind": "BEGIN; INSERT INTO t VALUES (1); COMMIT; DO $$ BEGIN RAISE NOTICE 'done'; END $$;",
    "statements before": "SET search_path = app, public; BEGIN; CREATE TABLE x (); COMMIT;",
    "both": "CREATE TABLE x (i int); BEGIN; INSERT INTO x VALUES (1); COMMIT; CREATE INDEX ON x (i);",
    "two blocks": "BEGIN; INSERT INTO t VALUES (1); COMMIT; BEGIN; INSERT INTO t VALUES (2); COMMIT;",
    "COMMIT without BEGIN": "INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2); COMMIT;",
    "ROLLBACK without BEGIN": "INSERT INTO t VALUES (1); ROLLBACK; INSERT INTO t VALUES (2);",
    "a new value used in a block": "ALTER TYPE mood ADD VALUE 'ok'; BEGIN; INSERT INTO moods VALUES ('ok'); COMMIT;",
    "a new value used unseen": (
        "ALTER TYPE mood ADD VALUE 'ok'; BEGIN; INSERT INTO moods SELECT ('o' || 'k')::mood; COMMIT;"
    ),
    "SET LOCAL ends": (
        "BEGIN; SET LOCAL a.b = 'x'; INSERT INTO seen VALUES (1, current_setting('a.b')); COMMIT;\n"
        "INSERT INTO seen VALUES (2, current_setting('a.b', true));"
    ),
    "SET lasts": (
        "SET a.b = 'x'; BEGIN; SET LOCAL a.c = 'y'; COMMIT; INSERT INTO seen VALUES (1, current_setting('a.b'));"
    ),
    "a temporary table lasts": (
        "BEGIN; CREATE TEMP TABLE x AS SELECT 1 AS i; SET LOCAL a.b = 'x'; COMMIT; INSERT INTO t SELECT i FROM x;"
    ),
    "modes": (
        "BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO seen VALUES (1, current_setting('transaction_isolation'));"
        "COMMIT; INSERT INTO seen VALUES (2, current_setting('transaction_isolation'));"
    ),
    "an index": "BEGIN; INSERT INTO t VALUES (1); COMMIT; CREATE INDEX CONCURRENTLY t_i ON t (i);",
    "BEGIN twice": "BEGIN; BEGIN; INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2);",
    "a procedure that commits": (
        "CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (1); COMMIT; END';\n"
        "BEGIN; INSERT INTO t VALUES (2); COMMIT; CALL p();"
    ),
    "deferred": (
        "CREATE TABLE c (i int REFERENCES t (i) DEFERRABLE INITIALLY DEFERRED);\n"
        "BEGIN; INSERT INTO c VALUES (1); INSERT INTO t VALUES (1); COMMIT; INSERT INTO c VALUES (1);"
    ),
}
STATE = """
    SELECT relname::text, relkind::text FROM pg_class
    WHERE relnamespace IN ('app'::regnamespace, 'public'::regnamespace) AND relname !~ 'migration'
    UNION ALL SELECT 't', i::text FROM t UNION ALL SELECT 'moods', m::text FROM moods
    UNION ALL SELECT 'seen', concat(i, ' ', setting) FROM seen ORDER BY 1, 2
"""


@pytest.mark.sampled(9)
@pytest.mark.parametrize("case", SHAPES)
def test_it_does_what_psql_does(scene: Scene, case: str) -> None:
    scene.write({"001_base.sql": BASE})
    scene.migrated()
    beside = psql(scene.database.server) or missing("no psql")
    other = f"{scene.database.name}_psql"
    scene.database.server.create_database(other)
    with scene.database.server.connect(other) as connection:
        connection.execute(BASE)
        scene.write({"002_x.sql": SHAPES[case]})
        command = [beside, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(scene.migrations / "002_x.sql")]
        subprocess.run([*command, scene.database.server.url(other)], check=True, capture_output=True)
        expected = connection.execute(STATE).fetchall()
    scene.database.server.drop_database(other)
    scene.migrated()
    assert scene.database.rows(STATE) == expected
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


def test_a_failure_in_the_last_statement_of_a_merged_file_leaves_nothing(scene: Scene) -> None:
    text = "BEGIN;\nCREATE TABLE a ();\nCOMMIT;\nBEGIN;\nCREATE TABLE b ();\nCOMMIT;\nSELECT 1,\n  1/0;"
    scene.write({"001_base.sql": BASE, "002_x.sql": text})
    run = scene.migrate()
    assert run.code == 70
    error = only_error(run)
    assert (error["line"], error["message"]) == (
        7,
        "002_x.sql:7: division by zero; it was rolled back and recorded as failed",
    )
    assert not scene.database.exists("a")
    assert scene.ledger() == [(1, "completed"), (2, "failed")]
    scene.write({"002_x.sql": text.replace("1/0", "1")})
    scene.migrated()
    assert scene.database.exists("b")


def test_what_is_left_out_is_told(scene: Scene) -> None:
    scene.write(
        {
            "001_merged.sql": "BEGIN;\nCREATE TABLE t (i int);\nCOMMIT;\nINSERT INTO t VALUES (1);",
            "002_idle.sql": "SELECT 1;\nCOMMIT;\nSELECT 2;",
            "003_units.sql": "BEGIN;\nSET LOCAL a.b = 'x';\nCOMMIT;\nSELECT 1;",
            "004_index.sql": "BEGIN;\nSELECT 1;\nCOMMIT;\nCREATE INDEX CONCURRENTLY i ON t (i);",
        }
    )
    check = scene.start("check", "--no-lint", "--all").ok().stdout
    for line in (
        "001_merged.sql: note: left out: BEGIN in line 1 and COMMIT in line 3, because the whole file can be one",
        "002_idle.sql:2: warning: this COMMIT ends nothing, because no BEGIN precedes it; it is left out",
        "003_units.sql: note: runs as 2 units, each in its own transaction, as psql would run it: the effect",
        "004_index.sql: note: runs as 2 units, each in its own transaction; 1 of them outside a transaction, as psql",
    ):
        assert line in check, check
    shown = scene.start("migrate", "--dry-run").ok().stdout
    assert "(2 statements, one transaction, left out: BEGIN in line 1 and COMMIT in line 3" in shown
    assert "(2 units, each in its own transaction: the effect of SET LOCAL" in shown.replace("4 statements, ", "")
    run = scene.migrated()
    assert warnings(run) == ["002_idle.sql: COMMIT in line 2 without a BEGIN: left out, as psql would ignore it"]


def test_a_rehearsal_runs_what_is_merged_and_stops_before_units(scene: Scene) -> None:
    scene.write(
        {
            "001_merged.sql": "BEGIN; CREATE TABLE t (i int); COMMIT; INSERT INTO t VALUES (1);",
            "002_units.sql": "BEGIN; SET LOCAL a.b = 'x'; COMMIT; SELECT 1;",
        }
    )
    run = scene.start("migrate", "--rehearse")
    assert run.wait() == 10
    assert "Not rehearsed: 002_units.sql. 002_units.sql runs outside a transaction (" in run.stdout
    assert not scene.database.exists("t")


@pytest.mark.thorough
def test_a_rehearsal_does_not_call_a_failure_what_a_start_would_run_as_units(scene: Scene) -> None:
    unseen = "ALTER TYPE mood ADD VALUE 'ok'; BEGIN; INSERT INTO moods SELECT ('o' || 'k')::mood; COMMIT;"
    scene.write({"001_base.sql": BASE})
    scene.migrated()
    scene.write({"002_x.sql": unseen})
    run = scene.start("migrate", "--rehearse")
    assert run.wait() == 10, run.report()
    assert "002_x.sql cannot be one transaction (55P04)" in run.stdout


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TYPE mood ADD VALUE 'ok'; BEGIN; INSERT INTO moods SELECT ('o' || 'k')::mood; COMMIT;",
        "CREATE TABLE x (i int); COMMIT; DO $$ BEGIN INSERT INTO t VALUES (1); COMMIT; END $$;",
        "CREATE TABLE p (a int) PARTITION BY RANGE (a); COMMIT; REINDEX TABLE p;",
    ],
    ids=["55P04", "2D000", "25001"],
)
def test_what_postgresql_refuses_as_one_transaction_runs_again_as_units(scene: Scene, text: str) -> None:
    scene.write({"001_base.sql": BASE, "002_x.sql": text})
    run = scene.migrated()
    (record,) = run.logs("migration.as_units")
    assert "nothing in it was committed, so it runs again" in record["message"]
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


def test_no_other_error_makes_it_run_again(scene: Scene) -> None:
    scene.write({"001_base.sql": BASE, "002_x.sql": "BEGIN; INSERT INTO t VALUES (1); COMMIT; SELECT 1/0;"})
    run = scene.migrate()
    assert run.code == 70
    assert not run.logs("migration.as_units")
    assert scene.database.one("SELECT count(*) FROM t") == 0


def test_a_trigger_that_is_deferred_makes_it_units(scene: Scene) -> None:
    deferred = "CREATE TABLE c (i int REFERENCES t (i) DEFERRABLE INITIALLY DEFERRED);"
    text = "BEGIN; INSERT INTO c VALUES (1); COMMIT; INSERT INTO t VALUES (1);"
    scene.write({"001_base.sql": BASE, "002_c.sql": deferred, "003_x.sql": text})
    run = scene.migrate()
    assert run.code == 70, "as with psql, the first block's COMMIT checks it"
    assert only_error(run)["sqlstate"] == "23503"
    assert scene.database.one("SELECT count(*) FROM t") == 0


@pytest.mark.thorough
def test_a_rehearsal_asks_for_such_a_trigger_too(scene: Scene) -> None:
    """What would run as units is not rehearsed as one transaction, no matter who created the trigger."""
    deferred = "CREATE TABLE c (i int REFERENCES t (i) DEFERRABLE INITIALLY DEFERRED);"
    text = "BEGIN; INSERT INTO c VALUES (1); COMMIT; INSERT INTO t VALUES (1);"
    scene.write({"001_base.sql": BASE, "002_c.sql": deferred, "003_x.sql": text, "004_y.sql": "SELECT 1;"})
    for rehearsed in ("Rehearsed 2 of 4", "Nothing could be rehearsed."):
        run = scene.start("migrate", "--rehearse")
        assert run.wait() == 10, run.report()
        assert rehearsed in run.stdout, run.stdout
        assert "003_x.sql runs unit by unit, each in its own transaction: the database has an INITIALLY" in run.stdout
        scene.start("migrate", "--to", "2").ok()
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


@pytest.mark.thorough
def test_a_rehearsal_does_not_merge_what_has_begun_as_units(scene: Scene) -> None:
    scene.write({"001_base.sql": BASE, "002_x.sql": FAILS})
    scene.migrate()
    scene.write({"002_x.sql": FAILS.replace("SET LOCAL a.b = 'x';\n", "").replace("1/0", "1")})
    run = scene.start("migrate", "--rehearse")
    assert run.wait() == 10, run.report()
    assert "002_x.sql runs outside a transaction (an earlier start committed some of them)" in run.stdout


@pytest.mark.thorough
def test_a_down_migration_that_would_run_as_units_is_refused(scene: Scene) -> None:
    scene.write({"001_base.sql": BASE, "002_x.sql": "CREATE TABLE x ();"})
    scene.migrated()
    (scene.migrations / "rollback").mkdir()
    scene.write({"rollback/002_x.sql": "BEGIN; SET LOCAL a.b = 'x'; DROP TABLE x; COMMIT; SELECT 1;"})
    said = "a down migration is one transaction, and this one cannot be: the effect of SET LOCAL"
    run = scene.start("rollback", "--to", "1", "--yes")
    assert run.wait() == 65, run.report()
    assert said in json.dumps(errors(run))
    assert scene.database.exists("x")
    assert scene.ledger() == [(1, "completed"), (2, "completed")]
    check = scene.start("check")
    assert check.wait() == 65
    assert said in check.stdout
    # Any file may have one pair around everything.
    scene.write({"rollback/002_x.sql": "BEGIN; SET LOCAL a.b = 'x'; DROP TABLE x; COMMIT;"})
    scene.start("rollback", "--to", "1", "--yes").ok()
    assert not scene.database.exists("x")


FAILS = """BEGIN;
INSERT INTO t VALUES (1);
SET LOCAL a.b = 'x';
COMMIT;
SET a.c = 'kept';
INSERT INTO t VALUES (2);
INSERT INTO seen VALUES (1/0, current_setting('a.c'));
INSERT INTO t VALUES (3);
"""


def test_a_mended_file_goes_on_where_it_failed(scene: Scene) -> None:
    scene.write({"001_base.sql": BASE, "002_x.sql": FAILS})
    run = scene.migrate()
    assert run.code == 70
    message = only_error(run)["message"]
    assert "units 1 to 3 of 5 (lines 1 to 6); unit 4 (line 7) was rolled back" in message
    assert scene.ledger() == [(1, "completed"), (2, "failed")]
    again = scene.migrate()
    assert (again.code, scene.database.one("SELECT count(*) FROM t")) == (70, 2), "not until the file changes"
    scene.write({"002_x.sql": "-- entrypoint: timeout = 1min\n" + FAILS.replace("1/0", "1")})
    assert "it stopped at line 7, and would continue there" in scene.start("migrate", "--dry-run").ok().stdout
    run = scene.migrated()
    (record,) = run.logs("migration.resumed")
    assert "failed at line 7" in record["message"]
    assert scene.database.rows("SELECT i FROM t ORDER BY 1") == [(1,), (2,), (3,)]
    assert scene.database.rows("SELECT * FROM seen") == [(1, "kept")], "what was set before is set again"


@pytest.mark.thorough
def test_a_cause_outside_the_file_is_followed_by_repair(scene: Scene) -> None:
    text = FAILS.replace("1/0", "(SELECT i FROM late)")
    scene.write({"001_base.sql": BASE, "002_x.sql": text})
    assert scene.migrate().code == 70
    scene.database.execute("CREATE TABLE late AS SELECT 7 AS i")
    repaired = scene.start("repair", "--yes").ok()
    assert "have the next start continue at line 7" in repaired.stdout
    scene.migrated()
    assert scene.database.rows("SELECT i FROM t ORDER BY 1") == [(1,), (2,), (3,)]


def test_other_statements_before_it_begin_again(scene: Scene) -> None:
    scene.write({"001_base.sql": BASE, "002_x.sql": FAILS})
    scene.migrate()
    # Remove what took effect, as the message says.
    scene.write({"002_x.sql": "SET a.c = 'kept';\nINSERT INTO seen VALUES (1, current_setting('a.c'));\nSELECT 1;"})
    dry = scene.start("migrate", "--dry-run").ok().stdout
    assert "it stopped at line 7, and the statements before that line have changed since" in dry
    run = scene.migrated()
    assert run.logs("migration.begun_again")
    assert scene.database.rows("SELECT i FROM t ORDER BY 1") == [(1,), (2,)]
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


@pytest.mark.thorough
def test_what_a_session_had_is_lost_and_a_person_looks(scene: Scene) -> None:
    text = FAILS.replace("SET a.c = 'kept';", "SELECT set_config('a.' || 'c', 'kept', false);")
    scene.write({"001_base.sql": BASE, "002_x.sql": text})
    scene.migrate()
    for mended in (text.replace("1/0", "1"), text.replace("1/0", "2")):
        scene.write({"002_x.sql": mended})
        run = scene.migrate()
        assert run.code == 70
        assert "failed at line 7; what statement 5 did to its session is lost" in only_error(run)["message"]
        assert scene.database.rows("SELECT i FROM t ORDER BY 1") == [(1,), (2,)]


@pytest.mark.thorough
def test_a_file_that_could_be_one_transaction_goes_on_as_units_if_it_began_so(scene: Scene) -> None:
    scene.write({"001_base.sql": BASE, "002_x.sql": FAILS})
    scene.migrate()
    # Without SET LOCAL it could be merged, but its first units are already committed.
    prefix, rest = FAILS.split("INSERT INTO seen")
    scene.write({"002_x.sql": prefix + "INSERT INTO t VALUES (3);"})
    scene.migrated()
    assert scene.database.rows("SELECT i FROM t ORDER BY 1") == [(1,), (2,), (3,)]
    assert "1/0" in rest


# --- Killed -----------------------------------------------------------------------------------------------

LONG = "".join(
    f"BEGIN;\nINSERT INTO steps VALUES ({n}, 'a');\nSET LOCAL a.b = '{n}';\nINSERT INTO steps VALUES ({n}, 'b');\n"
    f"COMMIT;\nSET a.kept = '{n}';\nINSERT INTO steps VALUES ({n}, current_setting('a.kept'));\n"
    for n in range(40)
)
STEPS = "CREATE TABLE steps (n int, what text);"


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(2, 12))])
def test_killed_at_random_moments_every_unit_takes_effect_once(scene: Scene, seed: int) -> None:
    moment = random.Random(seed)
    scene.write({"001_base.sql": STEPS})
    scene.migrated()
    scene.write({"002_x.sql": LONG})
    for _ in range(6):
        if scene.ledger() == [(1, "completed"), (2, "completed")]:
            break  # On an idle machine, it finishes before it has been killed this often.
        run = scene.start("migrate")
        run.until("lock.acquired")
        time.sleep(moment.uniform(0, 0.15))
        run.kill(signal.SIGKILL)
        run.wait()
        counts = scene.database.rows("SELECT n, count(*) FROM steps WHERE what IN ('a', 'b') GROUP BY 1")
        assert {count for _, count in counts} <= {2}, "a unit is whole"
    scene.migrated()
    expected = sorted((n, what) for n in range(40) for what in ("a", "b", str(n)))
    assert sorted(scene.database.rows("SELECT * FROM steps")) == expected
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


def test_killed_within_a_unit_it_goes_on_with_that_unit(scene: Scene) -> None:
    text = (
        "BEGIN;\nSET LOCAL a.b = 'x';\nINSERT INTO t VALUES (1);\nCOMMIT;\n"
        f"BEGIN;\nINSERT INTO t VALUES (2);\n{Gate.PASS}\nCOMMIT;\nINSERT INTO t VALUES (3);"
    )
    scene.write({"001_base.sql": BASE, "002_x.sql": text})
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival()
        row = scene.database.one("SELECT error_message FROM schema_migrations WHERE migration_number = 2")
        assert "\nunit 2 of 3, statement 5, line 5; sha256 of the statements before it: " in str(row)
        run.kill(signal.SIGKILL)
        run.wait()
    until(
        lambda: (
            scene.database.one("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'entrypoint:%'") == 0
        )
    )
    again = scene.migrated()
    assert "statement 5 of 9" in again.logs("migration.resumed")[0]["message"]
    assert scene.database.rows("SELECT i FROM t ORDER BY 1") == [(1,), (2,), (3,)]


# --- Through a pooler -------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_units_through_a_pooler(scene: Scene) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    good = (
        "BEGIN;\nSET LOCAL a.b = 'x';\nINSERT INTO t VALUES (1);\nCOMMIT;\n"
        "INSERT INTO seen VALUES (1, current_setting('a.b', true));\nINSERT INTO t VALUES (2);\nSET a.b = 'leak';"
    )
    with pooler(scene.database.server, pool_size=2) as port:
        url = scene.database.url_at(port)
        scene.write({"001_base.sql": BASE, "002_x.sql": good})
        scene.migrated(url=url)
        assert scene.database.rows("SELECT i FROM t ORDER BY 1") == [(1,), (2,)]
        scene.write({"003_x.sql": good.replace("COMMIT;\n", "COMMIT;\nSET a.c = '1';\n")})
        run = scene.migrate(url=url)
        assert run.code == 78
        assert "line 5 sets may be needed after its transaction" in only_error(run)["message"]
        scene.write({"003_x.sql": good.replace("1);", "11);").replace("2);", "1/0);")})
        assert scene.migrate(url=url).code == 70
        scene.write({"003_x.sql": good.replace("1);", "11);").replace("2);", "12);")})
        assert scene.migrated(url=url).logs("migration.resumed")
        assert scene.database.rows("SELECT i FROM t ORDER BY 1") == [(1,), (2,), (11,), (12,)]
