"""Values and names as SQL, and as a libpq connection string."""

from __future__ import annotations


def literal(value: str | None) -> str:
    """Return `value` as an SQL literal, whatever `standard_conforming_strings` is."""
    if value is None:
        return "NULL"
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
