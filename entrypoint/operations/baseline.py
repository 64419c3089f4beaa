"""`baseline`: record that a database that was set up some other way is at a certain migration."""

from __future__ import annotations

from contextlib import closing
from typing import NamedTuple

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.database.spelling import history
from entrypoint.errors.migration import MigrationError
from entrypoint.errors.operator import no_such_number
from entrypoint.migration.ledger import writing
from entrypoint.migration.ledger.rows import COMPLETED
from entrypoint.migration.ledger.walk import walk_in
from entrypoint.migration.operator.amend import Amendment, amend
from entrypoint.migration.script.directives import spell_rollout
from entrypoint.migration.script.rollout import rollout_of
from entrypoint.migration.script.units import stopped_at
from entrypoint.startup import tell_differences
from entrypoint.survey import assign, refuse_read_only, survey_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.migration.script.files import MigrationFile
    from entrypoint.settings import Settings
    from entrypoint.survey import Survey


class Baseline(NamedTuple):
    """What to record. The connection is closed while somebody decides."""

    settings: Settings
    survey: Survey
    number: int
    files: tuple[MigrationFile, ...]
    """Those that are not yet recorded as completed."""


def plan(settings: Settings, number: int) -> Baseline:
    """Compare the files up to `number` with the ledger. Changes nothing. Raises EntrypointError."""
    survey = survey_database(settings)
    with closing(survey.session):
        numbers = [file.number for file in survey.directory.files]
        if number not in numbers:
            raise no_such_number(number, numbers, "entrypoint baseline N")
        tell_differences(survey.directory, survey.plan)
        _refuse_contradictions(survey, number)
        applied = {row.number for row in survey.rows}
        files = tuple(file for file in survey.directory.files if file.number <= number and file.number not in applied)
        if files:
            refuse_read_only(survey, f"{count(len(files), 'migration is', 'migrations are')} to be recorded")
    return Baseline(settings, survey, number, files)


def describe(baseline: Baseline) -> str:
    """Describe what would be recorded, for a person."""
    schema, files = baseline.survey.place.schema, baseline.files
    kept = len(baseline.survey.rows)
    these, them = count(len(files), "migration"), _them(files)
    lines = [f"Will record {these} as completed in schema {schema}, without running {them}:"]
    lines += [f"  {file.name}  ({_facts(file)})" for file in files]
    if kept:
        lines.append(f"{count(kept, 'migration is', 'migrations are')} already recorded and kept.")
    return "\n".join(lines) + "\n"


def nothing(baseline: Baseline) -> str:
    """Return the report if all rows are already there."""
    return f"Nothing to record: everything up to {baseline.number} is already recorded as completed.\n"


def carry_out(baseline: Baseline) -> str:
    """Write the rows, and return a report. Raises EntrypointError."""
    settings, survey, files = baseline.settings, baseline.survey, baseline.files
    place = survey.place
    rows = [
        writing.row(place, file, settings.app_version, status=COMPLETED, milliseconds=0)
        + writing.rollout(place, file.number, rollout_of(file).floor, None)
        for file in files
    ]
    # They are written together, so if one is there, all are.
    sign = writing.is_applied(survey.place, files[-1].number)
    numbers = tuple(file.number for file in files)
    amend(assign(settings, survey), survey.session, survey.place, Amendment(survey.rows, rows, sign, numbers))
    logs.event(
        logs.INFO,
        "ledger.baseline",
        f"recorded {count(len(files), 'migration')} as completed, without running {_them(files)}",
        version=baseline.number,
        applied=len(files),
    )
    return f"Recorded {count(len(files), 'migration')}; the schema now counts as version {baseline.number}.\n"


def _facts(file: MigrationFile) -> str:
    said = spell_rollout(rollout_of(file))
    return f"checksum {file.checksum[:12]}…{f', {said}' if said else ''}"


def _them(files: Sequence[MigrationFile]) -> str:
    return "it" if len(files) == 1 else "them"


def _refuse_contradictions(survey: Survey, number: int) -> None:
    """Raise MigrationError if a row says that the schema is not at `number`."""
    above = [row for row in survey.rows if row.number > number]
    unfinished = [row for row in survey.rows if row.number <= number and row.status != COMPLETED]
    for row in above:
        raise MigrationError(
            f"The migration history has a row above {number}: {row.filename} ({row.status}); nothing was recorded",
            remedy="A baseline is for migrations that are not recorded yet. entrypoint status shows what is recorded.",
            version=row.number,
            file=row.filename,
        )
    for row in unfinished:
        remove = "entrypoint repair --failed"
        if walk_in(row.error_message) is not None or stopped_at(row.error_message or "") is not None:
            # `repair` keeps the row, because it says where the file continues.
            table = history(survey.place.schema)
            remove = f"DELETE FROM {table} WHERE migration_number = {row.number} AND status = 'failed'"
        raise MigrationError(
            f"{row.filename} is recorded as {row.status}, not as completed; nothing was recorded",
            remedy=f"If it failed, remove its row first: {remove}. "
            "If it is running, wait for it, or let entrypoint migrate finish it.",
            version=row.number,
            file=row.filename,
        )
