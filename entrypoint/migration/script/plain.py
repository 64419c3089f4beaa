"""Recognizes texts so plain that the scanner and PostgreSQL's parser must agree, so that the parser is not needed.

Importing the parser takes a fifth of the time that applying one small file adds to a start (docs/startup-cost.md). All
other texts are parsed.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.migration.script.scanner import Statement

# A string or a quoted name on one line, with nothing in it that could be an escape or end a string or a statement.
_QUOTED = re.compile(r"""'[^'\\\n;]*+'|"[^"\\\n;]*+\"""")
# Must not remain once quoted text is removed: quotes and escapes; dollars; comments that may be nested; a letter before
# a string, which may change how it is read; white space that PostgreSQL does not know; characters that SQL never uses.
_ODD = re.compile(r"""['"\\$&]|/\*|\w\0|[^\S \n\t\r\f]|[\1-\10\13\16-\37]""")
_COMMENT = re.compile(r"--[^\n\r]*+")
# A statement with one of these words may contain other statements, or be refused in a transaction.
_DOUBTFUL = re.compile(r"\b(?:atomic|begin|concurrently)\b", re.IGNORECASE)
# The first words of ordinary statements, and second words that make one not ordinary.
_ORDINARY = frozenset(
    ("ALTER", "COMMENT", "CREATE", "DELETE", "DROP", "GRANT", "INSERT", "REVOKE", "SELECT", "TRUNCATE", "UPDATE")
)
_NOT_ORDINARY = frozenset(("DATABASE", "SUBSCRIPTION", "SYSTEM", "TABLESPACE"))


def is_plain(text: str, statements: Sequence[Statement]) -> bool:
    """Tell whether the parser would certainly find the same `statements` as the scanner, all of them ordinary."""
    if _DOUBTFUL.search(text) or not all(_is_ordinary(statement) for statement in statements):
        return False
    bare = _QUOTED.sub("\0", text)
    if "\0" in text or _ODD.search(bare):
        return False
    # Each semicolon must end a statement: none may be in a comment or in parentheses.
    pieces = _COMMENT.sub("", bare).split(";")
    return bare.count(";") == len(pieces) - 1 and sum(bool(piece.strip()) for piece in pieces) == len(statements)


def _is_ordinary(statement: Statement) -> bool:
    return statement.words[:1] != () and statement.words[0] in _ORDINARY and not _NOT_ORDINARY & {*statement.words[1:2]}
