"""Version 1 of the shop: an order has a `price`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

VERSION = 1
# The schema versions that it works with. `server.py` checks this if it is started after a failure.
SCHEMAS = range(3)

OVERVIEW = """
    SELECT (SELECT json_agg(p ORDER BY id) FROM (SELECT id, name, price::text FROM products) AS p),
           (SELECT count(*) FROM orders),
           (SELECT coalesce(sum(quantity * price), 0)::numeric(20, 2)::text FROM orders)
"""

ORDER = """
    INSERT INTO orders (product_id, quantity, price)
    SELECT id, %(quantity)s, price FROM products WHERE id = %(product)s
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
