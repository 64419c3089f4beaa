"""Find out, after a connection has ended, whether the commit went through and who ended it."""

from __future__ import annotations

import time

from entrypoint.database.answers import StatementError
from entrypoint.database.connect import Failure
from entrypoint.database.quoting import identifier, literal
from entrypoint.deadline import Deadline
from entrypoint.errors import ConnectionLostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from entrypoint.database.connect import Target
    from entrypoint.migration.ledger import Place

    Verdict = Literal["committed", "aborted", "unknown"]

_PAUSE = 0.2
_PATIENCE = 5.0


class InDoubt(Exception):  # noqa: N818 - a state of knowledge, which the leader settles
    """The connection ended while COMMIT was under way."""

    def __init__(self, transaction_id: str, lost: ConnectionLostError) -> None:
        """Take the transaction's id, and how the connection ended."""
        super().__init__(str(lost))
        self.transaction_id = transaction_id
        self.lost = lost


def settle(
    transaction_id: str, target: Target, place: Place, sign: str, role: str | None, deadline: Deadline
) -> Verdict:
    """Find out whether a transaction was committed; wait for that while its backend still works on it.

    A ledger that is read at once may say no, and a moment later yes. On another server, after a failover, the
    number means nothing, and only the ledger counts: `sign` is the query that has a row if the change is in it, and
    `role` who may ask it.
    """
    while not deadline.passed():
        try:
            verdict = _ask(transaction_id, target, place, sign, role, deadline.within(_PATIENCE))
        except (Failure, ConnectionLostError, StatementError):
            verdict = None  # Not there at the moment.
        if verdict is not None:
            return verdict
        time.sleep(min(_PAUSE, deadline.remaining()))
    return "unknown"


def _ask(
    transaction_id: str, target: Target, place: Place, sign: str, role: str | None, deadline: Deadline
) -> Verdict | None:
    session = target.connect(deadline.remaining())
    try:
        start = session.query("SELECT pg_catalog.pg_postmaster_start_time()::text", deadline)[0][0][0]
        status: str | None = None
        if start == place.server_start:
            status = session.query(f"SELECT pg_catalog.pg_xact_status({literal(transaction_id)})", deadline)[0][0][0]
        if status == "in progress":
            return None
        if status == "committed":
            return "committed"
        if status == "aborted":
            return "aborted"
        as_role = f"SET LOCAL ROLE {identifier(role)};" if role else ""
        found = session.query(f"BEGIN READ ONLY; {as_role} {sign}; COMMIT", deadline)[-2]
        return "committed" if found else "aborted"
    finally:
        session.close()


def server_restarted(place: Place, target: Target, seconds: float) -> bool:
    """Tell whether the server has restarted since `place` was found, or is about to."""
    deadline = Deadline(seconds)
    try:
        session = target.connect(deadline.remaining())
    except Failure:
        return True
    try:
        now = session.query("SELECT pg_catalog.pg_postmaster_start_time()::text", deadline)[0][0][0]
    except (ConnectionLostError, StatementError):
        return True
    finally:
        session.close()
    return now != place.server_start
