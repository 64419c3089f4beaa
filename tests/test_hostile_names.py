"""No statement of ours calls operators, functions or types that somebody created in `public`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from psycopg import Connection

    from demo.postgres import Server
    from kit.databases import Database
    from kit.processes import Run
    from kit.web import Serving

# Run as an ordinary user, this copies every operator and function of PostgreSQL into `public`, adds operators for all
# pairs of types that can be compared or computed with, and domains named like types. A call to any of them fails loudly
# and reaches the server's log, even if the program would hide it.
HOSTILE = r"""
CREATE FUNCTION public.caught() RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'CAUGHT: something of ours in public was called'; END $$;

DO $do$
DECLARE
    one record;
    types CONSTANT text[] := '{bool,int2,int4,int8,numeric,float8,oid,xid,xid8,text,varchar,name,"\"char\"",timestamp,
        timestamptz,interval,json,jsonb,regclass,regtype,inet,_text,_name,_int4,_oid,_int8,date}';
    operators CONSTANT text[] := '{=,<>,<,>,<=,>=,+,-,*,/,%,||,~,->,->>,~~,!~~,~*}';
    made integer := 0;
BEGIN
    FOR one IN
        SELECT o.oprname AS name, l.typname AS lefts, r.typname AS rights, s.typname AS result
        FROM pg_operator o LEFT JOIN pg_type l ON l.oid = o.oprleft JOIN pg_type r ON r.oid = o.oprright
        JOIN pg_type s ON s.oid = o.oprresult
        WHERE o.oprnamespace = 'pg_catalog'::regnamespace
        UNION
        SELECT o, l, r, CASE WHEN o ~ '^[-+*/%|]' THEN l ELSE 'bool' END
        FROM unnest(operators) o, unnest(types) l, unnest(types) r
        WHERE NOT EXISTS (SELECT FROM pg_operator p WHERE p.oprname = o
            AND p.oprleft = to_regtype('pg_catalog.' || l) AND p.oprright = to_regtype('pg_catalog.' || r))
    LOOP
        BEGIN
            made := made + 1;
            EXECUTE format(
                'CREATE FUNCTION public.caught_%s(%s pg_catalog.%I) RETURNS pg_catalog.%I LANGUAGE plpgsql AS %L', made,
                'pg_catalog.' || quote_ident(one.lefts) || ',', one.rights, one.result,
                format('BEGIN RAISE EXCEPTION ''CAUGHT: operator %s (%s, %s)''; END', replace(one.name, '%', '%%'),
                    one.lefts, one.rights));
            EXECUTE format('CREATE OPERATOR public.%s (%s RIGHTARG = pg_catalog.%I, FUNCTION = public.caught_%s)',
                one.name, 'LEFTARG = pg_catalog.' || quote_ident(one.lefts) || ',', one.rights, made);
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    FOR one IN
        SELECT p.proname AS name, oidvectortypes(p.proargtypes) AS takes, p.prorettype::regtype AS result, p.proretset
        FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind IN ('f', 'a', 'w')
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s %s LANGUAGE plpgsql AS %L', one.name, one.takes,
                CASE WHEN one.proretset THEN 'SETOF' ELSE '' END, one.result,
                format('BEGIN RAISE EXCEPTION ''CAUGHT: function %s(%s)''; END', one.name, one.takes));
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    FOR one IN SELECT t.typname AS name FROM pg_type t
        WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' AND t.typelem = 0
    LOOP
        BEGIN
            EXECUTE format('CREATE DOMAIN public.%1$I AS pg_catalog.%1$I CHECK (public.caught())', one.name);
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_operator WHERE oprnamespace = 'public'::regnamespace OFFSET 4000) THEN
        RAISE EXCEPTION 'too few operators were made';
    END IF;
