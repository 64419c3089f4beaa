"""The statements with which our transactions and sessions begin. Pure functions that return SQL."""

from __future__ import annotations

from entrypoint.database import session_state
from entrypoint.database.quoting import PINNED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.deadline import Deadline

# A backend whose client has gone works on until its statement ends, unless it checks the socket in between. Until then
# its fence stays, and the next holder has to wait. A check takes the server some microseconds.
_CLIENT_CHECK_MS = 100
# Between two statements of our transactions we do next to nothing. A client that takes this long is frozen, or its node
# is gone, and PostgreSQL ends the transaction. The next holder needs some seconds more; we promise it within 35 s
# (docs/decisions/0009).
IDLE_TIMEOUT_MS = 27_000

ON_THIS_SERVER = "SET LOCAL synchronous_commit = local;"
"""For changes that need not be on a standby, so that a missing one does not block us."""

READ_COMMITTED = "BEGIN ISOLATION LEVEL READ COMMITTED"

# A condition: this version of a row was written by this transaction. A block with EXCEPTION is a subtransaction, which
# has its own, higher ID. A row that is visible although its transaction is in progress is our own.
_SINCE_OURS = "((xmin::text::bigint - pg_current_xact_id()::text::bigint) & 4294967295)"
WRITTEN_HERE = (
    f"CASE WHEN {_SINCE_OURS} < 2147483648 THEN pg_xact_status((pg_current_xact_id()::text::bigint + {_SINCE_OURS})"
    "::text::xid8) = 'in progress' END"
)

# If a client's node vanishes, the kernel's probes notice that after 25 s. (On a Unix socket they have no effect.)
_KEEPALIVES = {"tcp_keepalives_idle": 10, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}


def begin(
    deadline: Deadline,
    *,
    server_version: int,
    lock_timeout_ms: int,
    role: str | None,
    statement: str = READ_COMMITTED,
) -> str:
    """Return the beginning of a transaction that changes something, with all its limits, and in our state.

    `statement` begins the transaction. A migration runs in the isolation level of its file or its database, but our
    work on the lock and the ledger must see what others have just committed. Everything is SET LOCAL, so a pooled
    server session is left as it was.
    """
    return "\n".join(
        (
            f"{statement};",
            session_state.ours(role),
            f"SET LOCAL statement_timeout = {deadline.milliseconds()};",
            f"SET LOCAL lock_timeout = {lock_timeout_ms};",
            _survival(server_version),
        )
    )


def begin_guard(server_version: int) -> str:
    """Return the beginning of the guard's transaction, which stays open and idle while the lock is held.

    It sets the isolation level, because the database's default may be `repeatable read`. Then the idle transaction
    would keep a snapshot, and CREATE INDEX CONCURRENTLY would wait for it.
    """
    return f"{READ_COMMITTED} READ ONLY;\n{PINNED};\n{_survival(server_version)}"


def end_sessions(condition: str) -> str:
    """Return the statements that terminate all sessions that meet `condition`, except our own.

    The condition is about `s`, a row of `pg_stat_get_activity`. The last answer has a row for each terminated session,
    with its pid first. This runs as the login user, not as MIGRATION_ROLE, because the sessions are most likely that
    user's.
    """
    return (
        "SET LOCAL ROLE NONE; SELECT s.pid, pg_catalog.pg_terminate_backend(s.pid) "
        f"FROM pg_catalog.pg_stat_get_activity(NULL) s WHERE s.pid <> pg_catalog.pg_backend_pid() AND {condition}"
    )


def limits(deadline: Deadline, *, server_version: int, role: str | None) -> str:
    """Return our limits and state again, for a transaction in which a file has run, or whose session was restored."""
    return "\n".join(
        (
            session_state.ours(role),
            f"SET LOCAL statement_timeout = {deadline.milliseconds()};",
            _survival(server_version),
        )
    )


def prepared_limits(server_version: int, *, waits: bool = True) -> str:
    """Return a list of expressions for a prepared SELECT that sets what `limits` sets, except the state.

    $1 is the `statement_timeout` and, if `waits`, $2 is the `lock_timeout`, both in milliseconds.
    """
    timeouts = {"statement_timeout": "$1", "lock_timeout": "$2"} if waits else {"statement_timeout": "$1"}
    settings = timeouts | {name: str(value) for name, value in _surviving(server_version).items()}
    calls = [f"pg_catalog.set_config('{name}', {value}::text, true)" for name, value in settings.items()]
    check = _client_check(server_version, local=True).removeprefix("SELECT ").removesuffix(";")
    return ", ".join(filter(None, (*calls, check)))


def session_survival(server_version: int) -> tuple[str, ...]:
    """Return the settings that end a session outside a transaction when its client has gone."""
    settings = [f"SET {name} = {value};" for name, value in _KEEPALIVES.items()]
    if server_version >= 170000:  # PostgreSQL 17 has transaction_timeout
        # CREATE INDEX CONCURRENTLY and the like have their own transactions.
        settings.append("SET transaction_timeout = 0;")
    if server_version >= 140000:  # PostgreSQL 14 has idle_session_timeout
        settings += [f"{idle_session(server_version)};", _client_check(server_version, local=False)]
    return tuple(settings)


def idle_session(server_version: int) -> str:
    """Return the statement that lets a session be idle outside a transaction, but not forever."""
    return f"SET idle_session_timeout = {IDLE_TIMEOUT_MS}" if server_version >= 140000 else ""


def _client_check(server_version: int, *, local: bool) -> str:
    """Return the statement that makes a backend notice during a statement that its client has gone."""
    if server_version < 140000:  # PostgreSQL 14 has client_connection_check_interval
        return ""
    # On platforms that cannot do this, any value but 0 is an error.
    return (
        "SELECT CASE WHEN pg_catalog.version() ~ 'linux' THEN "
        f"pg_catalog.set_config('client_connection_check_interval', '{_CLIENT_CHECK_MS}', {str(local).lower()}) END;"
    )


def _survival(server_version: int) -> str:
    """Return the settings that end a transaction when its client has gone, and nothing else."""
    settings = [f"SET LOCAL {name} = {value};" for name, value in _surviving(server_version).items()]
    return "\n".join((*settings, _client_check(server_version, local=True)))


def _surviving(server_version: int) -> dict[str, int]:
    """Return those of these settings that work on every platform."""
    settings = {"idle_in_transaction_session_timeout": IDLE_TIMEOUT_MS, **_KEEPALIVES}
    # An administrator's default must not end a long migration; MIGRATION_TIMEOUT_MS does that.
    # PostgreSQL 17 has transaction_timeout.
    return settings if server_version < 170000 else {**settings, "transaction_timeout": 0}
