"""The database that a command is about, in one line: `shop on db:5432 as shop_owner, schema public`."""

from __future__ import annotations

from typing import NamedTuple

from entrypoint import logs
from entrypoint.redaction import named


class Whereabouts(NamedTuple):
    """The database as the log describes it, without secrets. Empty texts are not (yet) known."""

    server: str
    """Host and port, as in `db:5432`, or the directory of the socket: `/run/postgresql:5432`."""
    database: str
    user: str
    schema: str
    """The schema of the migration history, even if it does not exist yet."""
    role: str = ""
    """MIGRATION_ROLE."""

    @property
    def short(self) -> str:
        """Only the database and the server, for a question."""
        return f"{self.database} on {self.server}"

    @property
    def line(self) -> str:
        """All of it as a line, with a newline."""
        role = f" (role {self.role})" if self.role and self.role != self.user else ""
        schema = f", schema {self.schema}" if self.schema else ""
        return f"{self.short} as {self.user}{role}{schema}\n"


def whereabouts(role: str | None = None) -> Whereabouts:
    """Return what is known so far: everything, once a session has searched for the migration history.

    `role`: MIGRATION_ROLE.
    """
    server, database, user, schema = map(logs.described, ("server", "database", "user", "schema"))
    return Whereabouts(server, database, user, schema, named(role) if role else "")
