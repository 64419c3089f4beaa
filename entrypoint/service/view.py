"""What the page /admin shows, computed from a snapshot: pure functions from values to values.

The template only does the layout, and escapes markup. Every text from outside goes through `wording` here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

from entrypoint.counts import count
from entrypoint.migration.ledger.reading import BACKUP
from entrypoint.operations.status import APPLIED
from entrypoint.service import bars, wording
from entrypoint.service.work import Work, at_work, work_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Literal

    from entrypoint.operations.command_status import CommandStatus
    from entrypoint.operations.repeatable_status import Repetition
    from entrypoint.operations.status import Line, Status
    from entrypoint.service.snapshot import Snapshot, Unavailable

    Tone = Literal["good", "pending", "working", "bad", "away"]

# How many applied migrations are listed unless all are requested.
RECENT = 50

# How often an open page is updated, in milliseconds, depending on how soon something may happen.
_OFTEN, _NOW_AND_THEN, _SELDOM = 1_000, 2_000, 4_000


class State(NamedTuple):
    """A migration's state. Colour alone would not do, so it has a word and a sign."""

    label: str
    sign: str
    tone: str


_STATES = {
    "applied": State("applied", "check", "good"),
    "pending": State("pending", "dots", "pending"),
    "after": State("after the rollout", "dots", "pending"),
    "working": State("running now", "arrow", "working"),
    "running": State("interrupted", "cross", "bad"),
    "failed": State("failed", "cross", "bad"),
    "changed": State("file changed", "delta", "doubtful"),
    "missing": State("file missing", "question", "doubtful"),
    "ahead": State("newer than the files", "up", "good"),
}
_REPEATABLE_STATES = {
    "applied": State("applied", "check", "good"),
    "pending": State("pending", "dots", "pending"),
    "failed": State("failed", "cross", "bad"),
    "superseded": State("replaced by another image", "delta", "doubtful"),
    "missing": State("file missing", "question", "doubtful"),
    "ahead": State("left to a newer image", "up", "good"),
}
_NOT_APPLIED = ("pending", "after", "running", "failed")

# What each kind of problem means, and how to fix it; the most urgent first.
_PROBLEMS = {
    "failed": (
        "PostgreSQL reported an error. This file is skipped until it changes, and later files wait behind it.",
        "Correct the file and deploy it. If you have fixed the cause elsewhere:",
        "entrypoint repair --failed",
    ),
    "running": (
        "It runs outside a transaction and was interrupted.",
        "The next start continues it, or tells you what to check. To continue now:",
        "entrypoint migrate",
    ),
    "changed": (
        "The file has changed since it was applied: its checksum is different.",
        "Restore the file. If the new version is correct:",
        "entrypoint repair --checksums",
    ),
    "missing": (
        "It was applied, but its file is gone although later files are there.",
        "Restore the file. If you removed it on purpose:",
        "entrypoint repair --missing",
    ),
}
_URGENCY = tuple(_PROBLEMS)
_REPEATABLE_PROBLEM = (
    "PostgreSQL reported an error, so no repeatable file was applied. Each start tries again.",
    "Correct the file and deploy it. If you have fixed the cause elsewhere:",
    "entrypoint migrate",
)
# Commands in a remedy that can be run as they are, without anything to fill in.
_COMMAND = re.compile(
    r"\bentrypoint (?:check|migrate|repair|status|unlock)\b(?: --[a-z-]+)*(?=[.,;:)`]|\s(?![A-Z0-9<-])|$)"
)


class Entry(NamedTuple):
    """One migration."""

    number: str
    name: str
    state: State
    at: wording.Time | None
    took: str | None
    """None if it was not recorded, or has not run."""
    bar: float | None
    version: str | None


class Problem(NamedTuple):
    """A file that needs attention."""

    key: str
    """Distinguishes it from the others."""
    name: str
    state: State
    at: wording.Time | None
    what: str
    remedy: str
    command: str
    report: str | None


class RepeatableEntry(NamedTuple):
    """One file in repeatable/."""

    name: str
    state: State
    at: wording.Time | None
    """When the version now in force was applied."""
    version: str | None
    report: str | None
    """PostgreSQL's error, if it has failed."""


class Day(NamedTuple):
    """What was applied on one day, in UTC; without a date, what was applied at an unknown time."""

    label: str
    machine: str | None
    note: str
    entries: tuple[Entry, ...]


class Fact(NamedTuple):
    """A value with its name."""

    label: str
    value: str
    note: str = ""


