"""The tools whose directories can be imported: how to read them, and how to recognize their files."""

from __future__ import annotations

import re
from typing import NamedTuple

from entrypoint.migration.script.foreign import find_mark
from entrypoint.migration.script.scanner import directives
from entrypoint.operations.importing import dbmate, drizzle, flyway, folders, goose, pairs, sql_migrate, supabase
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.operations.importing.values import Contents, Source


class ImportableTool(NamedTuple):
    """How to read a tool's directory."""

    read: Callable[[Source], Contents]
    depth: int | None
    """How many levels of directories to read; None: all."""
    usual: tuple[str, ...]
    """Where its projects keep their migrations, in case the user gave a parent directory."""


BY_NAME = {
    "goose": ImportableTool(goose.read, 1, ("migrations", "db/migrations", "sql/migrations")),
    "dbmate": ImportableTool(dbmate.read, 1, ("db/migrations", "migrations")),
    "sql-migrate": ImportableTool(sql_migrate.read, 1, ("migrations", "migrations/postgres")),
    "golang-migrate": ImportableTool(pairs.read_golang_migrate, 1, ("migrations", "db/migrations")),
    "flyway": ImportableTool(flyway.read, None, ()),
    "sqlx": ImportableTool(pairs.read_sqlx, 1, ("migrations",)),
    "diesel": ImportableTool(folders.read_diesel, 2, ("migrations",)),
    "prisma": ImportableTool(folders.read_prisma, 2, ("migrations", "prisma/migrations")),
    "drizzle": ImportableTool(drizzle.read, 2, ("drizzle", "migrations", "drizzle/migrations")),
    "supabase": ImportableTool(supabase.read, 1, ("migrations", "supabase/migrations")),
}

_PAIR = re.compile(r"[0-9]+_.*\.(?:up|down)\.sql", re.DOTALL)
_FLYWAY = re.compile(r"(?:[VUB][0-9][0-9._]*|R)__.*\.sql", re.DOTALL)
_IN_FOLDERS = (
    (re.compile(r"[^/.][^/]*/up\.sql"), frozenset({"diesel"})),
    (re.compile(r"[^/.][^/]*/migration\.sql"), frozenset({"prisma", "drizzle"})),
    (re.compile(r"[^/.][^/]*/snapshot\.json|meta/_journal\.json"), frozenset({"drizzle"})),
    (re.compile(r"migration_lock\.toml"), frozenset({"prisma"})),
)
_OURS = "entrypoint"
_SHOWN = {_OURS: "this program", "flyway": "Flyway", "prisma": "Prisma", "drizzle": "Drizzle", "supabase": "Supabase"}


class Sign(NamedTuple):
    """Which tools a file may belong to, and how that was recognized."""

    tools: frozenset[str]
    """Its tool is one of these; in lower case."""
    what: str
    line: int | None = None


def shown_tool(tool: str) -> str:
    """Return a tool's name as its users write it."""
    return _SHOWN.get(tool, tool)


def sign_in_name(path: str) -> Sign | None:
    """Return which tool a file belongs to, by its name or its directory."""
    by_name = "its name"
    if "/" not in path and _PAIR.fullmatch(path):
        return Sign(frozenset({"golang-migrate", "sqlx"}), by_name)
    if "/" not in path and _FLYWAY.fullmatch(path):
        return Sign(frozenset({"flyway"}), by_name)
    return next((Sign(tools, by_name) for form, tools in _IN_FOLDERS if form.fullmatch(path)), None)


def sign_in_text(text: str) -> Sign | None:
    """Return which tool a file belongs to, by its first mark.

    A directive of this program next to another tool's mark is imported with the rest, for use here: files of this
    program have no such marks.
    """
    if mark := find_mark(text):
        return Sign(frozenset({mark.tool.lower()}), foreign(mark.line), mark.number)
    ours = directives(text)
    return Sign(frozenset({_OURS}), f"-- entrypoint: {foreign(ours[0].text[:60])}", ours[0].line) if ours else None
