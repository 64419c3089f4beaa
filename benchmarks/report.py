"""Results as values, as a table for a person, and as JSON for the next comparison."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.stage import Stage

RESULTS = Path(__file__).with_name("results")


@dataclass
class Section:
    """One benchmark's result."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """What could not be measured here, and why."""
    values: dict[str, object] = field(default_factory=dict)
    """The figures behind the table, unrounded, and every sample."""

    def table(self) -> str:
        """Return it in columns: the first to the left, figures to the right."""
        grid = [self.columns, *self.rows]
        widths = [max(len(row[column]) for row in grid) for column in range(len(self.columns))]
        lines = []
        for row in grid:
            figures = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *figures]).rstrip())
        rule = "  ".join("-" * width for width in widths)
        text = [self.title, "", lines[0], rule, *lines[1:], ""]
        text += [f"  missing: {what}" for what in self.missing]
        text += [f"  {note}" for note in self.notes]
        return "\n".join(text).rstrip() + "\n"


def ms(seconds: float, digits: int = 0) -> str:
    """Return seconds as milliseconds."""
    return f"{seconds * 1000:.{digits}f} ms"


def mb(size: float) -> str:
    """Return bytes as megabytes."""
    return f"{size / 1e6:.1f} MB"


def ratio(value: float, reference: float) -> str:
    """Return how many times the reference a value is."""
    return f"{value / reference:.2f}x"


def machine(stage: Stage) -> dict[str, object]:
    """Return what the figures depend on."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": git.stdout.strip() or None,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgresql": stage.server.version,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def write(facts: dict[str, object], sections: dict[str, Section]) -> Path:
    """Write everything into a file of its own under results/, and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.json"
    content = {"machine": facts, **{name: asdict(section) for name, section in sections.items()}}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
