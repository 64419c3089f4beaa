"""Values and names as SQL, and as a libpq connection string."""

from __future__ import annotations

# `pg_temp` is named so that it comes last: unnamed, it would come first, with the file's temporary tables.
_OUR_PATH = "pg_catalog, pg_temp"

PINNED = f"SET LOCAL search_path = {_OUR_PATH}; SET LOCAL row_security = off"
"""What comes before our own statements, in the same transaction or the same message.

With another path an operator, function or type that somebody made in `public` would run as whoever we are. And filtered
rows would be an answer that looks like any other: `row_security = off` makes it an error.
"""

THIS_DATABASE = "(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
"""An expression: the oid of the database that the session is connected to."""

DEFAULT_PATH = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL search_path TO DEFAULT; "
    "SELECT pg_catalog.current_setting('search_path'); COMMIT"
)
"""Asks for the search_path that the connection began with: the only row of the third result has it."""


def our_state(role: str | None) -> tuple[str, ...]:
    """Return the statements that make the session ours to the end of the transaction; all that they set is local.

    `role`: MIGRATION_ROLE. Without it, whoever the connection is by default, which need not be the login user; nor
    whoever another client of a pooler has left behind.
    """
    return (
        "SET LOCAL SESSION AUTHORIZATION DEFAULT",
        f"SET LOCAL role TO {identifier(role) if role else 'DEFAULT'}",
        # One by one, as the answers are counted.
        *PINNED.split("; "),
    )


class Parameter(str):
    """A place for a value in a statement that is to be prepared: `$1`, for what would be a literal."""

    __slots__ = ()


def literal(value: str | None) -> str:
    """Return `value` as an SQL literal, whatever `standard_conforming_strings` is; a Parameter as it is."""
    if value is None:
        return "NULL"
    if isinstance(value, Parameter):
        return value
    quoted = value.replace("\0", "").replace("'", "''")
    return f" E'{quoted.replace(chr(92), chr(92) * 2)}'" if "\\" in quoted else f"'{quoted}'"


def identifier(name: str) -> str:
    """Return `name` as a quoted SQL identifier."""
    return '"' + name.replace("\0", "").replace('"', '""') + '"'


def conninfo(parameters: dict[str, str]) -> str:
    """Return libpq's parameters as one string (libpq documentation, "Keyword/Value Connection Strings")."""

    def quoted(value: str) -> str:
        return value.replace("\\", "\\\\").replace("'", "\\'")

    return " ".join(f"{name}='{quoted(value)}'" for name, value in parameters.items())
