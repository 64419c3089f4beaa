"""`wait`: wait until the database answers, or until others have brought the schema up to date.

It looks in the same way as a process that waits for the lock (`migration.lock.waiting`): with one connection, without
a transaction between two looks, at irregular intervals, and through restarts of the server. But it never contends.
"""

from __future__ import annotations

import gc
import os
import time
from typing import NamedTuple

from entrypoint import logs
from entrypoint.clocks import Clocks
from entrypoint.counts import count
from entrypoint.database import classify
from entrypoint.database.answers import StatementError
from entrypoint.database.connect import unavailable
from entrypoint.database.login import Failure
from entrypoint.database.sqlstate import INSUFFICIENT_PRIVILEGE, INVALID_SCHEMA_NAME, UNDEFINED_COLUMN, UNDEFINED_TABLE
from entrypoint.database.target import target_of
from entrypoint.deadline import Deadline, growing, pause
from entrypoint.errors import ConfigurationError, ConnectionLostError
from entrypoint.errors.migration import ClosedSchemaError
from entrypoint.errors.operator import WaitTimeoutError
from entrypoint.migration.ledger import reading, repeatables, repeated, words
from entrypoint.migration.ledger.finding import find, find_again
from entrypoint.migration.ledger.judging import judge_on, shown_command
from entrypoint.migration.ledger.plan import decide, plan_of
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.ledger.rows import COMPLETED, FAILED
from entrypoint.migration.lock.patience import ClockStopper
from entrypoint.migration.lock.waiting import LEAST, KeptConnection, News, pause_between_looks, time_for_a_look
from entrypoint.migration.script import files
from entrypoint.migration.script.prepare import refuse_bad_names
from entrypoint.migration.script.rollout import rollouts
from entrypoint.tool.inputs import want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.database.session import Session
    from entrypoint.errors import EntrypointError
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.reading import Look
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.ledger.verdict import Wanted
    from entrypoint.migration.script.files import Directory
    from entrypoint.settings import Settings

    Glance = Callable[[Session, Deadline], "Sight"]

# The longest pause between two attempts to connect.
_LONGEST_PAUSE = 5.0
# The ledger or its schema is missing or has changed: search for it again.
_MOVED = (INVALID_SCHEMA_NAME, UNDEFINED_COLUMN, UNDEFINED_TABLE)
# The migrating process may grant the privilege to read the ledger later.
_NOT_YET_PERMITTED = INSUFFICIENT_PRIVILEGE


class Sight(NamedTuple):
    """The result of one look."""

    over: bool
    """Whether the wait is over."""
    words: str
    """The state in words."""
    fields: dict[str, object]


def wait_for_database(settings: Settings, timeout: float | None) -> None:
    """Return when the server has answered a query, or raise DatabaseUnavailableError after `timeout` seconds.

    Without a timeout, it waits as long as a start would try to connect.
    """

    def glance(session: Session, patience: Deadline) -> Sight:
        # A pooler accepts connections even if the server behind it is down.
        session.query("SELECT 1", patience)
        return Sight(over=True, words="the database answers", fields={})

    _Waiter(settings, "the database", settings.connect.longest if timeout is None else timeout).wait(glance)


def wait_for_schema(settings: Settings, version: int | None, timeout: float | None) -> None:
    """Return when none of the migration files is pending, or when the schema is at `version`, whatever the files.

    Without a `timeout` in seconds, it waits as long as all migrations together may take, and as long as a live holder
    of the lock has, because its files may declare more time. Raises WaitTimeoutError, DatabaseUnavailableError, or
    MigrationHeldBackError if a person has to act first.
    """
    waiter = _Waiter(settings, "the schema", settings.apply.timeout if timeout is None else timeout)
    limits = settings.lock._replace(hard=timeout is not None)
    others = ClockStopper(waiter.clocks, limits, settings.apply, settings.role)
    looker = _ByFiles(settings, others) if version is None else _ByVersion(settings, others, version)
    waiter.wait(looker.glance)


