"""`migrate --dry-run`: what would run, in order, and nothing else."""

from __future__ import annotations

import os

from entrypoint.counts import count
from entrypoint.database.answers import StatementError
from entrypoint.deadline import Deadline
from entrypoint.errors import ConfigurationError
from entrypoint.errors.operator import UsageError
from entrypoint.migration.apply.repeating import name_of
from entrypoint.migration.ledger import widening, words
from entrypoint.migration.ledger.elsewhere import refuse_second
from entrypoint.migration.ledger.finding import refuse_intrusion
from entrypoint.migration.ledger.judging import shown
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.ledger.repeatables import judge
from entrypoint.migration.ledger.repeated import read_known
from entrypoint.migration.ledger.rows import begin_look
from entrypoint.migration.ledger.walk import walk_in
from entrypoint.migration.script.batch import digest
from entrypoint.migration.script.directives import spell_batch, spell_rollout, spell_timeouts
from entrypoint.migration.script.files import load_directory
from entrypoint.migration.script.prepare import prepare, prepare_repeatables, refreshed_by, refuse_unknown_refresh
from entrypoint.migration.script.report import outline
from entrypoint.migration.script.units import cut, goes_on_at, stopped_at
from entrypoint.operations.adopt import foresee
from entrypoint.operations.check import (
    describe_left_out,
    describe_units,
    lint_all,
    look_at,
    no_linter,
    unless,
    why_outside,
)
from entrypoint.operations.findings import Finding, describe, in_order
from entrypoint.operations.lint import find_squawk
from entrypoint.operations.status import unadopted_hint
from entrypoint.redaction import foreign, visible
from entrypoint.startup import refuse_below_floor, tell_differences
from entrypoint.survey import survey_database
from entrypoint.tool.leading import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.session import Session
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.script.files import MigrationFile
    from entrypoint.migration.script.prepare import Prepared
    from entrypoint.operations.check import FileReport
    from entrypoint.settings import Settings
    from entrypoint.survey import Survey

# Of a file with more statements, as those with sample data have, only so many are shown.
_SHOWN = 20
# For looking at the other schemas.
_PATIENCE = 5.0


def check_target(settings: Settings, number: int) -> None:
    """Raise UsageError unless a migration has this `number`."""
    numbers = [file.number for file in load_directory(settings.migrations_dir, settings.file_limit).files]
    if number not in numbers:
        known = f"they go from {numbers[0]} to {numbers[-1]}" if numbers else "there are none"
        raise UsageError(f"There is no migration number {number}: {known}", remedy="entrypoint migrate --to N")


def check_repeatables(settings: Settings, names: frozenset[str], *, beside: bool) -> None:
    """Raise UsageError unless there is a file of each name, and nothing `beside` that does not go with it."""
    usage = "entrypoint migrate --repeatable NAME"
    if settings.command is not None:
        raise UsageError("--repeatable does not go with MIGRATION_COMMAND", remedy=f"env -u MIGRATION_COMMAND {usage}")
    if beside:
        raise UsageError("--repeatable does not go with --dry-run, --rehearse or --to", remedy=usage)
    known = {file.name for file in load_directory(settings.migrations_dir, settings.file_limit).repeatables}
    for name in sorted(names - known):
        listed = f"there are {', '.join(sorted(known))}" if known else "there are none"
        raise UsageError(f"There is no repeatable/{foreign(name)}.sql: {listed}", remedy=usage)


