"""Files in repeatable/: views, functions, triggers and privileges, applied whenever their text has changed."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from entrypoint.migration.script.repeatables import run_order
from kit.pooler import executable, pooler
from kit.processes import until
from scene import Gate, Scene, errors, only_error, told, warnings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

TABLE = {"001_t.sql": "CREATE TABLE t (i int, j int DEFAULT 1); INSERT INTO t VALUES (1);"}
VIEW = "CREATE OR REPLACE VIEW v AS SELECT i FROM t;"
OTHER = "CREATE OR REPLACE VIEW v AS SELECT i, 'other' AS kind FROM t;"

THIRD = "CREATE OR REPLACE VIEW v AS SELECT i, 'third' AS kind FROM t;"


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene with a table, and a directory for repeatable files."""
    scene = Scene(database, migrations_dir, run_entrypoint)
    (migrations_dir / "repeatable").mkdir()
    scene.write(TABLE)
    return scene


def write(scene: Scene, **files: str) -> None:
    scene.write({f"repeatable/{name}.sql": text for name, text in files.items()})


def in_force(scene: Scene) -> list[tuple[object, ...]]:
    return scene.database.rows(
        "SELECT name, newest_number FROM repeatable_migrations WHERE replaced_at IS NULL AND status = 'completed' "
        "ORDER BY name"
    )


def columns(scene: Scene, view: str = "v") -> list[str]:
    return [
        str(name)
        for (name,) in scene.database.rows(
            f"SELECT attname FROM pg_attribute WHERE attrelid = '{view}'::regclass AND attnum > 0 ORDER BY attnum"
        )
    ]


def test_they_are_applied_behind_the_migrations_and_again_when_they_change(scene: Scene) -> None:
    write(scene, v=VIEW)
    first = scene.start()
    assert told(first)[:2] == ("migrated", "1")
    assert first.logs("repeatable.applied")[0]["files"] == ["repeatable/v.sql"]
    assert in_force(scene) == [("v", 1)]
    scene.database.execute("GRANT SELECT ON v TO public")
    again = scene.start()
    assert told(again)[:2] == ("up_to_date", "1")
    assert "lock.acquired" not in again.events()
    write(scene, v=OTHER)
    changed = scene.start()
    assert told(changed)[:2] == ("migrated", "1")
    assert changed.logs("repeatable.pending")[0]["files"] == ["v"]
    assert columns(scene) == ["i", "kind"]
    assert scene.database.one("SELECT has_table_privilege('public', 'v', 'SELECT')"), "it was replaced, not made anew"
    assert scene.run()[:2] == ("up_to_date", "1")
    assert scene.lock_is_free()


def test_nothing_is_made_where_there_are_none(scene: Scene) -> None:
    assert scene.run()[:2] == ("migrated", "1")
    assert scene.run()[:2] == ("up_to_date", "1")
    assert not scene.database.exists("repeatable_migrations")


def test_the_order_is_that_of_the_names_but_for_what_they_say(scene: Scene) -> None:
    write(
        scene,
        a="-- entrypoint: after = z\nCREATE OR REPLACE VIEW a AS SELECT * FROM z;",
        b="CREATE OR REPLACE VIEW b AS SELECT * FROM t;",
        z="-- entrypoint: after = b\nCREATE OR REPLACE VIEW z AS SELECT * FROM b;",
    )
    run = scene.migrated()
    assert run.logs("repeatable.applied")[0]["files"] == [f"repeatable/{name}.sql" for name in "bza"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"a": "-- entrypoint: after = b\n", "b": "-- entrypoint: after = a\n"},
            "runs after itself: a after b after a",
        ),
        ({"a": "-- entrypoint: after = c\n"}, "there is no repeatable/c.sql"),
        ({"a": "CREATE INDEX CONCURRENTLY x ON t (i);"}, "CREATE INDEX CONCURRENTLY cannot run inside a transaction"),
        ({"a": "-- entrypoint: no-transaction\n"}, "no-transaction only applies to numbered migrations"),
        ({"a": "BEGIN; SET LOCAL a.b = '1'; COMMIT; SELECT 1;"}, "and this one cannot be: the effect of SET LOCAL"),
        ({"A b": ""}, "must be named a_b.sql"),
        ({"R__a": ""}, "must be named a.sql"),
    ],
)
def test_what_is_wrong_with_them_is_found_before_anything_runs(scene: Scene, files: dict[str, str], says: str) -> None:
    write(scene, **files)
    run = scene.migrate()
    assert run.code == 65, run.report()
    assert says in json.dumps(only_error(run))
    assert not scene.database.exists("t")
    check = scene.start("check")
    assert check.wait() == 65, check.report()
    assert says in check.stdout + json.dumps(errors(check))


