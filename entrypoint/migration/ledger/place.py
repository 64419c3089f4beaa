"""Where the ledger is, what the catalogs say about its tables, and how to find it quickly in the usual case.

A new server process plans every query with empty caches, so a simple query pays off: the full search (`search`) takes
it 1 ms more than this one (`python -m benchmarks.statements`). Here the search_path is evaluated in Python, and
anything unusual is left to the full search.
"""

from __future__ import annotations

from entrypoint.database.quoting import identifier, literal, our_state
from entrypoint.records import LONGEST_NAME, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Protocol

    from entrypoint.command import Command
    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline

    class Queryable(Protocol):
        """What can run queries: a Session, or libpq itself."""

        def query(self, sql: str, deadline: Deadline, /) -> list[list[Row]]:
            """Run statements in one round trip; return the rows of each."""

        def rollback(self, deadline: Deadline, /) -> None:
            """End the transaction, if one is open."""


TABLES = ("schema_migrations", "migration_lock")
LEGACY_TIME = "timestamp without time zone"
_TEXT = "text"
# The columns of `migration_lock` besides `id`, and their types. First those that every such table has, also the earlier
# system's.
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
# The columns of `schema_migrations` that say which images may start, and what a new database still lacks. An older
# ledger gets them when the first value is written (docs/decisions/0043).
ROLLOUT_COLUMNS = {"floor": _TEXT, "initial_up_to": "bigint"}
# The columns by which our tables, and those of the earlier system, are recognized.
LEDGER_SIGN = frozenset(("migration_number", "filename"))
LOCK_SIGN = frozenset(("id", *HOLDER_COLUMNS))
COMMAND_SIGN = frozenset(("command", "fingerprint"))
# The columns of `migration_commands` besides `id`. Each row is a run of another migration tool.
COMMAND_COLUMNS = {
    "command": _TEXT,
    "fingerprint": _TEXT,
    "inputs": "jsonb",
    "before": _TEXT,
    "after": _TEXT,
    "status": _TEXT,
    "application_version": _TEXT,
    "started_at": "timestamptz",
    "finished_at": "timestamptz",
    "exit_code": "integer",
    "output": _TEXT,
    "holder": _TEXT,
}
# At most this many tables of these names, in any schema, are read here. With more, the full search is used.
MOST = 20

# The types that matter here, by their OIDs, which pg_type.dat fixes for built-in types.
_TYPES = {"25": _TEXT, "1114": LEGACY_TIME}


class Place(NamedTuple):
    """The schema of our tables, and what exists there."""

    schema: str
    schema_exists: bool
    ledger: dict[str, str]
    """The columns of `schema_migrations`, with their types as far as they matter; empty if there is no such table."""
    lock: dict[str, str]
    """The columns of `migration_lock`; empty if there is no such table."""
    backend_pid: int = 0
    """The server process that answered; behind a pooler, not the one that answered the login. 0: not asked."""
    server_start: str = ""
    """When that server started. If this changes later, it has restarted, or it is another server."""
    standby: bool = False
    read_only: bool = False
    """Whether transactions are read-only by default."""
    command: Command | None = None
    """Another migration tool whose runs are recorded there, in addition to our files or instead of them."""
    commands: dict[str, str] | None = None
    """The columns of `migration_commands`; empty if there is no such table, None if not asked."""
    intrusion: str = ""
    """Why we must not write to the tables: who owns them, or whose code would run. Reading runs no code."""

    @property
    def untrusted(self) -> str:
        """`intrusion` as a clause that also says why that is not trusted; empty if there is none."""
        return self.intrusion and f"{self.intrusion}, and this user is not a member of that role"

    @property
    def complete(self) -> bool:
        """Whether all tables exist, as this release creates them."""
        recorded = self.command is None or bool(self.commands)
        return self.founded and bool(self.lock) and recorded and not self.outdated

    @property
    def founded(self) -> bool:
        """Whether the table exists by which the place is found. If so, the place no longer changes."""
        return bool(self.ledger) if self.with_files else bool(self.commands)

    @property
    def with_files(self) -> bool:
        """Whether migration files of ours are recorded there."""
        return self.command is None or self.command.with_files

    @property
    def outdated(self) -> bool:
        """Whether the tables of the earlier system, or of an earlier release, need an upgrade."""
        if self.commands and not self.commands.keys() >= COMMAND_COLUMNS.keys():
            return True
        if not self.with_files:
            lacking = not self.lock.keys() >= ADDED_COLUMNS.keys()
            return bool(self.commands) and (lacking or self.lock.get("locked_at") == LEGACY_TIME)
        return bool(self.ledger) and (
            not self.lock.keys() >= ADDED_COLUMNS.keys()
            or LEGACY_TIME in (self.ledger.get("applied_at"), self.lock.get("locked_at"))
            or self.ledger.get("application_version") != _TEXT
            or not self.ledger.keys() >= {"status", "checksum", "error_message", "execution_time_ms"}
        )

    def table(self, name: str) -> str:
        """Return a table's name with its schema, quoted."""
        return f"{identifier(self.schema)}.{name}"


