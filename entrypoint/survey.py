"""What a start finds before it does anything: the files, the session, the ledger, and what is pending.

An up-to-date start asks in a shorter way (`migration.ledger.first_look`), and never gets here.
"""

from __future__ import annotations

import gc
import os

from entrypoint import logs, signals
from entrypoint.clocks import CONNECTING, WAITING, Clocks
from entrypoint.database.answers import StatementError
from entrypoint.database.connect import connect
from entrypoint.database.login import failure_of, go_on
from entrypoint.database.sqlstate import LOCK_NOT_AVAILABLE
from entrypoint.database.target import target_of
from entrypoint.deadline import Deadline, pause, uniform
from entrypoint.errors import ConfigurationError, ConnectionLostError, EntrypointError
from entrypoint.migration.assignment import Assignment
from entrypoint.migration.ledger import reading
from entrypoint.migration.ledger.differences import Differences
from entrypoint.migration.ledger.finding import find
from entrypoint.migration.ledger.plan import plan_of
from entrypoint.migration.losses import Losses
from entrypoint.migration.observe.board import Board
from entrypoint.migration.script.prepare import load_files
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from entrypoint.database.session import Session
    from entrypoint.database.target import Target
    from entrypoint.migration.ledger.first_look import Question
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.plan import Plan
    from entrypoint.migration.ledger.reading import Look
    from entrypoint.migration.ledger.repeatables import Repeats
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.ledger.verdict import Verdict, Wanted
    from entrypoint.migration.observe.blockers import Blocker
    from entrypoint.migration.script.files import Directory
    from entrypoint.settings import Settings

    T = TypeVar("T")

# The least seconds for the first survey, whatever connecting has left of its time.
_SURVEY_PATIENCE = 1.0


class Survey(NamedTuple):
    """What a start has found before it does anything."""

    session: Session
    target: Target
    place: Place
    directory: Directory
    plan: Plan
    rows: tuple[LedgerRow, ...]
    wanted: Wanted | None
    """The other migration tool, with what was just read about it."""
    verdict: Verdict | None
    """Whether that tool has anything to do."""
    clocks: Clocks
    """How much time this start has left."""


def survey_database(settings: Settings, *, up_to: int | None = None, after: bool = False) -> Survey:
    """Read the files, connect, and compare the files with the ledger: two round trips after the login.

    `after`: whether the rollout is over. The caller closes the session. Raises EntrypointError.
    """
    wanted = None
    if settings.command is not None:
        from entrypoint.tool.inputs import want

        wanted = want(settings.command)
    directory = load_files(settings.migrations_dir, settings.file_limit, repeating=settings.command is None)
    return survey_beside(None, settings, directory, up_to, wanted, after=after)


def survey_beside(
    before: Question | None,
    settings: Settings,
    directory: Directory,
    up_to: int | None,
    wanted: Wanted | None = None,
    *,
    after: bool = False,
) -> Survey:
    """Connect and compare. The question `before`, if there was one, counts as the first attempt to connect."""
    if before is None:
        collect_garbage()  # If there is a question, this comes later, after more imports.
    token = logs.run_id()
    noted = before is not None and before.noted
    whereabouts = target_of(settings.address, token, noted=noted)
    # A server that accepts the login and then freezes or fails must not take more time than one that refuses it.
    clocks = start_clocks(settings, spent=0.0 if before is None else before.seconds())
    attempts = 0
    begun = 0.0
    failed = None
    kept, rows = None, None
    if before is not None:
        first = before.answer()
        kept, rows = _kept(before), first.rows
        begun = before.seconds()
        failed = None if first.connecting_failed is None else failure_of(first.connecting_failed)
        if first.lost is not None:
            attempts, begun = 1, 0.0
            _connect_again(first.lost, attempts, settings, clocks.running)
    while True:
        _enter_phase(settings, "connecting")
        session = kept or connect(whereabouts, settings.connect, clocks, spent=attempts, failed=failed, begun=begun)
        arrival = clocks.turn_to(CONNECTING)
        failed, begun = None, 0.0
        _enter_phase(settings, "surveying")
        patience = Deadline(max(_SURVEY_PATIENCE, min(settings.connect.timeout, arrival.remaining())))
        attempts += 1
        try:
            place = find(session, settings.schema, patience, settings.role, settings.command)
            _refuse_time_zone(place)
            rows = rows or _rows(session, place, settings, clocks)
            verdict = None
            if wanted is not None and up_to is None:
                from entrypoint.migration.ledger.judging import judge_on

                verdict, runs = judge_on(session, place, wanted, settings.role, patience)
                wanted = wanted._replace(seen=runs.ended)
        except StatementError as error:
            fault = _refused(session, settings, error)
            session.close()
            raise fault from error
        except ConnectionLostError as lost:
            session.close()
            kept = rows = None  # The next connection may reach another server.
            _connect_again(lost, attempts, settings, clocks.turn_to(CONNECTING))
        except BaseException:
            session.close()
            raise
        else:
            plan = plan_of(directory.files, rows, up_to=up_to, after=after)
            return Survey(session, whereabouts, place, directory, plan, rows, wanted, verdict, clocks)


def collect_garbage() -> None:
    """Switch on the garbage collector, which `__main__` switches off: from here on, this process may live long.

    The collector ignores all objects from the imports.
    """
    if signals.installed():
        gc.freeze()
        gc.enable()


