"""Version 2 of the shop: it writes an order's price in whole cents, and still reads the old column.

Its migration 003 adds the new column and keeps the old one, so that replicas of version 1 continue to work. This
version also works with version 1's schema, in case the migration failed and the application was started anyway
(`MIGRATION_ON_FAILURE=start`): `entrypoint run` tells it the version of the schema.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

VERSION = 2
SCHEMAS = range(5)

# Migration 3 adds `price_cents`. Without a number (something else migrates, or the migration history could not be
# read), the old column is the safe choice. Whichever column is written, a trigger fills in the other one.
HAS_CENTS = int(os.environ.get("ENTRYPOINT_SCHEMA_VERSION") or 0) >= 3

OVERVIEW = """
    SELECT (SELECT json_agg(p ORDER BY id) FROM (SELECT id, name, price::text FROM products) AS p),
           (SELECT count(*) FROM orders),
           (SELECT coalesce(sum(quantity * price), 0)::numeric(20, 2)::text FROM orders)
"""

ORDER = f"""
    INSERT INTO orders (product_id, quantity, {"price_cents" if HAS_CENTS else "price"})
    SELECT id, %(quantity)s, {"price * 100" if HAS_CENTS else "price"} FROM products WHERE id = %(product)s
    RETURNING id
"""


def overview(connection: psycopg.Connection) -> dict[str, object]:
    """Return what the front page shows."""
    products, orders, turnover = connection.execute(OVERVIEW).fetchall()[0]
    return {"products": products, "orders": orders, "turnover": turnover}


def order(connection: psycopg.Connection, product: int, quantity: int) -> int | None:
    """Place an order and return its number, None if there is no such product."""
    row = connection.execute(ORDER, {"product": product, "quantity": quantity}).fetchone()
    return None if row is None else int(row[0])
