"""The benchmarks themselves: a run prints its tables, writes its file, and says what it could not measure."""

from __future__ import annotations

import contextlib
import json
import platform
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import __main__ as command
from benchmarks.measure import BenchmarkError
from benchmarks.report import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
OURS = "entrypoint run"


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    """Return a directory of other tools with one installed: a dbmate that does nothing, in a hundredth of a second."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    program = tmp_path / "peers" / "node_modules" / "@dbmate" / f"linux-{machine}" / "bin" / "dbmate"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexec sleep 0.01\n")
    program.chmod(0o755)
    (tmp_path / "peers" / "installed.json").write_text('{"dbmate": "0.0.1"}\n')
    return tmp_path / "peers"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a stand-in for the self-contained build, whose program is this one."""
    program = tmp_path / "folder" / "entrypoint"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m entrypoint "$@"\n')
    program.chmod(0o755)
    return program.parent


def benchmarks(*options: str | Path) -> str:
    argv = [sys.executable, "-m", "benchmarks", *options]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.thorough
def test_a_quick_run_of_one_scenario(tmp_path: Path, peers: Path, folder: Path) -> None:
    results, page = tmp_path / "run.json", tmp_path / "run.md"
    places = ("--peers", peers, "--folder", folder, "--json", results, "--markdown", page)
    output = benchmarks("--quick", "--only", "up_to_date", *places)
    found = json.loads(results.read_text())

    assert list(found["scenarios"]) == ["up_to_date"]
    assert found["machine"]["peers"] == {"dbmate": "0.0.1"}
    assert "--quick --only up_to_date" in found["machine"]["command"]
    assert len(found["machine"]["load_at_end"]) == 3

    tables = found["scenarios"]["up_to_date"]
    assert {"TCP without TLS", "a Unix socket"} <= {_way(table) for table in tables}
    for table in tables:
        values = table["values"]
        assert {OURS, "the folder's entrypoint run", "dbmate up", "python -I -c pass"} <= set(values)
        for name, value in values.items():
            assert len(value["samples"]) == 1
            assert value["wall"] == value["samples"][0]["wall"]
            # Every ratio compares with our own program in the same run.
            assert value["ours_of_it"]["wall"] == pytest.approx(values[OURS]["start"] / value["start"]), name
        assert values["dbmate up"]["wall"] > 0.01
        missing = " ".join(table["missing"])
        assert "liquibase update: not installed (make bench-peers)" in missing
        assert "dbmate" not in missing

    assert "missing: yoyo apply: not installed" in output
    assert f"{OURS}  " in output
    assert "| dbmate up | 1 |" in page.read_text()


def test_the_tables_can_be_had_again_from_the_file(tmp_path: Path) -> None:
    results, page = tmp_path / "run.json", tmp_path / "run.md"
    section = {"title": "T", "columns": ["", "a"], "rows": [["x", "1"]], "notes": [], "missing": [], "values": {}}
    facts: dict[str, Any] = {
        **dict.fromkeys(("command", "cores", "cpu", "system", "python", "postgresql", "commit", "at"), "?"),
        "load_at_start": [0.5, 0, 0],
        "peers": {},
    }
    results.write_text(json.dumps({"machine": facts, "scenarios": {"s": [section]}}))
    benchmarks("--from", results, "--markdown", page)
    assert "| x | 1 |" in page.read_text()


def _way(table: dict[str, Any]) -> str:
    return str(table["title"]).removeprefix("Up to date, over ").partition(":")[0]


def test_a_scenario_that_fails_takes_nothing_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> Iterator[Section]:
        yield Section("before", ("", "a"))
        raise BenchmarkError("broken")

    def scenario(measure: object) -> SimpleNamespace:
        return SimpleNamespace(QUICK=None, FULL=None, measure=measure)

    results = tmp_path / "run.json"
    stage = SimpleNamespace(postgresql="16", peers=SimpleNamespace(versions=dict))
    monkeypatch.setattr(command, "Stage", lambda **_: contextlib.nullcontext(stage))
    monkeypatch.setattr(
        command,
        "SCENARIOS",
        {"bad": scenario(fail), "good": scenario(lambda *_: [Section("T", ("", "a"), [("x", "1")])])},
    )
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--json", str(results)])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert command.main() == 1
    found = json.loads(results.read_text())
    assert found["machine"]["failed"] == {"bad": "broken"}
    titles = {name: [part["title"] for part in parts] for name, parts in found["scenarios"].items()}
    assert titles == {"bad": ["before"], "good": ["T"]}
    assert "bad failed: broken" in capsys.readouterr().err
