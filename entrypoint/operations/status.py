"""`status`: the documented answer about files and database, as JSON for programs; `status_table` is for people."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from entrypoint import logs
from entrypoint.database.answers import StatementError
from entrypoint.database.sqlstate import LOCK_NOT_AVAILABLE, UNDEFINED_COLUMN, UNDEFINED_TABLE
from entrypoint.database.target import target_of
from entrypoint.deadline import Deadline
from entrypoint.errors import EntrypointError
from entrypoint.errors.migration import MigrationFilesError
from entrypoint.migration.adoption.unadopted import unadopted
from entrypoint.migration.ledger import reading, words
from entrypoint.migration.ledger.finding import find
from entrypoint.migration.ledger.place import TABLES
from entrypoint.migration.ledger.plan import plan_of
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.ledger.rows import COMPLETED, REPAIRED
from entrypoint.migration.ledger.rows import FAILED as HAS_FAILED
from entrypoint.migration.ledger.walk import walk_in, without_walk
from entrypoint.migration.lock import holder
from entrypoint.migration.lock.locked import describe, locked_too_long, who_locks
from entrypoint.operations import for_programs
from entrypoint.operations.repeatable_status import read_repetitions
from entrypoint.operations.whereabouts import Whereabouts, whereabouts
from entrypoint.redaction import foreign, foreign_report, foreign_values
from entrypoint.survey import survey_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal

    from entrypoint.database.session import Session
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.plan import Plan
    from entrypoint.migration.ledger.reading import Detail, KeyHolder, LockRow, Reading
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.ledger.walk import Walk
    from entrypoint.operations.command_status import CommandStatus
    from entrypoint.operations.repeatable_status import Repetition
    from entrypoint.settings import Settings

    StatusName = Literal["up_to_date", "pending", "error"]

_PATIENCE = 5.0
_QUICK = 2.0
# A table or column that no longer exists.
_GONE = (UNDEFINED_TABLE, UNDEFINED_COLUMN)
# Exit codes for scripts (--exit-code).
PENDING = 10
FAILED = 11
DIFFERS = 12
# The states of an applied migration, and of one that a start would run.
APPLIED = ("applied", "changed", "missing", "ahead")
_TO_RUN = ("pending", "failed", "running")


class Line(NamedTuple):
    """One migration, as the database and the files know it."""

    number: int
    filename: str
    state: str
    """applied, pending, after, failed, changed, missing or ahead; `running` for one outside a transaction.

    `after`: it runs after the rollout, so it is not pending.
    """
    applied_at: str | None
    milliseconds: int | None
    application_version: str | None
    error: str | None
    walk: Walk | None = None
    """Its progress, if it runs in batches and is not finished."""


class Listing(NamedTuple):
    """What `status` lists."""

    lines: tuple[Line, ...]
    repeatables: tuple[Repetition, ...]


class Status(NamedTuple):
    """Everything that `status` shows."""

    name: StatusName
    current: int
    latest: int
    applied: int
    pending: int
    lines: tuple[Line, ...]
    last: Line | None
    lock: LockRow | None
    guarded: bool | None
    """Whether the lock's guard is alive, which the row alone does not tell. None on a standby, where it is unknown."""
    strangers: tuple[KeyHolder, ...] = ()
    """Sessions of other programs that hold one of the lock's keys, so that nobody can migrate."""
    untrusted: str | None = None
    """Why a start would refuse this ledger, or None."""
    refused: str | None = None
    """Why a start would refuse to run what is pending, although nothing has failed, or None."""
    command: CommandStatus | None = None
    """The other migration tool that runs under the lock, if one is set."""
    unadopted: str | None = None
    """Which other tool has migrated this database, if nothing is recorded here and nothing says what to do about it."""
    outstanding: int = 0
    """How many migrations wait for the rollout to end, including failed ones."""
    outstanding_since: str | None = None
    """When the last migration before the first of them was applied, as far as the ledger knows."""
    below_floor: str | None = None
    """Why these files are too old for the schema, or None."""
    blocked: str | None = None
    """Which session, not holding the migration lock, has locked the row of `migration_lock`; as a clause."""
    repeatables: tuple[Repetition, ...] = ()
    """The files in repeatable/, and applied ones whose file is gone."""
    where: Whereabouts = Whereabouts("", "", "", "")
    """Which database this is about."""
    chosen: Listing | None = None
    """What to list; None for everything."""
    unread: bool = False
    """Whether the migration files have errors, so that this is only what the database has recorded."""

    def exit_code(self, *, strict: bool) -> int:
        """Return the exit code for `--exit-code`. If `strict`, changed or missing files come before pending ones."""
        code = {"up_to_date": 0, "pending": PENDING, "error": FAILED}[self.name]
        return DIFFERS if strict and code != FAILED and (self.count("changed") or self.count("missing")) else code

    def count(self, state: str) -> int:
        """Return how many migrations are in a state."""
        return sum(line.state == state for line in self.lines)

    def is_running(self, line: Line) -> bool:
        """Return whether the lock's holder is running this file now, as far as its row says."""
        lock = self.lock
        # On a standby there is no way to see whether the holder is alive, so believe the row.
        live = self.guarded is not False or (lock is not None and lock.legacy)
        at = lock is not None and lock.held and lock.migration == line.filename
        return live and at and line.state in ("pending", "after", "failed", "running")

    def only(self, *, pending: bool, last: int | None) -> Status:
        """Return the status with fewer migrations listed: what a start would run, the `last` applied ones, or both.

        With neither, all. The counts do not change.
        """
        if not pending and last is None:
            return self
        applied = sorted(
            (line for line in self.lines if line.state in APPLIED),
            key=lambda line: (line.applied_at or "", line.number),
        )
        chosen = {line.number for line in applied[max(0, len(applied) - (last or 0)) :]}
        lines = tuple(
            line
            for line in self.lines
            if line.number in chosen or (pending and (line.state in _TO_RUN or self.is_running(line)))
        )
        repeatables = tuple(one for one in self.repeatables if pending and one.state in _TO_RUN)
        return self._replace(chosen=Listing(lines, repeatables))

    @property
    def listing(self) -> Listing:
        """What to list."""
        return self.chosen or Listing(self.lines, self.repeatables)

    def documented(self) -> dict[str, object]:
        """Return the answer of the status API. The first six keys are fixed; more may follow."""
        last = self.last
        return {
            "currentVersion": self.current,
            "latestVersion": self.latest,
            "appliedMigrations": self.applied,
            "pendingMigrations": self.pending,
            "status": self.name,
            "lastMigration": last and {"number": last.number, "filename": last.filename, "appliedAt": last.applied_at},
            "server": self.where.server or None,
            "database": self.where.database or None,
            "lock": for_programs.lock(self.lock, alive=self.guarded),
            "strangers": [
                {"pid": one.pid, "user": foreign(one.user), "application": foreign(one.application)}
                for one in self.strangers
            ],
            "untrusted": self.untrusted,
            "refused": self.refused,
            "outstandingMigrations": self.outstanding,
            "outstandingSince": self.outstanding_since,
            "belowFloor": self.below_floor,
            **({} if self.command is None else {"command": self.command.documented()}),
            "repeatables": [one.documented() for one in self.listing.repeatables],
            "migrations": [
                {
                    "number": line.number,
                    "filename": line.filename,
                    "state": line.state,
                    "appliedAt": line.applied_at,
                    "executionTimeMs": line.milliseconds,
                    "applicationVersion": line.application_version,
                    "error": line.error and foreign_report(line.error, line.filename),
                    **({} if line.walk is None else {"batches": foreign_values(line.walk.documented())}),
                }
                for line in self.listing.lines
            ],
        }


