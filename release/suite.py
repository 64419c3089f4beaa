"""A part of the tests with each Python that is here, the oldest with the lowest versions of our dependencies."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from release import trial
from release.problems import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# What differs from Python to Python first: the pure parts, a start from outside, becoming the application, what is
# imported, a race, the status service.
SELECTION = (
    "tests/unit",
    "tests/test_cli.py",
    "tests/test_handover.py",
    "tests/test_imports.py",
    "tests/test_race.py",
    "tests/service",
)


def run_each(root: Path, pythons: dict[str, Path], selection: Sequence[str]) -> None:
    """Run the tests with each Python, in environments in build/pythons. Raises ReleaseError if some failed."""
    failed = []
    resolution: trial.Resolution = "lowest-direct"
    for version, python in pythons.items():
        print(f"── Python {version}, {resolution.partition('-')[0]} versions", flush=True)
        folder = root / "build" / "pythons" / version
        editable = ("--editable", f"{root}[test]")
        inside = trial.environment(root / "pyproject.toml", python, resolution, folder, *editable)
        command: list[str | Path] = [
            inside,
            "-m",
            "pytest",
            "-q",
            "-n",
            "3",
            "--dist",
            "worksteal",
            *(selection or SELECTION),
        ]
        if subprocess.run(command, cwd=root, check=False).returncode:
            failed.append(version)
        resolution = "highest"
    if failed:
        raise ReleaseError(f"tests failed with Python {', '.join(failed)}")
