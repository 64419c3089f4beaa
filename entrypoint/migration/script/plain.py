"""Texts about which the scanner and PostgreSQL's parser cannot differ, so that the parser need not be asked.

To import the parser takes a fifth of what a start with one small file costs beyond an up-to-date one
(docs/startup-cost.md). Anything that is not as plain as this is shown to it, as before.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.migration.script.scanner import Statement

# A string or a quoted name of one line, without what an escape, another string's end or a statement's could be.
_QUOTED = re.compile(r"""'[^'\\\n;]*+'|"[^"\\\n;]*+\"""")
# Left over where what is quoted is taken away: more quotes, and escapes; dollars; comments that may be nested; a letter
# before a string, which may change how it is read; blanks that are none to PostgreSQL, and what is nowhere in SQL.
_ODD = re.compile(r"""['"\\$&]|/\*|\w\0|[^\S \n\t\r\f]|[\1-\10\13\16-\37]""")
_COMMENT = re.compile(r"--[^\n\r]*+")
# With these words a statement may contain others, or be refused in a transaction.
_DOUBTFUL = re.compile(r"\b(?:atomic|begin|concurrently)\b", re.IGNORECASE)
# What statements may begin with, and what may not come next.
_ORDINARY = frozenset(
    ("ALTER", "COMMENT", "CREATE", "DELETE", "DROP", "GRANT", "INSERT", "REVOKE", "SELECT", "TRUNCATE", "UPDATE")
)
_NOT_ORDINARY = frozenset(("DATABASE", "SUBSCRIPTION", "SYSTEM", "TABLESPACE"))


def is_plain(text: str, statements: Sequence[Statement]) -> bool:
    """Tell whether the scanner's `statements` of a text are those of the parser, and each is an ordinary one."""
    if _DOUBTFUL.search(text) or not all(_is_ordinary(statement) for statement in statements):
        return False
    bare = _QUOTED.sub("\0", text)
    if "\0" in text or _ODD.search(bare):
        return False
    # Each semicolon ends a statement: none is in a comment, or within parentheses.
    pieces = _COMMENT.sub("", bare).split(";")
    return bare.count(";") == len(pieces) - 1 and sum(bool(piece.strip()) for piece in pieces) == len(statements)


def _is_ordinary(statement: Statement) -> bool:
    return statement.words[:1] != () and statement.words[0] in _ORDINARY and not _NOT_ORDINARY & {*statement.words[1:2]}
