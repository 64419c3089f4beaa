"""Tools whose table has a row for each applied version, and nothing else to consider.

dbmate: `schema_migrations (version)`, in `pkg/driver/postgres/postgres.go`. diesel: `__diesel_schema_migrations
(version, run_on)`, in `diesel/src/migration/setup_migration_table.sql`. Supabase: `schema_migrations (version,
statements, name)` in schema `supabase_migrations`, in `pkg/migration/history.go` of its CLI. sql-migrate:
`gorp_migrations (id, applied_at)`, in `migrate.go`; the id is the file's name. All of them compare versions as texts.
"""

from __future__ import annotations

from entrypoint.migration.adoption.history import matched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from entrypoint.database.answers import Row
    from entrypoint.migration.adoption.history import History

VERSIONS = "SELECT version FROM {table} ORDER BY 1"
IDS = "SELECT id FROM {table} ORDER BY 1"


def decide(rows: Sequence[Row], here: Collection[str]) -> History:
    """Return what is applied: every row."""
    return matched((row[0] or "" for row in rows), here)
