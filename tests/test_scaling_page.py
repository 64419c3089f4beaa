"""docs/scaling.md: its loop that migrates a schema for each tenant, run as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from kit.migrations import write_migrations

if TYPE_CHECKING:
    from kit.databases import Database

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"


def test_the_loop_over_tenants(database: Database, migrations_dir: Path) -> None:
    """Each tenant gets its own schema. One that fails does not stop the others, but makes the loop fail."""
    found = re.search(r"^    psql .*\n(?:      .*\n)+", PAGE.read_text(), re.MULTILINE)
    assert found
    path = f"{Path(sys.executable).parent}:{database.server.bin}:{os.environ['PATH']}"
    env = {"PATH": path, "DATABASE_URL": database.url, "MIGRATIONS_DIR": str(migrations_dir), "LOG_LEVEL": "error"}
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE b ();"})
    tenants = ("tenant_1", "tenant_2", "tenant_3")
    for schema in (*tenants, "tenant_x", "tenants"):
        database.execute(f"CREATE SCHEMA {schema}")
    database.execute("CREATE TABLE tenant_x.b ()")

    def loop() -> int:
        return subprocess.run(["sh", "-c", textwrap.dedent(found[0])], env=env, check=False).returncode

    assert loop() == 123
    for schema in tenants:
        assert database.one(f"SELECT count(*) FROM {schema}.schema_migrations WHERE status = 'completed'") == 2
        assert database.one(f"SELECT to_regclass('{schema}.b') IS NOT NULL")
    assert database.one("SELECT to_regclass('tenants.schema_migrations') IS NULL")
    assert database.one("SELECT to_regclass('public.schema_migrations') IS NULL")
    database.execute("DROP SCHEMA tenant_x CASCADE")
    assert loop() == 0