def dry_run(settings: Settings, *, up_to: int | None, after: bool = False) -> str:
    """Return the pending migrations as a text for a person. Reads the database and changes nothing.

    Raises what a real run would raise before it runs anything.
    """
    survey = survey_database(settings, up_to=up_to, after=after)
    escapes = survey.session.escapes
    try:
        survey, adopted, narrow = _foresee(settings, survey, up_to, after=after)
        other = unadopted_hint(survey.session, settings, recorded=bool(survey.plan.applied))
        repeatables = _repeatables(settings, survey, up_to)
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
    stop = _where_it_stops(plan.runnable, narrow, at_once=bool(adopted))
    later = [f"After the rollout (entrypoint migrate --phase after): {file.name}" for file in plan.outstanding]
    command = _describe_command(survey)
    if not plan.pending:
        nothing = [] if repeatables or command else ["Nothing is pending."]
        return "".join(f"{line}\n" for line in [*adopted, *repeatables, *command, *nothing, *later])
    # What runs outside a transaction is in each file's headline.
    looks = [look_at(file, notes=False, escapes=escapes) for file in plan.runnable]
    said, note = _lint(looks)
    lines = [*adopted, f"{count(len(plan.runnable), 'migration')} would run:"]
    begun = {row.number: row for row in (*plan.failed, *plan.running)}
    for look in looks:
        migration = migrations[look.file.number]
        order = f", after {plan.current:03d} was applied" if look.file in plan.out_of_order else ""
        lines.append(f"  {look.file.name}  ({_describe(migration)}{order})")
        lines += [f"    {line}" for line in _goes_on(migration, begun.get(look.file.number))]
        lines += [f"      {line}" for line in _statements(migration)]
        for finding in in_order([*look.findings, *said.get(look.shown, ())]):
            place = None if finding.line is None else f"line {finding.line}"
            lines += [f"    {line}" for line in describe(finding, place=place)]
    lines += stop
    if obstacle is not None:
        lines.append(f"Then it would stop: {visible(obstacle.message)}")
    lines += repeatables
    if obstacle is None and command and not stop:
        lines += ["Then:", *(f"  {line}" for line in command)]
    lines += later
    if note is not None:
        lines += describe(note)
    if other is not None:
        lines.append(f"Note: {visible(other)}. If these files are its migrations, adopt that history first.")
    return "\n".join(lines) + "\n"


def _foresee(
    settings: Settings, survey: Survey, up_to: int | None, *, after: bool
) -> tuple[Survey, list[str], ConfigurationError | None]:
    """Return the survey after what a start adopts, that in words, and what stands in the way of long numbers."""
    session, place, role = survey.session, survey.place, settings.role
    adopted: list[str] = []
    obstacle = None
    try:
        refuse_intrusion(place)
        refuse_below_floor(survey.plan)
        if settings.adopt is not None and survey.plan.pending:
            survey, adopted = foresee(settings, settings.adopt, survey, up_to, after=after)
        if survey.plan.pending and not place.founded:
            refuse_second(session, place, survey.directory.files, role, Deadline(_PATIENCE))
        if place.ledger and widening.are_long(file.number for file in survey.plan.pending):
            obstacle = _in_the_way_of_long_numbers(session, place, role)
    except StatementError as error:
        doing = "the database could not be asked what would stand in the way"
        raise refused_on(session, settings.schema, role, error, doing, reading=True) from error
    return survey, adopted, obstacle


def _repeatables(settings: Settings, survey: Survey, up_to: int | None) -> list[str]:
    """Return which repeatable files would be applied, and which would not though they differ."""
    directory, session = survey.directory, survey.session
    if up_to is not None or not directory.repeatables:
        return []
    prepared = prepare_repeatables(directory, escapes=session.escapes)
    judged = judge(
        directory.repeatables,
        read_known(session, survey.place, settings.schema, settings.role).texts,
        directory.newest,
    )
    pending = prepare(survey.plan.runnable, escapes=session.escapes).values()
    refuse_unknown_refresh(pending, directory)
    due = {file.name for file in judged.due} | refreshed_by(pending)
    lines = [f"  {one.file.name}  ({_describe(one)})" for one in prepared if name_of(one) in due]
    if lines:
        count_of_them = count(len(lines), "repeatable file")
        lines = [f"{count_of_them} would be applied behind the migrations, in one transaction:", *lines]
    lines += [
        f"{file.shown} would not be applied: its text was replaced before"
        for file in judged.superseded
        if file.name not in due
    ]
    if judged.newer is not None and not due:
        lines.append(f"Nothing in repeatable/ would be applied: an image with migration {judged.newer} has been here")
    return lines


def _where_it_stops(
    runnable: Sequence[MigrationFile], obstacle: ConfigurationError | None, *, at_once: bool
) -> list[str]:
    """Return before which file a start would stop, if it would; raise the `obstacle` if nothing would run before it."""
    first = next((file for file in runnable if widening.are_long([file.number])), None)
    if obstacle is None or first is None:
        return []
    if at_once or first == runnable[0]:
        raise obstacle
    return [
        f"It would stop before {first.name}: {visible(obstacle.message)}",
        f"  Fix: {visible(obstacle.remedy or '')}",
    ]


