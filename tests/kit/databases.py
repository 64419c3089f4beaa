"""Databases for one test each, and what can be asked of them and of their server's log."""

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
    """Make `EMPTY`, which is `template0` once somebody has looked into it.

    The first session in a database writes down what it has read of the catalogues, `pg_internal.init`; a clone has
    that file, too, so that no test's first session has to do it: that saves a third of making a database.
    """
    server.create_database(EMPTY)
    server.connect(EMPTY).close()
    with server.connect() as connection:
        connection.execute(f"ALTER DATABASE {EMPTY} ALLOW_CONNECTIONS false".encode())


class Clerk:
    """Makes and drops databases on one connection: to connect each time costs a server more than to drop one."""

    def __init__(self, server: Server) -> None:
        """Connect when there is something to do."""
        self._server = server
        self._connection: Connection[TupleRow] | None = None

    def create_database(self, name: str, *, template: str) -> None:
        """Create a database as `Server` does."""
        self._do(lambda connection: self._server.create_database(name, template=template, connection=connection))

    def drop_database(self, name: str) -> None:
        """Drop a database as `Server` does."""
        self._do(lambda connection: self._server.drop_database(name, connection=connection))

    def close(self) -> None:
        """Leave the server."""
        if self._connection is not None:
            self._connection.close()

    def _do(self, work: Callable[[Connection[TupleRow]], None]) -> None:
        if self._connection is not None:
            # A test may have ended it, or the server.
            with contextlib.suppress(psycopg.OperationalError):
                work(self._connection)
                return
            self._connection.close()
        self._connection = self._server.connect()
        work(self._connection)


def server_errors(server: Server, since: int = 0) -> list[str]:
    """Return the server's warnings and errors since a mark that `server.log_size()` gave.

    Only their first lines: DETAIL and STATEMENT are in `server.log_text(since)`.
    """
    return [line for line in server.log_text(since).splitlines() if PROBLEM.search(line)]


@dataclass(frozen=True)
class Database:
    """A database of a test. Every call opens a connection of its own, so that none is left in the way."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        """Return its URL."""
        return self.server.url(self.name)

    @property
    def conninfo(self) -> str:
        """Return its address in libpq's other spelling."""
        return self.server.conninfo(self.name)

    def url_at(self, port: int) -> str:
        """Return its URL through a proxy's `port`, in the clear so that the proxy can read along."""
        return self.server.url(self.name, port=port, sslmode="disable", gssencmode="disable")

    def connect(self, **parameters: str | int) -> Connection[TupleRow]:
        """Open a connection in autocommit mode, to hold a lock, say; `parameters` are libpq's."""
        return self.server.connect(self.name, **parameters)

    def execute(self, sql: str, params: Params = None) -> None:
        """Run SQL; without parameters it may be several statements."""
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
        """Return whether there is such a table, view or index."""
        return bool(self.one("SELECT to_regclass(%s) IS NOT NULL", (relation,)))

    def sessions(self, *, ours: int = 1) -> int:
        """Return how many clients are connected, without the `ours` connections that look.

        A backend ends a moment after its client, so wait for a number with `until`.
        """
        count = self.one(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
        )
        return int(count) - ours

    def schema(self) -> str:
        """Return all definitions as pg_dump writes them, to be compared."""
        return self._dump("--schema-only")

    def contents(self) -> str:
        """Return all definitions and rows as pg_dump writes them, to be compared."""
        return self._dump("--inserts")

    def _dump(self, option: str) -> str:
        command = [str(self.server.bin / "pg_dump"), option, "--dbname", self.conninfo]
        dump = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={})
        assert dump.returncode == 0, dump.stderr
        # psql's \restrict carries a random key.
        random = ("\\restrict", "\\unrestrict")
        return "\n".join(line for line in dump.stdout.splitlines() if not line.startswith(random))

    def drop(self) -> None:
        """Drop it, whoever is connected."""
        self.server.drop_database(self.name)
