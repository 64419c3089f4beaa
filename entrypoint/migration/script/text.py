"""What a migration's text is: a string, or a large text of which a part is in memory; and what both can be asked.

Small enough for every start with something pending.
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
"""The names by which a migration can reach our objects.

`schema_migrations` counts too: a script of the earlier system may bring its own idea of the table's columns.
"""
TIMEOUTS = ("lock_timeout", "statement_timeout")
"""The settings of PostgreSQL's that bound what a migration does."""


class NotUtf8Error(ValueError):
    """A byte of a file is no UTF-8."""

    def __init__(self, byte: int, offset: int, line: int) -> None:
        """Take the byte, its place in the text without byte-order mark and CR, and its line."""
        super().__init__(byte)
        self.byte = byte
        self.offset = offset
        self.line = line


def near(statements: Sequence[Statement], place: int) -> Sequence[Statement]:
    """Return statements among which the one is that a character belongs to: of a large text, only some."""
    return statements if isinstance(statements, tuple) else getattr(statements, "near", lambda _: statements)(place)


def names(text: Text, *words: str) -> bool:
    """Tell whether a text has one of these words in it; each is one of the above, and they are in lower case.

    Without a regular expression: in 200 MB of SQL that would look for four seconds.
    """
    if not isinstance(text, str):
        return not text.named.isdisjoint(words)
    text = text.lower()
    return any(word in text for word in words)