def tables_of(command: Command | None) -> tuple[str, ...]:
    """Return the names of our tables. The place is found by the first."""
    if command is None:
        return TABLES
    return (*TABLES, "migration_commands") if command.with_files else ("migration_commands", "migration_lock")


def columns_of(listed: Iterable[str]) -> dict[str, str]:
    """Return the names and types of columns, which are listed as type OID, space, name."""
    pairs = [column.split(" ", 1) for column in listed if column]
    return {name: _TYPES.get(oid, "another type") for oid, name in pairs}


def columns_in(array: str) -> dict[str, str]:
    """Return the same from an array as `glance_at_tables` makes it. Backslashes and quotation marks stay escaped."""
    return columns_of(array.removeprefix('{"').removesuffix('"}').split('","'))


def find_tables(
    session: Queryable, schema: str | None, deadline: Deadline, role: str | None = None
) -> tuple[Place | None, bool]:
    """Find only the tables, in `schema` or along the path, for a look that leads to nothing more.

    Return the place, or None if there is no ledger, and whether that is certain; if not, use the full search. Raises
    StatementError.
    """
    relations = session.query(glance_at_tables(schema, role, TABLES), deadline)[-2]
    nothing = len(relations) < MOST and not any(row[1] == TABLES[0] for row in relations)
    place = None if nothing or (len(relations) == MOST and not schema) else evident_place(relations, schema)
    return place, nothing or place is not None


def walk(schema: str | None) -> tuple[str, ...]:
    """Return the statements that must run before those about the place. They set the role and note the search_path.

    Both are the connection's defaults, even if behind a pooler another client has changed them in this server session.
    The search_path is noted in a setting of our own and then pinned: otherwise an operator that somebody has created
    in one of its schemas could run with our privileges.
    """
    noted = (
        "SET LOCAL search_path TO DEFAULT",
        "SELECT pg_catalog.set_config('entrypoint.path', pg_catalog.current_setting('search_path'), true)",
    )
    return (*(() if schema else noted), *our_state(None))


def evident(owner: str, schema_owner: str, role: str | None) -> str:
    """Return a condition: `owner` is one of our own roles, or owns the schema."""
    ours = ", ".join(("session_user", "current_user", *([literal(role)] if role else ())))
    return f"pg_get_userbyid({owner}) IN ({ours}) OR {owner} = {schema_owner}"


def unless_able(trust: str, schema: str, role: str | None) -> str:
    """Return a condition: `trust`, or we could not migrate in `schema` (an OID) anyway.

    If a Job migrates, the application's own login only reads what the Job has written.
    """
    able = f"has_schema_privilege({schema}, 'CREATE')"
    if role:
        chosen = f"has_schema_privilege(oid, {schema}, 'CREATE')"
        able += f" OR EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)} AND {chosen})"
    return f"({trust} OR NOT ({able}))"


