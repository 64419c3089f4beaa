"""What `status` shows of another migration tool (MIGRATION_COMMAND): whether it is pending, and its last run."""

from __future__ import annotations

from typing import NamedTuple

from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import utc
from entrypoint.migration.ledger.judging import judge_on, shown_command
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.ledger.rows import FAILED, RUNNING, ask
from entrypoint.migration.ledger.run_rows import INTERRUPTED
from entrypoint.migration.ledger.verdict import PENDING
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.verdict import Wanted


class LastRun(NamedTuple):
    """The newest recorded run, of whichever image."""

    number: int
    status: str
    started_at: str | None
    """UTC, as in 2026-11-22T10:30:00Z."""
    finished_at: str | None
    exit_code: int | None
    application_version: str | None
    holder: str | None
    output: str
    """The last lines of its output."""


class CommandStatus(NamedTuple):
    """Another migration tool: as this image has it, and as the database knows it."""

    command: str
    state: str
    """up_to_date, ahead or pending; failed, running or interrupted if that is why it is pending."""
    why: str
    last: LastRun | None

    @property
    def pending(self) -> bool:
        """Whether a start would run it."""
        return self.state in (PENDING, FAILED, RUNNING, INTERRUPTED)

    def documented(self) -> dict[str, object]:
        """Return it in the form of the status API."""
        last = self.last
        return {
            "command": self.command,
            "state": self.state,
            "why": self.why,
            "lastRun": last
            and {
                "number": last.number,
                "status": last.status,
                "startedAt": last.started_at,
                "finishedAt": last.finished_at,
                "exitCode": last.exit_code,
                "applicationVersion": last.application_version,
                "holder": last.holder,
                "output": last.output,
            },
        }


def read_command(
    session: Session, place: Place, wanted: Wanted, role: str | None, deadline: Deadline, *, guarded: bool | None
) -> CommandStatus:
    """Read it from the database. `guarded`: whether the lock is held. Raises EntrypointError."""
    try:
        verdict, found = judge_on(session, place, wanted, role, deadline)
        last = _last(session, place, role, deadline, guarded=guarded)
    except StatementError as error:
        doing = "migration_commands could not be read"
        raise refused_on(session, place.schema, role, error, doing, reading=True) from error
    state = verdict.name
    ours = [run for run in found.rows if run.fingerprint == wanted.fingerprint]
    if verdict.pending and last is not None and ours and ours[-1].id == last.number:
        state = last.status if last.status in (FAILED, RUNNING, INTERRUPTED) else state
    return CommandStatus(shown_command(wanted), state, foreign(verdict.why), last)


def _last(
    session: Session, place: Place, role: str | None, deadline: Deadline, *, guarded: bool | None
) -> LastRun | None:
    if not place.commands:
        return None
    times = ", ".join(utc(name) for name in ("started_at", "finished_at"))
    query = (
        f"SELECT id, status, {times}, exit_code, application_version, holder, output "
        f"FROM {place.table('migration_commands')} ORDER BY id DESC LIMIT 1"
    )
    for number, status, began, ended, code, version, holder, output in ask(session, role, deadline, (query,))[0]:
        # A run needs the lock.
        gone = status == RUNNING and guarded is False
        return LastRun(
            int(number or 0),
            INTERRUPTED if gone else status or "",
            began,
            ended,
            None if code is None else int(code),
            version and foreign(version),
            holder and foreign(holder),
            foreign(output or ""),
        )
    return None


def describe(command: CommandStatus) -> list[str]:
    """Return it as lines for a person."""
    word = {
        "up_to_date": "up to date",
        "ahead": "ahead: a newer image has run it",
        "pending": "pending",
        "failed": "failed",
        "running": "running",
        "interrupted": "interrupted",
    }[command.state]
    lines = [f"Command: {command.command}: {word} ({command.why})."]
    last = command.last
    if last is not None:
        by = f" by {last.holder}" if last.holder else ""
        version = f", version {last.application_version}" if last.application_version else ""
        code = f" with exit code {last.exit_code}" if last.exit_code else ""
        lines.append(f"Last run: {last.status}{code}, started {last.started_at}{by}{version}.")
        if last.status == FAILED:
            lines += [f"  {line}" for line in last.output.splitlines()]
    return lines
