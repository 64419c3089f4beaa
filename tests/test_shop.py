"""The example application of the Compose files, without containers: two versions beside each other on one schema."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demo.postgres import HOST, free_port
from kit.processes import Run, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database

SHOP = Path(__file__).parents[1] / "compose" / "shop"
KETTLE = {"product": 1, "quantity": 2}  # 69.80


class Replica:
    """One replica, started as the image does: `entrypoint run -- python server.py`."""

    def __init__(self, start: Callable[..., Run], image: Path, database: Database, **variables: str) -> None:
        """Start it in `image`, a folder with the version's files."""
        self.port = free_port()
        self.environment = {
            "DATABASE_URL": database.url,
            "PORT": str(self.port),
            "MIGRATION_PROBE_PORT": str(self.port),
            **variables,
        }
        self.image = image
        self._start = start
        self.run = start("run", "--", sys.executable, "server.py", env=self.environment, cwd=image)

    def healthy(self) -> bool:
        """Return what the healthcheck says."""
        check = Run([sys.executable, "health.py"], directory=self.image, env=self.environment)
        return check.wait() == 0

    def serving(self) -> Replica:
        """Wait until it is healthy, and return it."""
        until(self.healthy, 30, self.run.report)
        return self

    def get(self, path: str = "/") -> tuple[int, dict[str, Any]]:
        """Return status and page."""
        return self.send(path, None)

    def send(self, path: str, content: object) -> tuple[int, dict[str, Any]]:
        """Post `content` unless it is None, and return status and page."""
        body = None if content is None else json.dumps(content).encode()
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", body, timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


@pytest.fixture
def image(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes the folder of a version, as the Dockerfile does."""

    def make(version: int, label: str = "") -> Path:
        folder = tmp_path / f"image{version}{label}"
        for earlier in range(1, version + 1):
            shutil.copytree(SHOP / f"version{earlier}", folder, dirs_exist_ok=True)
        return folder

    return make


def test_version_1_and_2_work_side_by_side(
    run_entrypoint: Callable[..., Run], database: Database, image: Callable[..., Path]
) -> None:
    first = Replica(run_entrypoint, image(1), database).serving()
    assert first.send("/orders", KETTLE) == (201, {"order": 1})
    second = Replica(run_entrypoint, image(2), database).serving()
    assert second.get()[1]["schema_version"] == 4
    assert first.send("/orders", KETTLE) == (201, {"order": 2})
    assert second.send("/orders", KETTLE) == (201, {"order": 3})
    for replica in (first, second):
        page = replica.get()[1]
        assert (page["orders"], page["turnover"]) == (3, "209.40")
    assert database.rows("SELECT price::text, price_cents FROM orders") == [("34.90", 3490)] * 3


def test_the_backfill_takes_several_batches(
    run_entrypoint: Callable[..., Run], database: Database, image: Callable[..., Path]
) -> None:
    Replica(run_entrypoint, image(1), database).serving()
    rows = (
        "INSERT INTO orders (product_id, quantity, price) SELECT 1 + n % 3, 1, n / 100.0 FROM generate_series(1, %s) n"
    )
    database.execute(rows.replace("%s", "2500"))
    Replica(run_entrypoint, image(2), database).serving()
    assert database.one("SELECT count(*) FROM orders WHERE price_cents = price * 100") == 2500


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


@pytest.mark.sampled(3)
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


def test_without_a_database_it_says_so_and_shows_no_password(
    run_entrypoint: Callable[..., Run], database: Database, image: Callable[..., Path]
) -> None:
    variables = {"DATABASE_URL": f"postgresql://shop:geheim@{HOST}:1/shop", "AUTO_MIGRATE": "false"}
    replica = Replica(run_entrypoint, image(1), database, **variables).serving()
    assert replica.get() == (503, {"error": "the database did not answer"})
    assert "geheim" not in replica.run.stderr
