"""Find the ledger's place, and refuse anything there that belongs to an untrusted role."""

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
    from entrypoint.migration.ledger.place import Place, Queryable


def find(
    session: Queryable, schema: str | None, deadline: Deadline, role: str | None = None, command: Command | None = None
) -> Place:
    """Find our tables, in `schema` or along the connection's default search_path.

    `role` (MIGRATION_ROLE) is trusted with the tables, because the settings name it. `command`: another migration tool
    whose runs are recorded there. Raises ConfigurationError if there is no place for the tables, and
    ForeignLedgerError if tables of these names are not ours.
    """
    about, *_, relations = in_transaction(session, [_ABOUT, *walk(schema), tables_sql(schema, role, command)], deadline)
    place = _described(about[0], relations, schema, command)
    # Without tables, there are no triggers or defaults on them to ask about. In a new server process, planning that
    # query takes longer than everything else.
    if any(row[2] is not None for row in relations):
        parts = [*walk(place.schema), _untrusted_code_sql(place.schema, role, command)]
        place = _with_intrusion(place, in_transaction(session, parts, deadline)[-1])
    return place


_ABOUT = (
    "SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_postmaster_start_time(), pg_catalog.pg_is_in_recovery(), "
    "pg_catalog.current_setting('default_transaction_read_only')"
)


def find_at(session: Queryable, schema: str, deadline: Deadline, role: str | None, command: Command | None) -> Place:
    """Find our tables in the schema where they were before, in one round trip. Otherwise like `find`."""
    parts = [_ABOUT, *walk(schema), tables_sql(schema, role, command), _untrusted_code_sql(schema, role, command)]
    about, *_, relations, strangers = in_transaction(session, parts, deadline)
    return _with_intrusion(_described(about[0], relations, schema, command), strangers)


def find_made(session: Queryable, place: Place, role: str | None, deadline: Deadline) -> Place:
    """Find our tables in `place`, where we have just created them. Otherwise like `find_at`.

    Nothing was there before, so no one else's code can be attached to them. Asking about that would take the server
    longer than finding the tables.
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


def _with_intrusion(place: Place, strangers: Sequence[Row]) -> Place:
    for table, what in strangers:
        if not place.intrusion:
            place = place._replace(intrusion=f"The table {table} in schema {place.schema!r} has {what}")
    return place


def find_again(session: Queryable, place: Place, schema: str | None, deadline: Deadline, role: str | None) -> Place:
    """Look at `place` again. If there was a ledger, look only there; otherwise search again."""
    if place.founded:
        return find_at(session, place.schema, deadline, role, place.command)
    return find(session, schema, deadline, role, place.command)


def refuse_intrusion(place: Place) -> None:
    """Raise ForeignLedgerError if an untrusted role could decide what counts as applied, or run code as us.

    Call this before relying on the ledger for a start, and before writing to it.
    """
    if place.intrusion:
        raise ForeignLedgerError(
            f"{place.untrusted}; nothing was touched",
            remedy="Connect as the owner, or set MIGRATION_ROLE to it. If you trust what is there, change the owner "
            "with ALTER TABLE ... OWNER TO .... Or set MIGRATION_SCHEMA to a separate schema. A login that does "
            f"not migrate needs no CREATE privilege on schema {identifier(place.schema)}.",
            schema=place.schema,
        )


def _untrusted_code_sql(schema: str | None, role: str | None, command: Command | None) -> str:
    """Return the query for everything that would run an untrusted role's code when we write a row: (table, what).

    Triggers, rules, defaults, constraints and indexes depend on the functions they call. PostgreSQL records no
    dependency on its built-in functions, so those do not show up.
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


def refuse_strangers(session: Queryable, place: Place, role: str | None, deadline: Deadline) -> None:
    """Raise ForeignLedgerError if something that is not ours has a name that we would create or replace.

    Runs in an open transaction. Our objects, and those of the earlier system, are recognized by the columns or result
    types that they have always had; our functions also name the lock's table.
    """
    parts = (*walk(place.schema), _any_namesakes_sql(place))
    if session.query(";\n".join(parts), deadline)[-1][0][0] != "t":
        return
    for (what,) in session.query(_namesakes_sql(place, role), deadline)[-1]:
        raise foreign_ledger(place, f"Schema {place.schema!r} contains {what}, which this program did not create")


def _any_namesakes_sql(place: Place) -> str:
    """Return the query for whether anything has one of these names. Planning it takes a fifth of the time."""
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


# A regular expression for the name of the lock's table, but not for a longer name that begins with it.
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
