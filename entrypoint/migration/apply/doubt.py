"""Finds out, after a connection has ended, whether the COMMIT succeeded, and whether the server restarted."""

from __future__ import annotations

from entrypoint.database import session_state
from entrypoint.database.answers import StatementError
from entrypoint.database.login import Failure
from entrypoint.database.quoting import literal
from entrypoint.database.sqlstate import INVALID_PARAMETER_VALUE
from entrypoint.deadline import Deadline, pause
from entrypoint.errors import ConnectionLostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from entrypoint.database.session import Session
    from entrypoint.database.target import Target
    from entrypoint.migration.ledger.place import Place

    Verdict = Literal["committed", "aborted", "unknown"]

_PAUSE = 0.2
_PATIENCE = 5.0
# For a question after the time is up. A server that answers needs milliseconds, and the application is waiting.
_FLOOR = 1.0
# PostgreSQL's error for a transaction id that it has not assigned yet.
_IN_THE_FUTURE = INVALID_PARAMETER_VALUE


STANDBY_REMEDY = (
    "Bring the standby back, or remove it: ALTER SYSTEM SET synchronous_standby_names = …; SELECT pg_reload_conf()."
)


def waited_for_standby(names: str, verb: str = "waited") -> str:
    """Return a clause that a commit waited (or `verb`) for a standby from this list; it is empty if unknown."""
    setting = "synchronous_standby_names" + (f" = '{names}'" if names else "")
    return f"COMMIT {verb} for a synchronous standby ({setting})"


def commit_ended(lost: ConnectionLostError, standby: str | None, *, gave_up: bool) -> tuple[str, str]:
    """Return how a connection ended during COMMIT, as a clause, and the start of the remedy, which may be empty.

    `standby`: the names of the standby that COMMIT waited for, if it did. `gave_up`: whether this program ended that
    wait, because its time was up.
    """
    if standby is None:
        return f"the connection ended during COMMIT ({lost})", ""
    if gave_up:
        return waited_for_standby(standby), f"{STANDBY_REMEDY} "
    # Without an SQLSTATE, the server did not end it: the server itself, or the network, is gone.
    first = "" if lost.sqlstate else "Check that the server is running. "
    return f"{waited_for_standby(standby)}, and the connection ended ({lost})", f"{first}{STANDBY_REMEDY} "


def standby_names(session: Session) -> str:
    """Return `synchronous_standby_names`; empty if it cannot be read."""
    try:
        return session.query("SHOW synchronous_standby_names", Deadline(_FLOOR))[0][0][0] or ""
    except (ConnectionLostError, StatementError):
        return ""


class InDoubt(Exception):  # noqa: N818 - a state of knowledge, which the leader settles
    """The connection ended while COMMIT was under way."""

    def __init__(self, transaction_id: str, lost: ConnectionLostError) -> None:
        """Take the transaction's id, and the loss of the connection."""
        super().__init__(str(lost))
        self.transaction_id = transaction_id
        self.lost = lost


def settle(
    transaction_id: str, target: Target, place: Place, proof: str, role: str | None, deadline: Deadline
) -> Verdict:
    """Find out whether a transaction was committed; wait while its backend is still working on it.

    The ledger might not have the change now and have it a moment later, so this first asks for the state of the
    transaction. But `committed` only counts if the ledger agrees: `proof` is the query that returns a row if the change
    is recorded, and `role` is the role to run it as. After a failover, or after a crash before the id reached the disk,
    the id may belong to another transaction. (A crash does not change the postmaster's start time.)

    There is always time for one answer, even if the deadline has passed.
    """
    deadline = Deadline(max(deadline.remaining(), _FLOOR))
    while not deadline.passed():
        try:
            verdict = _ask(transaction_id, target, place, proof, role, deadline.within(_PATIENCE))
        except (Failure, ConnectionLostError, StatementError):
            verdict = None  # The server is not available at the moment.
        if verdict is not None:
            return verdict
        pause(min(_PAUSE, deadline.remaining()))
    return "unknown"


def _ask(
    transaction_id: str, target: Target, place: Place, proof: str, role: str | None, deadline: Deadline
) -> Verdict | None:
    session = target.connect(deadline.remaining())
    try:
        status = _status(session, transaction_id, place, deadline)
        if status == "in progress":
            return None
        if status == "aborted":
            return "aborted"  # Even if another transaction has made the same change since.
        found = session.query(f"BEGIN READ ONLY; {session_state.ours(role)} {proof}; COMMIT", deadline)[-2]
        return "committed" if found else "aborted"
    finally:
        session.close()


def _status(session: Session, transaction_id: str, place: Place, deadline: Deadline) -> str | None:
    """Return the state of a transaction; None if the server does not know it, or is a different server."""
    start = session.query("SELECT pg_catalog.pg_postmaster_start_time()", deadline)[0][0][0]
    if start != place.server_start:
        return None
    try:
        return session.query(f"SELECT pg_catalog.pg_xact_status({literal(transaction_id)})", deadline)[0][0][0]
    except StatementError as error:
        if error.sqlstate != _IN_THE_FUTURE:
            raise
        return None


def server_restarted(place: Place, target: Target, seconds: float) -> bool:
    """Tell whether the server has restarted since `place` was read, or is not available."""
    deadline = Deadline(seconds)
    try:
        session = target.connect(deadline.remaining())
    except Failure:
        return True
    try:
        now = session.query("SELECT pg_catalog.pg_postmaster_start_time()", deadline)[0][0][0]
    except (ConnectionLostError, StatementError):
        return True
    finally:
        session.close()
    return now != place.server_start
