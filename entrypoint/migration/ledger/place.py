"""Where the ledger is: one value, found along the default search_path, with what the catalogues say of its tables."""

from __future__ import annotations

from binascii import crc32

from entrypoint.database.address import OURS
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import identifier, literal, our_state
from entrypoint.errors import ClosedSchemaError, ForeignLedgerError
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline

    class Connection(Protocol):
        """What is asked: a Session, or libpq itself."""

        def query(self, sql: str, deadline: Deadline, /) -> list[list[Row]]:
            """Run statements in one round trip; return the rows of each."""

        def rollback(self, deadline: Deadline, /) -> None:
            """End the transaction, if one is open."""


# The first half of the advisory lock's key: the letters "pgep". Documented in docs/lock.md; never change it, as
# replicas of two releases must exclude each other.
LOCK_CLASS = 0x70676570
# Held while a ledger is made, by one in the whole database: until it is there, others may look for it elsewhere.
MAKING_KEY = f"{LOCK_CLASS + 2}, 0"
# A condition: the lock `g` is that one.
MAKES = f"g.classid = {LOCK_CLASS + 2} AND g.objid = 0"
LEGACY_TIME = "timestamp without time zone"
_TEXT = "text"
# The columns of `migration_lock` beside `id`, and their types. First those that it has always had: the earlier system's
# table, and those of all our releases.
HOLDER_COLUMNS = {"locked_at": "timestamptz", "locked_by": _TEXT, "process_id": "integer"}
PROGRESS_COLUMNS = {
    "progress_migration": _TEXT,
    "progress_statement": "integer",
    "progress_statements": "integer",
    "progress_at": "timestamptz",
    "progress_detail": "jsonb",
}
LIFE_COLUMNS = {"guard_pid": "integer", "guard_token": _TEXT, "until": "timestamptz"}
ADDED_COLUMNS = {"token": _TEXT} | PROGRESS_COLUMNS | LIFE_COLUMNS
# Those that make a difference here; pg_type.dat, where the numbers of built-in types are fixed.
_TYPES = {"25": _TEXT, "1114": LEGACY_TIME}
# A condition: the session that has the lock `g` does not have such a name.
_NOT_OURS = (
    "NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(g.pid) o "
    f"WHERE pg_catalog.starts_with(o.application_name, '{OURS}'))"
)
# All advisory locks `g` of this database that have two keys.
_ADVISORY = (
    "FROM pg_catalog.pg_locks g WHERE g.locktype = 'advisory' AND g.granted AND g.objsubid = 2 AND g.database = "
    "(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
)


