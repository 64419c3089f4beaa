"""Which sessions keep a statement waiting for a lock, and for how long: queries for PostgreSQL, and answers in words.

Pure functions that return SQL and read rows. Other sessions' queries are shown without the values in them.
"""

from __future__ import annotations

import re

from entrypoint.database import session_state
from entrypoint.database.quoting import THIS_DATABASE, literal
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.answers import Row

_QUERY_WIDTH = 120
_MOST = 5

# A session that holds one of these, or queues for it, keeps others from reading or writing the table.
_STRONG = "('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"

# A session that has locked or changed a row holds one of these.
_WEAK = "('RowShareLock', 'RowExclusiveLock')"
_ANY = "('AccessShareLock', 'RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareRowExclusiveLock')"


class Wait(NamedTuple):
    """A backend's wait for a lock, as seen at one moment."""

    began: str
    """When it began, in microseconds by the server's clock; it identifies the wait. Empty before PostgreSQL 14."""
    seconds: float
    """How long it has lasted so far; 0 before PostgreSQL 14."""
    mode: str
    """Such as AccessExclusiveLock."""
    target: str
    """The table; if it is not a table, the kind of lock."""
    in_the_way: bool
    """Whether others must wait at the same time, because the migration holds a lock that keeps them out of a table, or
    queues for one."""


class Waits:
    """The time that one transaction has spent waiting for locks while others waited behind it.

    It is measured from outside, in samples. A wait that begins and ends between two samples is missed, and so is
    the rest of a wait after its last sample. So the sum is never larger than the real time.
    """

    def __init__(self) -> None:
        """Start with no waits."""
        self._over = 0.0
        self._began: str | None = None
        self._first_seen = 0.0
        self._current = 0.0

    @property
    def seconds(self) -> float:
        """The sum so far."""
        return self._over + self._current

    def seen(self, wait: Wait | None, now: float) -> None:
        """Add a sample: the wait at the moment `now` (seconds on a monotonic clock), or None."""
        if wait is None or wait.began != self._began:
            self._over += self._current
            self._current = 0.0
            self._began = None if wait is None else wait.began
            self._first_seen = now
        if wait is not None and wait.in_the_way:
            self._current = max(self._current, wait.seconds or now - self._first_seen)


class Blocker(NamedTuple):
    """A session, or a prepared transaction, that holds the lock or is ahead of us in the queue."""

    pid: int
    """0 for a prepared transaction."""
    user: str | None
    application: str | None
    transaction_s: int | None
    """How long its transaction has been open; None if none is open, or if we may not see that."""
    state: str | None
    """Such as `idle in transaction`; None if we may not see that."""
    waits: bool
    """Whether it is waiting for a lock itself."""
    query: str
    kind: str | None
    """Such as `autovacuum worker`; None for a prepared transaction."""
    gid: str | None
    """The name of a prepared transaction."""

    @property
    def name(self) -> str:
        """The shortest text that identifies it."""
        return f"prepared transaction {self.gid!r}" if self.gid is not None else f"backend {self.pid}"

    @property
    def short(self) -> str:
        """Its name, user and application."""
        whose = ", ".join(part for part in (self.user, self.application) if part)
        return f"{self.name} ({whose})" if whose else self.name

    @property
    def brief(self) -> str:
        """The same, with what it is doing and since when, but without its query."""
        return self._replace(query="").words()

    def words(self) -> str:
        """Return everything that is known about it."""
        if self.gid is not None:
            return f"{self.name} ({self.user}, prepared {self.transaction_s} s ago)"
        if self.state is None and self.kind is None:
            # PostgreSQL shows what a session does to its own role, to members of that role, and to pg_read_all_stats.
            return f"{self.name} ({self.user or 'unknown'}; this user may not see what it is doing)"
        # PostgreSQL's own processes have no user.
        who = [self.user, self.application or "no application name"] if self.user else [self.kind]
        facts = [*who, self.state]
        if self.transaction_s is None:
            facts.append("no transaction open")
        else:
            facts.append(f"transaction open for {self.transaction_s} s")
        if self.waits:
            facts.append("waiting for a lock itself")
        text = f"{self.name} ({', '.join(fact for fact in facts if fact)})"
        if not self.query:
            return text
        return f"{text}: {self.query}" if self.state == "active" else f"{text}; its last statement: {self.query}"

    def remedy(self) -> str:
        """Return what an operator can do about it."""
        if self.gid is not None:
            name = self.gid.replace("'", "''")
            return f"COMMIT PREPARED '{name}' or ROLLBACK PREPARED '{name}', whichever its owner intended."
        what = "that session releases its lock" if self.transaction_s is None else "that transaction ends"
        return f"Wait until {what}, or end the session: SELECT pg_terminate_backend({self.pid})."


