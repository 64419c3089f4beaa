"""golang-migrate and sqlx: a file for each direction, `N_name.up.sql` and `N_name.down.sql`; sqlx also `N_name.sql`.

golang-migrate: the expression in `source/parse.go`, `ErrDuplicateMigration` in `source/iofs/iofs.go`, and its
MIGRATIONS.md. It sends a whole file at once, so several statements are one transaction, unless the file has its own.

sqlx: `sqlx-core/src/migrate/source.rs` and `migration_type.rs`, and the chapter "Create and run migrations" of
sqlx-cli's README. A file that begins, in its first byte, with `-- no-transaction` runs outside of one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from entrypoint.operations.importing import texts
from entrypoint.operations.importing.values import Contents, Direction, Fault, Left, Migration, Section, Why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.operations.importing.values import Source


_GOLANG = re.compile(r"([0-9]+)_(.*)\.(down|up)\.(.*)", re.DOTALL)
_SQLX = re.compile(r"([^_]*)_(.*?)(\.up|\.down)?\.sql", re.DOTALL)
_NO_TRANSACTION = b"-- no-transaction"


class _Half(NamedTuple):
    path: str
    digits: str
    words: str


def read_golang_migrate(source: Source) -> Contents:
    """Return golang-migrate's migrations in the order of their versions."""
    halves: dict[str, list[_Half]] = {"up": [], "down": []}
    left: list[Left] = []
    others: list[str] = []
    for path in texts.in_the_directory(source.paths):
        name = _GOLANG.fullmatch(path)
        if name is None or int(name[1][-21:]) >= 2**64:
            others += [path] if texts.looks_like_sql(path) else []
        elif name[4] != "sql":
            left.append(Left(path, Why("its suffix is not .sql", "If it is SQL, rename it and import again.")))
        else:
            halves[name[3]].append(_Half(path, name[1], name[2]))
    left += texts.not_looked_at(others, "golang-migrate", "NUMBER_description.up.sql or NUMBER_description.down.sql")
    return _join(source, halves, left, [], "golang-migrate")


def read_sqlx(source: Source) -> Contents:
    """Return sqlx's migrations in the order of their versions."""
    halves: dict[str, list[_Half]] = {"up": [], "down": []}
    faults: list[Fault] = []
    others: list[str] = []
    for path in texts.in_the_directory(source.paths):
        name = _SQLX.fullmatch(path)
        if name is None:
            others += [path] if texts.looks_like_sql(path) else []
        elif not re.fullmatch(r"\+?[0-9]+", name[1], re.ASCII) or int(name[1][-21:]) > texts.HIGHEST_64:
            faults.append(Fault((path,), f"sqlx rejects it too: {name[1]!r} before the first _ is not a number"))
        else:
            halves["down" if name[3] == ".down" else "up"].append(_Half(path, name[1].lstrip("+"), name[2]))
    left = texts.not_looked_at(others, "sqlx", "NUMBER_description.sql")
    return _join(source, halves, left, faults, "sqlx")


def _join(source: Source, halves: dict[str, list[_Half]], left: list[Left], faults: list[Fault], tool: str) -> Contents:
    """Return the migrations that have an up migration, each with its down migration."""
    for way in halves.values():
        counted: dict[int, list[str]] = {}
        for half in way:
            counted.setdefault(int(half.digits), []).append(half.path)
        faults += [
            Fault(tuple(paths), f"{len(paths)} files have the version {version}, which {tool} rejects too")
            for version, paths in counted.items()
            if len(paths) > 1
        ]
    if faults:
        return Contents(left=tuple(left), faults=tuple(faults))
    backs = {int(half.digits): half for half in halves["down"]}
    found = []
    for half in sorted(halves["up"], key=lambda one: int(one.digits)):
        forward = _part(half.path, source.content(half.path), tool)
        back = None
        if other := backs.pop(int(half.digits), None):
            content = source.content(other.path)
            back = _part(other.path, content, tool) if texts.way_back(other.path, content) else None
            left += [] if back else [texts.no_way_back(other.path)]
        version = half.digits.lstrip("0") or "0"
        found.append(Migration(half.path, version, half.digits, half.words, forward, back))
    alone = Why("it is a down migration without an up migration", "Nothing to do: there is nothing to roll back.")
    left += [Left(half.path, alone) for half in backs.values()]
    return Contents(tuple(found), left=tuple(left))


def _part(path: str, content: bytes, tool: str) -> Direction:
    """Return a file without sqlx's mark, which counts only at the very beginning."""
    if tool != "sqlx" or not content.startswith(_NO_TRANSACTION):
        return texts.whole(path, content)
    end = content.find(b"\n") + 1 or len(content)
    begin = end if content[:end].strip() == _NO_TRANSACTION else 0
    return Direction(path, (Section(begin, len(content)),), no_transaction=True)
