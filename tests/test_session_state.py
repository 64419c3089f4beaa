"""A migration may change anything about its session: its own next statement sees that, ours and the next file do not.

Files are applied both in one transaction and outside one, with the same texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from kit.processes import until
from scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

MODES = {"inside": "", "outside": "-- entrypoint: no-transaction\n"}
mode = pytest.mark.parametrize("head", MODES.values(), ids=MODES.keys())


class Text(NamedTuple):
    """What a file contains, and what its next statement must find."""

    says: str
    probe: str
    finds: str
    outside: str = ""
    """What it finds outside a transaction, if that differs."""


def setting(name: str, value: str, finds: str = "") -> Text:
    return Text(f"SET {name} = {value}", f"current_setting('{name}')", finds or value.strip("'"))


TEXTS = {
    "role": Text("SET ROLE stranger", "current_user", "stranger"),
    "session authorization": Text("SET SESSION AUTHORIZATION stranger", "session_user", "stranger"),
    "both": Text(
        "SET SESSION AUTHORIZATION stranger; SET ROLE friend", "session_user || ' ' || current_user", "stranger friend"
    ),
    "search_path": setting("search_path", "hostile, public"),
    "no search_path": Text(
        "SELECT set_config('search_path', '', false)", "'<' || current_setting('search_path') || '>'", "<>"
    ),
    "lock_timeout": setting("lock_timeout", "'59s'"),
    "no lock_timeout": setting("lock_timeout", "0"),
    "statement_timeout": setting("statement_timeout", "'58s'"),
    "a setting of its own": Text("SELECT set_config('my.x', 'y', false)", "current_setting('my.x', true)", "y"),
    "a local one": Text(
        "SELECT set_config('work_mem', '5MB', true)", "current_setting('work_mem')", "5MB", outside="4MB"
    ),
    "SET LOCAL": Text("SET LOCAL work_mem = '5MB'", "current_setting('work_mem')", "5MB", outside="4MB"),
    "row_security": setting("row_security", "off"),
    "read only": setting("default_transaction_read_only", "on"),
    "serializable": setting("default_transaction_isolation", "serializable"),
    "characteristics": Text(
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "current_setting('default_transaction_isolation') || current_setting('default_transaction_read_only')",
        "repeatable readon",
    ),
    "client_encoding": setting("client_encoding", "LATIN1"),
    "strings": setting("standard_conforming_strings", "off"),
    "time zone": setting("TimeZone", "'Pacific/Kiritimati'"),
    "dates": setting("DateStyle", "'German, DMY'"),
    "intervals": setting("IntervalStyle", "sql_standard"),
    "triggers off": setting("session_replication_role", "replica"),
    "commits": setting("synchronous_commit", "off"),
    "bytes": setting("bytea_output", "escape"),
    "tables named like ours": Text(
        "CREATE TEMP TABLE schema_migrations (x int); CREATE TEMP TABLE migration_lock (y int)",
        "(SELECT count(*)::text FROM pg_class WHERE relpersistence = 't' AND relnamespace = pg_my_temp_schema())",
        "2",
    ),
    "operators and types before those of PostgreSQL": Text(
        "SET search_path = hostile, pg_catalog, public", "CASE WHEN 1 = 1 THEN 'ordinary' ELSE 'hostile' END", "hostile"
    ),
    "prepared statements": Text(
        "PREPARE entrypoint AS SELECT 'mine'::text",
        "(SELECT string_agg(name, ',') FROM pg_prepared_statements)",
        "entrypoint",
    ),
    "advisory locks": Text(
        "SELECT pg_advisory_unlock_all(), pg_advisory_lock(99)",
        "(SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND objid = 99)",
        "1",
    ),
    "a cursor": Text(
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "(SELECT string_agg(name, ',') FROM pg_cursors WHERE is_holdable)",
        "c",
    ),
    "LISTEN": Text("LISTEN x", "(SELECT string_agg(c, ',') FROM pg_listening_channels() c)", "", outside="x"),
}

SETUP = """
CREATE SCHEMA hostile;
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
CREATE FUNCTION hostile.no(integer, integer) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION hostile.no(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR hostile.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = hostile.no);
CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.no);
CREATE OPERATOR hostile.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.no);
CREATE DOMAIN hostile.text AS pg_catalog.text CHECK (VALUE = 'nothing');
CREATE TABLE public.seen (name text, moment text, what text);
GRANT ALL ON public.seen TO PUBLIC;
DO $$ BEGIN
    IF to_regrole('stranger') IS NULL THEN
        CREATE ROLE stranger; CREATE ROLE friend; GRANT friend TO stranger;
    END IF;
