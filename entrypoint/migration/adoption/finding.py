"""Find and read the table in which another tool keeps its history. It is never written.

Whoever can write that table decides what does not run here, so its owner must be trusted, like the owner of the ledger
(docs/decisions/0022).
"""

from __future__ import annotations

from entrypoint.database.quoting import identifier, literal, our_state
from entrypoint.errors import ConfigurationError
from entrypoint.errors.migration import ForeignLedgerError
from entrypoint.migration.adoption.tools import BY_NAME
from entrypoint.migration.ledger.place import LEDGER_SIGN, walk
from entrypoint.migration.ledger.search import owner_of, path_sql, trusted
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from entrypoint.database.answers import Row
    from entrypoint.database.session import Session
    from entrypoint.deadline import Deadline
    from entrypoint.migration.adoption.tools import AdoptableTool
    from entrypoint.records import Adopt

# How many schemas outside the search_path to consider: there may be one for each tenant.
_MOST = 50
_RAILS = "ar_internal_metadata"


class ToolTable(NamedTuple):
    """A table with the name of a tool's table."""

    schema: str
    name: str
    plain: bool
    """Whether it is a table whose columns have PostgreSQL's own types."""
    usable: bool
    """Whether we may use the schema."""
    readable: bool
    owner: str
    trusted: bool
    columns: frozenset[str]
    filtered: bool = False
    """Whether row-level security hides rows from us."""

    @property
    def spelled(self) -> str:
        """The name in the form of MIGRATION_ADOPT and --table."""
        return foreign(".".join(identifier(name) if set(name) & {".", '"'} else name for name in self[:2]))

    @property
    def shown(self) -> str:
        """The name in messages."""
        return foreign(f"{self.schema}.{self.name}")

    @property
    def quoted(self) -> str:
        """The name in SQL."""
        return f"{identifier(self.schema)}.{identifier(self.name)}"


def find(session: Session, adopt: Adopt, role: str | None, deadline: Deadline) -> ToolTable | None:
    """Return the tool's table, or None. Called in an open transaction.

    Raises ConfigurationError if the table cannot be the tool's, or cannot be read.
    """
    tool = BY_NAME[adopt.tool]
    path = _path(session, deadline)
    mine = adopt.schema or (tool.schema if adopt.table is None else None)
    named = [name for name in (adopt.table,) if name]
    near = [*path, adopt.schema] if adopt.schema else path
    tables = _tables(session, [*_names(), *named], near, role, deadline)
    return choose(adopt, tables, [mine] if mine else path)


def _names() -> list[str]:
    """Return the names of tools' tables."""
    return [*(one.table for one in BY_NAME.values()), _RAILS]


def _path(session: Session, deadline: Deadline) -> list[str]:
    """Return the schemas in the connection's search_path."""
    return [row[0] or "" for row in session.query(";\n".join((*walk(None), path_sql())), deadline)[-1]]


def _tables(
    session: Session, names: Sequence[str], near: Sequence[str], role: str | None, deadline: Deadline
) -> list[ToolTable]:
    """Return the tables with these names; those in the schemas `near` and in the tools' own schemas come first."""
    own = sorted({one.schema for one in BY_NAME.values() if one.schema})
    sql = ";\n".join((*our_state(role), _tables_sql(names, [*near, *own], role)))
    return [_table(row) for row in session.query(sql, deadline)[-1]]


def known(session: Session, role: str | None, deadline: Deadline) -> tuple[str, ToolTable] | None:
    """Return which tool has its history in the database, and where, or None. Called in an open transaction."""
    path = _path(session, deadline)
    tables = _tables(session, _names(), path, role, deadline)
    rails = {table.schema for table in tables if table.name == _RAILS}
    for name, tool in BY_NAME.items():
        places = [tool.schema] if tool.schema else path
        for table in tables:
            its = table.name == tool.table and table.schema in places and table.plain and tool.knows(table.columns)
            if its and not (tool.exactly and table.schema in rails):
                return name, table
    return None


