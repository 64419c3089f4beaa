"""The findings of `check` for programs that track them: SARIF (GitHub, IDEs) and Code Quality (GitLab).

Both compare with an earlier report, so each finding has a fingerprint that does not change when lines move. Notes need
no correction and would stay open forever: in SARIF they are notifications of the run, and Code Quality omits them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from urllib.parse import quote

from entrypoint import __version__
from entrypoint.operations.display import writable
from entrypoint.operations.silence import way_out
from entrypoint.redaction import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from entrypoint.errors import EntrypointError
    from entrypoint.operations.findings import Finding, Report

_SARIF = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_SEVERITIES = {"error": "critical", "warning": "major"}
_MEANINGS = {
    "error": "An error in a migration file: a start would refuse it, or fail.",
    "warning": "What would hurt under traffic, or during a rollout.",
}
_HELP = "docs/commands/check.md of pg-entrypoint explains what is checked."


def as_sarif(report: Report) -> str:
    """Return a report as SARIF 2.1.0, with what GitHub's code scanning requires."""
    counted = [finding for finding in report.findings if finding.level != "note" and finding.file is not None]
    rules = {finding.rule: finding for finding in reversed(counted)}
    names = list(rules)
    told = [
        {
            "descriptor": {"id": finding.rule},
            "level": finding.level,
            "message": {"text": _message(finding)},
            **_locations(finding),
        }
        for finding in report.findings
        if finding not in counted
    ]
    results = [
        {
            "ruleId": finding.rule,
            "ruleIndex": names.index(finding.rule),
            "level": finding.level,
            "message": {"text": _message(finding)},
            **_locations(finding),
            "partialFingerprints": {"entrypointCheck/v1": fingerprint},
        }
        for finding, fingerprint in _with_fingerprints(counted)
    ]
    invocation = {"executionSuccessful": True, "toolExecutionNotifications": told}
    return _sarif(invocation, results, [_rule(finding) for finding in rules.values()])


def failure_as_sarif(error: EntrypointError) -> str:
    """Return a report without results for a check that failed, with the reason."""
    told = {
        "descriptor": {"id": error.event},
        "level": "error",
        "message": {"text": "\n".join(visible(text) for text in (error.message, error.remedy) if text)},
    }
    return _sarif({"executionSuccessful": False, "toolConfigurationNotifications": [told]}, [], [])


def _sarif(invocation: dict[str, Any], results: list[dict[str, Any]], rules: list[dict[str, Any]]) -> str:
    run = {
        "tool": {"driver": {"name": "pg-entrypoint", "version": __version__, "rules": rules}},
        "columnKind": "unicodeCodePoints",
        "invocations": [invocation],
        "results": results,
    }
    return json.dumps({"$schema": _SARIF, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def as_codequality(report: Report) -> str:
    """Return a report as GitLab's Code Quality: a list of objects with its documented fields."""
    counted = [finding for finding in report.findings if finding.level != "note"]
    answer = [
        {
            "description": _message(finding),
            "check_name": finding.rule,
            "fingerprint": fingerprint,
            "severity": _SEVERITIES[finding.level],
            # A finding that is not about a file (MIGRATION_COMMAND) must have a position, too.
            "location": {"path": writable(finding.file or "."), "lines": {"begin": finding.line or 1}},
        }
        for finding, fingerprint in _with_fingerprints(counted)
    ]
    return json.dumps(answer, indent=2) + "\n"


def _rule(finding: Finding) -> dict[str, Any]:
    """Describe the rule of a finding."""
    way = way_out(finding, finding.rule)
    return {
        "id": finding.rule,
        "shortDescription": {"text": finding.rule.replace("-", " ")},
        "fullDescription": {"text": _MEANINGS[finding.level]},
        "help": {"text": f"{_HELP} {way[:1].upper()}{way[1:]}.".removesuffix(" .")},
        "defaultConfiguration": {"level": finding.level},
    }


def _message(finding: Finding) -> str:
    return "\n".join(visible(text) for text in (finding.message, finding.remedy) if text)


def _locations(finding: Finding) -> dict[str, Any]:
    if finding.file is None:
        return {}
    path = Path(finding.file)
    # An absolute path is outside the repository.
    artifact = (
        {"uri": path.as_uri()}
        if path.is_absolute()
        else {"uri": quote(os.fsencode(finding.file)), "uriBaseId": "%SRCROOT%"}
    )
    place: dict[str, Any] = {"artifactLocation": artifact}
    region = {"startLine": finding.line, "startColumn": finding.column}
    if finding.line is not None:
        place["region"] = {name: value for name, value in region.items() if value is not None}
    return {"locations": [{"physicalLocation": place}]}


def _with_fingerprints(findings: Iterable[Finding]) -> Iterator[tuple[Finding, str]]:
    """Yield each finding with its fingerprint: of its file, its rule, and the text of the line.

    The line's number is not part of it. Findings with the same values are numbered.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    texts: dict[str, list[str]] = {}
    for finding in findings:
        name = finding.file or ""
        if name not in texts:
            texts[name] = _lines_of(name)
        # Without a line, only the message distinguishes findings.
        said = finding.message if finding.line is None else "".join(texts[name][finding.line - 1 : finding.line])
        known = (name, finding.rule, " ".join(said.split()))
        seen[known] += 1
        whole = "\0".join((*known, str(seen[known])))
        yield finding, hashlib.sha256(whole.encode(errors="surrogateescape")).hexdigest()


def _lines_of(name: str) -> list[str]:
    path = Path(name)
    try:
        # It may not be a regular file: reading a named pipe would block.
        return path.read_bytes().decode(errors="replace").split("\n") if path.is_file() else []
    except OSError:
        return []