class Page(NamedTuple):
    """Everything that the template needs."""

    tone: Tone
    headline: str
    """It changes only when something has happened, because a screen reader reads it out each time."""
    explanation: str
    fault: str | None
    """Why there is no status, or no new one."""
    remedy: str
    commands: tuple[str, ...]
    """The commands in the remedy, to be copied."""
    poll: int
    """After how many milliseconds an open page is updated."""
    facts: tuple[Fact, ...]
    strip: tuple[bars.Cell, ...]
    strip_label: str
    work: Work | None
    problems: tuple[Problem, ...]
    pending: tuple[Entry, ...]
    repeatables: tuple[RepeatableEntry, ...]
    days: tuple[Day, ...]
    scale: str
    older: int
    """How many applied migrations are not listed."""
    seen: wording.Time | None
    """When the status was read, if not just now."""


def show(snapshot: Snapshot, known: Snapshot | None = None, *, full: bool = False) -> Page:
    """Return what the page shows.

    `known` is the last snapshot with a status, shown while the new one has none. `full`: list everything that is
    applied, not only the latest.
    """
    failure = snapshot.failure
    if failure is None:
        known = snapshot
    if known is None or known.status is None:
        return _nothing(failure)
    status = known.status
    tone, headline, explanation = _verdict(status)
    if failure is not None:
        tone, headline = "away", _away(failure)
        explanation = "Below is what this service last saw. The page keeps trying."
    lines = status.lines
    done = [line for line in lines if line.state in APPLIED]
    shown = sorted(done, key=_recency, reverse=True)[: None if full else RECENT]
    scale = bars.scale(line.milliseconds for line in shown)
    # An old answer about the lock is worthless.
    work = work_of(status, known.statement, known.waiting) if failure is None else None
    return Page(
        tone=tone,
        headline=headline,
        explanation=explanation,
        fault=failure and wording.report(failure.message),
        remedy=wording.report(failure.remedy) if failure else "",
        commands=_commands_in(failure),
        poll=_poll(tone),
        facts=_facts(status, done, "unknown" if failure else _lock_word(status, work)),
        strip=bars.strip([_state(line, status).tone for line in lines]),
        strip_label=_strip_label(status, lines),
        work=work,
        problems=_problems(lines, status),
        pending=tuple(_entry(line, status) for line in lines if line.state in _NOT_APPLIED),
        repeatables=tuple(map(_repeatable, status.repeatables)),
        days=tuple(_days(shown, status, scale)),
        scale=_scale_words(scale),
        older=len(done) - len(shown),
        seen=wording.time(datetime.fromtimestamp(known.taken, UTC)) if failure else None,
    )


def _nothing(failure: Unavailable | None) -> Page:
    return Page(
        tone="away",
        headline=_away(failure),
        explanation="This service has not seen the database since it started. The page keeps trying.",
        fault=failure and wording.report(failure.message),
        remedy=wording.report(failure.remedy) if failure else "",
        commands=_commands_in(failure),
        poll=_poll("away"),
        facts=(), strip=(), strip_label="", work=None, problems=(), pending=(),
        repeatables=(), days=(), scale="", older=0, seen=None,
    )  # fmt: skip


def _commands_in(failure: Unavailable | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_COMMAND.findall(failure.remedy))) if failure else ()


def _away(failure: Unavailable | None) -> str:
    reachable = failure is None or failure.reachable
    return "The status cannot be read" if reachable else "The database cannot be reached"


def _poll(tone: Tone) -> int:
    return _OFTEN if tone == "working" else _SELDOM if tone == "good" else _NOW_AND_THEN


# --- The whole --------------------------------------------------------------------------------------------


def _verdict(status: Status) -> tuple[Tone, str, str]:
    """Return the banner: a tone, a headline that changes when something has happened, and a sentence."""
    if (special := _no_start(status) or _about_command(status) or _about_repeatables(status)) is not None:
        return special
    at = f"At version {status.current}" if status.applied else "Nothing is applied yet"
    todo = count(status.pending, "migration")
    if at_work(status) and status.pending:
        if status.lock is not None and status.lock.migration == BACKUP:
            return "working", "Taking a backup before migrating", f"{at}; {todo} to run, up to version {status.latest}."
        return "working", f"Migrating to version {status.latest}", f"{at}; {todo} to go."
    if status.name == "error":
        failed = next((line for line in status.lines if line.state == "failed"), None)
        what = f"Migration {failed.number:03d} has failed" if failed else "A migration has failed"
        return "bad", what, f"{at}; {todo} not applied, up to version {status.latest}." if status.pending else f"{at}."
    if status.name == "pending":
        verb = "is" if status.pending == 1 else "are"
        return "pending", f"{todo} {verb} pending", f"{at}; the newest file is version {status.latest}."
    return _fine(status)


