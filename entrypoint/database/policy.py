"""How patiently to connect."""

from __future__ import annotations

from typing import NamedTuple


class ConnectPolicy(NamedTuple):
    """How often, how soon again, and how long to try; times in seconds."""

    attempts: int
    backoff: float
    """The pause after the first failed attempt; it doubles from one to the next."""
    timeout: float
    """For one attempt, name resolution and login included."""
