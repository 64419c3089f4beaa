"""How patiently to connect, to wait for the lock, and to work under it, and whose history to take over; where.

Plain values, which the settings fill.
"""

from __future__ import annotations

from entrypoint.records import NamedTuple

# The default; operators look for the sentence `Database connection failed after 5 retries`, which belongs to it.
ATTEMPTS = 5
# The doubling of pauses ends here: a server that comes up late is to be noticed within half a minute all the same.
LONGEST_PAUSE = 30.0
# After so many, even the shortest first pause (1 ms) has grown to the longest.
DOUBLINGS = 15

MOST_MILLISECONDS = 2**31 - 1
"""PostgreSQL's own limit for its time-outs, which are 32 bit integers."""

LONGEST_AFTER = 20 * 86_400.0
"""Seconds for all that runs after the rollout: as good as no limit, and one that every clock can count."""

DEFAULT_LIMIT_MB = 512
"""How large a migration file may be, if nothing else is set."""

TOOLS = (
    "goose",
    "dbmate",
    "sql-migrate",
    "golang-migrate",
    "flyway",
    "sqlx",
    "diesel",
    "prisma",
    "drizzle",
    "supabase",
)
"""The tools whose files and whose histories can be taken over, as they are written in an `origin`."""


class Address(NamedTuple):
    """Where the database is."""

    conninfo: str
    """A libpq URL or conninfo string; empty for libpq's own `PG*` variables."""
    variable: str
    """The variable that it came from, for messages; empty if none was set."""


class Adopt(NamedTuple):
    """Whose history is to be taken over."""

    tool: str
    """One of `TOOLS`."""
    schema: str | None = None
    table: str | None = None
    """Where it is, if not where the tool has it by default."""
    by_hand: bool = False
    """Whether the command `adopt` asks for it; else MIGRATION_ADOPT is set."""


class ConnectPolicy(NamedTuple):
    """How often, how soon again, and how long to try; times in seconds."""

    attempts: int
    backoff: float
    """The pause after the first failed attempt; it doubles from one to the next."""
    timeout: float
    """For one attempt, name resolution and login included."""

    @property
    def longest(self) -> float:
        """How long it may take at most until there is a connection: all attempts, and all pauses unshortened."""
        pauses = self.attempts - 1
        doubling = min(pauses, DOUBLINGS)
        growing = sum(min(self.backoff * 2.0**failures, LONGEST_PAUSE) for failures in range(doubling))
        return self.attempts * self.timeout + growing + (pauses - doubling) * LONGEST_PAUSE


class LockPolicy(NamedTuple):
    """Times in seconds."""

    timeout: float
    """How long to wait for the lock."""
    stale: float
    """After this, a lock row without a token (one of the earlier system's) belongs to nobody any more."""
    hard: bool = False
    """Whether `timeout` was set, and so holds beside a living holder, too."""


class ApplyPolicy(NamedTuple):
    """Times in seconds."""

    timeout: float
    """For all migrations together."""
    ddl_lock_timeout: float
    """PostgreSQL's `lock_timeout` for one attempt at a migration."""
