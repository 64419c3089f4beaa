"""Run another migration tool under the lock, if it has anything to do, and record the run before and after."""

from __future__ import annotations

import os
import shutil
from typing import NamedTuple

from entrypoint import executable, handover, logs
from entrypoint.database import transactions
from entrypoint.database.answers import StatementError
from entrypoint.database.sqlstate import INVALID_SCHEMA_NAME, UNDEFINED_TABLE
from entrypoint.deadline import Deadline
from entrypoint.errors import ConfigurationError
from entrypoint.errors.migration import CommandFailedError, LeaseLostError, MigrationTimeoutError
from entrypoint.migration.ledger import run_rows, runs, writing
from entrypoint.migration.ledger.judging import failed_elsewhere, judge_on, shown_command, tell_if_ahead
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.ledger.rows import COMPLETED, FAILED
from entrypoint.migration.lock import row
from entrypoint.migration.losses import MOST, Spot
from entrypoint.redaction import foreign
from entrypoint.tool.running import ToolOrder, run_tool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.runs import Runs
    from entrypoint.migration.ledger.verdict import Verdict, Wanted
    from entrypoint.migration.lock.lease import Lease
    from entrypoint.records import Address
    from entrypoint.tool.running import ToolResult

# Seconds for each of our own statements.
_PATIENCE = 30.0
_LEAST = 1.0
_LEAVE_OURS_ALONE = (
    "Check whether the tool itself changes migration_commands or migration_lock, and exclude these tables from it; "
    "or keep them in a separate schema with MIGRATION_SCHEMA."
)
_SHELL = "no shell is involved: to use one, write sh -c '…'"
# What a tool's output contains, and what to do about it.
_KNOWN_CAUSES = (
    ("P3005", "It needs a schema without other tables: set MIGRATION_SCHEMA=entrypoint to move this program's tables."),
    (
        "non-empty schema",
        "It needs a schema without other tables: set MIGRATION_SCHEMA=entrypoint to move this program's tables.",
    ),
)
# What the command line contains, and how to release that tool's own lock.
_UNLOCKING = (("knex", "knex migrate:unlock"), ("liquibase", "liquibase release-locks"))


class Performed(NamedTuple):
    """A successful run of the tool."""

    command: str
    seconds: float


def find_program(words: Sequence[str], path: str | None) -> None:
    """Raise ConfigurationError unless the command's program exists, with this `path` as PATH, and can be executed."""
    program = foreign(words[0])
    found = shutil.which(words[0], path=path)
    remedy = f"Install it in the image, or give its full path; {_SHELL}."
    if found is not None:
        why = why_not_executable(found)
        if not why:
            return
        what = f"{program!r}: {foreign(why)}"
        remedy = "Correct the file's first line, or call its interpreter in MIGRATION_COMMAND: sh ./migrate.sh"
    elif os.sep not in words[0]:
        what = f"{program!r} is not in PATH ({foreign(path or '')})"
    elif os.path.exists(words[0]):
        what, remedy = f"{program!r} cannot be executed", "Make it executable (chmod +x)."
    else:
        what = f"{program!r} does not exist"
    raise ConfigurationError(f"MIGRATION_COMMAND cannot be run: {what}", remedy=remedy)


def why_not_executable(path: str) -> str:
    """Return why the kernel would not execute an executable file; empty if we know no reason."""
    if what := executable.what_failed(path, missing=False):
        return what
    first = executable.first_line(path) or b"#!"
    # A file with a NUL may be a program in a format that has been registered with this kernel (binfmt_misc).
    if first.startswith((b"#!", b"\x7fELF")) or b"\0" in first:
        return ""
    return "it is a script whose first line does not start with #!"


