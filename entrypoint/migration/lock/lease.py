"""The migration lock: PostgreSQL keeps it, a row shows it, and every migration is fenced by it.

Three parts, each with one job (docs/lock.md):

- The *guard* is the lock. A separate connection holds an advisory lock in an open, otherwise idle transaction.
  When this process dies, PostgreSQL ends that transaction, and the lock with it. A thread pings it; a process
  that is frozen stops pinging, and PostgreSQL ends the transaction as idle for too long.
- The *row* `migration_lock` shows who holds the lock, with a token of this process. It is for people and for
  replicas of the earlier system.
- The *fence* starts each migration's transaction: FOR KEY SHARE on the row, if it still has our token. From then on
  nobody can take the row until that transaction has ended, even if the guard or this process is gone.
"""

from __future__ import annotations

from entrypoint import logs
from entrypoint.database import session_state, transactions
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import identifier, literal
from entrypoint.database.sqlstate import QUERY_CANCELED
from entrypoint.deadline import Deadline, sliced
from entrypoint.errors import EntrypointError
from entrypoint.errors.migration import LeaseLostError
from entrypoint.migration.ledger.keys import guarded_by
from entrypoint.migration.lock import row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Protocol

    from entrypoint.database.session import Session
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.lock.guard import Guard

    class PreparedStatements(Protocol):
        """Statements that have been prepared in the worker's session."""

        @property
        def fence(self) -> str:
            """Return the statement that does what `Lease.fence` returns."""

        def limits(self, deadline: Deadline, lock_timeout_ms: int) -> str:
            """Return the statement for the rest of `transactions.begin`, after `session_state.ours`."""


