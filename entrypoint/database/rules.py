"""Find the setting because of which the server or a pooler has ended a session, and what to do about it."""

from __future__ import annotations

from entrypoint.database.sqlstate import (
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    IDLE_SESSION_TIMEOUT,
    PROTOCOL_VIOLATION,
    TRANSACTION_TIMEOUT,
)

# PostgreSQL's documentation, appendix A.
_POSTGRESQL = {
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT: "idle_in_transaction_session_timeout",
    TRANSACTION_TIMEOUT: "transaction_timeout",
    IDLE_SESSION_TIMEOUT: "idle_session_timeout",
}
# PgBouncer's texts, as its clients get them.
_PGBOUNCER = (
    ("query timeout", "query_timeout"),
    ("query_wait_timeout", "query_wait_timeout"),
    ("idle transaction timeout", "idle_transaction_timeout"),
    ("idle_transaction_timeout", "idle_transaction_timeout"),
    ("client_idle_timeout", "client_idle_timeout"),
    ("server lifetime over", "server_lifetime"),
    ("server idle timeout", "server_idle_timeout"),
)


def ended_by(text: str, sqlstate: str | None) -> tuple[str, str] | None:
    """Return the setting that ended a session, and the remedy; None if it ended for another reason.

    `text` and `sqlstate` are from the last message before the connection was closed.
    """
    if setting := _POSTGRESQL.get(sqlstate or ""):
        return (
            setting,
            f"The server ended the session because of its {setting}. Raise it for this role with ALTER ROLE … SET.",
        )
    # All of PgBouncer's own errors have the code 08P01.
    if sqlstate in (None, PROTOCOL_VIOLATION):
        for words, setting in _PGBOUNCER:
            if words in text:
                return setting, (
                    f"PgBouncer ended the session because of its {setting}. Raise it, or set MIGRATION_DATABASE_URL "
                    "to the server's own address."
                )
    return None
