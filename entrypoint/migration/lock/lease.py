"""The migration lock: PostgreSQL keeps it, a row shows it, and every migration is fenced by it.

Three parts, each with one job (docs/lock.md):

- The *guard* is the lock. A connection of its own holds an advisory lock in an open, otherwise idle transaction.
  When this process dies, PostgreSQL ends that transaction, and the lock with it. A thread pings it; a process
  that is frozen stops pinging, and PostgreSQL ends the transaction as idle for too long.
- The *row* `migration_lock` shows who holds the lock, with a token of this process. It is for people and for
  replicas of the earlier system.
- The *fence* stands at the start of each migration's transaction: FOR KEY SHARE on the row, if it still has our
  token. From then on nobody can take the row until that transaction has ended, even if the guard is gone and
  even if this process is.
"""

from __future__ import annotations

import json
import os
import threading
import time

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.database import session_state, transactions
from entrypoint.database.answers import StatementError
from entrypoint.database.connect import Failure
from entrypoint.database.quoting import identifier, literal
from entrypoint.deadline import Deadline, joined, pause, sliced
from entrypoint.errors import ConnectionLostError, EntrypointError, LeaseLostError
from entrypoint.migration.ledger import reading, tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from entrypoint.database.connect import Target
    from entrypoint.database.session import Session
    from entrypoint.migration.ledger.reading import Place
    from entrypoint.policy import LockPolicy

PING_EVERY = 5.0
# Between two attempts to win a lost guard back.
_WIN_BACK_PAUSE = 0.2
# How long the guard's thread may take to stop.
_STOP = 0.5
_PING_PATIENCE = 10.0
# A holder that lives wins a lost guard back well within this; one that does not is frozen, or its node is gone.
_WIN_BACK = 2.0
# The guard's lock was to be had again and again for so long, and the row was not: nobody won the guard back.
_ZOMBIE_AFTER = 2.0
# A holder that lives shows its progress every second while a migration takes long.
_SILENT = 10
# Longer than a contender's pause, so that "again and again" means at each of its looks.
_BREAK = 2.5
# To open the guard's connection, even if the waiting is nearly over.
_LEAST_CONNECT = 0.5
# What ended the guard's session and what ended the worker's are one and the same if there is no more between them.
_LATELY = 1.0
_NEVER = float("-inf")
# For each of our own short statements about the lock.
_PATIENCE = 10.0
_SHORT_LOCK_TIMEOUT_MS = 2_000
_QUERY_CANCELED = "57014"

# Who holds the lock need not be known to a standby: where one is missing, only a migration's own COMMIT waits for it.
_ON_THIS_SERVER = "\nSET LOCAL synchronous_commit = local;"
_NO_PROGRESS = (
    "progress_migration = NULL, progress_statement = NULL, progress_statements = NULL, progress_at = NULL, "
    "progress_detail = NULL"
)
_FREE = (
    f"locked_at = NULL, locked_by = NULL, process_id = NULL, token = NULL, {_NO_PROGRESS}, "
    "guard_pid = NULL, guard_token = NULL, until = NULL"
)


class Spell:
    """For how long something has been seen again and again, without a break."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Count by a `clock` in seconds."""
        self._clock = clock
        self.told = False
        """Whether the log has been told what cannot be done about it."""
        self._first = self._last = float("-inf")

    def seen(self) -> None:
        """Say that it is seen now."""
        now = self._clock()
        if now - self._last > _BREAK:
            self._first = now
        self._last = now

    def seconds(self) -> float:
        """Return for how long it has been seen, up to now; 0 after a break."""
        now = self._clock()
        return now - self._first if now - self._last <= _BREAK else 0.0


