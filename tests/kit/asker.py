"""A psycopg connection with the interface of the connection that the first look uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline


class Asker:
    """Queries a server, as the first look does."""

    def __init__(self, connection: Connection[TupleRow]) -> None:
        self._connection = connection

    def query(self, sql: str, _deadline: Deadline, /) -> list[list[Row]]:
        cursor = self._connection.execute(sql.encode())
        results = []
        while True:
            rows = cursor.fetchall() if cursor.description else []
            results.append([tuple(None if value is None else _as_text(value) for value in row) for row in rows])
            if not cursor.nextset():
                return results

    def rollback(self, _deadline: Deadline, /) -> None:
        self._connection.rollback()


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, list):
        return "{" + ",".join(f'"{one}"' for one in value) + "}"
    return value.decode() if isinstance(value, bytes) else str(value)
