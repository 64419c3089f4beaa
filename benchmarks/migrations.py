"""Migrations for the benchmarks."""

from __future__ import annotations

import itertools

LINES = 100


def small(count: int) -> dict[str, str]:
    """Return `count` one-line migrations."""
    return {
        f"{number:03d}_table.sql": f"CREATE TABLE small_{number} (id integer PRIMARY KEY);\n"
        for number in range(1, count + 1)
    }


def ordinary(count: int) -> dict[str, str]:
    """Return `count` migrations of a hundred lines each, as people write them: 24 statements on a new table."""
    return {f"{number:03d}_orders.sql": _ordinary(number) for number in range(1, count + 1)}


def _ordinary(number: int) -> str:
    table = f"orders_{number}"
    columns = [f"    attribute_{column} text NOT NULL DEFAULT 'none'," for column in range(1, 44)]
    lines = [
        f"-- Orders of the year {number}.",
        "",
        f"CREATE TABLE {table} (",
        "    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,",
        "    reference text NOT NULL UNIQUE,",
        "    ordered_at timestamptz NOT NULL DEFAULT now(),",
        *columns,
        "    total numeric(12, 2) NOT NULL CHECK (total >= 0)",
        ");",
        f"CREATE INDEX ON {table} (ordered_at);",
        "",
        "-- Who may be asked about them.",
        f"ALTER TABLE {table}",
        "    ADD COLUMN contact text,",
        "    ADD COLUMN contact_email text;",
        f"COMMENT ON TABLE {table} IS 'What was ordered; one row an order';",
        *(f"COMMENT ON COLUMN {table}.attribute_{column} IS 'Attribute {column}';" for column in range(1, 11)),
        "",
        f"CREATE FUNCTION {table}_total() RETURNS numeric",
        "    LANGUAGE sql",
        "    STABLE",
        "AS $$",
        f"    SELECT sum(total) FROM {table}",
        "$$;",
        "",
        "DO $$",
        "BEGIN",
        "    FOR number IN 1..10 LOOP",
        f"        INSERT INTO {table} (reference, total) VALUES ('A-' || number, number);",
        "    END LOOP;",
        "END",
        "$$;",
        "",
        *(f"INSERT INTO {table} (reference, total)\n    VALUES ('B-{row}', {row});" for row in range(1, 8)),
        "",
        f"UPDATE {table} SET contact = 'nobody' WHERE contact IS NULL;",
    ]
    return "\n".join(lines) + "\n"


def large(characters: int) -> str:
    """Return a data migration of this length, in statements of 80 characters."""
    lines = ["CREATE TABLE large (id integer, name text);"]
    length = len(lines[0]) + 1
    number = 0
    while True:
        number += 1
        statement = f"INSERT INTO large (id, name) VALUES ({number:07d}, 'the name of number {number:07d}');"
        length += len(statement) + 1
        if length > characters:
            return "\n".join(lines) + "\n"
        lines.append(statement)


def bulk(characters: int) -> str:
    """Return a data migration of this length, in statements of about 1,000 characters with ten rows each."""
    head = "CREATE TABLE bulk (id integer, name text);\n"
    parts = [head]
    length = len(head)
    for number in itertools.count():
        rows = (f"({number * 10 + row:08d}, '{'the name of number ' * 4}{number:08d}')" for row in range(10))
        statement = f"INSERT INTO bulk (id, name) VALUES {', '.join(rows)};\n"
        length += len(statement)
        if length > characters:
            break
        parts.append(statement)
    return "".join(parts)


def huge(characters: int, statements: int) -> str:
    """Return a data migration of about this length: a first statement, then `statements` more with many rows."""
    head = "CREATE TABLE huge (id integer, name text);\n"
    row = f"(%08d, '{'the name of number ' * 4}%08d')"
    rows = max(1, characters // statements // (len(row % (0, 0)) + 2))
    parts = [head]
    for number in range(statements):
        values = (row % (number * rows + index, index) for index in range(rows))
        listed = ",\n".join(values)
        parts.append(f"INSERT INTO huge (id, name) VALUES\n{listed};\n")
    return "".join(parts)