def test_all_of_them_or_none(scene: Scene) -> None:
    write(scene, a="CREATE OR REPLACE VIEW a AS SELECT 1 AS one;", b="SELECT 1/0;")
    run = scene.migrate()
    assert run.code == 70
    error = only_error(run)
    assert error["message"] == "repeatable/b.sql:1: division by zero"
    assert "every start tries them again" in error["remedy"]
    assert "version" not in error, "it has none"
    assert scene.ledger() == [(1, "completed")]
    assert not scene.database.exists("a")
    assert in_force(scene) == []
    write(scene, b="SELECT 1;")
    scene.migrated()
    assert in_force(scene) == [("a", 1), ("b", 1)]


@pytest.mark.parametrize(
    ("text", "changed", "sqlstate"),
    [
        (VIEW, "CREATE OR REPLACE VIEW v AS SELECT i AS other FROM t;", "42P16"),
        (
            "CREATE OR REPLACE FUNCTION v() RETURNS int LANGUAGE sql AS 'SELECT 1';",
            "CREATE OR REPLACE FUNCTION v() RETURNS text LANGUAGE sql AS 'SELECT 1::text';",
            "42P13",
        ),
        (VIEW + "CREATE OR REPLACE VIEW w AS SELECT * FROM v;", "DROP VIEW v;" + VIEW, "2BP01"),
        (VIEW, "ALTER TABLE t ALTER COLUMN i TYPE bigint;", "0A000"),
    ],
)
def test_what_cannot_be_replaced_is_dropped_in_a_migration_that_says_so(
    scene: Scene, text: str, changed: str, sqlstate: str
) -> None:
    write(scene, v=text)
    scene.migrated()
    write(scene, v=changed)
    run = scene.migrate()
    assert run.code == 70
    error = only_error(run)
    assert error["sqlstate"] == sqlstate
    assert "with the line `-- entrypoint: refresh = v` at the top" in error["remedy"]


def test_a_migration_that_drops_one_has_it_applied_again(scene: Scene) -> None:
    write(scene, v=VIEW, w="CREATE OR REPLACE VIEW w AS SELECT 1 AS one;")
    scene.migrated()
    scene.write({"002_drop.sql": "-- entrypoint: refresh = v\nDROP VIEW v; ALTER TABLE t ALTER COLUMN i TYPE bigint;"})
    run = scene.migrated()
    assert run.logs("repeatable.applied")[0]["files"] == ["repeatable/v.sql"]
    assert columns(scene) == ["i"]
    assert in_force(scene) == [("v", 2), ("w", 1)]
    scene.write({"003_drop.sql": "-- entrypoint: refresh = gone\nSELECT 1;"})
    bad = scene.migrate()
    assert bad.code == 65
    assert "refresh = gone: there is no repeatable/gone.sql" in only_error(bad)["message"]


@pytest.mark.thorough
def test_a_start_that_dies_between_the_two_is_made_good_by_the_next(scene: Scene) -> None:
    write(scene, v=VIEW)
    scene.migrated()
    scene.write({"002_drop.sql": "-- entrypoint: refresh = v\nDROP VIEW v;"})
    write(scene, a=Gate.PASS)
    with Gate(scene.database) as gate:
        victim = scene.start()
        gate.arrival()
        assert scene.ledger()[-1] == (2, "completed")
        assert not scene.database.exists("v")
        victim.kill(signal.SIGKILL)
    until(lambda: scene.lock_is_free() or True)
    write(scene, a="")
    assert scene.run()[:2] == ("migrated", "2")
    assert columns(scene) == ["i"]


