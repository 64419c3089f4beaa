"""The summary at the end of a test run: what it did not test and why, and what its slowest tests are for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pytest

NOT_TESTED = "NOT TESTED HERE: "
"""The beginning of a skipped test's reason if this machine lacks something. Other reasons apply to every machine."""

_SLOWEST = 20
# With fewer tests, it is obvious what takes time.
_MANY = 500


def summarize(reporter: pytest.TerminalReporter) -> None:
    """List the slowest tests, those skipped because this machine lacks something, and those with other reasons."""
    _list_slowest(reporter)
    skipped = [_reason(report) for report in reporter.stats.get("skipped", [])]
    on_any = [reason for reason in skipped if NOT_TESTED not in reason]
    if on_any:
        reporter.section("skipped")
        for line in counted(on_any):
            reporter.line(line)
    here = [reason.partition(NOT_TESTED)[2] for reason in skipped if NOT_TESTED in reason]
    if here:
        reporter.section("not tested on this machine", yellow=True, bold=True)
        for line in counted(here):
            reporter.line(line, yellow=True)


def counted(reasons: Iterable[str]) -> list[str]:
    """Return a line for each reason, with the number of tests skipped for it, the largest number first."""
    counts = sorted(Counter(reasons).items(), key=lambda entry: (-entry[1], entry[0]))
    return [f"{count:4} tests: {reason}" for reason, count in counts]


def _reason(report: pytest.TestReport) -> str:
    return report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""


def _list_slowest(reporter: pytest.TerminalReporter) -> None:
    reports: Sequence[pytest.TestReport] = [
        report
        for outcome in ("passed", "failed")
        for report in reporter.stats.get(outcome, [])
        if report.when == "call"
    ]
    if len(reports) < _MANY:
        return
    reporter.section(f"the slowest {_SLOWEST}, and what they are for")
    for report in sorted(reports, key=lambda report: report.duration, reverse=True)[:_SLOWEST]:
        purpose = dict(report.user_properties).get("purpose", "")
        reporter.line(f"{report.duration:6.1f} s  {report.nodeid.removeprefix('tests/')}: {purpose}")
