"""Find out which privileges on our tables are missing, and which GRANT to type, after PostgreSQL has refused us.

PostgreSQL is asked, because its error message may be in any language.
"""

from __future__ import annotations

from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import literal
from entrypoint.errors import ConnectionLostError
from entrypoint.migration.ledger.place import TABLES, walk
from entrypoint.migration.ledger.search import place_sql
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.deadline import Deadline

_CHANGING = ("SELECT", "INSERT", "UPDATE", "DELETE")
_READING = ("SELECT",)
# The sequence of a `serial` column. An identity column, like ours, needs no privilege on its sequence.
_SEQUENCE = """(
    SELECT pg_catalog.format('%I.%I', x.nspname, s.relname)
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    JOIN pg_catalog.pg_namespace x ON x.oid = s.relnamespace
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid AND d.deptype = 'a'
      AND d.refobjid = c.oid AND NOT pg_catalog.has_sequence_privilege(w.who, s.oid, 'USAGE, UPDATE') LIMIT 1)"""


class OurTable(NamedTuple):
    """One of our tables that exists."""

    name: str
    owner: str
    owned: bool
    """Whether the role is its owner, or has the owner's privileges."""
    permitted: bool
    """Whether the role has all the privileges on it that it needs."""
    sequence: str = ""
    """The sequence of the earlier system's `serial` column, with its schema, if the role may not use it."""
    of_superuser: bool = False
    """Whether its owner is a superuser: that role should not be granted to anybody."""


class PrivilegeFacts(NamedTuple):
    """What PostgreSQL says about a role and our tables. All names are quoted where SQL needs it."""

    login: str
    role: str
    """The role whose privileges count: MIGRATION_ROLE, or else the login user."""
    takes_role: bool
    """Whether the login user may `SET ROLE` to it."""
    database: str
    creates_schemas: bool
    schema: str
    """Empty if there is none."""
    schema_exists: bool
    uses: bool
    creates: bool
    tables: tuple[OurTable, ...]
    superuser: bool = False
    """Whether the role is a superuser."""


def grants(facts: PrivilegeFacts, *, reading: bool) -> list[str]:
    """Return the statements that give the role what it lacks; none if it lacks nothing that we know of.

    `reading`: whether it only has to read.
    """
    if not facts.takes_role:
        return [] if facts.superuser else [f"GRANT {facts.role} TO {facts.login}"]
    if not facts.schema:
        return []
    if not facts.schema_exists:
        return [] if facts.creates_schemas else [f"GRANT CREATE ON DATABASE {facts.database} TO {facts.role}"]
    found = []
    makes = not reading and len(facts.tables) < len(TABLES)
    if lacking := [
        what for what, lacks in (("USAGE", not facts.uses), ("CREATE", makes and not facts.creates)) if lacks
    ]:
        found.append(f"GRANT {', '.join(lacking)} ON SCHEMA {facts.schema} TO {facts.role}")
    if shut := [f"{facts.schema}.{table.name}" for table in facts.tables if not table.permitted]:
        what = ", ".join(_READING if reading else _CHANGING)
        found.append(f"GRANT {what} ON {', '.join(shut)} TO {facts.role}")
    if not reading:
        sequences = [table.sequence for table in facts.tables if table.sequence]
        found += [f"GRANT USAGE ON SEQUENCE {sequence} TO {facts.role}" for sequence in sequences]
    if not found and not reading:
        # Only its owner may alter a table.
        foreign = [table for table in facts.tables if not table.owned]
        found += [
            f"GRANT {owner} TO {facts.role}" for owner in sorted({t.owner for t in foreign if not t.of_superuser})
        ]
        theirs = [f"TABLE {facts.schema}.{table.name}" for table in foreign if table.of_superuser]
        views = [f"VIEW IF EXISTS {facts.schema}.migration_status"] if theirs else []
        found += [f"ALTER {what} OWNER TO {facts.role}" for what in (*theirs, *views)]
    return found


def ask(
    session: Session, schema: str | None, role: str | None, deadline: Deadline, *, reading: bool
) -> PrivilegeFacts | None:
    """Roll back the open transaction, and ask PostgreSQL in a new one; None if there is no answer."""
    try:
        session.rollback(deadline)
        query = _query(schema, role, session.server_version, reading=reading)
        row, *rest = session.query("; ".join(("BEGIN READ ONLY", *walk(schema), query, "COMMIT")), deadline)[-2]
    except (StatementError, ConnectionLostError, ValueError):
        # Report the earlier refusal, not this error.
        return None
    tables = tuple(
        OurTable(name or "", owner or "", owned == "t", permitted == "t", sequence or "", of_superuser == "t")
        for *_, name, owner, owned, permitted, sequence, of_superuser in (row, *rest)
        if name
    )
    login, who, takes, database, creates_schemas, name, exists, uses, creates, superuser = row[:10]
    return PrivilegeFacts(
        login or "", who or "", takes == "t", database or "", creates_schemas == "t",
        name or "", exists == "t", uses == "t", creates == "t", tables, superuser == "t",
    )  # fmt: skip


def role_exists(session: Session, role: str, deadline: Deadline) -> bool | None:
    """Roll back the open transaction, and ask PostgreSQL whether the role exists; None if there is no answer."""
    try:
        session.rollback(deadline)
        found = session.query(f"SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal(role)}::name", deadline)
    except (StatementError, ConnectionLostError):
        return None
    return bool(found[-1])


def _query(schema: str | None, role: str | None, server_version: int, *, reading: bool) -> str:
    who = literal(role) if role else "current_user"
    where = literal(schema) if schema else f"(SELECT nspname FROM ({place_sql(None)}) p)"
    takes = "SET" if server_version >= 160000 else "MEMBER"  # PostgreSQL 16 distinguishes SET from MEMBER
    needed = " AND ".join(
        f"pg_catalog.has_table_privilege(w.who, c.oid, '{what}')" for what in (_READING if reading else _CHANGING)
    )
    tables = ", ".join(map(literal, TABLES))
    return f"""
        SELECT pg_catalog.quote_ident(session_user), pg_catalog.quote_ident(w.who),
               pg_catalog.pg_has_role(session_user, w.who, '{takes}'),
               pg_catalog.quote_ident(pg_catalog.current_database()),
               pg_catalog.has_database_privilege(w.who, pg_catalog.current_database(), 'CREATE'),
               pg_catalog.quote_ident(w.place), n.oid IS NOT NULL,
               pg_catalog.has_schema_privilege(w.who, n.oid, 'USAGE'),
               pg_catalog.has_schema_privilege(w.who, n.oid, 'CREATE'),
               (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = w.who),
               c.relname, pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)),
               pg_catalog.pg_has_role(w.who, c.relowner, 'USAGE'), {needed}, {_SEQUENCE},
               (SELECT rolsuper FROM pg_catalog.pg_roles WHERE oid = c.relowner)
        FROM (SELECT {who}::name AS who, {where}::name AS place) w
        LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = w.place
        LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname IN ({tables})
        ORDER BY c.relname DESC"""