def test_with_to_they_wait(scene: Scene) -> None:
    write(scene, v=VIEW)
    scene.write({"002_u.sql": "CREATE TABLE u ();"})
    scene.start("migrate", "--to", "1").ok()
    assert not scene.database.exists("v")
    scene.migrated()
    assert columns(scene) == ["i"]


@pytest.mark.parametrize("replicas", [3, pytest.param(8, marks=pytest.mark.thorough)])
def test_replicas_at_once_apply_them_once(scene: Scene, replicas: int) -> None:
    write(scene, v=VIEW)
    for _ in range(2):
        runs = [scene.start() for _ in range(replicas)]
        assert {told(run).version for run in runs} == {"1"}
        assert sum(len(run.logs("repeatable.applied")) for run in runs) == 1, [run.report() for run in runs]
        assert columns(scene)[0] == "i"
        write(scene, v=OTHER)


# --- Two images ------------------------------------------------------------------------------------------


def test_an_older_image_puts_nothing_back(scene: Scene, tmp_path: Path) -> None:
    """Both ways to tell that an image is older: by its version, and because its text has been replaced."""
    write(scene, v=VIEW)
    scene.migrated()
    write(scene, v=OTHER)
    scene.migrated()
    write(scene, v=VIEW)
    older = scene.start()
    assert told(older)[:2] == ("up_to_date", "1")
    assert "repeatable/v.sql was not applied" in warnings(older)[0]
    assert columns(scene) == ["i", "kind"]
    scene.write({"002_empty.sql": ""})
    write(scene, v=THIRD)
    assert scene.run()[:2] == ("migrated", "2")
    (scene.migrations / "002_empty.sql").unlink()
    write(scene, v=VIEW)
    older = scene.start()
    assert told(older)[0] == "ahead"
    assert older.logs("repeatable.newer")[0]["version"] == 2


@pytest.mark.thorough
def test_a_revert_takes_a_new_number(scene: Scene) -> None:
    write(scene, v=VIEW)
    scene.migrated()
    write(scene, v=OTHER)
    scene.migrated()
    scene.database.execute("DROP VIEW v")
    scene.write({"002_back.sql": ""})
    write(scene, v=VIEW)
    scene.migrated()
    assert columns(scene) == ["i"]
    assert in_force(scene) == [("v", 2)]


@pytest.mark.thorough
def test_by_hand(scene: Scene) -> None:
    write(scene, v=VIEW)
    scene.migrated()
    scene.database.execute("DROP VIEW v")
    assert scene.run()[0] == "up_to_date"
    run = scene.start("migrate", "--repeatable", "v").ok()
    assert run.logs("repeatable.applied")[0]["files"] == ["repeatable/v.sql"]
    assert columns(scene) == ["i"]
    for words, says in ((("gone",), "repeatable/ has no file gone.sql"), (("v", "--to", "1"), "--to")):
        bad = scene.start("migrate", "--repeatable", *words)
        assert bad.wait() == 64, bad.report()
        assert says in only_error(bad)["message"]


def test_a_table_that_is_not_ours_is_left_alone(scene: Scene) -> None:
    scene.database.execute("CREATE TABLE repeatable_migrations (what text)")
    assert scene.run()[:2] == ("migrated", "1")
    write(scene, v=VIEW)
    run = scene.migrate()
    assert run.code == 78, run.report()
    assert (
        "The table repeatable_migrations in schema 'public' was not created by this program"
        in (only_error(run)["message"])
    )


def test_beside_another_tool_they_are_left_out(scene: Scene) -> None:
    write(scene, v=VIEW, BAD="")
    run = scene.start("migrate", MIGRATION_COMMAND="true", MIGRATIONS_DIR=str(scene.migrations)).ok()
    assert "the files in repeatable/ are not applied because MIGRATION_COMMAND is set" in warnings(run)[0]
    assert not scene.database.exists("v")
    bad = scene.start("migrate", "--repeatable", "v", MIGRATION_COMMAND="true")
    assert bad.wait() == 64
    assert only_error(bad)["message"] == "--repeatable cannot go with MIGRATION_COMMAND"


