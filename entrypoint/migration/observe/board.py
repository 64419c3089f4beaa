"""What is going on at this moment, for whoever shows it: those who migrate and the watcher write, a progress bar reads.

A probe's answer is brought up to date with it (`entrypoint.phase`). Each value is replaced as a whole, so that another
thread always reads a consistent one.
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
    """For how many seconds the transaction may wait for locks in all; None if nobody has set a limit to that."""
    transaction: int = 0
    """Tells one transaction of an attempt from the next; 0 if the file is sent as a whole, in one."""
    retry: str = ""
    """Nothing is being done, until the next attempt: why, and when that will be."""
    walk: Walked | None = None
    """Of a file that runs in batches: how far it is."""

    @property
    def or_later(self) -> bool:
        """Whether it may be a later statement: PostgreSQL sends the small results of a whole file together."""
        return self.transaction == 0 and self.statement < self.statements

    def words(self) -> str:
        """Return which statement it is, of how many."""
        return f"statement {self.statement}{' or later' if self.or_later else ''} of {self.statements}"

    def same_transaction(self, other: Activity | None) -> bool:
        """Tell whether `other` is about the same transaction."""
        return other is not None and (self.began, self.transaction) == (other.began, other.transaction)


class Seen(NamedTuple):
    """What the watcher has last seen of an activity."""

    activity: Activity
    progress: Progress | None
    blockers: tuple[Blocker, ...]


class Board:
    """One process's migrations, from the first to the last."""

    def __init__(self, pending: int) -> None:
        """Begin with so many files pending, and none done."""
        self.done = 0
        self.pending = pending
        """How many there are to do, with those that are done."""
        self.activity: Activity | None = None
        self.seen: Seen | None = None
        self.running = ""
        """The command line of another migration tool, while that runs."""
        self.waiting_for = ""
        """Who holds the migration lock, while that is somebody else."""

    def wait_for(self, holder: str, *, pending: int, version: int | None) -> None:
        """Say who holds the lock while we wait, in words, and what is known of the schema meanwhile."""
        phase.enter(phase.WAITING, held_by=holder, pending=pending, version=version)
        self.waiting_for = holder

    def back_up(self) -> None:
        """Say that a backup is taken."""
        phase.enter(phase.BACKING_UP)

    def know(self, *, version: int | None, latest: int | None, pending: int) -> None:
        """Say what is known of the schema, now that nobody else can change it."""
        phase.know(version=version, latest=latest, pending=pending)

    def begin(self, file: str) -> None:
        """Say which file is next."""
        phase.enter(phase.MIGRATING, file=file)

    def run(self, command: str) -> None:
        """Say that another migration tool runs, which comes after all files."""
        self.activity, self.running = None, command
        phase.enter(phase.MIGRATING, file=command)

    def work_on(self, activity: Activity) -> None:
        """Say which statement is next."""
        self.activity = activity
        phase.enter(phase.MIGRATING, file=activity.file, statement=activity.statement, statements=activity.statements)

    def block(self, activity: Activity, backends: Sequence[int]) -> None:
        """Say which backends hold the lock that a statement waits for; none if it does not wait."""
        phase.blocked(activity.file, activity.statement, backends)

    def finish(self, version: int | None) -> None:
        """Say that one more file is done; with the migration's number, if it is one that is in now."""
        self.done += 1
        if version is not None:
            phase.one_more(version)
