"""The output of `import`: what was imported, what was not and why, and the findings of `check`. Pure functions."""

from __future__ import annotations

import os

from entrypoint.counts import count
from entrypoint.migration.script.files import REPEATABLES
from entrypoint.operations.findings import describe
from entrypoint.operations.importing import tools
from entrypoint.redaction import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from entrypoint.operations.import_ import Imported


def render(imported: Imported) -> str:
    """Return the report as text."""
    text = "\n".join(_lines(imported)) + "\n"
    # File names may contain lone surrogates, which no output accepts.
    return text.encode("utf-8", "backslashreplace").decode()


def _lines(imported: Imported) -> Iterator[str]:
    wishes, plan = imported.wishes, imported.plan
    tool = tools.shown_tool(wishes.tool)
    backs = {os.path.basename(target.path): target.path for target in plan.backs}
    for target in plan.files:
        to = [os.path.join(wishes.into, path) for path in (target.path, backs.get(target.path)) if path]
        how = " (outside a transaction)" if target.part.no_transaction else ""
        yield visible(f"{os.path.join(wishes.directory, target.part.path)} -> {', '.join(to)}{how}")
    if plan.anew:
        yield visible(f"Renumbered in the order {tool} runs them: {plan.anew}.")
    if plan.unwritten:
        yield "Write by hand:"
    for missing in plan.unwritten:
        why = missing.migration.why
        where = os.path.join(wishes.into, missing.path)
        if why is not None:
            yield visible(f"  {os.path.join(wishes.directory, missing.migration.source)}: {why.reason}")
            yield visible(f"    {why.remedy}, into {where}, below the line: {missing.header[0]}")
    if imported.left:
        yield "Not imported:"
    for left in imported.left:
        yield visible(f"  {os.path.join(wishes.directory, left.source)}: {left.why.reason}")
        yield visible(f"    {left.why.remedy}")
    if repeated := sum(target.path.startswith(f"{REPEATABLES}/") for target in plan.files):
        yield visible(
            f"{count(repeated, 'file')} in {os.path.join(wishes.into, REPEATABLES)}: the next start applies "
            f"{'it' if repeated == 1 else 'them'} whatever {tool} has applied, and again after each change."
        )
    for finding in imported.report.findings:
        if finding.level != "note":
            yield from describe(finding)
    if imported.plan.files and not wishes.dry_run:
        yield f"For a database that {tool} has migrated: entrypoint adopt --from {wishes.tool}"
    yield visible(_sum(imported))


def _sum(imported: Imported) -> str:
    report = imported.report
    faults, warnings = report.count("error"), report.count("warning")
    result = count(faults, "error") if faults else "no errors"
    said = f"{report.subject}: {result}" + (f", {count(warnings, 'warning')}" if warnings else "")
    return f"{said}; nothing was written (--dry-run)" if imported.wishes.dry_run else said
