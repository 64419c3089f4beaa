"""Who holds the migration lock, and what they are at, as the page shows it. Pure functions."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

from entrypoint.migration.ledger.reading import BACKUP
from entrypoint.migration.observe.progress import Progress
from entrypoint.service import wording

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Literal

    from entrypoint.migration.ledger.reading import LockRow
    from entrypoint.operations.status import Status


class Steps(NamedTuple):
    """How much of something is done."""

    value: int
    limit: int
    label: str


class Work(NamedTuple):
    """The lock's holder, and what it is at."""

    title: str
    tone: Literal["working", "pending"]
    file: str | None
    steps: Steps | None
    """Which statement of the file."""
    activity: str | None
    """What PostgreSQL says of the statement."""
    share: Steps | None
    """How much of the statement's phase."""
    notes: tuple[str, ...]
    """What keeps it waiting."""
    holder: str | None
    process: int | None
    since: wording.Time | None
    held_for: str | None


def at_work(status: Status) -> bool:
    """Tell whether somebody lives who holds the lock: the guard is what counts, and a row without one is a memory.

    False on a standby, where nobody knows.
    """
    return status.guarded is True or (status.lock is not None and status.lock.legacy)


def work_of(status: Status) -> Work | None:
    """Return who holds the lock; None if nobody does and nobody has left its row behind."""
    lock, guarded = status.lock, status.guarded
    if lock is None or not lock.held:
        if status.strangers and not guarded:
            return _nobody("Nobody can migrate: the lock's key is taken", "pending", _strangers(status))
        return _nobody("The lock has just been taken", "working", _strangers(status)) if guarded else None
    if lock.legacy:
        title = "A replica of the earlier migration system holds the lock"
    elif guarded is None:
        title = "Whether the lock's holder lives cannot be seen from a standby"
    elif not guarded and status.strangers:
        title = "The lock's holder is gone, and its key is taken by somebody else"
    elif not guarded:
        title = "The lock's holder is gone; the next start takes the lock over"
    else:
        title = "Running now"
    live = guarded is True and not lock.legacy
    detail = lock.detail if live else {}
    percent = detail.get("percent")
    phase = _text(detail, "phase")
    backup = lock.migration == BACKUP
    return Work(
        title=title,
        tone="working" if guarded or lock.legacy else "pending",
        file="backup by pg_dump" if backup else wording.name(lock.migration) if lock.migration and live else None,
        steps=_steps(lock, detail) if live and not backup else None,
        activity=_activity(detail),
        # Of what runs in batches it is all of it.
        share=Steps(percent, 100, f"{percent} % of this phase" if phase and "batches" not in detail else f"{percent} %")
        if isinstance(percent, int)
        else None,
        notes=(*_notes(detail), *_strangers(status)),
        holder=wording.name(lock.holder) if lock.holder else None,
        process=lock.process_id,
        since=wording.time(wording.moment(lock.since)),
        # A ledger may say `infinity`.
        held_for=None if lock.seconds is None or not isfinite(lock.seconds) else wording.whole(lock.seconds),
    )


def _nobody(title: str, tone: Literal["working", "pending"], notes: Iterable[str]) -> Work:
    return Work(
        title=title, tone=tone, file=None, steps=None, activity=None, share=None, notes=tuple(notes),
        holder=None, process=None, since=None, held_for=None,
    )  # fmt: skip


def _steps(lock: LockRow, detail: Mapping[str, object]) -> Steps | None:
    if not lock.statement or not lock.statements:
        return None
    later = " or later" if detail.get("or_later") else ""
    seconds = detail.get("seconds")
    lasting = f", for {wording.whole(seconds)}" if isinstance(seconds, int) else ""
    # What is done are the statements before this one.
    done = min(lock.statement, lock.statements) - 1
    return Steps(done, lock.statements, f"statement {lock.statement}{later} of {lock.statements}{lasting}")


def _activity(detail: Mapping[str, object]) -> str | None:
    command = _text(detail, "command")
    if not command:
        return None
    return wording.name(Progress(command, _text(detail, "relation"), _text(detail, "phase"), None).words())


def _notes(detail: Mapping[str, object]) -> Iterable[str]:
    if blocker := _text(detail, "blocked_by"):
        yield f"It waits for a lock that {wording.name(blocker)} holds."
    if retry := _text(detail, "retry"):
        yield f"{wording.name(retry)}."


def _strangers(status: Status) -> Iterable[str]:
    for stranger in status.strangers:
        yield (
            f"{wording.name(stranger.words)} has the lock's key, and nobody can migrate until it lets go: "
            "entrypoint unlock shows it, and with --force ends it."
        )


def _text(detail: Mapping[str, object], name: str) -> str | None:
    value = detail.get(name)
    return None if value is None else str(value)
