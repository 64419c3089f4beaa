"""Make texts and times fit to be shown, whatever their source. Pure functions."""

from __future__ import annotations

import unicodedata

# Control characters, and those that are invisible or change the direction of text.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def clean(text: str) -> str:
    """Return `text` on one line, without anything that a terminal would interpret."""
    spaced = " ".join(text.split())
    return "".join(character for character in spaced if unicodedata.category(character) not in _UNSEEN)


def duration(milliseconds: float) -> str:
    """Return a duration as one word, in at most two units: 7ms, 1.4s, 2m05s, 3h12m, 2d04h."""
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
    """Return `text` without lone surrogates, which a file name may contain and no output accepts."""
    return text.encode("utf-8", "backslashreplace").decode()