END $$;
"""


CLEAN = "the next file"


@pytest.fixture
def scene(any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene with two roles that have no privileges on the ledger."""
    any_database.execute(SETUP)
    return Scene(any_database, migrations_dir, run_entrypoint)


def _file(head: str, name: str, text: Text) -> dict[str, str]:
    """Return a file that contains `text` and looks twice, and a file after it that also looks."""
    see = f"INSERT INTO public.seen VALUES ('{name}', '%s', {text.probe});"
    return {"hostile": f"{head}{text.says};\n{see % 1}\n{see % 2}", "next": f"{head}{see % CLEAN}"}


@mode
@pytest.mark.case("B9", "B11")
def test_each_statement_and_each_file_has_its_own_session(scene: Scene, head: str) -> None:
    # Since version 19, non-standard strings are an error.
    texts = {name: text for name, text in TEXTS.items() if name != "strings" or scene.database.server.version < 19}
    files = {
        f"{number:03d}_{kind}.sql": sql
        for number, (kind, sql) in enumerate(
            (file for name, text in texts.items() for file in _file(head, name, text).items()), 1
        )
    }
    scene.write(files)
    run = scene.migrate()
    assert run.code == 0, run.report()
    assert scene.ledger() == [(number, "completed") for number in range(1, len(files) + 1)]
    seen: dict[str, dict[str, str | None]] = {}
    for name, moment, what in scene.database.rows("SELECT name, moment, what FROM public.seen"):
        seen.setdefault(name, {})[moment] = what
    for name, text in texts.items():
        finds = (text.outside or text.finds) if head else text.finds
        assert (seen[name]["1"] or "", seen[name]["2"] or "") == (finds, finds), name
        if text.outside or not head:
            assert seen[name][CLEAN] != text.finds, name
        else:
            assert seen[name][CLEAN] != finds, name


@pytest.mark.sampled(3)
@mode
@pytest.mark.parametrize("block", ["%s", "BEGIN; %s COMMIT;"], ids=["alone", "block"])
@pytest.mark.case("B10")
def test_what_is_deferred_is_checked_in_the_state_that_the_file_chose(scene: Scene, head: str, block: str) -> None:
    insert = "INSERT INTO orders VALUES (1);"
    scene.write(
        {
            "001_app.sql": """
                CREATE SCHEMA app;
                CREATE TABLE app.orders (id int);
                CREATE TABLE app.audit (who text);
                GRANT ALL ON SCHEMA app TO stranger;
                GRANT ALL ON ALL TABLES IN SCHEMA app TO stranger;
                CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN INSERT INTO audit VALUES (current_user); RETURN NULL; END $$;
                CREATE CONSTRAINT TRIGGER note AFTER INSERT ON app.orders DEFERRABLE INITIALLY DEFERRED
                    FOR EACH ROW EXECUTE FUNCTION app.note();
            """,
            "002_order.sql": f"{head}SET search_path = app;\nSET ROLE stranger;\n{block % insert if head else insert}",
        }
    )
    scene.migrated()
    assert scene.ledger() == [(1, "completed"), (2, "completed")]
    assert scene.database.rows("SELECT who FROM app.audit") == [("stranger",)]


