"""Where the ledger is, and whose: found once, from what a connection starts with, and never trusted if a stranger's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from entrypoint.deadline import Deadline
from entrypoint.migration.ledger import search
from entrypoint.migration.ledger.place import find_tables
from kit.asker import Asker
from kit.pooler import pooler
from scene import Gate, Scene, load_legacy, only_error, token_of, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run
    from kit.proxy import Proxy

PASSWORD = "none-of-your-business"
PLANS = {
    "001_plan.sql": "CREATE SCHEMA IF NOT EXISTS app; CREATE TABLE IF NOT EXISTS app.plan (n text);",
    "002_free.sql": "INSERT INTO app.plan VALUES ('free');",
}
ON_A_PATH = "-c search_path=app,public"
GOOD = {"001_good.sql": "CREATE TABLE good ();"}


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


@pytest.fixture
def intruder(scene: Scene) -> Iterator[str]:
    """Return a role that may create objects in `public`, and that has no members."""
    name = f"intruder_{scene.database.name}"[:60]
    scene.database.execute(f"CREATE ROLE {name}; GRANT CREATE, USAGE ON SCHEMA public TO {name}")
    yield name
    scene.database.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


@pytest.fixture
def login(scene: Scene) -> Iterator[str]:
    """Return a login that may create objects in `public` and is not a superuser."""
    name = f"login_{scene.database.name}"[:60]
    scene.database.execute(
        f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'; GRANT CREATE, USAGE ON SCHEMA public TO {name};"
        f"GRANT CREATE ON DATABASE {scene.database.name} TO {name}"
    )
    yield name
    scene.database.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def address_of(scene: Scene, login: str) -> str:
    return scene.database.server.url(scene.database.name, user=login, password=PASSWORD)


# --- Where ------------------------------------------------------------------------------------------------


@pytest.mark.case("A1")
def test_a_schema_of_the_path_that_the_files_make(scene: Scene) -> None:
    scene.write(PLANS)
    url = scene.database.server.url(scene.database.name, options=ON_A_PATH)
    assert scene.run(url=url)[:2] == ("migrated", "2")
    assert scene.run(url=url)[:2] == ("up_to_date", "2")
    assert scene.database.rows("SELECT n FROM app.plan") == [("free",)]
    assert not scene.database.exists("app.schema_migrations")


@pytest.mark.case("A2")
def test_a_schema_with_the_logins_name(scene: Scene) -> None:
    scene.write(
        {"001_once.sql": "CREATE TABLE IF NOT EXISTS once (n int);", "002_one.sql": "INSERT INTO once VALUES (1);"}
    )
    scene.migrated()
    user = scene.database.one("SELECT current_user::text")
    scene.database.execute(f"CREATE SCHEMA {user}")
    assert scene.run()[:2] == ("up_to_date", "2")
    assert scene.database.rows("SELECT n FROM public.once") == [(1,)]


@pytest.mark.case("A1", "A2")
def test_one_lock_whatever_appears_on_the_path_meanwhile(scene: Scene) -> None:
    """The first replica's own file creates a schema before `public`. The second starts once that is committed."""
    scene.write({**PLANS, "003_gate.sql": Gate.PASS})
    url = scene.database.server.url(scene.database.name, options=ON_A_PATH)
    with Gate(scene.database) as gate:
        first = scene.start(url=url)
        token_of(first)
        gate.arrival()
        assert scene.database.exists("app.plan")
        second = scene.start(url=url)
        second.until("lock.waiting")
        gate.open()
        assert {told(first).outcome, told(second).outcome} == {"migrated", "waited"}
    assert scene.database.rows("SELECT n FROM app.plan") == [("free",)]


