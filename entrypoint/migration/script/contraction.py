"""Finds statements that take away something the previous release still uses, and so must wait for the rollout's end.

During a rollout, both releases run. Adding to the schema disturbs neither; whatever drops, renames or narrows something
belongs in a file with `phase = after`. Pure functions over a file's text; DO blocks and function bodies are not
examined.
"""

from __future__ import annotations

from entrypoint.migration.script.ignoring import EVERY, statements_with_ignored
from entrypoint.migration.script.scanner import tokens
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from entrypoint.migration.script.scanner import Statement

RULE = "needs-phase-after"
_LATER = "`-- entrypoint: phase = after`"
# A renamed object of these kinds is no longer found. An application's statements name no index, constraint or trigger.
_RENAMED = (
    "TABLE",
    "VIEW",
    "TYPE",
    "SEQUENCE",
    "SCHEMA",
    "FUNCTION",
    "PROCEDURE",
    "MATERIALIZED VIEW",
    "FOREIGN TABLE",
)
# How PostgreSQL's default names end for the constraints that ON CONFLICT uses.
_KEYS = ("_pkey", "_key")
_MADE_AGAIN = ("VIEW", "FUNCTION", "PROCEDURE", "TRIGGER")


class ContractionKind(NamedTuple):
    """What such a statement does, the linter's rules that report it, and what to do instead."""

    what: str
    rules: tuple[str, ...]
    recipe: str


DROPS_TABLE = ContractionKind(
    "drops a table",
    ("ban-drop-table",),
    f"Stop using it in this release, and drop it in a file with {_LATER}.",
)
DROPS_COLUMN = ContractionKind(
    "drops a column",
    ("ban-drop-column",),
    f"Stop using it in this release, and drop it in a file with {_LATER}.",
)
CHANGES_TYPE = ContractionKind(
    "changes a column's type",
    ("changing-column-type",),
    f"Add a column of the new type, keep both in sync, and drop the old one in a file with {_LATER}.",
)
RENAMES = ContractionKind(
    "renames a table or a column",
    ("renaming-column", "renaming-table"),
    f"Add the new name alongside the old one (a column, a view), and drop the old one in a file with {_LATER}.",
)
MOVES = ContractionKind(
    "renames or moves an object",
    ("renaming-object", "ban-set-schema"),
    f"Create the object under the new name as well, and drop the old one in a file with {_LATER}.",
)
TRUNCATES = ContractionKind(
    "empties a table",
    (),
    f"Do it in a file with {_LATER}, once nothing writes to the table any more.",
)
FORBIDS_NULL = ContractionKind(
    "forbids NULL in a column",
    ("adding-not-nullable-field",),
    f"First make every release write it; then SET NOT NULL in a file with {_LATER}, after a validated CHECK.",
)
DROPS_KEY = ContractionKind(
    "drops a key",
    ("ban-drop-constraint",),
    f"ON CONFLICT and foreign keys rely on it: create the new one first, and drop the old one in a file with {_LATER}.",
)

KINDS = (DROPS_TABLE, DROPS_COLUMN, CHANGES_TYPE, RENAMES, MOVES, TRUNCATES, FORBIDS_NULL, DROPS_KEY)


class Contraction(NamedTuple):
    """A statement that belongs after the rollout."""

    statement: Statement
    kind: ContractionKind


def contractions(text: str, statements: Sequence[Statement]) -> tuple[Contraction, ...]:
    """Return the statements of a file that should run after the rollout, each once for each kind.

    Changes to a table that the file itself creates do not count, as no other release knows that table. Nor do
    statements below a comment `-- squawk-ignore RULE` that names our rule or the linter's equivalent.
    """
    found: list[Contraction] = []
    created: set[str] = set()
    for statement, ignored in statements_with_ignored(text, statements):
        words = spelled(text, statement)
        created |= _created(words)
        kinds = dict.fromkeys(kind for name, kind in _kinds(words) if name not in created)
        found += [Contraction(statement, kind) for kind in kinds if not ignored & {RULE, EVERY, *kind.rules}]
    return tuple(found)


def _created(words: tuple[str, ...]) -> set[str]:
    if words[:1] != ("CREATE",):
        return set()
    for place, word in enumerate(words[1:5], start=1):
        if word == "TABLE":
            return {name_at(words, behind(words, place + 1, "IF", "NOT", "EXISTS"))[0]}
    return set()


