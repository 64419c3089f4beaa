"""Table names as users type them."""

from __future__ import annotations

import re


def split_name(text: str) -> tuple[str, ...] | None:
    """Return the one or two names in a text, each plain or in double quotes; None if it is malformed."""
    quoted = r'"((?:[^"]|"")+)"|([^".]+)'
    found = re.fullmatch(rf"(?:(?:{quoted})\.)?(?:{quoted})", text)
    if found is None:
        return None
    groups = found.groups("")
    names = (inner.replace('""', '"') or plain for inner, plain in (groups[:2], groups[2:]))
    return tuple(name for name in names if name)