@pytest.mark.case("A1", "A2")
@pytest.mark.parametrize(
    ("message", "outcome"),
    [(b"pg_try_advisory_xact_lock_shared(", "up_to_date"), (b"pg_try_advisory_xact_lock(1885824368, ", "waited")],
    ids=["after the survey", "beside our guard"],
)
def test_a_ledger_that_another_replica_makes_elsewhere_at_that_moment_is_the_one(
    scene: Scene, proxy: Proxy, message: bytes, outcome: str
) -> None:
    """If there was no ledger, we do not look for its place again before each step (decision 0058)."""
    scene.write(TWICE)
    url = scene.database.server.url(scene.database.name, options="-c search_path=app,public")

    def another(_: Proxy) -> None:
        scene.database.execute("CREATE SCHEMA app")
        scene.migrated(url=url)

    made = proxy.when_client_sends(message, another)
    through = scene.database.server.url(
        scene.database.name, port=proxy.port, sslmode="disable", options="-c search_path=app,public"
    )
    assert scene.run(url=through)[:2] == (outcome, "2")
    assert made.is_set()
    assert scene.database.rows("SELECT n FROM app.once") == [(1,)]
    assert not scene.database.exists("public.schema_migrations")


@pytest.mark.case("A1")
def test_what_another_client_of_the_pooler_has_set_is_nothing_to_us(scene: Scene) -> None:
    scene.write({"001_once.sql": "CREATE TABLE IF NOT EXISTS public.once ();"})
    scene.database.execute("CREATE SCHEMA elsewhere")
    with pooler(scene.database.server, pool_size=2) as port:
        url = scene.database.url_at(port)
        with scene.database.connect(port=port, sslmode="disable") as other, other.cursor() as cursor:
            cursor.execute("SET search_path = elsewhere")
        assert scene.run(url=url)[:2] == ("migrated", "1")
        assert scene.run(url=url)[:2] == ("up_to_date", "1")
    assert scene.database.exists("public.schema_migrations")
    assert not scene.database.exists("elsewhere.schema_migrations")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("path", ["app", "elsewhere,\tapp", "elsewhere,\n app", '"app",elsewhere', " APP"], ids=repr)
def test_a_path_is_read_as_postgresql_reads_it(scene: Scene, path: str) -> None:
    scene.write(GOOD)
    scene.database.execute("CREATE SCHEMA app")
    options = "-csearch_path=" + re.sub(r"(\s)", r"\\\1", path)
    scene.migrated(url=scene.database.server.url(scene.database.name, options=options))
    assert scene.database.exists("app.schema_migrations")


@pytest.mark.thorough
@pytest.mark.parametrize("setting", ["ROLE", "SESSION AUTHORIZATION"])
def test_nor_is_whom_it_has_become(scene: Scene, intruder: str, setting: str) -> None:
    scene.write(GOOD)
    scene.migrated()
    with pooler(scene.database.server, pool_size=2) as port:
        url = scene.database.url_at(port)
        through: dict[str, str | int] = {"port": port, "sslmode": "disable"}
        with scene.database.connect(**through) as one, scene.database.connect(**through) as other:
            for connection in (one, other):  # Each now has a server session of its own, and leaves it changed.
                connection.execute(f"BEGIN; SET {setting} {intruder}")
            for connection in (one, other):
                connection.execute("COMMIT")
        assert scene.run(url=url)[:2] == ("up_to_date", "1")
        for command in ("status", "wait", "unlock"):
            scene.start(command, url=url).ok()
        scene.write({"002_more.sql": "CREATE TABLE more ();"})
        assert scene.run(url=url)[:2] == ("migrated", "2")


@pytest.mark.thorough
@pytest.mark.case("A1")
def test_a_ledger_in_a_schema_that_may_not_be_used(scene: Scene, login: str) -> None:
    scene.write(GOOD)
    scene.migrated(MIGRATION_SCHEMA="app")
    url = scene.database.server.url(scene.database.name, user=login, password=PASSWORD, options=ON_A_PATH)
    run = scene.migrate(url=url)
    assert run.code == 78, run.report()
    assert 'GRANT USAGE ON SCHEMA "app"' in only_error(run)["remedy"]
    assert not scene.database.exists("public.schema_migrations")


# --- Whose ------------------------------------------------------------------------------------------------

NAMESAKES = {
    "a view": "CREATE VIEW migration_status AS SELECT 1 AS mine",
    "a table": "CREATE TABLE migration_status (mine integer)",
    "is_migration_locked": "CREATE FUNCTION is_migration_locked() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "release_migration_lock": "CREATE FUNCTION release_migration_lock() RETURNS void LANGUAGE sql AS ''",
    "migration_lock": "CREATE TABLE migration_lock (mine integer)",
}


