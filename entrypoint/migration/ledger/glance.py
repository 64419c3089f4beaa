"""The ledger's place at a glance: where it is as it nearly always is, without the search along the path.

What the server has to plan, a new server process plans from empty caches: the whole search (`search`) takes it 1 ms
more than this (`python -m benchmarks.statements`). So the path is walked here, and whatever is not plain is left to the
search.
"""

from __future__ import annotations

from entrypoint.database.quoting import literal, our_state
from entrypoint.migration.ledger.place import COMMAND_SIGN, LEDGER_SIGN, LOCK_SIGN, Place, columns_of, tables_of
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.command import Command
    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Connection

# So many tables of these names, in whatever schemas, are looked at; with more of them the server is asked to search.
_MOST = 20
# `NAMEDATALEN - 1`: PostgreSQL cuts off what a name has beyond it.
_LONGEST_NAME = 63


class Glance(NamedTuple):
    """What a glance has found."""

    place: Place | None
    """None if there is no ledger."""
    sure: bool
    """Whether that is so. If not, it takes a search."""


def find_tables(
    session: Connection, schema: str | None, deadline: Deadline, role: str | None = None, command: Command | None = None
) -> Glance:
    """Find the tables alone, in `schema` or along the path, for a look that leads to nothing more.

    Raises StatementError.
    """
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
    sql = ";\n".join((begin, *walk(schema), _tables_sql(schema, role, command), "COMMIT"))
    relations = session.query(sql, deadline)[-2]
    sign = tables_of(command)[0]
    nothing = len(relations) < _MOST and not any(row[1] == sign for row in relations)
    place = None if nothing else _place_of(relations, schema, command)
    return Glance(place, sure=nothing or place is not None)


def walk(schema: str | None) -> tuple[str, ...]:
    """Return the statements that come before those about the place: who asks, and where the search leads.

    The path and the role are what the connection began with, whatever somebody before us, behind a pooler, has set in
    this server session. The path is noted for the walk, which itself does not look for anything along it: an operator
    that somebody put there would run as whoever is asking.
    """
    noted = (
        "SET LOCAL search_path TO DEFAULT",
        "SELECT pg_catalog.set_config('entrypoint.path', pg_catalog.current_setting('search_path'), true)",
    )
    return (*(() if schema else noted), *our_state(None))


def evident(owner: str, role: str | None) -> str:
    """Return a condition: that `owner` is we ourselves, or who owns the schema. `place` is in the query."""
    ours = ", ".join(("session_user", "current_user", *([literal(role)] if role else ())))
    return f"pg_get_userbyid({owner}) IN ({ours}) OR {owner} = place.nspowner"


def unless_able(trust: str, role: str | None) -> str:
    """Return a condition: `trust`, or that we could not migrate anyway.

    An application's own login, beside a Job that migrates, only reads what the Job has written.
    """
    able = "has_schema_privilege(place.oid, 'CREATE')"
    if role:
        chosen = "has_schema_privilege(oid, place.oid, 'CREATE')"
        able += f" OR EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)} AND {chosen})"
    return f"({trust} OR NOT ({able}))"


def _tables_sql(schema: str | None, role: str | None, command: Command | None) -> str:
    """Return the statement for all tables of our names, each with its schema, or for those in `schema`.

    A table's columns are one value, as each takes every start some microseconds. Types by their numbers: their names
    are looked up one by one. Fewer owners are trusted than `search.trusted` does.
    """
    owner = "c.relowner"
    trust = (
        f"CASE WHEN {evident(owner, role)} THEN true "
        f"ELSE current_setting('is_superuser') = 'off' AND pg_has_role({owner}, 'MEMBER') END"
    )
    path = "NULL" if schema else "current_setting('entrypoint.path')"
    return (
        f"SELECT place.nspname, c.relname, has_schema_privilege(place.oid, 'USAGE'), c.relkind, "
        f"{unless_able(trust, role)}, ARRAY(SELECT a.atttypid::text || ' ' || a.attname FROM pg_attribute a "
        f"WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum), {path}, current_user "
        "FROM pg_class c JOIN pg_namespace place ON place.oid = c.relnamespace "
        f"WHERE c.relname IN ({', '.join(map(literal, tables_of(command)))})"
        + (f" AND place.nspname = {literal(schema)}::name" if schema else f" LIMIT {_MOST}")
    )


def _place_of(relations: Sequence[Row], schema: str | None, command: Command | None) -> Place | None:
    """Return the place with its tables; None if that takes a search, or if something about them is not as it should be.

    What that is, the search says.
    """
    path, user = relations[0][6:]
    names = (schema,) if schema else along(path or "", user or "")
    if names is None or (len(relations) == _MOST and not schema):
        return None
    sign = tables_of(command)[0]
    ledgers = {row[0] for row in relations if row[1] == sign}
    name = next((name for name in names if name in ledgers), None)
    columns: dict[str | None, dict[str, str]] = {}
    for _, table, usable, kind, trusted, listed, *_ in (row for row in relations if row[0] == name):
        # A name with one of these is escaped in an array's text.
        if (usable, kind, trusted) != ("t", "r", "t") or listed is None or "\\" in listed:
            return None
        columns[table] = columns_of(listed.removeprefix('{"').removesuffix('"}').split('","'))
    ledger, lock = columns.get("schema_migrations", {}), columns.get("migration_lock", {})
    commands = columns.get("migration_commands", {})
    if name is None or (lock and not lock.keys() >= LOCK_SIGN) or (commands and not commands.keys() >= COMMAND_SIGN):
        return None
    if sign == "schema_migrations" and not ledger.keys() >= LEDGER_SIGN:
        return None
    place = Place(name, True, ledger, lock)  # noqa: FBT003
    return place if command is None else place._replace(command=command, commands=commands)


def along(path: str, user: str) -> tuple[str, ...] | None:
    """Return the schemas that a search_path names, in their order, without PostgreSQL's own.

    None if it takes PostgreSQL to read the path: names with odd characters, or too long.
    """
    names = []
    for part in path.split(","):
        name = part.strip(" ")
        if name[:1] == name[-1:] == '"':
            name = name[1:-1]
        elif name != name.lower():
            return None
        name = user if name == "$user" else name
        if not name or not name.isascii() or not name.isprintable() or '"' in name or len(name) > _LONGEST_NAME:
            return None
        if not name.startswith("pg_") and name != "information_schema":
            names.append(name)
    return tuple(names)
