"""The tools whose history can be adopted: where each keeps it, how it is read, and what it means."""

from __future__ import annotations

from entrypoint.migration.adoption import drizzle, flyway, listed, numbered, prisma
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from entrypoint.database.answers import Row
    from entrypoint.migration.adoption.history import History


class Tool(NamedTuple):
    """A tool and its table."""

    shown: str
    """As its users write it."""
    table: str
    columns: frozenset[str]
    """By which its table is known."""
    query: str
    decide: Callable[[Sequence[Row], Collection[str]], History]
    schema: str | None = None
    """Where the table always is; None: where the connection's search_path leads."""
    exactly: bool = False
    """Whether it has these columns alone, as others have a table of that name with more."""
    query_with_names: str = ""
    """The query, if there is a column `name`."""

    def sql(self, table: str, columns: Collection[str]) -> str:
        """Return the query for the table of that name, quoted already, with these columns."""
        template = self.query_with_names if self.query_with_names and "name" in columns else self.query
        return template.format(table=table)

    def knows(self, columns: Collection[str]) -> bool:
        """Tell whether a table with these columns can be its own."""
        return self.columns == set(columns) if self.exactly else self.columns <= set(columns)


def _columns(names: str) -> frozenset[str]:
    return frozenset(names.split())


BY_NAME = {
    "goose": Tool(
        "goose", "goose_db_version", _columns("id version_id is_applied"), numbered.GOOSE, numbered.decide_goose
    ),
    "dbmate": Tool("dbmate", "schema_migrations", _columns("version"), listed.VERSIONS, listed.decide, exactly=True),
    "sql-migrate": Tool("sql-migrate", "gorp_migrations", _columns("id applied_at"), listed.IDS, listed.decide),
    "golang-migrate": Tool(
        "golang-migrate",
        "schema_migrations",
        _columns("version dirty"),
        numbered.GOLANG_MIGRATE,
        numbered.decide_golang_migrate,
    ),
    "flyway": Tool(
        "Flyway",
        "flyway_schema_history",
        _columns("installed_rank version type script checksum success"),
        flyway.QUERY,
        flyway.decide,
    ),
    "sqlx": Tool("sqlx", "_sqlx_migrations", _columns("version success checksum"), numbered.SQLX, numbered.decide_sqlx),
    "diesel": Tool("diesel", "__diesel_schema_migrations", _columns("version run_on"), listed.VERSIONS, listed.decide),
    "prisma": Tool(
        "Prisma",
        "_prisma_migrations",
        _columns("migration_name finished_at rolled_back_at started_at checksum"),
        prisma.QUERY,
        prisma.decide,
    ),
    "drizzle": Tool(
        "Drizzle",
        "__drizzle_migrations",
        _columns("id hash created_at"),
        drizzle.QUERY,
        drizzle.decide,
        schema="drizzle",
        query_with_names=drizzle.QUERY_WITH_NAMES,
    ),
    "supabase": Tool(
        "Supabase",
        "schema_migrations",
        _columns("version"),
        listed.VERSIONS,
        listed.decide,
        schema="supabase_migrations",
    ),
}
"""By the names of `records.TOOLS`."""
