"""The current phase of this start, for health probes. The code at work writes it, and the probe's thread reads it.

Values are always replaced, never modified, so that a reader sees what was true at one moment.
"""

from __future__ import annotations

from time import monotonic

from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CONNECTING = "connecting"
WAITING = "waiting for the lock"
BACKING_UP = "backing up"
MIGRATING = "migrating"


class _Phase(NamedTuple):
    name: str
    began: float
    """`monotonic()` when this phase began, or its current statement."""
    step: tuple[str | None, int | None]
    """The current file and statement."""
    facts: Mapping[str, object]


_program_began = monotonic()
_now = _Phase(CONNECTING, _program_began, (None, None), {})
_schema: dict[str, int | None] = {}
_blocked: tuple[tuple[str | None, int | None], Sequence[int]] = ((None, None), ())


def enter(name: str, *, file: str | None = None, statement: int | None = None, **facts: object) -> None:
    """Record the new phase, with the `file` and the number of its `statement` if it has any.

    If phase, file and statement have not changed, this only updates the `facts`.
    """
    global _now  # noqa: PLW0603 - a process has one start, and the start one phase
    step = (file, statement)
    before = _now
    began = before.began if (before.name, before.step) == (name, step) else monotonic()
    _now = _Phase(name, began, step, facts)


def know(*, version: int | None, latest: int | None, pending: int) -> None:
    """Record the schema's state: its version, the highest number among the files, and how many are pending."""
    global _schema  # noqa: PLW0603 - see above
    _schema = {"version": version, "latest": latest, "pending": pending}


def one_more(version: int) -> None:
    """Record that one more migration has been applied."""
    global _schema  # noqa: PLW0603 - see above
    _schema = _schema | {
        "version": max(_schema.get("version") or 0, version),
        "pending": (_schema.get("pending") or 1) - 1,
    }


def blocked(file: str, statement: int, backends: Sequence[int]) -> None:
    """Record which backends block a statement; an empty list if it does not wait."""
    global _blocked  # noqa: PLW0603 - see above
    _blocked = ((file, statement), tuple(backends))


def report(clock: Callable[[], float] = monotonic) -> dict[str, object]:
    """Return everything that is known; times are in seconds."""
    now, (step, backends) = _now, _blocked
    moment = clock()
    known: dict[str, object] = {
        "phase": now.name,
        "seconds": round(moment - now.began, 1),
        "seconds_since_start": round(moment - _program_began, 1),
        "file": now.step[0],
        "statement": now.step[1],
        "blocked_by": list(backends) if step == now.step and backends else None,
        **_schema,
        **now.facts,
    }
    return {name: value for name, value in known.items() if value is not None}
