"""`adopt`: record what another migration tool has applied, from its own history."""

from __future__ import annotations

from contextlib import closing
from typing import NamedTuple

from entrypoint.counts import count
from entrypoint.errors import ConfigurationError
from entrypoint.errors.operator import LedgerChangedError
from entrypoint.migration.apply.adopting import Adopter
from entrypoint.migration.ledger.finding import refuse_intrusion
from entrypoint.migration.operator import amend
from entrypoint.redaction import foreign, visible
from entrypoint.startup import tell_differences
from entrypoint.survey import assign, refuse_read_only, survey_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.deadline import Deadline
    from entrypoint.migration.adoption.matching import Adoption
    from entrypoint.migration.apply.ledger_change import Change
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.records import Adopt
    from entrypoint.settings import Settings
    from entrypoint.survey import Survey


class AdoptionPlan(NamedTuple):
    """What to record. The connection is closed while somebody decides."""

    settings: Settings
    survey: Survey
    adopter: Adopter
    adoption: Adoption | None
    """None if the tool has no table here."""

    @property
    def something(self) -> bool:
        """Whether there is anything to record."""
        return self.number > 0

    @property
    def number(self) -> int:
        """How many migrations there are to record."""
        return len(self.adoption.files) if self.adoption else 0


def plan(settings: Settings, adopt: Adopt) -> AdoptionPlan:
    """Compare the tool's history with the files and the ledger. Changes nothing. Raises EntrypointError."""
    survey = survey_database(settings)
    with closing(survey.session):
        refuse_intrusion(survey.place)
        tell_differences(survey.directory, survey.plan)
        adopter = Adopter(assign(settings, survey), adopt)
        adoption = adopter.look(survey.session, survey.rows)
        if adoption is None and adopt.table is not None:
            raise ConfigurationError(
                f"This database has no {adopter.tool} history table {foreign(adopt.table)}; nothing was recorded",
                remedy="Correct --table, or leave it out to look for the usual name along the search_path.",
            )
        planned = AdoptionPlan(settings, survey, adopter, adoption)
        if planned.something and adoption:
            these = count(len(adoption.files), "migration is", "migrations are")
            refuse_read_only(survey, f"{these} to be recorded")
    return planned


def describe(planned: AdoptionPlan) -> str:
    """Describe what would be recorded, for a person."""
    adoption, tool = planned.adoption, planned.adopter.tool
    if adoption is None:
        return f"Nothing to adopt: this database has no {tool} history table.\n"
    if not adoption.files:
        return f"Nothing to adopt: {_what_is_there(adoption, tool)}.\n"
    schema = planned.survey.place.schema
    statuses = {row.number: row.status for row in planned.survey.rows}
    these, them = count(len(adoption.files), "migration"), _them(len(adoption.files))
    lines = [f"Will record {these} as completed in schema {schema}, because {tool} has applied {them}"]
    lines[0] = f"{lines[0]} ({adoption.table.shown}):"
    for file in adoption.files:
        said = [f"checksum {file.checksum[:12]}…"]
        said += [f"recorded as {statuses[file.number]} until now"] if file.number in statuses else []
        said += [f"differs from what {tool} applied, according to its checksum"] if file in adoption.differing else []
        lines.append(f"  {file.name}  ({'; '.join(said)})")
    if adoption.recorded:
        lines.append(f"{count(adoption.recorded, 'more is', 'more are')} already recorded as completed.")
    return "\n".join(map(visible, lines)) + "\n"


def carry_out(planned: AdoptionPlan) -> str:
    """Write the rows, and return a report. Raises EntrypointError."""
    survey, adopter, shown = planned.survey, planned.adopter, planned.adoption

    def decide(session: Session, rows: tuple[LedgerRow, ...], patience: Deadline) -> Change | None:
        amend.refuse_changed(survey.rows, rows)
        now = adopter.weigh(session, rows, patience)
        if now != shown:
            raise LedgerChangedError(
                f"The {adopter.tool} history has changed since it was shown; nothing was recorded",
                remedy="Run the command again.",
            )
        return adopter.change(survey.place, now)

    amend.change(assign(planned.settings, survey), survey.session, survey.place, decide, adopter.numbers)
    adopter.tell(shown)
    done = len(shown.files) if shown else 0
    return f"Recorded {count(done, 'migration')}; {adopter.tool}'s table was not touched.\n"


def foresee_adoption(
    settings: Settings, adopt: Adopt, survey: Survey, up_to: int | None, *, after: bool
) -> tuple[Survey, tuple[str, ...]]:
    """Return the survey after a start has adopted what MIGRATION_ADOPT names, and the files that it would record."""
    adopter = Adopter(assign(settings, survey, up_to, after=after), adopt)
    foreseen = adopter.foresee(survey.session, survey.plan) or survey.plan
    known = {row.number for row in survey.plan.applied}
    new = tuple(row.filename for row in foreseen.applied if row.number not in known)
    return survey._replace(plan=foreseen), new


def _them(number: int) -> str:
    return "it" if number == 1 else "them"


def _what_is_there(adoption: Adoption, tool: str) -> str:
    if not adoption.recorded:
        return f"{tool} has applied nothing here, according to {adoption.table.shown}"
    return f"everything {tool} has applied ({count(adoption.recorded, 'migration')}) is already recorded as completed"