def read(settings: Settings) -> Status:
    """Read the files and the database. Raises EntrypointError."""
    survey = survey_database(settings)
    try:
        found, place = read_ledger(survey.session, survey.place, settings, Deadline(_PATIENCE))
        command = None
        if survey.wanted is not None:
            from entrypoint.operations.command_status import read_command

            patience, guarded = Deadline(_PATIENCE), is_guarded(found)
            command = read_command(survey.session, place, survey.wanted, settings.role, patience, guarded=guarded)
        recorded = any(row.status == COMPLETED for row in found.rows)
        other = unadopted_hint(survey.session, settings, recorded=recorded)
        repetitions = read_repetitions(survey.session, place, survey.directory, settings)
        # A locked row can be read, but nobody can migrate.
        held = found.lock is not None and found.lock.held
        blocked = () if held or found.holders or not place.lock else who_locks(survey.session, place, TABLES[1:])
    finally:
        survey.session.close()
    plan = plan_of(survey.directory.files, found.rows)
    status = summarise(plan, found, place, refuse_out_of_order=settings.refuse_out_of_order)
    status = status._replace(
        unadopted=other, where=whereabouts(settings.role), blocked=describe(blocked) if blocked else None
    )
    status = with_repetitions(status, repetitions)
    return with_command(status, command)


