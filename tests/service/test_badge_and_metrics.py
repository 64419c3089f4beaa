"""The badge and the metrics, as their readers get them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from kit.migrations import non_idempotent
from kit.processes import until
from scene import Gate, Scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run
    from kit.web import Serving

    Serve = Callable[..., Serving]

SVG = "{http://www.w3.org/2000/svg}"
GREEN, YELLOW, RED = "#2e7d32", "#fbc02d", "#c62828"


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def badge(serving: Serving) -> tuple[str, str, str]:
    """Return a badge's message, its title for screen readers, and its colour."""
    answer = serving.ask("/badge.svg")
    assert answer.status == 200
    assert answer.headers["content-type"] == "image/svg+xml"
    image = ET.fromstring(answer.body)  # noqa: S314 - our own
    assert image.tag == f"{SVG}svg"
    assert image.get("role") == "img"
    title = image.find(f"{SVG}title")
    assert title is not None
    assert image.get("aria-labelledby") == title.get("id")
    rectangles = image.findall(f".//{SVG}g/{SVG}rect")
    label, message = (element.text for element in image.iter(f"{SVG}text"))
    assert label == "schema"
    return message or "", title.text or "", rectangles[-1].get("fill") or ""


def metrics(serving: Serving) -> dict[str, float]:
    answer = serving.ask("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in parse(answer.body.decode()):
        assert family.documentation
        for sample in family.samples:
            assert set(sample.labels) == {"database"}
            found[sample.name.removeprefix("pg_entrypoint_")] = sample.value
    return found


@pytest.mark.thorough
def test_what_waits_for_the_end_of_the_rollout_is_counted(scene: Scene, serve: Serve) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    scene.migrated()
    late = "-- entrypoint: phase = after\n-- entrypoint: floor = 002_b.sql\nSELECT 1;"
    scene.write({"002_b.sql": late})
    serving = serve(scene.database.url)
    data = serving.data()
    assert (data["status"], data["pendingMigrations"], data["outstandingMigrations"]) == ("up_to_date", 0, 1)
    assert data["migrations"][1]["state"] == "after"
    found = metrics(serving)
    assert (found["migrations_pending"], found["migrations_outstanding"], found["below_floor"]) == (0, 1, 0)
    at = scene.database.one("SELECT extract(epoch FROM applied_at)::bigint FROM schema_migrations")
    assert abs(found["migrations_outstanding_since_timestamp_seconds"] - at) <= 1
    assert badge(serving)[2] == GREEN

    scene.start("migrate", "--phase", "after").ok()
    serving.data_when(lambda data: data["outstandingMigrations"] == 0)
    found = metrics(serving)
    assert found["migrations_outstanding"] == 0
    assert "migrations_outstanding_since_timestamp_seconds" not in found

    (scene.migrations / "002_b.sql").unlink()
    data = serving.data_when(lambda data: data["belowFloor"])
    assert data["status"] == "error"
    assert metrics(serving)["below_floor"] == 1
    assert badge(serving)[0] == "v2, files too old"


@pytest.mark.thorough
def test_repeatable_files_are_counted_and_shown(scene: Scene, serve: Serve) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a (i int);"})
    scene.migrated()
    serving = serve(scene.database.url)
    assert "repeatables_pending" not in metrics(serving)
    (scene.migrations / "repeatable").mkdir()
    scene.write({"repeatable/v.sql": "CREATE OR REPLACE VIEW v AS SELECT i FROM a;"})
    assert serving.data_when(lambda data: data["status"] == "pending")["repeatables"][0]["state"] == "pending"
    assert badge(serving) == ("v1, 1 pending", "schema: version 1, 1 repeatable file pending", YELLOW)
    scene.migrated()
    data = serving.data_when(lambda data: data["status"] == "up_to_date")
    said = json.loads(scene.start("status", "--json").ok().stdout)
    assert data["repeatables"] == said["repeatables"]
    found = metrics(serving)
    assert (found["repeatables_pending"], found["repeatables_failed"]) == (0, 0)
    # A file that is changed in place is noticed.
    scene.write({"repeatable/v.sql": "SELECT <b>;"})
    serving.data_when(lambda data: data["status"] == "pending")
    scene.migrate()
    serving.data_when(lambda data: data["status"] == "error")
    found = metrics(serving)
    assert (found["repeatables_pending"], found["repeatables_failed"], found["migrations_failed"]) == (1, 1, 0)
    assert badge(serving) == ("v1 failed", "schema: version 1, a repeatable file has failed", RED)


def test_each_status_has_its_colour_and_its_numbers(scene: Scene, serve: Serve) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE b ();"})
    serving = serve(scene.database.url)
    assert badge(serving) == ("v0, 2 pending", "schema: version 0, 2 pending, up to version 2", YELLOW)
    found = metrics(serving)
    assert (found["up"], found["database_reachable"]) == (1, 1)
    assert (found["schema_version"], found["schema_latest_version"]) == (0, 2)
    assert (found["migrations_applied"], found["migrations_pending"], found["migrations_failed"]) == (0, 2, 0)
    assert "last_migration_duration_seconds" not in found

    scene.migrated()
    serving.data_when(lambda data: data["status"] == "up_to_date")
    assert badge(serving) == ("v2", "schema: version 2, up to date", GREEN)
    found = metrics(serving)
    assert (found["migrations_applied"], found["migrations_pending"]) == (2, 0)
    at, took = scene.database.one(
        "SELECT extract(epoch FROM applied_at)::float, execution_time_ms FROM schema_migrations"
        " WHERE migration_number = 2"
    )
    assert found["last_migration_timestamp_seconds"] == int(at)
    assert found["last_migration_duration_seconds"] == took / 1000

    scene.write({"001_a.sql": "SELECT 'changed';", "003_c.sql": "SELECT nonsense;"})
    scene.migrate()
    serving.data_when(lambda data: data["status"] == "error")
    assert badge(serving) == ("v2 failed", "schema: version 2, a migration has failed", RED)
    found = metrics(serving)
    assert (found["migrations_pending"], found["migrations_failed"], found["migrations_changed"]) == (1, 1, 1)
    assert found["migrations_missing"] == 0
    assert found["database_reads_total"] >= 3

    (scene.migrations / "001_a.sql").unlink()
    serving.data_when(lambda data: data["migrations"][0]["state"] == "missing")
    found = metrics(serving)
    assert (found["migrations_changed"], found["migrations_missing"]) == (0, 1)

    scene.database.drop()
    serving.until_answer(500)
    assert badge(serving) == ("unknown", "schema: unknown, the database cannot be read", RED)
    found = metrics(serving)
    assert (found.pop("up"), found.pop("database_reachable")) == (0, 0)
    assert set(found) == {"database_reads_total"}, "nothing is made up"


def test_the_lock_is_among_the_numbers(scene: Scene, serve: Serve) -> None:
    scene.write({"001_wait.sql": Gate.PASS})
    serving = serve(scene.database.url)
    found = metrics(serving)
    assert found["lock_held"] == 0
    assert "lock_held_seconds" not in found
    with Gate(scene.database) as gate:
        working = scene.start("migrate")
        gate.arrival()
        until(lambda: metrics(serving)["lock_held"] == 1, what="the lock in the metrics")
        assert metrics(serving)["lock_held_seconds"] > 0
    working.ok()
    until(lambda: metrics(serving)["lock_held"] == 0, what="no lock in the metrics")
    assert "lock_held_seconds" not in metrics(serving)


@pytest.mark.thorough
def test_a_row_that_a_dead_holder_has_left_is_no_lock(scene: Scene, serve: Serve) -> None:
    scene.write(non_idempotent(1))
    scene.migrated()
    scene.database.execute(
        "UPDATE migration_lock SET locked_at = now() - interval '1 day', locked_by = 'shop-1', token = 'dead.1'"
    )
    serving = serve(scene.database.url)
    assert serving.data()["lock"]["alive"] is False
    found = metrics(serving)
    assert found["lock_held"] == 0
    assert "lock_held_seconds" not in found


@pytest.mark.thorough
def test_a_time_that_python_does_not_know_is_left_out(scene: Scene, serve: Serve) -> None:
    scene.write(non_idempotent(1))
    scene.migrated()
    scene.database.execute("UPDATE schema_migrations SET applied_at = '12026-11-22 10:30:00+00'")
    found = metrics(serve(scene.database.url))
    assert found["schema_version"] == 1
    assert "last_migration_timestamp_seconds" not in found


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "accept",
    [
        "text/plain; version=1.x",
        "application/openmetrics-text; version=abc",
        "text/plain;version=",
        "\xff/\xb2;version=\xb2",
    ],
)
def test_a_format_that_does_not_exist(scene: Scene, serve: Serve, accept: str) -> None:
    """The client gets the default format."""
    scene.write(non_idempotent(1))
    answer = serve(scene.database.url).ask("/metrics", headers={"Accept": accept})
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert list(parse(answer.body.decode()))