def test_a_folder_without_sql_files_is_none(scene: Scene) -> None:
    (scene.migrations / "repeatable" / "README.md").write_text("")
    (scene.migrations / "repeatable" / "old").mkdir()
    assert scene.run()[:2] == ("migrated", "1")
    assert scene.run()[:2] == ("up_to_date", "1")
    assert not scene.database.exists("repeatable_migrations")
    (scene.migrations / "repeatable" / "README.md").unlink()
    (scene.migrations / "repeatable" / "old").rmdir()
    (scene.migrations / "repeatable").rmdir()
    (scene.migrations / "repeatable").write_text("a file")
    assert scene.run()[:2] == ("up_to_date", "1")


# --- After the rollout, and taking over ------------------------------------------------------------------


@pytest.mark.thorough
def test_they_do_not_wait_for_the_end_of_the_rollout(scene: Scene) -> None:
    scene.migrated()
    write(scene, v=VIEW)
    scene.write({"002_after.sql": "-- entrypoint: phase = after\n-- entrypoint: refresh = v\nDROP VIEW IF EXISTS v;"})
    assert scene.run()[:2] == ("migrated", "1")
    assert in_force(scene) == [("v", 2)]
    assert scene.run()[:2] == ("up_to_date", "1")
    late = scene.start("migrate", "--phase", "after").ok()
    assert late.logs("repeatable.applied")[0]["files"] == ["repeatable/v.sql"]
    assert columns(scene) == ["i"]
    assert scene.run()[:2] == ("up_to_date", "2")


@pytest.mark.thorough
def test_a_migration_with_refresh_that_fails_leaves_the_object(scene: Scene) -> None:
    write(scene, v=VIEW)
    scene.migrated()
    scene.write({"002_drop.sql": "-- entrypoint: refresh = v\nDROP VIEW v; SELECT 1/0;"})
    assert scene.migrate().code == 70
    assert columns(scene) == ["i"]
    assert in_force(scene) == [("v", 1)]


def test_with_another_tools_history_taken_over(scene: Scene) -> None:
    """What is adopted is not run. Repeatable files are applied afterwards, even if the tool has already done it."""
    scene.database.execute(
        "CREATE TABLE t (i int); CREATE TABLE goose_db_version (id serial, version_id bigint, is_applied boolean, "
        "tstamp timestamp DEFAULT now()); INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, true), "
        "(1, true)"
    )
    scene.write({"001_t.sql": f"-- entrypoint: origin = goose 1\n{TABLE['001_t.sql']}"})
    write(scene, v=VIEW)
    assert scene.run(MIGRATION_ADOPT="goose")[:2] == ("migrated", "1")
    assert scene.ledger() == [(1, "completed")]
    assert columns(scene) == ["i"]
    assert scene.run(MIGRATION_ADOPT="goose")[:2] == ("up_to_date", "1")


# --- What fails ------------------------------------------------------------------------------------------


