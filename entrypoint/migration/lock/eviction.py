"""Recognizes and ends the sessions of another migration tool that was run under the lock.

The tool's transactions have no fence. Instead, each of its sessions takes two advisory locks before its first query, in
shared mode and for as long as it lives. It is then disconnected unless our guard still holds its lock. A process that
takes over finds these sessions by their locks or their name, ends them, and takes the row only when none is left.
"""

from __future__ import annotations

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.database.address import OURS
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import PINNED, literal
from entrypoint.database.transactions import end_sessions
from entrypoint.deadline import Deadline, pause
from entrypoint.migration.ledger.keys import LOCK_CLASS, guarded_by, keyed, lock_key, session_key
from entrypoint.migration.lock.lease import begin_short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.lock.waiting import Streak

TOOL = ":tool"
"""The end of the sessions' names; before it comes the token of the process that runs the tool."""

# The first half of the key that only a tool's sessions hold, in shared mode. The second half is that of all our locks.
_TOOL_CLASS = LOCK_CLASS + 3
# A terminated session is gone within milliseconds, unless its server process is stuck in the kernel.
_GONE_WITHIN = 5.0
_TICK = 0.02


def session_name(token: str) -> str:
    """Return the name of the tool's sessions in `pg_stat_activity`."""
    return f"{OURS}{token.partition('.')[0]}{TOOL}"


def admission(place: Place, database: str, guard_pid: int) -> str:
    """Return the statements that a tool's session begins with; the last row says whether it may continue.

    The locks come first. A process that takes over after that finds the session; one that took over before holds the
    guard's lock. In another database of the server, no locks are taken: nobody looks for them there, and other
    applications may use the same keys.
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
    worker: Session,
    place: Place,
    role: str | None,
    guard_pid: int,
    deadline: Deadline,
    token: str | None = None,
    streak: Streak | None = None,
) -> bool:
    """End the sessions that an earlier holder's tool has left on the server, if our guard holds its lock.

    Returns whether there were any, and all of them are gone. `token`: that of the holder that ran the tool; None: the
    row has it. `streak`: of attempts that met the same sessions, so that they are only told once.
    Sessions in other databases are ended if they have the tool's name. Everything is one message, because
    this process may freeze between two. Raises ConnectionLostError.
    """
    until = deadline.within(_GONE_WITHIN)
    ended: set[str] = set()
    while True:
        try:
            rows = worker.query(_ending(worker, place, role, guard_pid, until, token), until)[-2]
        except StatementError as error:
            # The session belongs to a superuser or another user. Then we must wait until it ends.
            worker.rollback(until)
            logs.event(
                logs.WARNING if streak is None else streak.level("command.sessions_left"),
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
    """Return a condition: the tool of the holder with this `token` (an SQL expression) has a session on the server."""
    return f"EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(NULL) s WHERE {_named(token)})"


def _named(token: str) -> str:
    return f"s.application_name = '{OURS}' || nullif(pg_catalog.split_part({token}, '.', 1), '') || '{TOOL}'"


def _ending(
    worker: Session, place: Place, role: str | None, guard_pid: int, deadline: Deadline, token: str | None
) -> str:
    """Return the statements for one try. They read the row as the role, and end sessions as the login user."""
    whose = (
        f"(SELECT l.token FROM {place.table('migration_lock')} l WHERE l.id = 1)" if token is None else literal(token)
    )
    named = _named("pg_catalog.current_setting('entrypoint.tool', true)")
    left = f"({named} OR s.pid IN (SELECT g.pid {keyed(place, _TOOL_CLASS)})) AND {guarded_by(place, guard_pid)}"
    return f"""{begin_short(worker, role, deadline)}
        SELECT pg_catalog.set_config('entrypoint.tool', coalesce({whose}, ''), true);
        {end_sessions(left)};
        COMMIT"""
