"""A database's contents, as pg_dump writes them, without what the two tools keep for themselves."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from kit.databases import Database

# pg_dump writes this above each object and each table's rows.
_HEAD = re.compile(
    r"^--\n-- (?:Data for )?Name: (?P<name>.*); Type: (?P<type>[A-Z ]+); Schema: (?P<schema>[^;]+);.*\n--\n",
    re.MULTILINE,
)

# It writes these before the first object that needs them.
_SETTING = re.compile(r"^SET default_\w+ = .*\n", re.MULTILINE)

OURS = frozenset(
    {
        "schema_migrations",
        "migration_lock",
        "migration_status",
        "release_stale_migration_locks",
        "is_migration_locked",
        "acquire_migration_lock",
        "release_migration_lock",
        "entrypoint",
    }
)
"""What this program creates in a database for itself; `entrypoint` is the schema that some tests use for it."""


def contents(database: Database, without: Collection[str]) -> str:
    """Return definitions and rows, object by object, except tables, schemas and functions named in `without`."""
    text = database.contents()
    heads = list(_HEAD.finditer(text))
    ends = [*(head.start() for head in heads[1:]), text.rindex("\n--\n-- PostgreSQL database dump complete")]
    kept = []
    for head, end in zip(heads, ends, strict=True):
        # A table's name, then its constraint's; a function's with its arguments; a comment's: `TABLE account`.
        words = {re.sub(r"\(.*", "", word) for word in head["name"].split()} | {head["schema"]}
        of_theirs = words & set(without) or any(word.startswith(f"{name}_") for word in words for name in without)
        if not of_theirs:
            kept.append(_SETTING.sub("", text[head.start() : end]).strip())
    return "\n\n".join(kept) + "\n"


def table_dump(database: Database, table: str) -> str:
    """Return one table and its rows as SQL, without the session's settings at the top of a dump."""
    schema, _, name = table.rpartition(".")
    command = [
        str(database.server.bin / "pg_dump"),
        "--inserts",
        "--no-owner",
        f"--table={schema or 'public'}.{name}",
        f"--dbname={database.conninfo}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={})
    assert done.returncode == 0, done.stderr
    lines = [
        line
        for line in done.stdout.splitlines()
        if not re.match(r"\\(?:un)?restrict |SET |SELECT pg_catalog\.set_config|--", line)
    ]
    made = f"CREATE SCHEMA {schema};\n\n" if schema else ""
    return made + re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip() + "\n"
