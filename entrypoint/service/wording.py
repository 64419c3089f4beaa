"""Texts, times and durations as the page shows them. Pure functions.

File names, versions, hosts and messages come from outside. The templates escape markup; this module makes characters
visible that would be invisible or change how the surrounding text is read.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import NamedTuple

# Control characters, invisible ones, those that change the direction of text, and lone surrogates.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
# Long enough for every meaningful name; a file system allows 255 bytes.
_NAME = 200
_REPORT = 4_000
_LINES = frozenset("\n\t")


def name(text: str) -> str:
    """Return a name from outside on one line, shortened, with invisible characters as `⟨U+202E⟩`."""
    return _cut(_visible(text, frozenset()), _NAME)


def report(text: str) -> str:
    """Return a message from outside, with its lines."""
    return _cut(_visible(text.replace("\r\n", "\n").strip("\n"), _LINES), _REPORT)


def _visible(text: str, kept: frozenset[str]) -> str:
    return "".join(
        character
        if character in kept or unicodedata.category(character) not in _UNSEEN
        else f"⟨U+{ord(character):04X}⟩"
        for character in text
    )


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text) - limit} more characters)"


def length(milliseconds: float) -> str:
    """Return how long something took, in one or two units: 7 ms, 1.4 s, 2 min 5 s, 3 h 12 min."""
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 59_950:
        return f"{milliseconds / 1000:.1f} s"
    return whole(milliseconds / 1000)


def whole(seconds: float) -> str:
    """Return a running time, without fractions: 0 s, 59 s, 2 min 5 s, 3 h 12 min, 2 d 4 h."""
    rest = max(0, round(seconds))
    for unit, size, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if rest >= size:
            count, fraction = rest // size, rest % size // part
            return f"{count} {unit} {fraction} {smaller}" if fraction else f"{count} {unit}"
    return f"{rest} s"


def moment(text: str | None) -> datetime | None:
    """Return the time in a text such as 2026-11-22T10:30:00Z; None if it is not in the calendar.

    PostgreSQL also knows `infinity` and years beyond 9999.
    """
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


class Time(NamedTuple):
    """A point in time, in UTC, for people and for programs."""

    machine: str
    day: str
    clock: str


def time(moment: datetime | None) -> Time | None:
    """Return a point in time as the page shows it; None if it is unknown."""
    return None if moment is None else Time(machine(moment), day(moment), f"{moment:%H:%M:%S}")


def machine(moment: datetime) -> str:
    """Return a time for a program: 2026-11-22T10:30:00Z."""
    return f"{moment.replace(microsecond=0, tzinfo=None).isoformat()}Z"


def day(moment: datetime) -> str:
    """Return a date for a person: Sunday, 22 November 2026."""
    return f"{moment:%A}, {moment.day} {moment:%B} {moment.year}"


def date(moment: datetime) -> str:
    """Return a date in short: 22 Nov 2026."""
    return f"{moment.day} {moment:%b} {moment.year}"
