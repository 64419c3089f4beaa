"""The ledger `schema_migrations` and the row `migration_lock`, as they can be read without changing anything.

Two round trips at most: `find` learns where the bookkeeping lives, what it looks like and whose it is, from
PostgreSQL's catalogues, so that a missing or an older table is no error in the server's log; `look` reads it.
"""

from __future__ import annotations

from binascii import crc32

from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import identifier, literal, our_state
from entrypoint.errors import ClosedSchemaError, ConfigurationError, ForeignLedgerError
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign, foreign_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Protocol

    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline

    class Connection(Protocol):
        """What is asked: a Session, or libpq itself."""

        def query(self, sql: str, deadline: Deadline, /) -> list[list[Row]]:
            """Run statements in one round trip; return the rows of each."""

        def rollback(self, deadline: Deadline, /) -> None:
            """End the transaction, if one is open."""


COMPLETED = "completed"
FAILED = "failed"
RUNNING = "running"

# The first half of the advisory lock's key: the letters "pgep". Documented in docs/lock.md; never change it, as
# replicas of two releases must exclude each other.
LOCK_CLASS = 0x70676570

# Held while a ledger is made, by one in the whole database: until it is there, others may look for it elsewhere.
MAKING_KEY = f"{LOCK_CLASS + 2}, 0"
# A condition: the lock `g` is that one.
MAKES = f"g.classid = {LOCK_CLASS + 2} AND g.objid = 0"

# For one look: a migration may hold a lock on the ledger itself, and whoever looks must not queue behind it.
_LOOK_LOCK_TIMEOUT_MS = 2_000

_OUR_LOCK_COLUMNS = frozenset(
    (
        *("token", "progress_migration", "progress_statement", "progress_statements", "progress_at", "progress_detail"),
        *("guard_pid", "guard_token", "until"),
    )
)
_LEGACY_TIME = "timestamp without time zone"
_TEXT = "text"
# What every lock table has had: the earlier system's, and those of all our releases.
_LEAST_LOCK_COLUMNS = ("id", "locked_at", "locked_by", "process_id")
# Those that make a difference here; pg_type.dat, where the numbers of built-in types are fixed.
_TYPES = {"25": _TEXT, "1114": _LEGACY_TIME}


# What the lock's row shows instead of a file's name while the holder takes a backup.
BACKUP = "backup"

# How the names of our sessions begin; after it comes the token of the process.
OURS = "entrypoint:"
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
            not self.lock.keys() >= _OUR_LOCK_COLUMNS
            or _LEGACY_TIME in (self.ledger.get("applied_at"), self.lock.get("locked_at"))
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


class LedgerRow(NamedTuple):
    """One row of `schema_migrations`."""

    number: int
    filename: str
    status: str
    checksum: str | None
    error_message: str | None


class LockRow(NamedTuple):
    """The row of `migration_lock`, in words for messages and with the facts for decisions."""

    held: bool
    since: str | None
    seconds: float | None
    """For how long it has been held, by the server's clock; None if it is free, or held until `infinity`."""
    holder: str | None
    process_id: int | None
    token: str | None
    migration: str | None
    """The file that the holder was last seen working on."""
    statement: int | None
    statements: int | None
    detail: Mapping[str, object]
    """What the holder knows of a long statement, for `progress.describe`; empty if it is nothing."""
    guard_pid: int | None = None
    """The server process that holds the guard's lock for it; None if the holder is of an earlier release."""
    left: float | None = None
    """For how many seconds it may go on, by the server's clock."""

    @property
    def legacy(self) -> bool:
        """Whether a replica of the earlier system holds it: those know of no token."""
        return self.held and self.token is None

    @property
    def who(self) -> str | None:
        """The holder as it may be shown: anybody may have written the row."""
        return self.holder and foreign(self.holder)

    @property
    def told(self) -> dict[str, object]:
        """The detail as it may be shown."""
        return foreign_values(self.detail)


class Guardian(NamedTuple):
    """Who holds the guard's lock, as PostgreSQL has it."""

    pid: int
    application: str
    makes: bool = False
    """Whether it is another lock that it holds: the one under which a ledger is made."""


class KeyHolder(NamedTuple):
    """A session that holds one of the lock's keys, as PostgreSQL has it."""

    pid: int
    application: str
    user: str
    guards: bool
    """Whether it is the guard's key; else that of a session that works outside a transaction."""
    makes: bool
    """Whether it is neither, but the one under which a ledger is made."""
    exclusive: bool

    @property
    def unlike_ours(self) -> bool:
        """Whether no session of ours holds it so: the guard's shared, or the other one exclusively."""
        return self.guards is not self.exclusive

    @property
    def words(self) -> str:
        """The session as it may be shown."""
        return session_in_words(self.pid, self.user, self.application)


