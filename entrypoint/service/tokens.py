"""The tokens of the service."""

from __future__ import annotations

import hmac
from typing import NamedTuple

# A shorter token can be guessed.
SHORTEST = 16


class Tokens(NamedTuple):
    """All valid tokens. There can be several, so that one can be replaced without a gap."""

    valid: tuple[str, ...]

    @property
    def required(self) -> bool:
        """Whether a token is needed at all."""
        return bool(self.valid)

    def accept(self, offered: str) -> bool:
        """Return whether a token is valid, in a time that does not depend on how much of it is right.

        Compares all tokens, even after a match.
        """
        given = offered.encode(errors="surrogateescape")
        return sum([hmac.compare_digest(given, token.encode()) for token in self.valid]) > 0