def waiting(backend_pid: int, server_version: int) -> str:
    """Return the query for a backend's wait, of at most one row; `read_wait` reads it.

    It runs several times a second, so it only reads the list of all locks if the backend is waiting.
    """
    since = "l.waitstart" if server_version >= 140000 else "NULL::timestamptz"
    return f"""
        SELECT (extract(epoch FROM w.waitstart) * 1000000)::bigint,
               extract(epoch FROM pg_catalog.clock_timestamp() - w.waitstart),
               w.mode, coalesce({session_state.shown("w.relation")}, w.locktype),
               w.locktype = 'relation' AND w.mode IN {_STRONG} OR EXISTS (
                   -- Except a table that the migration has just created: nobody else can see it.
                   SELECT FROM pg_catalog.pg_locks s WHERE s.pid = {backend_pid} AND s.granted
                       AND s.locktype = 'relation' AND s.mode IN {_STRONG} AND EXISTS (
                           SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.relation))
        FROM pg_catalog.pg_stat_get_activity({backend_pid}) a
        CROSS JOIN LATERAL (
            SELECT l.mode, l.locktype, l.relation, {since} AS waitstart FROM pg_catalog.pg_locks l
            WHERE l.pid = a.pid AND NOT l.granted LIMIT 1
        ) w
        WHERE a.wait_event_type = 'Lock'"""


def read_wait(rows: list[Row]) -> Wait | None:
    """Read the result of `waiting`; None if the backend does not wait."""
    if not rows:
        return None
    began, seconds, mode, target, in_the_way = rows[0]
    return Wait(began or "", float(seconds or 0), mode or "", target or "", in_the_way == "t")


def cancel(backend_pid: int, wait: Wait) -> str:
    """Return the statement that cancels a backend's query if it is still in the same wait.

    The server checks and sends the signal in one statement, with almost no time in between. It returns a row if the
    signal was sent.
    """
    same = f"AND (extract(epoch FROM l.waitstart) * 1000000)::bigint = {wait.began}" if wait.began else ""
    return (
        f"SELECT pg_catalog.pg_cancel_backend(l.pid) FROM pg_catalog.pg_locks l WHERE l.pid = {backend_pid} "
        f"AND NOT l.granted {same} LIMIT 1"
    )


def blocking(backend_pid: int) -> str:
    """Return the query for the sessions that keep a backend waiting, the longest transaction first.

    `read_blockers` reads it. The server reports the leader of parallel workers instead of the workers, and pid 0 for a
    prepared transaction, which has no backend (PostgreSQL's documentation, "System Information Functions").
    """
    columns: tuple[str, ...] = ("locktype", "database", "relation", "page", "tuple", "virtualxid", "transactionid")
    columns += ("classid", "objid", "objsubid")
    theirs, ours = (", ".join(f"{table}.{column}" for column in columns) for table in ("h", "w"))
    return f"""
        WITH blocker AS MATERIALIZED (
            SELECT DISTINCT b.pid FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids({backend_pid})) AS b(pid)
        )
        SELECT b.pid, a.usename, a.application_name,
               extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::bigint AS seconds,
               a.state, a.wait_event_type = 'Lock', a.query, a.backend_type, NULL
        FROM blocker b JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
        UNION ALL
        SELECT 0, p.owner, NULL, extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::bigint,
               NULL, false, NULL, NULL, p.gid
        FROM blocker b JOIN pg_catalog.pg_prepared_xacts p ON p.database = pg_catalog.current_database()
        WHERE b.pid = 0 AND EXISTS (
            -- A prepared transaction holds a lock on its own id, which identifies its other locks.
            SELECT FROM pg_catalog.pg_locks w
            JOIN pg_catalog.pg_locks h ON ({theirs}) IS NOT DISTINCT FROM ({ours}) AND h.pid IS NULL AND h.granted
            JOIN pg_catalog.pg_locks x ON x.virtualtransaction = h.virtualtransaction AND x.pid IS NULL AND x.granted
                AND x.locktype = 'transactionid' AND x.transactionid = p.transaction
            WHERE w.pid = {backend_pid} AND NOT w.granted)
        ORDER BY seconds DESC NULLS LAST LIMIT {_MOST}"""


