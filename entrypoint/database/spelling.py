"""Names as SQL for people to type: quoted only where PostgreSQL requires it."""

from __future__ import annotations

from entrypoint.database.quoting import identifier

# All keywords that cannot be the name of a schema without quotes (PostgreSQL documentation, "SQL Key Words").
_RESERVED = """
all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both case cast
char character check coalesce collate collation column concurrently constraint create cross current_catalog
current_date current_role current_schema current_time current_timestamp current_user dec decimal default deferrable
desc distinct do else end except exists extract false fetch float for foreign freeze from full grant greatest group
grouping having ilike in initially inner inout int integer intersect interval into is isnull join lateral leading
least left like limit localtime localtimestamp national natural nchar none normalize not notnull null nullif numeric
offset on only or order out outer overlaps overlay placing position precision primary real references returning
right row select session_user setof similar smallint some substring symmetric system_user table tablesample then
time timestamp to trailing treat trim true union unique user using values varchar variadic verbose when where window
with
"""


def spelt(name: str) -> str:
    """Return a name as it is written in SQL."""
    plain = name.isascii() and name.replace("_", "a").isalnum() and name == name.lower() and not name[0].isdigit()
    return name if plain and name not in _RESERVED.split() else identifier(name)


def history(schema: str) -> str:
    """Return the migration history's table with its schema, for statements that people copy from a message.

    Without the schema, such a statement could change the history of another one in the same database.
    """
    return f"{spelt(schema)}.schema_migrations"
