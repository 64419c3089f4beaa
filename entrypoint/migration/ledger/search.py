"""Find the ledger's place along the default search_path, and check whether the tables there can be ours."""

from __future__ import annotations

from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import identifier, literal
from entrypoint.errors.migration import ClosedSchemaError, ForeignLedgerError
from entrypoint.migration.ledger.keys import MAKING_KEY
from entrypoint.migration.ledger.place import (
    COMMAND_SIGN,
    LEDGER_SIGN,
    LOCK_SIGN,
    Place,
    columns_of,
    evident,
    tables_of,
    unless_able,
    walk,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.command import Command
    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Queryable


def find_tables(
    session: Queryable, schema: str | None, deadline: Deadline, role: str | None = None, command: Command | None = None
) -> Place | None:
    """Find only the tables, for a look that leads to nothing more; None if there is no ledger.

    The rest of what `finding.find` asks takes a new server process some milliseconds. Raises what `place_of` does.
    """
    relations = in_transaction(session, [*walk(schema), tables_sql(schema, role, command)], deadline)[-1]
    if not any(row[2] == tables_of(command)[0] for row in relations):
        return None
    return place_of(relations, schema, command)


def may_make(
    session: Queryable, place: Place, schema: str | None, role: str | None, prologue: str, deadline: Deadline
) -> bool:
    """Open a transaction with `prologue`, and tell whether to create a ledger in `place`.

    The answer is yes if no other session is creating one now, if the search_path or the requested `schema` still leads
    there, and if there is none yet.
    """
    sql = tables_sql(schema, role, place.command)
    lock = f"SELECT pg_catalog.pg_try_advisory_xact_lock({MAKING_KEY})"
    parts = [*walk(schema), sql]
    answers = session.query("\n".join((prologue, ";\n".join((lock, *parts)))), deadline)
    if answers[-1 - len(parts)][0][0] != "t":
        return False
    relations = answers[-1]
    if not relations:
        return schema is not None and not place.schema_exists
    found = place_of(relations, schema, place.command)
    return place.schema_exists and not found.founded and (found.schema, found.lock) == (place.schema, place.lock)


def in_transaction(session: Queryable, parts: Sequence[str], deadline: Deadline) -> list[list[Row]]:
    """Run queries in one round trip, in a read-only transaction; return the rows of each."""
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
    try:
        return session.query(";\n".join((begin, *parts, "COMMIT")), deadline)[1:-1]
    except StatementError:
        session.rollback(deadline.within(1))
        raise


# The schemas of the search_path in order, as PostgreSQL evaluates it, but without its own. The place is the first with
# a relation of that name, of any kind (`to_regclass` would also find a temporary one), or else the first that we may
# use. A schema that we may not use counts if it may contain a ledger; otherwise we would pick another one.
# This does not use EXISTS, because PostgreSQL might then read and hash the names of all relations, or of all tenants'
# ledgers.
_PATH = """\
SELECT n.oid, n.nspname, n.nspowner, usable
FROM regexp_matches(current_setting('entrypoint.path'), '"(?:[^"]|"")*"|[^",[:space:]]+', 'g')
    WITH ORDINALITY AS p (part, rank)
CROSS JOIN LATERAL (
    SELECT CASE WHEN part[1] LIKE '"%' THEN replace(substr(part[1], 2, length(part[1]) - 2), '""', '"')
                ELSE lower(part[1]) END) AS q (name)
JOIN pg_namespace n ON n.nspname = CASE name WHEN '$user' THEN current_user ELSE name::name END
CROSS JOIN LATERAL (
    SELECT has_schema_privilege(n.oid, 'USAGE'),
           (SELECT c.oid FROM pg_class c WHERE c.relname = 'schema_migrations' AND c.relnamespace = n.oid) IS NOT NULL
    ) AS r (usable, taken)
WHERE (usable OR taken) AND NOT starts_with(n.nspname::text, 'pg_') AND n.nspname <> 'information_schema'"""
_ALONG_THE_PATH = f"{_PATH}\nORDER BY taken DESC, rank LIMIT 1"


def place_sql(schema: str | None, command: Command | None = None) -> str:
    """Return the query for the place, to run after `walk`: the OID, name and owner, and whether we may use it."""
    if schema is None:
        return _ALONG_THE_PATH.replace("schema_migrations", tables_of(command)[0])
    return f"SELECT oid, nspname, nspowner, true AS usable FROM pg_namespace WHERE nspname = {literal(schema)}::name"


def path_sql() -> str:
    """Return the query for the names of all schemas in the search_path, in order, to run after `walk(None)`."""
    return f"SELECT nspname FROM ({_PATH}\nORDER BY rank) AS path"


def tables_sql(schema: str | None, role: str | None, command: Command | None = None) -> str:
    """Return the query for the place and its tables: a row for each table, or one row with NULLs if there is none."""
    return (
        f"WITH place AS MATERIALIZED ({place_sql(schema, command)})\n"
        "SELECT place.nspname, place.usable, c.relname, c.relkind, pg_get_userbyid(c.relowner), "
        f"{harmless('c.relowner', role)}, "
        "(SELECT string_agg(a.atttypid::text || ' ' || a.attname::text, chr(10) ORDER BY a.attnum) FROM pg_attribute a "
        "WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)\n"
        "FROM place LEFT JOIN pg_class c ON c.relnamespace = place.oid "
        f"AND c.relname IN ({', '.join(map(literal, tables_of(command)))}) ORDER BY c.relname DESC"
    )


def place_of(relations: Sequence[Row], schema: str | None, command: Command | None = None) -> Place:
    """Return the place from the rows of `tables_sql`. Raises ConfigurationError and ForeignLedgerError."""
    if not relations:
        nothing = Place(schema or "", False, {}, {})  # noqa: FBT003
        return nothing if command is None else nothing._replace(command=command, commands={})
    name, usable = relations[0][0] or "", relations[0][1]
    if usable != "t":
        raise ClosedSchemaError(
            f"The search_path includes schema {name!r}, which has a table {tables_of(command)[0]}, but this user may "
            "not use that schema",
            remedy=f"GRANT USAGE ON SCHEMA {identifier(name)} TO the migration user; or set MIGRATION_SCHEMA.",
            schema=name,
        )
    tables = {row[2]: row[3:] for row in relations if row[2] is not None}
    columns = {table: columns_of((found[3] or "").split("\n")) for table, found in tables.items()}
    place = Place(name, True, columns.get("schema_migrations", {}), columns.get("migration_lock", {}))  # noqa: FBT003
    if command is not None:
        place = place._replace(command=command, commands=columns.get("migration_commands", {}))
    for table, (kind, owner, trusted, _) in tables.items():
        if kind != "r":
            raise foreign_ledger(
                place, f"{table} in schema {name!r} is {_KINDS.get(kind or '', 'no table')}, not a table"
            )
        _refuse_foreign(place, table, columns[table])
        if trusted != "t" and not place.intrusion:
            place = place._replace(intrusion=f"The table {table} in schema {name!r} belongs to {owner}")
    return place


_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "p": "a partitioned table",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
    "I": "an index",
    "c": "a type",
}


