"""What the holder of the lock has to do, where and as whom: passed along to everyone who works on it."""

from __future__ import annotations

from entrypoint.migration.ledger.plan import plan_of
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.clocks import Clocks
    from entrypoint.database.target import Target
    from entrypoint.migration.ledger.differences import Differences
    from entrypoint.migration.ledger.plan import Plan
    from entrypoint.migration.ledger.repeatables import Repeats
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.ledger.verdict import Wanted
    from entrypoint.migration.losses import Losses
    from entrypoint.migration.observe.board import Board
    from entrypoint.migration.script.files import Directory
    from entrypoint.records import Address, Adopt, ApplyPolicy, LockPolicy


class Assignment(NamedTuple):
    """What is to be done, where and as whom."""

    directory: Directory
    up_to: int | None
    target: Target
    schema: str | None
    """As configured; None for the connection's current schema."""
    role: str | None
    app_version: str | None
    token: str
    connect_timeout: float
    lock: LockPolicy
    apply: ApplyPolicy
    clocks: Clocks
    """All the time of this start."""
    backup_dir: str | None
    """The directory for a backup before anything pending runs; None for no backup."""
    board: Board
    """Where to show what is going on."""
    losses: Losses
    """How often the connection was lost, over all that this start does under the lock."""
    refuse_out_of_order: bool
    """Whether a pending migration below the newest applied one ends it before anything runs."""
    differences: Differences
    """What the log has been told of files and ledger that do not agree."""
    adopt: Adopt | None = None
    """The tool whose history is taken over, if anything is pending."""
    wanted: Wanted | None = None
    """Another migration tool that is to run after our files, if it has anything to do."""
    repeats: Repeats | None = None
    """What is to be done behind the migrations about the files in repeatable/; None if they are not looked at."""
    address: Address | None = None
    """Where the database is, as that tool is to be told."""
    after: bool = False
    """Whether the rollout is over: what was to wait for that is pending, too, and no common time-out holds."""
    rehearsal: bool = False
    """Whether nothing is to be left of it, not even the ledger's tables."""

    def plan(self, rows: Sequence[LedgerRow]) -> Plan:
        """Return what is to be done where the ledger has these `rows`."""
        return plan_of(self.directory.files, rows, up_to=self.up_to, after=self.after)
