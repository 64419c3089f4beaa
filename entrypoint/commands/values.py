"""Arguments of several commands, from text to value."""

from __future__ import annotations

import argparse


def migration_number(text: str) -> int:
    """Return the number of a migration, which may have leading zeros."""
    if not (text.isascii() and text.isdecimal()):
        msg = f"{text!r} is not the number of a migration"
        raise argparse.ArgumentTypeError(msg)
    return int(text)
