"""Version 3 of the shop: it reads and writes only `price_cents`, so that the old column can be dropped.

Its migration 007 drops that after the rollout. It does not work while orders have no `price_cents`; its migration 005
makes sure that they all have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

VERSION = 3
# Without 005, orders may have no `price_cents`, and the turnover would be wrong.
SCHEMAS = range(5, 8)

OVERVIEW = """
    SELECT (SELECT json_agg(p ORDER BY id) FROM (SELECT id, name, price::text FROM products) AS p),
           (SELECT count(*) FROM orders),
           (SELECT coalesce(sum(quantity * price_cents) / 100.0, 0)::numeric(20, 2)::text FROM orders)
"""

ORDER = """
    INSERT INTO orders (product_id, quantity, price_cents)
    SELECT id, %(quantity)s, price * 100 FROM products WHERE id = %(product)s
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