class Guard:
    """The connection that holds the advisory lock, and the thread that keeps it alive and wins it back."""

    def __init__(self, target: Target, place: Place, connect_timeout: float) -> None:
        """Open the connection; it holds nothing yet. Raises `database.connect.Failure`."""
        self._target = target
        self._place = place
        self._connect_timeout = connect_timeout
        self._session = target.connect(connect_timeout)
        self._released = threading.Event()
        # Written to on release, as the thread waits on its connection.
        self._wakened, self._waker = os.pipe()
        self._held = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="guard", daemon=True)
        self.backend_pid = 0
        """Which server process holds the lock, once it is taken."""
        self.was_lost = threading.Event()
        """Whether the lock was lost, even if it has been won back."""
        self._lost_at = _NEVER

    def try_lock(self, deadline: Deadline) -> bool:
        """Take the lock if nobody holds it; do not wait."""
        if not self._lock(deadline):
            return False
        self._held.set()
        self._thread.start()
        return True

    def held_within(self, seconds: float) -> bool:
        """Tell whether the lock is held, or is won back within so many seconds."""
        return sliced(self._held.wait, seconds)

    def lost_lately(self, seconds: float) -> bool:
        """Tell whether the lock is lost, or was a moment ago, or is within so many seconds."""

        def wait(slice_: float) -> bool:
            pause(slice_)
            return lost()

        def lost() -> bool:
            return not self._held.is_set() or time.monotonic() - self._lost_at < _LATELY

        return lost() or sliced(wait, seconds)

    def release(self) -> None:
        """Let the lock go, at once if the server answers; otherwise it ends with the connection."""
        self._released.set()
        if self._thread.ident is None:
            self._end()
        else:
            os.write(self._waker, b"!")
            # Not for ever: a thread that waits for the server's answer ends when it has it, or with the process.
            joined(self._thread, _STOP)
        if not self._thread.is_alive():
            os.close(self._waker)
            os.close(self._wakened)

    def _end(self) -> None:
        self._session.rollback(Deadline(0.3))
        self._session.close()

    def _lock(self, deadline: Deadline) -> bool:
        results = self._session.query(
            f"{transactions.begin_guard(self._session.server_version)}\n"
            f"SELECT pg_catalog.pg_try_advisory_xact_lock({self._place.lock_key}), pg_catalog.pg_backend_pid()",
            deadline,
        )
        locked, backend_pid = results[-1][0]
        self.backend_pid = int(backend_pid or 0)
        return locked == "t"

    def _keep(self) -> None:
        try:
            self._keep_until_released()
        finally:
            self._end()

    def _keep_until_released(self) -> None:
        """Ping now and then, notice the connection's end at once, and win the lock back if it was lost.

        The ping touches no table: a lock on one would block the migration itself. Whoever has won the lock
        meanwhile keeps it; the fence decides who may commit.
        """
        next_ping = time.monotonic() + PING_EVERY
        while not self._released.is_set():
            try:
                if not self._held.is_set():
                    self._win_back()
                self._session.wait_for_end(max(next_ping - time.monotonic(), 0.0), self._wakened)
                if time.monotonic() >= next_ping:
                    self._session.query("SELECT 1", Deadline(_PING_PATIENCE))
                    next_ping = time.monotonic() + PING_EVERY
            except (StatementError, EntrypointError, Failure) as error:
                self._session.abandon()
                if self._held.is_set() and not self._released.is_set():
                    self._lost_at = time.monotonic()
                    self._held.clear()
                    self.was_lost.set()
                    logs.event(logs.WARNING, "lock.guard_lost", f"the guard of the migration lock is gone: {error}")
                self._released.wait(_WIN_BACK_PAUSE)

    def _win_back(self) -> None:
        self._session = self._target.connect(self._connect_timeout)
        if not self._lock(Deadline(_PING_PATIENCE)):
            raise ConnectionLostError("somebody else holds the migration lock")
        self._held.set()
        logs.event(logs.INFO, "lock.guard_regained", "the guard of the migration lock is back")


