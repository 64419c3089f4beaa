"""A migration tool for MIGRATION_COMMAND with its own history: a migration and its record are one transaction.

As with alembic. The migration can run only once, and waits while a test holds the table `tool_step`.
"""

from __future__ import annotations

import os
import sys

import psycopg


def migrate() -> None:
    """Apply the only migration, unless it is applied."""
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS tool_history (version integer PRIMARY KEY)")
        connection.commit()
        if connection.execute("SELECT FROM tool_history WHERE version = 1").fetchone() is None:
            connection.execute("CREATE TABLE tool_thing (id integer)")
            connection.execute("INSERT INTO tool_step VALUES (1)")
            connection.execute("INSERT INTO tool_history VALUES (1)")


if __name__ == "__main__":
    try:
        migrate()
    except psycopg.Error as error:
        # No traceback: any in the log must be the program's own.
        sys.exit(f"the tool failed: {error}")