def _refuse_time_zone(place: Place) -> None:
    """Raise ConfigurationError if the earlier system's times would be read in the wrong time zone."""
    if place.outdated and os.environ.get("PGTZ"):  # In the program itself, `leave_out_time_zone` has removed it.
        raise ConfigurationError(
            "PGTZ is set, and the tables are from the earlier migration system, whose times are in the server's time "
            "zone",
            remedy="Unset PGTZ in this process, or migrate this database once with `entrypoint migrate`.",
            variable="PGTZ",
        )


def _refused(session: Session, settings: Settings, error: StatementError) -> EntrypointError:
    from entrypoint.migration.ledger.refusal import refused_on

    doing = "could not read the migration history"
    return refused_on(session, settings.schema, settings.role, error, doing, reading=False)


def _kept(before: Question) -> Session | None:
    """Return a session that continues on the connection of the question `before`, if that is still open."""
    connection = before.connection()
    return None if connection is None else go_on(connection)


def _connect_again(lost: ConnectionLostError, attempts: int, settings: Settings, arrival: Deadline) -> None:
    """Pause and return if another attempt is allowed after this many `attempts`; otherwise raise `lost`."""
    if attempts >= settings.connect.attempts or arrival.passed():
        raise lost
    from entrypoint.database.backoff import pause_after  # it imports tenacity

    # The pauses grow, as for refused connections: PgBouncer accepts ours and then refuses the first query as long as it
    # cannot log in to the server itself.
    seconds = min(pause_after(attempts - 1, settings.connect.backoff, uniform), arrival.remaining())
    logs.event(
        logs.WARNING,
        "database.retry",
        f"{lost.message}; connecting again",
        attempt=attempts,
        pause_ms=round(seconds * 1000),
    )
    pause(seconds)


def start_clocks(settings: Settings, *, spent: float = 0.0) -> Clocks:
    """Return the clocks of a start. The one for connecting is running, and `spent` seconds of it are used up."""
    clocks = Clocks(settings.apply.timeout, connecting=settings.connect.longest - spent, waiting=settings.lock.timeout)
    clocks.turn_to(CONNECTING)
    return clocks


def _rows(session: Session, place: Place, settings: Settings, clocks: Clocks) -> tuple[LedgerRow, ...]:
    if not place.ledger and settings.role is None:
        return ()  # With a role, we continue, to find out whether we may use it.

    def look(patience: Deadline) -> Look:
        return reading.look(session, place, settings.role, patience, contending=False)

    return until_unlocked(look, session, place, settings, clocks).rows


def until_unlocked(
    look: Callable[[Deadline], T],
    session: Session,
    place: Place,
    settings: Settings,
    clocks: Clocks,
) -> T:
    """Return what `look` reads in the ledger. If somebody has locked it, wait as for the migration lock.

    Raises LockTimeoutError.
    """
    others = None
    blockers: tuple[Blocker, ...] = ()
    waiting = clocks.running
    while True:
        patience = Deadline(max(_SURVEY_PATIENCE, min(settings.connect.timeout, waiting.remaining())))
        try:
            found = look(patience)
        except StatementError as error:
            waiting = clocks.turn_to(WAITING)
            if error.sqlstate != LOCK_NOT_AVAILABLE:
                raise
            from entrypoint.migration.lock import locked

            # If nobody blocks it any more, name the sessions seen before: they may just have released it.
            blockers = locked.who_locks(session, place) or blockers
            if waiting.passed():
                raise locked.locked_too_long(blockers, settings.lock.timeout + clocks.stopped) from error
        else:
            clocks.turn_to(CONNECTING)
            return found
        logs.event(logs.INFO, "ledger.locked", f"{locked.describe(blockers)}; checking again")
        if others is None:
            from entrypoint.migration.lock.patience import ClockStopper

            others = ClockStopper(clocks, settings.lock, settings.apply, settings.role)
        others.weigh(session, place)


def _enter_phase(settings: Settings, name: str) -> None:
    """Record the phase, if health probes are on; otherwise the module is not even imported."""
    if settings.probe_port is not None:
        from entrypoint import phase

        phase.enter(name)


def refuse_read_only(survey: Survey, what: str) -> None:
    """Raise ReadOnlyError if the server accepts no writes; `what` is a clause that says what had to be written."""
    place = survey.place
    if place.standby or place.read_only:
        from entrypoint.migration.ledger.refusal import read_only, read_only_by_default

        if place.standby:
            raise read_only(f"{what}, and this server is a standby; nothing was run")
        raise read_only_by_default(survey.session, f"{what}, and the database is read-only by default; nothing was run")


def assign(
    settings: Settings,
    survey: Survey,
    up_to: int | None = None,
    *,
    after: bool = False,
    repeats: Repeats | None = None,
) -> Assignment:
    """Return everything that the holder of the lock needs to know."""
    return Assignment(
        directory=survey.directory,
        up_to=up_to,
        target=survey.target,
        schema=settings.schema,
        role=settings.role,
        app_version=settings.app_version,
        token=survey.target.token,
        connect_timeout=settings.connect.timeout,
        lock=settings.lock,
        apply=settings.apply,
        clocks=survey.clocks,
        backup_dir=settings.backup_dir,
        board=Board(len(survey.plan.pending)),
        losses=Losses(),
        refuse_out_of_order=settings.refuse_out_of_order,
        differences=Differences.told_of(survey.plan),
        adopt=settings.adopt,
        # With --to, only our own files run.
        wanted=survey.wanted if up_to is None else None,
        address=settings.address,
        repeats=repeats,
        after=after,
    )
