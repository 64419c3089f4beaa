"""A database and how to reach it, in every tool's notation. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


@dataclass(frozen=True)
class Target:
    """Where a database is, and how to log in."""

    database: str
    port: int
    user: str = "postgres"
    password: str = ""
    host: str = "127.0.0.1"
    """A name, an address, or the directory of a Unix socket."""
    tls: bool = False

    @property
    def socket(self) -> bool:
        """Tell whether it is a Unix socket."""
        return self.host.startswith("/")

    @property
    def sslmode(self) -> str:
        """Return libpq's `sslmode`; `require` does not check who signed the certificate."""
        return "require" if self.tls else "disable"

    @property
    def url(self) -> str:
        """Return libpq's URL."""
        return self.url_as("postgresql")

    def url_as(self, scheme: str, **more: str) -> str:
        """Return a URL with this `scheme`, and with `more` parameters besides sslmode."""
        login = quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        if self.socket:
            query = {"host": self.host, "port": str(self.port), **more}
            return f"{scheme}://{login}@/{quote(self.database)}?{urlencode(query)}"
        query = {"sslmode": self.sslmode, **more}
        return f"{scheme}://{login}@{self.host}:{self.port}/{quote(self.database)}?{urlencode(query)}"

    @property
    def environment(self) -> dict[str, str]:
        """Return libpq's variables."""
        variables = {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGDATABASE": self.database,
            "PGSSLMODE": self.sslmode,
        }
        return variables | ({"PGPASSWORD": self.password} if self.password else {})

    def named(self, database: str) -> Self:
        """Return another database, reached in the same way."""
        return replace(self, database=database)

    def over_socket(self, directory: Path) -> Self:
        """Return the same database over the Unix socket in `directory`."""
        return replace(self, host=str(directory), tls=False)

    def over_tls(self, user: str, password: str) -> Self:
        """Return the same database over TLS, with a password."""
        return replace(self, user=user, password=password, tls=True)
