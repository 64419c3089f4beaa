"""Arguments of several commands, from text to value, and what was meant by one that is unknown."""

from __future__ import annotations

import argparse
import re

from entrypoint.migration.script.files import MOST_DIGITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def migration_number(text: str) -> int:
    """Return the number of a migration, which may have leading zeros."""
    if not (text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS):
        msg = f"{text!r} is not the number of a migration, which has up to {MOST_DIGITS} digits"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def seconds(text: str) -> float:
    """Return a time in seconds, which may have decimals and may be 0."""
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,6})?", text):
        msg = f"{text!r} is not a time in seconds, like 90 or 2.5"
        raise argparse.ArgumentTypeError(msg)
    return float(text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about a `word` that is not `known`: what was probably meant, if anything is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1)
    return f". Did you mean {near[0]}?" if near else ""
