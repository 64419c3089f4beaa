"""`migrate --dry-run`: find out what would run, in order, and change nothing."""

from __future__ import annotations

import os
from typing import NamedTuple

from entrypoint.database.answers import StatementError
from entrypoint.deadline import Deadline
from entrypoint.errors import ConfigurationError
from entrypoint.errors.operator import UsageError, no_such_number
from entrypoint.migration.adoption.tools import BY_NAME
from entrypoint.migration.apply.repeating import name_of
from entrypoint.migration.ledger import widening, words
from entrypoint.migration.ledger.elsewhere import refuse_second
from entrypoint.migration.ledger.finding import refuse_intrusion
from entrypoint.migration.ledger.judging import shown_command
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.ledger.repeatables import judge_files
from entrypoint.migration.ledger.repeated import read_known
from entrypoint.migration.ledger.rows import begin_look
from entrypoint.migration.ledger.walk import walk_in
from entrypoint.migration.script.batch import digest
from entrypoint.migration.script.files import load_directory
from entrypoint.migration.script.prepare import prepare, prepare_repeatables, refreshed_by, refuse_unknown_refresh
from entrypoint.migration.script.units import goes_on_at, stopped_at, units_of
from entrypoint.operations import adopt as adoption
from entrypoint.operations.check import lint_all, look_at, no_linter
from entrypoint.operations.findings import Finding, sorted_findings
from entrypoint.operations.lint import find_squawk
from entrypoint.operations.release import contracting
from entrypoint.operations.silence import is_excepted
from entrypoint.operations.status import unadopted_hint
from entrypoint.redaction import foreign
from entrypoint.startup import refuse_below_floor, tell_differences
from entrypoint.survey import survey_database
from entrypoint.tool.leading import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.session import Session
    from entrypoint.errors.migration import MigrationError
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.script.files import MigrationFile
    from entrypoint.migration.script.prepare import Prepared
    from entrypoint.operations.check import FileReport
    from entrypoint.settings import Settings
    from entrypoint.survey import Survey

# For reading other schemas.
_PATIENCE = 5.0


def check_target(settings: Settings, number: int) -> None:
    """Raise UsageError unless a migration has this `number`."""
    numbers = [file.number for file in load_directory(settings.migrations_dir, settings.file_limit).files]
    if number not in numbers:
        raise no_such_number(number, numbers, "entrypoint migrate --to N")


def check_repeatables(settings: Settings, names: frozenset[str], *, beside: bool) -> None:
    """Raise UsageError unless each name has a file. `beside`: whether an option is given that rules this one out."""
    usage = "entrypoint migrate --repeatable NAME"
    if settings.command is not None:
        raise UsageError("--repeatable cannot go with MIGRATION_COMMAND", remedy=f"env -u MIGRATION_COMMAND {usage}")
    if beside:
        raise UsageError("--repeatable cannot go with --dry-run, --rehearse or --to", remedy=usage)
    known = {file.name for file in load_directory(settings.migrations_dir, settings.file_limit).repeatables}
    for name in sorted(names - known):
        listed = f"there are {', '.join(sorted(known))}" if known else "it has no files"
        raise UsageError(f"repeatable/ has no file {foreign(name)}.sql; {listed}", remedy=usage)


class PlannedFile(NamedTuple):
    """A file that would run."""

    migration: Prepared
    behind: int | None
    """The newest applied migration, if it comes after this one."""
    goes_on: str
    """Where it would continue, if part of it has taken effect; else empty."""
    findings: tuple[Finding, ...]


class PlannedStop(NamedTuple):
    """Where a start would stop among the planned files, and why."""

    before: str
    error: ConfigurationError


class PlannedRepeatables(NamedTuple):
    """What would happen to the files in repeatable/."""

    due: tuple[Prepared, ...] = ()
    superseded: tuple[str, ...] = ()
    """Those that would not be applied, because another image has replaced their text."""
    newer: int | None = None
    """The migration of a newer image, which keeps all of them from being applied."""


class Commanded(NamedTuple):
    """Whether another migration tool would run."""

    command: str
    pending: bool
    why: str


