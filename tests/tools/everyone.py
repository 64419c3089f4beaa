"""All tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.marked import Dbmate, Goose, SqlMigrate
from tools.named import Diesel, Flyway, GolangMigrate, Sqlx
from tools.node import Drizzle, Drizzle1, Prisma, Supabase

if TYPE_CHECKING:
    from tools.kit import Tool

TOOLS: tuple[type[Tool], ...] = (
    Goose,
    Dbmate,
    SqlMigrate,
    GolangMigrate,
    Flyway,
    Sqlx,
    Diesel,
    Prisma,
    Drizzle,
    Drizzle1,
    Supabase,
)
