"""Tools whose migrations are programs: named, so that whoever asks for one learns what can be done today."""

from __future__ import annotations

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


def what_instead(name: str) -> str | None:
    """Return what to do about a tool that cannot be adopted from, as a sentence; None if it is not known at all."""
    shown = _NAMES.get(name.lower())
    if shown is None:
        return None
    return (
        f"{shown}'s migrations are programs, of which there are no SQL files to record. Take the schema as it is "
        "instead: pg_dump --schema-only, saved as 001_schema.sql, and entrypoint baseline 1 where it is in place "
        "already. docs/coming-from/programs.md has the steps"
    )