def session_in_words(pid: int, user: str, application: str) -> str:
    """Return a session of somebody else's as it may be shown."""
    return f"backend {pid} of {foreign(user)}" + (f" ({foreign(application)})" if application else "")


class Look(NamedTuple):
    """What one look saw."""

    rows: tuple[LedgerRow, ...]
    lock: LockRow | None
    lock_free: bool
    """Whether nobody held the guard's lock at that moment."""


class Detail(NamedTuple):
    """What else a row of `schema_migrations` tells."""

    applied_at: str | None
    """In UTC, as in 2026-11-22T10:30:00Z."""
    milliseconds: int | None
    application_version: str | None


class Reading(NamedTuple):
    """All that the bookkeeping tells, read in one round trip."""

    rows: tuple[LedgerRow, ...]
    lock: LockRow | None
    details: dict[int, Detail]
    """By number."""
    moved: bool
    """Whether the tables are not any more what they were taken for, or another's: then the rest is not to be relied
    upon."""
    standby: bool
    """Whether the server is one at this moment: there nobody holds the lock, as the primary's cannot be seen."""
    holders: tuple[KeyHolder, ...]
    """Who holds the lock's keys; who contends has the guard's for an instant, shared."""


def lock_key(schema: str) -> int:
    """Return the second half of the advisory lock's key: the CRC-32 of the schema's name, as a signed integer."""
    value = crc32(schema.encode())
    return value - 2**32 if value >= 2**31 else value


def find(session: Connection, schema: str | None, deadline: Deadline, role: str | None = None) -> Place:
    """Find the bookkeeping: in `schema`, or along the search_path that the connection has by default.

    A `role` is trusted with the tables, as it is we who chose it. Raises ConfigurationError if there is no place for
    them, ForeignLedgerError if what stands there is not ours.
    """
    about = (
        "SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_postmaster_start_time(), pg_catalog.pg_is_in_recovery(), "
        "pg_catalog.current_setting('default_transaction_read_only')"
    )
    results = _in_transaction(
        session, [about, *walk(schema), _tables_sql(schema, role), _strangers_sql(schema, role)], deadline
    )
    backend_pid, server_start, standby, read_only = results[0][0]
    relations, strangers = results[-2:]
    if not relations and not schema:
        raise ConfigurationError(
            "The connection has no current schema, so there is no place for the ledger",
            remedy="Set MIGRATION_SCHEMA, or a search_path in which a schema exists.",
        )
    place = _place(relations, schema)._replace(
        schema_exists=bool(relations),
        backend_pid=int(backend_pid or 0),
        server_start=server_start or "",
        standby=standby == "t",
        read_only=read_only == "on",
    )
    for table, what in strangers:
        if not place.intrusion:
            place = place._replace(intrusion=f"The table {table} in schema {place.schema!r} has {what}")
    return place


def find_again(session: Connection, place: Place, schema: str | None, deadline: Deadline, role: str | None) -> Place:
    """Look at `place` again. A ledger that was found stays the one; where there was none, the search begins anew."""
    return find(session, place.schema if place.ledger else schema, deadline, role)


def refuse_intrusion(place: Place) -> None:
    """Raise ForeignLedgerError if somebody whom we have no reason to trust could decide what is applied, or run code.

    For those who are about to rely on the ledger for a start, or to write into it.
    """
    if place.intrusion:
        raise ForeignLedgerError(
            f"{place.untrusted}; nothing was touched",
            remedy="Connect as the owner, or set MIGRATION_ROLE to it; or, if what is there is to be trusted, change "
            "the owner with ALTER TABLE ... OWNER TO ...; or set MIGRATION_SCHEMA to a schema of its own. A login that "
            f"is not to migrate needs no CREATE on schema {identifier(place.schema)}.",
            schema=place.schema,
        )


def find_tables(session: Connection, schema: str | None, deadline: Deadline, role: str | None = None) -> Place | None:
    """Find the tables alone, for a look that leads to nothing more. None if there is no ledger.

    What `find` asks beside that takes a new server process some milliseconds. So does the whole question whom to trust:
    it is asked only where a glance does not settle it.
    """
    for glance in (True, False):
        tables = _tables_sql(schema, role, glance=glance)
        relations = _in_transaction(session, [*walk(schema), tables], deadline)[-1]
        if not relations or not _columns(relations)["schema_migrations"]:
            return None
        place = _place(relations, schema)
        if not place.intrusion:
            break
    return place


