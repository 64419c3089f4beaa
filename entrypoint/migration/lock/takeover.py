"""Takes the lock: first the guard, then the tables if they are missing, then the row if no fence protects it."""

from __future__ import annotations

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.database.address import OURS
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import THIS_DATABASE
from entrypoint.database.transactions import end_sessions
from entrypoint.deadline import Deadline
from entrypoint.errors import ConnectionLostError
from entrypoint.migration.ledger import reading, tables, words
from entrypoint.migration.ledger.finding import find_again, refuse_intrusion
from entrypoint.migration.ledger.keys import guarded_by, keeps_the_row, session_key
from entrypoint.migration.lock import row
from entrypoint.migration.lock.eviction import evict, left_behind
from entrypoint.migration.lock.guard import Guard
from entrypoint.migration.lock.lease import Lease, begin_short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from entrypoint.database.session import Session
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.lock.waiting import Streak
    from entrypoint.records import LockPolicy

    _T = TypeVar("_T")

# If the guard's lock was free at every look for this long, but the row was not: nobody has regained the guard.
ZOMBIE_AFTER = 2.0
# A living holder shows its progress every second during a long migration.
_SILENT = 10
# The least time to open the guard's connection, even if the waiting time is nearly up.
_LEAST_CONNECT = 0.5
# For each of our own short statements about the lock.
_PATIENCE = 10.0


def try_acquire(
    assignment: Assignment, worker: Session, place: Place, token: str, streak: Streak, deadline: Deadline
) -> Lease | None:
    """Try once to take the lock; return the lease, or None if somebody else has it.

    Both connections exist before anything is taken: `worker` is already open, and the guard's is opened first.
    `streak`: how long an earlier holder's fence has been the only obstacle.
    A rehearsal creates and upgrades nothing; if our tables do not exist, it takes only the guard's lock.
    Raises `database.login.Failure` if the guard's connection is refused.
    """
    patience = deadline.within(_PATIENCE)
    target, role = assignment.target, assignment.role
    ends = Deadline(assignment.clocks.work_left({}))
    guard = Guard(target, place, min(assignment.connect_timeout, max(deadline.remaining(), _LEAST_CONNECT)))
    lease = None
    try:
        if not guard.try_lock(patience):
            return None
        # Only now may the tables be created or changed, unless a living replica of the earlier system uses them.
        begin = begin_short(worker, role, patience)
        # If there are no tables yet, `ensure` checks again, under the lock that protects creating a ledger.
        nothing = tables.nothing_is_there(place) and not assignment.rehearsal
        if not nothing:
            found = _with_second_connection(
                worker, place, lambda: find_again(worker, place, assignment.schema, patience, role)
            )
            if found.schema != place.schema:
                # The guard holds the lock of another schema.
                return None
            place = found
        refuse_intrusion(place)
        if not place.complete:
            if not nothing and _earlier_system_works(worker, place, role, assignment.lock, patience):
                return None
            if assignment.rehearsal:
                lease = Lease(guard, worker, place, token, role, ends, shown=False)
                return lease
            done = "upgraded" if place.founded else "created"
            made = _with_second_connection(
                worker, place, lambda: tables.ensure(worker, place, assignment.schema, role, begin, patience)
            )
            if made is None:
                return None
            place = made
            logs.event(
                logs.INFO,
                "ledger.created",
                f"{done} the migration history in schema {place.schema}",
                schema=place.schema,
            )
        life = row.life(guard.backend_pid, token, f"{ends.remaining():.3f}")
        ours = f"{row.held_by_us(token)}, {row.NO_PROGRESS}, {life}"
        if _take_row(worker, place, ours, begin, assignment.lock, guard, patience) or (
            evict(worker, place, role, guard.backend_pid, patience, streak=streak)
            and _take_row(worker, place, ours, begin, assignment.lock, guard, patience)
        ):
            lease = Lease(guard, worker, place, token, role, ends)
        elif guard.held_within(0):
            streak.seen()
            if streak.seconds() >= ZOMBIE_AFTER:
                _end_zombie(worker, place, begin, guard, streak, patience)
        return lease
    finally:
        if lease is None:
            worker.rollback(patience.within(1))
            guard.release()


def _with_second_connection(worker: Session, place: Place, act: Callable[[], _T]) -> _T:
    """Call `act`, the first to use the second connection: a pool with only one connection fails here."""
    try:
        return act()
    except ConnectionLostError as error:
        if worker.login_pid == place.backend_pid:
            raise
        raise ConnectionLostError(
            f"The pooler did not provide a second server connection: {error.message}",
            remedy="Allow at least two server connections in the pool (PgBouncer: default_pool_size), or set "
            "MIGRATION_DATABASE_URL to the server's own address.",
        ) from error


