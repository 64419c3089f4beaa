"""While a migration runs: who waits for the lock, and which statement is running, in the API and on the page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from entrypoint.service import sessions
from kit.processes import until
from kit.web import TOKEN
from scene import Gate, Scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run
    from kit.web import Serving

    Serve = Callable[..., Serving]


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def page_with(serving: Serving, words: str) -> str:
    """Return the page without its markup, as soon as it contains `words`."""
    cookie = f"{sessions.COOKIE}={sessions.issue(TOKEN)}"
    seen = [""]

    def look() -> bool:
        html = serving.ask("/admin", token=None, headers={"Cookie": cookie}).body.decode()
        seen[0] = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))
        return words in seen[0]

    until(look, 20, lambda: f"{words} in {seen[0]}")
    return seen[0]


def test_starts_that_wait_for_the_lock_are_listed(scene: Scene, serve: Serve) -> None:
    scene.write({"001_wait.sql": Gate.PASS})
    serving = serve(scene.database.url)
    # It also has a session, but waits for nobody.
    another = serve(scene.database.url)
    assert (serving.data()["waiting"], another.data()["waiting"]) == (None, None)
    with Gate(scene.database) as gate:
        working = scene.start("migrate")
        gate.arrival()
        serving.data_when(lambda data: data["waiting"] == [])
        waiting = [scene.start("run", "--", "true") for _ in range(2)]
        found = serving.data_when(lambda data: len(data["waiting"] or ()) == 2)["waiting"]
        assert {one["address"] for one in found} == {"127.0.0.1"}
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one["since"]) for one in found)
        assert "Waiting for the lock 2 other starts 127.0.0.1, since" in page_with(serving, "2 other starts")
        # Whoever gives up is no longer waiting.
        waiting[0].terminate()
        waiting[0].wait()
        serving.data_when(lambda data: len(data["waiting"]) == 1)
        assert len(another.data_when(lambda data: len(data["waiting"]) == 1)["waiting"]) == 1
    working.ok()
    waiting[1].ok()
    assert serving.data_when(lambda data: data["status"] == "up_to_date")["waiting"] is None


def test_a_role_that_may_not_see_them_says_so(scene: Scene, serve: Serve) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    scene.migrated()
    scene.write({"002_wait.sql": Gate.PASS})
    name = f"watcher_{scene.database.name}"[:60]
    scene.database.execute(f"CREATE ROLE {name} LOGIN; GRANT SELECT ON schema_migrations, migration_lock TO {name}")
    try:
        serving = serve(scene.database.url.replace("postgres@", f"{name}@"))
        with Gate(scene.database) as gate:
            working, waiting = scene.start("migrate"), scene.start("migrate")
            gate.arrival()
            until(lambda: working.logs("lock.waiting") or waiting.logs("lock.waiting"), 10, "one of them waits")
            assert serving.data_when(lambda data: (data["lock"] or {}).get("alive"))["waiting"] is None
            page_with(serving, "Not visible: seeing all of them needs pg_read_all_stats")
            scene.database.execute(f"GRANT pg_read_all_stats TO {name}")
            serving.data_when(lambda data: len(data["waiting"] or ()) == 1)
        working.ok()
        waiting.ok()
        serving.run.terminate()
        serving.run.ok()
    finally:
        scene.database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_the_running_statement_is_shown_by_its_first_line(scene: Scene, serve: Serve) -> None:
    scene.write({"001_wait.sql": "SELECT 1;\n\nDO $$\nBEGIN\n  PERFORM pg_advisory_xact_lock(4711);\nEND $$;\n"})
    serving = serve(scene.database.url)
    with Gate(scene.database) as gate:
        working = scene.start("migrate")
        gate.arrival()
        # PostgreSQL has not sent the first statement's small result, so any of them may be running.
        assert "statement 1 or later of 2" in page_with(serving, "From line 1 SELECT 1")
        # Another release's file of the same name is not the one that is running.
        scene.write({"001_wait.sql": "SELECT 'not this one';"})
        until(lambda: "From line" not in page_with(serving, "Running now"), 10)
        assert "not this one" not in page_with(serving, "Running now")
    working.ok()


@pytest.mark.thorough
def test_outside_a_transaction_it_is_the_very_statement(scene: Scene, serve: Serve) -> None:
    function = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS\n $$ SELECT 1 $$;"
    scene.write({"001_wait.sql": f"-- entrypoint: no-transaction\nSELECT 1;\n{function}\n{Gate.PASS}\nSELECT 2;"})
    serving = serve(scene.database.url)
    with Gate(scene.database) as gate:
        working = scene.start("migrate")
        gate.arrival()
        assert "statement 3 of 4" in page_with(serving, "Line 5 SELECT pg_advisory_xact_lock(4711)")
    working.ok()
