"""Find the ledger's place, and refuse what somebody has put there whom there is no reason to trust."""

from __future__ import annotations

from entrypoint import logs
from entrypoint.database.quoting import identifier, literal
from entrypoint.errors import ConfigurationError
from entrypoint.errors.migration import ForeignLedgerError
from entrypoint.migration.ledger.place import tables_of, walk
from entrypoint.migration.ledger.search import (
    foreign_ledger,
    harmless,
    in_transaction,
    place_of,
    place_sql,
    tables_sql,
    trusted,
)
from entrypoint.redaction import named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.command import Command
    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Connection, Place


def find(
    session: Connection, schema: str | None, deadline: Deadline, role: str | None = None, command: Command | None = None
) -> Place:
    """Find the bookkeeping: in `schema`, or along the search_path that the connection has by default.

    A `role` is trusted with the tables, as it is we who chose it. `command`: another migration tool, whose runs are
    recorded there. Raises ConfigurationError if there is no place for them, ForeignLedgerError if what stands there is
    not ours.
    """
    about, *_, relations = in_transaction(session, [_ABOUT, *walk(schema), tables_sql(schema, role, command)], deadline)
    place = _described(about[0], relations, schema, command)
    # What stands around tables that are not there need not be asked; to plan that takes a new server process longer
    # than all the rest.
    if any(row[2] is not None for row in relations):
        parts = [*walk(place.schema), _strangers_sql(place.schema, role, command)]
        place = _trusted_with(place, in_transaction(session, parts, deadline)[-1])
    return place


_ABOUT = (
    "SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_postmaster_start_time(), pg_catalog.pg_is_in_recovery(), "
    "pg_catalog.current_setting('default_transaction_read_only')"
)


def find_at(session: Connection, schema: str, deadline: Deadline, role: str | None, command: Command | None) -> Place:
    """Find the bookkeeping where it was before, in one round trip. Otherwise as `find`."""
    parts = [_ABOUT, *walk(schema), tables_sql(schema, role, command), _strangers_sql(schema, role, command)]
    about, *_, relations, strangers = in_transaction(session, parts, deadline)
    return _trusted_with(_described(about[0], relations, schema, command), strangers)


def find_made(session: Connection, place: Place, role: str | None, deadline: Deadline) -> Place:
    """Find the bookkeeping in `place`, where nothing was before it was made this instant: so no stranger's code either.

    To ask for that as well would take the server longer than to ask for the tables. Otherwise as `find_at`.
    """
    parts = [_ABOUT, *walk(place.schema), tables_sql(place.schema, role, place.command)]
    about, *_, relations = in_transaction(session, parts, deadline)
    return _described(about[0], relations, place.schema, place.command)


def _described(about: Row, relations: Sequence[Row], schema: str | None, command: Command | None) -> Place:
    backend_pid, server_start, standby, read_only = about
    if not relations and not schema:
        raise ConfigurationError(
            "The connection has no current schema, so there is no place for the migration history",
            remedy="Set MIGRATION_SCHEMA, or a search_path that contains an existing schema. If the address names a "
            "schema (schema=…), create it.",
        )
    place = place_of(relations, schema, command)._replace(
        schema_exists=bool(relations),
        backend_pid=int(backend_pid or 0),
        server_start=server_start or "",
        standby=standby == "t",
        read_only=read_only == "on",
    )
    logs.describe(schema=named(place.schema))
    return place


def _trusted_with(place: Place, strangers: Sequence[Row]) -> Place:
    for table, what in strangers:
        if not place.intrusion:
            place = place._replace(intrusion=f"The table {table} in schema {place.schema!r} has {what}")
    return place


def find_again(session: Connection, place: Place, schema: str | None, deadline: Deadline, role: str | None) -> Place:
    """Look at `place` again. A ledger that was found stays the one; where there was none, the search begins anew."""
    if place.founded:
        return find_at(session, place.schema, deadline, role, place.command)
    return find(session, schema, deadline, role, place.command)


def refuse_intrusion(place: Place) -> None:
    """Raise ForeignLedgerError if somebody whom we have no reason to trust could decide what is applied, or run code.

    For those who are about to rely on the ledger for a start, or to write into it.
    """
    if place.intrusion:
        raise ForeignLedgerError(
            f"{place.untrusted}; nothing was touched",
            remedy="Connect as the owner, or set MIGRATION_ROLE to it. If you trust what is there, change the owner "
            "with ALTER TABLE ... OWNER TO .... Or set MIGRATION_SCHEMA to a separate schema. A login that does "
            f"not migrate needs no CREATE privilege on schema {identifier(place.schema)}.",
            schema=place.schema,
        )


