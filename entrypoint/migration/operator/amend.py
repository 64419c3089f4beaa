"""Change rows of the ledger by hand, so to speak: under the lock, behind the fence, in one transaction."""

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
    """What is to be changed in the ledger."""

    shown: tuple[LedgerRow, ...]
    """All rows as an operator was shown them: only if they are still the same, anything is changed."""
    statements: Sequence[str]
    sign: str
    """The query that has a row if the change is in: for a commit in doubt, after a failover."""
    numbers: tuple[int, ...] = ()
    """Those for which rows are added."""


def amend(assignment: Assignment, session: Session, place: Place, amendment: Amendment) -> None:
    """Take the lock and make the change. Raises EntrypointError; then nothing was changed, unless it says unknown.

    The ledger is created or upgraded first, if need be. Raises LedgerChangedError if it is not what was shown.
    """

    def decide(_session: Session, rows: tuple[LedgerRow, ...], _patience: Deadline) -> Change:
        refuse_changed(amendment.shown, rows)
        return Change(amendment.statements, amendment.sign)

    change(assignment, session, place, decide, amendment.numbers)


def change(assignment: Assignment, session: Session, place: Place, decide: Decide, numbers: Sequence[int]) -> None:
    """Take the lock, and let `decide` say, with the ledger before it, what to change. Raises what `amend` does."""
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
    """Raise LedgerChangedError unless what an operator was shown is what is there now."""
    if now != shown:
        raise LedgerChangedError(
            "The migration history has changed since it was shown; nothing was changed",
            remedy="entrypoint status shows how it is now. Start again.",
        )