class Foreseen(NamedTuple):
    """What a start would do."""

    current: int
    latest: int
    adopted: tuple[str, ...] = ()
    """The files that would be recorded as completed, because another tool has applied them."""
    tool: str = ""
    """That tool."""
    planned: tuple[PlannedFile, ...] = ()
    stop: PlannedStop | None = None
    obstacle: MigrationError | None = None
    """Why it would stop after the planned ones."""
    repeated: PlannedRepeatables = PlannedRepeatables()
    command: Commanded | None = None
    outstanding: tuple[str, ...] = ()
    """The files that wait for the rollout to end."""
    note: Finding | None = None
    """Why the linter was not run."""
    unadopted: str | None = None
    """The tool whose history is here and is not adopted."""


def foresee(settings: Settings, *, up_to: int | None, after: bool = False) -> Foreseen:
    """Return what would be done. Reads the database and changes nothing.

    Raises what a real run would raise before it runs anything.
    """
    survey = survey_database(settings, up_to=up_to, after=after)
    escapes = survey.session.escapes
    try:
        survey, adopted, narrow = _foresee(settings, survey, up_to, after=after)
        other = unadopted_hint(survey.session, settings, recorded=bool(survey.plan.applied))
        repeated = _repeatables(settings, survey, up_to)
    finally:
        survey.session.close()
    tell_differences(survey.directory, survey.plan)
    plan = survey.plan
    if settings.refuse_out_of_order and plan.out_of_order:
        raise words.out_of_order(plan)
    among = survey.directory.files
    prepare(plan.outstanding, escapes=escapes, among=among)
    migrations = prepare(plan.runnable, escapes=escapes, among=among)
    obstacle = words.obstacle(plan)
    if obstacle is not None and not plan.runnable:
        raise obstacle
    found = Foreseen(
        plan.current or 0,
        plan.latest or 0,
        adopted=adopted,
        tool=BY_NAME[settings.adopt.tool].shown if settings.adopt else "",
        stop=_where_it_stops(plan.runnable, narrow, at_once=bool(adopted)),
        obstacle=obstacle,
        repeated=repeated,
        command=_command(survey),
        outstanding=tuple(file.name for file in plan.outstanding),
    )
    if not plan.pending:
        return found
    # Each file's headline says what runs outside a transaction.
    looks = [look_at(file, notes=False, escapes=escapes) for file in plan.runnable]
    said, note = _lint(looks)
    begun = {row.number: row for row in (*plan.failed, *plan.running)}
    planned = tuple(
        PlannedFile(
            migrations[look.file.number],
            plan.current if look.file in plan.out_of_order else None,
            _goes_on(migrations[look.file.number], begun.get(look.file.number)),
            tuple(
                sorted_findings(
                    [*look.findings, *said.get(look.shown, ()), *_about_the_rollout(look, linted=note is None)]
                )
            ),
        )
        for look in looks
    )
    return found._replace(planned=planned, note=note, unadopted=other)


def _foresee(
    settings: Settings, survey: Survey, up_to: int | None, *, after: bool
) -> tuple[Survey, tuple[str, ...], ConfigurationError | None]:
    """Return the survey after adoption, the adopted files, and what prevents long numbers."""
    session, place, role = survey.session, survey.place, settings.role
    adopted: tuple[str, ...] = ()
    obstacle = None
    try:
        refuse_intrusion(place)
        refuse_below_floor(survey.plan, survey.place.schema)
        if settings.adopt is not None and survey.plan.pending:
            survey, adopted = adoption.foresee_adoption(settings, settings.adopt, survey, up_to, after=after)
        if survey.plan.pending and not place.founded:
            refuse_second(session, place, survey.directory.files, role, Deadline(_PATIENCE))
        if place.ledger and widening.are_long(file.number for file in survey.plan.pending):
            obstacle = _in_the_way_of_long_numbers(session, place, role)
    except StatementError as error:
        doing = "could not ask the database what would stop the migration"
        raise refused_on(session, settings.schema, role, error, doing, reading=True) from error
    return survey, adopted, obstacle


