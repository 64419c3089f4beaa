"""`import`: another tool's directory becomes files of ours. A pure module for each tool, or for two that are alike."""

from __future__ import annotations

# Those of `directives.TOOLS`, which the command line is not to load.
TOOLS = (
    "goose",
    "dbmate",
    "sql-migrate",
    "golang-migrate",
    "flyway",
    "sqlx",
    "diesel",
    "prisma",
    "drizzle",
    "supabase",
)