class Place(NamedTuple):
    """Where the bookkeeping lives, and what is there."""

    schema: str
    schema_exists: bool
    ledger: dict[str, str]
    """The columns of `schema_migrations` and their types, as far as they make a difference; empty without it."""
    lock: dict[str, str]
    """The columns of `migration_lock`; empty if there is no such table."""
    backend_pid: int = 0
    """The server process that answered; behind a pooler it is not the one that answered the login. 0: not asked."""
    server_start: str = ""
    """When that server started: another answer later means that it restarted, or that it is another one."""
    standby: bool = False
    read_only: bool = False
    """Whether transactions are read-only by default."""
    intrusion: str = ""
    """What keeps us from writing into the tables: whom they belong to, or whose code would run. Reading runs none."""

    @property
    def untrusted(self) -> str:
        """The same as a clause that says what is wrong with it; empty if nothing is."""
        return self.intrusion and f"{self.intrusion}, and this user is not a member of that role"

    @property
    def complete(self) -> bool:
        """Whether ledger and lock are there as this release makes them."""
        return bool(self.ledger) and bool(self.lock) and not self.outdated

    @property
    def outdated(self) -> bool:
        """Whether an earlier system, or an earlier release, left tables that are not as ours are now."""
        return bool(self.ledger) and (
            not self.lock.keys() >= ADDED_COLUMNS.keys()
            or LEGACY_TIME in (self.ledger.get("applied_at"), self.lock.get("locked_at"))
            or self.ledger.get("application_version") != _TEXT
            or not self.ledger.keys() >= {"status", "checksum", "error_message", "execution_time_ms"}
        )

    @property
    def lock_key(self) -> str:
        """The guard's advisory lock, as the arguments of PostgreSQL's functions."""
        return f"{LOCK_CLASS}, {lock_key(self.schema)}"

    @property
    def session_key(self) -> str:
        """The advisory lock that a session holds, shared, while it works outside a transaction."""
        return f"{LOCK_CLASS + 1}, {lock_key(self.schema)}"

    def guarded_by(self, backend_pid: int) -> str:
        """Return a condition: that backend holds the guard's advisory lock at this moment."""
        return f"(SELECT count(*) {self._guards} AND g.mode = 'ExclusiveLock' AND g.pid = {backend_pid}) = 1"

    @property
    def unguarded(self) -> str:
        """A condition: nobody holds the guard's advisory lock at this moment. It is asked without touching the lock."""
        return f"NOT EXISTS (SELECT {self._guards})"

    @property
    def guardian(self) -> str:
        """The query for who holds the guard's advisory lock: the pid, and what its session calls itself.

        After it, who holds the other one and is no session of ours by its name: that keeps us from the row as well. And
        where there is no ledger yet, who holds in the same way the one under which it is made.
        """
        name = "(SELECT a.application_name FROM pg_catalog.pg_stat_activity a WHERE a.pid = g.pid)"
        return (
            f"SELECT g.pid, {name}, 1 {self._guards} UNION ALL "
            f"SELECT g.pid, {name}, 2 {self._keyed(LOCK_CLASS + 1)} AND {_NOT_OURS}"
            + ("" if self.ledger else f" UNION ALL SELECT g.pid, {name}, 3 {_ADVISORY} AND {MAKES} AND {_NOT_OURS}")
            + " ORDER BY 3, 1"
        )

    @property
    def holders(self) -> str:
        """The query for all who hold one of the two advisory locks, in whatever mode; `_key_holder` reads its rows.

        Where there is no ledger, also who holds the lock under which one is made.
        """
        keys = self._key_is(LOCK_CLASS, LOCK_CLASS + 1)
        activity = "FROM pg_catalog.pg_stat_get_activity(g.pid) a"
        return (
            f"SELECT g.pid, (SELECT a.application_name {activity}), "
            f"(SELECT pg_catalog.pg_get_userbyid(a.usesysid) {activity}), "
            f"g.classid = {LOCK_CLASS}, g.classid = {LOCK_CLASS + 2}, g.mode = 'ExclusiveLock' "
            f"{_ADVISORY} AND ({keys if self.ledger else f'{keys} OR {MAKES}'}) ORDER BY 1"
        )

    @property
    def _guards(self) -> str:
        # A contender that looks has the lock for an instant, shared. Who else has it shared, keeps everybody away.
        return f"{self._keyed(LOCK_CLASS)} AND (g.mode = 'ExclusiveLock' OR {_NOT_OURS})"

    def _keyed(self, *first_keys: int) -> str:
        return f"{_ADVISORY} AND {self._key_is(*first_keys)}"

    def _key_is(self, *first_keys: int) -> str:
        return f"g.classid IN ({', '.join(map(str, first_keys))}) AND g.objid = {lock_key(self.schema) % 2**32}"

    def table(self, name: str) -> str:
        """Return a table's name with its schema, quoted."""
        return f"{identifier(self.schema)}.{name}"


def lock_key(schema: str) -> int:
    """Return the second half of the advisory lock's key: the CRC-32 of the schema's name, as a signed integer."""
    value = crc32(schema.encode())
    return value - 2**32 if value >= 2**31 else value


def find_tables(session: Connection, schema: str | None, deadline: Deadline, role: str | None = None) -> Place | None:
    """Find the tables alone, for a look that leads to nothing more. None if there is no ledger.

    What `find` asks beside that takes a new server process some milliseconds. So does the whole question whom to trust:
    it is asked only where a glance does not settle it.
    """
    for glance in (True, False):
        tables = tables_sql(schema, role, glance=glance)
        relations = in_transaction(session, [*walk(schema), tables], deadline)[-1]
        if not any(row[2] == "schema_migrations" for row in relations):
            return None
        place = place_of(relations, schema)
        if not place.intrusion:
            break
    return place


