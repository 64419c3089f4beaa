"""Who keeps a statement waiting for a lock, and for how long: the questions to PostgreSQL, and its answers in words.

Pure functions that make SQL and read rows. What others do is told without the values in their queries.
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

# Whoever holds one of these, or stands in line for it, keeps others from reading or writing the table.
_STRONG = "('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"

# Whoever has locked or changed a row holds one of these.
_WEAK = "('RowShareLock', 'RowExclusiveLock')"
_ANY = "('AccessShareLock', 'RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareRowExclusiveLock')"


class Wait(NamedTuple):
    """A backend's wait for a lock, as it was seen at one moment."""

    began: str
    """When, by the server's clock in microseconds: this tells one wait from the next. Empty before PostgreSQL 14."""
    seconds: float
    """For how long so far; 0 before PostgreSQL 14."""
    mode: str
    """As in AccessExclusiveLock."""
    target: str
    """The table, or else what kind of thing is locked."""
    in_the_way: bool
    """Whether others have to wait meanwhile: the migration holds a lock that keeps them out of a table, or it stands
    in line for one."""


class Waits:
    """The time that one transaction has spent waiting for locks while others waited behind it.

    Seen from outside, in samples: what has begun and ended between two of them is missed, and of the others the time
    after the last sample. So the sum is never more than it really was.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._over = 0.0
        self._began: str | None = None
        self._first_seen = 0.0
        self._current = 0.0

    @property
    def seconds(self) -> float:
        """The sum so far."""
        return self._over + self._current

    def seen(self, wait: Wait | None, now: float) -> None:
        """Take a sample: the wait at the moment `now` (in seconds, of a clock that nobody sets), or None."""
        if wait is None or wait.began != self._began:
            self._over += self._current
            self._current = 0.0
            self._began = None if wait is None else wait.began
            self._first_seen = now
        if wait is not None and wait.in_the_way:
            self._current = max(self._current, wait.seconds or now - self._first_seen)


class Blocker(NamedTuple):
    """A session, or a prepared transaction, that holds the lock or stands before us in the line."""

    pid: int
    """0 for a prepared transaction."""
    user: str | None
    application: str | None
    transaction_s: int | None
    """For how long its transaction is open; None if none is, or if we may not know."""
    state: str | None
    """As in `idle in transaction`; None if we may not know."""
    waits: bool
    """Whether it waits for a lock itself."""
    query: str
    kind: str | None
    """As in `autovacuum worker`; None for a prepared transaction."""
    gid: str | None
    """A prepared transaction's name."""

    @property
    def name(self) -> str:
        """The shortest that tells which one it is."""
        return f"prepared transaction {self.gid!r}" if self.gid is not None else f"backend {self.pid}"

    @property
    def short(self) -> str:
        """Which one it is, and whose."""
        whose = ", ".join(part for part in (self.user, self.application) if part)
        return f"{self.name} ({whose})" if whose else self.name

    def words(self) -> str:
        """Return all that is known about it."""
        if self.gid is not None:
            return f"{self.name} ({self.user}, prepared {self.transaction_s} s ago)"
        if self.state is None and self.kind is None:
            # What others do is shown to their own role, to its members, and to pg_read_all_stats.
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
        return f"It goes on when {what}. To end it: SELECT pg_terminate_backend({self.pid})."


def waiting(backend_pid: int, server_version: int) -> str:
    """Return the query for what a backend waits for, of at most one row for `read_wait`.

    It is asked several times a second: the list of all locks is read only if the backend does wait.
    """
    since = "l.waitstart" if server_version >= 140000 else "NULL::timestamptz"
    return f"""
        SELECT (extract(epoch FROM w.waitstart) * 1000000)::bigint,
               extract(epoch FROM pg_catalog.clock_timestamp() - w.waitstart),
               w.mode, coalesce({session_state.shown("w.relation")}, w.locktype),
               w.locktype = 'relation' AND w.mode IN {_STRONG} OR EXISTS (
                   -- Not one that the migration has just created: nobody else can see that.
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
    """Return what `waiting` has found."""
    if not rows:
        return None
    began, seconds, mode, target, in_the_way = rows[0]
    return Wait(began or "", float(seconds or 0), mode or "", target or "", in_the_way == "t")


def cancel(backend_pid: int, wait: Wait) -> str:
    """Return the statement that cancels what a backend does if it still waits for that very lock.

    The question and the signal are one statement of the server's, so there is next to no time between them. It
    returns a row if the signal was sent.
    """
    same = f"AND (extract(epoch FROM l.waitstart) * 1000000)::bigint = {wait.began}" if wait.began else ""
    return (
        f"SELECT pg_catalog.pg_cancel_backend(l.pid) FROM pg_catalog.pg_locks l WHERE l.pid = {backend_pid} "
        f"AND NOT l.granted {same} LIMIT 1"
    )


def blocking(backend_pid: int) -> str:
    """Return the query for who keeps a backend waiting, for `read_blockers`; the longest transaction first.

    The server takes parallel workers for the backend that they work for, and a prepared transaction, which has no
    backend, for number 0 (documentation, "System Information Functions").
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
            -- A prepared transaction holds a lock on its own number, and by that its other locks are known.
            SELECT FROM pg_catalog.pg_locks w
            JOIN pg_catalog.pg_locks h ON ({theirs}) IS NOT DISTINCT FROM ({ours}) AND h.pid IS NULL AND h.granted
            JOIN pg_catalog.pg_locks x ON x.virtualtransaction = h.virtualtransaction AND x.pid IS NULL AND x.granted
                AND x.locktype = 'transactionid' AND x.transactionid = p.transaction
            WHERE w.pid = {backend_pid} AND NOT w.granted)
        ORDER BY seconds DESC NULLS LAST LIMIT {_MOST}"""


def locking(
    schema: str, tables: Sequence[str], rows_of: Sequence[str] = (), ours: str = "", *, readers: bool = False
) -> str:
    """Return the query for who keeps others out of these tables, for `read_blockers`.

    That is whoever has a strong lock on one of them, or stands in line for it, and who keeps those waiting. With
    `rows_of`, also who has locked or changed a row of one of those; sessions whose names begin with `ours` do that all
    the time, and do not count there. `readers`: who only reads them counts as well. Whoever does not wait for others
    comes first, and of those the longest transaction.
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
    """Return what `blocking` has found."""
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


# What has to be known of PostgreSQL's lexical rules (scan.l) to tell values from the rest. The server cuts a long
# query off (track_activity_query_size), so whatever is open at the end goes to the end.
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
    """Return a query for a log: one line, cut, and its values and comments left out, as they are somebody else's."""
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
    r"""Tell whether a string may end elsewhere: with `standard_conforming_strings` off, \' does not end one.

    That is a setting of the session whose query it is, and cannot be known here.
    """
    return value.startswith("'") and r"\'" in value


def _comment_end(query: str, start: int) -> int:
    """Return the offset after the comment that begins at `start`. Comments nest; one that is cut off has no end."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(query, start):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(query)