def _strangers_sql(schema: str | None, role: str | None, command: Command | None) -> str:
    """Return the statement for what would run somebody else's code when a row of the tables is written: (table, what).

    Triggers, rules, defaults, constraints and indexes depend on the functions that they call; those of PostgreSQL
    itself are nobody's dependency.
    """
    return f"""\
WITH place AS MATERIALIZED ({place_sql(schema, command)}),
tables AS MATERIALIZED (
    SELECT c.oid, c.relname FROM pg_class c JOIN place ON c.relnamespace = place.oid
    WHERE c.relname IN ({", ".join(map(literal, tables_of(command)))})),
parts AS (
    SELECT t.relname, 'pg_trigger'::regclass AS class, g.oid, 'the trigger ' || quote_ident(g.tgname) AS what
    FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
    UNION ALL
    SELECT t.relname, 'pg_attrdef', d.oid, 'a default of column ' || quote_ident(a.attname)
    FROM tables t JOIN pg_attrdef d ON d.adrelid = t.oid
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.adnum
    UNION ALL
    SELECT t.relname, 'pg_constraint', k.oid, 'the constraint ' || quote_ident(k.conname)
    FROM tables t JOIN pg_constraint k ON k.conrelid = t.oid
    UNION ALL
    SELECT t.relname, 'pg_class', i.indexrelid, 'an index'
    FROM tables t JOIN pg_index i ON i.indrelid = t.oid)
SELECT relname, what || ', which calls ' || f.proname || ', a function of ' || pg_get_userbyid(f.proowner)
FROM place CROSS JOIN parts JOIN pg_depend d ON d.classid = parts.class AND d.objid = parts.oid
JOIN pg_proc f ON d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid
WHERE NOT {harmless("f.proowner", role)}
UNION ALL
SELECT t.relname, 'the rule ' || quote_ident(r.rulename)
FROM place CROSS JOIN tables t JOIN pg_class c ON c.oid = t.oid
JOIN pg_rewrite r ON r.ev_class = t.oid AND r.rulename <> '_RETURN'
WHERE NOT {harmless("c.relowner", role)}
UNION ALL
SELECT t.relname, 'the column ' || quote_ident(a.attname) || ' of type ' || y.typname || ', which belongs to '
       || pg_get_userbyid(y.typowner)
FROM place CROSS JOIN tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type y ON y.oid = a.atttypid
WHERE NOT {harmless("y.typowner", role)}
ORDER BY 1, 2"""


def refuse_strangers(session: Connection, place: Place, role: str | None, deadline: Deadline) -> None:
    """Raise ForeignLedgerError if something that is not ours has the name of what would be made or replaced.

    Asked in an open transaction. What is ours, or the earlier system's, has the columns or the result that it always
    had, and the functions name the lock's table.
    """
    parts = (*walk(place.schema), _any_namesakes_sql(place))
    if session.query(";\n".join(parts), deadline)[-1][0][0] != "t":
        return
    for (what,) in session.query(_namesakes_sql(place, role), deadline)[-1]:
        raise foreign_ledger(place, f"Schema {place.schema!r} contains {what}, which this program did not create")


def _any_namesakes_sql(place: Place) -> str:
    """Return the query for whether there is anything of these names: to plan it takes a fifth of the time."""
    types = ", ".join(map(literal, _names(place)))
    functions = ", ".join(literal(name) for name, *_ in _FUNCTIONS)
    there = f"(SELECT oid FROM pg_namespace WHERE nspname = {literal(place.schema)}::name)"
    return (
        f"SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'migration_status' AND relnamespace = {there}) "
        f"OR EXISTS (SELECT FROM pg_type WHERE typname IN ({types}) AND typnamespace = {there}) "
        f"OR EXISTS (SELECT FROM pg_proc WHERE proname IN ({functions}) AND pronamespace = {there})"
    )


def _names(place: Place) -> tuple[str, ...]:
    return (*tables_of(place.command), *(("migration_status",) if place.with_files else ()))


def _namesakes_sql(place: Place, role: str | None) -> str:
    return f"""\
WITH place AS MATERIALIZED ({place_sql(place.schema)})
SELECT 'something else named migration_status'
FROM place JOIN pg_class c ON c.relnamespace = place.oid AND c.relname = 'migration_status'
WHERE {str(place.with_files).lower()} AND (c.relkind <> 'v' OR NOT {trusted("c.relowner", role)}
OR ARRAY[{", ".join(map(literal, VIEW_COLUMNS))}] <> ARRAY(
    SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum))
UNION ALL
SELECT 'a type named ' || y.typname
FROM place JOIN pg_type y ON y.typnamespace = place.oid
WHERE y.typname IN ({", ".join(map(literal, _names(place)))}) AND y.typrelid = 0
UNION ALL
SELECT 'the function ' || f.proname || '(' || pg_get_function_identity_arguments(f.oid) || ')'
FROM place JOIN pg_proc f ON f.pronamespace = place.oid
JOIN (VALUES {", ".join(f"({literal(name)}, {literal(takes)}, {literal(gives)})" for name, takes, gives in _FUNCTIONS)})
    AS ours (name, takes, gives)
    ON f.proname = ours.name AND oidvectortypes(f.proargtypes) = ours.takes
WHERE f.prokind <> 'f' OR format_type(f.prorettype, NULL) <> ours.gives OR f.proretset
   OR f.prosrc !~ {literal(_NAMES_THE_LOCK)} OR NOT {trusted("f.proowner", role)}"""


# A regular expression: the lock's table, and not a name that only begins like it.
_NAMES_THE_LOCK = r"migration_lock\M"
VIEW_COLUMNS = (
    "total_migrations",
    "latest_migration",
    "last_migration_time",
    "total_execution_time_ms",
    "failed_migrations",
)
_FUNCTIONS = (
    ("is_migration_locked", "", "boolean"),
    ("acquire_migration_lock", "character varying, integer", "boolean"),
    ("release_migration_lock", "", "void"),
    ("release_stale_migration_locks", "", "integer"),
)