def test_a_failure_is_there_the_next_morning(scene: Scene) -> None:
    write(scene, a="CREATE OR REPLACE VIEW a AS SELECT 1 AS one;", v=VIEW)
    scene.migrated(APP_VERSION="1.0")
    write(scene, v="CREATE OR REPLACE VIEW v AS SELECT gone FROM t;")
    assert scene.migrate(APP_VERSION="1.1").code == 70
    answer = json.loads(scene.start("status", "--json").ok().stdout)
    assert (answer["status"], answer["pendingMigrations"]) == ("error", 0)
    a, v = answer["repeatables"]
    assert (a["state"], a["error"]) == ("applied", None)
    assert (v["state"], v["applicationVersion"]) == ("failed", "1.0"), "the text in force is that of 1.0"
    assert 'column "gone" does not exist' in v["error"]
    assert v["failedAt"] > v["appliedAt"] or v["failedAt"] == v["appliedAt"]
    shown = scene.start("status", "--exit-code")
    assert shown.wait() == 11
    assert "At version 1; a repeatable file has failed." in shown.stdout
    assert f"repeatable/v.sql (failed at {v['failedAt']}; every start tries it again):" in shown.stdout
    assert "LINE 1: CREATE OR REPLACE VIEW v AS SELECT gone FROM t;" in shown.stdout
    assert columns(scene) == ["i"]

    # Every start tries again, since what was missing may exist by then. Of several failures, the last is kept.
    assert scene.migrate().code == 70
    assert scene.database.one("SELECT count(*) FROM repeatable_migrations WHERE status = 'failed'") == 1
    scene.database.execute("ALTER TABLE t ADD gone int")
    write(scene, v="CREATE OR REPLACE VIEW v AS SELECT i, gone FROM t;")
    scene.migrated()
    assert scene.database.one("SELECT count(*) FROM repeatable_migrations WHERE status = 'failed'") == 0
    assert json.loads(scene.start("status", "--json").ok().stdout)["status"] == "up_to_date"


@pytest.mark.thorough
def test_replicas_that_waited_do_not_try_again_what_has_failed(scene: Scene) -> None:
    scene.migrated()
    write(scene, a=Gate.PASS, v="SELECT 1/0;")
    with Gate(scene.database) as gate:
        first = scene.start("migrate")
        gate.arrival()
        others = [scene.start("migrate") for _ in range(7)]
        for run in others:
            run.until("lock.waiting")
        gate.open()
        assert first.wait() == 70
        assert [run.wait() for run in others] == [70] * 7
    assert only_error(first)["message"] == "repeatable/v.sql:1: division by zero"
    for run in others:
        assert "repeatable/v.sql failed in another replica" in only_error(run)["message"]
        assert "lock.acquired" not in run.events()


@pytest.mark.thorough
def test_whoever_has_locked_their_table_is_named_and_waited_for(scene: Scene) -> None:
    """As with the ledger's other tables: a VACUUM FULL is no reason for a start to fail."""
    write(scene, v=VIEW)
    scene.migrated()
    other = scene.database.connect()
    other.execute("BEGIN; LOCK TABLE repeatable_migrations")
    run = scene.start("migrate")
    run.until("ledger.locked", 20)
    other.execute("COMMIT")
    run.ok()
    assert f"backend {other.info.backend_pid} " in str(run.logs("ledger.locked")[0]["message"])
    other.close()


@pytest.mark.thorough
def test_replicas_that_waited_need_no_lock_to_see_that_it_is_done(scene: Scene) -> None:
    scene.migrated()
    write(scene, a=Gate.PASS, v=VIEW)
    with Gate(scene.database) as gate:
        first = scene.start()
        gate.arrival()
        others = [scene.start() for _ in range(7)]
        for run in others:
            run.until("lock.waiting")
        gate.open()
        assert told(first)[:2] == ("migrated", "1")
        for run in others:
            assert told(run)[:2] == ("waited", "1")
            assert "lock.acquired" not in run.events()


@pytest.mark.thorough
def test_a_file_that_ends_its_transaction_is_found_out(scene: Scene) -> None:
    """It calls something that commits, which the parser cannot see."""
    scene.write({"001_t.sql": f"{TABLE['001_t.sql']} CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';"})
    write(scene, v="CALL p();")
    run = scene.migrate()
    assert run.code == 70
    assert in_force(scene) == []
    assert json.loads(scene.start("status", "--json").ok().stdout)["repeatables"][0]["state"] == "failed"


@pytest.mark.thorough
def test_a_file_that_takes_too_long_is_not_told_to_declare_its_time(scene: Scene) -> None:
    scene.migrated()
    write(scene, v="SELECT pg_sleep(60);")
    run = scene.migrate(MIGRATION_TIMEOUT_MS=1500)
    assert run.code == 70
    error = only_error(run)
    assert error["event"] == "migration.timeout"
    assert error["remedy"].startswith("Raise MIGRATION_TIMEOUT_MS, or move what takes long into a migration.")


