"""Comments that silence warnings of `check` about what is intended. They are those of the linter."""

from __future__ import annotations

from entrypoint.migration.script import contraction, ignoring, repetition
from entrypoint.migration.script.rollout import REQUIRES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.migration.script.prepare import Prepared
    from entrypoint.operations.findings import Finding

# The program's own warnings about files. The linter does not know them, so this module reads the comments.
OWN_WARNINGS = frozenset({
    contraction.RULE, repetition.RULE, REQUIRES,
    "commit-in-block", "idle-commit", "out-of-order", "refresh", "repack-concurrently",
})  # fmt: skip
# Its errors. A comment that names one gets a warning that it has no effect.
OWN_ERRORS = frozenset({
    "changed", "command", "content", "encoding", "floor", "name", "number", "number-taken", "order", "origin",
    "repeatable", "replaces", "rollback", "syntax", "unreadable",
})  # fmt: skip


def way_out(finding: Finding, rule: str) -> str:
    """Return how to silence a finding; empty if it cannot be silenced. `rule`: the rule as it is written there."""
    if finding.level != "warning" or finding.file is None:
        return ""
    if finding.line is None:
        return f'write "-- squawk-ignore-file {rule}" in a file where this is intended'
    return f'write "-- squawk-ignore {rule}" above a statement where this is intended'


def is_excepted(finding: Finding, prepared: Prepared | None) -> bool:
    """Return whether a comment in the file silences one of our warnings."""
    if prepared is None or finding.level != "warning" or finding.rule not in OWN_WARNINGS:
        return False
    ignored = ignoring.ignored_at(prepared.text, prepared.advice.statements, finding.line, finding.column)
    return bool(ignored & {finding.rule, ignoring.EVERY})