# A living holder regains a lost guard well within this time. One that does not is frozen, or its node is gone.
_REGAIN = 2.0
# For each of our own short statements about the lock.
_PATIENCE = 10.0
_SHORT_LOCK_TIMEOUT_MS = 2_000


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
        """Take the parts from `try_acquire`. `shown`: whether the row says that the lock is ours."""
        self._guard = guard
        self.worker = worker
        self.place = place
        self.token = token
        self._role = role
        self._ends = ends
        self._shown = shown
        self.revoked = False
        """Whether the watcher has seen that the row is no longer ours."""
        self.row_freed_by_file = False
        """Whether the running statement itself may free the row, so that a free row need not be an operator's doing."""
        self._row_lent = False
        self.prepared = False
        """Whether the statements around a file are prepared in the worker's session."""
        self._ahead: tuple[str, tuple[str, int] | StatementError] | None = None
        """What kind of transaction was opened right after the last COMMIT, and the result."""

    def guard_was_lost(self, seconds: float) -> bool:
        """Tell whether the guard was lost, now or earlier; give its thread this many seconds to notice."""
        return sliced(self._guard.was_lost.wait, seconds)

    def guard_lost_lately(self, seconds: float) -> bool:
        """Tell whether the guard is lost, or was a moment ago; give its thread this many seconds to notice."""
        return self._guard.lost_lately(seconds)

    def guard_backend(self) -> int:
        """Return the server process that holds the guard's lock; 0 if it is lost and not regained soon. Any thread."""
        return self._guard.backend_within(_REGAIN)

    def check_guard(self) -> None:
        """Give a lost guard a moment to regain its lock. Raises LeaseLostError if it does not."""
        if not self._guard.held_within(_REGAIN):
            raise self.lost()

    def fence(self) -> str:
        """Return the statement that starts a migration, inside its transaction.

        It returns a row (transaction id, backend) if the lease is still ours, and then it stays ours as long as that
        transaction lives. Without a row, stop. A rehearsal without the table has no fence; it commits nothing.
        """
        begun = "SELECT pg_catalog.pg_current_xact_id()::text, pg_catalog.pg_backend_pid()"
        return f"{begun} {self._ours()} FOR KEY SHARE;" if self._shown else f"{begun};"

    def open(
        self,
        deadline: Deadline,
        *,
        lock_timeout_ms: int,
        patience: Deadline | None = None,
        statement: str = transactions.READ_COMMITTED,
        then: Sequence[str] = (),
    ) -> tuple[str, int]:
        """Open a transaction behind the fence; return its id and the backend that works on it.

        `deadline`: the limit for each statement. `patience`: how long to wait for the answer; by default, until the
        deadline. `statement`: begins the transaction. `then`: statements that follow in the same round trip. Raises
        LeaseLostError if the lease is no longer ours, StatementError and ConnectionLostError.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            kind, opened = ahead
            wanted = kind == f"{statement} {lock_timeout_ms} {then}" and self.worker.in_transaction
            if wanted and not isinstance(opened, StatementError):
                return opened
            self.worker.rollback(deadline.within(1))
            if wanted and isinstance(opened, StatementError):
                raise opened
        if self._row_lent:
            self._write_again(patience or deadline)
        opening = self.opening(deadline, lock_timeout_ms=lock_timeout_ms, statement=statement, then=then)
        results = self.worker.query(opening, patience or deadline)
        rows = results[-1 - len(then)]
        if not rows:
            raise self.lost()
        transaction_id, backend_pid = rows[0]
        return transaction_id or "", int(backend_pid or 0)

    def opening(
        self,
        deadline: Deadline,
        *,
        lock_timeout_ms: int,
        statement: str,
        then: Sequence[str] = (),
        prepared: PreparedStatements | None = None,
    ) -> str:
        """Return what `open` sends. Of its results, the fence's is the only one with two columns."""
        if prepared is not None:
            limits = prepared.limits(deadline, lock_timeout_ms)
            return "\n".join((f"{statement};", session_state.ours(self._role), limits, prepared.fence, *then))
        begin = transactions.begin(
            deadline,
            server_version=self.worker.server_version,
            lock_timeout_ms=lock_timeout_ms,
            role=self._role,
            statement=statement,
        )
        return "\n".join((begin, self.fence(), *then))

    def opened_ahead(
        self, answer: tuple[str, int] | StatementError, *, lock_timeout_ms: int, statement: str, then: Sequence[str]
    ) -> None:
        """Record that an `opening` was sent after a COMMIT, and its result. The next `open` returns that."""
        self._ahead = f"{statement} {lock_timeout_ms} {then}", answer

    def lend_row(self, *, freed: bool) -> None:
        """Record that the next statement may commit changes to the row; `freed`: it may even free it.

        Before the next transaction, the row is written again if it is missing, or if it was `freed`.
        """
        self._row_lent, self.row_freed_by_file = self._shown, freed

    def _write_again(self, deadline: Deadline) -> None:
        """Write the row that was lent, if the guard still holds its lock, so that nobody can have taken it since."""
        table, guarded = self.place.table("migration_lock"), guarded_by(self.place, self._guard.backend_pid)
        which = "" if self.row_freed_by_file else f" AND {transactions.WRITTEN_HERE}"
        self.worker.query(
            # The file may have made transactions read-only by default.
            f"{begin_short(self.worker, self._role, deadline, f'{transactions.READ_COMMITTED} READ WRITE')}\n"
            f"INSERT INTO {table} (id) SELECT 1 WHERE {guarded} ON CONFLICT (id) DO NOTHING;\n"
            f"UPDATE {table} SET {row.held_by_us(self.token)}, {self._life} "
            f"WHERE id = 1 AND locked_at IS NULL AND {guarded}{which};\nCOMMIT",
            deadline,
        )
        self._row_lent = self.row_freed_by_file = False

    def still_ours(self) -> str:
        """Return the statement that finds a row if the lock's row is still ours. Unlike the fence, it locks nothing."""
        return f"SELECT {self._ours()};" if self._shown else "SELECT;"

    def look(
        self, event: str, statement: Deadline, deadline: Deadline, *, lock_timeout_ms: int, then: Sequence[str] = ()
    ) -> bool:
        """Read the row in the worker's session, together with the statements `then`; tell whether it is still ours.

        `statement`: the limit for each statement; `deadline`: for the answer. If the row cannot be read, because it is
        locked or the server is busy, this logs `event` and assumes that the row is ours. Raises ConnectionLostError.
        """
        begin = transactions.begin(
            statement,
            server_version=self.worker.server_version,
            lock_timeout_ms=lock_timeout_ms,
            role=self._role,
        )
        try:
            sql = "\n".join((begin, self.still_ours(), *then, "COMMIT"))
            found = bool(self.worker.query(sql, deadline)[-2 - len(then)])
        except StatementError as error:
            self.worker.rollback(Deadline(1.0))
            logs.event(logs.DEBUG, event, f"cannot read the migration lock's row: {error}")
            return True
        self.revoked = self.revoked or not found
        return found

    def _ours(self) -> str:
        return (
            f"FROM {self.place.table('migration_lock')} "
            f"WHERE id = 1 AND token = {literal(self.token)} AND locked_at IS NOT NULL"
        )

    @property
    def guard_pid(self) -> int:
        """The server process that holds the guard's lock, or last held it."""
        return self._guard.backend_pid

    @property
    def role(self) -> str | None:
        """MIGRATION_ROLE."""
        return self._role

    @property
    def as_role(self) -> str:
        """The statement that lets another session's transaction use the row, if the login user lacks privileges."""
        return f"SET LOCAL ROLE {identifier(self._role)};" if self._role else ""

    def progress(
        self,
        migration: str | None,
        statement: int | None = None,
        statements: int | None = None,
        detail: Mapping[str, object] | None = None,
        life: str | None = None,
    ) -> str:
        """Return the statement that shows in the row what is being worked on. `life`: as in `reassert`.

        It also writes the guard, which may have been regained in another server process. Under `repeatable read`, the
        statement could conflict with the watcher's update, so it does nothing.
        """
        if not self._shown:
            return ""
        return (
            f"UPDATE {self.place.table('migration_lock')} "
            f"SET {row.progress(self.token, migration, statement, statements, detail)}, {life or self._life} "
            f"WHERE id = 1 AND token = {literal(self.token)} "
            "AND pg_catalog.current_setting('transaction_isolation') = 'read committed';"
        )

    def extend(self, seconds: float) -> None:
        """Record in the row that we may work for this many `seconds` from now. Never raises."""
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
            # Waiters get to know it with our next progress.
            self.worker.rollback(patience)
            logs.event(logs.DEBUG, "lock.row_not_written", f"could not record when our time ends: {error}")

    @property
    def _life(self) -> str:
        return row.life(self.guard_pid, self.token, self.seconds)

    @property
    def seconds(self) -> str:
        """How much longer we may work, as a number in SQL."""
        return f"{self._ends.remaining():.3f}"

    def reassert(self, life: str | None = None) -> str:
        """Return the statement that writes the row again if the migration itself has changed it.

        A change that an operator has made in another transaction stays. `life`: replaces the result of `row.life`, for
        a prepared statement.
        """
        return (
            f"UPDATE {self.place.table('migration_lock')} SET {row.held_by_us(self.token)}, {life or self._life} "
            f"WHERE id = 1 AND {transactions.WRITTEN_HERE} "
            f"AND (token IS DISTINCT FROM {literal(self.token)} OR locked_at IS NULL);"
        )

    def lost(self) -> LeaseLostError:
        """Find out why the lease was lost, and return that as an error.

        An operator who frees the row as documented leaves our token in it; another holder does not.
        """
        if self._was_freed(Deadline(1.0)):
            return LeaseLostError(
                "An operator freed the migration lock while this process held it; nothing was committed after that",
                remedy="Start again when migrations may continue.",
                by_operator=True,
            )
        return LeaseLostError(
            "The migration lock was lost: this process did not respond for a while, or could not restore the "
            "connection that guards the lock; nothing was committed after that",
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
                # The watcher cancels the statement that it saw. If that had just ended by itself, for example by its
                # own timeout, the cancel hits this query instead. Ask again.
                if error.sqlstate != QUERY_CANCELED:
                    return False
            except EntrypointError:
                return False
            finally:
                self.worker.rollback(deadline.within(1))
        return False

    def release(self) -> None:
        """Free the row and the lock, within a second. Never raises: if this fails, the next holder can take over."""
        deadline = Deadline(1.0)
        self.worker.rollback(deadline)
        try:
            if self.worker.usable and self._shown:
                self.worker.query(
                    f"{self._begin(deadline)}\nUPDATE {self.place.table('migration_lock')} SET {row.FREE} "
                    f"WHERE id = 1 AND token = {literal(self.token)};\nCOMMIT",
                    deadline,
                )
        except (StatementError, EntrypointError) as error:
            self.worker.rollback(deadline)
            logs.event(logs.DEBUG, "lock.row_not_freed", f"could not free the lock's row: {error}")
        self._guard.release()
        if self.worker.usable:
            logs.event(logs.INFO, "lock.released", "released the migration lock", holder=row.holder_name())
        else:
            logs.event(
                logs.INFO,
                "lock.abandoned",
                "lost the connection; PostgreSQL frees the migration lock when it ends our sessions",
            )

    def _begin(self, deadline: Deadline) -> str:
        return begin_short(self.worker, self._role, deadline)


def begin_short(
    session: Session, role: str | None, deadline: Deadline, statement: str = transactions.READ_COMMITTED
) -> str:
    """Return the start of a short transaction about the lock. Its lock timeout ends well before the `deadline`."""
    begin = transactions.begin(
        deadline,
        server_version=session.server_version,
        lock_timeout_ms=min(_SHORT_LOCK_TIMEOUT_MS, deadline.milliseconds() // 2 + 1),
        role=role,
        statement=statement,
    )
    # A standby need not know who holds the lock. If a synchronous one is missing, only a migration's COMMIT waits.
    return f"{begin}\n{transactions.ON_THIS_SERVER}"
