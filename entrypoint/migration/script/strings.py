r"""How the server reads a file's strings: by the SQL standard, or with backslash escapes as in `'it\'s'`.

It reads escapes if `standard_conforming_strings` is off: for a database or a role, as was the default before version
9.1, or because the file sets it, as converted dumps of other systems do. Version 19 only has the standard. The scanner
and the parser only know the standard, too. So they get a text of the same length, whose strings end by the standard
where the server ends those of the file.
"""

from __future__ import annotations

import re

from entrypoint.migration.script.scanner import scan, skip, strings_with_escapes
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.migration.script.scanner import Statement

SETTING = "standard_conforming_strings"

_AS_USUAL = re.compile(rf"\b{SETTING}\s*(?:=|\bto\b)\s*'?on\b", re.IGNORECASE)
_MENTIONED = re.compile(SETTING, re.IGNORECASE)
# A SELECT that does the same as a SET.
_BY_FUNCTION = re.compile(
    rf"select\s+(?:pg_catalog\s*\.\s*)?set_config\s*\(\s*'{SETTING}'\s*,\s*('[^'\\]*')\s*,\s*(true|false)\s*\)",
    re.IGNORECASE,
)
# Each value as the scanner shows it, and whether strings then have escapes. PostgreSQL also accepts abbreviations.
_VALUES = {
    **dict.fromkeys(("ON", "1", *("TRUE"[:length] for length in range(1, 5)), "Y", "YE", "YES"), False),
    **dict.fromkeys(("OF", "OFF", "0", *("FALSE"[:length] for length in range(1, 6)), "N", "NO"), True),
}


class StringReading(NamedTuple):
    """How strings are read from a place in the file onwards."""

    start: int
    escapes: bool
    """Whether a backslash in an ordinary string begins an escape."""


STANDARD = (StringReading(0, escapes=False),)


def escapes_at(readings: Sequence[StringReading], place: int) -> bool:
    """Tell whether a string at this place is read with escapes."""
    return next(reading.escapes for reading in reversed(readings) if reading.start <= place)


def setting(readings: Sequence[StringReading], place: int) -> str:
    """Return the value that `SETTING` must have while the server reads the statement at this place."""
    return "off" if escapes_at(readings, place) else "on"


def by_the_standard(text: str, *, escapes: bool, alone: bool = False) -> tuple[str, tuple[StringReading, ...]]:
    """Return a text of the same length whose strings, read by the standard, end where those of `text` do; and how.

    The second value is how the strings of `text` are read, and from where on. `escapes`: how the session reads before
    the file changes it. `alone`: whether each statement runs in a separate transaction, so that SET LOCAL has no effect
    on the next. Returns `text` itself if there is no difference.
    """
    initial = StringReading(0, escapes)
    if not escapes and not is_set(text):
        return text, (initial,)
    parts: list[str] = []
    readings = [initial]
    while True:
        begin, now = readings[-1]
        rest = _without_escapes(text[begin:]) if now else text[begin:]
        end = _turn(rest, now=now, initial=escapes, alone=alone)
        parts.append(rest[:end])
        if end is None:
            break
        readings.append(StringReading(begin + end, not now))
    standard = "".join(parts)
    return (text if standard == text else standard), tuple(readings)


def may_be_set_unseen(text: str, statements: Sequence[Statement]) -> bool:
    """Tell whether some statement may change the setting in a way that is not followed here, such as inside a DO."""
    return _MENTIONED.search(text) is not None and any(
        _MENTIONED.search(text, statement.start, statement.end)
        and statement.words[:1] not in (("SET",), ("RESET",))
        and not _BY_FUNCTION.fullmatch(text, statement.start, statement.end)
        for statement in statements
    )


def is_set(text: str) -> bool:
    """Tell whether a text may change the setting to anything but `on`."""
    mentioned = len(_MENTIONED.findall(text))
    return mentioned > 0 and mentioned > len(_AS_USUAL.findall(text))


def _without_escapes(text: str) -> str:
    """Return a text whose strings, read by the standard, end where those of `text` end if read with escapes."""
    if r"\'" not in text:
        return text
    parts: list[str] = []
    done = 0
    for start, stop in strings_with_escapes(text):
        if text.find(r"\'", start, stop) < 0:
            continue
        parts.append(text[done:start])
        string = text[start:stop]
        closed = stop - start > 1 and re.fullmatch(r"'(?:[^'\\]|\\.|''|(?!))*+'", string, re.DOTALL)
        parts.append(re.sub(r"\\(.)", _harmless, string, flags=re.DOTALL) if closed else _unclosed(string))
        done = stop
    return "".join((*parts, text[done:]))


def _harmless(escape: re.Match[str]) -> str:
    return "x" + (escape[1] if escape[1] in "\r\n" else "x")


def _unclosed(string: str) -> str:
    return "'" + re.sub(r"[^\r\n]", "x", string[1:])


def _turn(text: str, *, now: bool, initial: bool, alone: bool) -> int | None:
    """Return the offset after the first statement that changes how the rest is read; None if there is none."""
    if not _MENTIONED.search(text) and now == initial:
        return None
    for statement in scan(text).statements:
        words = statement.words
        if by_function := _BY_FUNCTION.fullmatch(text, statement.start, statement.end):
            value, local = by_function.groups()
            words = ("SET", *(("LOCAL",) if local.lower() == "true" else ()), SETTING.upper(), "=", value.upper())
        if _after(words, now=now, initial=initial, alone=alone) != now:
            end = skip(text, statement.end)
            return end + 1 if text.startswith(";", end) else None
    return None


def _after(words: tuple[str, ...], *, now: bool, initial: bool, alone: bool) -> bool:
    """Return how strings are read after a statement that begins with these words."""
    match words:
        case ("RESET", "STANDARD_CONFORMING_STRINGS" | "ALL") | ("DISCARD", "ALL"):
            return initial
        case ("SET", "LOCAL", *_) if alone:
            return now
        case ("SET", "LOCAL" | "SESSION", *rest) | ("SET", *rest):
            match rest:
                case ["STANDARD_CONFORMING_STRINGS", "=" | "TO", "DEFAULT"]:
                    return initial
                case ["STANDARD_CONFORMING_STRINGS", "=" | "TO", value]:
                    return _VALUES.get(value.strip("'"), now)
    return now
