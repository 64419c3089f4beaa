"""What is wrong with an address that libpq cannot read, where it is of a well-known kind: for its message. Pure.

Only words from the lists below are ever quoted, and names of variables: any other piece may be one of a password.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_DRIVERS = (
    "psycopg|psycopg2|psycopg2cffi|psycopg_async|asyncpg|aiopg|pg8000|pygresql|py-postgresql|pypostgresql|psycopgcffi"
)
_PREFIX = re.compile(
    rf"(?i)(jdbc:postgres(?:ql)?|postgres(?:ql)?\+(?:{_DRIVERS})|postgis|pgsql|psql|ecto|pg|asyncpg)://"
)
_OTHER_DATABASE = re.compile(r"(?i)(mysql2?|mariadb|sqlite3?|mongodb(?:\+srv)?|redis|sqlserver|oracle|https?)://")
_VARIABLE = re.compile(r"\$(?:\{[A-Za-z_]\w*\}|\([A-Za-z_]\w*\))")

# By their lower-case names: those of Prisma, SQLAlchemy's drivers, node-postgres, JDBC, Npgsql, pgx.
_PARAMETERS = (
    "schema",
    "currentSchema",
    "search_path",
    "pgbouncer",
    "connection_limit",
    "pool_timeout",
    "socket_timeout",
    "statement_cache_size",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
    "sslidentity",
    "sslaccept",
    "ssl",
    "sslfactory",
    "uselibpqcompat",
    "pool_size",
    "pool_max_conns",
    "pool_min_conns",
    "pool_max_conn_lifetime",
    "default_query_exec_mode",
    "max_overflow",
    "pool",
    "max",
    "timeout",
    "command_timeout",
    "statement_timeout",
    "server_settings",
    "async_fallback",
    "serverVersion",
    "charset",
    "encoding",
    "ApplicationName",
    "prepareThreshold",
    "preparedStatementCacheQueries",
    "reWriteBatchedInserts",
    "loginTimeout",
    "socketTimeout",
    "connectTimeout",
    "tcpKeepAlive",
    "targetServerType",
    "loadBalanceHosts",
    "stringtype",
    "supa",
    "workaround",
)
_KNOWN = {name.lower(): name for name in _PARAMETERS}
_SCHEMA = ("schema", "currentSchema", "search_path")


class Reading(NamedTuple):
    """What is wrong, as a clause about the variable, and what to write instead."""

    fault: str
    remedy: str


def read(address: str, understood: frozenset[str]) -> Reading | None:
    """Return what is wrong with `address`; None if it is of no kind that is known. libpq knows what is `understood`."""
    if address[:1] in "'\"`":
        return Reading(
            "begins with a quotation mark",
            "Write the value without quotation marks around it: Docker's --env-file, and quotation marks within a "
            "manifest's, hand them on as part of it.",
        )
    if _VARIABLE.fullmatch(address):
        return Reading(
            f"is {address}: the name of a variable, which nobody has replaced by its value",
            "Set it to the address itself. A shell and Compose replace ${NAME}, Kubernetes replaces $(NAME), and only "
            "if that variable is set where the value is written.",
        )
    if found := _PREFIX.match(address):
        return Reading(
            f"begins with {found[1]}://, as another driver writes it",
            f"{_WITHOUT} like postgresql://user:password@host:5432/database.",
        )
    if found := _OTHER_DATABASE.match(address):
        return Reading(
            f"begins with {found[1]}://, and is no address of PostgreSQL",
            "It must be like postgresql://user:password@host:5432/database.",
        )
    names = _parameters(address, understood)
    if not names:
        return None
    if any(name in _SCHEMA for name in names):
        remedy = (
            f"{_WITHOUT} with options=-csearch_path%3DNAME in place of the schema's; MIGRATION_SCHEMA=NAME says where "
            "the migration history is."
        )
    else:
        remedy = f"{_WITHOUT} without what is for another driver."
    parameters = "the parameter" if len(names) == 1 else "the parameters"
    return Reading(f"has {parameters} {', '.join(names)}, which PostgreSQL's libpq does not know", remedy)


_WITHOUT = "The application may keep its DATABASE_URL: set MIGRATION_DATABASE_URL to the same address,"


def _parameters(address: str, understood: frozenset[str]) -> list[str]:
    """Return the parameters in a URL's query that are another driver's, in their order."""
    if not re.match("postgres(?:ql)?://", address):
        return []
    query = address.partition("?")[2]
    names = [part.partition("=")[0] for part in query.split("&")]
    return [_KNOWN[name.lower()] for name in dict.fromkeys(names) if name not in understood and name.lower() in _KNOWN]
