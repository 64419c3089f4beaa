"""Flyway: `V2_1__name.sql`, undo migrations `U2_1__name.sql`, repeatable ones `R__name.sql`, in all subdirectories.

Names: `ResourceNameParser` and `MigrationVersion` in Flyway's core, and "Migrations" in its documentation; where it
looks: `FileSystemScanner` (not in hidden directories, which is how Kubernetes mounts files twice);
`V2_1__name.sql.conf` next to a file: `SqlScriptMetadata`, and "Script configuration files". Versions have parts; 1 and
1.0 are the same. `${name}` is replaced anywhere in a file, even in strings and comments, unless
`placeholderReplacement=false`. Prefixes, separator and suffixes are the default ones.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from entrypoint.migration.adoption.flyway import parts_of
from entrypoint.operations.importing import texts
from entrypoint.operations.importing.values import Contents, Direction, Fault, ForeignRepeatable, Left, Migration, Why
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from entrypoint.operations.importing.values import Source


_NAME = re.compile(
    r"(?:([VUB])([0-9][0-9._]*?)(?:__(.*))?|R__(.*))\.(sql|java|kt|class|groovy|sh|bash|ps1|bat|cmd|py)", re.DOTALL
)
_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_CALLBACK = re.compile(r"(?:before|after|create)[A-Z]\w*?(?:__.*)?\.\w+", re.DOTALL)
_PLACEHOLDER = re.compile(rb"\$\{[^}]*\}")
_LANGUAGES = {"java": "Java", "kt": "Kotlin", "class": "Java", "groovy": "Groovy"}


class _File(NamedTuple):
    path: str
    kind: str
    """V, U, B or R."""
    version: str
    description: str
    suffix: str


class _Script(NamedTuple):
    """What a file's `.conf` says."""

    no_transaction: bool
    placeholders: bool
    conditional: bool


def read(source: Source) -> Contents:
    """Return Flyway's migrations in the order of their versions, and the repeatable ones by name."""
    files: list[_File] = []
    left: list[Left] = []
    others: list[str] = []
    for path in source.paths:
        base = path.rpartition("/")[2]
        if file := _named(path, base):
            files.append(file)
        elif _CALLBACK.fullmatch(base) and not base.endswith(".conf"):
            reason = "it is a callback, which Flyway runs with each migrate command"
            left.append(Left(path, Why(reason, "If it has to run once, put it into a migration.")))
        elif texts.looks_like_sql(base):
            others.append(path)
    forwards = [file for file in files if file.kind == "V"]
    forwards += _baselines(files, left)
    faults = _doubled(forwards) + _doubled([file for file in files if file.kind == "U"])
    backs = {parts_of(file.version): file for file in files if file.kind == "U"}
    found = []
    for file in sorted(forwards, key=lambda one: parts_of(one.version)):
        undo = backs.pop(parts_of(file.version), None)
        back = None if undo is None else _way_back(source, undo, left)
        forward, why = _part(source, file)
        digits = file.version if file.version.isdecimal() else ""
        found.append(Migration(file.path, file.version, digits, file.description, forward, back, why))
    alone = Why("it is a down migration without an up migration", "Nothing to do: there is nothing to roll back.")
    left += [Left(file.path, alone) for file in backs.values()]
    repeated = sorted((file for file in files if file.kind == "R"), key=lambda one: one.description)
    faults += _same_descriptions(repeated)
    repeatables = []
    for file in repeated:
        part, why = _part(source, file)
        if part is not None:
            repeatables.append(ForeignRepeatable(file.path, f"R__{file.description}", file.description, part))
        elif why is not None:
            left.append(Left(file.path, why._replace(remedy=f"{why.remedy}, as a file in repeatable/.")))
    left += texts.not_looked_at(others, "Flyway", "V1__description.sql or R__description.sql")
    return Contents(tuple(found), tuple(repeatables), tuple(left), tuple(faults))