def still_the_place(session: Connection, place: Place, role: str | None, deadline: Deadline) -> bool:
    """Tell whether the search_path leads to `place` still, and no ledger is there. Asked in an open transaction."""
    relations = session.query(";\n".join((*walk(None), _tables_sql(None, role))), deadline)[-1]
    return bool(relations) and _place(relations, None)[:4] == (place.schema, True, {}, place.lock)


def _in_transaction(session: Connection, parts: Sequence[str], deadline: Deadline) -> list[list[Row]]:
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


def _tables_sql(schema: str | None, role: str | None, *, glance: bool = False) -> str:
    """Return the statement for the place and the tables there: a row for each column.

    Types by their numbers: their names are looked up one by one. `glance`: trust fewer owners, and ask less.
    """
    return (
        f"WITH place AS MATERIALIZED ({place_sql(schema)})\n"
        "SELECT place.nspname, place.usable, c.relname, c.relkind, pg_get_userbyid(c.relowner), "
        f"{_harmless('c.relowner', role, glance=glance)}, a.attname, a.atttypid\n"
        "FROM place LEFT JOIN pg_class c ON c.relnamespace = place.oid "
        "AND c.relname IN ('schema_migrations', 'migration_lock') "
        "LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        "ORDER BY a.attnum"
    )


def _trusted(owner: str, role: str | None) -> str:
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
    """Return a condition that is never true where `_trusted` is not, and takes a third of the time to plan."""
    return f"""\
CASE WHEN {_evident(owner, role)} THEN true
     ELSE current_setting('is_superuser') = 'off' AND pg_has_role({owner}, 'MEMBER') END"""


def _harmless(owner: str, role: str | None, *, glance: bool = False) -> str:
    """Return a condition: that `owner` is trusted, or that we could not migrate anyway.

    An application's own login, beside a Job that migrates, only reads what the Job has written.
    """
    able = "has_schema_privilege(place.oid, 'CREATE')"
    if role:
        chosen = "has_schema_privilege(oid, place.oid, 'CREATE')"
        able += f" OR EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)} AND {chosen})"
    trusted = _trusted_at_a_glance if glance else _trusted
    return f"({trusted(owner, role)} OR NOT ({able}))"


def _strangers_sql(schema: str | None, role: str | None) -> str:
    """Return the statement for what would run somebody else's code when a row of the tables is written: (table, what).

    Triggers, rules, defaults, constraints and indexes depend on the functions that they call; those of PostgreSQL
    itself are nobody's dependency.
    """
    return f"""\
WITH place AS MATERIALIZED ({place_sql(schema)}),
tables AS MATERIALIZED (
    SELECT c.oid, c.relname FROM pg_class c JOIN place ON c.relnamespace = place.oid
    WHERE c.relname IN ('schema_migrations', 'migration_lock')),
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
WHERE NOT {_harmless("f.proowner", role)}
UNION ALL
SELECT t.relname, 'the rule ' || quote_ident(r.rulename)
FROM place CROSS JOIN tables t JOIN pg_class c ON c.oid = t.oid
JOIN pg_rewrite r ON r.ev_class = t.oid AND r.rulename <> '_RETURN'
WHERE NOT {_harmless("c.relowner", role)}
UNION ALL
SELECT t.relname, 'the column ' || quote_ident(a.attname) || ' of type ' || y.typname || ', which belongs to '
       || pg_get_userbyid(y.typowner)
FROM place CROSS JOIN tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type y ON y.oid = a.atttypid
WHERE NOT {_harmless("y.typowner", role)}
ORDER BY 1, 2"""


def refuse_strangers(session: Connection, place: Place, role: str | None, deadline: Deadline) -> None:
    """Raise ForeignLedgerError if something that is not ours has the name of what would be made or replaced.

    Asked in an open transaction. What is ours, or the earlier system's, has the columns or the result that it always
    had, and the functions name the lock's table.
    """
    parts = (*walk(place.schema), _namesakes_sql(place.schema, role))
    for (what,) in session.query(";\n".join(parts), deadline)[-1]:
        raise _foreign(place, f"In schema {place.schema!r} there is {what}, which is not of this program's making")