def still_the_place(session: Connection, place: Place, role: str | None, deadline: Deadline) -> bool:
    """Tell whether the search_path leads to `place` still, and no ledger is there. Asked in an open transaction."""
    relations = session.query(";\n".join((*walk(None), tables_sql(None, role))), deadline)[-1]
    return bool(relations) and place_of(relations, None)[:4] == (place.schema, True, {}, place.lock)


def in_transaction(session: Connection, parts: Sequence[str], deadline: Deadline) -> list[list[Row]]:
    """Run statements that only read, in one round trip and one transaction; return the rows of each."""
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
    try:
        return session.query(";\n".join((begin, *parts, "COMMIT")), deadline)[1:-1]
    except StatementError:
        session.rollback(deadline.within(1))
        raise


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


# The schemas of the search_path in their order, as PostgreSQL reads it, but without its own. The place is the first
# that has a relation of that name, of any kind: `to_regclass` would find a temporary one. Without one, it is the first
# that we may use. A schema that we may not use counts if a ledger may be in there, so that no other is taken for it.
# Not EXISTS, for which PostgreSQL may read the names of all relations, or of all tenants' ledgers, and hash them.
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


def place_sql(schema: str | None) -> str:
    """Return the query for the place, behind `walk`: its number, name and owner, and whether we may use it."""
    if schema is None:
        return _ALONG_THE_PATH
    return f"SELECT oid, nspname, nspowner, true AS usable FROM pg_namespace WHERE nspname = {literal(schema)}::name"


def path_sql() -> str:
    """Return the query for the names of all schemas of the search_path, behind `walk(None)`."""
    return f"SELECT nspname FROM ({_PATH}) AS path"


def tables_sql(schema: str | None, role: str | None, *, glance: bool = False) -> str:
    """Return the statement for the place and the tables there: a row for each table, or one without.

    A table's columns are one text, as each value of an answer costs every start some microseconds. Types by their
    numbers: their names are looked up one by one. `glance`: trust fewer owners, and ask less.
    """
    return (
        f"WITH place AS MATERIALIZED ({place_sql(schema)})\n"
        "SELECT place.nspname, place.usable, c.relname, c.relkind, pg_get_userbyid(c.relowner), "
        f"{harmless('c.relowner', role, glance=glance)}, "
        "(SELECT string_agg(a.atttypid::text || ' ' || a.attname::text, chr(10) ORDER BY a.attnum) FROM pg_attribute a "
        "WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)\n"
        "FROM place LEFT JOIN pg_class c ON c.relnamespace = place.oid "
        "AND c.relname IN ('schema_migrations', 'migration_lock') ORDER BY c.relname DESC"
    )


def place_of(relations: Sequence[Row], schema: str | None) -> Place:
    """Return the place as the rows of `tables_sql` have it. Raises ConfigurationError and ForeignLedgerError."""
    if not relations:
        return Place(schema or "", False, {}, {})  # noqa: FBT003
    name, usable = relations[0][0] or "", relations[0][1]
    if usable != "t":
        raise ClosedSchemaError(
            f"The search_path names schema {name!r}, which has a table schema_migrations, but this user may not use it",
            remedy=f"GRANT USAGE ON SCHEMA {identifier(name)} TO the migration user; or set MIGRATION_SCHEMA.",
            schema=name,
        )
    tables = {row[2]: row[3:] for row in relations if row[2] is not None}
    columns = {table: _columns(found[3]) for table, found in tables.items()}
    place = Place(name, True, columns.get("schema_migrations", {}), columns.get("migration_lock", {}))  # noqa: FBT003
    for table, (kind, owner, trusted, _) in tables.items():
        if kind != "r":
            raise foreign_ledger(
                place, f"{table} in schema {name!r} is {_KINDS.get(kind or '', 'no table')}, not a table"
            )
        _refuse_foreign(place, table)
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