# The columns by which other tools' ledgers are recognized. Their tables have the same name as ours.
_OTHER_TOOLS = (
    ({"version"}, "Rails or dbmate"),
    ({"version", "dirty"}, "golang-migrate"),
    ({"version", "inserted_at"}, "Ecto"),
    ({"filename"}, "Sequel"),
)


def owner_of(columns: frozenset[str]) -> str | None:
    """Return which tool's ledger a `schema_migrations` with these columns is; None if ours or the earlier system's."""
    if columns >= LEDGER_SIGN:
        return None
    return next((tool for theirs, tool in _OTHER_TOOLS if theirs == columns), "another tool")


def _refuse_foreign(place: Place, table: str, columns: dict[str, str]) -> None:
    if table != "schema_migrations":
        ours = LOCK_SIGN if table == "migration_lock" else COMMAND_SIGN
        owner = None if columns.keys() >= ours else "another tool"
    else:
        owner = owner_of(frozenset(columns))
    if owner is not None:
        names = ", ".join(columns) or "none"
        raise foreign_ledger(
            place, f"The table {table} in schema {place.schema!r} belongs to {owner} (its columns: {names})"
        )


def foreign_ledger(place: Place, message: str) -> ForeignLedgerError:
    """Return the error for something in the ledger's place that is not ours; `message` is a clause that says what."""
    return ForeignLedgerError(
        f"{message}; it was not changed",
        remedy="Keep this program's migration history in a separate schema: set MIGRATION_SCHEMA, for example to "
        "entrypoint.",
        schema=place.schema,
    )


def trusted(owner: str, role: str | None) -> str:
    """Return a condition: using what `owner` created gives nobody more power over us than they already have.

    That is true of ourselves, of the roles we are members of (for a superuser, only those actually granted), of
    superusers, and of the owners of the schema and the database, who control everything in there. The condition needs
    `place` in the query.
    """
    return f"""\
CASE WHEN {evident(owner, "place.nspowner", role)} THEN true
     ELSE {owner} = (SELECT datdba FROM pg_database WHERE datname = current_database())
       OR EXISTS (SELECT FROM pg_roles WHERE oid = {owner} AND rolsuper)
       OR EXISTS (WITH RECURSIVE granted (oid) AS (
                      SELECT m.roleid FROM pg_auth_members m JOIN pg_roles u ON u.oid = m.member
                      WHERE u.rolname IN (session_user, current_user)
                      UNION SELECT m.roleid FROM pg_auth_members m JOIN granted g ON m.member = g.oid)
                  SELECT FROM granted WHERE oid = {owner}) END"""


def harmless(owner: str, role: str | None) -> str:
    """Return a condition: `owner` is trusted, or we could not migrate anyway."""
    return unless_able(trusted(owner, role), "place.oid", role)