def _namesakes_sql(schema: str, role: str | None) -> str:
    return f"""\
WITH place AS MATERIALIZED ({place_sql(schema)})
SELECT 'something else named migration_status'
FROM place JOIN pg_class c ON c.relnamespace = place.oid AND c.relname = 'migration_status'
WHERE c.relkind <> 'v' OR NOT {_trusted("c.relowner", role)}
OR ARRAY[{", ".join(map(literal, _VIEW_COLUMNS))}] <> ARRAY(
    SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum)
UNION ALL
SELECT 'a type named ' || y.typname
FROM place JOIN pg_type y ON y.typnamespace = place.oid
WHERE y.typname IN ('schema_migrations', 'migration_lock', 'migration_status') AND y.typrelid = 0
UNION ALL
SELECT 'the function ' || f.proname || '(' || pg_get_function_identity_arguments(f.oid) || ')'
FROM place JOIN pg_proc f ON f.pronamespace = place.oid
JOIN (VALUES {", ".join(f"({literal(name)}, {literal(takes)}, {literal(gives)})" for name, takes, gives in _FUNCTIONS)})
    AS ours (name, takes, gives)
    ON f.proname = ours.name AND oidvectortypes(f.proargtypes) = ours.takes
WHERE f.prokind <> 'f' OR format_type(f.prorettype, NULL) <> ours.gives OR f.proretset
   OR f.prosrc !~ {literal(_NAMES_THE_LOCK)} OR NOT {_trusted("f.proowner", role)}"""


