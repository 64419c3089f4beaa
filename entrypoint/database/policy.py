"""How patiently to connect."""

from __future__ import annotations

from entrypoint.records import NamedTuple

# The default; operators look for the sentence `Database connection failed after 5 retries`, which belongs to it.
ATTEMPTS = 5
# The doubling of pauses ends here: a server that comes up late is to be noticed within half a minute all the same.
LONGEST_PAUSE = 30.0
# After so many, even the shortest first pause (1 ms) has grown to the longest.
DOUBLINGS = 15


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