class Lease:
    """The lock, held: guard, row and fence, and the connection on which the work is done."""

    def __init__(
        self,
        guard: Guard,
        worker: Session,
        place: Place,
        token: str,
        role: str | None,
        ends: Deadline,
        *,
        shown: bool = True,
    ) -> None:
        """Take what `try_acquire` has put together. `shown`: whether the row says that it is ours."""
        self._guard = guard
        self.worker = worker
        self.place = place
        self.token = token
        self._role = role
        self._ends = ends
        self._shown = shown
        self.revoked = False
        """Whether the watcher has seen that the row is not ours any more."""

    def guard_was_lost(self, seconds: float) -> bool:
        """Tell whether the guard was lost, now or earlier; give its thread so many seconds to notice."""
        return sliced(self._guard.was_lost.wait, seconds)

    def guard_lost_lately(self, seconds: float) -> bool:
        """Tell whether the guard is lost, or was just now and is back; give its thread so many seconds to notice."""
        return self._guard.lost_lately(seconds)

    def check_guard(self) -> None:
        """Give a guard that was lost a moment to be won back. Raises LeaseLostError if it is not."""
        if not self._guard.held_within(_WIN_BACK):
            raise self.lost()

    def fence(self) -> str:
        """Return the statement that begins a migration, in its transaction.

        It returns a row (transaction id, backend) if the lease is still ours; and then it stays ours for as long
        as that transaction lives. Without a row, stop. A rehearsal without the table has no fence; it commits nothing.
        """
        begun = "SELECT pg_catalog.pg_current_xact_id()::text, pg_catalog.pg_backend_pid()"
        return f"{begun} {self._ours()} FOR KEY SHARE;" if self._shown else f"{begun};"

    def open(self, begin: str, deadline: Deadline, then: Sequence[str] = ()) -> tuple[str, int]:
        """Open a transaction with `begin`, behind the fence; return its id and the backend that works on it.

        `then`: statements that follow in the same round trip.
        Raises LeaseLostError if the lease is not ours any more, StatementError and ConnectionLostError.
        """
        results = self.worker.query("\n".join((begin, self.fence(), *then)), deadline)
        rows = results[-1 - len(then)]
        if not rows:
            raise self.lost()
        transaction_id, backend_pid = rows[0]
        return transaction_id or "", int(backend_pid or 0)

    def still_ours(self) -> str:
        """Return the statement that finds a row if ours is still there. Unlike the fence, it holds nothing."""
        return f"SELECT {self._ours()};" if self._shown else "SELECT;"

    def _ours(self) -> str:
        return (
            f"FROM {self.place.table('migration_lock')} "
            f"WHERE id = 1 AND token = {literal(self.token)} AND locked_at IS NOT NULL"
        )

    @property
    def as_role(self) -> str:
        """The statement that lets a transaction of another session reach the row: a login may have no rights itself."""
        return f"SET LOCAL ROLE {identifier(self._role)};" if self._role else ""

    def progress(
        self,
        migration: str | None,
        statement: int | None = None,
        statements: int | None = None,
        detail: Mapping[str, object] | None = None,
    ) -> str:
        """Return the statement that shows in the row what is being worked on.

        The `detail` carries our token: a holder of an earlier release does not know that column, and leaves in it what
        was there. The guard may have been won back since the row was last written, in another server process. Under
        `repeatable read` the statement could fail on the watcher's own update, so there it does nothing.
        """
        if not self._shown:
            return ""
        text = None if detail is None else json.dumps({**detail, "token": self.token})
        return (
            f"UPDATE {self.place.table('migration_lock')} SET progress_migration = {literal(migration)}, "
            f"progress_statement = {_number(statement)}, progress_statements = {_number(statements)}, "
            f"progress_detail = {literal(text)}, progress_at = pg_catalog.clock_timestamp(), {self._life} "
            f"WHERE id = 1 AND token = {literal(self.token)} "
            "AND pg_catalog.current_setting('transaction_isolation') = 'read committed';"
        )

    def extend(self, seconds: float) -> None:
        """Say in the row that we may go on for so many `seconds` from now. Raises nothing."""
        self._ends = deadline = Deadline(seconds)
        patience = deadline.within(_PATIENCE)
        try:
            if self._shown:
                self.worker.query(
                    f"{self._begin(patience)}\nUPDATE {self.place.table('migration_lock')} SET {self._life} "
                    f"WHERE id = 1 AND token = {literal(self.token)};\nCOMMIT",
                    patience,
                )
        except (StatementError, EntrypointError) as error:
            # Whoever waits learns it with our progress.
            self.worker.rollback(patience)
            logs.event(logs.DEBUG, "lock.row_not_written", f"the end of our time could not be shown: {error}")

    @property
    def _life(self) -> str:
        return _life(self._guard, self.token, self._ends)

    def reassert(self) -> str:
        """Return the statement that writes the row again, if the migration itself has changed it.

        What an operator changed meanwhile, in another transaction, stays.
        """
        return (
            f"UPDATE {self.place.table('migration_lock')} SET {_held_by_us(self.token)}, {self._life} "
            f"WHERE id = 1 AND {transactions.WRITTEN_HERE} "
            f"AND (token IS DISTINCT FROM {literal(self.token)} OR locked_at IS NULL);"
        )

    def lost(self) -> LeaseLostError:
        """Find out who took the lease, and return that as an error.

        An operator who frees the row as documented leaves our token in it; another holder does not.
        """
        if self._was_freed(Deadline(1.0)):
            return LeaseLostError(
                "An operator freed the migration lock while we held it; nothing of ours was committed after that",
                remedy="Start again when the migrations may go on.",
                by_operator=True,
            )
        return LeaseLostError(
            "The migration lock was lost: this process did not answer for a while, or its guard could not be won back; "
            "nothing of ours was committed after that",
            remedy="SELECT * FROM migration_lock shows who holds it now.",
            by_operator=False,
        )

    def _was_freed(self, deadline: Deadline) -> bool:
        self.worker.rollback(deadline)
        if not self._shown:
            return False
        freed = (
            f"BEGIN; {session_state.ours(self._role)} SELECT FROM {self.place.table('migration_lock')} "
            f"WHERE id = 1 AND token = {literal(self.token)} AND locked_at IS NULL"
        )
        while not deadline.passed():
            try:
                return bool(self.worker.query(freed, deadline)[-1])
            except StatementError as error:
                # The watcher cancels the statement that it saw. If that ended by itself a moment before, for
                # instance by its own time-out, it is this question that is cancelled: ask again.
                if error.sqlstate != _QUERY_CANCELED:
                    return False
            except EntrypointError:
                return False
            finally:
                self.worker.rollback(deadline.within(1))
        return False

    def release(self) -> None:
        """Free row and lock. Bounded, and never raises: what is not freed here falls to the next one anyway."""
        deadline = Deadline(1.0)
        self.worker.rollback(deadline)
        try:
            if self.worker.usable and self._shown:
                self.worker.query(
                    f"{self._begin(deadline)}\nUPDATE {self.place.table('migration_lock')} SET {_FREE} "
                    f"WHERE id = 1 AND token = {literal(self.token)};\nCOMMIT",
                    deadline,
                )
        except (StatementError, EntrypointError) as error:
            self.worker.rollback(deadline)
            logs.event(logs.DEBUG, "lock.row_not_freed", f"the lock's row could not be freed: {error}")
        self._guard.release()
        if self.worker.usable:
            logs.event(logs.INFO, "lock.released", "released the migration lock", holder=holder_name())
        else:
            logs.event(
                logs.INFO, "lock.abandoned", "left the migration lock to PostgreSQL, which ends it with our connections"
            )

    def _begin(self, deadline: Deadline) -> str:
        begin = transactions.begin(
            deadline,
            server_version=self.worker.server_version,
            lock_timeout_ms=_lock_timeout_ms(deadline),
            role=self._role,
        )
        return begin + _ON_THIS_SERVER


