"""The text of a migration: a string, or a large text of which one part is in memory. These functions take both.

This module is small because every start with something pending imports it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.migration.script.parts import LargeText
    from entrypoint.migration.script.scanner import Statement

    Text = str | LargeText

OF_THE_LEDGER = (
    "schema_migrations",
    "migration_commands",
    "migration_lock",  # ... and is_migration_locked, acquire_migration_lock, release_migration_lock
    "migration_status",
    "release_stale_migration_locks",
)
"""The names by which a migration can refer to this program's own tables and functions.

`schema_migrations` is among them because a script of the earlier system may create or alter that table.
"""
TIMEOUTS = ("lock_timeout", "statement_timeout")
"""PostgreSQL's settings that limit how long a migration may wait or run."""


class NotUtf8Error(ValueError):
    """A file contains a byte that is not valid UTF-8."""

    def __init__(self, byte: int, offset: int, line: int) -> None:
        """Take the byte, its offset (not counting a byte-order mark, and CR LF as one), and its line."""
        super().__init__(byte)
        self.byte = byte
        self.offset = offset
        self.line = line


def statements_near(statements: Sequence[Statement], place: int) -> Sequence[Statement]:
    """Return some statements, including the one at `place`: for a large text, those of the same part."""
    return statements if isinstance(statements, tuple) else getattr(statements, "near", lambda _: statements)(place)


def names(text: Text, *words: str) -> bool:
    """Tell whether a text contains one of these words, which must be from the constants above, in lower case.

    A regular expression would take four seconds for 200 MB of SQL, so there is none.
    """
    if not isinstance(text, str):
        return not text.named.isdisjoint(words)
    text = text.lower()
    return any(word in text for word in words)
