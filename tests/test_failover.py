"""The primary dies in the middle of a migration, and its standby takes over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from demo.postgres import HOST
from demo.standby import Standby
from kit.migrations import write_migrations
from kit.processes import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import ServerFactory
    from demo.postgres import Server
    from kit.processes import Run


@pytest.fixture
def pair(fresh_server: ServerFactory) -> Iterator[tuple[Server, Standby]]:
    """Return a primary with a database `app`, and its standby."""
    primary = fresh_server(settings={"wal_level": "replica", "max_wal_senders": 4})
    primary.create_database("app")
    standby = Standby(primary)
    try:
        standby.start(standby=True)
        yield primary, standby
    finally:
        standby.close()


def test_the_work_goes_on_at_the_new_primary(
    pair: tuple[Server, Standby], migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    primary, standby = pair
    write_migrations(
        migrations_dir,
        {
            "001_first.sql": "CREATE TABLE gate (open int); CREATE TABLE first (id int);",
            "002_second.sql": "CREATE TABLE second (id int);\n"
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM gate) THEN PERFORM pg_sleep(60); END IF; END $$;",
        },
    )
    hosts = f"{HOST}:{primary.port},{HOST}:{standby.port}"
    env = {"DATABASE_URL": f"postgresql://postgres@{hosts}/app?target_session_attrs=read-write"}
    run = run_entrypoint("migrate", env=env)
    with primary.connect("app") as connection:
        until(lambda: connection.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchone())
        connection.execute("INSERT INTO gate VALUES (1)")
    with standby.connect("app") as connection:
        # The table may not have arrived yet; to_regclass returns NULL where a plain name would be an error.
        until(lambda: connection.execute("SELECT to_regclass('gate')").fetchone() != (None,), what="the table")
        until(lambda: connection.execute("SELECT 1 FROM gate").fetchone(), what="the standby to follow")
        primary.kill()
        connection.execute("SELECT pg_promote()")
    run.ok(30)
    assert "database.lost" in run.events()
    with standby.connect("app") as connection:
        rows = connection.execute("SELECT migration_number, status FROM schema_migrations ORDER BY 1").fetchall()
        assert rows == [(1, "completed"), (2, "completed")]
        assert connection.execute("SELECT to_regclass('second')::text").fetchone() == ("second",)
        assert connection.execute("SELECT locked_at FROM migration_lock").fetchone() == (None,)
