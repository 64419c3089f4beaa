"""Takes the lock, or waits until nothing is pending.

A waiter never blocks in the server, and holds neither a lock nor a snapshot there: it looks, sleeps, and looks again.
"""

from __future__ import annotations

from entrypoint import logs, signals
from entrypoint.clocks import WAITING
from entrypoint.database import classify
from entrypoint.database.answers import LARGER_POOL, StatementError
from entrypoint.database.login import Failure
from entrypoint.database.sqlstate import (
    DUPLICATE_FUNCTION,
    DUPLICATE_OBJECT,
    DUPLICATE_SCHEMA,
    DUPLICATE_TABLE,
    LOCK_NOT_AVAILABLE,
    UNIQUE_VIOLATION,
)
from entrypoint.deadline import Deadline, pause
from entrypoint.errors import ConnectionLostError, DatabaseUnavailableError
from entrypoint.errors.migration import SecondLedgerError
from entrypoint.migration.ledger import reading, words
from entrypoint.migration.ledger.finding import find_again
from entrypoint.migration.ledger.place import TABLES
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.ledger.tables import nothing_is_there
from entrypoint.migration.lock import locked
from entrypoint.migration.lock.patience import ClockStopper
from entrypoint.migration.lock.takeover import ZOMBIE_AFTER, try_acquire
from entrypoint.migration.lock.waiting import (
    LOOK_PATIENCE,
    KeptConnection,
    News,
    Streak,
    pause_behind_a_fence,
    pause_between_glances,
    pause_between_looks,
    pause_while_disconnected,
    pause_with_glances,
    time_for_a_look,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.errors.migration import LockTimeoutError
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.plan import Plan
    from entrypoint.migration.ledger.reading import LockRow, Look
    from entrypoint.migration.ledger.verdict import Verdict
    from entrypoint.migration.lock.lease import Lease
    from entrypoint.migration.observe.blockers import Blocker

# A process that has just lost its guard was creating the same tables at the same moment. IF NOT EXISTS does not see
# tables that are not committed yet.
_CREATED_BESIDE_US = (UNIQUE_VIOLATION, DUPLICATE_SCHEMA, DUPLICATE_TABLE, DUPLICATE_OBJECT, DUPLICATE_FUNCTION)


class Contender:
    """Competes for the lock on behalf of this process. Keeps its connection between two looks."""

    def __init__(self, assignment: Assignment, session: Session, place: Place, *, regardless: bool = False) -> None:
        """Continue with the `session` and the `place` of the first survey; a closed `session` is opened again.

        `regardless`: take the lock even if nothing is pending, because an operator wants to change the ledger.
        """
        self._assignment = assignment
        self._line = KeptConnection(assignment.target, assignment.connect_timeout, session)
        self._place = place
        self._regardless = regardless
        self._clocks = assignment.clocks
        self._pooled = place is not None and 0 != place.backend_pid != session.login_pid
        self._patience = ClockStopper(assignment.clocks, assignment.lock, assignment.apply, assignment.role)
        self._refused = False
        """Whether the server had no connection for us; from then on we connect only for each look."""
        self._times_dropped = 0
        """After how many looks in a row we have closed our connection for others."""
        self._news = News()
        self._seen: LockRow | None = None
        self._taken = False
        """Whether somebody held the guard's lock at the last look."""
        self._fenced = Streak()
        self._tries = 0
        self._no_other_ledger = False
        self._just_surveyed = place is not None and nothing_is_there(place)
        """Whether the first look need not find the place again: there is no ledger, and creating one checks again."""
        self._failed_tries = 0
        """How often taking the lock has failed since it was last seen taken."""
        self._trouble: ConnectionLostError | None = None
        """How the connection was lost, if the last look or attempt ended that way."""
        self._locked: tuple[Blocker, ...] | None = None
        """The sessions that have locked the ledger's tables, if known; None if the last look was not blocked."""
        self.waited = False
        """Whether somebody else held the lock while we wanted it."""
        self.verdict: Verdict | None = None
        """Whether another migration tool had anything to do when the lock was last free."""
        self.current: int | None = None
        """The schema's version at the last look."""

    def acquire(self) -> Lease | None:
        """Return the lease, or None once nothing is pending.

        Raises LockTimeoutError when this start has waited for `MIGRATION_LOCK_TIMEOUT_MS` in total, and
        MigrationHeldBackError when a pending migration needs attention first.
        """
        deadline = self._clocks.turn_to(WAITING)
        try:
            while True:
                signals.raise_received()
                lease, done = self._look_and_try(deadline)
                if lease is not None or done:
                    return lease
                if deadline.passed():
                    raise self._trouble or self._timed_out()
                self.waited = True
                self._rest(deadline)
        finally:
            self._assignment.board.waiting_for = ""

    def _rest(self, deadline: Deadline) -> None:
        """Pause until the next look, or until the lock becomes free if somebody held it."""
        if self._refused or (self._patience.crowded and not self._pooled):
            self._line.drop()
            pause(min(pause_while_disconnected(self._times_dropped), deadline.remaining()))
            self._times_dropped += 1
            return
        self._times_dropped = 0
        if not self._taken:
            seconds = pause_behind_a_fence(self._fenced.seconds()) or pause_between_looks()
            pause(min(seconds, deadline.remaining()))
            return
        end = deadline.within(pause_with_glances())
        while True:
            pause(min(pause_between_glances(), end.remaining()))
            session = self._line.session
            if end.passed() or session is None or self._is_free(session, deadline):
                return

    def _is_free(self, session: Session, deadline: Deadline) -> bool:
        """Tell whether to look now, because the lock has become free or we got no answer."""
        try:
            return reading.is_free(session, self._place, time_for_a_look(deadline))
        except StatementError:
            return True
        except ConnectionLostError as error:
            self._lose(error)
            return True

    def _look_and_try(self, deadline: Deadline) -> tuple[Lease | None, bool]:
        """Look once, and try to take the lock if it is free. Return the lease, if any, and whether all is done."""
        try:
            session = self._line.connected(deadline)
            look = self._look(session, deadline)
            plan = self._assignment.plan(look.rows)
            self._seen, self.current, self._taken = look.lock, plan.current, not look.lock_free
            if plan.below and not self._regardless:
                raise words.below_floor(plan, self._place.schema)
            commanded = self._command_is_pending(session, look, plan)
            repeating = self._repeatables_are_due(session, look, plan)
            wanted = self._regardless or repeating or commanded
            if not wanted and not plan.pending and not self._place.outdated:
                self._assignment.differences.tell(plan)
                return None, True
            # A failed migration may be one that another tool has applied; then the holder of the lock records it.
            stuck = not plan.runnable and self._assignment.adopt is None
            if not self._regardless and stuck and (obstacle := words.obstacle(plan)):
                self._assignment.differences.tell(plan)
                raise obstacle
            if look.lock_free and not (look.lock and look.lock.keeps_us_out(self._assignment.lock.stale)):
                if self._is_created_meanwhile(session, deadline):
                    return self._look_and_try(deadline)
                lease = self._try(session, deadline)
                if lease is not None:
                    return lease, False
            self._weigh(session, look, wanted=bool(plan.pending) or commanded or repeating)
            self._trouble, self._locked = None, self._who_locks_the_row(session)
            if self._locked is None:
                self._tell_waiting(look, plan, more=commanded or repeating)
            else:
                self._tell_locked(self._locked)
        except Failure as failure:
            self._stand_back(failure, deadline)
        except ConnectionLostError as error:
            self._lose(error)
        except StatementError as error:
            # A migration has locked the ledger itself, or the server is busy. That counts as waiting, too.
            if not (classify.may_pass(error.sqlstate) or classify.stopped_by_operator(error.sqlstate)) and (
                error.sqlstate not in _CREATED_BESIDE_US
            ):
                doing, schema, role = (
                    "could not read or set up the migration history",
                    self._assignment.schema,
                    self._assignment.role,
                )
                raise refused_on(self._line.session, schema, role, error, doing, reading=False) from error
            self._weigh_locked(error)
        return None, False

    def _lose(self, error: ConnectionLostError) -> None:
        """Remember how the connection ended; the next look opens a new one."""
        self._line.drop()
        if error.starved and self._pooled:
            error.message = f"The pooler may have no free server connection: {error.message}"
            error.remedy = LARGER_POOL
        self._trouble = error
        logs.event(logs.WARNING, "lock.waiter_disconnected", f"{error.message}; connecting again")

    def _timed_out(self) -> LockTimeoutError:
        waited = self._assignment.lock.timeout + self._clocks.stopped
        if self._locked is not None:
            return locked.locked_too_long(self._locked, waited)
        may_take, stranger = self._assignment.apply.timeout, self._patience.stranger
        fenced = self._fenced.seconds() >= ZOMBIE_AFTER
        return words.timed_out(self._seen, waited, may_take, stranger, fenced=fenced)

    def _command_is_pending(self, session: Session, look: Look, plan: Plan) -> bool:
        """Tell whether another migration tool may have something to do, if one is configured.

        While somebody else holds the lock, it always may: its history can still change. Raises CommandFailedError if it
        has failed in the meantime with the same inputs.
        """
        assignment = self._assignment
        if assignment.wanted is None or self._regardless or assignment.rehearsal:
            return False
        if plan.pending or not look.lock_free:
            return True
        from entrypoint.migration.ledger.judging import failed_elsewhere, judge_on

        patience = time_for_a_look(self._clocks.running)
        self.verdict, _ = judge_on(session, self._place, assignment.wanted, assignment.role, patience)
        if self.verdict.failed is not None:
            raise failed_elsewhere(assignment.wanted, self.verdict.failed)
        return self.verdict.pending

    def _repeatables_are_due(self, session: Session, look: Look, plan: Plan) -> bool:
        """Tell whether there may be something to do in repeatable/. Raises MigrationHeldBackError if it has failed.

        As with another tool, "nothing to do" is only certain while nobody holds the lock.
        """
        repeats = self._assignment.repeats
        if repeats is None or self._regardless:
            return False
        if repeats.forced or plan.pending or not look.lock_free:
            return True
        from entrypoint.migration.ledger import repeated

        patience = time_for_a_look(self._clocks.running)
        known = repeated.read(session, self._place, self._assignment.role, patience)
        return bool(repeated.judge_meanwhile(known, self._assignment.directory, repeats).due)

    def _weigh(self, session: Session, look: Look, *, wanted: bool) -> None:
        """Stop the clock while a living holder works, unless we only want to upgrade the ledger.

        The lock may keep looking free although it is not: a session that holds its key in shared mode does not block
        our look.
        """
        self._failed_tries = self._failed_tries + 1 if look.lock_free else 0
        if self._failed_tries == 1 or not (wanted or self._regardless):
            self._patience.forget()
        else:
            self._patience.weigh(session, self._place, look.lock.token if look.lock else None)

    def _who_locks_the_row(self, session: Session) -> tuple[Blocker, ...] | None:
        """Return the sessions that have locked the row of `migration_lock`, if the lock is free but cannot be taken.

        Taking the lock skips a locked row, because an earlier holder's transaction may still have it locked.
        """
        if self._failed_tries <= 1 or self._patience.stranger is not None:
            return None
        return locked.who_locks(session, self._place, TABLES[1:]) or None

    def _weigh_locked(self, error: StatementError) -> None:
        """Do what `_weigh` does if the ledger could not be read or written: the holder itself may have locked it."""
        session = self._line.session
        try:
            if session is not None and session.usable:
                if error.sqlstate == LOCK_NOT_AVAILABLE:
                    self._trouble = None
                    self._locked = locked.who_locks(session, self._place, TABLES[1:]) or self._locked or ()
                    self._tell_locked(self._locked)
                self._patience.weigh(session, self._place, self._seen.token if self._seen else None)
        except ConnectionLostError:
            self._line.drop()

    def close(self) -> None:
        """Close the connection."""
        self._line.drop()

    def _look(self, session: Session, deadline: Deadline) -> Look:
        patience = time_for_a_look(deadline)
        surveyed, self._just_surveyed = self._just_surveyed, False
        if not (surveyed or self._place.complete):
            self._place = find_again(session, self._place, self._assignment.schema, patience, self._assignment.role)
        return reading.look(session, self._place, self._assignment.role, patience, contending=True)

    def _is_created_meanwhile(self, session: Session, deadline: Deadline) -> bool:
        """Check once, before a ledger is created, whether this application has one in another schema.

        Returns True if that ledger is the one to use, because it was created after we looked for ours. Raises
        SecondLedgerError.
        """
        if self._place.founded or self._regardless or self._no_other_ledger or not self._place.with_files:
            return False
        from entrypoint.migration.ledger.elsewhere import refuse_second

        files, role = self._assignment.directory.files, self._assignment.role
        patience = Deadline(max(deadline.remaining(), LOOK_PATIENCE))
        try:
            refuse_second(session, self._place, files, role, patience)
        except SecondLedgerError:
            found = find_again(session, self._place, self._assignment.schema, patience, role)
            if not found.founded:
                raise
            self._place = found
            return True
        self._no_other_ledger = True
        return False

    def _try(self, session: Session, deadline: Deadline) -> Lease | None:
        self._tries += 1
        lease = try_acquire(
            self._assignment,
            session,
            self._place,
            # A new token for each lease, so that a late statement about an earlier lease does not affect this one.
            f"{self._assignment.token}.{self._tries}",
            self._fenced,
            # Enough time to finish, even if the waiting time runs out in between.
            Deadline(max(deadline.remaining(), 0.5)),
        )
        if lease is not None:
            self._place = lease.place
        return lease

    def _stand_back(self, failure: Failure, deadline: Deadline) -> None:
        """After a refused connection, give up the connection that we have, so that others can use it."""
        self._line.drop()
        if not failure.cause.heals or deadline.passed():
            raise DatabaseUnavailableError(
                f"Database connection failed while waiting for the migration lock: {failure.cause.words} "
                f"({failure.text})",
                remedy=self._assignment.target.remedy(failure.cause.remedy),
                cause=failure.cause.name,
            )
        self._refused = failure.cause.name == "too_many_clients"
        logs.event(
            logs.INFO,
            "lock.no_connection",
            f"no connection to take the lock with yet: {failure.cause.words}",
            cause=failure.cause.name,
        )

    def _tell_locked(self, found: tuple[Blocker, ...]) -> None:
        if self._news.worth_telling((found[0].name if found else None,)):
            logs.event(logs.INFO, "ledger.locked", f"{locked.describe(found)}; checking again")

    def _tell_waiting(self, look: Look, plan: Plan, *, more: bool) -> None:
        row = look.lock
        stranger = self._patience.stranger
        who = words.holder(row, stranger)
        self._assignment.board.wait_for(who, pending=len(plan.pending), version=plan.current)
        news = (row and row.token, row and row.migration, stranger and stranger.pid)
        # A change of holder or file is logged at once.
        if not self._news.worth_telling(news):
            return
        logs.event(
            logs.INFO,
            "lock.waiting",
            f"waiting for the migration lock: {who}"
            + ("" if self._regardless or more > bool(plan.pending) else f"; {len(plan.pending)} still pending"),
            **words.facts(row),
            statement=row.statement if row else None,
            statements=row.statements if row else None,
            **words.statement_facts(row),
            pending=len(plan.pending),
            remedy=None if stranger else words.let_through(row),
        )
