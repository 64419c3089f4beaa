"""The application that a start executes. It only prints when it began."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("application.c")

_LINE = re.compile(r"^first-instruction (\d+) (\d+) (\S+)$", re.MULTILINE)


class Told(NamedTuple):
    """What the application printed."""

    monotonic: int
    """Nanoseconds of CLOCK_MONOTONIC at its first instruction."""
    realtime: int
    """Nanoseconds since 1970."""
    outcome: str
    """What it found in ENTRYPOINT_OUTCOME."""


def told(output: str) -> Told | None:
    """Return what the application wrote, or None if it did not run."""
    found = _LINE.search(output)
    return None if found is None else Told(int(found[1]), int(found[2]), found[3])


def build(directory: Path) -> Path | None:
    """Compile it into `directory`. Return its path, or None without a working C compiler."""
    compiler = shutil.which("cc")
    target = directory / "application"
    if compiler is None:
        return None
    for options in (("-O2", "-static"), ("-O2",)):
        command = [compiler, *options, "-o", target, SOURCE]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return target
    return None
