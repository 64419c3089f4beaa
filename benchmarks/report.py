"""Results: as values, as tables to read, as Markdown for the documentation, and as JSON to compare later."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.stage import Stage

RESULTS = Path(__file__).with_name("results")


@dataclass
class Section:
    """One table, with the figures behind it."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences below the table."""
    missing: list[str] = field(default_factory=list)
    """What could not be measured here, and why."""
    values: dict[str, Any] = field(default_factory=dict)
    """The figures behind the table, unrounded, and every sample."""

    def table(self) -> str:
        """Return it as text, with the first column aligned left and the figures right."""
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

    def markdown(self) -> str:
        """Return it as Markdown: a heading, the table, what is missing, the notes."""
        lines = [f"### {self.title}", "", _row(self.columns), _row(["---", *["---:"] * (len(self.columns) - 1)])]
        lines += [_row(row) for row in self.rows]
        for what in self.missing:
            lines += ["", f"Missing: {what}."]
        if self.notes:
            lines += ["", "\n".join(self.notes)]
        return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return "| " + " | ".join(escaped) + " |"


def seconds(value: float | None) -> str:
    """Return a time for people: milliseconds below a second, `-` for none."""
    if value is None:
        return "-"
    if value < 0.0995:
        return f"{value * 1000:.1f} ms"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def mb(size: float | None) -> str:
    """Return bytes as megabytes."""
    return "-" if size is None else f"{size / 1e6:.0f} MB"


def times(value: float | None) -> str:
    """Return a ratio."""
    return "-" if value is None else f"{value:.2f}x"


def exponent(value: float | None) -> str:
    """Return an exponent as text."""
    return "" if value is None else f"{value:+.2f}"


def machine(stage: Stage, command: Sequence[str]) -> dict[str, Any]:
    """Return what the figures depend on, and the command that was run."""
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": " ".join(command),
        "commit": _output("git", "describe", "--always", "--dirty"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_at_start": list(os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgresql": stage.postgresql,
        "peers": stage.peers.versions(),
    }


def headline(facts: Mapping[str, Any]) -> str:
    """Return the machine's facts in a few lines."""
    ends = facts.get("load_at_end")
    load = f"load {facts['load_at_start'][0]:.1f} at the start" + (f", {ends[0]:.1f} at the end" if ends else "")
    peers = ", ".join(f"{name} {version}" for name, version in facts["peers"].items()) or "none"
    return (
        f"{facts['command']}\n"
        f"{facts['cores']} cores, {facts['cpu']}; {facts['system']}; {load}\n"
        f"Python {facts['python']}; PostgreSQL {facts['postgresql']}; commit {facts['commit']}; {facts['at']}\n"
        f"peers: {peers}\n"
    )


def markdown(facts: Mapping[str, Any], sections: Mapping[str, Sequence[Section]]) -> str:
    """Return all tables as Markdown."""
    parts = ["```\n" + headline(facts) + "```\n"]
    parts += [section.markdown() for group in sections.values() for section in group]
    return "\n".join(parts)


def write(path: Path, facts: Mapping[str, Any], sections: Mapping[str, Sequence[Section]]) -> None:
    """Write everything as JSON."""
    content = {
        "machine": facts,
        "scenarios": {name: [asdict(part) for part in group] for name, group in sections.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def read(path: Path) -> tuple[dict[str, Any], dict[str, list[Section]]]:
    """Read what `write` has written: return the facts and the sections."""
    content = json.loads(path.read_text())
    sections = {
        name: [
            Section(**{**part, "columns": tuple(part["columns"]), "rows": [tuple(row) for row in part["rows"]]})
            for part in group
        ]
        for name, group in content["scenarios"].items()
    }
    return content["machine"], sections


def default_path() -> Path:
    """Return the path of a new file in results/, named after the time."""
    return RESULTS / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.json"


def _output(*argv: str) -> str | None:
    """Return what a program prints, or None if there is no such program or it fails."""
    program = shutil.which(argv[0])
    if program is None:
        return None
    done = subprocess.run([program, *argv[1:]], cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
