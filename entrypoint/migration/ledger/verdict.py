"""Decide whether another migration tool has anything to do. Pure functions over its recorded runs.

Only the tool itself really knows, but asking it takes longer than a start should. So its inputs, and the digest of its
history, are compared with those of earlier runs.
"""

from __future__ import annotations

from entrypoint.migration.ledger.rows import COMPLETED, FAILED, RUNNING
from entrypoint.migration.ledger.runs import NOTHING, UNKNOWN
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from entrypoint.command import Command
    from entrypoint.migration.ledger.runs import Run, Runs

UP_TO_DATE = "up_to_date"
AHEAD = "ahead"
PENDING = "pending"


class Wanted(NamedTuple):
    """The command of this image, and what it reads."""

    command: Command
    fingerprint: str
    """A digest of the command line and all its inputs."""
    names: frozenset[str]
    """The inputs' names; empty if they are not configured."""
    seen: int | None = None
    """The newest run that had ended when this start first looked; None before that look."""


class Verdict(NamedTuple):
    """Whether the tool has to run, and why."""

    name: str
    why: str
    """A clause for the log."""
    always: bool = False
    """Whether there is no way to know, so that it runs at every start."""
    doubt: str = ""
    """For AHEAD, why that is uncertain, as a clause; empty if an unbroken chain of runs proves it."""
    failed: int | None = None
    """The run with the same inputs that has failed since the first look. A start does not repeat it."""

    @property
    def pending(self) -> bool:
        """Whether it has to run."""
        return self.name == PENDING


def judge_command(wanted: Wanted, runs: Runs, *, standing_names: Collection[str] | None = None) -> Verdict:
    """Decide whether the tool has to run.

    `standing_names`: the inputs of the run that `standing` returns, if they were read.
    """
    failed = _failed_since(wanted, runs.rows)
    completed = [run for run in runs.rows if run.status == COMPLETED]
    ours = [run for run in completed if run.fingerprint == wanted.fingerprint]
    if why := _why_unknown(wanted, runs, ours):
        return Verdict(PENDING, why, always=True, failed=failed)
    if ours and ours[-1].after == runs.digest:
        return Verdict(UP_TO_DATE, "its inputs and its history are unchanged since its last run")
    if ours and leads_to(ours[-1], completed, runs.digest):
        return Verdict(AHEAD, "a newer image continued from where this image's run ended")
    result = standing(runs)
    if result is not None and standing_names is not None and wanted.names < frozenset(standing_names):
        more = len(standing_names) - len(wanted.names)
        return Verdict(
            AHEAD,
            "the history is as a newer image's run left it",
            doubt=f"that run had this image's inputs and {more} more, but this image's own content never ran here",
        )
    return Verdict(PENDING, _why(wanted, runs.rows, ours), failed=failed)


def standing(runs: Runs) -> Run | None:
    """Return the run that left the tool's history as it is now; None if no run did."""
    if runs.digest in (NOTHING, UNKNOWN):
        return None
    return next((run for run in reversed(runs.rows) if run.status == COMPLETED and run.after == runs.digest), None)


def leads_to(run: Run, completed: Sequence[Run], digest: str) -> bool:
    """Tell whether an unbroken chain of later runs leads from `run` to this `digest`.

    In a chain, each run begins with the history that the previous one left. Time alone does not show that an image is
    behind: somebody may have gone back to it by hand.
    """
    reached = run.after
    for later in completed:
        if later.id > run.id:
            if later.before != reached:
                return False
            reached = later.after
    return reached == digest


def _why_unknown(wanted: Wanted, runs: Runs, ours: Sequence[Run]) -> str:
    """Return why there is no way to know whether there is anything to do; empty if there is."""
    if not wanted.names:
        return "MIGRATION_COMMAND_INPUTS is not set, so there is no way to tell whether it has anything to do"
    if runs.digest == UNKNOWN:
        return f"its history cannot be read: {runs.problem}"
    if runs.digest == NOTHING and ours and ours[-1].after == NOTHING:
        return (
            f"{' or '.join(wanted.command.state)}, named by MIGRATION_COMMAND_STATE, does not exist"
            if wanted.command.state
            else "its history is not in a table this program knows; set MIGRATION_COMMAND_STATE to that table"
        )
    return ""


def _failed_since(wanted: Wanted, rows: Sequence[Run]) -> int | None:
    """Return the run that failed with the same inputs after this start's first look."""
    if wanted.seen is None:
        return None
    after = [run for run in rows if run.id > wanted.seen and run.fingerprint == wanted.fingerprint]
    return after[-1].id if after and after[-1].status == FAILED else None


def _why(wanted: Wanted, rows: Sequence[Run], ours: Sequence[Run]) -> str:
    if ours:
        return "its history has changed since its last run"
    same = [run for run in rows if run.fingerprint == wanted.fingerprint]
    if same:
        how = {FAILED: "failed", RUNNING: "has not ended"}
        return f"the last run {how.get(same[-1].status, 'was interrupted')}"
    return "its command line or its inputs have changed" if rows else "it has not run here yet"