def try_acquire(  # noqa: PLR0913 - what a lease is made of
    worker: Session,
    target: Target,
    place: Place,
    token: str,
    policy: LockPolicy,
    *,
    schema: str | None,
    role: str | None,
    connect_timeout: float,
    fenced: Spell,
    ends: Deadline,
    deadline: Deadline,
    rehearsal: bool = False,
) -> Lease | None:
    """Try once to take the lock; return the lease, or None if somebody else has it.

    Both connections are there before anything is taken: `worker` is open already, the guard's is opened first.
    `fenced`: for how long an earlier holder's fence has been all that stands in the way.
    `ends`: when our time for working under it will be over.
    `rehearsal`: create and upgrade nothing; where there are no tables of ours, the guard's lock alone is taken.
    Raises `database.connect.Failure` if that is refused.
    """
    patience = deadline.within(_PATIENCE)
    guard = Guard(target, place, min(connect_timeout, max(deadline.remaining(), _LEAST_CONNECT)))
    lease = None
    try:
        if not guard.try_lock(patience):
            return None
        # Only now may the tables be created or changed; and not beside a living replica of the earlier system.
        begin = transactions.begin(
            patience, server_version=worker.server_version, lock_timeout_ms=_lock_timeout_ms(patience), role=role
        )
        begin += _ON_THIS_SERVER
        found = _find_beside_guard(worker, place, schema, role, patience)
        if found.schema != place.schema:
            # The guard has the lock of another place.
            return None
        place = found
        reading.refuse_intrusion(place)
        if not place.complete:
            if _earlier_system_works(worker, place, role, policy, patience):
                return None
            if rehearsal:
                lease = Lease(guard, worker, place, token, role, ends, shown=False)
                return lease
            made = tables.ensure(worker, place, schema, role, begin, patience)
            if made is None:
                return None
            place = made
            logs.event(
                logs.INFO,
                "ledger.created",
                f"created or upgraded the ledger in schema {place.schema}",
                schema=place.schema,
            )
        held_by_us = f"{_held_by_us(token)}, {_NO_PROGRESS}, {_life(guard, token, ends)}"
        if _take_row(worker, place, held_by_us, begin, policy, guard, patience):
            lease = Lease(guard, worker, place, token, role, ends)
        elif guard.held_within(0):
            fenced.seen()
            if fenced.seconds() >= _ZOMBIE_AFTER:
                _end_zombie(worker, place, begin, guard, fenced, patience)
        return lease
    finally:
        if lease is None:
            worker.rollback(patience.within(1))
            guard.release()


