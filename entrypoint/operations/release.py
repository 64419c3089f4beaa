"""Warnings of `check` about a rollout during which the previous release still runs, and about repeatable files."""

from __future__ import annotations

from entrypoint.migration.script import contraction, repetition
from entrypoint.migration.script.directives import REFRESH
from entrypoint.migration.script.report import position_of
from entrypoint.operations.findings import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from entrypoint.migration.script.files import Directory
    from entrypoint.migration.script.prepare import Prepared
    from entrypoint.migration.script.scanner import Statement


def contracting(prepared: Prepared, shown: str, *, linted: bool) -> Iterator[Finding]:
    """Yield statements that remove what the previous release still uses, in a file that does not run after the rollout.

    Skips imported files, which were applied long ago. `linted`: whether the linter was run. Then its own rules are
    left to it, because a project may have turned them off.
    """
    directives = prepared.advice.directives
    if directives.rollout.after or directives.origin is not None:
        return
    for statement, kind in contraction.contractions(prepared.text, prepared.advice.statements):
        if not (linted and kind.rules):
            message = f"{kind.what}, and replicas of the previous release may still need it during the rollout"
            yield _at(statement, prepared, contraction.RULE, message, shown, kind.recipe)


def with_recipe(finding: Finding) -> Finding:
    """Return a finding of the linter with what to do instead, if it does not say that itself."""
    recipe = next((kind.recipe for kind in contraction.KINDS if finding.rule in kind.rules), None)
    return finding._replace(remedy=finding.remedy or recipe)


def repeating(prepared: Prepared, shown: str) -> Iterator[Finding]:
    """Yield the statements of a repeatable file that cannot be repeated."""
    for statement, message, remedy in repetition.unrepeatable(prepared.text, prepared.advice.statements):
        yield _at(statement, prepared, repetition.RULE, message, shown, remedy)


def about_refresh(prepared: Prepared, shown: str, directory: Directory) -> Iterator[Finding]:
    """Yield the objects of repeatable files that a migration drops without `refresh`: nothing would recreate them."""
    names, said = {file.name for file in directory.repeatables}, prepared.advice.directives.refresh
    for statement, name, if_there in contraction.dropped(prepared.text, prepared.advice.statements):
        if name in names and not if_there:
            message = f"drops {name}, which repeatable/{name}.sql creates; in a new database it does not exist yet"
            yield _at(statement, prepared, REFRESH, message, shown, "Write DROP … IF EXISTS.")
        if name in names and name not in said:
            message = f"drops {name}, which repeatable/{name}.sql creates, and nothing would create it again"
            remedy = f"Write `-- entrypoint: {REFRESH} = {name}` at the top of the file."
            yield _at(statement, prepared, REFRESH, message, shown, remedy)


def _at(statement: Statement, prepared: Prepared, rule: str, message: str, shown: str, remedy: str) -> Finding:
    column = position_of(prepared.text, statement.start).column + 1
    return Finding("warning", rule, message, shown, statement.line, column, remedy=remedy)
