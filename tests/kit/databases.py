"""Databases, one for each test, with queries for them and for their server's log."""

from __future__ import annotations

import contextlib
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psycopg import Connection
    from psycopg.rows import TupleRow

    from demo.postgres import Server

    Params = Sequence[object] | Mapping[str, object] | None

PROBLEM = re.compile(r"\b(?:WARNING|ERROR|FATAL|PANIC):  ")

EMPTY = "empty"


def make_template(server: Server) -> None:
    """Create `EMPTY`: a copy of `template0` in which there has been a session.

    The first session in a database caches parts of the catalog in `pg_internal.init`. A copy has that file, too, so
    that the first session of a test need not write it. That saves a third of the time to create a database.
    """
    server.create_database(EMPTY)
    server.connect(EMPTY).close()
    with server.connect() as connection:
        connection.execute(f"ALTER DATABASE {EMPTY} ALLOW_CONNECTIONS false".encode())


class Clerk:
    """Creates and drops databases on one connection: connecting takes a server longer than dropping a database."""

    def __init__(self, server: Server) -> None:
        """Take the server. The connection is opened when it is needed."""
        self._server = server
        self._connection: Connection[TupleRow] | None = None

    def create_database(self, name: str, *, template: str) -> None:
        """Create a database, as `Server` does."""
        self._do(lambda connection: self._server.create_database(name, template=template, connection=connection))

    def drop_database(self, name: str) -> None:
        """Drop a database, as `Server` does."""
        self._do(lambda connection: self._server.drop_database(name, connection=connection))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _do(self, work: Callable[[Connection[TupleRow]], None]) -> None:
        if self._connection is not None:
            # A test may have ended the connection or the server.
            with contextlib.suppress(psycopg.OperationalError):
                work(self._connection)
                return
            self._connection.close()
        self._connection = self._server.connect()
        work(self._connection)


def server_errors(server: Server, since: int = 0) -> list[str]:
    """Return the server's warnings and errors since a mark from `server.log_size()`.

    This only returns their first lines: DETAIL and STATEMENT are in `server.log_text(since)`.
    """
    return [line for line in server.log_text(since).splitlines() if PROBLEM.search(line)]


@dataclass(frozen=True)
class Database:
    """A test's database. Every call opens a new connection, so that none is left open."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        """Its URL."""
        return self.server.url(self.name)

    @property
    def conninfo(self) -> str:
        """Its address as a conninfo string."""
        return self.server.conninfo(self.name)

    def url_at(self, port: int) -> str:
        """Return its URL through a proxy's `port`, unencrypted so that the proxy can read the traffic."""
        return self.server.url(self.name, port=port, sslmode="disable", gssencmode="disable")

    def connect(self, **parameters: str | int) -> Connection[TupleRow]:
        """Open a connection in autocommit mode, for example to hold a lock; `parameters` are libpq's."""
        return self.server.connect(self.name, **parameters)

    def execute(self, sql: str, params: Params = None) -> None:
        """Run SQL; without `params` it may be several statements."""
        with self.connect() as connection:
            connection.execute(sql, params)

    def rows(self, sql: str, params: Params = None) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.connect() as connection:
            return connection.execute(sql, params).fetchall()

    def one(self, sql: str, params: Params = None) -> Any:
        """Return the only row of a query, or its only value if it has one column."""
        rows = self.rows(sql, params)
        assert len(rows) == 1, f"{len(rows)} rows instead of one: {rows}"
        return rows[0][0] if len(rows[0]) == 1 else rows[0]

    def exists(self, relation: str) -> bool:
        """Tell whether a table, view or index exists."""
        return bool(self.one("SELECT to_regclass(%s) IS NOT NULL", (relation,)))

    def sessions(self, *, ours: int = 1) -> int:
        """Return how many clients are connected, not counting `ours`: the connections of the test itself.

        A backend ends a moment after its client, so use `until` to wait for a number.
        """
        count = self.one(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
        )
        return int(count) - ours

    def schema(self) -> str:
        """Return all definitions as pg_dump writes them, for comparisons."""
        return self._dump("--schema-only")

    def contents(self) -> str:
        """Return all definitions and rows as pg_dump writes them, for comparisons."""
        return self._dump("--inserts")

    def _dump(self, option: str) -> str:
        command = [str(self.server.bin / "pg_dump"), option, "--dbname", self.conninfo]
        dump = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={})
        assert dump.returncode == 0, dump.stderr
        # psql's \restrict has a random key.
        random = ("\\restrict", "\\unrestrict")
        return "\n".join(line for line in dump.stdout.splitlines() if not line.startswith(random))

    def drop(self) -> None:
        """Drop it, even if somebody is connected."""
        self.server.drop_database(self.name)
