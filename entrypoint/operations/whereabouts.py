"""Which database a command is about, in one line: `shop on db:5432 as shop_owner, schema public`."""

from __future__ import annotations

from typing import NamedTuple

from entrypoint import logs
from entrypoint.redaction import named


class Whereabouts(NamedTuple):
    """What the log knows of it as well, and so without secrets. Empty texts are not known, or not yet."""

    server: str
    """Host and port as in `db:5432`, or the socket's directory: `/run/postgresql:5432`."""
    database: str
    user: str
    schema: str
    """Where the migration history is, or would be."""
    role: str = ""
    """MIGRATION_ROLE."""

    @property
    def short(self) -> str:
        """The database and the server alone, for a question."""
        return f"{self.database} on {self.server}"

    @property
    def line(self) -> str:
        """All of it as a line, with its end."""
        role = f" (role {self.role})" if self.role and self.role != self.user else ""
        schema = f", schema {self.schema}" if self.schema else ""
        return f"{self.short} as {self.user}{role}{schema}\n"


def whereabouts(role: str | None = None) -> Whereabouts:
    """Return what is known by now: all of it, once a session has looked for the migration history.

    `role`: MIGRATION_ROLE.
    """
    server, database, user, schema = map(logs.described, ("server", "database", "user", "schema"))
    return Whereabouts(server, database, user, schema, named(role) if role else "")
