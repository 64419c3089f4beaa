"""Findings about migration files, and their formats: for people, for programs and for GitHub."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from entrypoint.counts import count
from entrypoint.errors.migration import MigrationFilesError
from entrypoint.operations.display import writable
from entrypoint.operations.silence import way_out
from entrypoint.redaction import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

    Level = Literal["error", "warning", "note"]
    Format = Literal["text", "json", "github", "sarif", "codequality"]

# GitHub calls a note a notice; the other levels have the same names.
_COMMANDS = {"note": "notice"}


class Finding(NamedTuple):
    """One finding about a file, or about the check itself."""

    level: Level
    """`error`: nothing would run. `warning`: it is risky. `note`: good to know; nothing to do."""
    rule: str
    message: str
    file: str | None = None
    """The path as a user would type it here; None if it is not about a file."""
    line: int | None = None
    """Counted from 1."""
    column: int | None = None
    """In characters, counted from 1."""
    remedy: str | None = None
    excerpt: tuple[str, ...] = ()
    """The line of the file, with a caret below it."""


class Report(NamedTuple):
    """What `check` found."""

    findings: tuple[Finding, ...]
    subject: str
    """What was checked, in words: `12 migrations in migrations`."""

    def count(self, level: Level) -> int:
        """Return how many findings have this level."""
        return sum(finding.level == level for finding in self.findings)

    def judge(self, *, strict: bool) -> None:
        """Raise MigrationFilesError if there are errors; if `strict`, also if there are warnings."""
        faults, warnings = self.count("error"), self.count("warning")
        if not faults and not (strict and warnings):
            return
        raise MigrationFilesError(
            f"{count(faults, 'error')} in the migration files"
            if faults
            else f"{count(warnings, 'warning')} in the migration files, and --strict treats warnings as errors",
            faults=(),
            remedy="Correct the files." if faults else self._way_out(),
        )

    def _way_out(self) -> str:
        """Return what to do about the warnings. Some can be silenced, if they are about something intended."""
        ways = {way_out(finding, "RULE") for finding in self.findings if finding.level == "warning"} - {""}
        return f"Change the files, or {', or '.join(sorted(ways))}." if ways else "Follow the warnings."


def render(report: Report, style: Format) -> str:
    """Return a report in one of the formats."""
    renderers: dict[Format, Callable[[Report], str]] = {"text": as_text, "json": as_json, "github": as_github}
    if style not in renderers:
        from entrypoint.operations.machine_reports import as_codequality, as_sarif

        renderers |= {"sarif": as_sarif, "codequality": as_codequality}
    return writable(renderers[style](report))


def as_text(report: Report) -> str:
    """Return a line for each finding, with its details below, and a summary at the end."""
    lines = [line for finding in report.findings for line in describe(finding)]
    faults, warnings = report.count("error"), report.count("warning")
    result = count(faults, "error") if faults else "no errors"
    lines.append(f"{visible(report.subject)}: {result}" + (f", {count(warnings, 'warning')}" if warnings else ""))
    return "\n".join(lines) + "\n"


def describe(finding: Finding, *, place: str | None = None) -> list[str]:
    """Return a finding as lines for a person. `place`: replaces the file and the position in it."""
    if place is None:
        place = ":".join(str(part) for part in (finding.file, finding.line, finding.column) if part is not None)
    # Only warnings can be silenced, for which the rule's name is needed.
    rule = f" [{finding.rule}]" if finding.level == "warning" else ""
    lines = [visible(f"{f'{place}: ' if place else ''}{finding.level}: {finding.message}{rule}")]
    lines += [f"    {visible(line)}" for line in finding.excerpt]
    if finding.remedy:
        lines.append(f"    {visible(finding.remedy)}")
    return lines


def as_json(report: Report) -> str:
    """Return a list of objects with the same keys; unknown values are null."""
    return json.dumps([documented(finding) for finding in report.findings], indent=2) + "\n"


def documented(finding: Finding) -> dict[str, object]:
    """Return a finding as an object for programs."""
    return {
        "file": finding.file and writable(finding.file),
        "line": finding.line,
        "column": finding.column,
        "level": finding.level,
        "rule": finding.rule,
        "message": writable(finding.message),
        "remedy": finding.remedy and writable(finding.remedy),
    }


def as_github(report: Report) -> str:
    """Return workflow commands, with which GitHub shows each finding at its line in the pull request."""
    return "".join(f"{_workflow_command(finding)}\n" for finding in report.findings)


def _workflow_command(finding: Finding) -> str:
    properties = {"file": finding.file, "line": finding.line, "col": finding.column, "title": finding.rule}
    written = ",".join(
        f"{name}={_escape_property(str(value))}" for name, value in properties.items() if value is not None
    )
    message = "\n".join(visible(text) for text in (finding.message, finding.remedy) if text)
    return f"::{_COMMANDS.get(finding.level, finding.level)} {written}::{_escape(message)}"


def _escape(text: str) -> str:
    """Escape as GitHub's own toolkit does (actions/toolkit, command.ts, escapeData)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    """Escape as GitHub's own toolkit does (actions/toolkit, command.ts, escapeProperty)."""
    return visible(_escape(text)).replace(":", "%3A").replace(",", "%2C")


def shown_path(path: str, current: str) -> str:
    """Return `path` relative to the directory `current` if it is below it, as GitHub and editors expect."""
    relative = os.path.relpath(path, current)
    return path if relative.startswith(os.pardir) else relative


def sorted_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings about one file in the order of their positions, those without a position first."""
    return sorted(findings, key=lambda finding: (finding.line or 0, finding.column or 0))