def read_recorded(settings: Settings) -> Status | None:
    """Return what the database alone knows, if the files have errors; None if it does not say."""
    # The error is what matters, so do not make the user wait.
    once = settings.connect._replace(attempts=1, timeout=min(_QUICK, settings.connect.timeout))
    quick = settings._replace(migrations_dir="", connect=once, lock=settings.lock._replace(timeout=0.0, hard=True))
    with suppress(EntrypointError):
        status = read(quick)
        # Without files to compare with, nothing is ahead of them or too old.
        lines = tuple(line._replace(state="applied") if line.state == "ahead" else line for line in status.lines)
        return status._replace(lines=lines, below_floor=None, unadopted=None, unread=True)
    return None


def with_repetitions(status: Status, repetitions: tuple[Repetition, ...]) -> Status:
    """Return the status with the repeatable files."""
    states = {one.state for one in repetitions}
    name = status.name
    if name != "error" and HAS_FAILED in states:
        name = "error"
    elif name == "up_to_date" and "pending" in states:
        name = "pending"
    return status._replace(name=name, repeatables=repetitions)


def unadopted_hint(session: Session, settings: Settings, *, recorded: bool) -> str | None:
    """Return which tool's history is here, as a clause, if nothing is `recorded` and it is not to be adopted."""
    if recorded or settings.adopt is not None or settings.command is not None:
        return None
    return unadopted(session, settings.role)


def with_command(status: Status, command: CommandStatus | None) -> Status:
    """Return the status with the other migration tool."""
    if command is None:
        return status
    name = status.name
    if name != "error" and command.pending:
        name = "error" if command.state == HAS_FAILED else "pending"
    return status._replace(name=name, command=command)


def read_ledger(session: Session, place: Place | None, settings: Settings, deadline: Deadline) -> tuple[Reading, Place]:
    """Read the ledger and the lock at `place`, in one round trip; return their place, too.

    Searches for them first if `place` is None, or if they are no longer there. Checks the place again if it has
    changed or was not trusted. Raises EntrypointError.
    """
    try:
        if place is not None and not place.intrusion:
            try:
                found = reading.read(session, place, settings.schema, settings.role, deadline)
            except StatementError as error:
                if error.sqlstate not in _GONE:
                    raise
            else:
                if not found.moved:
                    return found, place
        place = _find(session, place, settings, deadline)
        return reading.read(session, place, settings.schema, settings.role, deadline), place
    except StatementError as error:
        if error.sqlstate == LOCK_NOT_AVAILABLE and place is not None:
            session.rollback(Deadline(_PATIENCE))
            raise locked_too_long(who_locks(session, place, TABLES[1:]), 0) from error
        doing, schema = "the migration history could not be read", _pinned(place, settings)
        raise refused_on(session, schema, settings.role, error, doing, reading=True) from error


def _find(session: Session, place: Place | None, settings: Settings, deadline: Deadline) -> Place:
    """Find the ledger. Looks first at `place`, where it was, whatever the search_path is by now."""
    pinned = _pinned(place, settings)
    found = find(session, pinned, deadline, settings.role, settings.command)
    if found.founded or pinned == settings.schema:
        return found
    return find(session, settings.schema, deadline, settings.role, settings.command)


def _pinned(place: Place | None, settings: Settings) -> str | None:
    return place.schema if place is not None and place.founded else settings.schema


