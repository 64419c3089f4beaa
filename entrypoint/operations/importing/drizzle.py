"""Drizzle: `TAG.sql` for each entry of `meta/_journal.json`, with `--> statement-breakpoint` between statements.

`readMigrationFiles` in drizzle-orm's `src/migrator.ts`, and "Migrations" in Drizzle's documentation. They run in the
order of the journal. The migrator splits a file at the mark, wherever it is, and sends each part by itself, so a part
need not end with a semicolon. The history has the hash of a file, and the `when` of its entry.

Since drizzle-kit 1.0 there is no journal, but a directory for each migration, with `TIMESTAMP_name/migration.sql` and
`snapshot.json`, in the order of the names.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from entrypoint.operations.importing import texts
from entrypoint.operations.importing.folders import folders_in
from entrypoint.operations.importing.values import Contents, Direction, Fault, Migration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.operations.importing.values import Source


_JOURNAL = "meta/_journal.json"
_BREAK = re.compile(rb"--> statement-breakpoint")
_DIGITS = re.compile(r"[0-9]*")


def read(source: Source) -> Contents:
    """Return Drizzle's migrations in the order of the journal, or of their directories."""
    if _JOURNAL in source.paths:
        return _read_journal(source)
    found = [
        _migration(source, folder, f"{folder}/migration.sql", folder)
        for folder, names in folders_in(source).items()
        if "migration.sql" in names
    ]
    others = [path for path in texts.in_the_directory(source.paths) if texts.looks_like_sql(path)]
    left = texts.not_looked_at(others, "Drizzle", "TIMESTAMP_name/migration.sql, or is in meta/_journal.json")
    return Contents(tuple(found), left=tuple(left))


def _read_journal(source: Source) -> Contents:
    entries = _entries(source.content(_JOURNAL))
    if isinstance(entries, str):
        return Contents(faults=(Fault((_JOURNAL,), entries),))
    found: list[Migration] = []
    faults: list[Fault] = []
    for tag, when in entries:
        path = f"{tag}.sql"
        if path in source.paths:
            found.append(_migration(source, path, path, f"{tag} {when}"))
        else:
            faults.append(
                Fault((_JOURNAL,), f"it has an entry for {path}, which does not exist; Drizzle rejects that too")
            )
    tags = Counter(tag for tag, _ in entries)
    faults += [
        Fault((_JOURNAL,), f"it has {many} entries for {tag}.sql, so Drizzle would run it {many} times; keep one")
        for tag, many in tags.items()
        if many > 1
    ]
    others = [
        path
        for path in texts.in_the_directory(source.paths)
        if texts.looks_like_sql(path) and path.removesuffix(".sql") not in tags
    ]
    left = texts.not_looked_at(others, "Drizzle", "as an entry of meta/_journal.json says")
    return Contents(tuple(found), left=tuple(left), faults=tuple(faults))


def _entries(content: bytes) -> list[tuple[str, int]] | str:
    """Return tag and time of each entry of a journal, or what is wrong with it."""
    try:
        journal: Any = json.loads(content)
        entries = [(entry["tag"], entry["when"]) for entry in journal["entries"]]
        dialect = journal.get("dialect", "postgresql")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "it is not a Drizzle journal"
    if not all(isinstance(tag, str) and type(when) is int for tag, when in entries):
        return "it is not a Drizzle journal"
    if dialect not in ("postgresql", "pg"):
        return f"these migrations are for {dialect}, not PostgreSQL"
    return entries


def _migration(source: Source, name: str, path: str, version: str) -> Migration:
    content = source.content(path)
    begin, pieces = 0, []
    for mark in _BREAK.finditer(content):
        pieces.append(texts.closed(content, begin, mark.start()))
        begin = mark.end()
    pieces.append(texts.closed(content, begin, len(content))._replace(after=b""))
    stem = name.removesuffix(".sql")
    digits = _DIGITS.match(stem)[0]  # type: ignore[index]  # it matches the empty string, too
    return Migration(name, version, digits, stem[len(digits) :], Direction(path, tuple(pieces)))