@pytest.mark.thorough
def test_a_file_that_empties_the_ledger_is_rolled_back(scene: Scene) -> None:
    scene.migrated()
    write(scene, v="DELETE FROM schema_migrations;")
    assert scene.migrate().code == 70
    assert scene.ledger() == [(1, "completed")]


# --- Waiting for repeatable files ------------------------------------------------------------------------


@pytest.mark.thorough
def test_wait_waits_for_them(scene: Scene) -> None:
    write(scene, a=Gate.PASS, v=VIEW)
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival()
        waiter = scene.start("wait", "--timeout", "60")
        said = waiter.until("wait.waiting")
        assert (
            "no migrations are pending, but 2 repeatable files are pending, repeatable/a.sql among them"
            in said["message"]
        )
        gate.open()
        run.ok()
    waiter.ok()
    assert scene.start("wait", "--timeout", "0").ok().logs("wait.over")
    write(scene, a="", v="SELECT 1/0;")
    late = scene.start("wait", "--timeout", "0")
    assert late.wait() == 75
    assert "2 repeatable files are pending" in only_error(late)["message"]
    scene.migrate()
    late = scene.start("wait", "--timeout", "0")
    assert late.wait() == 75
    assert "repeatable/v.sql failed at " in only_error(late)["message"]


@pytest.mark.thorough
def test_wait_says_what_a_start_of_this_image_would_not_apply(scene: Scene) -> None:
    write(scene, v=VIEW)
    scene.migrated()
    write(scene, v=OTHER)
    scene.migrated()
    write(scene, v=VIEW)
    run = scene.start("wait", "--timeout", "0").ok()
    assert "another image with the same newest migration has replaced this text" in warnings(run)[0]


@pytest.mark.thorough
def test_a_login_that_only_reads_sees_that_they_are_applied(scene: Scene) -> None:
    """The application's login, when a Job migrates as another login unknown to it."""
    write(scene, v=VIEW)
    owner, login = (f"{role}_{scene.database.name}"[:60] for role in ("owner", "login"))
    scene.database.execute(
        f"CREATE ROLE {owner} LOGIN; CREATE ROLE {login} LOGIN; REVOKE CREATE ON SCHEMA public FROM public;"
        f"GRANT ALL ON SCHEMA public TO {owner}; GRANT USAGE ON SCHEMA public TO {login}"
    )
    url_of_owner, url = (scene.database.server.url(scene.database.name, user=role) for role in (owner, login))
    try:
        scene.migrated(url=url_of_owner)
        scene.database.execute(f"GRANT SELECT ON schema_migrations, migration_lock TO {login}")
        denied = scene.migrate(url=url)
        assert denied.code == 70
        error = only_error(denied)
        assert "permission denied for table repeatable_migrations" in error["message"]
        assert "GRANT SELECT ON public.repeatable_migrations" in error["remedy"].replace('"', "")
        scene.database.execute(f"GRANT SELECT ON repeatable_migrations TO {login}")
        assert scene.run(url=url)[:2] == ("up_to_date", "1")
        scene.start("wait", "--timeout", "0", url=url).ok()
        assert json.loads(scene.start("status", "--json", url=url).ok().stdout)["repeatables"][0]["state"] == "applied"
    finally:
        scene.database.execute(f"DROP OWNED BY {login}, {owner}; DROP ROLE {login}, {owner}")


# --- What a migration drops is not lost ------------------------------------------------------------------

DROP = "-- entrypoint: refresh = v\nDROP VIEW IF EXISTS v;"


