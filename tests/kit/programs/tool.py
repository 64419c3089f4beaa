"""A small migration tool like many others: it has no lock, and a table of applied files.

    tool.py DIRECTORY [TABLE]

It applies each *.sql in DIRECTORY that is not in the table (`knex_migrations`), each in one transaction with its row.
It appends a line to `ran.log` in the working directory, so that a test can see how often it ran.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psycopg


def main(directory: str, table: str = "knex_migrations") -> None:
    with Path("ran.log").open("a") as log:
        log.write(f"{os.getpid()}\n")
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (name text, batch int, at timestamptz DEFAULT now())")
        connection.commit()
        done = {name for (name,) in connection.execute(f"SELECT name FROM {table}").fetchall()}
        files = sorted(Path(directory).glob("*.sql"))
        if unknown := done - {file.name for file in files}:
            # Like alembic's "Can't locate revision".
            sys.exit(f"the migration directory is corrupt, these are missing: {', '.join(sorted(unknown))}")
        for file in files:
            if file.name not in done:
                try:
                    connection.execute(file.read_bytes())
                except psycopg.Error as error:
                    sys.exit(f"{file.name}: {error}")
                connection.execute(f"INSERT INTO {table} (name, batch) VALUES (%s, 1)", (file.name,))
                connection.commit()
                print(f"applied {file.name}")


main(*sys.argv[1:])