def test_openmetrics_for_who_asks_for_it(scene: Scene, serve: Serve) -> None:
    scene.write(non_idempotent(1))
    serving = serve(scene.database.url)
    answer = serving.ask(
        "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"}
    )
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    parsed = parse_openmetrics(answer.body.decode())  # type: ignore[no-untyped-call]  # the library's parser is
    families = {family.name: family for family in parsed}
    (sample,) = families["pg_entrypoint_migrations_pending"].samples
    assert (sample.value, sample.labels) == (1, {"database": scene.database.name})


def test_a_databases_name_cannot_break_out_of_its_label(scene: Scene, serve: Serve) -> None:
    scene.write(non_idempotent(1))
    answer = serve("host=127.0.0.1 port=1 dbname='a\"} 1\nup{x=\"\\\\'").ask("/metrics")
    (family,) = (family for family in parse(answer.body.decode()) if family.name == "pg_entrypoint_up")
    (sample,) = family.samples
    assert sample.labels == {"database": 'a"} 1\nup{x="\\'}


@pytest.mark.thorough
def test_a_badge_is_asked_for_again_and_sent_only_if_it_has_changed(scene: Scene, serve: Serve) -> None:
    """A proxy may cache a README's badge, but must never show an old one."""
    scene.write(non_idempotent(2))
    serving = serve(scene.database.url, STATUS_PUBLIC_BADGE="true")
    first = serving.ask("/badge.svg", token=None)
    assert first.headers["cache-control"] == "no-cache"
    condition = {"If-None-Match": first.headers["etag"]}
    same = serving.ask("/badge.svg", token=None, headers=condition)
    assert (same.status, same.body) == (304, b"")
    scene.migrated()
    serving.data_when(lambda data: data["status"] == "up_to_date")
    assert serving.ask("/badge.svg", token=None, headers=condition).status == 200
    guarded = serve(scene.database.url).ask("/badge.svg")
    assert guarded.headers["cache-control"] == "private, no-cache"
    assert b"http" not in guarded.body.replace(b"http://www.w3.org/2000/svg", b""), "nothing from elsewhere"
