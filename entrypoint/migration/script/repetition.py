"""Finds statements in a repeatable file that fail, or do nothing, the second time. Pure functions over its text.

A file in repeatable/ is applied again whenever it has changed, while the objects that it created before still exist.
"""

from __future__ import annotations

from entrypoint.migration.script.contraction import behind, name_at, spelled
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.migration.script.scanner import Statement

RULE = "not-repeatable"

# Kinds that have CREATE OR REPLACE.
_REPLACED = ("AGGREGATE", "FUNCTION", "LANGUAGE", "PROCEDURE", "RULE", "TRANSFORM", "TRIGGER", "VIEW")
# Kinds that are created once and do not change afterwards.
_MADE_ONCE = ("EXTENSION", "SCHEMA")
# Kinds that hold data or take long to create: changing one takes a migration.
_KEPT = ("INDEX", "MATERIALIZED VIEW", "SEQUENCE", "TABLE")
# Words that may come between CREATE and the kind of object.
_BETWEEN = ("TEMP", "TEMPORARY", "UNLOGGED", "UNIQUE", "FOREIGN", "RECURSIVE", "CONSTRAINT", "TRUSTED", "PROCEDURAL")
_INTO_A_MIGRATION = "Put it into a numbered migration."


class Unrepeatable(NamedTuple):
    """A statement that cannot be repeated, why, and what to do about it."""

    statement: Statement
    message: str
    remedy: str


def unrepeatable(text: str, statements: Sequence[Statement]) -> tuple[Unrepeatable, ...]:
    """Return the statements that do not belong in a repeatable file. It may create anything that it drops first."""
    found: list[Unrepeatable] = []
    dropped: set[str] = set()
    for statement in statements:
        words = spelled(text, statement)
        if words[:1] == ("DROP",):
            dropped.add(_kind_and_place(words)[0])
        why = _why(words, dropped)
        if why is not None:
            found.append(Unrepeatable(statement, *why))
    return tuple(found)


def _why(words: tuple[str, ...], dropped: set[str]) -> tuple[str, str] | None:
    """Return why a statement cannot be repeated, and what to do about it."""
    if words[:1] == ("CREATE",):
        return _why_not_created(words, dropped)
    if words[:1] == ("DROP",) and "EXISTS" not in words[:6]:
        return "DROP without IF EXISTS: it fails when there is nothing to drop", "Write DROP … IF EXISTS."
    if words[:1] == ("INSERT",) and not {"CONFLICT", "EXISTS", "EXCEPT"} & {*words}:
        return "INSERT without ON CONFLICT: it inserts its rows again each time", "Write ON CONFLICT … DO NOTHING."
    if words[:2] == ("ALTER", "TABLE"):
        place = name_at(words, behind(words, behind(words, 2, "IF", "EXISTS"), "ONLY"))[1]
        action = words[place : place + 4]
        if action[:1] in (("ADD",), ("RENAME",)) and "EXISTS" not in words[place : place + 6]:
            return f"ALTER TABLE … {action[0]}: it fails the second time", _INTO_A_MIGRATION
    return None


def _why_not_created(words: tuple[str, ...], dropped: set[str]) -> tuple[str, str] | None:
    kind, place = _kind_and_place(words)
    if kind in _KEPT:
        repeats = words[place : place + 3] == ("IF", "NOT", "EXISTS")
        what = "the second time it does nothing, even if it has changed" if repeats else "it fails the second time"
        return None if kind in dropped else (f"CREATE {kind}: {what}", _INTO_A_MIGRATION)
    if kind in dropped or words[1:3] == ("OR", "REPLACE") or words[place : place + 3] == ("IF", "NOT", "EXISTS"):
        return None
    if not kind:
        return None
    if kind in _MADE_ONCE:
        return f"CREATE {kind}: it fails the second time", f"Write CREATE {kind} IF NOT EXISTS."
    if kind in _REPLACED and "CONSTRAINT" not in words[1:3]:
        return f"CREATE {kind} without OR REPLACE: it fails the second time", f"Write CREATE OR REPLACE {kind}."
    return (
        f"CREATE {kind}: it fails the second time",
        f"Write DROP {kind} IF EXISTS before it, or create it in a migration.",
    )


def _kind_and_place(words: tuple[str, ...]) -> tuple[str, int]:
    """Return the kind of object that a CREATE or DROP is about, and the place after it."""
    place = behind(words, 1, "OR", "REPLACE")
    while words[place : place + 1] and words[place] in _BETWEEN:
        place += 1
    size = 2 if words[place : place + 1] in (("MATERIALIZED",), ("EVENT",), ("ACCESS",), ("OPERATOR",)) else 1
    if words[place + 1 : place + 2] not in (("VIEW",), ("TRIGGER",), ("METHOD",), ("CLASS",), ("FAMILY",)):
        size = 1
    return " ".join(words[place : place + size]), place + size