def locking(
    schema: str, tables: Sequence[str], rows_of: Sequence[str] = (), ours: str = "", *, readers: bool = False
) -> str:
    """Return the query for the sessions that keep others out of these tables; `read_blockers` reads it.

    These are sessions that hold a strong lock on one of them or queue for one, and the sessions that these wait for.
    `rows_of`: include sessions that have locked or changed a row of one of these tables, except those whose names begin
    with `ours`, which do so all the time. `readers`: include sessions that only read them. Sessions that do not wait
    come first, and among those the longest transaction.
    """
    named = ", ".join(map(literal, tables))
    rows = ""
    if rows_of:
        others = ", ".join(map(literal, rows_of))
        rows = f"""
                OR l.mode IN {_ANY if readers else _WEAK} AND l.granted AND c.relname IN ({others})
                AND NOT EXISTS (
                    SELECT FROM pg_catalog.pg_stat_activity o WHERE o.pid = l.pid
                        AND pg_catalog.starts_with(o.application_name, {literal(ours)}))"""
    return f"""
        WITH strong AS MATERIALIZED (
            SELECT l.pid, l.virtualtransaction, l.granted
            FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE l.locktype = 'relation' AND n.nspname = {literal(schema)}
                AND (l.mode IN {_STRONG} AND c.relname IN ({named}){rows})
                AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() AND l.database = {THIS_DATABASE}
        ), found AS (
            SELECT s.pid FROM strong s
            UNION SELECT b.pid FROM strong s CROSS JOIN LATERAL
                pg_catalog.unnest(pg_catalog.pg_blocking_pids(s.pid)) AS b(pid) WHERE NOT s.granted
        )
        SELECT a.pid, a.usename, a.application_name,
               extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::bigint AS seconds,
               a.state, a.wait_event_type = 'Lock' AS waits, a.query, a.backend_type, NULL
        FROM found f JOIN pg_catalog.pg_stat_activity a ON a.pid = f.pid
        UNION ALL
        SELECT 0, p.owner, NULL, extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::bigint,
               NULL, false, NULL, NULL, p.gid
        FROM strong s
        JOIN pg_catalog.pg_locks x ON x.virtualtransaction = s.virtualtransaction AND x.pid IS NULL
            AND x.locktype = 'transactionid'
        JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid
        WHERE s.pid IS NULL
        ORDER BY waits, seconds DESC NULLS LAST LIMIT {_MOST}"""


def read_blockers(rows: list[Row]) -> tuple[Blocker, ...]:
    """Read the result of `blocking` or `locking`."""
    return tuple(
        Blocker(
            pid=int(pid or 0),
            user=user and foreign(user),
            application=(application and foreign(application)) or None,
            transaction_s=None if seconds is None else int(seconds),
            state=state,
            waits=waits == "t",
            query=without_literals(foreign(query or "")),
            kind=kind,
            gid=gid and foreign(gid),
        )
        for pid, user, application, seconds, state, waits, query, kind, gid in rows
    )


def blocker_fields(blocker: Blocker) -> dict[str, object]:
    """Return the log's fields about who blocks a migration."""
    return {
        "blocker": blocker.pid or None,
        "blocker_prepared": blocker.gid,
        "blocker_user": blocker.user,
        "blocker_application": blocker.application,
        "blocker_transaction_s": blocker.transaction_s,
    }


# As much of PostgreSQL's lexical rules (scan.l) as is needed to recognize values. The server truncates a long query
# (track_activity_query_size), so a value that is open at the end extends to the end.
_TOKEN = re.compile(
    r"""
      (?P<line> --[^\n\r]*+ )
    | (?P<comment> /\* )
    | (?P<value> [eE]'(?:[^'\\]++|\\.|''|(?!))*+(?:'|\\?\Z)
               | '(?:[^']++|''|(?!))*+(?:'|\Z)
               | \$(?P<tag>(?:[^\W\d]\w*+)?)\$ .*? (?:\$(?P=tag)\$|\Z)
               | (?:\d|\.\d)[\w.]*+(?:(?<=[eE])[+-]\d++)? )
    | (?P<kept> "(?:[^"]++|""|(?!))*+(?:"|\Z) | \$\d++ | (?![eE]')[^\W\d][\w$]*+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


def without_literals(query: str) -> str:
    """Return a query for the log: on one line, shortened, and without its values and comments, which may be private."""
    kept: list[str] = []
    pos = 0
    while found := _TOKEN.match(query, pos):
        pos = found.end()
        if found["value"]:
            kept.append("?")
            if _may_go_on(found["value"]):
                break
        elif found["comment"]:
            pos = _comment_end(query, found.start())
            kept.append(" ")
        else:
            kept.append(found["kept"] or " ")
    text = " ".join("".join(kept).split())
    return text if len(text) <= _QUERY_WIDTH else text[: _QUERY_WIDTH - 3] + "..."


def _may_go_on(value: str) -> bool:
    r"""Tell whether a string may end elsewhere: with `standard_conforming_strings` off, \' does not end it.

    The setting of the other session cannot be known here.
    """
    return value.startswith("'") and r"\'" in value


def _comment_end(query: str, start: int) -> int:
    """Return the offset after the comment that begins at `start`. Comments nest; a truncated one extends to the end."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(query, start):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(query)