class ToolRunner:
    """Runs the tool under one lease."""

    def __init__(
        self, assignment: Assignment, wanted: Wanted, address: Address, lease: Lease, deadline: Deadline
    ) -> None:
        """Take what to run, the tool's database address, the lease to run it under, and the time for all of it."""
        self._assignment = assignment
        self._wanted = wanted
        self._address = address
        self._lease = lease
        self._worker = lease.worker
        self._deadline = deadline

    def perform(self, back_up: Callable[[], None]) -> tuple[Performed | None, Verdict]:
        """Run the tool if it has anything to do, after calling `back_up`. Return the run, if any, and the verdict.

        Raises CommandFailedError, MigrationTimeoutError, LeaseLostError and ConnectionLostError.
        """
        self._tell_interrupted(self._write(run_rows.interrupt(self._lease.place)))
        verdict, before = self._judge()
        if not verdict.pending:
            tell_if_ahead(verdict, self._wanted)
            return None, verdict
        if verdict.failed is not None:
            raise failed_elsewhere(self._wanted, verdict.failed)
        back_up()
        return self._run(verdict, before), verdict

    def _patience(self) -> Deadline:
        """Return the deadline for one of our statements. It leaves some time even if the tool has used it all up."""
        return Deadline(max(_LEAST, min(_PATIENCE, self._deadline.remaining())))

    def _judge(self, *, ended: bool = False) -> tuple[Verdict, Runs]:
        """Decide whether the tool has anything to do. If it has `ended`, it may have dropped the tables read here."""
        role = self._assignment.role
        try:
            return judge_on(self._worker, self._lease.place, self._wanted, role, self._patience())
        except StatementError as error:
            self._worker.rollback(Deadline(1.0))
            if ended and error.sqlstate in (UNDEFINED_TABLE, INVALID_SCHEMA_NAME):
                raise self._unrecorded(error) from error
            doing, schema = "could not read migration_commands", self._lease.place.schema
            raise refused_on(self._worker, schema, role, error, doing, reading=True) from error

    def _run(self, verdict: Verdict, before: Runs) -> Performed:
        assignment, command = self._assignment, shown_command(self._wanted)
        beginning = run_rows.Beginning(
            command,
            self._wanted.fingerprint,
            self._wanted.names,
            before.digest,
            assignment.app_version,
            row.holder_name(),
        )
        number = int(self._write(run_rows.begin_run(self._lease.place, beginning), progress=command)[0][0] or 0)
        assignment.board.run(command)
        logs.event(logs.INFO, "command.started", f"running {command}: {verdict.why}", command=command, run=number)
        order = ToolOrder(
            argv=self._wanted.command.words,
            environ={name: value for name, _, value in (one.partition(b"=") for one in handover.initial_environment())},
            address=self._address._replace(conninfo=assignment.target.address_now(self._address)),
            password=assignment.target.new_password,
            token=self._lease.token,
            pooled=0 != self._lease.place.backend_pid != self._worker.login_pid,
            terminal=logs.on_terminal(),
        )
        try:
            ended = run_tool(order, self._lease, self._deadline)
            well = ended.exit_code == 0 and not ended.timed_out and not ended.cannot_start
            _, after = self._judge(ended=True)
        except LeaseLostError as lost:
            # Only an operator or the tool itself takes the lock from a living holder. If the tool does it every time,
            # do not run it forever.
            if not lost.by_operator and assignment.losses.note(Spot(0, command, 0, "", None), lost):
                said = f"the migration lock was lost {MOST} times while {command} ran"
                raise CommandFailedError(said, remedy=_LEAVE_OURS_ALONE, command=command, run=number) from lost
            raise
        end = run_rows.End(COMPLETED if well else FAILED, after.digest, ended.exit_code, "\n".join(ended.tail))
        self._record(number, end)
        if not well:
            raise self._failure(ended, command, number)
        milliseconds = round(ended.seconds * 1000)
        logs.event(
            logs.INFO,
            "command.completed",
            f"{command} finished in {logs.took(milliseconds)}",
            command=command,
            run=number,
            duration_ms=milliseconds,
        )
        # If the tool's history is known and unchanged, it may have seen without a connection that nothing is pending.
        unknown = after.digest in (runs.NOTHING, runs.UNKNOWN)
        if ended.bypassed and (unknown or after.digest != before.digest):
            logs.event(
                logs.WARNING,
                "command.direct",
                f"{command} did not connect through the relay. If it connected directly, PostgreSQL may finish its "
                "last statement after the lock has gone to another replica",
                remedy="Make it read the database's address from DATABASE_URL (docs/command.md).",
                command=command,
                run=number,
            )
        if verdict.always or unknown:
            self._tell_always()
        return Performed(command, ended.seconds)

    def _tell_always(self) -> None:
        verdict, _ = self._judge()
        if verdict.always:
            logs.event(
                logs.WARNING,
                "command.always",
                f"it runs at every start: {verdict.why}",
                command=shown_command(self._wanted),
            )

    def _record(self, number: int, end: run_rows.End) -> None:
        try:
            self._write(run_rows.end_run(self._lease.place, number, end))
        except StatementError as error:
            raise self._unrecorded(error) from error

    def _unrecorded(self, error: StatementError) -> CommandFailedError:
        command = shown_command(self._wanted)
        why = "its row no longer exists" if writing.is_not_written(error) else str(error)
        return CommandFailedError(
            f"{command} finished, but that could not be recorded in migration_commands: {why}",
            remedy=_LEAVE_OURS_ALONE,
            command=command,
        )

    def _write(self, statement: str, *, progress: str | None = None) -> list[tuple[str | None, ...]]:
        """Run one of our statements under the lease's fence; return its rows."""
        deadline = self._patience()
        shows = (self._lease.progress(progress),) if progress else ()
        try:
            self._lease.open(deadline, lock_timeout_ms=deadline.milliseconds() // 2 + 1)
            results = self._worker.query(
                "\n".join((transactions.ON_THIS_SERVER, *shows, statement, "COMMIT")), deadline
            )
        except StatementError:
            self._worker.rollback(Deadline(1.0))
            raise
        return next(reversed(results[:-1]), [])

    def _tell_interrupted(self, rows: Sequence[Sequence[str | None]]) -> None:
        for number, since, holder in rows:
            logs.event(
                logs.WARNING,
                "command.interrupted",
                f"the run by {foreign(holder or 'somebody')} that began at {since} was interrupted",
                run=int(number or 0),
                holder=foreign(holder or ""),
            )

    def _failure(self, ended: ToolResult, command: str, number: int) -> CommandFailedError | MigrationTimeoutError:
        last = ended.tail[-1] if ended.tail else ""
        unlock = next((one for name, one in _UNLOCKING if name in command), None)
        beside = f" If it says that it is locked and nothing else is running it: {unlock}." if unlock else ""
        if ended.timed_out:
            budget = round(self._assignment.apply.timeout * 1000)
            return MigrationTimeoutError(
                f"{command} took longer than {budget}ms and was stopped; what it had committed by then stays",
                remedy=f"Raise MIGRATION_TIMEOUT_MS.{beside}",
                command=command,
                run=number,
            )
        printed = "\n".join(ended.tail)
        looking = (
            "Correct what it reports: its output is in the log above, and the end of it in entrypoint status."
            if printed
            else "It printed nothing: run it by hand to see why."
        )
        cause = next((words for sign, words in _KNOWN_CAUSES if sign in printed), looking)
        if ended.cannot_start.startswith(os.devnull):
            cause = f"Give the container a /dev with {os.devnull} in it, as container engines do by default."
        if ended.cannot_start:
            how = f"could not be started: {ended.cannot_start}"
        elif ended.signal is not None:
            how = f"was killed by signal {ended.signal}"
        else:
            how = f"failed with exit code {ended.exit_code}"
        return CommandFailedError(
            f"{command} {how}" + (f": {last}" if last else ""),
            report=printed,
            remedy=f"{cause} The next start runs it again.{beside}",
            command=command,
            run=number,
            exit_code=ended.exit_code,
            signal=ended.signal,
        )