@pytest.mark.sampled(7)
@pytest.mark.case("A3")
@pytest.mark.parametrize("command", [("migrate",), ("migrate", "--rehearse")], ids=["migrate", "rehearse"])
@pytest.mark.parametrize("what", NAMESAKES)
def test_what_has_the_name_of_ours_is_left_alone(scene: Scene, what: str, command: tuple[str, ...]) -> None:
    scene.database.execute(NAMESAKES[what])
    scene.write(GOOD)
    before = scene.database.contents()
    run = scene.start(*command)
    assert run.wait() == 78, run.report()
    assert "MIGRATION_SCHEMA" in only_error(run)["remedy"]
    assert scene.database.contents() == before


PREPARED = {
    "a table": "CREATE TABLE schema_migrations AS SELECT 1 AS migration_number, '001_good.sql'::text AS filename,"
    " 'completed'::text AS status, NULL::text AS checksum; ",
    "a view": "CREATE VIEW schema_migrations AS SELECT 1 AS migration_number, '001_good.sql'::text AS filename; ",
}


@pytest.mark.case("C2")
@pytest.mark.parametrize("what", PREPARED)
def test_a_ledger_that_a_stranger_has_prepared(scene: Scene, intruder: str, login: str, what: str) -> None:
    """Its rows would say that all is applied, and its triggers would run with the migrating login's privileges."""
    scene.database.execute(f"SET ROLE {intruder}; {PREPARED[what]} GRANT ALL ON schema_migrations TO public")
    scene.write(GOOD)
    for url in (address_of(scene, login), scene.database.url):
        run = scene.migrate(url=url)
        assert run.code == 78, run.report()
        assert "schema_migrations" in only_error(run)["message"]
        assert what == "a view" or intruder in only_error(run)["message"]
    assert not scene.database.exists("good")
    if what == "a table":
        assert scene.start("version").ok().stdout.strip() == "1", "reading it runs nobody's code"


@pytest.mark.case("C2")
def test_a_strangers_trigger_on_our_table(scene: Scene, intruder: str) -> None:
    scene.write(GOOD)
    scene.migrated()
    scene.database.execute(f"""
        CREATE TABLE ran ();
        GRANT TRIGGER ON schema_migrations TO {intruder}; SET ROLE {intruder};
        CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO public.ran DEFAULT VALUES; RETURN NEW; END $$;
        CREATE TRIGGER watching BEFORE INSERT ON schema_migrations FOR EACH ROW EXECUTE FUNCTION theirs()""")
    scene.write({"002_more.sql": "CREATE TABLE more ();"})
    run = scene.migrate()
    assert run.code == 78, run.report()
    assert "the trigger watching" in only_error(run)["message"]
    assert scene.database.rows("SELECT FROM ran") == []


@pytest.mark.thorough
@pytest.mark.case("C2")
def test_an_owners_own_trigger_is_let_through(scene: Scene) -> None:
    scene.write(GOOD)
    scene.migrated()
    scene.database.execute("""
        CREATE TABLE ran ();
        CREATE FUNCTION ours() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO public.ran DEFAULT VALUES; RETURN NEW; END $$;
        CREATE TRIGGER watching BEFORE INSERT ON schema_migrations FOR EACH ROW EXECUTE FUNCTION ours()""")
    scene.write({"002_more.sql": "CREATE TABLE more ();"})
    scene.migrated()
    assert scene.database.rows("SELECT FROM ran") != []


