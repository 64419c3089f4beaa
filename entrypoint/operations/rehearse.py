"""`migrate --rehearse`: run everything pending on the real database, and roll it back."""

from __future__ import annotations

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.errors import EntrypointError
from entrypoint.migration.operator.rehearsal import MODES, rehearse
from entrypoint.operations import for_programs
from entrypoint.operations.display import clean, duration
from entrypoint.operations.whereabouts import whereabouts
from entrypoint.startup import refuse_below_floor, repeats_on, tell_differences
from entrypoint.survey import assign, refuse_read_only, survey_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.migration.operator.rehearsal import HeldLock, Rehearsal
    from entrypoint.migration.operator.trial import Rehearsed
    from entrypoint.settings import Settings

INCOMPLETE = 10
"""Nothing has failed, but not everything was rehearsed. `status --exit-code` uses this code for pending."""

# What each lock blocks: PostgreSQL's documentation, "Table-Level Locks".
_BLOCKS = {
    "RowShareLock": "blocks nothing but other schema changes",
    "RowExclusiveLock": "blocks nothing but other schema changes",
    "ShareUpdateExclusiveLock": "blocks VACUUM and other schema changes",
    "ShareLock": "blocks writing",
    "ShareRowExclusiveLock": "blocks writing",
    "ExclusiveLock": "blocks writing",
    "AccessExclusiveLock": "blocks reading and writing",
}


def print_rehearsal(
    settings: Settings, write: Callable[[str], object], *, up_to: int | None, after: bool = False, json: bool = False
) -> int:
    """Rehearse, print a report, and return the exit code: `INCOMPLETE` if not everything could be rehearsed.

    `json`: print JSON instead, even on failure. Raises the EntrypointError with which a start would fail.
    """
    rehearsed: list[Rehearsed] = []
    try:
        result = _rehearse(settings, rehearsed, up_to, after=after)
    except BaseException as error:
        if json and isinstance(error, EntrypointError):
            write(as_json(None, rehearsed, error))
        elif rehearsed and not json:
            headline = f"Rehearsed and rolled back before the error: {count(len(rehearsed), 'migration')}."
            write(whereabouts(settings.role).line + _list(headline, rehearsed))
        raise
    if result is None or not (rehearsed or result.left or result.obstacle):
        nothing = "Nothing is pending, so there is nothing to rehearse.\n"
        write(as_json(None, rehearsed) if json else whereabouts(settings.role).line + nothing)
        return 0
    write(as_json(result, rehearsed) if json else whereabouts(settings.role).line + as_text(result, rehearsed))
    if result.left:
        reasons = "; ".join(filter(None, (*result.passed_over, result.why)))
        logs.event(
            logs.WARNING,
            "rehearsal.incomplete",
            f"{count(len(result.left), 'migration was', 'migrations were')} not rehearsed: {reasons}",
            files=list(result.left),
        )
    if result.obstacle is not None:
        raise result.obstacle
    return INCOMPLETE if result.left else 0


def _rehearse(settings: Settings, rehearsed: list[Rehearsed], up_to: int | None, *, after: bool) -> Rehearsal | None:
    """Rehearse; return None if nothing is pending. Adds what succeeded to `rehearsed`. Raises EntrypointError."""
    survey = survey_database(settings, up_to=up_to, after=after)
    if survey.verdict is not None and survey.verdict.pending:
        logs.event(
            logs.WARNING,
            "rehearsal.command",
            "MIGRATION_COMMAND is pending and cannot be rehearsed, because what it commits cannot be rolled back",
        )
    try:
        refuse_below_floor(survey.plan, survey.place.schema)
        tell_differences(survey.directory, survey.plan)
        repeats = repeats_on(survey, settings, up_to)
        if not survey.plan.pending and not (repeats is not None and repeats.due):
            return None
        refuse_read_only(survey, f"{count(len(survey.plan.pending), 'migration is', 'migrations are')} pending")
        assignment = assign(settings, survey, up_to, after=after, repeats=repeats)
        return rehearse(assignment, survey.plan, survey.session, survey.place, rehearsed)
    finally:
        survey.session.close()


def as_json(result: Rehearsal | None, rehearsed: list[Rehearsed], error: EntrypointError | None = None) -> str:
    """Return the report for a program. Without a result, nothing was pending, or there is an `error`."""
    left = () if result is None else result.left
    answer = {
        "complete": error is None and not left,
        "rehearsed": [
            {
                "number": done.version,
                "filename": done.file,
                "milliseconds": round(done.seconds * 1000),
                "statements": done.statements,
                "notices": [{"severity": one.severity, "message": clean(one.message)} for one in done.notices],
            }
            for done in rehearsed
        ],
        "left": list(left),
        "reasons": [] if result is None else list(filter(None, (*result.passed_over, result.why))),
        "locks": [
            {"relation": lock.relation, "mode": MODES[lock.mode], "blocks": _BLOCKS[lock.mode], "since": lock.file}
            for lock in (() if result is None else result.locks)
        ],
        "sequences": [] if result is None else list(result.sequences),
        "obstacle": for_programs.obstacle(result and result.obstacle),
    }
    return for_programs.document(answer, error or (result and result.obstacle))


def as_text(result: Rehearsal, rehearsed: list[Rehearsed]) -> str:
    """Return the report."""
    if rehearsed:
        these = f"{len(rehearsed)} of {count(len(rehearsed) + len(result.left), 'migration')}"
        rest = f"; {len(result.left)} not rehearsed" if result.left else ""
        text = _list(f"Rehearsed {these} in one transaction, and rolled it back{rest}:", rehearsed)
    else:
        text = "Nothing could be rehearsed.\n"
    if result.passed_over:
        text += f"\nPassed over: {'; '.join(result.passed_over)}. No rehearsed file uses what they create.\n"
    if result.why:
        passed = {why.partition(" ")[0] for why in result.passed_over}
        names = ", ".join(name for name in result.left if name not in passed)
        text += f"\nNot rehearsed: {names}. {result.why}; what comes after it may depend on it.\n"
    if rehearsed:
        text += f"\n{_locks(result.locks)}"
    if result.sequences:
        text += f"\nNot rolled back, because PostgreSQL never does: values taken from {', '.join(result.sequences)}.\n"
    return text


def _list(headline: str, rehearsed: list[Rehearsed]) -> str:
    width = max(len(done.file) for done in rehearsed)
    lines = [headline, ""]
    for done in rehearsed:
        statements = count(done.statements, "statement") if done.statements else "empty"
        lines.append(f"  {done.file:{width}}  {duration(done.seconds * 1000):>6}  {statements}")
        lines += [f"      {notice.severity}: {clean(notice.message)}" for notice in done.notices]
    return "\n".join(lines) + "\n"


def _locks(locks: tuple[HeldLock, ...]) -> str:
    if not locks:
        return "No locks on existing tables.\n"
    rows = [(clean(lock.relation), MODES[lock.mode], _BLOCKS[lock.mode], f"since {lock.file}") for lock in locks]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["Locks on existing objects at the end, strongest first:", ""]
    lines += [
        f"  {relation:{widths[0]}}  {mode:{widths[1]}}  {blocks:{widths[2]}}  {since}"
        for relation, mode, blocks, since in rows
    ]
    return "\n".join(lines) + "\n"