def _in_the_way_of_long_numbers(session: Session, place: Place, role: str | None) -> ConfigurationError | None:
    """Return what a start would end with before it writes its first long number into the ledger, if it would."""
    patience = Deadline(_PATIENCE)
    session.query(";\n".join(begin_look(role, patience)), patience)
    column = widening.read_column(session.query(widening.question(place), patience)[-1])
    session.rollback(patience)
    try:
        widening.refuse_what_is_in_the_way(place, column)
    except ConfigurationError as error:
        return error
    return None


def _describe_command(survey: Survey) -> list[str]:
    """Return whether another migration tool would run, and why; nothing without one."""
    wanted, verdict = survey.wanted, survey.verdict
    if wanted is None or verdict is None:
        return []
    find_program(wanted.command.words, os.environ.get("PATH"))
    command = visible(shown(wanted))
    if verdict.pending:
        return [f"{command} would run: {visible(verdict.why)}."]
    doubt = f"; {visible(verdict.doubt)}" if verdict.doubt else ""
    return [f"{command} would not run: {visible(verdict.why)}{doubt}."]


def _describe(migration: Prepared) -> str:
    advice = migration.advice
    statements = count(len(advice.statements), "statement") if advice.statements else "empty"
    if advice.batched:
        how = spell_batch(advice.directives)
    elif advice.units:
        how = f"{describe_units(migration)}: {advice.units}"
    elif advice.merged:
        how = f"one transaction, {describe_left_out(migration)}{unless(advice)}"
    elif not advice.transactional:
        how = f"outside a transaction: {why_outside(migration)}"
    else:
        how = f"one transaction{', without its own BEGIN and COMMIT' if advice.wrapped else ''}"
    left_out = ", ".join(dict.fromkeys(command.shown for command in advice.commands))
    without = f"without psql's {left_out}" if left_out else ""
    return ", ".join(
        filter(
            None,
            (statements, how, without, spell_timeouts(advice.directives), spell_rollout(advice.directives.rollout)),
        )
    )


def _goes_on(migration: Prepared, row: LedgerRow | None) -> list[str]:
    """Return at which statement a file goes on of which a part has taken effect, as far as the row tells."""
    walk = walk_in(row and row.error_message)
    if walk is not None and walk.batches:
        advice, batch = migration.advice, migration.advice.directives.batch
        same = batch is not None and (walk.statement, walk.columns) == (
            digest(advice.body, advice.statements[0]),
            batch.columns,
        )
        if same or migration.file.matches(walk.checksum):
            return [f"its batches would go on ({visible(walk.words())}):"]
        return [f"it has changed since its first batch, and would not go on ({visible(walk.words())}):"]
    stopped = stopped_at((row and row.error_message) or "")
    if stopped is None or stopped.unit == 1:
        return []
    units = cut(migration.advice.body, migration.advice)
    if goes_on_at(migration.advice.body, migration.advice, units, stopped) is None:
        return [f"it stopped at line {stopped.line}, and the statements before that have changed since:"]
    return [f"it stopped at line {stopped.line}, and would go on there; what comes before has taken effect:"]


def _statements(migration: Prepared) -> list[str]:
    """Return each statement's first line, as far as there is room."""
    statements = migration.advice.statements
    shown = [outline(migration.advice.source[statement.start : statement.end]) for statement in statements[:_SHOWN]]
    return shown if len(statements) <= _SHOWN else [*shown, f"… and {len(statements) - _SHOWN} more"]


def _lint(looks: Sequence[FileReport]) -> tuple[dict[str, list[Finding]], Finding | None]:
    """Ask the linter, if there is one; that it cannot be asked is no reason to show less of the rest."""
    squawk = find_squawk(os.environ.get("PATH", os.defpath))
    if squawk is None:
        return {}, no_linter()._replace(remedy=None)
    try:
        return lint_all(squawk, looks), None
    except ConfigurationError as error:
        return {}, Finding("note", "no-linter", error.message)
