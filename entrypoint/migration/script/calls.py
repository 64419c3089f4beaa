"""The names in a statement's text, and which of them stand before an opening parenthesis. Pure functions."""

from __future__ import annotations

import re

NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'

_NO_NAMES = re.compile(r"'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/", re.DOTALL)
_NAME_AND_CALL = re.compile(rf"({NAME})(\s*\()?")
_INTO = re.compile(rf"\binto\s+(?:{NAME}\s*\.\s*)?{NAME}", re.IGNORECASE)


def named(sql: str) -> frozenset[str]:
    """Return all names in a statement, as the catalogue has them, without schemas; words of the language are among."""
    return frozenset(plain(found[1]) for found in _NAME_AND_CALL.finditer(_NO_NAMES.sub(" ", sql)))


def called(sql: str) -> frozenset[str]:
    """Return the names that stand before an opening parenthesis: functions, and other things."""
    sql = _INTO.sub(";", _NO_NAMES.sub(" ", sql))
    return frozenset(plain(found[1]) for found in _NAME_AND_CALL.finditer(sql) if found[2])


def plain(name: str) -> str:
    """Return an identifier as the catalogue has it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
