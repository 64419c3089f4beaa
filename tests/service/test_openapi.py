"""The description is served, and true: schemathesis tries everything that it describes, and much that it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from entrypoint import __version__
from kit.migrations import non_idempotent
from kit.web import TOKEN, Serving
from scene import Gate, Scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database
    from kit.processes import Run

    Serve = Callable[..., Serving]


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def schemathesis(serving: Serving, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Let schemathesis run all its checks against the service, and return how it ended."""
    program = Path(sys.executable).with_name("schemathesis")
    return subprocess.run(
        [
            program,
            *("run", f"http://{serving.host}:{serving.port}/openapi.json"),
            *("--header", f"Authorization: Bearer {TOKEN}"),
            *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"),
            *("--max-examples", "30", "--seed", "1", "--no-color"),
            *options,
        ],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def paths(serving: Serving) -> set[str]:
    return set(serving.ask("/openapi.json", token=None).json["paths"])


def test_what_it_describes(scene: Scene, serve: Serve) -> None:
    scene.write(non_idempotent(1))
    serving = serve(scene.database.url)
    described = serving.ask("/openapi.json", token=None)
    assert described.status == 200
    assert described.json["openapi"] == "3.1.0"
    assert described.json["info"]["version"] == __version__
    assert paths(serving) == {
        "/api/admin/migrations/status",
        "/api/admin/backup",
        "/badge.svg",
        "/metrics",
        "/livez",
        "/readyz",
        "/openapi.json",
    }


@pytest.mark.thorough
def test_the_description_is_true(scene: Scene, serve: Serve, tmp_path: Path) -> None:
    """With a bit of everything in the database, and a migration running."""
    files = {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE b ();", "003_c.sql": "SELECT nonsense;"}
    scene.write(files)
    scene.migrate()
    scene.write({"001_a.sql": "SELECT 1;", "003_c.sql": f"SELECT 2; {Gate.PASS}"})
    backups = tmp_path / "backups"
    backups.mkdir()
    path = f"{scene.database.server.bin}:{os.environ['PATH']}"
    serving = serve(scene.database.url, MIGRATION_BACKUP_DIR=str(backups), PATH=path)
    with Gate(scene.database) as gate:
        working = scene.start("migrate")
        gate.arrival()
        done = schemathesis(serving, tmp_path)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert "No issues found" in done.stdout, done.stdout
    working.ok()
    asked = {(record["method"], record["path"]) for record in serving.run.logs("service.request")}
    assert ("GET", "/api/admin/migrations/status") in asked
    assert ("POST", "/api/admin/backup") in asked
    assert not [record for record in serving.run.logs() if "Internal error" in record["message"]]


@pytest.mark.thorough
def test_it_would_be_seen_if_it_were_not(scene: Scene, serve: Serve, tmp_path: Path) -> None:
    """If the description promises something else, the check fails."""
    scene.write(non_idempotent(1))
    serving = serve(scene.database.url)
    described = serving.ask("/openapi.json", token=None).json
    described["components"]["schemas"]["Status"]["properties"]["currentVersion"] = {"type": "string"}
    (tmp_path / "wrong.json").write_text(json.dumps(described))
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("run", str(tmp_path / "wrong.json"), "--url", f"http://{serving.host}:{serving.port}"),
            *("--header", f"Authorization: Bearer {TOKEN}", "--include-operation-id", "getStatus", "--no-color"),
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 1, done.stdout
    assert "currentVersion" in done.stdout
