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


def at_least_one(text: str) -> int:
    """Return how many there are to be, of what there is always one."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) > 0):
        msg = f"{text!r} is not a whole number of at least 1"
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

    names = {name.lower(): name for name in known}
    near = get_close_matches(word.strip().lower(), list(names), n=1)
    return f". Did you mean {names[near[0]]}?" if near else ""


def which_choice(word: str, choices: Iterable[str]) -> str:
    """Return `did_you_mean` of the few values that an option has; of these, a short form is known as well: db."""
    told = did_you_mean(word, choices)
    if told:
        return told
    short = [choice for choice in choices if word[:1] == choice[:1] and _is_within(word, choice)]
    return f". Did you mean {short[0]}?" if len(short) == 1 else ""


def _is_within(word: str, whole: str) -> bool:
    """Tell whether a word's letters are in another one, in their order."""
    letters = iter(whole)
    return bool(word) and all(letter in letters for letter in word)
