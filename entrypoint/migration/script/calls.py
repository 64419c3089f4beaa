"""The names in a statement's text, and those that an opening parenthesis follows. Pure functions."""

from __future__ import annotations

import re

NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'

_NO_NAMES = re.compile(r"'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/", re.DOTALL)
_NAME_AND_CALL = re.compile(rf"({NAME})(\s*\()?")
_INTO = re.compile(rf"\binto\s+(?:{NAME}\s*\.\s*)?{NAME}", re.IGNORECASE)


def names_in(sql: str) -> frozenset[str]:
    """Return all names in a statement, as in the catalog and without schemas. They include SQL's own keywords."""
    return frozenset(as_in_catalog(found[1]) for found in _NAME_AND_CALL.finditer(_NO_NAMES.sub(" ", sql)))


def called(sql: str) -> frozenset[str]:
    """Return the names that an opening parenthesis follows: functions, among others."""
    sql = _INTO.sub(";", _NO_NAMES.sub(" ", sql))
    return frozenset(as_in_catalog(found[1]) for found in _NAME_AND_CALL.finditer(sql) if found[2])


def as_in_catalog(name: str) -> str:
    """Return an identifier as the catalog spells it: unquoted, or in lower case."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