def _columns(text: str | None) -> dict[str, str]:
    """Return the names and the types of the columns that one text of `tables_sql` lists."""
    pairs = [line.split(" ", 1) for line in text.split("\n")] if text else []
    return {name: _TYPES.get(oid, "another type") for oid, name in pairs}


# The columns by which the ledgers of other tools are known. Their tables have the same name as ours.
_OTHER_TOOLS = (
    ({"version"}, "Rails or dbmate"),
    ({"version", "dirty"}, "golang-migrate"),
    ({"version", "inserted_at"}, "Ecto"),
    ({"filename"}, "Sequel"),
)


def owner_of(columns: frozenset[str]) -> str | None:
    """Return whose ledger a `schema_migrations` with these columns is: None for ours or the earlier system's."""
    if {"migration_number", "filename"} <= columns:
        return None
    return next((tool for theirs, tool in _OTHER_TOOLS if theirs == columns), "another tool")


def _refuse_foreign(place: Place, table: str) -> None:
    columns = frozenset(place.lock if table == "migration_lock" else place.ledger)
    if table == "migration_lock":
        owner = None if columns.issuperset(("id", *HOLDER_COLUMNS)) else "another tool"
    else:
        owner = owner_of(columns)
    if owner is not None:
        names = ", ".join(place.lock if table == "migration_lock" else place.ledger) or "none"
        raise foreign_ledger(
            place, f"The table {table} in schema {place.schema!r} belongs to {owner} (its columns: {names})"
        )


def foreign_ledger(place: Place, message: str) -> ForeignLedgerError:
    """Return the error for what stands in the ledger's place and is not ours; `message` says what, as a clause."""
    return ForeignLedgerError(
        f"{message}; it was not touched",
        remedy="Set MIGRATION_SCHEMA to a schema of its own for this program's ledger, for example entrypoint.",
        schema=place.schema,
    )


def trusted(owner: str, role: str | None) -> str:
    """Return a condition: what that `owner` made does not run anybody's code on us that could not run its own anyway.

    That is we, the roles that we are members of (of which a superuser is not one of all), superusers, and the owners of
    the schema and of the database, who can do as they like with all that is in there. `place` is in the query.
    """
    return f"""\
CASE WHEN {_evident(owner, role)} THEN true
     ELSE {owner} = (SELECT datdba FROM pg_database WHERE datname = current_database())
       OR EXISTS (SELECT FROM pg_roles WHERE oid = {owner} AND rolsuper)
       OR EXISTS (WITH RECURSIVE granted (oid) AS (
                      SELECT m.roleid FROM pg_auth_members m JOIN pg_roles u ON u.oid = m.member
                      WHERE u.rolname IN (session_user, current_user)
                      UNION SELECT m.roleid FROM pg_auth_members m JOIN granted g ON m.member = g.oid)
                  SELECT FROM granted WHERE oid = {owner}) END"""


def _evident(owner: str, role: str | None) -> str:
    ours = ", ".join(("session_user", "current_user", *([literal(role)] if role else ())))
    return f"pg_get_userbyid({owner}) IN ({ours}) OR {owner} = place.nspowner"


def _trusted_at_a_glance(owner: str, role: str | None) -> str:
    """Return a condition that is never true where `trusted` is not, and takes a third of the time to plan."""
    return f"""\
CASE WHEN {_evident(owner, role)} THEN true
     ELSE current_setting('is_superuser') = 'off' AND pg_has_role({owner}, 'MEMBER') END"""


def harmless(owner: str, role: str | None, *, glance: bool = False) -> str:
    """Return a condition: that `owner` is trusted, or that we could not migrate anyway.

    An application's own login, beside a Job that migrates, only reads what the Job has written.
    """
    able = "has_schema_privilege(place.oid, 'CREATE')"
    if role:
        chosen = "has_schema_privilege(oid, place.oid, 'CREATE')"
        able += f" OR EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)} AND {chosen})"
    rely = _trusted_at_a_glance if glance else trusted
    return f"({rely(owner, role)} OR NOT ({able}))"