def _kinds(words: tuple[str, ...]) -> Iterator[tuple[str, ContractionKind]]:
    """Yield what a statement does, after the name of the table or other object that it changes."""
    if words[:2] == ("DROP", "TABLE"):
        place = behind(words, 2, "IF", "EXISTS")
        while place < len(words):
            name, place = name_at(words, place)
            yield name, DROPS_TABLE
            if words[place : place + 1] != (",",):
                break
            place += 1
    elif words[:1] == ("TRUNCATE",):
        place = behind(words, behind(words, 1, "TABLE"), "ONLY")
        yield name_at(words, place)[0], TRUNCATES
    elif words[:1] == ("ALTER",):
        yield from _altered(words)


def _altered(words: tuple[str, ...]) -> Iterator[tuple[str, ContractionKind]]:
    size = 2 if words[1:2] in (("MATERIALIZED",), ("FOREIGN",)) else 1
    what = " ".join(words[1 : 1 + size])
    if what not in _RENAMED:
        return
    place = behind(words, behind(words, 1 + size, "IF", "EXISTS"), "ONLY")
    name, place = name_at(words, place)
    for action in actions(words[place:]):
        kind = _kind(action)
        if kind is RENAMES and what != "TABLE":
            yield name, MOVES
        elif kind is MOVES or (kind is not None and what.endswith("TABLE")):
            yield name, kind


def _kind(action: tuple[str, ...]) -> ContractionKind | None:
    """Return what one action of an ALTER takes away; None if nothing."""
    if action[:1] == ("RENAME",):
        return None if action[1:2] == ("CONSTRAINT",) else RENAMES
    if action[:2] == ("SET", "SCHEMA"):
        return MOVES
    if action[:1] == ("ALTER",):
        return _of_column(action[name_at(action, behind(action, 1, "COLUMN"))[1] :])
    return _of_drop(action) if action[:1] == ("DROP",) else None


def _of_column(rest: tuple[str, ...]) -> ContractionKind | None:
    if rest[:1] == ("TYPE",) or rest[:3] == ("SET", "DATA", "TYPE"):
        return CHANGES_TYPE
    return FORBIDS_NULL if rest[:3] == ("SET", "NOT", "NULL") else None


def _of_drop(action: tuple[str, ...]) -> ContractionKind | None:
    if action[1:2] != ("CONSTRAINT",):
        return DROPS_COLUMN
    name, place = name_at(action, behind(action, 2, "IF", "EXISTS"))
    return DROPS_KEY if name.endswith(_KEYS) or action[place : place + 1] == ("CASCADE",) else None


def actions(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Split a list at its commas, except those in parentheses or brackets, and yield the parts."""
    depth = begin = 0
    for place, word in enumerate(words):
        depth += (word in ("(", "[")) - (word in (")", "]"))
        if word == "," and depth == 0:
            yield words[begin:place]
            begin = place + 1
    yield words[begin:]


def spelled(text: str, statement: Statement) -> tuple[str, ...]:
    """Return a statement's tokens: unquoted words in upper case, everything else as written."""
    parts = (text[start:stop] for start, stop in tokens(text, statement.start, statement.end))
    return tuple(part.upper() if part.isascii() and part[0] not in "\"'$" else part for part in parts)


def behind(words: tuple[str, ...], place: int, *optional: str) -> int:
    """Return the place after the `optional` words if they are at `place`; otherwise `place`."""
    return place + len(optional) if words[place : place + len(optional)] == optional else place


def name_at(words: tuple[str, ...], place: int) -> tuple[str, int]:
    """Return the last part of the name at `place`, as the server stores it, and the place after the name."""
    while words[place + 1 : place + 2] == (".",):
        place += 2
    if place >= len(words):
        return "", place
    word = words[place]
    name = word[1:-1].replace('""', '"') if word.startswith('"') else word.lower()
    return name, behind(words, place + 1, "*")


def dropped(text: str, statements: Sequence[Statement]) -> Iterator[tuple[Statement, str, bool]]:
    """Yield what a file drops and does not create again: the statement, the name, and whether it says IF EXISTS."""
    found: dict[str, tuple[Statement, bool]] = {}
    for statement in statements:
        words = spelled(text, statement)
        if words[:1] == ("DROP",):
            kind = 3 if words[1:2] == ("MATERIALIZED",) else 2
            place = behind(words, kind, "IF", "EXISTS")
            for part in actions(words[place:]):
                found.setdefault(name_at(part, 0)[0], (statement, place > kind))
        elif words[:1] == ("CREATE",):
            place = next((place for place, word in enumerate(words[:8]) if word in _MADE_AGAIN), len(words))
            found.pop(name_at(words, place + 1)[0], None)
    yield from ((statement, name, if_there) for name, (statement, if_there) in found.items())
