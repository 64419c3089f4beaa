"""Convert the arguments of several commands, and suggest what an unknown one may mean."""

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
    """Return a number that is at least 1."""
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
    """Return the end of a message about a `word` that is not `known`: the closest known one, if any."""
    from difflib import get_close_matches

    # Hyphens that all options have in common would make any two of them alike.
    names = {name.lower().lstrip("-"): name for name in known}
    near = get_close_matches(word.strip().lower().lstrip("-"), list(names), n=1)
    return f". Did you mean {names[near[0]]}?" if near else ""


def which_choice(word: str, choices: Iterable[str]) -> str:
    """Return `did_you_mean` for the values of an option. Recognizes short forms, too, such as db."""
    told = did_you_mean(word, choices)
    if told:
        return told
    short = [choice for choice in choices if word[:1] == choice[:1] and _is_within(word, choice)]
    return f". Did you mean {short[0]}?" if len(short) == 1 else ""


def _is_within(word: str, whole: str) -> bool:
    """Return whether the letters of a word are in another one, in the same order."""
    letters = iter(whole)
    return bool(word) and all(letter in letters for letter in word)
