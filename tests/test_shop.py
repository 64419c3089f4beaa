"""The example application of the Compose files, without containers: two versions side by side on one schema."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.postgres import HOST
from kit.processes import until
from kit.shop import KETTLE, Replica, make_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database
    from kit.processes import Run


@pytest.fixture
def image(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that creates the folder of a version, as the Dockerfile does."""
    return lambda version: make_image(tmp_path / f"image{version}", version)


@pytest.mark.thorough
def test_version_1_and_2_work_side_by_side(
    run_entrypoint: Callable[..., Run], database: Database, image: Callable[..., Path]
) -> None:
    first = Replica(run_entrypoint, image(1), database).serving()
    assert first.send("/orders", KETTLE) == (201, {"order": 1})
    second = Replica(run_entrypoint, image(2), database).serving()
    assert second.get()[1]["schema_version"] == 3
    assert first.send("/orders", KETTLE) == (201, {"order": 2})
    assert second.send("/orders", KETTLE) == (201, {"order": 3})
    for replica in (first, second):
        page = replica.get()[1]
        assert (page["orders"], page["turnover"]) == (3, "209.40")
    # The first row is from before the upgrade; 004 fills it after the rollout.
    rows = [("34.90", None), ("34.90", 3490), ("34.90", 3490)]
    assert database.rows("SELECT price::text, price_cents FROM orders ORDER BY id") == rows


def test_version_2_works_on_the_schema_of_version_1(
    run_entrypoint: Callable[..., Run], database: Database, image: Callable[..., Path]
) -> None:
    folder = image(2)
    (folder / "migrations" / "003_price_in_cents.sql").write_text("SELECT nonsense;\n")
    replica = Replica(run_entrypoint, folder, database).serving()
    assert replica.send("/orders", KETTLE)[0] == 201
    page = replica.get()[1]
    assert (page["version"], page["outcome"], page["schema_version"]) == (2, "failed", 2)
    assert page["turnover"] == "69.80"


@pytest.mark.thorough
def test_version_3_does_not_serve_where_the_orders_are_not_filled(
    run_entrypoint: Callable[..., Run], database: Database, image: Callable[..., Path]
) -> None:
    for version in (1, 2):
        Replica(run_entrypoint, image(version), database).serving()
    # By default the application is started anyway. This one says what is missing, and exits.
    replica = Replica(run_entrypoint, image(3), database)
    assert replica.run.wait() == 1
    assert "shop: version 3 does not work on schema 3" in replica.run.stderr
    assert "005_price_in_cents_is_there.sql requires migration 004, which is not completed" in replica.run.stderr
    # If a failure ends the start, it does not get that far.
    replica = Replica(run_entrypoint, image(3), database, MIGRATION_ON_FAILURE="exit")
    assert replica.run.wait() == 70
    assert replica.run.logs("migration.requires")


@pytest.mark.thorough
def test_in_a_new_database_version_3_has_all_its_migrations_at_once(
    run_entrypoint: Callable[..., Run], database: Database, image: Callable[..., Path]
) -> None:
    replica = Replica(run_entrypoint, image(3), database).serving()
    assert replica.send("/orders", KETTLE)[0] == 201
    page = replica.get()[1]
    assert (page["outcome"], page["schema_version"], page["turnover"]) == ("migrated", 7, "69.80")
    assert not replica.run.logs("migration.outstanding")


@pytest.mark.thorough
def test_it_finishes_what_it_is_doing_before_it_ends(
    run_entrypoint: Callable[..., Run],
    run_program: Callable[..., Run],
    database: Database,
    image: Callable[..., Path],
) -> None:
    replica = Replica(run_entrypoint, image(1), database, SHUTDOWN_DELAY_S="1").serving()
    with database.connect() as blocker:
        blocker.execute("BEGIN; LOCK TABLE orders IN EXCLUSIVE MODE")
        ask = Path(__file__).parent / "images" / "programs" / "ask.py"
        order = run_program([sys.executable, ask, f"http://{HOST}:{replica.port}/orders", json.dumps(KETTLE)])
        until(lambda: database.one("SELECT count(*) FROM pg_locks WHERE NOT granted") == 1, what="a waiting order")
        replica.run.terminate()
        until(lambda: replica.get("/readyz")[0] == 503, what="an answer that it is not ready")
        assert replica.get("/livez")[0] == 200
        assert not replica.healthy()
        blocker.execute("ROLLBACK")
    assert json.loads(order.ok().stdout)["status"] == 201
    assert replica.run.wait() == 0
    assert "shop: finished" in replica.run.stderr


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"product": 4, "quantity": 1}, 404),
        ({"product": 1, "quantity": 0}, 400),
        ({"product": "kettle", "quantity": 1}, 400),
        ([], 400),
    ],
)
def test_a_bad_order_is_refused(
    run_entrypoint: Callable[..., Run],
    database: Database,
    image: Callable[..., Path],
    content: object,
    status: int,
) -> None:
    replica = Replica(run_entrypoint, image(1), database).serving()
    assert replica.send("/orders", content)[0] == status
    assert replica.get("/nowhere")[0] == 404
    assert replica.get()[1]["orders"] == 0


@pytest.mark.thorough
def test_without_a_database_it_says_so_and_shows_no_password(
    run_entrypoint: Callable[..., Run], database: Database, image: Callable[..., Path]
) -> None:
    variables = {"DATABASE_URL": f"postgresql://shop:geheim@{HOST}:1/shop", "AUTO_MIGRATE": "false"}
    replica = Replica(run_entrypoint, image(1), database, **variables).serving()
    assert replica.get() == (503, {"error": "the database did not answer"})
    assert "geheim" not in replica.run.stderr