def _find_beside_guard(
    worker: Session, place: Place, schema: str | None, role: str | None, deadline: Deadline
) -> Place:
    """Look again at what is there, as the first use of the second connection: here a pool of one shows itself."""
    try:
        return reading.find_again(worker, place, schema, deadline, role)
    except ConnectionLostError as error:
        if worker.login_pid == place.backend_pid:
            raise
        raise ConnectionLostError(
            f"The pooler gave us no second server connection beside the guard's: {error.message}",
            remedy="The pool must allow two server connections at least (PgBouncer: default_pool_size); or set "
            "MIGRATION_DATABASE_URL to the server itself.",
        ) from error


def _end_zombie(worker: Session, place: Place, begin: str, guard: Guard, fenced: Spell, deadline: Deadline) -> None:
    """End the sessions of a holder whose guard is gone for good, and whose transaction still stands before the row.

    Its process is frozen or its node has vanished: it has not pinged for longer than PostgreSQL lets a guard be
    idle, nor won the guard back, nor shown any progress. Without this, its statement would keep everybody waiting
    to its end. All is asked in one message, and who has the guard's lock in the very statement that acts, as this
    process may freeze between two. The row is read as the role; sessions are ended as the login user, who is most
    likely the same as theirs.
    """
    try:
        results = worker.query(
            f"""{begin}
            SELECT l.locked_by, l.process_id,
                   pg_catalog.set_config('entrypoint.zombie', pg_catalog.split_part(l.token, '.', 1), true)
            FROM {place.table("migration_lock")} l
            WHERE l.id = 1
                -- Neither is known of one that an operator has freed before it showed any progress.
                AND coalesce(greatest(l.locked_at, l.progress_at), '-infinity')
                    < pg_catalog.clock_timestamp() - interval '{_SILENT} seconds';
            SET LOCAL ROLE NONE;
            SELECT count(pg_catalog.pg_terminate_backend(a.pid))
            FROM pg_catalog.pg_stat_activity a
            WHERE a.application_name =
                    'entrypoint:' || nullif(pg_catalog.current_setting('entrypoint.zombie', true), '')
                AND a.datname = pg_catalog.current_database() AND {place.guarded_by(guard.backend_pid)}
                -- An old session of this very process may be the one.
                AND a.pid NOT IN (pg_catalog.pg_backend_pid(), {guard.backend_pid});
            COMMIT""",
            deadline,
        )
    except StatementError as error:
        # Replicas may log in as different users. Then its statement's end has to be waited for.
        worker.rollback(deadline)
        level, fenced.told = (logs.DEBUG if fenced.told else logs.WARNING), True
        logs.event(
            level,
            "lock.zombie_left",
            f"the last holder of the migration lock does not answer any more, and its session cannot be ended: {error}",
        )
        return
    found, ended = results[-4], int(results[-2][0][0] or 0)
    for holder, process_id, _token in found if ended else ():
        logs.event(
            logs.WARNING,
            "lock.ended_zombie",
            f"the last holder of the migration lock, {f'{holder} (process {process_id})' if holder else 'which an '}"
            f"{'' if holder else 'operator has freed'}, does not answer any more; ended "
            f"its {count(ended, 'session')}",
            holder=holder,
            process_id=int(process_id) if process_id else None,
        )


