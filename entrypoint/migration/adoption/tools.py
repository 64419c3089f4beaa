"""The tools whose history can be adopted: where it is, how to read it, and what it means."""

from __future__ import annotations

from entrypoint.migration.adoption import drizzle, flyway, listed, numbered, prisma
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from entrypoint.database.answers import Row
    from entrypoint.migration.adoption.history import History


class AdoptableTool(NamedTuple):
    """A tool and its table."""

    shown: str
    """As its users write it."""
    table: str
    columns: frozenset[str]
    """The columns that identify its table."""
    query: str
    decide: Callable[[Sequence[Row], Collection[str]], History]
    schema: str | None = None
    """The schema of its table; None if it is somewhere along the connection's search_path."""
    exactly: bool = False
    """Whether the table must have no other columns, because other tools' tables of that name have more."""
    query_with_names: str = ""
    """The query, if there is a column `name`."""

    def sql(self, table: str, columns: Collection[str]) -> str:
        """Return the query for a table of this name, already quoted, with these columns."""
        template = self.query_with_names if self.query_with_names and "name" in columns else self.query
        return template.format(table=table)

    def knows(self, columns: Collection[str]) -> bool:
        """Return whether a table with these columns can be its table."""
        return self.columns == set(columns) if self.exactly else self.columns <= set(columns)


def _columns(names: str) -> frozenset[str]:
    return frozenset(names.split())


BY_NAME = {
    "goose": AdoptableTool(
        "goose", "goose_db_version", _columns("id version_id is_applied"), numbered.GOOSE, numbered.decide_goose
    ),
    "dbmate": AdoptableTool(
        "dbmate", "schema_migrations", _columns("version"), listed.VERSIONS, listed.decide, exactly=True
    ),
    "sql-migrate": AdoptableTool(
        "sql-migrate", "gorp_migrations", _columns("id applied_at"), listed.IDS, listed.decide
    ),
    "golang-migrate": AdoptableTool(
        "golang-migrate",
        "schema_migrations",
        _columns("version dirty"),
        numbered.GOLANG_MIGRATE,
        numbered.decide_golang_migrate,
    ),
    "flyway": AdoptableTool(
        "Flyway",
        "flyway_schema_history",
        _columns("installed_rank version type script checksum success"),
        flyway.QUERY,
        flyway.decide,
    ),
    "sqlx": AdoptableTool(
        "sqlx", "_sqlx_migrations", _columns("version success checksum"), numbered.SQLX, numbered.decide_sqlx
    ),
    "diesel": AdoptableTool(
        "diesel", "__diesel_schema_migrations", _columns("version run_on"), listed.VERSIONS, listed.decide
    ),
    "prisma": AdoptableTool(
        "Prisma",
        "_prisma_migrations",
        _columns("migration_name finished_at rolled_back_at started_at checksum"),
        prisma.QUERY,
        prisma.decide,
    ),
    "drizzle": AdoptableTool(
        "Drizzle",
        "__drizzle_migrations",
        _columns("id hash created_at"),
        drizzle.QUERY,
        drizzle.decide,
        schema="drizzle",
        query_with_names=drizzle.QUERY_WITH_NAMES,
    ),
    "supabase": AdoptableTool(
        "Supabase",
        "schema_migrations",
        _columns("version"),
        listed.VERSIONS,
        listed.decide,
        schema="supabase_migrations",
    ),
}
"""By the names of `records.TOOLS`."""
