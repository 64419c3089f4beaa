"""Who holds the migration lock and what they are doing, as the page shows it. Pure functions."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

from entrypoint.counts import count
from entrypoint.migration.ledger.reading import BACKUP
from entrypoint.migration.observe.progress import Progress, way_out
from entrypoint.service import wording

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Literal

    from entrypoint.migration.ledger.reading import LockRow
    from entrypoint.operations.status import Status
    from entrypoint.operations.waiters import Waiter, Waiters
    from entrypoint.service.running import Excerpt

# How many waiting starts are listed.
_MOST_WAITERS = 5


class Steps(NamedTuple):
    """Progress: how much of something is done."""

    value: int | None
    """None if it is unknown."""
    limit: int
    label: str


class Note(NamedTuple):
    """What the holder, or everybody, is waiting for."""

    text: str
    command: str = ""
    """The command to run."""


class Waiting(NamedTuple):
    """Who waits for the lock."""

    headline: str
    starts: tuple[str, ...]
    more: int
    """How many are not listed."""


class Work(NamedTuple):
    """The lock's holder, and what it is doing."""

    title: str
    tone: Literal["working", "pending"]
    file: str | None
    steps: Steps | None
    """Which statement of the file it is running."""
    line: str | None
    """The position of that statement in the file."""
    statement: str | None
    """Its first line."""
    activity: str | None
    """PostgreSQL's progress report about the statement."""
    share: Steps | None
    """How much of the statement's phase is done."""
    notes: tuple[Note, ...]
    holder: str | None
    process: int | None
    since: wording.Time | None
    held_for: str | None
    waiting: Waiting | None
    """None if nobody waits."""


def at_work(status: Status) -> bool:
    """Return whether the lock has a live holder. The guard decides; a row without it is left over.

    False on a standby, where it is unknown.
    """
    return status.guarded is True or (status.lock is not None and status.lock.legacy)


def work_of(status: Status, statement: Excerpt | None = None, waiting: Waiters | None = None) -> Work | None:
    """Return who holds the lock; None if it is free and no row is left over."""
    lock, guarded = status.lock, status.guarded
    if lock is None or not lock.held:
        if status.strangers and not guarded:
            return _nobody("Nobody can migrate: another session holds the lock", "pending", _strangers(status))
        return _nobody("The lock has just been taken", "working", _strangers(status)) if guarded else None
    live = guarded is True and not lock.legacy
    detail = lock.detail if live else {}
    backup = lock.migration == BACKUP
    file = "backup by pg_dump" if backup else wording.name(lock.migration) if lock.migration and live else None
    shown = statement if live and not detail.get("retry") else None
    return Work(
        title=_title(status, lock),
        tone="working" if guarded or lock.legacy else "pending",
        file=file,
        steps=_steps(lock, detail) if live and not backup else None,
        line=shown and f"{'From line' if shown.or_later else 'Line'} {shown.line}",
        statement=shown and wording.name(shown.text),
        activity=_activity(detail),
        share=_share(detail) if live and file else None,
        notes=(*_notes(detail), *_strangers(status)),
        holder=wording.name(lock.holder) if lock.holder else None,
        process=lock.process_id,
        since=wording.time(wording.moment(lock.since)),
        # The row may say `infinity`.
        held_for=None if lock.seconds is None or not isfinite(lock.seconds) else wording.whole(lock.seconds),
        waiting=_waiting(waiting) if live and waiting else None,
    )


def _title(status: Status, lock: LockRow) -> str:
    if lock.legacy:
        return "A replica of the earlier migration system holds the lock"
    if status.guarded is None:
        return "This is a standby: it cannot see whether the lock's holder is alive"
    if status.guarded:
        return "Running now"
    if status.strangers:
        return "The lock's holder is gone, and another session holds the lock"
    return "The lock's holder is gone; the next start takes over"


def _nobody(title: str, tone: Literal["working", "pending"], notes: Iterable[Note]) -> Work:
    return Work(
        title=title, tone=tone, file=None, steps=None, line=None, statement=None, activity=None, share=None,
        notes=tuple(notes), holder=None, process=None, since=None, held_for=None, waiting=None,
    )  # fmt: skip


def _share(detail: Mapping[str, object]) -> Steps | None:
    """Return the progress of the statement; None if it is unknown and nothing is running right now."""
    percent = detail.get("percent")
    if not isinstance(percent, int):
        return None if detail.get("blocked_by") or detail.get("retry") else Steps(None, 100, "in progress")
    # For batches, it is the percentage of the whole.
    of_phase = " of this phase" if detail.get("phase") and "batches" not in detail else ""
    return Steps(percent, 100, f"{percent} %{of_phase}")


def _waiting(waiting: Waiters) -> Waiting | None:
    starts = tuple(_waiter(one) for one in waiting.starts[:_MOST_WAITERS])
    number = count(len(waiting.starts), "other start")
    if waiting.known:
        return Waiting(number, starts, len(waiting.starts) - len(starts)) if starts else None
    headline = f"At least {number}" if starts else "Not visible"
    return Waiting(f"{headline}: seeing all of them needs pg_read_all_stats", starts, len(waiting.starts) - len(starts))


def _waiter(one: Waiter) -> str:
    since = wording.moment(one.since)
    place = wording.name(one.address) if one.address else "this database's machine"
    return f"{place}, since {since:%H:%M:%S} UTC" if since else place


def _steps(lock: LockRow, detail: Mapping[str, object]) -> Steps | None:
    if not lock.statement or not lock.statements:
        return None
    later = " or later" if detail.get("or_later") else ""
    seconds = detail.get("seconds")
    lasting = f", for {wording.whole(seconds)}" if isinstance(seconds, int) else ""
    # Only the statements before this one are done.
    done = min(lock.statement, lock.statements) - 1
    return Steps(done, lock.statements, f"statement {lock.statement}{later} of {lock.statements}{lasting}")


def _activity(detail: Mapping[str, object]) -> str | None:
    command = _text(detail, "command")
    if not command:
        return None
    return wording.name(Progress(command, _text(detail, "relation"), _text(detail, "phase"), None).words())


def _notes(detail: Mapping[str, object]) -> Iterable[Note]:
    if blocker := _text(detail, "blocked_by"):
        said = f"It is waiting for a lock held by {wording.name(blocker)}."
        ends = way_out(detail)
        yield Note(f"{said} If you cannot wait until that session's transaction ends:", ends) if ends else Note(said)
    if retry := _text(detail, "retry"):
        yield Note(f"{wording.name(retry)}.")


def _strangers(status: Status) -> Iterable[Note]:
    for stranger in status.strangers:
        said = f"{wording.name(stranger.words)} holds the migration lock. Nobody can migrate until it lets go."
        yield Note(f"{said} To see it, and to end it with --force:", "entrypoint unlock")


def _text(detail: Mapping[str, object], name: str) -> str | None:
    value = detail.get(name)
    return None if value is None else str(value)