def choose(adopt: Adopt, tables: Sequence[ToolTable], path: Sequence[str]) -> ToolTable | None:
    """Return the first table along the `path` with the tool's name. Raises ConfigurationError, like `find`."""
    tool = BY_NAME[adopt.tool]
    name = adopt.table or tool.table
    by_place = {(table.schema, table.name): table for table in tables}
    # Our own ledger may have the same name.
    along = [by_place[schema, name] for schema in path if (schema, name) in by_place]
    found = next((table for table in along if not table.columns >= LEDGER_SIGN), None)
    if found is not None:
        _refuse_unfit(tool, found, by_place)
        return found
    if adopt.table is not None:
        _refuse_misnamed(tool, adopt.table, [by_place.get((schema, tool.table)) for schema in path])
    else:
        # A table name may be configured for new databases, too.
        anew = _for_a_new_schema(adopt, tool, path)
        _refuse_other_place(adopt, tool, tables, anew)
        _refuse_other_tool(adopt, tool, tables, path, anew)
    return None


def _for_a_new_schema(adopt: Adopt, tool: AdoptableTool, path: Sequence[str]) -> str:
    """Return, as the end of a sentence, what to do if the tool has no table here yet."""
    if adopt.by_hand:
        return "there is nothing to adopt: just start."
    return f"MIGRATION_ADOPT={adopt.tool}:{foreign(path[0])}.{tool.table} (or unset it)." if path else "unset it."


def read(session: Session, adopt: Adopt, table: ToolTable, deadline: Deadline) -> list[Row]:
    """Return the rows of the tool's table, in the form that its `decide` takes. Called in an open transaction."""
    return session.query(BY_NAME[adopt.tool].sql(table.quoted, table.columns), deadline)[-1]


def _tables_sql(names: Collection[str], schemas: Sequence[str], role: str | None) -> str:
    def listed(values: Collection[str]) -> str:
        return f"ARRAY[{', '.join(map(literal, sorted(values)))}]::pg_catalog.name[]"

    near = f"place.nspname = ANY ({listed(set(schemas))})"
    columns = "FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    names_of = f"SELECT string_agg(a.attname::text, chr(10)) {columns}"
    # The output function of another type would run with the reader's privileges.
    foreign_types = f"SELECT count(*) {columns} AND a.atttypid >= 16384"
    return (
        f"SELECT place.nspname, c.relname, c.relkind IN ('r', 'p') AND ({foreign_types}) = 0, "
        "has_schema_privilege(place.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'), pg_get_userbyid(c.relowner), "
        f"{trusted('c.relowner', role)}, ({names_of}), row_security_active(c.oid) "
        "FROM pg_class c JOIN pg_namespace place ON place.oid = c.relnamespace "
        f"WHERE c.relname = ANY ({listed(names)}) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') "
        f"AND NOT starts_with(place.nspname::text, 'pg_') "
        f"ORDER BY {near} DESC, place.nspname LIMIT {_MOST + len(names) * (len(schemas) + 1)}"
    )


def _table(row: Row) -> ToolTable:
    schema, name, plain, usable, readable, owner, is_trusted, columns, filtered = row
    yes = "t"
    return ToolTable(
        schema or "",
        name or "",
        plain == yes,
        usable == yes,
        readable == yes,
        owner or "",
        is_trusted == yes,
        frozenset((columns or "").split("\n")),
        filtered == yes,
    )