@pytest.mark.thorough
def test_what_an_image_has_dropped_it_makes_again_though_its_text_was_replaced(scene: Scene) -> None:
    """Its migration is late, out of order. The next image replaces the view with its own text."""
    scene.write({"003_n.sql": ""})
    for text in (VIEW, OTHER):
        write(scene, v=text)
        scene.migrated()
    write(scene, v=VIEW)
    scene.write({"002_drop.sql": DROP})
    assert "would not be applied" not in scene.start("migrate", "--dry-run").ok().stdout
    assert scene.run()[:2] == ("migrated", "3")
    assert columns(scene) == ["i"]
    write(scene, v=OTHER)
    scene.database.execute("DROP VIEW v")  # It has one more column, so a view without that column could not replace it.
    assert scene.run()[:2] == ("migrated", "3")
    assert columns(scene) == ["i", "kind"]
    write(scene, v=VIEW)
    assert scene.run()[0] == "up_to_date"


@pytest.mark.thorough
def test_a_late_job_makes_again_what_it_has_dropped(scene: Scene) -> None:
    """A newer image was here, and restores its own text at its next start."""
    write(scene, v=VIEW)
    scene.migrated()
    late = f"-- entrypoint: phase = after\n{DROP}"
    scene.write({"002_drop.sql": late, "003_n.sql": ""})
    write(scene, v=THIRD)
    scene.migrated()
    (scene.migrations / "003_n.sql").unlink()
    write(scene, v=OTHER)
    scene.start("migrate", "--phase", "after").ok()
    assert columns(scene) == ["i", "kind"]
    scene.write({"003_n.sql": ""})
    write(scene, v=THIRD)
    assert scene.run()[:2] == ("migrated", "3")
    assert "third" in str(scene.database.one("SELECT pg_get_viewdef('v'::regclass)"))


@pytest.mark.parametrize(
    ("change", "sqlstate"),
    [("ALTER TABLE t ALTER i TYPE bigint;", "0A000"), ("ALTER TABLE t DROP COLUMN i;", "2BP01")],
)
def test_a_migration_that_a_repeatable_object_stops_is_told_how_to_drop_it(
    scene: Scene, change: str, sqlstate: str
) -> None:
    write(scene, v=VIEW)
    scene.migrated()
    scene.write({"002_change.sql": change})
    run = scene.migrate()
    error = only_error(run)
    assert (run.code, error["sqlstate"]) == (70, sqlstate)
    assert "put the line `-- entrypoint: refresh = NAME` at the top of this file" in error["remedy"]


@pytest.mark.thorough
def test_a_down_migration_cannot_refresh(scene: Scene) -> None:
    write(scene, v=VIEW)
    scene.write({"002_n.sql": ""})
    scene.migrated()
    (scene.migrations / "rollback").mkdir()
    scene.write({"rollback/002_n.sql": DROP})
    run = scene.start("rollback", "--to", "1", "--yes")
    assert run.wait() == 65
    assert "refresh = v only applies to migrations" in json.dumps(only_error(run))
    assert columns(scene) == ["i"]
    check = scene.start("check", "--no-lint")
    assert check.wait() == 65
    assert "entrypoint migrate --repeatable v" in check.stdout


# --- What is shown ---------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_dry_run_and_a_rehearsal_know_them(scene: Scene) -> None:
    write(scene, v=VIEW, w="-- entrypoint: after = v\nCREATE OR REPLACE VIEW w AS SELECT * FROM v;")
    before = scene.database.contents()
    shown = scene.start("migrate", "--dry-run").ok().stdout
    assert "2 repeatable files would be applied after the migrations, in one transaction:" in shown
    assert shown.index("repeatable/v.sql") < shown.index("repeatable/w.sql")
    rehearsed = scene.start("migrate", "--rehearse").ok().stdout
    assert "Rehearsed 3 of 3" in rehearsed or "repeatable/w.sql" in rehearsed
    assert scene.database.contents() == before
    scene.migrated()
    assert scene.start("migrate", "--dry-run").ok().stdout.partition("\n")[2] == "Nothing is pending.\n"
    write(scene, w="SELECT 1/0;")
    run = scene.start("migrate", "--rehearse")
    assert run.wait() == 70, run.report()
    assert "repeatable/w.sql:1: division by zero" in only_error(run)["message"]
    write(scene, w="")
    scene.write({"002_drop.sql": "-- entrypoint: refresh = v\nDROP VIEW w, v;"})
    shown = scene.start("migrate", "--dry-run").ok().stdout
    assert "2 repeatable files would be applied" in shown
    assert "repeatable/v.sql" in scene.start("migrate", "--rehearse").ok().stdout


