"""The output of `migrate --dry-run`, for people and for programs. Pure functions."""

from __future__ import annotations

from entrypoint.counts import count
from entrypoint.migration.apply.repeating import name_of
from entrypoint.migration.script.directives import spell_batch, spell_rollout, spell_timeouts
from entrypoint.migration.script.report import outline
from entrypoint.operations import for_programs
from entrypoint.operations.check import describe_left_out, describe_units, unless, why_outside
from entrypoint.operations.findings import describe, documented
from entrypoint.redaction import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from entrypoint.errors import EntrypointError
    from entrypoint.migration.script.prepare import Prepared
    from entrypoint.operations.dry_run import Commanded, Foreseen, PlannedFile, PlannedRepeatables

# Show at most this many statements of a file; files with sample data may have thousands.
_SHOWN = 20


def as_text(found: Foreseen) -> str:
    """Return the report for a person."""
    lines = list(_about_adopted(found))
    repeated = list(_about_repeatables(found.repeated))
    command = _about_command(found.command)
    later = [f"After the rollout (entrypoint migrate --phase after): {name}" for name in found.outstanding]
    if not found.planned:
        nothing = [] if repeated or command else ["Nothing is pending."]
        return "".join(f"{line}\n" for line in [*lines, *repeated, *command, *nothing, *later])
    lines.append(f"{count(len(found.planned), 'migration')} would run:")
    for planned in found.planned:
        lines += _about(planned)
    if found.stop is not None:
        lines.append(f"It would stop before {found.stop.before}: {visible(found.stop.error.message)}")
        lines.append(f"  Fix: {visible(found.stop.error.remedy or '')}")
    if found.obstacle is not None:
        lines.append(f"Then it would stop: {visible(found.obstacle.message)}")
    lines += repeated
    if found.obstacle is None and found.stop is None and command:
        lines += ["Then:", *(f"  {line}" for line in command)]
    lines += later
    lines += [] if found.note is None else describe(found.note)
    if found.unadopted is not None:
        lines.append(f"Note: {visible(found.unadopted)}.")
    return "\n".join(lines) + "\n"


def _about_adopted(found: Foreseen) -> Iterator[str]:
    if found.adopted:
        these, them = count(len(found.adopted), "migration"), "it" if len(found.adopted) == 1 else "them"
        yield f"{these} would be recorded as completed, because {found.tool} has applied {them}:"
    yield from (f"  {visible(name)}" for name in found.adopted)


def as_json(found: Foreseen | None, error: EntrypointError | None = None) -> str:
    """Return the report for a program; without `found`, it contains only the error."""
    if found is None:
        return for_programs.document({"migrations": []}, error)
    command = found.command
    obstacle = found.stop.error if found.stop else found.obstacle
    answer = {
        "currentVersion": found.current,
        "latestVersion": found.latest,
        "migrations": [_documented(planned) for planned in found.planned],
        "stopsBefore": found.stop and found.stop.before,
        "obstacle": for_programs.obstacle(obstacle),
        "adopted": list(found.adopted),
        "repeatables": [{"name": name_of(one), "how": _how(one)} for one in found.repeated.due],
        "superseded": list(found.repeated.superseded),
        "repeatablesHeldBackBy": found.repeated.newer,
        "command": command and {"command": command.command, "pending": command.pending, "why": command.why},
        "outstanding": list(found.outstanding),
        "linted": bool(found.planned) and found.note is None,
        "otherHistory": found.unadopted,
    }
    return for_programs.document(answer, error)


def _documented(planned: PlannedFile) -> dict[str, object]:
    migration = planned.migration
    return {
        "number": migration.file.number,
        "filename": migration.file.name,
        "statements": len(migration.advice.statements),
        "how": _how(migration),
        "outline": _statements(migration),
        "outOfOrder": planned.behind is not None,
        "goesOn": planned.goes_on or None,
        "findings": [documented(finding) for finding in planned.findings],
    }


def _about(planned: PlannedFile) -> Iterator[str]:
    migration = planned.migration
    order = "" if planned.behind is None else f", after {planned.behind:03d} was applied"
    yield f"  {migration.file.name}  ({_size(migration)}, {_how(migration)}{order})"
    if planned.goes_on:
        yield f"    {visible(planned.goes_on)}:"
    yield from (f"      {line}" for line in _statements(migration))
    for finding in planned.findings:
        place = None if finding.line is None else f"line {finding.line}"
        yield from (f"    {line}" for line in describe(finding, place=place))


def _about_repeatables(repeated: PlannedRepeatables) -> Iterator[str]:
    if repeated.due:
        these = count(len(repeated.due), "repeatable file")
        yield f"{these} would be applied after the migrations, in one transaction:"
    for one in repeated.due:
        yield f"  {one.file.name}  ({_size(one)}, {_how(one)})"
    for name in repeated.superseded:
        yield f"repeatable/{name}.sql would not be applied: another image has replaced this text"
    if repeated.newer is not None:
        yield f"Nothing in repeatable/ would be applied: an image with migration {repeated.newer} has run here"


def _about_command(command: Commanded | None) -> list[str]:
    if command is None:
        return []
    would = "would run" if command.pending else "would not run"
    return [f"{visible(command.command)} {would}: {visible(command.why)}."]


def _size(migration: Prepared) -> str:
    statements = migration.advice.statements
    return count(len(statements), "statement") if statements else "empty"


def _how(migration: Prepared) -> str:
    """Return how a file runs: in which transaction, if any, what is left out, and what it declares."""
    advice = migration.advice
    if advice.batched:
        how = spell_batch(advice.directives)
    elif advice.units:
        how = f"{describe_units(migration)}: {advice.units}"
    elif advice.merged:
        how = f"one transaction, {describe_left_out(migration)}{unless(advice)}"
    elif not advice.transactional:
        how = f"outside a transaction: {why_outside(migration)}"
    else:
        how = f"one transaction{', without its own BEGIN and COMMIT' if advice.wrapped else ''}"
    left_out = ", ".join(dict.fromkeys(command.shown for command in advice.commands))
    without = f"without psql's {left_out}" if left_out else ""
    return ", ".join(
        filter(
            None,
            (how, without, spell_timeouts(advice.directives), spell_rollout(advice.directives.rollout)),
        )
    )


def _statements(migration: Prepared) -> list[str]:
    """Return the first line of each statement, up to a limit."""
    statements = migration.advice.statements
    shown = [outline(migration.advice.source[statement.start : statement.end]) for statement in statements[:_SHOWN]]
    return shown if len(statements) <= _SHOWN else [*shown, f"… and {len(statements) - _SHOWN} more"]