def glance_at_tables(schema: str | None, role: str | None, tables: Sequence[str], more: str = "") -> str:
    """Return the statements that find all tables of these names, in `schema` or in any schema.

    The rows are in the last answer but one. `more` adds columns to each.

    The query is written so that a new server process plans it fast: one table, no joins, the columns as one unsorted
    array. It uses `concat`, because `||` has many overloads to choose from, and type OIDs, because each name would be
    looked up separately. It trusts fewer owners than `search.trusted`.
    """
    owner = "c.relowner"
    schema_owner = "(SELECT n.nspowner FROM pg_namespace n WHERE n.oid = c.relnamespace)"
    trust = (
        f"CASE WHEN {evident(owner, schema_owner, role)} THEN true "
        f"ELSE current_setting('is_superuser') = 'off' AND pg_has_role({owner}, 'MEMBER') END"
    )
    path = "NULL" if schema else "current_setting('entrypoint.path')"
    sql = (
        "SELECT c.relnamespace::regnamespace, c.relname, has_schema_privilege(c.relnamespace, 'USAGE'), c.relkind, "
        f"{unless_able(trust, 'c.relnamespace', role)}, ARRAY(SELECT concat(a.atttypid, ' ', a.attname) "
        f"FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), {path}, "
        f"current_user{more} FROM pg_class c WHERE c.relname IN ({', '.join(map(literal, tables))})"
        + (f" AND c.relnamespace = to_regnamespace({literal(identifier(schema))})" if schema else f" LIMIT {MOST}")
    )
    return ";\n".join(("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY", *walk(schema), sql, "COMMIT"))


def evident_place(relations: Sequence[Row], schema: str | None, command: Command | None = None) -> Place | None:
    """Return the place from the rows of `glance_at_tables`; None if that takes the full search."""
    path, user = relations[0][6:8]
    names = (schema,) if schema else along(path or "", user or "")
    if names is None:
        return None
    sign = tables_of(command)[0]
    ledgers = {unquoted(row[0] or "") for row in relations if row[1] == sign}
    name = next((name for name in names if name in ledgers), None)
    columns: dict[str | None, dict[str, str]] = {}
    for _, table, usable, kind, trusted, listed, *_ in (row for row in relations if unquoted(row[0] or "") == name):
        if (usable, kind, trusted) != ("t", "r", "t") or listed is None or "\\" in listed:
            return None
        columns[table] = columns_in(listed)
    ledger, lock = columns.get("schema_migrations", {}), columns.get("migration_lock", {})
    commands = columns.get("migration_commands", {})
    if name is None or (lock and not lock.keys() >= LOCK_SIGN) or (commands and not commands.keys() >= COMMAND_SIGN):
        return None
    if sign == "schema_migrations" and not ledger.keys() >= LEDGER_SIGN:
        return None
    place = Place(name, True, ledger, lock)  # noqa: FBT003
    return place if command is None else place._replace(command=command, commands=commands)


def unquoted(name: str) -> str:
    """Return a schema's name without the quotes that `regnamespace` puts around it where SQL needs them."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def along(path: str, user: str) -> tuple[str, ...] | None:
    """Return the schemas that a search_path names, in order, without PostgreSQL's own.

    None if only PostgreSQL can evaluate it, because a name is too long or has unusual characters.
    """
    names = []
    for part in path.split(","):
        name = part.strip(" ")
        if name[:1] == name[-1:] == '"':
            name = name[1:-1]
        elif name != name.lower():
            return None
        name = user if name == "$user" else name
        if not name or not name.isascii() or not name.isprintable() or '"' in name or len(name) > LONGEST_NAME:
            return None
        if not name.startswith("pg_") and name != "information_schema":
            names.append(name)
    return tuple(names)