class _Looker:
    """Looks at the ledger."""

    def __init__(self, settings: Settings, others: ClockStopper) -> None:
        self._settings = settings
        self._others = others
        self._place: Place | None = None
        self._login_pid = 0
        self._command: Wanted | None = None
        """Another migration tool, which has to finish as well."""
        self._directory: Directory | None = None
        """The files; None if only a version is awaited."""

    def glance(self, session: Session, patience: Deadline) -> Sight:
        """Look once. Raises MigrationHeldBackError if waiting cannot help."""
        place = self._place
        moved = session.login_pid != self._login_pid
        if place is None or moved:
            place = find(session, self._settings.schema, patience, self._settings.role, self._settings.command)
            self._login_pid = session.login_pid
        elif not place.complete:
            place = find_again(session, place, self._settings.schema, patience, self._settings.role)
        # Unknown until this look has succeeded.
        self._place = None
        look = reading.look_on(session, place, self._settings.role, patience)
        self._place = place
        sight, hopeless = self._judge(look)
        if sight.over and self._directory is not None and self._directory.repeatables:
            sight = self._judge_repeatables(self._directory, sight, session, place, patience)
        if sight.over and self._command is not None:
            sight = self._judge_command(self._command, sight, session, place, patience)
        if not sight.over:
            busy = _busy(look, standby=place.standby)
            if busy and not place.standby:
                self._others.weigh(session, place, look.lock.token if look.lock else None)
            else:
                self._others.forget()
            # While somebody is migrating, a failed migration may be running again.
            if hopeless is not None and not busy:
                raise hopeless
            sight = sight._replace(
                words=f"{sight.words}; "
                + (f"the migration lock: {words.holder(look.lock)}" if busy else "nobody is migrating"),
                fields=sight.fields | (words.facts(look.lock) if busy else {}),
            )
        return sight

    def _judge_repeatables(
        self, directory: Directory, sight: Sight, session: Session, place: Place, patience: Deadline
    ) -> Sight:
        """Return whether everything in repeatable/ that a start of this image would apply is applied."""
        known = repeated.read(session, place, self._settings.role, patience)
        judged = repeatables.judge_files(directory.repeatables, known.texts, directory.newest)
        if not judged.due:
            repeatables.tell(judged, directory.newest)
            return sight
        first = judged.due[0]
        state = f"{sight.words}, but {first.shown} is pending"
        if len(judged.due) > 1:
            state = f"{sight.words}, but {len(judged.due)} repeatable files are pending, {first.shown} among them"
        for file in judged.due:
            if (failure := known.failure_of(file)) is not None:
                state += (
                    f"; {file.shown} failed at {failure.at} (see entrypoint status), and the next start tries it again"
                )
                break
        return sight._replace(over=False, words=state)

    def _judge_command(self, wanted: Wanted, sight: Sight, session: Session, place: Place, patience: Deadline) -> Sight:
        """Return whether the other migration tool has finished; if that cannot be known, whether it has run at all."""
        verdict, found = judge_on(session, place, wanted, self._settings.role, patience)
        ran = any(run.status == COMPLETED and run.fingerprint == wanted.fingerprint for run in found.rows)
        if not verdict.pending or (verdict.always and ran):
            return sight
        return sight._replace(over=False, words=f"{sight.words}, but {shown_command(wanted)} is pending: {verdict.why}")

    def _judge(self, look: Look) -> tuple[Sight, EntrypointError | None]:
        """Return whether the wait is over, and if not, an error that waiting cannot fix, such as a failed migration."""
        raise NotImplementedError


class _ByFiles(_Looker):
    def __init__(self, settings: Settings, others: ClockStopper) -> None:
        super().__init__(settings, others)
        repeating = settings.command is None
        directory = files.load_directory(settings.migrations_dir, settings.file_limit, repeating=repeating)
        refuse_bad_names(directory)
        for warning in directory.warnings:
            logs.event(logs.WARNING, "files.warning", warning)
        self._files = directory.files
        self._directory = directory
        if settings.command is not None:
            self._command = want(settings.command)

    def _judge(self, look: Look) -> tuple[Sight, EntrypointError | None]:
        plan = plan_of(self._files, look.rows)
        if plan.below:
            raise words.below_floor(plan, self._place.schema if self._place else "public")
        version = "empty" if plan.current is None else f"at version {plan.current}"
        if not self._settings.migrations_dir:
            return Sight(over=True, words="the schema is up to date", fields={}), None
        fields: dict[str, object] = {"version": plan.current, "latest": plan.latest}
        if not plan.pending:
            return Sight(over=True, words=f"the schema is {version}; no migrations are pending", fields=fields), None
        pending = count(len(plan.pending), "migration is", "migrations are")
        state = f"it is {version}, and {pending} pending: {plan.pending[0].name} is next"
        hopeless: EntrypointError | None = words.obstacle(plan)
        if self._settings.refuse_out_of_order and plan.out_of_order:
            hopeless = words.out_of_order(plan)
        return Sight(over=False, words=state, fields=fields | {"pending": len(plan.pending)}), hopeless


