"""Change rows of the ledger on behalf of an operator: under the lock, behind the fence, in one transaction."""

from __future__ import annotations

from entrypoint.errors.operator import LedgerChangedError
from entrypoint.migration.apply.ledger_change import Change, change_ledger
from entrypoint.migration.apply.migrator import under_lock
from entrypoint.migration.lock.contender import Contender
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.session import Session
    from entrypoint.deadline import Deadline
    from entrypoint.migration.apply.ledger_change import Decide
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.rows import LedgerRow


class Amendment(NamedTuple):
    """A change to the ledger."""

    shown: tuple[LedgerRow, ...]
    """All rows as the operator saw them. Nothing is changed unless they are still the same."""
    statements: Sequence[str]
    sign: str
    """A query that returns a row if the change is committed: for a commit in doubt, after a failover."""
    numbers: tuple[int, ...] = ()
    """The numbers of added rows."""


def amend(assignment: Assignment, session: Session, place: Place, amendment: Amendment) -> None:
    """Take the lock and make the change. On an EntrypointError, nothing was changed, unless it says unknown.

    Creates or upgrades the ledger first, if necessary. Raises LedgerChangedError if it is not what was shown.
    """

    def decide(_session: Session, rows: tuple[LedgerRow, ...], _patience: Deadline) -> Change:
        refuse_changed(amendment.shown, rows)
        return Change(amendment.statements, amendment.sign)

    change(assignment, session, place, decide, amendment.numbers)


def change(assignment: Assignment, session: Session, place: Place, decide: Decide, numbers: Sequence[int]) -> None:
    """Take the lock, and make the change that `decide` returns for the current ledger. Raises what `amend` raises."""
    contender = Contender(assignment, session, place, regardless=True)
    try:
        under_lock(
            contender,
            assignment,
            lambda lease, clocks: change_ledger(assignment, lease, decide, numbers, clocks.turn_to()),
        )
    finally:
        contender.close()


def refuse_changed(shown: object, now: object) -> None:
    """Raise LedgerChangedError unless the rows are still those that the operator saw."""
    if now != shown:
        raise LedgerChangedError(
            "The migration history has changed since it was shown; nothing was changed",
            remedy="entrypoint status shows how it is now. Start again.",
        )