@pytest.mark.case("C2")
def test_an_applications_own_login_beside_a_migrating_job(scene: Scene, login: str) -> None:
    """It could not migrate and is not a member of the owner, but it can still read."""
    scene.write(GOOD)
    app = f"app_{scene.database.name}"[:60]
    assert scene.run(url=address_of(scene, login)).outcome == "migrated"
    scene.database.execute(
        f"CREATE ROLE {app} LOGIN PASSWORD '{PASSWORD}'; REVOKE CREATE ON SCHEMA public FROM public;"
        f"SET ROLE {login}; GRANT SELECT ON schema_migrations, migration_lock TO {app}"
    )
    try:
        url = address_of(scene, app)
        assert scene.run(url=url).outcome == "up_to_date"
        scene.start("status", url=url).ok()
        scene.start("wait", url=url).ok()
        assert scene.start("version", url=url).ok().stdout.strip() == "1"
    finally:
        scene.database.execute(f"DROP OWNED BY {app}; DROP ROLE {app}")


@pytest.mark.thorough
@pytest.mark.case("C2")
@pytest.mark.parametrize("trusted", ["a member", "MIGRATION_ROLE", "a superuser's"])
def test_an_owner_whom_we_trust(scene: Scene, intruder: str, login: str, trusted: str) -> None:
    scene.write(GOOD)
    env = {}
    if trusted == "a superuser's":
        scene.migrated()
        scene.database.execute(f"GRANT ALL ON schema_migrations, migration_lock TO {login};")
    else:
        scene.database.execute(f"GRANT {intruder} TO {login}")
        scene.migrated(url=address_of(scene, login), MIGRATION_ROLE=intruder)
        env = {"MIGRATION_ROLE": intruder} if trusted == "MIGRATION_ROLE" else {}
    assert scene.run(url=address_of(scene, login), **env).outcome == "up_to_date"


def test_a_ledger_is_upgraded_where_a_backslash_in_a_string_is_an_escape(scene: Scene) -> None:
    scene.database.execute(f"ALTER DATABASE {scene.database.name} SET standard_conforming_strings = off")
    load_legacy(scene.database, rows=False)
    scene.write(GOOD)
    assert scene.run()[:2] == ("migrated", "1")


@pytest.mark.thorough
def test_a_role_whose_name_has_braces(scene: Scene) -> None:
    name = "{role}_" + scene.database.name[:50]
    scene.database.execute(f'CREATE ROLE "{name}"; GRANT CREATE, USAGE ON SCHEMA public TO "{name}"')
    try:
        scene.write(GOOD)
        assert scene.run(MIGRATION_ROLE=name)[:2] == ("migrated", "1")
        assert scene.run(MIGRATION_ROLE=name)[:2] == ("up_to_date", "1")
    finally:
        scene.database.execute(f'DROP OWNED BY "{name}" CASCADE; DROP ROLE "{name}"')


# --- The same application in another schema ---------------------------------------------------------------

TWICE = {"001_init.sql": "CREATE TABLE once (n int);", "002_one.sql": "INSERT INTO once VALUES (1);"}
NAMES_APP = {"001_init.sql": "CREATE SCHEMA IF NOT EXISTS app; CREATE TABLE app.once (n int);"}


def with_path(scene: Scene, path: str) -> str:
    return scene.database.server.url(scene.database.name, options=f"-c search_path={path}")


@pytest.mark.case("A1")
@pytest.mark.parametrize("command", ["migrate", "migrate --dry-run", "migrate --rehearse"])
def test_migrations_that_another_schema_records_are_not_run_again(scene: Scene, command: str) -> None:
    scene.write(TWICE)
    scene.migrated()
    scene.database.execute("CREATE SCHEMA app")
    before = scene.database.contents()
    for env in ({"url": with_path(scene, "app")}, {"MIGRATION_SCHEMA": "app"}, {"MIGRATION_SCHEMA": "new"}):
        run = scene.start(*command.split(), **env)
        assert run.wait() == 78, run.report()
        error = only_error(run)
        assert error["event"] == "ledger.elsewhere"
        assert "already recorded in schema 'public'" in error["message"]
        assert "MIGRATION_SCHEMA=public" in error["remedy"]
        assert scene.database.contents() == before
    scene.migrated(url=with_path(scene, "app"), MIGRATION_SCHEMA="public")
    assert scene.database.rows("SELECT n FROM public.once") == [(1,)]


