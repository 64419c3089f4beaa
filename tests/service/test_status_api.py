"""`GET /api/admin/migrations/status`: each status, from real servers, by a real process."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from conftest import missing
from demo.postgres import HOST
from entrypoint.database.session import Session
from entrypoint.service import sessions
from entrypoint.service.reader import StatusReader
from entrypoint.settings import read_settings
from kit.databases import Database
from kit.migrations import non_idempotent, write_migrations
from kit.pooler import executable, pooler
from kit.processes import until
from kit.web import TOKEN
from scene import Gate, Scene, load_legacy, lock_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServerFactory
    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline
    from kit.processes import Run
    from kit.web import Serving

    Start = Callable[..., Run]
    Serve = Callable[..., Serving]

DOCUMENTED = (
    "currentVersion",
    "latestVersion",
    "appliedMigrations",
    "pendingMigrations",
    "status",
    "lastMigration",
)


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Start) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def page_of(serving: Serving) -> str:
    """Return the page as somebody who has logged in sees it."""
    cookie = f"{sessions.COOKIE}={sessions.issue(TOKEN)}"
    return serving.ask("/admin", token=None, headers={"Cookie": cookie}).body.decode()


def numbers(data: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(data[name] for name in DOCUMENTED[:5])


def test_the_documented_answer(
    any_database: Database, migrations_dir: Path, run_entrypoint: Start, serve: Serve
) -> None:
    """Exactly its keys, in their order, with more after them; times in UTC, whatever the session's time zone."""
    write_migrations(migrations_dir, non_idempotent(3))
    serving = serve(any_database.url, PGTZ="Asia/Tokyo")
    answer = serving.ask()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert list(answer.json) == ["success", "data"]
    assert answer.json["success"] is True
    data = answer.json["data"]
    assert tuple(data)[:6] == DOCUMENTED
    assert numbers(data) == (0, 3, 0, 3, "pending")
    assert data["lastMigration"] is None
    assert not any_database.exists("schema_migrations"), "looking changes nothing"

    run_entrypoint("migrate", "--to", "2", env={"DATABASE_URL": any_database.url}).ok()
    data = serving.data_when(lambda data: data["currentVersion"] == 2)
    assert numbers(data) == (2, 3, 2, 1, "pending")
    at = any_database.one("SELECT applied_at AT TIME ZONE 'UTC' FROM schema_migrations WHERE migration_number = 2")
    assert data["lastMigration"] == {
        "number": 2,
        "filename": "002_step.sql",
        "appliedAt": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", data["takenAt"])

    run_entrypoint("migrate", env={"DATABASE_URL": any_database.url}).ok()
    data = serving.data_when(lambda data: data["currentVersion"] == 3)
    assert numbers(data) == (3, 3, 3, 0, "up_to_date")


def test_it_says_what_the_command_says(scene: Scene, serve: Serve) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE b ();", "003_c.sql": "SELECT nonsense;"})
    scene.migrate(APP_VERSION="1.4.0")
    scene.write({"002_b.sql": "CREATE TABLE another ();", "004_d.sql": ""})
    data = serve(scene.database.url).data()
    assert numbers(data) == (2, 4, 2, 2, "error")
    states = [migration["state"] for migration in data["migrations"]]
    assert states == ["applied", "changed", "failed", "pending"]
    assert "nonsense" in data["migrations"][2]["error"]
    said = json.loads(scene.start("status", "--json").ok().stdout)
    assert (data["server"], data["database"]) == (f"{HOST}:{scene.database.server.port}", scene.database.name)
    # Only the service has this.
    assert data.pop("takenAt")
    assert data.pop("waiting") is None
    assert data == said


@pytest.mark.thorough
def test_files_are_looked_at_again_when_they_change(scene: Scene, serve: Serve) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    scene.migrated()
    serving = serve(scene.database.url)
    assert serving.data()["status"] == "up_to_date"
    scene.write({"002_b.sql": "CREATE TABLE b ();"})
    assert serving.data_when(lambda data: data["status"] == "pending")["latestVersion"] == 2
    scene.write({"001_a.sql": "CREATE TABLE c ();"})
    serving.data_when(lambda data: data["migrations"][0]["state"] == "changed")
    (scene.migrations / "2_c.sql").write_text("")
    answer = serving.until_answer(500)
    assert answer.json["success"] is False
    assert "2_c.sql" in answer.json["error"]
    assert serving.ask("/readyz").status == 200, "the database is not to blame"
    (scene.migrations / "2_c.sql").unlink()
    serving.until_answer(200)


def test_a_migration_that_runs(scene: Scene, serve: Serve) -> None:
    """Who holds the lock, since when, and what they are doing, over a connection that the service already had."""
    scene.write({"001_wait.sql": f"SELECT 1; {Gate.PASS}"})
    serving = serve(scene.database.url)
    assert serving.data()["lock"] is None
    with Gate(scene.database) as gate:
        working = scene.start("migrate")
        gate.arrival()
        until(lambda: scene.lock()["progress_statement"], what="the watcher's first look")
        lock = serving.data_when(lambda data: data["lock"] and data["lock"]["statement"])["lock"]
        assert (lock["held"], lock["alive"], lock["processId"]) == (True, True, working.pid)
        assert (lock["migration"], lock["statements"]) == ("001_wait.sql", 2)
        assert lock["holder"]
        assert lock["heldForSeconds"] > 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", lock["since"])
        progress = serving.data_when(lambda data: data["lock"]["progress"])["lock"]["progress"]
        assert progress["seconds"] >= 0
    working.ok()
    lock = serving.data_when(lambda data: data["status"] == "up_to_date")["lock"]
    assert (lock["held"], lock["progress"]) == (False, None)


@pytest.mark.thorough
def test_tables_that_come_change_and_go_under_a_connection_that_is_kept(scene: Scene, serve: Serve) -> None:
    """The columns are known from the first look, but that is not trusted forever, least of all for times."""
    scene.write(non_idempotent(2))
    load_legacy(scene.database, rows=False)
    scene.database.execute(
        "INSERT INTO schema_migrations (migration_number, filename, applied_at)"
        " VALUES (1, '001_step.sql', '2024-03-01 12:30:00')"
    )
    scene.database.execute(f"ALTER DATABASE {scene.database.name} SET timezone = 'Asia/Tokyo'")
    serving = serve(scene.database.url)
    earlier = serving.data()
    assert earlier["lastMigration"]["appliedAt"] == "2024-03-01T03:30:00Z"
    assert earlier["lock"]["alive"] is False
    # Only the type changes, as in an upgrade of the earlier system's ledger.
    scene.database.execute(
        "DROP VIEW migration_status; ALTER TABLE schema_migrations ALTER applied_at"
        " TYPE timestamptz USING applied_at AT TIME ZONE 'Asia/Tokyo'"
    )
    scene.database.execute("UPDATE schema_migrations SET filename = '001_renamed.sql'")
    later = serving.data_when(lambda data: data["lastMigration"]["filename"] == "001_renamed.sql")
    assert later["lastMigration"]["appliedAt"] == "2024-03-01T03:30:00Z"
    scene.database.execute("ALTER TABLE schema_migrations DROP COLUMN execution_time_ms CASCADE")
    serving.data_when(lambda data: data["migrations"][0]["executionTimeMs"] is None)
    scene.database.execute("DROP TABLE schema_migrations CASCADE")
    assert serving.data_when(lambda data: data["currentVersion"] == 0)["lastMigration"] is None
    assert scene.database.sessions() == 1, "all on one connection"


@pytest.mark.thorough
@pytest.mark.case("A1")
def test_the_ledger_that_was_found_stays_the_one(scene: Scene, serve: Serve) -> None:
    """Whatever appears on the search_path meanwhile, we look for the ledger again only once it is gone."""
    scene.write(non_idempotent(2))
    scene.migrated()
    serving = serve(scene.database.server.url(scene.database.name, options="-c search_path=app,public"))
    assert serving.data()["currentVersion"] == 2
    scene.database.execute("CREATE SCHEMA app; CREATE TABLE app.schema_migrations (version text)")
    scene.database.execute("UPDATE schema_migrations SET application_version = 'later' WHERE migration_number = 2")
    later = serving.data_when(lambda data: data["migrations"][1]["applicationVersion"] == "later")
    assert later["currentVersion"] == 2
    scene.database.execute("ALTER TABLE schema_migrations DROP COLUMN execution_time_ms CASCADE")
    serving.data_when(lambda data: data["migrations"][0]["executionTimeMs"] is None)
    scene.database.execute(
        "DROP TABLE app.schema_migrations; CREATE TABLE app.schema_migrations (LIKE schema_migrations INCLUDING ALL);"
        "INSERT INTO app.schema_migrations SELECT * FROM public.schema_migrations WHERE migration_number = 1;"
        "DROP TABLE schema_migrations CASCADE"
    )
    serving.data_when(lambda data: data["currentVersion"] == 1)
    assert scene.database.sessions() == 1, "all on one connection"


@pytest.mark.thorough
def test_a_ledger_that_is_made_later_is_found(scene: Scene, serve: Serve) -> None:
    scene.write({"001_app.sql": "CREATE SCHEMA app"})
    serving = serve(scene.database.server.url(scene.database.name, options="-c search_path=app,public"))
    assert serving.data()["currentVersion"] == 0
    scene.database.execute("CREATE SCHEMA app")
    scene.write({"001_app.sql": ""})
    scene.migrated(MIGRATION_SCHEMA="app")
    serving.data_when(lambda data: data["currentVersion"] == 1)


@pytest.mark.thorough
def test_what_a_start_would_refuse_is_told(scene: Scene, serve: Serve) -> None:
    scene.write({"001_a.sql": "", "003_c.sql": ""})
    scene.migrated()
    serving = serve(scene.database.url, MIGRATION_OUT_OF_ORDER="refuse")
    assert serving.data()["refused"] is None
    scene.write({"002_b.sql": ""})
    data = serving.data_when(lambda data: data["refused"])
    assert data["refused"] == "002_b.sql is not applied, but 003_c.sql, which comes after it, is"
    assert "Starts refuse a pending migration" in page_of(serving)


@pytest.mark.thorough
@pytest.mark.case("C2")
def test_whose_the_ledger_is_is_told_and_asked_again(scene: Scene, serve: Serve) -> None:
    scene.write({"001_a.sql": ""})
    scene.migrated()
    serving = serve(scene.database.url)
    assert serving.data()["untrusted"] is None
    intruder = f"intruder_{scene.database.name}"[:60]
    scene.database.execute(f"CREATE ROLE {intruder}; ALTER TABLE schema_migrations OWNER TO {intruder}")
    try:
        data = serving.data_when(lambda data: data["untrusted"])
        assert f"belongs to {intruder}" in data["untrusted"]
        assert "The migration history cannot be trusted" in page_of(serving)
    finally:
        scene.database.execute(f"REASSIGN OWNED BY {intruder} TO postgres; DROP ROLE {intruder}")
    serving.data_when(lambda data: data["untrusted"] is None)


@pytest.mark.thorough
@pytest.mark.case("C9")
def test_a_stranger_that_holds_the_key_is_named(scene: Scene, serve: Serve) -> None:
    scene.write({"001_a.sql": ""})
    scene.migrated()
    serving = serve(scene.database.url)
    assert serving.data()["strangers"] == []
    with scene.database.connect() as stranger:
        stranger.execute("SET application_name = 'a <b>curious</b> person'")
        stranger.execute(f"SELECT pg_advisory_lock_shared({lock_key()})")
        pid = stranger.info.backend_pid
        (told,) = serving.data_when(lambda data: data["strangers"])["strangers"]
        assert told == {"pid": pid, "user": "postgres", "application": "a <b>curious</b> person"}
        page = page_of(serving)
        assert f"backend {pid} of postgres (a &lt;b&gt;curious&lt;/b&gt; person) holds the migration lock." in page
        assert "held by another session" in page
        metrics = serving.ask("/metrics").body.decode()
        assert re.search(r"^pg_entrypoint_lock_held\{.*\} 1\.0$", metrics, re.MULTILINE), metrics
    serving.data_when(lambda data: not data["strangers"])


def test_a_reading_is_one_message(scene: Scene, migrations_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.write({"001_a.sql": ""})
    scene.migrated()
    asked: list[str] = []
    query = Session.query

    def counted(self: Session, sql: str, deadline: Deadline) -> list[list[Row]]:
        asked.append(sql)
        return query(self, sql, deadline)

    monkeypatch.setattr(Session, "query", counted)
    reader = StatusReader(read_settings({"DATABASE_URL": scene.database.url, "MIGRATIONS_DIR": str(migrations_dir)}))
    try:
        # The first reading looks for the ledger and its surroundings; later ones are one message each.
        for messages in (3, 1, 1):
            asked.clear()
            assert reader.read().status
            assert len(asked) == messages, asked
    finally:
        reader.close()


def test_a_role_that_may_only_read_is_enough(scene: Scene, serve: Serve) -> None:
    scene.write(non_idempotent(2))
    scene.start("migrate", "--to", "1").ok()
    name = f"reader_{scene.database.name}"[:60]
    scene.database.execute(
        f"CREATE ROLE {name} LOGIN; ALTER ROLE {name} SET default_transaction_read_only = on;"
        f"GRANT SELECT ON schema_migrations, migration_lock TO {name}"
    )
    try:
        serving = serve(scene.database.url.replace("postgres@", f"{name}@"))
        assert numbers(serving.data()) == (1, 2, 1, 1, "pending")
        scene.database.execute(f"REVOKE SELECT ON schema_migrations FROM {name}")
        answer = serving.until_answer(500)
        assert "permission denied" in answer.json["error"]
        assert answer.json["remedy"]
        scene.database.execute(f"GRANT SELECT ON schema_migrations TO {name}")
        serving.until_answer(200)
        serving.run.terminate()
        serving.run.ok()
    finally:
        scene.database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.thorough
def test_another_tools_ledger_is_said_to_be_one(database: Database, migrations_dir: Path, serve: Serve) -> None:
    write_migrations(migrations_dir, non_idempotent(1))
    database.execute("CREATE TABLE schema_migrations (version bigint PRIMARY KEY)")
    answer = serve(database.url).ask()
    assert answer.status == 500
    assert "belongs to Rails or dbmate" in answer.json["error"]
    assert "MIGRATION_SCHEMA" in answer.json["remedy"]


@pytest.mark.thorough
def test_what_a_holder_tells_may_be_more_than_python_takes(scene: Scene, serve: Serve) -> None:
    """PostgreSQL accepts a number of 5000 digits."""
    scene.write(non_idempotent(1))
    scene.migrated()
    scene.database.execute(
        "UPDATE migration_lock SET locked_at = now(), token = 't.1', progress_detail ="
        " jsonb_build_object('token', 't.1', 'seconds', repeat('9', 5000)::numeric)"
    )
    assert serve(scene.database.url).data()["lock"]["progress"] is None


@pytest.mark.thorough
def test_on_a_standby_nobody_knows_whether_the_holder_lives(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Start, serve: Serve
) -> None:
    """The primary's locks cannot be seen there. Once promoted, it sees its own."""
    server = fresh_server()
    server.create_database("app")
    scene = Scene(Database(server, "app"), migrations_dir, run_entrypoint)
    scene.write(non_idempotent(1))
    scene.migrated()
    scene.database.execute("UPDATE migration_lock SET locked_at = now(), locked_by = 'shop-1', token = 't.1'")
    server.stop()
    server.start(standby=True)
    serving = serve(scene.database.url)
    assert serving.data()["lock"]["alive"] is None
    assert b"lock_held" not in serving.ask("/metrics").body
    said = scene.start("status").ok().stdout.splitlines()[-1]
    assert said.endswith("; a standby cannot see whether that process is alive.")
    with server.connect("app") as connection:
        connection.execute("SELECT pg_promote()")
    assert serving.data_when(lambda data: data["lock"]["alive"] is not None)["lock"]["alive"] is False


def test_a_password_in_an_error_is_not_told(scene: Scene, serve: Serve) -> None:
    scene.write({"001_a.sql": "ALTER ROLE nobody PASSWORD 'hunter2-hunter2';"})
    scene.migrate()
    scene.database.execute("UPDATE schema_migrations SET error_message = $$ALTER ROLE a PASSWORD 'hunter2-hunter2'$$")
    serving = serve(scene.database.url)
    assert b"hunter2" not in serving.ask().body
    assert "***" in serving.data()["migrations"][0]["error"]


@pytest.mark.thorough
def test_a_session_is_named_and_holds_nothing_between_two_questions(
    fresh_server: ServerFactory, migrations_dir: Path, serve: Serve
) -> None:
    write_migrations(migrations_dir, non_idempotent(1))
    server = fresh_server()
    server.create_database("quiet")
    serving = serve(server.url("quiet"))
    serving.data()
    with server.connect("quiet") as connection:
        rows = connection.execute(
            "SELECT application_name, state, xact_start FROM pg_stat_activity"
            " WHERE datname = 'quiet' AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchall()
    ((name, state, transaction),) = rows
    assert re.fullmatch(r"entrypoint:[0-9a-f]{16}", name)
    assert (state, transaction) == ("idle", None)


@pytest.mark.thorough
def test_schema_and_role_are_those_of_the_migrations(scene: Scene, serve: Serve) -> None:
    """The login may not read them, but the role may."""
    scene.write(non_idempotent(2))
    owner, login = (f"{kind}_{scene.database.name}"[:60] for kind in ("owner", "login"))
    scene.database.execute(
        f"CREATE ROLE {owner}; CREATE ROLE {login} LOGIN NOINHERIT; GRANT {owner} TO {login};"
        f"CREATE SCHEMA books AUTHORIZATION {owner}; GRANT CREATE ON SCHEMA public TO {owner}"
    )
    try:
        url = scene.database.url.replace("postgres@", f"{login}@")
        more = {"MIGRATION_ROLE": owner, "MIGRATION_SCHEMA": "books"}
        scene.migrated(url=url, **more)
        serving = serve(url, **more)
        assert numbers(serving.data()) == (2, 2, 2, 0, "up_to_date")
        answer = serve(url, MIGRATION_SCHEMA="books").ask()
        assert (answer.status, "permission denied" in answer.json["error"]) == (500, True)
    finally:
        scene.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE usename = '{login}' AND datname = current_database()"
        )
        scene.database.execute(f"DROP OWNED BY {owner} CASCADE; DROP OWNED BY {login}; DROP ROLE {login}, {owner}")


@pytest.mark.thorough
def test_through_a_pooler_in_transaction_mode(scene: Scene, serve: Serve) -> None:
    """One server connection for all, and we leave nothing on it."""
    if executable() is None:
        missing("no pgbouncer")
    scene.write(non_idempotent(2))
    scene.start("migrate", "--to", "1").ok()
    with pooler(scene.database.server, pool_size=1) as port:
        url = scene.database.url_at(port)
        serving = serve(url)
        assert numbers(serving.data()) == (1, 2, 1, 1, "pending")
        with scene.database.server.connect(scene.database.name, port=port) as other:
            shown = other.execute(
                "SELECT current_setting('transaction_read_only'), current_setting('lock_timeout'),"
                " current_setting('statement_timeout')"
            ).fetchone()
        assert shown == ("off", "0", "0")
        scene.migrated()
        serving.data_when(lambda data: data["status"] == "up_to_date")
