"""Texts and times for a person's eyes, wherever they came from. Pure functions."""

from __future__ import annotations

import unicodedata

# Control characters, and those that change the direction of what follows or are not to be seen at all.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def clean(text: str) -> str:
    """Return `text` on one line and without anything that a terminal would obey instead of showing it."""
    spaced = " ".join(text.split())
    return "".join(character for character in spaced if unicodedata.category(character) not in _UNSEEN)


def duration(milliseconds: float) -> str:
    """Return a time as one word, in the two units that matter: 7ms, 1.4s, 2m05s, 3h12m, 2d04h."""
    if milliseconds < 999.5:
        return f"{milliseconds:.0f}ms"
    if milliseconds < 59_950:
        return f"{milliseconds / 1000:.1f}s"
    seconds = round(milliseconds / 1000)
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    minutes = seconds // 60
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes // 1440}d{minutes // 60 % 24:02d}h"


def writable(text: str) -> str:
    """Return `text` without lone surrogates, which a file's name may bring and no output takes."""
    return text.encode("utf-8", "backslashreplace").decode()
