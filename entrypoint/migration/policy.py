"""How long to wait for the lock, and how long to work under it."""

from __future__ import annotations

from entrypoint.records import NamedTuple

DEFAULT_LIMIT_MB = 512
"""How large a migration file may be, if nothing else is set."""


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