def _earlier_system_works(
    worker: Session, place: Place, role: str | None, policy: LockPolicy, deadline: Deadline
) -> bool:
    row = reading.look(worker, place, role, deadline, contending=True).lock
    return row is not None and row.legacy and (row.seconds is None or row.seconds < policy.stale)


def _take_row(
    worker: Session, place: Place, held_by_us: str, begin: str, policy: LockPolicy, guard: Guard, deadline: Deadline
) -> bool:
    """Write our name into the row, unless a replica of the earlier system holds it or a fence stands before it.

    A row with a token belongs to a guard that is gone, whatever its age, if ours holds the guard's lock: that is
    asked once more when the row is locked, as this process may have been frozen since. SKIP LOCKED: a transaction
    that is still fenced by an earlier holder's token ends first.
    """
    table = place.table("migration_lock")
    results = worker.query(
        f"""{begin}
        INSERT INTO {table} (id) VALUES (1) ON CONFLICT (id) DO NOTHING;
        WITH candidate AS (
            SELECT id FROM {table}
            WHERE id = 1 AND (locked_at IS NULL OR token IS NOT NULL
                OR locked_at < pg_catalog.clock_timestamp() - interval '{policy.stale:.3f} seconds')
                -- Held, shared, by a session that still works outside a transaction for an earlier holder.
                AND pg_catalog.pg_try_advisory_xact_lock({place.session_key})
            FOR UPDATE SKIP LOCKED
        )
        UPDATE {table} AS l SET {held_by_us}
        FROM candidate
        -- As a subquery of its own, which refers to the candidate, it is asked after the row is locked.
        WHERE l.id = candidate.id AND CASE WHEN candidate.id = 1 THEN {place.guarded_by(guard.backend_pid)} END
        RETURNING l.id;
        COMMIT""",
        deadline,
    )
    return bool(results[-2])


def holder_name() -> str:
    """Return this host's name, which in a container is the pod's or the container's."""
    return os.uname().nodename


def _held_by_us(token: str) -> str:
    return (
        f"locked_at = pg_catalog.clock_timestamp(), locked_by = {literal(holder_name())}, "
        f"process_id = {os.getpid()}, token = {literal(token)}"
    )


def _life(guard: Guard, token: str, ends: Deadline) -> str:
    """Return what the row says about who guards for us and for how long we may go on.

    With our token, as a holder of an earlier release does not know these columns, and leaves in them what was there.
    """
    return (
        f"guard_pid = {guard.backend_pid}, guard_token = {literal(token)}, "
        f"until = pg_catalog.clock_timestamp() + interval '{ends.remaining():.3f} seconds'"
    )


def _lock_timeout_ms(deadline: Deadline) -> int:
    """Return a time-out that passes well before the deadline, after which there is no answer."""
    return min(_SHORT_LOCK_TIMEOUT_MS, deadline.milliseconds() // 2 + 1)


def _number(value: int | None) -> str:
    return "NULL" if value is None else str(value)
