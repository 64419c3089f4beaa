"""Find out from the database whether another migration tool has to run, and log the result."""

from __future__ import annotations

from entrypoint import logs
from entrypoint.errors.migration import CommandFailedError
from entrypoint.migration.ledger import history
from entrypoint.migration.ledger.verdict import AHEAD, judge_command, standing
from entrypoint.redaction import foreign, without_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Place, Queryable
    from entrypoint.migration.ledger.runs import Runs
    from entrypoint.migration.ledger.verdict import Verdict, Wanted


def judge_on(
    session: Queryable, place: Place, wanted: Wanted, role: str | None, deadline: Deadline
) -> tuple[Verdict, Runs]:
    """Read the tool's recorded runs, and decide whether it has to run. Raises StatementError."""
    found = history.read(session, place, wanted.command, role, deadline)
    verdict = judge_command(wanted, found)
    result = standing(found)
    if verdict.pending and not verdict.always and result is not None and result.fingerprint != wanted.fingerprint:
        verdict = judge_command(
            wanted, found, standing_names=history.names_of(session, place, result.id, role, deadline)
        )
    return verdict, found


def shown_command(wanted: Wanted) -> str:
    """Return the command line, safe to show and to store."""
    return without_addresses(foreign(wanted.command.line))


def tell_if_ahead(verdict: Verdict, wanted: Wanted) -> None:
    """Log that a newer image has run here, if one has, and any doubt about that."""
    if verdict.name != AHEAD:
        return
    logs.event(
        logs.WARNING if verdict.doubt else logs.INFO,
        "command.ahead",
        f"{shown_command(wanted)} was not run: {verdict.why}" + (f"; {verdict.doubt}" if verdict.doubt else ""),
        command=shown_command(wanted),
    )


def failed_elsewhere(wanted: Wanted, number: int) -> CommandFailedError:
    """Return the error for a run that failed with the same inputs while this start waited."""
    return CommandFailedError(
        f"{shown_command(wanted)} failed in another replica with the same inputs, so this start did not run it again "
        f"(run {number} in migration_commands)",
        remedy="The end of its output is in entrypoint status. The next start runs it again.",
        command=shown_command(wanted),
        run=number,
    )


def tell_pending(verdict: Verdict, wanted: Wanted) -> None:
    """Log that the tool has to run, and why."""
    command = shown_command(wanted)
    logs.event(logs.INFO, "command.pending", f"{command} needs to run: {verdict.why}", command=command)
