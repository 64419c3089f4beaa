"""`migrate --dry-run`: what would run, in order, and nothing else."""

from __future__ import annotations

from entrypoint.errors import UsageError
from entrypoint.migration.contention import held_back
from entrypoint.migration.directives import spell_timeouts
from entrypoint.migration.files import load_directory
from entrypoint.migration.prepare import prepare
from entrypoint.startup import survey_database, tell_differences

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.migration.prepare import Prepared
    from entrypoint.settings import Settings


def check_target(directory: str, number: int) -> None:
    """Raise UsageError unless a migration in `directory` has this `number`."""
    numbers = [file.number for file in load_directory(directory).files]
    if number not in numbers:
        known = f"they go from {numbers[0]} to {numbers[-1]}" if numbers else "there are none"
        raise UsageError(f"There is no migration number {number}: {known}", remedy="entrypoint migrate --to N")


def dry_run(settings: Settings, *, up_to: int | None) -> str:
    """Return the pending migrations as a text for a person. Reads the database and changes nothing.

    Raises what a real run would raise before it runs anything.
    """
    survey = survey_database(settings, up_to=up_to)
    survey.session.close()
    tell_differences(survey)
    plan = survey.plan
    migrations = prepare(plan.runnable)
    if plan.held_back and not plan.runnable:
        raise held_back(plan.held_back)
    if not plan.pending:
        return "Nothing is pending.\n"
    lines = [f"{len(plan.runnable)} migration(s) would run:"]
    lines += [f"  {file.name}  ({_describe(migrations[file.number])})" for file in plan.runnable]
    if plan.held_back:
        lines.append(f"Then it would stop: {held_back(plan.held_back).message}")
    return "\n".join(lines) + "\n"


def _describe(migration: Prepared) -> str:
    count = len(migration.advice.statements)
    statements = "empty" if not count else "1 statement" if count == 1 else f"{count} statements"
    how = "one transaction" if migration.advice.transactional else "outside a transaction"
    return ", ".join(filter(None, (statements, how, spell_timeouts(migration.advice.directives))))
