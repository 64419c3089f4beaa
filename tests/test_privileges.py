"""A missing privilege: the error names the GRANT to type, and once it is typed, the run succeeds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import pytest

from scene import Scene, load_legacy, only_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

TABLES = "public.schema_migrations, public.migration_lock"
ALL = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLES} TO"


class Poor(NamedTuple):
    """A login without any privileges, and a role to go with it."""

    scene: Scene
    login: str
    role: str

    def run(self, *command: str, **env: str) -> Run:
        url = self.scene.database.server.url(self.scene.database.name, user=self.login)
        return self.scene.launch(*command, env={"DATABASE_URL": url, **env})

    def told(self, run: Run) -> list[str]:
        """Return the GRANT statements that the remedy names."""
        assert run.wait() == 70, run.report()
        error = only_error(run)
        assert error["sqlstate"] == "42501"
        return re.findall(r"GRANT [^;]+?(?=[;.] |\. Or)", str(error["remedy"]))


@pytest.fixture
def poor(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Iterator[Poor]:
    scene = Scene(database, migrations_dir, run_entrypoint)
    name = database.name[:50]
    # One of the two names needs quotes.
    login, role = f"login_{name}", f"Role-{name}"
    database.execute(
        f'REVOKE ALL ON SCHEMA public FROM public; CREATE ROLE {login} LOGIN; CREATE ROLE "{role}" NOLOGIN'
    )
    scene.write({"001_a.sql": "SELECT 1"})
    try:
        yield Poor(scene, login, f'"{role}"')
    finally:
        database.execute(f'DROP OWNED BY {login}, "{role}" CASCADE; DROP ROLE {login}, "{role}"')


def follow(poor: Poor, expected: list[list[str]], *command: str, **env: str) -> None:
    """Run, type what the error names, and run again, until it works."""
    for statements in expected:
        assert poor.told(poor.run(*command, **env)) == statements
        poor.scene.database.execute("; ".join(statements))
    poor.run(*command, **env).ok()


@pytest.mark.thorough
@pytest.mark.case("D9")
def test_it_is_about_the_schema_that_the_ledger_is_in(poor: Poor) -> None:
    """The first schema of the path has the login's name, and no ledger."""
    login, database = poor.login, poor.scene.database
    database.execute(f"CREATE SCHEMA {login}; GRANT USAGE ON SCHEMA {login}, public TO {login}")
    poor.scene.migrated(MIGRATION_SCHEMA="public")
    follow(poor, [[f"{ALL} {login}"]], "migrate")


@pytest.mark.case("D9")
def test_what_making_the_ledger_takes_is_named(poor: Poor) -> None:
    follow(poor, [[f"GRANT USAGE, CREATE ON SCHEMA public TO {poor.login}"]], "migrate", MIGRATION_SCHEMA="public")


@pytest.mark.thorough
@pytest.mark.case("D9")
def test_what_making_a_schema_takes_is_named(poor: Poor) -> None:
    name = poor.scene.database.name
    follow(poor, [[f"GRANT CREATE ON DATABASE {name} TO {poor.login}"]], "migrate", MIGRATION_SCHEMA="ours")


@pytest.mark.thorough
@pytest.mark.case("D9")
def test_with_another_role_it_is_that_one_that_is_named(poor: Poor) -> None:
    follow(
        poor,
        [[f"GRANT {poor.role} TO {poor.login}"], [f"GRANT USAGE, CREATE ON SCHEMA public TO {poor.role}"]],
        "migrate",
        MIGRATION_SCHEMA="public",
        MIGRATION_ROLE=poor.role.strip('"'),
    )