def _about_command(status: Status) -> tuple[Tone, str, str] | None:
    """Return the banner if only the other migration tool is pending."""
    command = status.command
    if command is None or not command.pending or status.pending:
        return None
    line = wording.report(command.command)
    if at_work(status):
        return "working", "Running the migration command", f"{line}."
    if command.state == "failed" and command.last is not None:
        last = command.last.output.splitlines()[-1:]
        said = f": {wording.report(last[0])}" if last else ""
        return "bad", "The migration command has failed", f"{line}{said}. The next start runs it again."
    return "pending", "The migration command is pending", f"{line}: {wording.report(command.why)}."


def _about_repeatables(status: Status) -> tuple[Tone, str, str] | None:
    """Return the banner if only repeatable files are pending or have failed."""
    if status.pending or any(line.state == "failed" for line in status.lines):
        return None
    at = f"At version {status.current}" if status.applied else "No migration is applied"
    failed = next((one for one in status.repeatables if one.state == "failed"), None)
    todo = sum(one.state in ("pending", "failed") for one in status.repeatables)
    files = count(todo, "repeatable file")
    if todo and at_work(status):
        return "working", "Applying repeatable files", f"{at}; {files} to go."
    if failed is not None:
        return "bad", "A repeatable file has failed", f"{at}; {wording.name(failed.shown)} needs to be corrected."
    if not todo:
        return None
    return (
        "pending",
        f"{files} {'is' if todo == 1 else 'are'} pending",
        f"{at}; the next start applies {'it' if todo == 1 else 'them'}.",
    )


def _no_start(status: Status) -> tuple[Tone, str, str] | None:
    """Return the banner if starts refuse to migrate."""
    if status.untrusted:
        remedy = "Starts refuse to use it. Connect as the owner, or set MIGRATION_ROLE to the owner."
        return "bad", "The migration history cannot be trusted", f"{wording.report(status.untrusted)}. {remedy}"
    if status.below_floor:
        remedy = "Deploy an image that has that file."
        return (
            "bad",
            "The migration files are too old for the schema",
            f"{wording.report(status.below_floor)}. {remedy}",
        )
    if status.refused is None:
        return None
    remedy = "Rename it, or set MIGRATION_OUT_OF_ORDER=warn to run it anyway."
    return "bad", "Starts refuse a pending migration", f"{wording.report(status.refused)}. {remedy}"


def _fine(status: Status) -> tuple[Tone, str, str]:
    if status.command is not None and not status.lines:
        return "good", "Up to date", f"{wording.report(status.command.command)}: {wording.report(status.command.why)}."
    if not status.lines:
        return "good", "No migrations", "There are no migration files, and nothing is applied."
    at = f"At version {status.current}"
    if not status.latest:
        return "good", "Up to date", f"{at}. This service sees no migration files."
    if status.current > status.latest:
        return (
            "good",
            "Up to date",
            f"{at}. The newest file that this service sees is {status.latest}: a newer release has migrated.",
        )
    if status.outstanding:
        since = wording.moment(status.outstanding_since)
        these = count(status.outstanding, "migration waits", "migrations wait")
        known = f", since {wording.date(since)}, {since:%H:%M:%S} UTC" if since else ""
        return "good", "Up to date", f"{at}; {these} for the rollout to end{known}."
    return "good", "Up to date", f"{at}; every migration file is applied."


def _facts(status: Status, done: Sequence[Line], lock: str) -> tuple[Fact, ...]:
    known = [line.milliseconds for line in done if line.milliseconds is not None]
    last = wording.moment(status.last.applied_at) if status.last else None
    return (
        Fact("Schema version", str(status.current) if status.applied else "none"),
        Fact("Newest file", str(status.latest) if status.latest else "none"),
        Fact("Applied", str(status.applied), f"in {wording.length(sum(known))}" if known else ""),
        Fact("Pending", str(status.pending), f"{status.outstanding} after the rollout" if status.outstanding else ""),
        Fact("Last applied", wording.date(last) if last else "never", f"at {last:%H:%M:%S} UTC" if last else ""),
        *_command_facts(status.command),
        *_repeatable_facts(status.repeatables),
        Fact("Lock", lock),
    )


def _command_facts(command: CommandStatus | None) -> tuple[Fact, ...]:
    if command is None:
        return ()
    last = command.last and wording.moment(command.last.finished_at or command.last.started_at)
    note = f"last run on {wording.date(last)}, {last:%H:%M:%S} UTC" if last else ""
    return (Fact("Command", command.state.replace("_", " "), note),)