def _end_zombie(worker: Session, place: Place, begin: str, guard: Guard, streak: Streak, deadline: Deadline) -> None:
    """End the sessions of a holder whose guard is gone for good, but whose transaction still protects the row.

    Its process is frozen or its node has vanished: it has not pinged for longer than PostgreSQL lets a guard be idle,
    has not regained the guard, and has shown no progress. Otherwise everybody would have to wait until its statement
    ends. Everything is one message, and the statement that ends sessions also checks who holds the guard's lock,
    because this process may freeze between two messages. The row is read as the role; sessions are ended as the login
    user, which is probably theirs, too.
    """
    left = (
        f"s.application_name = '{OURS}' || nullif(pg_catalog.current_setting('entrypoint.zombie', true), '') "
        f"AND {keeps_the_row(place)} AND s.datid = {THIS_DATABASE} AND {guarded_by(place, guard.backend_pid)} "
        # Our own guard may have that name as well: it may be this process that was frozen.
        f"AND s.pid <> {guard.backend_pid}"
    )
    try:
        results = worker.query(
            f"""{begin}
            SELECT l.locked_by, l.process_id,
                   pg_catalog.set_config('entrypoint.zombie', pg_catalog.split_part(l.token, '.', 1), true)
            FROM {place.table("migration_lock")} l
            WHERE l.id = 1
                -- Both are NULL if an operator freed the row before its holder showed any progress.
                AND coalesce(greatest(l.locked_at, l.progress_at), '-infinity')
                    < pg_catalog.clock_timestamp() - interval '{_SILENT} seconds';
            {end_sessions(left)};
            COMMIT""",
            deadline,
        )
    except StatementError as error:
        # Replicas may log in as different users. Then we must wait until its statement ends.
        worker.rollback(deadline)
        logs.event(
            streak.level("lock.zombie_left"),
            "lock.zombie_left",
            f"the previous holder of the migration lock no longer responds, and its session cannot be ended: {error}",
            remedy=f"Run entrypoint unlock --force as {words.WHO_MAY_END}; or wait for the session's statement to end.",
        )
        return
    found, ended = results[-4], len(results[-2])
    for holder, process_id, _token in found if ended else ():
        logs.event(
            logs.WARNING,
            "lock.ended_zombie",
            "the previous holder of the migration lock, "
            f"{f'{holder} (process {process_id})' if holder else 'which an '}{'' if holder else 'operator has freed'}, "
            f"no longer responds; ended its {count(ended, 'session')}",
            holder=holder,
            process_id=int(process_id) if process_id else None,
        )


def _earlier_system_works(
    worker: Session, place: Place, role: str | None, policy: LockPolicy, deadline: Deadline
) -> bool:
    row = reading.look(worker, place, role, deadline, contending=True).lock
    return row is not None and row.keeps_us_out(policy.stale)


def _take_row(
    worker: Session, place: Place, ours: str, begin: str, policy: LockPolicy, guard: Guard, deadline: Deadline
) -> bool:
    """Write our name into the row, unless a replica of the earlier system holds it or a fence protects it.

    While our guard holds its lock, a row with a token belongs to a holder whose guard is gone, whatever its age. This
    is checked again once the row is locked, because this process may have been frozen in between. SKIP LOCKED: an
    earlier holder's transaction that still has the fence must end first.
    """
    table = place.table("migration_lock")
    results = worker.query(
        f"""{begin}
        INSERT INTO {table} (id) VALUES (1) ON CONFLICT (id) DO NOTHING;
        WITH candidate AS (
            SELECT id FROM {table}
            WHERE id = 1 AND (locked_at IS NULL OR token IS NOT NULL
                OR locked_at < pg_catalog.clock_timestamp() - interval '{policy.stale:.3f} seconds')
                -- A session that still works outside a transaction for an earlier holder has this in shared mode.
                AND pg_catalog.pg_try_advisory_xact_lock({session_key(place)})
                -- Sessions of another migration tool that an earlier holder ran.
                AND NOT {left_behind("token")}
            FOR UPDATE SKIP LOCKED
        )
        UPDATE {table} AS l SET {ours}
        FROM candidate
        -- This refers to the candidate, so that it is evaluated after the row is locked.
        WHERE l.id = candidate.id AND CASE WHEN candidate.id = 1 THEN {guarded_by(place, guard.backend_pid)} END
        RETURNING l.id;
        COMMIT""",
        deadline,
    )
    return bool(results[-2])
