"""Choose numbers and names for imported migrations. Pure functions."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from entrypoint.migration.script.directives import NO_TRANSACTION, Origin, spell_origin
from entrypoint.migration.script.files import FEWEST_DIGITS, MOST_DIGITS, REPEATABLES, ROLLBACKS, slug
from entrypoint.operations.new import without_accents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.operations.importing.values import Contents, Direction, Migration

# A file name may have 255 bytes; this leaves room for the number and `.sql`.
_LONGEST_WORDS = 200


class Numbering(NamedTuple):
    """The number of each migration, as written in the file name, and why they are not the tool's own."""

    numbers: tuple[str, ...]
    anew: str
    """Empty if they are the tool's own."""


class TargetFile(NamedTuple):
    """A file to write."""

    path: str
    """Relative to the migrations directory."""
    part: Direction
    header: tuple[str, ...]
    """The lines above the imported text."""


class Unwritten(NamedTuple):
    """A migration to write by hand, and where it belongs."""

    migration: Migration
    path: str
    header: tuple[str, ...]


class ImportPlan(NamedTuple):
    """What to make of a directory."""

    files: tuple[TargetFile, ...]
    """The migrations and the repeatable files."""
    backs: tuple[TargetFile, ...]
    unwritten: tuple[Unwritten, ...]
    anew: str


def plan(reading: Contents, tool: str) -> ImportPlan:
    """Give each migration a number and a name."""
    numbering = number(reading.migrations)
    files, backs, unwritten = [], [], []
    for one, digits in zip(reading.migrations, numbering.numbers, strict=True):
        name = f"{digits}_{_words(one.words)}.sql"
        origin = spell_origin(Origin(tool, one.version))
        if one.forward is None:
            unwritten.append(Unwritten(one, name, (origin,)))
            continue
        files.append(TargetFile(name, one.forward, (origin, *_no_transaction(one.forward))))
        if one.back is not None:
            # A down migration is always one transaction here, so what the tool says about that is ignored.
            backs.append(TargetFile(f"{ROLLBACKS}/{name}", one.back, (origin,)))
    names: set[str] = set()
    for repeatable in reading.repeatables:
        stem = name = _words(repeatable.words)
        count = 1
        while name in names:
            count += 1
            name = f"{stem}_{count}"
        names.add(name)
        header = (spell_origin(Origin(tool, repeatable.version)), *_no_transaction(repeatable.forward))
        files.append(TargetFile(f"{REPEATABLES}/{name}.sql", repeatable.forward, header))
    return ImportPlan(tuple(files), tuple(backs), tuple(unwritten), numbering.anew)


def number(migrations: Sequence[Migration]) -> Numbering:
    """Return the tool's own numbers if they are valid here, in the same order; else 001, 002 and so on."""
    anew = _why_anew(migrations)
    if not anew:
        return Numbering(tuple(one.digits.zfill(FEWEST_DIGITS) for one in migrations), "")
    width = max(FEWEST_DIGITS, len(str(len(migrations))))
    return Numbering(tuple(f"{position:0{width}d}" for position in range(1, len(migrations) + 1)), anew)


def _why_anew(migrations: Sequence[Migration]) -> str:
    for one in migrations:
        if not one.digits:
            return f"{one.source} has no whole number"
        if len(one.digits) > MOST_DIGITS:
            return f"{one.source} has a number of more than {MOST_DIGITS} digits"
    for before, after in pairwise(migrations):
        if int(before.digits) == int(after.digits):
            return f"{before.source} and {after.source} have the same number"
        if int(before.digits) > int(after.digits):
            return f"{before.source} runs before {after.source}, whose number is lower"
    return ""


def _words(words: str) -> str:
    return slug(without_accents(words))[:_LONGEST_WORDS].strip("_") or "migration"


def _no_transaction(part: Direction) -> tuple[str, ...]:
    return (f"-- entrypoint: {NO_TRANSACTION}",) if part.no_transaction else ()