@pytest.mark.thorough
@pytest.mark.sampled(3)
@mode
@pytest.mark.parametrize(
    "says",
    ["SET lock_timeout = '60s'", "SET lock_timeout = 0", "SELECT set_config('lock_timeout', '60s', false)"],
    ids=["long", "none", "set_config"],
)
@pytest.mark.case("B11")
def test_a_file_waits_for_locks_as_it_says(scene: Scene, head: str, says: str) -> None:
    scene.write({"001_base.sql": "CREATE TABLE t (a int);"})
    scene.migrated()
    scene.write({"002_alter.sql": f"{head}{says};\nALTER TABLE t ADD COLUMN b int;"})
    with scene.database.connect() as other:
        other.execute("BEGIN; SELECT FROM t")
        run = scene.start("migrate", MIGRATION_DDL_LOCK_TIMEOUT_MS=200)
        waited = "SELECT 1 FROM pg_locks WHERE NOT granted AND clock_timestamp() - waitstart > interval '700 ms'"
        until(lambda: scene.database.rows(waited), what=lambda: f"the wait for the lock: {run.report()}")
        other.execute("ROLLBACK")
    run.ok()
    assert "migration.retry" not in run.events(), run.report()


@mode
def test_a_file_is_read_as_it_is_written_whatever_encoding_it_sets(scene: Scene, head: str) -> None:
    block = "BEGIN;\nINSERT INTO words VALUES ('ü');\nCOMMIT;\n" if head else ""
    index = 'CREATE INDEX CONCURRENTLY "wörter" ON words (word);\n' if head else ""
    scene.write(
        {
            "001_words.sql": "CREATE TABLE words (word text);",
            "002_more.sql": f"{head}SET client_encoding = 'LATIN1';\nINSERT INTO words VALUES ('é');\n{block}{index}"
            "INSERT INTO words VALUES ('ß');\nRESET client_encoding;\nINSERT INTO words VALUES ('ñ');",
            "003_fails.sql": f"{head}SET client_encoding = LATIN1;\nINSERT INTO words VALUES ('å');\nSELECT 1/0 AS ö",
        }
    )
    run = scene.migrate(APP_VERSION="vérsion")
    assert run.code == 70, run.report()
    words = [word for (word,) in scene.database.rows("SELECT word FROM words ORDER BY ctid")]
    assert words == (["é", "ü", "ß", "ñ", "å"] if head else ["é", "ß", "ñ"])
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "failed")]
    assert scene.database.rows("SELECT DISTINCT application_version FROM schema_migrations") == [("vérsion",)]
    message = scene.database.one("SELECT error_message FROM schema_migrations WHERE migration_number = 3")
    assert "003_fails.sql:" in message
    assert "AS ö" in message


@mode
@pytest.mark.case("B9")
def test_the_role_that_a_login_has_by_default_is_ours_too(scene: Scene, head: str) -> None:
    """With `ALTER ROLE … SET role`, RESET ROLE leads to that role, not to the login."""
    database = scene.database
    database.execute(
        """DO $$ BEGIN
            IF to_regrole('short_lived') IS NULL THEN
                CREATE ROLE schema_owner; CREATE ROLE short_lived LOGIN IN ROLE schema_owner, stranger;
                ALTER ROLE short_lived SET role = 'schema_owner';
            END IF;
        END $$;
        CREATE SCHEMA app AUTHORIZATION schema_owner"""
    )
    scene.write(
        {
            "001_a.sql": f"{head}CREATE TABLE app.a ();\nSET ROLE stranger;\nSELECT 1;",
            "002_b.sql": f"{head}CREATE TABLE app.b ();\nRESET ROLE;\nCREATE TABLE app.c ();",
        }
    )
    url = database.url.replace("//postgres@", "//short_lived@").replace("//postgres:", "//short_lived:")
    assert "short_lived" in url, database.url
    run = scene.migrate(url=url, MIGRATION_SCHEMA="app")
    assert run.code == 0, run.report()
    owners = database.rows("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'app' ORDER BY 1")
    assert {owner for _, owner in owners} == {"schema_owner"}
    assert {name for name, _ in owners} == {"a", "b", "c", "schema_migrations", "migration_lock"}
