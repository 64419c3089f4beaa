"""The example application from version 1 to 3: expand, fill, contract, and no request fails.

The three replicas are processes behind the test's own load balancer; tests/images/test_compose.py uses containers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kit.shop import Replica, ReplicaSet, Visitors, make_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

OLD_ORDERS = 20_000

# Orders as version 1 wrote them, each with its product's price.
ORDERS = f"""
    INSERT INTO orders (product_id, quantity, price)
    SELECT id, 1 + n % 5, price FROM generate_series(1, {OLD_ORDERS}) n JOIN products ON id = 1 + n % 3
"""
# Notes each UPDATE that sets the new column of an order, every time.
WATCH = """
    CREATE TABLE fills (order_id bigint);
    CREATE FUNCTION note_fill() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN INSERT INTO fills VALUES (NEW.id); RETURN NULL; END';
    CREATE TRIGGER note_fill AFTER UPDATE OF price_cents ON orders FOR EACH ROW EXECUTE FUNCTION note_fill()
"""


class Shop:
    """Starts replicas and commands of each version."""

    def __init__(self, start: Callable[..., Run], database: Database, folder: Path) -> None:
        """Create the images."""
        self._start, self._database = start, database
        self._images = {version: make_image(folder / f"image{version}", version) for version in (1, 2, 3)}

    def replica(self, version: int, **variables: str) -> Replica:
        """Start a replica; by default, a failure ends it."""
        return Replica(
            self._start, self._images[version], self._database, **{"MIGRATION_ON_FAILURE": "exit", **variables}
        )

    def after(self, version: int) -> Run:
        """Run to its end what is due once all replicas have this version."""
        environment = {"DATABASE_URL": self._database.url}
        return self._start("migrate", "--phase", "after", env=environment, cwd=self._images[version]).ok(60)


@pytest.fixture
def shop(run_entrypoint: Callable[..., Run], database: Database, tmp_path: Path) -> Shop:
    return Shop(run_entrypoint, database, tmp_path)


def applied(database: Database) -> list[int]:
    """Return the numbers of the completed migrations."""
    rows = "SELECT migration_number FROM schema_migrations WHERE status = 'completed' ORDER BY 1"
    return [number for (number,) in database.rows(rows)]


@pytest.mark.thorough
def test_expand_fill_and_contract_under_three_replicas_without_a_failed_request(shop: Shop, database: Database) -> None:
    replicas = ReplicaSet(shop.replica, 1)
    database.execute(ORDERS)

    with Visitors(replicas) as visitors:
        visitors.go_on()
        replicas.roll_out(2, visitors.go_on)
        assert applied(database) == [1, 2, 3]
        visitors.go_on()
        old = database.one("SELECT count(*) FROM orders WHERE price_cents IS NULL")
        assert old >= OLD_ORDERS, "nothing is filled before that is asked for"

        database.execute(WATCH)
        before = visitors.requests
        filling = shop.after(2)
        assert visitors.requests > before, "it was filled beside traffic"
        assert applied(database) == [1, 2, 3, 4]
        (filled,) = filling.logs("migration.applied")
        assert filled["file"] == "004_fill_price_in_cents.sql"
        # Each row once, only rows from before the trigger, and all of them.
        assert database.rows("SELECT count(*), count(DISTINCT order_id) FROM fills") == [(old, old)]
        visitors.go_on()

        replicas.roll_out(3, visitors.go_on)
        assert applied(database) == [1, 2, 3, 4, 5, 6]
        visitors.go_on()
        shop.after(3)
        visitors.go_on()

    assert visitors.failures == []
    assert visitors.requests >= 60
    assert set(visitors.versions) == {1, 2, 3}
    assert applied(database) == [1, 2, 3, 4, 5, 6, 7]
    columns = "SELECT attname, attnotnull FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname ~ 'price'"
    assert database.rows(columns) == [("price_cents", True)]
    # Every order whose number a visitor has, and every older one, with the right price.
    whole = "SELECT count(*) FROM orders o JOIN products p ON p.id = o.product_id AND o.price_cents = p.price * 100"
    assert database.one("SELECT count(*) FROM orders") == OLD_ORDERS + visitors.placed
    assert database.one(whole) == OLD_ORDERS + visitors.placed


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_image_is_stopped_by_the_floor(shop: Shop, database: Database, version: int) -> None:
    shop.replica(3).serving()
    assert applied(database) == [1, 2, 3, 4, 5, 6, 7]
    old = shop.replica(version)
    assert old.run.wait() == 78
    (told,) = old.run.logs("schema.below_floor")
    assert told["file"] == "007_drop_price.sql"
    # By default the application is started whatever happens. It is told, and this one exits.
    old = shop.replica(version, MIGRATION_ON_FAILURE="start")
    assert old.run.wait() == 1
    assert old.run.logs("schema.below_floor")
    assert f"shop: version {version} does not work on schema 7: This image is too old" in old.run.stderr