def test_status_shows_them(scene: Scene) -> None:
    write(scene, v=VIEW)

    def states() -> tuple[str, dict[str, str]]:
        answer = json.loads(scene.start("status", "--json").ok().stdout)
        return answer["status"], {one["name"]: one["state"] for one in answer["repeatables"]}

    assert states() == ("pending", {"v": "pending"})
    scene.migrated(APP_VERSION="1.0")
    assert states() == ("up_to_date", {"v": "applied"})
    write(scene, v=OTHER, w="SELECT 1;")
    assert states() == ("pending", {"v": "pending", "w": "pending"})
    assert any(line.startswith("v  ") and "pending" in line for line in scene.start("status").ok().stdout.splitlines())
    scene.migrated()
    write(scene, v=VIEW)
    (scene.migrations / "repeatable" / "w.sql").unlink()
    assert states() == ("up_to_date", {"v": "superseded", "w": "missing"})


def test_check_knows_what_migrations_say_of_them(scene: Scene) -> None:
    write(scene, v=VIEW)
    scene.write({"002_a.sql": "-- entrypoint: after = v\nSELECT 1;", "003_b.sql": "-- entrypoint: refresh = V 2\n"})
    check = scene.start("check")
    assert check.wait() == 65
    assert "after only applies to files in repeatable/: migrations run in the order of their numbers" in check.stdout
    assert "refresh = V 2 is not the name of a file in repeatable/, without .sql" in check.stdout


@pytest.mark.thorough
@pytest.mark.sampled(2)
def test_on_each_version_of_postgresql(
    any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    scene = Scene(any_database, migrations_dir, run_entrypoint)
    (migrations_dir / "repeatable").mkdir()
    scene.write(TABLE)
    write(scene, v=VIEW)
    scene.migrated()
    scene.write({"002_drop.sql": "-- entrypoint: refresh = v\nDROP VIEW v;"})
    scene.migrated()
    assert in_force(scene) == [("v", 2)]
    assert scene.run()[:2] == ("up_to_date", "2")


@pytest.mark.thorough
def test_through_a_pooler(scene: Scene) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    with pooler(scene.database.server, pool_size=3) as port:
        url = scene.database.url_at(port)
        write(scene, a="SET a.b = 'leak'; SET ROLE pg_read_all_data; RESET ROLE;", v=VIEW)
        scene.migrated(url=url)
        assert scene.run(url=url)[:2] == ("up_to_date", "1")
        assert in_force(scene) == [("a", 1), ("v", 1)]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_whoever_is_ended_meanwhile_leaves_nothing_behind(scene: Scene, end: signal.Signals) -> None:
    write(scene, a="CREATE OR REPLACE VIEW a AS SELECT 1 AS one;", b=Gate.PASS, v=VIEW)
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival()
        run.process.send_signal(end)
        run.wait()
        assert not scene.database.exists("a")
        assert in_force(scene) == []
    assert scene.run()[:2] == ("migrated", "1")
    assert in_force(scene) == [("a", 1), ("b", 1), ("v", 1)]


@pytest.mark.parametrize(
    ("after", "order"),
    [
        ({}, "a b c"),
        ({"a": ["c"]}, "b c a"),
        ({"a": ["b"], "b": ["c"]}, "c b a"),
        ({"b": ["a", "c"]}, "a c b"),
    ],
)
def test_the_order(after: dict[str, list[str]], order: str) -> None:
    assert run_order("abc", after) == (tuple(order.split()), [])


def test_a_circle_is_named_once_and_by_what_is_in_it() -> None:
    done, faults = run_order("abcdx", {"a": ["b"], "b": ["c"], "c": ["b"], "d": ["a"]})
    assert done == ("x",)
    assert [str(fault) for fault in faults] == ["repeatable/b.sql: runs after itself: b after c after b"]
