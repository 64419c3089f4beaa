"""diesel and Prisma: a directory for each migration.

diesel: `diesel_migrations/migrations_internals/src/lib.rs` and `diesel_migrations/src/file_based_migrations.rs`:
`VERSION_name/up.sql`, `down.sql` and `metadata.toml`. The version is the name up to the first `_` without `-`, and
versions are compared as texts. A `metadata.toml` that does not say `run_in_transaction = true` means false.

Prisma: "Prisma Migrate", chapter "Migration histories", of its documentation: `TIMESTAMP_name/migration.sql` in
`prisma/migrations`, in the order of the names as texts, beside `migration_lock.toml`, which names the database. A
`down.sql` comes from its guide "Generating down migrations".
"""

from __future__ import annotations

import re
import tomllib

from entrypoint.operations.importing import texts
from entrypoint.operations.importing.values import Contents, Fault, Left, Migration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.operations.importing.values import Source


_LOCK = "migration_lock.toml"
_DIGITS = re.compile(r"[0-9]*")
_POSTGRESQL = ("postgresql", "postgres", "cockroachdb")


def folders_in(source: Source) -> dict[str, set[str]]:
    """Return the files of each directory, including empty ones."""
    folders: dict[str, set[str]] = {folder: set() for folder in source.folders if not folder.startswith(".")}
    for path in source.paths:
        folder, slash, name = path.partition("/")
        if slash and folder in folders:
            folders[folder].add(name)
    return folders


def read_diesel(source: Source) -> Contents:
    """Return diesel's migrations in the order of their versions as texts."""
    found: list[Migration] = []
    left: list[Left] = []
    faults: list[Fault] = []
    folders = folders_in(source)
    if not any("up.sql" in names for names in folders.values()):
        return Contents(left=tuple(_outside_of_folders(source, "diesel", "NUMBER_name/up.sql")))
    for folder, names in folders.items():
        if "up.sql" not in names:
            faults.append(Fault((folder,), "diesel rejects it too: there is no up.sql in it"))
            continue
        path = f"{folder}/up.sql"
        outside = "metadata.toml" in names and not _in_transaction(source.content(f"{folder}/metadata.toml"))
        back = None
        if "down.sql" in names:
            below = f"{folder}/down.sql"
            back = texts.way_back(below, source.content(below), no_transaction=outside)
            left += [] if back else [texts.no_way_back(below)]
        number, _, words = folder.partition("_")
        version = number.replace("-", "")
        digits = version if re.fullmatch("[0-9]+", version) else ""
        forward = texts.whole(path, source.content(path), no_transaction=outside)
        found.append(Migration(folder, version, digits, words, forward, back))
    found.sort(key=lambda one: one.version)
    faults += texts.doubled(found, "diesel")
    left += _outside_of_folders(source, "diesel", "NUMBER_name/up.sql")
    return Contents(tuple(found), left=tuple(left), faults=tuple(faults))


def _in_transaction(content: bytes) -> bool:
    """Return the contents of a metadata.toml as diesel reads it: a malformed one says nothing."""
    try:
        return bool(tomllib.loads(content.decode()).get("run_in_transaction", False))
    except (ValueError, RecursionError):
        return True


def read_prisma(source: Source) -> Contents:
    """Return Prisma's migrations in the order of their directories' names."""
    found: list[Migration] = []
    left: list[Left] = []
    faults: list[Fault] = []
    folders = folders_in(source)
    if not any("migration.sql" in names for names in folders.values()):
        return Contents(left=tuple(_outside_of_folders(source, "Prisma", "TIMESTAMP_name/migration.sql")))
    if _LOCK in source.paths and (provider := _provider(source.content(_LOCK))) not in _POSTGRESQL:
        return Contents(faults=(Fault((_LOCK,), f"these migrations are for {provider}, not PostgreSQL"),))
    for folder, names in folders.items():
        path, below = f"{folder}/migration.sql", f"{folder}/down.sql"
        if "migration.sql" not in names:
            faults.append(Fault((folder,), "Prisma rejects it too: there is no migration.sql in it"))
            continue
        back = None
        if "down.sql" in names:
            back = texts.way_back(below, source.content(below))
            left += [] if back else [texts.no_way_back(below)]
        digits = _DIGITS.match(folder)[0]  # type: ignore[index]  # it matches the empty string, too
        forward = texts.whole(path, source.content(path))
        found.append(Migration(folder, folder, digits, folder[len(digits) :], forward, back))
    left += _outside_of_folders(source, "Prisma", "TIMESTAMP_name/migration.sql")
    return Contents(tuple(found), left=tuple(left), faults=tuple(faults))


def _provider(content: bytes) -> str:
    try:
        return str(tomllib.loads(content.decode()).get("provider", "another database"))
    except (ValueError, RecursionError):
        return "another database"


def _outside_of_folders(source: Source, tool: str, form: str) -> list[Left]:
    others = [path for path in texts.in_the_directory(source.paths) if texts.looks_like_sql(path)]
    return texts.not_looked_at(others, tool, form)
