"""Version 2 of the shop: an order has its price in whole cents.

Its migrations, 003 and 004, add the new column and leave the old one, so that replicas of version 1 work on. The
other way round, it also works on version 1's schema, for the case that the migrations failed and this application
was started all the same (`MIGRATION_ON_FAILURE=start`): `entrypoint run` tells it how far the schema is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

VERSION = 2

# 4 is the migration after which every order has `price_cents`. Without a number (the ledger could not be read) the
# old column is the safe one: the trigger fills it, too.
HAS_CENTS = int(os.environ.get("ENTRYPOINT_SCHEMA_VERSION") or 0) >= 4

TURNOVER = "sum(quantity * price_cents) / 100.0" if HAS_CENTS else "sum(quantity * price)"

OVERVIEW = f"""
    SELECT (SELECT json_agg(p ORDER BY id) FROM (SELECT id, name, price::text FROM products) AS p),
           (SELECT count(*) FROM orders),
           (SELECT coalesce({TURNOVER}, 0)::numeric(20, 2)::text FROM orders)
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
