"""What some of our own statements cost the server: `python -m benchmarks.statements [VERSION]`.

For docs/decisions 0022 and 0023. Prints medians of the server process's CPU time in milliseconds, which other load on
the machine changes little; Linux only. Not one of the scenarios of `make bench`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from demo.postgres import Server
from entrypoint.database.quoting import PINNED
from entrypoint.deadline import Deadline
from entrypoint.migration.ledger import writing
from entrypoint.migration.ledger.place import Place, find_tables
from entrypoint.migration.ledger.rows import COMPLETED
from entrypoint.migration.ledger.tables import setup
from entrypoint.migration.script.files import MigrationFile

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from entrypoint.database.answers import Row

RUNS = 50
SCHEMAS, TABLES = 2_000, 10
APPLIED = 100
PLACE = Place("public", True, {"status": "text"}, {"id": "another type"})  # noqa: FBT003


class _Listener:
    """Stands in for a connection, and records what it is asked."""

    heard = ""

    def query(self, sql: str, _deadline: Deadline, /) -> list[list[Row]]:
        self.heard = sql
        return [[], [], []]

    def rollback(self, deadline: Deadline, /) -> None:
        """Do nothing."""


def main() -> int:
    """Measure and print."""
    with Server(int(sys.argv[1]) if len(sys.argv) > 1 else 16) as server:
        print(f"PostgreSQL {server.version}, median of {RUNS}, CPU time of the server process in ms")
        for database in ("plain", "crowded", "tenants"):
            server.create_database(database)
        with server.connect("crowded") as one, server.connect("tenants") as other:
            _crowd(one)
            _crowd(other)
            for number in range(SCHEMAS):
                other.execute(f"CREATE TABLE s{number}.schema_migrations (migration_number integer, filename text)")
        _first_looks(server)
        _own_statements(server)
    return 0


def _crowd(connection: Connection[TupleRow]) -> None:
    for number in range(SCHEMAS):
        tables = "; ".join(f"CREATE TABLE s{number}.t{table} (a integer, b text)" for table in range(TABLES))
        connection.execute(f"CREATE SCHEMA s{number}; {tables}")
    connection.execute("VACUUM ANALYZE")


def _first_looks(server: Server) -> None:
    listener = _Listener()
    find_tables(listener, None, Deadline(5))
    cases = {
        "plain": "only public",
        "crowded": f"{SCHEMAS} schemas with {SCHEMAS * TABLES} tables",
        "tenants": f"the same, and {SCHEMAS} ledgers that ANALYZE has not seen",
    }
    times: dict[str, list[tuple[float, float]]] = {database: [] for database in cases}
    for _ in range(RUNS):
        for database, found in times.items():
            with server.connect(database) as connection:
                found.append((_milliseconds(connection, listener.heard), _milliseconds(connection, listener.heard)))
    for database, found in times.items():
        first, again = (median(each) for each in zip(*found, strict=True))
        print(f"the first look, {cases[database]}: {first:.2f} in a new server process, {again:.2f} once more")


def _own_statements(server: Server) -> None:
    file = MigrationFile(APPLIED + 1, "101_b.sql", "", "b" * 64, "")
    with server.connect("plain") as connection:
        connection.execute(setup(PLACE, None))
        for number in range(APPLIED):
            connection.execute(writing.insert(PLACE, file._replace(number=number + 1), None, status=COMPLETED))
        write = writing.insert(PLACE, file, None, status=COMPLETED)
        checked = writing.row(PLACE, file, None, status=COMPLETED)
        kept = writing.kept(PLACE, range(1, APPLIED + 1))
        read = writing.is_applied(PLACE, 1)
        pairs = {
            "our own session state, in each message": (f"{read};", f"{PINNED}; {read};"),
            "whether the row was written, for each file": (write, checked),
            f"whether {APPLIED} earlier rows are still there, for each file": (write, f"{write}\n{kept}"),
        }
        for what, (without, with_it) in pairs.items():
            differences = []
            for _ in range(RUNS):
                took = [_milliseconds(connection, f"BEGIN; {sql} ROLLBACK") for sql in (without, with_it)]
                differences.append(took[1] - took[0])
            print(f"{what}: {median(differences):.3f}")


def _milliseconds(connection: Connection[TupleRow], sql: str) -> float:
    before = _on_cpu(connection.info.backend_pid)
    connection.pgconn.exec_(sql.encode())
    return _on_cpu(connection.info.backend_pid) - before


def _on_cpu(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


if __name__ == "__main__":
    sys.exit(main())