def summarise(plan: Plan, found: Reading, place: Place, *, refuse_out_of_order: bool) -> Status:
    """Combine the comparison of files and ledger with the rows' details and the lock."""
    details = found.details
    strangers = tuple(one for one in found.holders if holder.is_strange(one, found.lock))
    changed = {file.number for file in plan.changed}
    missing = {row.number for row in plan.missing}
    ahead = {row.number for row in plan.ahead}
    unfinished = {row.number: row for row in (*plan.failed, *plan.running)}
    lines = []
    for row in plan.applied:
        state = (
            "changed" if row.number in changed
            else "missing" if row.number in missing
            else "ahead" if row.number in ahead
            else "applied"
        )  # fmt: skip
        lines.append(_line(row.number, row.filename, state, details.get(row.number), None))
    for todo, file in [*(("pending", file) for file in plan.pending), *(("after", file) for file in plan.outstanding)]:
        earlier = unfinished.pop(file.number) if file.number in unfinished else None
        state, error = (earlier.status, _said_of(earlier)) if earlier else (todo, None)
        lines.append(_line(file.number, file.name, state, details.get(file.number), error))
    # Their files are gone.
    lines += [
        _line(row.number, row.filename, row.status, details.get(row.number), row.error_message)
        for row in unfinished.values()
    ]
    lines.sort()
    applied = [
        line
        for line in lines
        if line.applied_at is not None and line.state not in ("failed", "running", "pending", "after")
    ]
    return Status(
        name="error" if plan.failed or plan.below else "pending" if plan.pending else "up_to_date",
        current=plan.current or 0,
        latest=plan.latest or 0,
        applied=len(plan.applied),
        pending=len(plan.pending),
        lines=tuple(lines),
        last=max(applied, key=lambda line: (line.applied_at or "", line.number), default=None),
        lock=found.lock,
        guarded=is_guarded(found),
        strangers=strangers,
        untrusted=foreign(place.untrusted) or None,
        refused="; ".join(words.out_of_order(plan).faults) if refuse_out_of_order and plan.out_of_order else None,
        outstanding=len(plan.outstanding),
        outstanding_since=_since(plan, details),
        below_floor=words.below_floor(plan, place.schema).message if plan.below else None,
        where=whereabouts(),
    )


def _said_of(row: LedgerRow) -> str | None:
    """Return the error of an unfinished migration, and whether `repair` lets it continue."""
    if row.status == HAS_FAILED and row.checksum == REPAIRED and row.error_message:
        return f"Repaired: the next start continues it. It had failed:\n{row.error_message}"
    return row.error_message


def _since(plan: Plan, details: Mapping[int, Detail]) -> str | None:
    """Return when the last migration before the first outstanding one was applied. Since then that one can run."""
    if not plan.outstanding:
        return None
    first = plan.outstanding[0].number
    times = [details[row.number].applied_at for row in plan.applied if row.number < first and row.number in details]
    return max(filter(None, times), default=None)


def is_guarded(found: Reading) -> bool | None:
    """Return whether one of our sessions holds the lock; None on a standby, where it is unknown."""
    if found.standby:
        return None
    return any(one.guards and one.exclusive and not holder.is_strange(one, found.lock) for one in found.holders)


def print_json(
    settings: Callable[[], Settings], write: Callable[[str], object], *, pending: bool = False, last: int | None = None
) -> Status:
    """Print the answer as JSON. If there is none, print that, and raise the EntrypointError afterwards.

    `pending` and `last` are as for `Status.only`.
    """
    chosen = None
    try:
        chosen = settings()
        status = read(chosen).only(pending=pending, last=last)
    except EntrypointError as error:
        if chosen is not None and isinstance(error, MigrationFilesError):
            with suppress(EntrypointError):
                target_of(chosen.address, logs.run_id())  # Describes the database, without connecting.
        nothing = Status("error", 0, 0, 0, 0, (), None, None, guarded=False, where=whereabouts())
        write(for_programs.as_json(nothing.documented() | {"error": error.message}))
        raise
    write(for_programs.as_json(status.documented()))
    return status


def _line(number: int, filename: str, state: str, detail: Detail | None, error: str | None) -> Line:
    applied_at, milliseconds, version = detail or (None, None, None)
    if state in ("pending", "after"):
        applied_at = None
    walk = walk_in(error)
    return Line(number, filename, state, applied_at, milliseconds, version, error and without_walk(error), walk)