@pytest.mark.thorough
@pytest.mark.case("A1")
def test_a_schema_that_the_files_name_is_no_tenants(scene: Scene) -> None:
    scene.write(NAMES_APP)
    scene.migrated(MIGRATION_SCHEMA="app")
    run = scene.migrate()
    assert run.code == 78, run.report()
    assert "already recorded in schema 'app'" in only_error(run)["message"]


@pytest.mark.thorough
@pytest.mark.case("A1")
def test_a_schema_of_the_path_is_no_tenants(scene: Scene) -> None:
    scene.write(TWICE)
    scene.database.execute("CREATE SCHEMA app; CREATE SCHEMA other")
    scene.migrated(MIGRATION_SCHEMA="app")
    run = scene.migrate(url=with_path(scene, "other,app"), MIGRATION_SCHEMA="other")
    assert run.code == 78, run.report()
    assert scene.migrate(url=with_path(scene, "other"), MIGRATION_SCHEMA="other").code == 0


def test_a_schema_for_each_tenant(scene: Scene) -> None:
    scene.write(TWICE)
    for tenant in ("one", "two", "three"):
        scene.database.execute(f"CREATE SCHEMA {tenant}")
        run = scene.migrated(url=with_path(scene, tenant))
        said = [record for record in run.logs("ledger.elsewhere") if record["level"] == "warning"]
        assert len(said) == (tenant != "one"), run.report()
        assert scene.database.rows(f"SELECT n FROM {tenant}.once") == [(1,)]
        assert not scene.migrated(url=with_path(scene, tenant)).logs("ledger.elsewhere"), "said once"


@pytest.mark.parametrize("schema", ["public", "tenant_b", "order", "Tenant-C"])
def test_the_sql_of_a_remedy_is_about_this_schemas_history(scene: Scene, schema: str) -> None:
    """What an operator copies from one tenant's log must not change another tenant's row."""
    scene.write({"001_a.sql": "VACUUM; SELECT 1/0"})
    for tenant in dict.fromkeys(("public", schema)):
        assert scene.migrate(MIGRATION_SCHEMA=tenant).wait() == 70
    run = scene.start("rollback", "--to", "0", "--yes", MIGRATION_SCHEMA=schema)
    assert run.wait() == 70, run.report()
    error = only_error(run)
    (statement,) = re.findall(r"DELETE FROM .* WHERE migration_number = 1", str(error["remedy"]))
    scene.database.execute(statement)
    (table,) = re.findall(r"UPDATE (\S+) SET", str(error["remedy"]))
    assert table == statement.split()[2]
    left = {"public": 1} | {schema: 0}
    for tenant, rows in left.items():
        assert scene.database.one(f'SELECT count(*) FROM "{tenant}".schema_migrations') == rows


def test_no_remedy_names_the_history_of_another_schema(scene: Scene) -> None:
    scene.write({"001_a.sql": "SELECT 1/0"})
    for run in (scene.migrate(MIGRATION_SCHEMA="tenant_b"), scene.migrate(MIGRATION_SCHEMA="tenant_b")):
        remedy = str(only_error(run)["remedy"])
        assert remedy.startswith("Correct the file and deploy it.")
        assert "entrypoint repair --failed" in remedy
        assert " schema_migrations" not in remedy


@pytest.mark.thorough
def test_the_way_that_the_remedy_names(scene: Scene) -> None:
    scene.write(TWICE)
    scene.migrated()
    scene.database.execute("CREATE SCHEMA app")
    url = with_path(scene, "app")
    remedy = only_error(scene.migrate(url=url))["remedy"]
    scene.database.execute(remedy[remedy.index("CREATE SCHEMA") :].rstrip("."))
    scene.migrated(url=url)
    assert scene.database.rows("SELECT n FROM app.once") == [(1,)]
    assert scene.run(url=url)[:2] == ("up_to_date", "2")
    assert scene.run()[:2] == ("up_to_date", "2")


