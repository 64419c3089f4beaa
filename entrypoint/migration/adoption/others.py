"""Tools whose migrations are programs: they are known, so that a message can say what to do instead."""

from __future__ import annotations

from entrypoint.records import TOOLS

_NAMES = {
    "alembic": "alembic",
    "django": "Django",
    "rails": "Rails",
    "activerecord": "Rails",
    "knex": "knex",
    "liquibase": "Liquibase",
    "typeorm": "TypeORM",
    "sequelize": "Sequelize",
}


def what_instead(name: str) -> str:
    """Return, as a sentence, what to do about a tool whose history cannot be adopted."""
    shown = _NAMES.get(name.lower())
    if shown is None:
        from difflib import get_close_matches

        near = get_close_matches(name.lower(), TOOLS, n=1)
        return f"it must be one of: {', '.join(TOOLS)}" + (f". Did you mean {near[0]}?" if near else "")
    return (
        f"{shown}'s migrations are programs, so there are no SQL files to record. Start from the current schema "
        "instead: save the output of pg_dump --schema-only as 001_schema.sql, and run entrypoint baseline 1 on "
        "databases that already have it. docs/coming-from/programs.md has the steps"
    )
