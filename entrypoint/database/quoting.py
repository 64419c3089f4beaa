"""Values and names as SQL, and as a libpq connection string."""

from __future__ import annotations

# `pg_temp` is listed so that it comes last. Otherwise it would come first, with the file's temporary tables.
_OUR_PATH = "pg_catalog, pg_temp"

PINNED = f"SET LOCAL search_path = {_OUR_PATH}; SET LOCAL row_security = off"
"""The statements that come before our own, in the same transaction or message.

With another search_path, an operator, function or type that somebody has created in `public` could run with our
privileges. And if row-level security filtered rows, the answer would be wrong without a sign of it;
`row_security = off` makes that an error.
"""

THIS_DATABASE = "(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
"""An expression: the OID of the database that the session is connected to."""

DEFAULT_PATH = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL search_path TO DEFAULT; "
    "SELECT pg_catalog.current_setting('search_path'); COMMIT"
)
"""Asks for the connection's default search_path, which is the only row of the third result."""


def our_state(role: str | None) -> tuple[str, ...]:
    """Return the statements that give the session our role and settings until the transaction ends.

    `role`: MIGRATION_ROLE. Without it, the role is the connection's default, which may differ from the login user. It
    is set explicitly, because behind a pooler another client may have left a different one.
    """
    return (
        "SET LOCAL SESSION AUTHORIZATION DEFAULT",
        f"SET LOCAL role TO {identifier(role) if role else 'DEFAULT'}",
        # One by one, because callers count the answers.
        *PINNED.split("; "),
    )


class Parameter(str):
    """A parameter of a prepared statement, such as `$1`, in the place of a literal."""

    __slots__ = ()


def literal(value: str | None) -> str:
    """Return `value` as an SQL literal that is right for any `standard_conforming_strings`; a Parameter unchanged."""
    if value is None:
        return "NULL"
    if isinstance(value, Parameter):
        return value
    quoted = value.replace("\0", "").replace("'", "''")
    return f" E'{quoted.replace(chr(92), chr(92) * 2)}'" if "\\" in quoted else f"'{quoted}'"


def identifier(name: str) -> str:
    """Return `name` as a quoted SQL identifier."""
    return '"' + name.replace("\0", "").replace('"', '""') + '"'


def utc(time: str) -> str:
    """Return an SQL expression for a `timestamptz` as text in UTC, as in 2026-11-22T10:30:00Z; NULL for `infinity`."""
    return f"to_char({time} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"


def conninfo(parameters: dict[str, str]) -> str:
    """Return libpq's parameters as one string (libpq documentation, "Keyword/Value Connection Strings")."""

    def quoted(value: str) -> str:
        return value.replace("\\", "\\\\").replace("'", "\\'")

    return " ".join(f"{name}='{quoted(value)}'" for name, value in parameters.items())