def _refuse_unfit(tool: AdoptableTool, table: ToolTable, by_place: dict[tuple[str, str], ToolTable]) -> None:
    """Raise ConfigurationError if the table cannot be the tool's, or cannot be trusted."""
    whose = None
    if not tool.knows(table.columns) or not table.plain:
        other = owner_of(table.columns) if tool.table == "schema_migrations" else None
        columns = foreign(", ".join(sorted(table.columns)[:12]))
        whose = f"belongs to {other}" if other else f"is not {tool.shown}'s"
        whose += (
            f" (its columns: {columns})" if table.plain else (" (it is not a table, or its columns have other types)")
        )
    elif tool.exactly and (table.schema, _RAILS) in by_place:
        whose = f"belongs to Rails: {_RAILS} is next to it"
    if whose:
        raise ForeignLedgerError(
            f"The table {table.shown} {whose}; nothing was adopted and nothing was run",
            remedy=f"Name the tool it belongs to, or {tool.shown}'s own table: {_ELSEWHERE}",
            schema=table.schema,
        )
    if not table.trusted:
        raise ForeignLedgerError(
            f"The table {table.shown}, where {tool.shown} keeps its history, belongs to {foreign(table.owner)}, and "
            "this user has no reason to trust that owner; nothing was run",
            remedy=f"Connect as that user, or set MIGRATION_ROLE to it; or run ALTER TABLE {table.quoted} OWNER TO …; "
            f"or name another table: {_ELSEWHERE}",
            schema=table.schema,
        )
    if not table.usable or not table.readable:
        grant = (
            f"GRANT SELECT ON {table.quoted}" if table.usable else f"GRANT USAGE ON SCHEMA {identifier(table.schema)}"
        )
        raise ConfigurationError(
            f"This user may not read {table.shown}, where {tool.shown} keeps its history; nothing was run",
            remedy=f"{grant} TO the migration user; or set MIGRATION_DATABASE_URL or MIGRATION_ROLE to its owner.",
        )
    if table.filtered:
        raise ConfigurationError(
            f"Row-level security may hide rows of {table.shown}, where {tool.shown} keeps its history, from this "
            "user; nothing was run",
            remedy=f"As its owner: ALTER TABLE {table.quoted} DISABLE ROW LEVEL SECURITY; or set "
            "MIGRATION_DATABASE_URL or MIGRATION_ROLE to its owner; or, as a superuser: ALTER ROLE … BYPASSRLS.",
        )


_ELSEWHERE = "MIGRATION_ADOPT=TOOL:SCHEMA.TABLE, or entrypoint adopt --from TOOL --table SCHEMA.TABLE."


def _refuse_misnamed(tool: AdoptableTool, name: str, usual: Sequence[ToolTable | None]) -> None:
    """Raise ConfigurationError if the configured table does not exist, but the tool's usual one is in the same schema.

    A new schema has neither, whatever name is configured.
    """
    found = next((table for table in usual if table is not None and table.plain and tool.knows(table.columns)), None)
    if found is not None and name != tool.table:
        raise ConfigurationError(
            f"There is no table {foreign(name)}, but {tool.shown} has its history in {found.shown}; nothing was run",
            remedy=f"Correct the table's name, or leave it out. {_ELSEWHERE}",
        )


def _refuse_other_place(adopt: Adopt, tool: AdoptableTool, tables: Sequence[ToolTable], anew: str) -> None:
    """Raise ConfigurationError if there is such a table outside the connection's search_path."""
    always = {one.schema for one in BY_NAME.values()}
    others = [
        table
        for table in tables
        if table.name == tool.table and table.plain and tool.knows(table.columns) and table.schema not in always
    ]
    if others and tool.schema is None:
        first = others[0].spelled
        raise ConfigurationError(
            f"{tool.shown}'s table {tool.table} is not in a schema of the connection's search_path, but there is "
            f"{', '.join(table.shown for table in others[:3])}; nothing was run",
            remedy=f"If it belongs to this application, set MIGRATION_ADOPT={adopt.tool}:{first} (or --table "
            f"{first}), and make sure that the search_path is the same as {tool.shown}'s. If this schema is new: "
            f"{anew}",
        )


def _refuse_other_tool(
    adopt: Adopt, tool: AdoptableTool, tables: Sequence[ToolTable], path: Sequence[str], anew: str
) -> None:
    """Raise ConfigurationError if the history belongs to another tool."""
    names = {(table.schema, table.name) for table in tables}
    for name, other in BY_NAME.items():
        places = (other.schema,) if other.schema else path
        for table in tables:
            its = table.name == other.table and table.schema in places and other.knows(table.columns)
            # Rails has a table like dbmate's.
            if not its or name == adopt.tool or (other.exactly and (table.schema, _RAILS) in names):
                continue
            raise ConfigurationError(
                f"{tool.shown} has no table {tool.table} here, but {other.shown} has one, {table.shown}; nothing was "
                "run",
                remedy=f"If {other.shown} created this schema: entrypoint import --from {name} DIR, then "
                f"MIGRATION_ADOPT={name} or entrypoint adopt --from {name}. If it is to be created from scratch: "
                f"{anew}",
            )
