"""The tokens that open the door."""

from __future__ import annotations

import hmac
from typing import NamedTuple

# Of fewer characters, a token can be guessed.
SHORTEST = 16


class Tokens(NamedTuple):
    """All that are valid at present; several, so that one can be replaced by another without a gap."""

    valid: tuple[str, ...]

    @property
    def required(self) -> bool:
        """Whether there is a door at all."""
        return bool(self.valid)

    def accept(self, offered: str) -> bool:
        """Tell whether a token is one of them, in a time that does not depend on how much of it is right.

        All are compared, whichever fits.
        """
        given = offered.encode(errors="surrogateescape")
        return sum([hmac.compare_digest(given, token.encode()) for token in self.valid]) > 0
