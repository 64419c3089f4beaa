"""What to migrate, where, and as which role: passed to all code that works on it."""

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
    """What to migrate, where, and as which role."""

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
    """The time limits of this start."""
    backup_dir: str | None
    """The directory for a backup before anything pending runs; None for no backup."""
    board: Board
    """Where to show what is going on."""
    losses: Losses
    """How often the connection was lost, during everything that this start does under the lock."""
    refuse_out_of_order: bool
    """Whether to refuse to run anything if a pending migration has a lower number than the newest applied one."""
    differences: Differences
    """Which differences between files and ledger have already been logged."""
    adopt: Adopt | None = None
    """The tool whose history to take over if anything is pending."""
    wanted: Wanted | None = None
    """Another migration tool, to run after our files if it has anything to do."""
    repeats: Repeats | None = None
    """What to do about the files in repeatable/ after the migrations; None to ignore them."""
    address: Address | None = None
    """The database's address for that tool."""
    after: bool = False
    """Whether the rollout is over: files that waited for that are pending, too, and there is no common timeout."""
    rehearsal: bool = False
    """Whether to leave no trace in the database, not even the ledger's tables."""

    def plan(self, rows: Sequence[LedgerRow]) -> Plan:
        """Return the plan for a ledger with these `rows`."""
        return plan_of(self.directory.files, rows, up_to=self.up_to, after=self.after)
