"""Recognize well-known mistakes in an address that libpq cannot read, for the error message. Pure.

Messages quote only words from the lists below, and names of variables: anything else may be part of a password.
"""

from __future__ import annotations

import re

from entrypoint.records import NamedTuple

_DRIVERS = (
    "psycopg|psycopg2|psycopg2cffi|psycopg_async|asyncpg|aiopg|pg8000|pygresql|py-postgresql|pypostgresql|psycopgcffi"
)
_PREFIX = re.compile(
    rf"(?i)(jdbc:postgres(?:ql)?|postgres(?:ql)?\+(?:{_DRIVERS})|postgis|pgsql|psql|ecto|pg|asyncpg)://"
)
_OTHER_DATABASE = re.compile(
    r"(?i)((?:jdbc:)?(?:mysql2?|mariadb|sqlite3?|mongodb(?:\+srv)?|redis|sqlserver|oracle|prisma(?:\+postgres)?|https?))://"
)
_VARIABLE = re.compile(r"\$(?:\{[A-Za-z_]\w*\}|\([A-Za-z_]\w*\))")
# Never quoted, as it may be a password.
_PLACEHOLDER = re.compile(r"(?:\$\w+|\$?\{\{.*\}\}|<%.*%>|<[\w -]+>|%\w+%|\$\{[^{}]*\})\Z", re.DOTALL)
_IN_PLACE = re.compile(r"postgres(?:ql)?://(?:[^?]*@)?[^@?]*(?:\$[{(]|\{\{)")
_CAPITALS = re.compile(r"(?!postgres(?:ql)?://)(?i:postgres(?:ql)?://)")
_JSON = re.compile(r"\{")
_SCHEME = re.compile(r"(?i)postgres(?:ql)?://")
_QUOTES = "'\"`\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"
_ASSIGNMENT = re.compile(r"(?:export\s+)?[A-Za-z_]\w*=\s*[" + _QUOTES + r"]*[A-Za-z][\w+.:-]*://")
_PSQL = re.compile(r"(?:\S*/)?psql\s")
# In .NET, names may contain spaces, and their case does not matter.
_DOTNET = re.compile(
    r"(?i)\s*(?:host|server|data source|address|port|database|initial catalog|user ?id|user ?name|uid|user|password|"
    r"pwd)\s*=[^;]*;"
)
# An address with a user, or with a port and a database, but without a scheme.
_WITHOUT_SCHEME = re.compile(
    r"(?!postgres(?:ql)?://)(?://)?(?:[^\s/@=:]+:\S*@\S+|[^\s/@=:]+@[\w.-]+|[\w.-]+:\d+/\S*)\Z"
)
_IN_CONNINFO = re.compile(r"(\w+)\s*=\s*(?:'(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)*)\s*", re.DOTALL)


class Misspelt(NamedTuple):
    """What is wrong (a clause about the variable), and what to write instead."""

    fault: str
    remedy: str


_LIKE = "postgresql://user:password@host:5432/database"

# Patterns for the beginning of an address, and what is wrong with it. The first match counts.
_KINDS = (
    (
        _PLACEHOLDER,
        Misspelt(
            "is a placeholder that was never replaced with a value",
            "Set it to the address itself. A shell and Compose replace ${NAME}, Kubernetes replaces $(NAME), Helm "
            "and others replace {{ … }}, and each does so only in its own files.",
        ),
    ),
    (
        _ASSIGNMENT,
        Misspelt(
            "starts with the name of a variable and =", "Write only what comes after the =, without quotation marks."
        ),
    ),
    (
        _PSQL,
        Misspelt("is a command line for psql", f"Write only the address, without psql and quotation marks: {_LIKE}."),
    ),
    (_CAPITALS, Misspelt("starts with capital letters", "Write postgresql:// in small letters.")),
    (
        _IN_PLACE,
        Misspelt(
            "has a placeholder for its host, port or database that was never replaced with a value",
            "Set the variables it uses in the place where the value is written. A shell and Compose replace ${NAME}, "
            "Kubernetes replaces $(NAME), and only for variables that are set there.",
        ),
    ),
    (_JSON, Misspelt("is JSON", f"Write the address alone: {_LIKE}.")),
    (
        _DOTNET,
        Misspelt(
            "is a .NET connection string, with semicolons",
            f"The application can keep it: set MIGRATION_DATABASE_URL to the same address, written as {_LIKE} or as "
            "host=… port=… dbname=… user=… password=… separated by spaces.",
        ),
    ),
    (_WITHOUT_SCHEME, Misspelt("does not start with postgresql://", f"Write it as {_LIKE}.")),
)


def read(address: str, understood: frozenset[str]) -> Misspelt | None:
    """Return what is wrong with `address`; None if it is not a known mistake.

    `understood`: the names of the parameters that libpq knows or that we translate.
    """
    if address[:1] in _QUOTES:
        return Misspelt(
            "starts with a quotation mark",
            "Remove the quotation marks. Docker's --env-file, and quotation marks inside a manifest's own, pass them "
            "on as part of the value.",
        )
    if _VARIABLE.fullmatch(address):
        return Misspelt(
            f"is {address}: the name of a variable that was never replaced with its value",
            "Set it to the address itself. A shell and Compose replace ${NAME}, Kubernetes replaces $(NAME), and "
            "only if that variable is set in the place where the value is written.",
        )
    if found := _PREFIX.match(address):
        return Misspelt(
            f"starts with {found[1]}://, which is another driver's notation",
            f"{_WITHOUT} like postgresql://user:password@host:5432/database.",
        )
    if found := _OTHER_DATABASE.match(address):
        return Misspelt(
            f"starts with {found[1]}://, which is not a PostgreSQL address",
            "It must be like postgresql://user:password@host:5432/database.",
        )
    for kind, reading in _KINDS:
        if kind.match(address):
            return reading
    return _unknown(address, understood)


_WITHOUT = "The application can keep its DATABASE_URL: set MIGRATION_DATABASE_URL to the same address, written"


def _unknown(address: str, understood: frozenset[str]) -> Misspelt | None:
    """Return what is wrong with the first unknown parameter, which may be part of a password."""
    for number, name in enumerate(_names(address), start=1):
        if name in understood:
            continue
        if name.lower() in understood:
            return Misspelt(
                f"has the parameter {name.lower()} in capital letters", f"Write it in small letters: {name.lower()}."
            )
        if known := next((like for like in understood if like.lower() == name.lower()), None):
            return Misspelt(f"has the parameter {known} in the wrong case", f"Write it as {known}.")
        meant = [like for like in sorted(understood) if name in (like[:at] + like[at + 1 :] for at in range(len(like)))]
        return Misspelt(
            f"has a parameter, number {number}, that libpq does not know"
            + (f"; it looks like {meant[0]}" if meant else ""),
            "Check its spelling. It is not shown because it may be part of a password: in host=… password='…', a "
            "value with spaces must be in single quotation marks; in a URL, write & as %26 and ? as %3F.",
        )
    return None


def _names(address: str) -> list[str]:
    """Return the names of the parameters in a URL's query or a conninfo string; empty if it is neither."""
    if _SCHEME.match(address):
        return [part.partition("=")[0] for part in address.partition("?")[2].split("&") if "=" in part]
    names, at = [], 0
    while at < len(address):
        found = _IN_CONNINFO.match(address, at)
        if found is None:
            return []
        names.append(found[1])
        at = found.end()
    return names