OTHERS = {
    "another text": "UPDATE schema_migrations SET checksum = 'another'",
    "another name": "UPDATE schema_migrations SET filename = '002_two.sql' WHERE migration_number = 2",
    "nothing applied": "UPDATE schema_migrations SET status = 'failed'",
    "no number of ours": "UPDATE schema_migrations SET migration_number = migration_number + 100",
    "another tool's": "ALTER TABLE schema_migrations DROP COLUMN migration_number CASCADE",
    "types of somebody's": "CREATE DOMAIN words AS text; ALTER TABLE schema_migrations ALTER filename TYPE words",
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("what", OTHERS)
def test_another_applications_ledger_is_nothing_to_us(scene: Scene, what: str) -> None:
    scene.write(TWICE)
    scene.migrated()
    scene.database.execute(f"CREATE SCHEMA app; {OTHERS[what]}")
    run = scene.migrated(url=with_path(scene, "app"))
    assert not run.logs("ledger.elsewhere"), run.report()


@pytest.mark.thorough
def test_a_ledger_that_cannot_be_read_is_nothing_to_us(scene: Scene, login: str) -> None:
    scene.write(TWICE)
    scene.migrated()
    scene.database.execute(f"CREATE SCHEMA app AUTHORIZATION {login}")
    url = scene.database.server.url(scene.database.name, user=login, password=PASSWORD, options="-c search_path=app")
    scene.migrated(url=url)


# --- At a glance ------------------------------------------------------------------------------------------


OURS = "migration_number integer, filename text"
LOCK = "id integer, locked_at timestamptz, locked_by text, process_id integer"
LEDGER = f"CREATE TABLE public.schema_migrations ({OURS});"
IN_APP = f"CREATE SCHEMA app; CREATE TABLE app.schema_migrations ({OURS});"
MANY = "".join(f"CREATE SCHEMA s{n}; CREATE TABLE s{n}.schema_migrations ({OURS});" for n in range(25))
GLANCES = {
    "nothing": ("", "public", None),
    "a ledger": (LEDGER, "public", "public"),
    "with its lock": (f"{LEDGER} CREATE TABLE public.migration_lock ({LOCK})", "public", "public"),
    "behind an empty schema": (f"{LEDGER} CREATE SCHEMA app", "app, public", "public"),
    "the first of two": (f"{LEDGER} {IN_APP}", '"app", public', "app"),
    "behind what is not there": (LEDGER, '"$user", "nowhere", public', "public"),
    "an odd name": (
        f'CREATE SCHEMA "A ""b"; CREATE TABLE "A ""b".schema_migrations ({OURS})',
        '"A ""b", public',
        'A "b',
    ),
    "folded": (IN_APP, "APP, public", "app"),
    "off the path": (IN_APP, "public", None),
    "a quoted name": (f'CREATE SCHEMA "App"; CREATE TABLE "App".schema_migrations ({OURS})', '"App", public', "App"),
    "odd columns": (
        f'CREATE TABLE public.schema_migrations ({OURS}, "odd\\" text, "a,b" text, "c""d" text)',
        "public",
        "public",
    ),
    "among many": (f"{MANY} {LEDGER}", "public", "public"),
    "many others": (MANY, "public", None),
    "a temporary one": (f"CREATE TEMPORARY TABLE schema_migrations ({OURS})", "pg_temp, public", None),
}


@pytest.mark.parametrize("name", GLANCES)
def test_a_glance_finds_what_the_search_finds(database: Database, name: str) -> None:
    made, path, where = GLANCES[name]
    with database.connect(options="-csearch_path=" + path.replace(" ", "\\ ")) as connection:
        if made:
            connection.execute(made.encode())
        asker = Asker(connection)
        place, sure = find_tables(asker, None, Deadline(5))
        found = search.find_tables(asker, None, Deadline(5))
        assert found == (place if sure else found)
        assert (found and found.schema) == where


@pytest.mark.parametrize("schema", ["app", "App", 'odd " one', "größe"])
def test_a_glance_into_a_schema_that_is_set_needs_no_search(database: Database, schema: str) -> None:
    quoted = '"' + schema.replace('"', '""') + '"'
    with database.connect() as connection:
        connection.execute(f"CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.schema_migrations ({OURS})".encode())
        place, sure = find_tables(Asker(connection), schema, Deadline(5))
        assert sure
        assert place == search.find_tables(Asker(connection), schema, Deadline(5))