def _repeatables(settings: Settings, survey: Survey, up_to: int | None) -> PlannedRepeatables:
    """Return which repeatable files would be applied, and which would not although they differ."""
    directory, session = survey.directory, survey.session
    if up_to is not None or not directory.repeatables:
        return PlannedRepeatables()
    prepared = prepare_repeatables(directory, escapes=session.escapes)
    judged = judge_files(
        directory.repeatables,
        read_known(session, survey.place, settings.schema, settings.role).texts,
        directory.newest,
    )
    pending = prepare(survey.plan.runnable, escapes=session.escapes).values()
    refuse_unknown_refresh(pending, directory)
    due = {file.name for file in judged.due} | refreshed_by(pending)
    return PlannedRepeatables(
        tuple(one for one in prepared if name_of(one) in due),
        tuple(file.name for file in judged.superseded if file.name not in due),
        judged.newer if not due else None,
    )


def _where_it_stops(
    runnable: Sequence[MigrationFile], obstacle: ConfigurationError | None, *, at_once: bool
) -> PlannedStop | None:
    """Return before which file a start would stop, if it would; raise the `obstacle` if nothing would run before it."""
    first = next((file for file in runnable if widening.are_long([file.number])), None)
    if obstacle is None or first is None:
        return None
    if at_once or first == runnable[0]:
        raise obstacle
    return PlannedStop(first.name, obstacle)


def _in_the_way_of_long_numbers(session: Session, place: Place, role: str | None) -> ConfigurationError | None:
    """Return the error, if any, with which a start would fail before it writes its first long number."""
    patience = Deadline(_PATIENCE)
    session.query(";\n".join(begin_look(role, patience)), patience)
    column = widening.read_column(session.query(widening.question(place), patience)[-1])
    session.rollback(patience)
    try:
        widening.refuse_what_is_in_the_way(place, column)
    except ConfigurationError as error:
        return error
    return None


def _command(survey: Survey) -> Commanded | None:
    """Return whether another migration tool would run, and why; None without one."""
    wanted, verdict = survey.wanted, survey.verdict
    if wanted is None or verdict is None:
        return None
    find_program(wanted.command.words, os.environ.get("PATH"))
    doubt = f"; {verdict.doubt}" if verdict.doubt and not verdict.pending else ""
    return Commanded(shown_command(wanted), verdict.pending, f"{verdict.why}{doubt}")


def _goes_on(migration: Prepared, row: LedgerRow | None) -> str:
    """Return where a file that has partly taken effect would continue, as far as its row says."""
    walk = walk_in(row and row.error_message)
    if walk is not None and walk.batches:
        advice, batch = migration.advice, migration.advice.directives.batch
        same = batch is not None and (walk.statement, walk.columns) == (
            digest(advice.body, advice.statements[0]),
            batch.columns,
        )
        if same or migration.file.matches(walk.checksum):
            return f"its batches would continue ({walk.words()})"
        return f"it has changed since its first batch, so it would not continue ({walk.words()})"
    stopped = stopped_at((row and row.error_message) or "")
    if stopped is None or stopped.unit == 1:
        return ""
    units = units_of(migration.advice.body, migration.advice)
    if goes_on_at(migration.advice.body, migration.advice, units, stopped) is None:
        return f"it stopped at line {stopped.line}, and the statements before that line have changed since"
    return f"it stopped at line {stopped.line}, and would continue there; what comes before has taken effect"


def _about_the_rollout(look: FileReport, *, linted: bool) -> list[Finding]:
    """Return the warnings of `check` about replicas of the previous release, unless a comment silences them."""
    if look.migration is None:
        return []
    found = contracting(look.migration, look.shown, linted=linted)
    return [one for one in found if not is_excepted(one, look.migration)]


def _lint(looks: Sequence[FileReport]) -> tuple[dict[str, list[Finding]], Finding | None]:
    """Run the linter, if it is installed. If it fails, the rest is shown all the same."""
    squawk = find_squawk(os.environ.get("PATH", os.defpath))
    if squawk is None:
        return {}, no_linter()._replace(remedy=None)
    try:
        return lint_all(squawk, looks), None
    except ConfigurationError as error:
        return {}, Finding("note", "no-linter", error.message)