@pytest.mark.case("D9")
def test_what_writing_and_reading_the_ledger_takes_is_named(poor: Poor) -> None:
    scene = poor.scene
    scene.migrated()
    scene.write({"002_b.sql": "SELECT 2"})
    usage = [f"GRANT USAGE ON SCHEMA public TO {poor.login}"]
    tables = f"{TABLES} TO {poor.login}"
    follow(poor, [[*usage, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables}"]], "status", MIGRATION_SCHEMA="public")
    poor.run("migrate", MIGRATION_SCHEMA="public").ok()
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


@pytest.mark.thorough
@pytest.mark.case("D9")
def test_who_may_only_read_is_told_what_writing_takes(poor: Poor) -> None:
    poor.scene.migrated()
    poor.scene.write({"002_b.sql": "SELECT 2"})
    poor.scene.database.execute(
        f"GRANT USAGE ON SCHEMA public TO {poor.login}; GRANT SELECT ON {TABLES} TO {poor.login}"
    )
    follow(poor, [[f"{ALL} {poor.login}"]], "migrate", MIGRATION_SCHEMA="public")


@pytest.mark.case("D9")
def test_what_changing_another_roles_tables_takes_is_named(poor: Poor) -> None:
    scene = poor.scene
    scene.migrated()
    scene.write({"002_b.sql": "SELECT 2"})
    scene.database.execute(
        f"GRANT USAGE, CREATE ON SCHEMA public TO {poor.login}; {ALL} {poor.login}; "
        "ALTER TABLE migration_lock DROP COLUMN guard_pid CASCADE; "
        f"ALTER TABLE schema_migrations OWNER TO {poor.role}; ALTER TABLE migration_lock OWNER TO {poor.role}; "
        # Whoever owns the schema is trusted. Another owner's tables would be refused unread.
        f"ALTER SCHEMA public OWNER TO {poor.role}"
    )
    assert poor.told(poor.run("migrate", MIGRATION_SCHEMA="public")) == [f"GRANT {poor.role} TO {poor.login}"]


@pytest.mark.case("D9")
@pytest.mark.parametrize("head", ["", "-- entrypoint: no-transaction\n"], ids=["inside", "outside"])
def test_what_writing_the_row_takes_is_named_and_the_file_has_not_failed(poor: Poor, head: str) -> None:
    scene, login = poor.scene, poor.login
    scene.migrated()
    scene.write({"002_b.sql": f"{head}CREATE TABLE b ();"})
    scene.database.execute(
        f"GRANT USAGE, CREATE ON SCHEMA public TO {login}; GRANT ALL ON migration_lock TO {login}; "
        f"GRANT SELECT, UPDATE, DELETE ON schema_migrations TO {login}"
    )
    follow(
        poor,
        [[f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.schema_migrations TO {login}"]],
        "migrate",
        MIGRATION_SCHEMA="public",
    )
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


@pytest.mark.thorough
@pytest.mark.case("D9")
def test_what_rehearsing_takes_is_named(poor: Poor) -> None:
    poor.scene.migrated()
    poor.scene.write({"002_b.sql": "SELECT pg_advisory_lock(1);"})
    poor.scene.database.execute(
        f"GRANT USAGE ON SCHEMA public TO {poor.login}; GRANT ALL ON migration_lock TO {poor.login}; "
        f"GRANT SELECT, UPDATE, DELETE ON schema_migrations TO {poor.login}"
    )
    follow(
        poor,
        [[f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.schema_migrations TO {poor.login}"]],
        *("migrate", "--rehearse"),
        MIGRATION_SCHEMA="public",
    )


@pytest.mark.thorough
@pytest.mark.case("D9")
def test_what_taking_back_takes_is_named(poor: Poor) -> None:
    (poor.scene.migrations / "rollback").mkdir()
    poor.scene.write({"002_b.sql": "SELECT 2", "rollback/002_b.sql": "SELECT 3"})
    poor.scene.migrated()
    poor.scene.database.execute(
        f"GRANT USAGE ON SCHEMA public TO {poor.login}; GRANT ALL ON migration_lock TO {poor.login}; "
        f"GRANT SELECT, INSERT, UPDATE ON schema_migrations TO {poor.login}"
    )
    follow(
        poor,
        [[f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.schema_migrations TO {poor.login}"]],
        *("rollback", "--to", "1", "--yes"),
        MIGRATION_SCHEMA="public",
    )
    assert poor.scene.ledger() == [(1, "completed")]


@pytest.mark.thorough
@pytest.mark.case("D9")
def test_the_sequence_of_an_earlier_systems_table_is_named(poor: Poor) -> None:
    scene, login = poor.scene, poor.login
    load_legacy(scene.database, rows=False)
    scene.migrated()
    scene.write({"002_b.sql": "SELECT 2"})
    scene.database.execute(f"GRANT USAGE ON SCHEMA public TO {login}; {ALL} {login}")
    follow(
        poor,
        [[f"GRANT USAGE ON SEQUENCE public.schema_migrations_id_seq TO {login}"]],
        "migrate",
        MIGRATION_SCHEMA="public",
    )


@pytest.mark.case("D9")
def test_a_file_that_lacks_a_privilege_has_failed(poor: Poor) -> None:
    """Even if the privilege is on the ledger itself, or the file revokes one of ours."""
    scene, login = poor.scene, poor.login
    scene.migrated()
    scene.database.execute(f"GRANT USAGE ON SCHEMA public TO {login}; {ALL} {login}")
    scene.write({"002_b.sql": "ALTER TABLE public.schema_migrations ADD COLUMN more text"})
    run = poor.run("migrate", MIGRATION_SCHEMA="public")
    assert run.wait() == 70, run.report()
    assert scene.ledger() == [(1, "completed"), (2, "failed")]


@pytest.mark.case("D9")
def test_a_role_that_does_not_exist_is_told_from_what_exists(poor: Poor) -> None:
    run = poor.run("migrate", MIGRATION_SCHEMA="public", MIGRATION_ROLE="nobody here")
    assert run.wait() == 78, run.report()
    error = only_error(run)
    assert error["message"].startswith("MIGRATION_ROLE cannot be used: ")
