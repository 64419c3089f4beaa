"""How somebody says that what `check` warns of is meant that way: by comments, which are the linter's own."""

from __future__ import annotations

from entrypoint.migration.script import contraction, ignoring, repetition
from entrypoint.migration.script.rollout import REQUIRES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.migration.script.prepare import Prepared
    from entrypoint.operations.findings import Finding

# The program's own warnings about what is in files. The linter does not know them, so comments are looked for here.
OWN_WARNINGS = frozenset({
    contraction.RULE, repetition.RULE, REQUIRES,
    "commit-in-block", "idle-commit", "out-of-order", "refresh", "repack-concurrently",
})  # fmt: skip
# Its errors. A comment that names one is told that it changes nothing.
OWN_ERRORS = frozenset({
    "changed", "command", "content", "encoding", "floor", "name", "number", "number-taken", "order", "origin",
    "repeatable", "replaces", "rollback", "syntax", "unreadable",
})  # fmt: skip


def way_out(finding: Finding, rule: str) -> str:
    """Return how somebody says that it is meant that way; empty if nobody can. `rule`: how the rule is written."""
    if finding.level != "warning" or finding.file is None:
        return ""
    if finding.line is None:
        return f'write "-- squawk-ignore-file {rule}" in a file where this is intended'
    return f'write "-- squawk-ignore {rule}" above a statement where this is intended'


def is_excepted(finding: Finding, prepared: Prepared | None) -> bool:
    """Tell whether a comment in the file excepts what one of our warnings is about."""
    if prepared is None or finding.level != "warning" or finding.rule not in OWN_WARNINGS:
        return False
    ignored = ignoring.ignored_at(prepared.text, prepared.advice.statements, finding.line, finding.column)
    return bool(ignored & {finding.rule, ignoring.EVERY})
