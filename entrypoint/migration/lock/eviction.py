"""The sessions of another migration tool that has been run under the lock: how they are known, and how they are ended.

Its transactions have no fence of ours. So each of its sessions takes two advisory locks before its first query, shared
and for as long as it lives, and is cut off unless our guard has its lock after that. Whoever takes over finds it by
them, or by its name, ends it, and takes the row only when none is left.
"""

from __future__ import annotations

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.database.address import OURS
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import PINNED, THIS_DATABASE, literal
from entrypoint.database.transactions import end_sessions
from entrypoint.deadline import Deadline, pause
from entrypoint.migration.ledger.keys import LOCK_CLASS, guarded_by, lock_key, session_key
from entrypoint.migration.lock.lease import begin_short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.migration.ledger.place import Place

TOOL = ":tool"
"""How the names of its sessions end; before it is the token of the process that runs it."""

# The first half of the key that only a tool's sessions have, shared. The second is that of all our locks.
_TOOL_CLASS = LOCK_CLASS + 3
# A session that is ended is gone within milliseconds, unless its server process is stuck in the kernel.
_GONE_WITHIN = 5.0
_TICK = 0.02


def session_name(token: str) -> str:
    """Return what the tool's sessions are called in `pg_stat_activity`."""
    return f"{OURS}{token.partition('.')[0]}{TOOL}"


def admission(place: Place, database: str, guard_pid: int) -> str:
    """Return the statements that a tool's session begins with; the last row says whether it may go on.

    The locks come first: whoever takes over after they are taken finds the session, and whoever did before that has
    taken the guard's. In another database of the server nobody looks for these locks, and others may have theirs.
    """
    locks = ", ".join(
        f"pg_catalog.pg_advisory_lock_shared({key})"
        for key in (session_key(place), f"{_TOOL_CLASS}, {lock_key(place.schema)}")
    )
    guards = (
        f"g.locktype = 'advisory' AND g.granted AND g.objsubid = 2 AND g.classid = {LOCK_CLASS} "
        f"AND g.objid = {lock_key(place.schema) % 2**32} AND g.mode = 'ExclusiveLock' AND g.pid = {guard_pid}"
    )
    return (
        f"BEGIN ISOLATION LEVEL READ COMMITTED; {PINNED}; "
        f"SELECT {locks} WHERE pg_catalog.current_database() = {literal(database)}; "
        f"SELECT count(*) > 0 FROM pg_catalog.pg_locks g WHERE {guards}; COMMIT"
    )


def evict(
    worker: Session, place: Place, role: str | None, guard_pid: int, deadline: Deadline, token: str | None = None
) -> bool:
    """End what an earlier holder's tool has left in the server, if our guard has its lock.

    Return whether there was any, and all is gone.

    `token`: whose tool it was; else the row knows. Another database of the server counts, if the name is the tool's.
    All is asked in one message, as this process may freeze between two. Raises ConnectionLostError.
    """
    until = deadline.within(_GONE_WITHIN)
    ended: set[str] = set()
    while True:
        try:
            rows = worker.query(_ending(worker, place, role, guard_pid, until, token), until)[-2]
        except StatementError as error:
            # A superuser's session, or another user's: then its end has to be waited for.
            worker.rollback(until)
            logs.event(
                logs.WARNING,
                "command.sessions_left",
                "an earlier holder's migration command still has sessions on the server, and they cannot be ended: "
                f"{error}",
                remedy="Log in for migrations as the same user as the command, or grant pg_signal_backend.",
            )
            return False
        ended.update(pid or "" for pid, _ in rows)
        if not rows or until.passed():
            break
        pause(_TICK)
    if ended:
        logs.event(
            logs.WARNING if token is None else logs.DEBUG,
            "command.evicted",
            f"ended {count(len(ended), 'session')} that a migration command had left on the server",
            sessions=len(ended),
        )
    return bool(ended) and not rows


def left_behind(token: str) -> str:
    """Return a condition: a session of the tool of whoever has that `token` (an SQL expression) is in the server."""
    return f"EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(NULL) o WHERE {_named(token)})"


def _named(token: str, activity: str = "o") -> str:
    return f"{activity}.application_name = '{OURS}' || nullif(pg_catalog.split_part({token}, '.', 1), '') || '{TOOL}'"


def _ending(
    worker: Session, place: Place, role: str | None, guard_pid: int, deadline: Deadline, token: str | None
) -> str:
    """Return the statements of one look. The row is read as the role, and sessions are ended as the login user."""
    whose = (
        f"(SELECT l.token FROM {place.table('migration_lock')} l WHERE l.id = 1)" if token is None else literal(token)
    )
    named = _named("pg_catalog.current_setting('entrypoint.tool', true)", "s")
    keyed = (
        "SELECT g.pid FROM pg_catalog.pg_locks g WHERE g.locktype = 'advisory' AND g.granted AND g.objsubid = 2 "
        f"AND g.classid = {_TOOL_CLASS} AND g.objid = {lock_key(place.schema) % 2**32} AND g.database = {THIS_DATABASE}"
    )
    left = f"({named} OR s.pid IN ({keyed})) AND {guarded_by(place, guard_pid)}"
    return f"""{begin_short(worker, role, deadline)}
        SELECT pg_catalog.set_config('entrypoint.tool', coalesce({whose}, ''), true);
        {end_sessions(left)};
        COMMIT"""
