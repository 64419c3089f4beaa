"""The JSON Schemas in docs/schemas: what the commands really print is valid, and every key is described."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from kit.processes import until
from scene import Gate, Scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database
    from kit.processes import Run

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"
NAMES = sorted(path.stem for path in SCHEMAS.glob("*.json"))


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text())
    return found


def closed(part: Any) -> Any:
    """Return a schema that allows only the keys it describes."""
    if isinstance(part, list):
        return [closed(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {name: closed(one) for name, one in part.items()}
    return {**found, "additionalProperties": False} if isinstance(part.get("properties"), dict) else found


def valid(run: Run, name: str) -> Any:
    """Return what a command printed, if it is valid by the schema of this name."""
    answer = json.loads(run.stdout)
    jsonschema.Draft202012Validator(closed(schema(name))).validate(answer)
    return answer


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


@pytest.mark.text
@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_schema_and_is_linked(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))
    assert schema(name)["$id"] == f"{name}.json"
    page = (SCHEMAS.parent / "public-interface.md").read_text()
    assert f"(schemas/{name}.json)" in page


@pytest.mark.text
def test_they_can_say_no() -> None:
    answer: dict[str, Any] = {"server": None, "database": "shop", "migrations": [], "error": "away"}
    check = jsonschema.Draft202012Validator(closed(schema("dry-run")))
    check.validate(answer)
    for wrong in ({**answer, "more": 1}, {**answer, "database": 5}, {**answer, "migrations": [{"number": 1}]}):
        assert not check.is_valid(copy.deepcopy(wrong))


def test_status(scene: Scene) -> None:
    assert valid(scene.start("status", "--json").ok(), "status")["lock"] is None
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE b ();", "003_c.sql": "SELECT no_such"})
    (scene.migrations / "repeatable").mkdir()
    (scene.migrations / "repeatable" / "v.sql").write_text("CREATE OR REPLACE VIEW v AS SELECT 1 AS one;")
    scene.migrate()
    scene.write({"002_b.sql": "CREATE TABLE b (); --"})
    (scene.migrations / "001_a.sql").unlink()
    answer = valid(scene.start("status", "--json").ok(), "status")
    assert {line["state"] for line in answer["migrations"]} == {"missing", "changed", "failed"}
    assert answer["repeatables"]
    assert [
        line["number"] for line in valid(scene.start("status", "--json", "--pending").ok(), "status")["migrations"]
    ] == [3]
    run = scene.start("status", "--json", url="postgresql://127.0.0.1:1/gone", DB_CONNECT_ATTEMPTS=1)
    assert run.wait() == 69
    assert valid(run, "status")["error"]


def test_status_and_unlock_while_somebody_migrates(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_gate.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        holder = scene.start("migrate")
        gate.arrival()
        until(lambda: (scene.lock() or {}).get("progress_detail"), 20, "what the holder tells of its statement")
        status = valid(scene.start("status", "--json").ok(), "status")
        assert status["lock"]["progress"]["seconds"] >= 1
        unlock = scene.start("unlock", "--json")
        assert unlock.wait() == 75
        answer = valid(unlock, "unlock")
        assert answer["state"] == "alive"
        assert {one["role"] for one in answer["sessions"]} >= {"guard", "worker"}
        refused = scene.start("unlock", "--force", "--json")
        assert refused.wait() == 64
        assert "nothing was changed" in valid(refused, "unlock")["error"]
        freed = valid(scene.start("unlock", "--force", "--yes", "--json").ok(), "unlock")
        assert freed["steps"][0] == "Freed the row."
        assert freed["steps"][-1] == "The lock is free."
        assert holder.wait() == 75
    assert valid(scene.start("unlock", "--json").ok(), "unlock")["state"] == "free"


def test_dry_run_and_rehearse(scene: Scene) -> None:
    scene.write(
        {
            "001_a.sql": "CREATE TABLE a (id serial, x int); INSERT INTO a (x) VALUES (1);",
            "003_c.sql": "CREATE TABLE c ();",
        }
    )
    scene.migrated()
    scene.write({"002_b.sql": "ALTER TABLE a DROP COLUMN x;", "004_i.sql": "CREATE INDEX CONCURRENTLY i ON a (id);"})
    (scene.migrations / "repeatable").mkdir()
    (scene.migrations / "repeatable" / "v.sql").write_text("CREATE OR REPLACE VIEW v AS SELECT 1 AS one;")
    answer = valid(scene.start("migrate", "--dry-run", "--json").ok(), "dry-run")
    assert [(one["filename"], one["outOfOrder"]) for one in answer["migrations"]] == [
        ("002_b.sql", True),
        ("004_i.sql", False),
    ]
    assert answer["repeatables"] == [{"name": "v", "how": "one transaction"}]
    assert answer["obstacle"] is None
    rehearsed = scene.start("migrate", "--rehearse", "--json")
    assert rehearsed.wait() == 10
    answer = valid(rehearsed, "rehearse")
    assert answer["complete"] is False
    assert answer["left"] == ["004_i.sql", "repeatable/v.sql"]
    assert answer["locks"][0]["mode"] == "ACCESS EXCLUSIVE"
    scene.write({"005_bad.sql": "SELECT no_such;"})
    failed = scene.start("migrate", "--rehearse", "--json")
    assert failed.wait() == 70
    answer = valid(failed, "rehearse")
    assert "no_such" in answer["error"]
    assert [one["filename"] for one in answer["rehearsed"]][:1] == ["002_b.sql"]
    scene.write({"x.sql": ""})
    for command in ("--dry-run", "--rehearse"):
        bad = scene.start("migrate", command, "--json")
        assert bad.wait() == 65
        assert valid(bad, command.strip("-"))["error"]


def test_check(scene: Scene) -> None:
    scene.write({"001_a.sql": "CREATE INDEX CONCURRENTLY i ON a (id);", "002_bad.sql": "SELEC 1;"})
    run = scene.start("check", "--json")
    assert run.wait() == 65
    assert {finding["level"] for finding in valid(run, "check")} == {"error", "note"}


def test_json_alone_is_refused(scene: Scene) -> None:
    run = scene.start("migrate", "--json")
    assert run.wait() == 64
    assert "--dry-run" in run.stderr