END $do$;
"""


@pytest.fixture
def scene(
    any_server: Server, any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> Scene:
    """Return a scene in which names without a schema are looked up in `public` first."""
    name = f"mallory_{any_database.name}"
    any_database.execute(f"""
        CREATE ROLE {name}; GRANT CREATE ON SCHEMA public TO {name};
        ALTER DATABASE {any_database.name} SET search_path = public, pg_catalog;
        SET ROLE {name}; SET search_path = pg_catalog; {HOSTILE}""")
    return Scene(any_database, migrations_dir, run_entrypoint)


def _ourselves(database: Database) -> Connection[tuple[object, ...]]:
    """Return the test's own connection, which ignores the objects in `public`."""
    return database.connect(options="-csearch_path=pg_catalog")


@pytest.mark.case("C1")
def test_nothing_of_ours_calls_what_somebody_has_made_in_public(
    scene: Scene, any_server: Server, serve: Callable[..., Serving], tmp_path: Path
) -> None:
    since = any_server.log_size()
    patient: dict[str, str | int] = {"MIGRATION_DDL_LOCK_TIMEOUT_MS": 1500, "LOG_LEVEL": "debug"}
    patient |= {"MIGRATION_ON_FAILURE": "exit", "MIGRATION_BACKUP_DIR": str(tmp_path / "backups")}
    patient |= {"PATH": f"{any_server.bin}:{os.environ['PATH']}"}

    def starts(*command: str, code: int = 0, **env: str | int) -> Run:
        run = scene.start(*command, url="", **(patient | env))
        assert run.wait() == code, f"{command}: {run.stderr}"
        return run

    (scene.migrations / "rollback").mkdir()
    (tmp_path / "backups").mkdir()
    scene.write(
        {
            "001_a.sql": "CREATE TABLE public.a (id integer);",
            "002_b.sql": "CREATE INDEX CONCURRENTLY a_id ON public.a (id);\nALTER TABLE public.a ADD COLUMN b integer;",
            "rollback/002_b.sql": "DROP INDEX public.a_id;",
            "rollback/003_c.sql": "ALTER TABLE public.a DROP COLUMN c;",
        }
    )
    starts("migrate", "--dry-run")
    starts("migrate", "--rehearse", code=10)
    starts("run", "--", "true")
    starts("run", "--", "true")
    for command in (
        ("status",),
        ("status", "--json"),
        ("version",),
        ("wait",),
        ("wait", "--version", "2"),
        ("unlock",),
    ):
        starts(*command)
    starts("backup", "--dir", str(tmp_path / "backups"))

    del patient["MIGRATION_BACKUP_DIR"]  # a backup would wait for the same lock
    # The watcher sees what is in the way, ends the wait, and reports a slow statement.
    scene.write({"003_c.sql": "ALTER TABLE public.a ADD COLUMN c integer;"})
    with _ourselves(scene.database) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE public.a")
        blocked = scene.start("migrate", url="", **patient)
        blocked.until("migration.blocked")
        blocked.until("migration.retry")
        waiter = scene.start("migrate", url="", **patient)
        waiter.until("lock.waiting")
        starts("unlock", "--yes", code=75)
        other.execute("COMMIT")
        blocked.ok()
        waiter.ok()

    scene.write({"004_d.sql": "SELECT nothing;"})
    starts("migrate", code=70)
    starts("repair", "--failed", "--yes")
    scene.write({"004_d.sql": "SELECT 1;"})
    starts("baseline", "4", "--yes")
    starts("repair", "--yes")
    scene.write({"rollback/004_d.sql": ""})
    starts("rollback", "--to", "2", "--yes")
    with _ourselves(scene.database) as ours:
        ours.execute("UPDATE public.migration_lock SET locked_at = clock_timestamp(), locked_by = 'gone' WHERE id = 1")
    starts("unlock", "--force", "--yes")

    serving = serve(scene.database.url)
    for path in ("/metrics", "/api/admin/migrations/status", "/api/admin/migrations/status"):
        assert serving.ask(path).status == 200
    caught = [line for line in any_server.log_text(since).splitlines() if "CAUGHT" in line]
    assert caught == []