# A regular expression: the lock's table, and not a name that only begins like it.
_NAMES_THE_LOCK = r"migration_lock\M"
_VIEW_COLUMNS = (
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


def _place(relations: Sequence[Row], schema: str | None) -> Place:
    """Return the place as the rows of `_tables_sql` have it. Raises ConfigurationError and ForeignLedgerError."""
    if not relations:
        return Place(schema or "", False, {}, {})  # noqa: FBT003
    name, usable = relations[0][0] or "", relations[0][1]
    if usable != "t":
        raise ClosedSchemaError(
            f"The search_path names schema {name!r}, which has a table schema_migrations, but this user may not use it",
            remedy=f"GRANT USAGE ON SCHEMA {identifier(name)} TO the migration user; or set MIGRATION_SCHEMA.",
            schema=name,
        )
    columns = _columns(relations)
    place = Place(name, True, columns["schema_migrations"], columns["migration_lock"])  # noqa: FBT003
    for _schema, _usable, table, kind, owner, trusted, _column, _type in relations:
        if table is not None and kind != "r":
            raise _foreign(place, f"{table} in schema {name!r} is {_KINDS.get(kind or '', 'no table')}, not a table")
        if table is not None:
            _refuse_foreign(place, table)
        if table is not None and trusted != "t" and not place.intrusion:
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


def _columns(relations: Iterable[Row]) -> dict[str, dict[str, str]]:
    """Return the columns and their types by table."""
    tables: dict[str, dict[str, str]] = {"schema_migrations": {}, "migration_lock": {}}
    for _schema, _usable, table, _kind, _owner, _trusted, column, oid in relations:
        if table is not None and column is not None:
            tables[table][column] = _TYPES.get(oid or "", "another type")
    return tables


def look(session: Connection, place: Place, role: str | None, deadline: Deadline, *, contending: bool) -> Look:
    """Read the ledger in one round trip; if `contending`, also the lock's row and whether the lock is free.

    Holds nothing afterwards. Raises StatementError with SQLSTATE 55P03 if somebody holds a lock on the tables.
    """
    free = f"pg_catalog.pg_try_advisory_xact_lock_shared({place.lock_key})" if contending else None
    return _look(session, place, role, deadline, free)


def look_on(session: Connection, place: Place, role: str | None, deadline: Deadline) -> Look:
    """Read what a contender reads, for somebody who is none: the lock is not touched, not even shared.

    On a standby the primary's lock cannot be seen, and looks free. Raises what `look` does.
    """
    return _look(session, place, role, deadline, place.unguarded)


def look_at_holder(
    session: Connection, place: Place, role: str | None, deadline: Deadline
) -> tuple[LockRow | None, Guardian | None]:
    """Read the lock's row, and who holds the guard's lock, if anybody does. Raises what `look` does."""
    rows, guardians = ask(session, role, deadline, (_lock_row_sql(place), place.guardian))
    found = [Guardian(int(pid or 0), application or "", key == "3") for pid, application, key in guardians]
    return as_lock(rows), found[0] if found else None


def read(session: Connection, place: Place, schema: str | None, role: str | None, deadline: Deadline) -> Reading:
    """Read what `look_on` does and all details, and see whether the tables are still as `place` has them.

    `schema` is what `find` was given: where there was no ledger, it is looked for along the whole way. The tables are
    looked at after they were read, and by then nobody can change them before the end of this transaction. Raises what
    `look` does.
    """
    pinned = place.schema if place.ledger else schema
    parts = (
        # First the row, then who holds the keys: so a holder that comes meanwhile looks alive.
        *(_lock_row_sql(place), place.holders, _ledger_sql(place), _details_sql(place)),
        *(*walk(pinned), _tables_sql(pinned, role), "SELECT pg_catalog.pg_is_in_recovery()"),
    )
    locks, keys, rows, details, *_, relations, standby = ask(session, role, deadline, parts)
    found = _place(relations, pinned)
    moved = (found.schema, found.ledger, found.lock) != (place.schema, place.ledger, place.lock)
    return Reading(
        as_ledger(rows),
        as_lock(locks),
        {int(row[0] or 0): _detail(row) for row in details},
        moved or (bool(found.intrusion) and not place.intrusion),
        standby[0][0] == "t",
        tuple(map(_key_holder, keys)),
    )


def _look(session: Connection, place: Place, role: str | None, deadline: Deadline, free: str | None) -> Look:
    """Read the ledger; if there is a condition for "the lock is `free`", also the lock's row and that condition."""
    about_lock = () if free is None else (_lock_row_sql(place), f"SELECT {free}")
    *found, rows = ask(session, role, deadline, (*about_lock, _ledger_sql(place)))
    if not found:
        return Look(as_ledger(rows), None, lock_free=False)
    locks, answer = found
    return Look(as_ledger(rows), as_lock(locks), lock_free=answer[0][0] == "t")


def ask(session: Connection, role: str | None, deadline: Deadline, parts: Sequence[str]) -> list[list[Row]]:
    """Run statements in one round trip and one transaction that may wait for nobody; return the rows of each."""
    try:
        return session.query(";\n".join((*_begin_look(role, deadline), *parts, "COMMIT")), deadline)[
            -len(parts) - 1 : -1
        ]
    except StatementError:
        session.rollback(deadline.within(1))
        raise


def _begin_look(role: str | None, deadline: Deadline) -> list[str]:
    return [
        "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
        *our_state(role),
        # The answer that a table is locked is to be here well before the deadline, after which there is none.
        f"SET LOCAL lock_timeout = {min(_LOOK_LOCK_TIMEOUT_MS, deadline.milliseconds() // 2 + 1)}",
        f"SET LOCAL statement_timeout = {deadline.milliseconds()}",
    ]


def _ledger_sql(place: Place) -> str:
    if not place.ledger:
        return "SELECT 1 WHERE false"

    def column(name: str, default: str) -> str:
        return f"{name}::text" if name in place.ledger else default

    return (
        f"SELECT migration_number, filename, {column('status', literal(COMPLETED))}, {column('checksum', 'NULL')}, "
        # The text is wanted only where a failure holds a migration back, or one was interrupted.
        f"CASE WHEN {column('status', literal(COMPLETED))} <> 'completed' THEN {column('error_message', 'NULL')} END "
        f"FROM {place.table('schema_migrations')} ORDER BY migration_number"
    )


def _ledger_row(row: Row) -> LedgerRow:
    number, filename, status, checksum, error_message = row
    # The earlier system's column had a default but no NOT NULL; no status meant that it went well.
    return LedgerRow(int(number or 0), filename or "", status or COMPLETED, checksum, error_message)


def _details_sql(place: Place) -> str:
    if not place.ledger:
        return "SELECT 1 WHERE false"
    others = ", ".join(column_or_null(name, place.ledger) for name in ("execution_time_ms", "application_version"))
    return (
        f"SELECT migration_number, {utc('applied_at', place.ledger)}, {others} FROM {place.table('schema_migrations')}"
    )


def _detail(row: Row) -> Detail:
    _, applied_at, milliseconds, version = row
    return Detail(applied_at, None if milliseconds is None else int(milliseconds), version)


def _lock_row_sql(place: Place) -> str:
    if not place.lock:
        return "SELECT 1 WHERE false"

    locked_at = with_zone("locked_at", place.lock)
    others = ", ".join(
        column_or_null(name, place.lock)
        for name in ("token", "progress_migration", "progress_statement", "progress_statements")
    )
    # A holder of an earlier release does not know this column, and has left in it what an earlier holder wrote.
    detail = "CASE WHEN progress_detail ->> 'token' = token THEN progress_detail - 'token' END"
    life = "NULL, NULL"
    if place.lock.keys() >= {"guard_pid", "guard_token", "until"}:
        # So with these.
        life = (
            "CASE WHEN guard_token = token THEN guard_pid END, "
            "CASE WHEN guard_token = token AND pg_catalog.isfinite(until) "
            "THEN extract(epoch FROM until - pg_catalog.clock_timestamp()) END"
        )
    return (
        f"SELECT locked_at IS NOT NULL, coalesce({utc('locked_at', place.lock)}, locked_at::text), "
        # `infinity` cannot be subtracted: it is held for ever, and the other one since the beginning of time.
        f"CASE WHEN {locked_at} < 'infinity' THEN extract(epoch FROM pg_catalog.clock_timestamp() - "
        f"greatest({locked_at}, '0001-01-01 UTC'::timestamptz)) END, locked_by, process_id, {others}, "
        f"{detail if 'progress_detail' in place.lock else 'NULL'}, {life} "
        f"FROM {place.table('migration_lock')} WHERE id = 1"
    )


def column_or_null(name: str, columns: dict[str, str]) -> str:
    """Return a column, or NULL where an earlier system's table lacks it."""
    return name if name in columns else "NULL"


def with_zone(name: str, columns: dict[str, str]) -> str:
    """Return a time as `timestamptz`, whatever its column's type is.

    The earlier system wrote it without zone, with NOW(), in sessions in the server's own time zone, whatever this
    session's is.
    """
    if columns.get(name) == _LEGACY_TIME:
        return f"({name} AT TIME ZONE (SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'TimeZone'))"
    return name


def utc(name: str, columns: dict[str, str]) -> str:
    """Return a time as text in UTC, as in 2026-11-22T10:30:00Z; NULL for `infinity`."""
    return f"to_char({with_zone(name, columns)} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"


def _lock_row(row: Row) -> LockRow:
    held, since, seconds, holder, process_id, token, migration, statement, statements, detail, guard_pid, left = row

    def number(text: str | None) -> int | None:
        return None if text is None else int(text)

    return LockRow(
        held=held == "t",
        since=since,
        seconds=None if seconds is None else float(seconds),
        holder=holder,
        process_id=number(process_id),
        token=token,
        migration=migration,
        statement=number(statement),
        statements=number(statements),
        detail=_parsed(detail),
        guard_pid=number(guard_pid),
        left=None if left is None else float(left),
    )


def _key_holder(row: Row) -> KeyHolder:
    pid, application, user, guards, makes, exclusive = row
    return KeyHolder(int(pid or 0), application or "", user or "", guards == "t", makes == "t", exclusive == "t")


def _parsed(detail: str | None) -> Mapping[str, object]:
    if detail is None:
        return {}
    import json

    try:
        found = json.loads(detail)
    except (ValueError, RecursionError):  # PostgreSQL takes more than Python does: a number of 5000 digits, for one.
        return {}
    return found if isinstance(found, dict) else {}


# For those who read in a transaction of their own.


def ledger_query(place: Place) -> str:
    """Return the query for all rows of the ledger; `as_ledger` reads its answer."""
    return _ledger_sql(place)


def as_ledger(rows: list[Row]) -> tuple[LedgerRow, ...]:
    """Return the answer to `ledger_query`, in the order of the numbers."""
    return tuple(map(_ledger_row, rows))


def lock_query(place: Place) -> str:
    """Return the query for the lock's row; `as_lock` reads its answer."""
    return _lock_row_sql(place)


def as_lock(rows: list[Row]) -> LockRow | None:
    """Return the answer to `lock_query`: None if there is no row."""
    return _lock_row(rows[0]) if rows else None


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
        owner = None if columns.issuperset(_LEAST_LOCK_COLUMNS) else "another tool"
    else:
        owner = owner_of(columns)
    if owner is not None:
        names = ", ".join(place.lock if table == "migration_lock" else place.ledger) or "none"
        raise _foreign(place, f"The table {table} in schema {place.schema!r} belongs to {owner} (its columns: {names})")


def _foreign(place: Place, message: str) -> ForeignLedgerError:
    return ForeignLedgerError(
        f"{message}; it was not touched",
        remedy="Set MIGRATION_SCHEMA to a schema of its own for this program's ledger, for example entrypoint.",
        schema=place.schema,
    )
