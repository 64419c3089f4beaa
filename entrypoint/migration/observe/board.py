"""What this process is doing at the moment. The code that migrates and the watcher write it; a progress bar reads it.

Each change also updates the answers to probes (`entrypoint.phase`). A value is always replaced, never modified, so that
another thread reads a consistent one.
"""

from __future__ import annotations

from entrypoint import phase
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.migration.observe.blockers import Blocker
    from entrypoint.migration.observe.progress import Progress, Walked


class Activity(NamedTuple):
    """What the worker is doing."""

    file: str
    backend_pid: int
    began: float
    """`time.monotonic()` when this attempt at the file began."""
    since: float
    """`time.monotonic()` when the current statement began."""
    statement: int
    """Counted from 1."""
    statements: int
    lock_patience: float | None
    """How many seconds the transaction may wait for locks in total; None if there is no limit."""
    transaction: int = 0
    """A different number for each transaction of an attempt; 0 if the whole file is one transaction."""
    retry: str = ""
    """While nothing runs: why, and when the next attempt is."""
    walk: Walked | None = None
    """How far a file that runs in batches is."""

    @property
    def or_later(self) -> bool:
        """Whether it may be a later statement: PostgreSQL buffers small results, and sends them together."""
        return self.transaction == 0 and self.statement < self.statements

    def words(self) -> str:
        """Return the number of the statement and the total, in words."""
        return f"statement {self.statement}{' or later' if self.or_later else ''} of {self.statements}"

    def same_transaction(self, other: Activity | None) -> bool:
        """Tell whether `other` is about the same transaction."""
        return other is not None and (self.began, self.transaction) == (other.began, other.transaction)


class Seen(NamedTuple):
    """What the watcher last saw of an activity."""

    activity: Activity
    progress: Progress | None
    blockers: tuple[Blocker, ...]


class Board:
    """One process's migrations, from the first to the last."""

    def __init__(self, pending: int) -> None:
        """Start with `pending` files, and none done."""
        self.done = 0
        self.pending = pending
        """How many files there are in this run, including those that are done."""
        self.activity: Activity | None = None
        self.seen: Seen | None = None
        self.file_began = 0.0
        """`time.monotonic()` when the first attempt at the current file began."""
        self._file = ""
        self.running = ""
        """The command line of another migration tool, while it runs."""
        self.waiting_for = ""
        """The holder of the migration lock, while we wait for it."""

    def wait_for(self, holder: str, *, pending: int, version: int | None) -> None:
        """Show that we wait for the lock's `holder` (in words), and the schema's state."""
        phase.enter(phase.WAITING, held_by=holder, pending=pending, version=version)
        self.waiting_for = holder

    def back_up(self) -> None:
        """Show that a backup is being taken."""
        phase.enter(phase.BACKING_UP)

    def know(self, *, version: int | None, latest: int | None, pending: int) -> None:
        """Show the schema's state, now that we hold the lock."""
        phase.know(version=version, latest=latest, pending=pending)

    def begin(self, file: str) -> None:
        """Show which file is next."""
        phase.enter(phase.MIGRATING, file=file)

    def run(self, command: str) -> None:
        """Show that another migration tool runs. It runs after all files."""
        self.activity, self.running = None, command
        phase.enter(phase.MIGRATING, file=command)

    def work_on(self, activity: Activity) -> None:
        """Show which statement is next."""
        self.activity = activity
        if activity.file != self._file:
            self._file, self.file_began = activity.file, activity.began
        phase.enter(phase.MIGRATING, file=activity.file, statement=activity.statement, statements=activity.statements)

    def block(self, activity: Activity, backends: Sequence[int]) -> None:
        """Show which backends block a statement; an empty list if it does not wait."""
        phase.blocked(activity.file, activity.statement, backends)

    def finish(self, version: int | None) -> None:
        """Count one more file as done; `version`: its number if it has been applied, None if it has been reversed."""
        self.done += 1
        if version is not None:
            phase.one_more(version)