def _repeatable_facts(repeatables: Sequence[Repetition]) -> tuple[Fact, ...]:
    if not repeatables:
        return ()
    states = [one.state for one in repeatables]
    others = {state: states.count(state) for state in dict.fromkeys(states) if state != "applied"}
    note = ", ".join(f"{number} {_REPEATABLE_STATES[state].label}" for state, number in others.items())
    return (Fact("Repeatable files", f"{states.count('applied')} applied", note),)


def _repeatable(one: Repetition) -> RepeatableEntry:
    return RepeatableEntry(
        name=wording.name(one.shown),
        state=_REPEATABLE_STATES[one.state],
        at=wording.time(wording.moment(one.applied_at)),
        version=wording.name(one.application_version) if one.application_version else None,
        report=wording.report(one.error) if one.error else None,
    )


def _lock_word(status: Status, work: Work | None) -> str:
    if work is None:
        return "free"
    if status.strangers and not at_work(status):
        return "held by another session"
    if status.guarded is None and not at_work(status):
        return "unknown"
    return "held" if work.tone == "working" else "left behind"


def _strip_label(status: Status, lines: Iterable[Line]) -> str:
    """Return the strip in words."""
    counts: dict[str, int] = {}
    for line in lines:
        label = _state(line, status).label
        counts[label] = counts.get(label, 0) + 1
    return ", ".join(f"{number} {label}" for label, number in counts.items())


# --- One migration ----------------------------------------------------------------------------------------


def _state(line: Line, status: Status) -> State:
    return _STATES["working" if status.is_running(line) else line.state]


def _entry(line: Line, status: Status, scale: bars.Scale | None = None) -> Entry:
    return Entry(
        number=f"{line.number:03d}",
        name=wording.name(line.filename),
        state=_state(line, status),
        at=wording.time(wording.moment(line.applied_at)),
        took=None if line.milliseconds is None else wording.length(line.milliseconds),
        bar=scale.width(line.milliseconds) if scale else None,
        version=wording.name(line.application_version) if line.application_version else None,
    )


def _problems(lines: Iterable[Line], status: Status) -> tuple[Problem, ...]:
    """Return what needs attention, first what stops a start."""
    found = (*_line_problems(lines, status), *_repeatable_problems(status))
    return tuple(sorted(found, key=lambda problem: problem.state.tone != "bad"))


def _line_problems(lines: Iterable[Line], status: Status) -> Iterable[Problem]:
    troubled = [line for line in lines if line.state in _PROBLEMS and _state(line, status) != _STATES["working"]]
    for line in sorted(troubled, key=lambda line: _URGENCY.index(line.state)):
        entry = _entry(line, status)
        report = wording.report(line.error) if line.error else None
        yield Problem(entry.number, entry.name, entry.state, entry.at, *_PROBLEMS[line.state], report)


def _repeatable_problems(status: Status) -> Iterable[Problem]:
    for one in map(_repeatable, status.repeatables):
        if one.state == _REPEATABLE_STATES["failed"]:
            yield Problem(one.name, one.name, one.state, None, *_REPEATABLE_PROBLEM, one.report)


# --- The timeline -----------------------------------------------------------------------------------------


def _recency(line: Line) -> tuple[str, int]:
    return line.applied_at or "", line.number


def _days(lines: Sequence[Line], status: Status, scale: bars.Scale) -> Iterable[Day]:
    """Group what was applied by day, the latest first."""
    pairs = [(wording.moment(line.applied_at), line) for line in lines]
    for date, group in groupby(pairs, key=lambda pair: pair[0] and pair[0].date()):
        members = list(group)
        when = members[0][0]
        yield Day(
            label=wording.day(when) if when else "At an unknown time",
            machine=date.isoformat() if date else None,
            note=_day_note([line for _, line in members]),
            entries=tuple(_entry(line, status, scale) for _, line in members),
        )


def _day_note(lines: Sequence[Line]) -> str:
    known = [line.milliseconds for line in lines if line.milliseconds is not None]
    lasting = f" in {wording.length(sum(known))}" if known else ""
    return f"{count(len(lines), 'migration')}{lasting}"


def _scale_words(scale: bars.Scale) -> str:
    if not scale.longest:
        return ""
    longest = wording.length(scale.longest)
    if scale.linear:
        return f"Bars show how long each took; the longest took {longest}."
    return f"Bars show how long each took, on a square-root scale; the longest took {longest}."