def _named(path: str, base: str) -> _File | None:
    found = _NAME.fullmatch(base)
    if found is None:
        return None
    version = (found[2] or "").replace("_", ".")
    if found[1] and not _VERSION.fullmatch(version):
        return None
    # As Flyway writes it into its table.
    description = (found[3] if found[1] else found[4]) or ""
    return _File(path, found[1] or "R", version, description.replace("_", " "), found[5])


def _way_back(source: Source, file: _File, left: list[Left]) -> Direction | None:
    """Return the SQL of an undo migration, or leave it out with a reason."""
    back, why = _part(source, file)
    if why is not None:
        left.append(Left(file.path, why._replace(remedy=f"{why.remedy}, as a file in rollback/.")))
    elif back is not None and not texts.has_statements(source.content(file.path), back.pieces):
        left.append(texts.no_way_back(file.path))
        return None
    return back


def _baselines(files: list[_File], left: list[Left]) -> list[_File]:
    """Return the baseline migrations whose predecessors are gone, and leave out the rest."""
    versions = [parts_of(file.version) for file in files if file.kind == "V"]
    needed = []
    for file in files:
        if file.kind == "B" and any(version <= parts_of(file.version) for version in versions):
            why = f"it replaces the migrations up to {file.version} on a new database, and those are imported"
            left.append(Left(file.path, Why(why, "Nothing to do.")))
        elif file.kind == "B":
            needed.append(file)
    return needed


def _doubled(files: Iterable[_File]) -> list[Fault]:
    by_version: dict[tuple[int, ...], list[_File]] = {}
    for file in files:
        by_version.setdefault(parts_of(file.version), []).append(file)
    return [
        Fault(
            tuple(file.path for file in same),
            f"{len(same)} files have the version {' and '.join(sorted({file.version for file in same}))}, "
            "which Flyway rejects too; give each its own",
        )
        for same in by_version.values()
        if len(same) > 1
    ]


def _same_descriptions(files: Iterable[_File]) -> list[Fault]:
    """Return an error for each description of several repeatable migrations: Flyway identifies them by it."""
    by_description: dict[str, list[str]] = {}
    for file in files:
        by_description.setdefault(file.description, []).append(file.path)
    return [
        Fault(
            tuple(paths),
            f"{len(paths)} repeatable migrations have the description {foreign(description)!r}, which Flyway rejects "
            "too; give each its own",
        )
        for description, paths in by_description.items()
        if len(paths) > 1
    ]


def _part(source: Source, file: _File) -> tuple[Direction | None, Why | None]:
    """Return the SQL of a file, or why it cannot be imported."""
    if file.suffix != "sql":
        language = _LANGUAGES.get(file.suffix)
        what = f"it is written in {language}" if language else f"it is a script (.{file.suffix})"
        return None, Why(what, "Write what it does in SQL")
    script = _configuration(source, file.path)
    content = source.content(file.path)
    if script.conditional:
        return None, Why("its .conf has shouldExecute", "Decide whether it should run, and write it")
    if script.placeholders and (found := _PLACEHOLDER.search(content)):
        shown = foreign(found[0][:60].decode("utf-8", "replace"))
        line = texts.line_of(content, found.start())
        return None, Why(
            f"it has a placeholder, {shown} in line {line}",
            "If Flyway runs with placeholderReplacement=false, write that into "
            f"{file.path}.conf and import again; otherwise write it with the actual values",
        )
    return texts.whole(file.path, content, no_transaction=script.no_transaction), None


def _configuration(source: Source, path: str) -> _Script:
    """Return the contents of a script configuration file: Java properties, of which Flyway knows a few."""
    conf = f"{path}.conf"
    if conf not in source.paths:
        return _Script(no_transaction=False, placeholders=True, conditional=False)
    said = {}
    for line in source.content(conf).decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.lstrip().startswith("#"):
            said[name.strip()] = value.strip().lower()
    return _Script(
        said.get("executeInTransaction") == "false",
        said.get("placeholderReplacement", "true") == "true",
        "shouldExecute" in said,
    )
