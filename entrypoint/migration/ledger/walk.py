"""How far a file has come that runs in batches: what its row says, as JSON in the last line of the message.

Pure functions. A batch commits with the row that says what comes next, so that no crash leaves a doubt.
"""

from __future__ import annotations

from entrypoint.counts import count
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Key = tuple[str, ...]

# The row of an earlier form is not gone on with by a program that does not know it.
_FORM = 1
_MARK = f'{{"batch": {_FORM}, '
# What rows of before November 2026 do not have.
_LATER = ("ground", "statement")
# So much of a key's value is shown to a person.
_LONG = 60


class Walk(NamedTuple):
    """One file's way through its table, up to now."""

    checksum: str
    """Of the file that began it."""
    columns: tuple[str, ...]
    """The key's."""
    size: int
    """How many keys the next batch is to have."""
    passes: int = 1
    """How many times it goes through the table."""
    turn: int = 1
    """Which of these it is at."""
    cursor: Key | None = None
    """The last key of the last batch; None before the first."""
    last: Key | None = None
    """The largest key when this turn began, where it ends: else inserts could keep it from ever ending."""
    met: int = 0
    """How many keys this turn has met."""
    total: int | None = None
    """How many it is to meet, as PostgreSQL estimates it; None if it does not."""
    rows: int = 0
    """How many rows the statement has changed, in all turns."""
    batches: int = 0
    seconds: float = 0.0
    """How long the batches have taken."""
    ground: tuple[str, ...] | None = None
    """The table and the order of its key when the walk began; None in rows that do not say it."""
    statement: str | None = None
    """A digest of the file's statement, without what stands above it; None in rows that do not say it."""

    @property
    def over(self) -> bool:
        """Whether nothing of this turn is left."""
        return self.last is None or self.cursor == self.last

    @property
    def percent(self) -> int | None:
        """How much is done, from 0 to 99; None if nobody knows how much there is."""
        if not self.total:
            return None
        share = min(1.0, 1.0 if self.over else self.met / self.total)
        return min(99, int(100 * (self.turn - 1 + share) / self.passes))

    def seconds_left(self, met: int, seconds: float) -> float | None:
        """Return how long the rest may take, if `met` keys have taken so many `seconds`; None if nobody knows."""
        if not self.total or met <= 0 or seconds <= 0:
            return None
        keys = max(0, self.total - self.met) + self.total * (self.passes - self.turn)
        return keys * seconds / met

    def words(self) -> str:
        """Return it as a clause: 41 %, 2050000 rows in 205 batches, up to id 2050000 of 5000000."""
        parts = [f"{self.percent} %"] if self.percent is not None else []
        parts.append(f"{count(self.rows, 'row')} in {count(self.batches, 'batch', 'batches')}")
        parts += [f"pass {self.turn} of {self.passes}"] if self.passes > 1 else []
        if self.cursor is not None and self.last is not None:
            parts.append(f"up to {_one(self.columns)} {_one(self.cursor)} of {_one(self.last)}")
        return ", ".join(parts)

    def documented(self) -> dict[str, object]:
        """Return what `status --json` has of it."""
        return {
            "key": list(self.columns),
            "cursor": None if self.cursor is None else list(self.cursor),
            "last": None if self.last is None else list(self.last),
            "rows": self.rows,
            "batches": self.batches,
            "size": self.size,
            "pass": self.turn,
            "passes": self.passes,
            "percent": self.percent,
            "seconds": round(self.seconds, 3),
        }


def _one(values: Sequence[str]) -> str:
    """Return a key on one line and not too long: the value itself, or several in parentheses."""
    shown = [" ".join(value.split()) for value in values]
    shown = [text if len(text) <= _LONG else f"{text[: _LONG - 3]}..." for text in shown]
    return shown[0] if len(shown) == 1 else f"({', '.join(shown)})"


def note(walk: Walk) -> str:
    """Return the line of a row's message that says how far a file has come; `walk_in` reads it."""
    import json  # Not for every start at which something is pending.

    values = walk._asdict()
    text = json.dumps({"batch": _FORM, **values, "seconds": round(walk.seconds, 3)}, ensure_ascii=False)
    return text.replace("\0", "")


def walk_in(message: str | None) -> Walk | None:
    """Return how far a row's `message` says that its file has come; None if it says nothing of batches."""
    line = (message or "").rpartition("\n")[2]
    if not line.startswith(_MARK):
        return None
    import json

    try:
        return _read(json.loads(line))
    except (ValueError, TypeError, KeyError):
        return None


def without_walk(message: str) -> str:
    """Return a row's message for a person: the walk in words behind what else it says."""
    walk = walk_in(message)
    if walk is None:
        return message
    said = message.rpartition("\n")[0]
    return f"{said}\nBefore that: {walk.words()}." if said else walk.words()


def _read(values: Mapping[str, Any]) -> Walk:
    known = {name: values[name] for name in Walk._fields if name not in _LATER}
    known.update((name, values.get(name)) for name in _LATER)
    for name in ("columns", "cursor", "last", "ground"):
        known[name] = None if known[name] is None else tuple(map(str, known[name]))
    for name in ("size", "passes", "turn", "met", "rows", "batches"):
        known[name] = int(known[name])
    known["seconds"] = float(known["seconds"])
    known["total"] = None if known["total"] is None else int(known["total"])
    return Walk(**known)