class _ByVersion(_Looker):
    def __init__(self, settings: Settings, others: ClockStopper, version: int) -> None:
        super().__init__(settings, others)
        self._version = version
        try:
            files_here = files.load_directory(settings.migrations_dir, settings.file_limit).files
        except ConfigurationError:
            files_here = ()  # No files are needed.
        self._files = files_here
        self._wanted = next((file for file in files_here if file.number == version), None)

    def _judge(self, look: Look) -> tuple[Sight, EntrypointError | None]:
        current = decide((), look.rows).current
        fields: dict[str, object] = {"version": current}
        version = "empty" if current is None else f"at version {current}"
        applied = {row.number for row in look.rows if row.status == COMPLETED}
        # Files that run after the rollout, or out of order, may be missing below the highest number.
        if (current or 0) >= self._version and (self._wanted is None or self._version in applied):
            return Sight(over=True, words=f"the schema is {version}", fields=fields), None
        failure = next((row for row in look.rows if self._stands_before(row)), None)
        state = f"it is {version}, and should be at version {self._version}"
        if (current or 0) >= self._version:
            state = f"it is {version}, and {self._wanted.name if self._wanted else self._version} is not applied"
        return Sight(over=False, words=state, fields=fields), words.held_back(failure) if failure else None

    def _stands_before(self, row: LedgerRow) -> bool:
        """Return whether this row holds back the awaited version, as far as the files are known.

        A failed migration that runs after the rollout holds back only others of that kind.
        """
        if row.status != FAILED or row.number > self._version:
            return False
        late = {number for number, rollout in rollouts(self._files).items() if rollout.after}
        return row.number not in late or self._version in late


class _Waiter:
    """Keeps one connection, and looks repeatedly until the time is over."""

    def __init__(self, settings: Settings, what: str, timeout: float) -> None:
        self._settings = settings
        self._what = what
        self._target = target_of(settings.address, token=os.urandom(8).hex())
        self.clocks = Clocks(timeout)
        self._deadline = self.clocks.running
        self._least = LEAST if timeout else settings.connect.timeout
        self._began = time.monotonic()
        self._line = KeptConnection(self._target, settings.connect.timeout)
        self._news = News()
        self._trouble: EntrypointError | None = None
        """Why the last look failed."""

    def wait(self, glance: Glance) -> None:
        """Look until the wait is over; raise an error when the time is over."""
        gc.enable()  # It has been off since the first line of __main__, which is fine only for short runs.
        try:
            while True:
                sight = self._look(glance)
                if sight.over:
                    seconds = time.monotonic() - self._began
                    words = f"{sight.words} (after {seconds:.1f} s)"
                    logs.event(logs.INFO, "wait.over", words, duration_ms=round(seconds * 1000), **sight.fields)
                    return
                if self._deadline.passed():
                    raise self._trouble or self._too_late(sight)
                self._tell(sight)
                pause(min(self._pause(), self._deadline.remaining()))
        finally:
            self._line.drop()

    def _look(self, glance: Glance) -> Sight:
        """Look once, connecting first if necessary. Raises errors that waiting cannot fix."""
        patience = time_for_a_look(self._deadline, self._least)
        try:
            sight = glance(self._line.connected(self._deadline, self._least), patience)
        except Failure as failure:
            tried = f"{count(self._line.attempts, 'attempt')} in {time.monotonic() - self._began:.0f} s"
            error = unavailable(failure, self._target, attempts=self._line.attempts, tried=tried)
            if not failure.cause.heals:
                raise error from None
            self._trouble = error
            return Sight(
                over=False, words=f"no connection yet: {failure.cause.words}", fields={"cause": failure.cause.name}
            )
        except ConnectionLostError as lost:
            self._line.drop()
            self._trouble = lost
            return Sight(over=False, words=lost.message, fields={})
        except ClosedSchemaError as closed:  # The migrating process may grant this privilege, too.
            self._trouble = closed
            return Sight(over=False, words=closed.message, fields={})
        except StatementError as error:
            return self._judge(error)
        self._trouble = None
        return sight

    def _judge(self, error: StatementError) -> Sight:
        """Return the result of a refused look, if the next one may succeed."""
        doing = "the migration history could not be read"
        fault = refused_on(self._line.session, self._settings.schema, self._settings.role, error, doing, reading=True)
        passing = classify.may_pass(error.sqlstate) or classify.stopped_by_operator(error.sqlstate)
        if not passing and error.sqlstate not in {*_MOVED, _NOT_YET_PERMITTED}:
            raise fault from error
        self._trouble = fault if error.sqlstate == _NOT_YET_PERMITTED else None
        return Sight(over=False, words=fault.message, fields={"sqlstate": error.sqlstate})

    def _pause(self) -> float:
        if not self._line.failures:
            return pause_between_looks()
        return growing(self._settings.connect.backoff, self._line.failures - 1, _LONGEST_PAUSE)

    def _tell(self, sight: Sight) -> None:
        if self._news.worth_telling():
            logs.event(logs.INFO, "wait.waiting", f"waiting for {self._what}: {sight.words}", **sight.fields)

    def _too_late(self, sight: Sight) -> WaitTimeoutError:
        return WaitTimeoutError(
            f"Waited {round(self._deadline.budget + self.clocks.stopped, 1):g} s for {self._what}: {sight.words}",
            remedy="`wait` does not migrate. Check that another process does (entrypoint status). If it only needs "
            "more time, give a longer --timeout.",
            **sight.fields,
        )


def _busy(look: Look, *, standby: bool) -> bool:
    """Return whether somebody is migrating: the guard is held, or the row says so and its guard cannot be seen."""
    row = look.lock
    return not look.lock_free or (row is not None and row.held and (row.legacy or standby))
