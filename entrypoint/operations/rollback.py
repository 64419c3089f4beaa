"""`rollback`: undo migrations with their down migrations, newest first."""

from __future__ import annotations

from contextlib import closing
from typing import NamedTuple

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.errors import ConfigurationError
from entrypoint.errors.migration import HistoryRefusedError, MigrationFilesError
from entrypoint.errors.operator import no_such_number
from entrypoint.migration.adoption.history import list_versions
from entrypoint.migration.adoption.unadopted import other_history
from entrypoint.migration.apply.adopting import Adopter
from entrypoint.migration.operator.reversal import plan_reversal, reverse
from entrypoint.records import Adopt
from entrypoint.redaction import visible
from entrypoint.startup import tell_differences
from entrypoint.survey import assign, refuse_read_only, survey_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.migration.apply.leader import Applied
    from entrypoint.migration.operator.reversal import Step
    from entrypoint.settings import Settings
    from entrypoint.survey import Survey


class Rollback(NamedTuple):
    """What to reverse. The connection is closed while somebody decides."""

    settings: Settings
    survey: Survey
    down_to: int
    steps: tuple[Step, ...]
    elsewhere: str
    """What another tool's history still says about them, as a sentence; else empty."""


def plan(settings: Settings, down_to: int) -> Rollback:
    """Find the migrations above `down_to`, and check their down migrations. Changes nothing. Raises EntrypointError."""
    survey = survey_database(settings)
    with closing(survey.session):
        tell_differences(survey.directory, survey.plan)
        _check_target(survey, down_to)
        steps = plan_reversal(
            survey.directory, survey.rows, down_to, survey.place.schema, escapes=survey.session.escapes
        )
        if steps:
            refuse_read_only(survey, f"{count(len(steps), 'migration is', 'migrations are')} to be reversed")
        elsewhere = _in_another_history(settings, survey, steps)
    return Rollback(settings, survey, down_to, steps, elsewhere)


def describe(rollback: Rollback) -> str:
    """Describe what would be reversed, for a person; empty if there is nothing."""
    if not rollback.steps:
        return ""
    lines = [f"Will reverse {count(len(rollback.steps), 'migration')}, newest first:"]
    for step in rollback.steps:
        if not step.reverse.file.path:
            how = "failed, so there is nothing to reverse; its row is removed"
        elif step.reverse.empty:
            how = f"{step.reverse.file.name} is empty; only its row is removed"
        else:
            how = f"{step.reverse.file.name}, {count(len(step.reverse.advice.statements), 'statement')}"
        lines.append(f"  {visible(step.row.filename)}  ({how})")
    if rollback.elsewhere:
        lines.append(f"Note: {rollback.elsewhere} Make sure that no start has MIGRATION_ADOPT set.")
    return "\n".join(lines) + "\n"


def carry_out(rollback: Rollback) -> str:
    """Reverse all of it, and return a report. Raises EntrypointError."""
    done: list[Applied] = []
    survey = rollback.survey
    try:
        reverse(assign(rollback.settings, survey), survey.session, survey.place, rollback.down_to, rollback.steps, done)
    finally:
        if done:
            logs.event(
                logs.INFO,
                "schema.rolled_back",
                f"reversed {len(done)} of {count(len(rollback.steps), 'migration')}",
                version=_version(rollback, len(done)),
                applied=len(done),
                duration_ms=round(sum(one.seconds for one in done) * 1000),
            )
    return (
        f"Reversed {count(len(done), 'migration')}; the schema is at version {_version(rollback, len(done))}.\n"
        "The next start with these migration files applies them again.\n"
        "Before a replica starts, deploy the image of this version, or set AUTO_MIGRATE=false.\n"
    )


def nothing(rollback: Rollback) -> str:
    """Return the report if there is nothing to reverse."""
    return f"Nothing to reverse: the schema is at version {rollback.survey.plan.current or 0}.\n"


def _in_another_history(settings: Settings, survey: Survey, steps: Sequence[Step]) -> str:
    """Return a warning if a start that adopts another tool's history would record the reversed migrations as completed.

    It would not run them, because that table still has them. Raises ConfigurationError if MIGRATION_ADOPT is set here,
    and so, probably, where the application starts.
    """
    adopt = settings.adopt or (_known(settings, survey) if steps else None)
    if adopt is None or not steps:
        return ""
    numbers = {step.row.number for step in steps}
    adopter = Adopter(assign(settings, survey), adopt)
    try:
        adoption = adopter.look(survey.session, [row for row in survey.rows if row.number not in numbers])
    except (HistoryRefusedError, MigrationFilesError):
        return ""  # A start would be refused for that reason.
    names = [visible(file.name) for file in adoption.files if file.number in numbers] if adoption else []
    if not adoption or not names:
        return ""
    them = "it" if len(names) == 1 else "them"
    said = (
        f"{adopter.tool}'s history ({adoption.table.shown}) still has {list_versions(names)}: a start that adopts it "
        f"records {them} as completed without running {them}."
    )
    if settings.adopt:
        raise ConfigurationError(
            f"MIGRATION_ADOPT is set, and {said} Nothing was reversed",
            remedy="Unset MIGRATION_ADOPT, here and wherever the application starts: what was adopted stays "
            f"recorded. Or delete those rows from {adoption.table.shown} first.",
        )
    return said


def _known(settings: Settings, survey: Survey) -> Adopt | None:
    """Return which tool has its history here. It is only for a note, so a failure counts as none."""
    found = other_history(survey.session, settings.role)
    if found is None or not found[1].readable or not found[1].trusted or found[1].filtered:
        return None
    tool, table = found
    return Adopt(tool, table.schema, table.name, by_hand=True)


def _version(rollback: Rollback, done: int) -> int:
    """Return the schema's version after the first `done` steps."""
    gone = {step.row.number for step in rollback.steps[:done]}
    return max((row.number for row in rollback.survey.plan.applied if row.number not in gone), default=0)


def _check_target(survey: Survey, down_to: int) -> None:
    """Raise UsageError unless the target is 0, or the number of a file or a row."""
    known = {file.number for file in survey.directory.files} | {row.number for row in survey.rows}
    if down_to and down_to not in known:
        raise no_such_number(down_to, known, "entrypoint rollback --to N")
