"""Shows an error in a migration as psql would: file and line, the line with a caret, SQLSTATE, detail, hint, context.

Pure functions from a text and an error to text.
"""

from __future__ import annotations

from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign, mask_quoted
from entrypoint.secret_patterns import may_hold_password

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.answers import StatementError
    from entrypoint.migration.script.parser import SyntaxComplaint
    from entrypoint.migration.script.text import Text

# psql cuts the line to about this width around the caret (fe-protocol3.c, reportErrorPosition).
_WIDTH = 110
_TAB = " "
_NOT_SHOWN = "not shown: the statement may contain a password"


class Position(NamedTuple):
    """A place in a file."""

    line: int
    """Counted from 1."""
    column: int
    """Counted from 0."""
    text: str
    """The whole line."""


def position_of(text: Text, offset: int) -> Position:
    """Return the place of a character `offset` in `text`."""
    offset = min(max(offset, 0), len(text))
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    return Position(text.count("\n", 0, offset) + 1, offset - start, text[start : len(text) if end < 0 else end])


def excerpt(place: Position, *, caret: bool) -> list[str]:
    """Return the line at `place`, cut to a readable width, and below it a caret under its column if wanted."""
    line = place.text.replace("\t", _TAB)
    # Mask before cutting: half a password can no longer be recognized as one.
    shown = foreign(line)
    column, caret = place.column, caret and shown == line
    column = min(column, len(shown))
    before, after = "", ""
    if len(shown) > _WIDTH:
        start = max(0, min(column - _WIDTH // 2, len(shown) - _WIDTH))
        before, after = "..." if start else "", "..." if start + _WIDTH < len(shown) else ""
        shown, column = shown[start : start + _WIDTH], column - start
    label = f"LINE {place.line}: {before}"
    lines = [f"{label}{shown}{after}".rstrip()]
    if caret:
        lines.append(" " * (len(label) + column) + "^")
    return lines


def render(
    filename: str,
    text: Text,
    error: StatementError,
    *,
    statement_start: int | None,
    offset: int | None,
    hidden: bool = False,
) -> str:
    """Return the whole report about an `error` in a file's `text`.

    `offset`: the character that the error points at. `statement_start`: where the failed statement begins, for errors
    without a position, such as those raised by a function. If both are None, the file is not the cause. `hidden`: do
    not show the line.
    """
    where = offset if offset is not None else statement_start
    if where is None:
        lines = [f"{filename}: {error.severity}:  {error.primary}"]
    else:
        place = position_of(text, where)
        lines = [f"{filename}:{place.line}: {error.severity}:  {error.primary}"]
        if hidden:
            lines.append(f"LINE {place.line}: ({_NOT_SHOWN})")
        else:
            lines += excerpt(place, caret=offset is not None)
    lines.append(f"SQLSTATE:  {error.sqlstate}")
    for label, value in (("DETAIL", error.detail), ("HINT", error.hint), ("CONTEXT", error.context)):
        if value:
            lines.append(f"{label}:  {value}")
    return "\n".join(lines)


def render_complaint(text: str, statement: str, complaint: SyntaxComplaint) -> tuple[str, list[str]]:
    """Return the parser's message about a `text`, and the line with a caret.

    `statement`: the statement that it is about. If that may contain a password, the line is not shown.
    """
    if may_hold_password(statement):
        return foreign(mask_quoted(complaint.message)), [f"LINE {complaint.line}: ({_NOT_SHOWN})"]
    return foreign(complaint.message), excerpt(position_of(text, complaint.offset), caret=True)


def outline(statement: str) -> str:
    """Return the first line of a statement, shortened; only its first word if it may contain a password."""
    first, _, rest = foreign(statement).partition("\n")
    words = " ".join(first.split())
    if may_hold_password(statement):
        verb = words.partition(" ")[0]
        return f"{verb if verb.isalpha() else ''} … ({_NOT_SHOWN})".lstrip()
    if len(words) > _WIDTH:
        return f"{words[: _WIDTH - 2].rstrip()} …"
    return f"{words} …" if rest else words
