"""`rollback`: take migrations back with their reverse files, newest first."""

from __future__ import annotations

from contextlib import closing
from typing import NamedTuple

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.errors.operator import UsageError
from entrypoint.migration.operator.reversal import plan_reversal, reverse
from entrypoint.redaction import visible
from entrypoint.startup import tell_differences
from entrypoint.survey import assign, refuse_read_only, survey_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.migration.apply.leader import Applied
    from entrypoint.migration.operator.reversal import Step
    from entrypoint.settings import Settings
    from entrypoint.survey import Survey


class Rollback(NamedTuple):
    """What is to be reversed. The connection is closed while somebody thinks about it."""

    settings: Settings
    survey: Survey
    down_to: int
    steps: tuple[Step, ...]


def plan(settings: Settings, down_to: int) -> Rollback:
    """Look what is above `down_to`, and check the reverse files. Changes nothing. Raises EntrypointError."""
    survey = survey_database(settings)
    with closing(survey.session):
        tell_differences(survey.directory, survey.plan)
        _check_target(survey, down_to)
        steps = plan_reversal(survey.directory, survey.rows, down_to, escapes=survey.session.escapes)
        if steps:
            refuse_read_only(survey, f"{count(len(steps), 'migration is', 'migrations are')} to be reversed")
    return Rollback(settings, survey, down_to, steps)


def describe(rollback: Rollback) -> str:
    """Return what would be reversed, as a text for a person; empty if there is nothing."""
    if not rollback.steps:
        return ""
    lines = [f"{count(len(rollback.steps), 'migration is', 'migrations are')} to be reversed, newest first:"]
    for step in rollback.steps:
        if not step.reverse.file.path:
            how = "failed, so there is nothing to reverse; its row is removed"
        elif step.reverse.empty:
            how = f"{step.reverse.file.name} is empty; only its row is removed"
        else:
            how = f"{step.reverse.file.name}, {count(len(step.reverse.advice.statements), 'statement')}"
        lines.append(f"  {visible(step.row.filename)}  ({how})")
    return "\n".join(lines) + "\n"


def carry_out(rollback: Rollback) -> str:
    """Reverse it all; return what there is to say about it afterwards. Raises EntrypointError."""
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
        "Whatever starts with these migration files now applies them again: deploy the image that belongs to this\n"
        "version, or set AUTO_MIGRATE=false, before a replica starts.\n"
    )


def nothing(rollback: Rollback) -> str:
    """Return what there is to say if there is nothing to reverse."""
    return f"Nothing to reverse: the schema is at version {rollback.survey.plan.current or 0}.\n"


def _version(rollback: Rollback, done: int) -> int:
    """Return the schema's version after the first `done` steps."""
    gone = {step.row.number for step in rollback.steps[:done]}
    return max((row.number for row in rollback.survey.plan.applied if row.number not in gone), default=0)


def _check_target(survey: Survey, down_to: int) -> None:
    """Raise UsageError unless the target is 0, or the number of a file or of a row."""
    known = {file.number for file in survey.directory.files} | {row.number for row in survey.rows}
    if down_to and down_to not in known:
        span = f"they go from {min(known)} to {max(known)}" if known else "there are none"
        raise UsageError(f"There is no migration number {down_to}: {span}", remedy="entrypoint rollback --to N")
