"""Version 2 of the shop: it writes an order's price in whole cents, and still reads the old column.

Its migration 003 adds the new column and leaves the old one, so that replicas of version 1 work on. The other way
round, it also works on version 1's schema, for the case that the migration failed and this application was started all
the same (`MIGRATION_ON_FAILURE=start`): `entrypoint run` tells it how far the schema is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

VERSION = 2
SCHEMAS = range(5)

# 3 is the migration that adds `price_cents`. Without a number (somebody else migrates, or the ledger could not be read)
# the old column is the safe one. A trigger fills the other one, whichever is written.
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
