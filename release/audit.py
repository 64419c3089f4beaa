"""Are there packages with known vulnerabilities among those that are pinned? pip-audit asks the database of OSV.

Where the database cannot be reached, that is no answer: it is said loudly, and is an error only for `--strict`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from release.problems import ReleaseError


@dataclass
class Findings:
    """What an audit came to."""

    packages: int = 0
    """How many were looked up."""
    vulnerable: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """What could not be looked up, and why."""

    def report(self, *, strict: bool) -> int:
        """Print it, and return the exit code."""
        for line in self.vulnerable:
            print(f"VULNERABLE: {line}")
        if self.vulnerable:
            print("Fix: raise the floor in pyproject.toml if it allows this version, then run `make requirements`.")
        for line in self.unknown:
            print(f"NOT AUDITED: {line}")
        if not self.vulnerable and not self.unknown:
            print(f"no known vulnerabilities in {self.packages} pinned packages")
        return int(bool(self.vulnerable or (strict and self.unknown)))


def audit(files: list[Path], url: str | None = None) -> Findings:
    """Look up each package of the files of pinned requirements; `url` is another address of OSV's API."""
    findings = Findings()
    for file in files:
        report, trouble = _ask(file, url)
        if report is None:
            # The other files would wait for the same.
            findings.unknown.append(f"{', '.join(map(_name, files[files.index(file) :]))}: {trouble}")
            break
        _read(report, file, findings)
    return findings


def _name(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


def _ask(file: Path, url: str | None) -> tuple[dict[str, Any] | None, str]:
    """Return pip-audit's report; or none, and its last words. Its exit code says the same for both."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--disable-pip", "--no-deps"]
        command += [
            "--progress-spinner",
            "off",
            "--format",
            "json",
            "--output",
            str(output),
            "--requirement",
            str(file),
        ]
        command += ["--osv-url", url] if url else []
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if output.exists():
            return json.loads(output.read_text()), ""
    words = done.stderr.strip().splitlines() or ["pip-audit said nothing"]
    if "ValueError" in words[-1] or "Requirement" in words[-1]:
        raise ReleaseError(f"{_name(file)}: {words[-1]}")
    return None, f"the database of vulnerabilities does not answer ({words[-1][:160]})"


def _read(report: dict[str, Any], file: Path, findings: Findings) -> None:
    for package in report["dependencies"]:
        name = f"{package['name']} {package.get('version', '')}".strip()
        if reason := package.get("skip_reason"):
            findings.unknown.append(f"{_name(file)}: {name}: {reason}")
            continue
        findings.packages += 1
        for one in package["vulns"]:
            ids = " ".join([one["id"], *one.get("aliases", ())])
            fixed = ", ".join(one["fix_versions"]) or "no version yet"
            findings.vulnerable.append(f"{_name(file)}: {name}: {ids}; fixed in {fixed}")
