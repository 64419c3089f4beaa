"""Where the ledger is: one value, with what the catalogues say of its tables, and the keys of its lock."""

from __future__ import annotations

from entrypoint.database.address import OURS
from entrypoint.database.quoting import identifier
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from entrypoint.command import Command
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
_TABLES = ("schema_migrations", "migration_lock")
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
# The columns of `schema_migrations` that say which images may start, and what a new database still lacks. A ledger that
# was made without them gets them when the first value is written (docs/decisions/0043).
ROLLOUT_COLUMNS = {"floor": _TEXT, "initial_up_to": "bigint"}
# The columns by which our tables are known, and those of the earlier system.
LEDGER_SIGN = frozenset(("migration_number", "filename"))
LOCK_SIGN = frozenset(("id", *HOLDER_COLUMNS))
COMMAND_SIGN = frozenset(("command", "fingerprint"))
# Those of `migration_commands` beside `id`: each run of another migration tool.
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
    command: Command | None = None
    """Another migration tool whose runs are recorded there as well, or instead."""
    commands: dict[str, str] | None = None
    """The columns of `migration_commands`; empty without it, None if nobody has asked."""
    intrusion: str = ""
    """What keeps us from writing into the tables: whom they belong to, or whose code would run. Reading runs none."""

    @property
    def untrusted(self) -> str:
        """The same as a clause that says what is wrong with it; empty if nothing is."""
        return self.intrusion and f"{self.intrusion}, and this user is not a member of that role"

    @property
    def complete(self) -> bool:
        """Whether ledger and lock are there as this release makes them."""
        recorded = self.command is None or bool(self.commands)
        return self.founded and bool(self.lock) and recorded and not self.outdated

    @property
    def founded(self) -> bool:
        """Whether the table is there by which the place is found: then it stays this one."""
        return bool(self.ledger) if self.with_files else bool(self.commands)

    @property
    def with_files(self) -> bool:
        """Whether migration files of ours are recorded there."""
        return self.command is None or self.command.with_files

    @property
    def outdated(self) -> bool:
        """Whether an earlier system, or an earlier release, left tables that are not as ours are now."""
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
            + ("" if self.founded else f" UNION ALL SELECT g.pid, {name}, 3 {_ADVISORY} AND {MAKES} AND {_NOT_OURS}")
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
            f"{_ADVISORY} AND ({keys if self.founded else f'{keys} OR {MAKES}'}) ORDER BY 1"
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


def tables_of(command: Command | None) -> tuple[str, ...]:
    """Return the tables of the bookkeeping. The first is that by which its place is found."""
    if command is None:
        return _TABLES
    return (*_TABLES, "migration_commands") if command.with_files else ("migration_commands", "migration_lock")


def lock_key(schema: str) -> int:
    """Return the second half of the advisory lock's key: the CRC-32 of the schema's name, as a signed integer."""
    from binascii import crc32  # Only now: a first look takes no lock, and this is a file of its own in some Pythons.

    value = crc32(schema.encode())
    return value - 2**32 if value >= 2**31 else value


def columns_of(listed: Iterable[str]) -> dict[str, str]:
    """Return the names and the types of columns, each listed as its type's number and its name."""
    pairs = [column.split(" ", 1) for column in listed if column]
    return {name: _TYPES.get(oid, "another type") for oid, name in pairs}
