"""How far a file that runs in batches has got. Its row says so, as JSON in the last line of the message.

Pure functions. Each batch commits together with the row that says what comes next, so the row is right even after a
crash.
"""

from __future__ import annotations

from entrypoint.counts import count
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Key = tuple[str, ...]

# The format's version. A program does not continue from a row in a format that it does not know.
_FORM = 1
_MARK = f'{{"batch": {_FORM}, '
# Rows from before November 2026 lack these.
_LATER = ("ground", "statement")
# At most this many characters of a key's value are shown.
_LONG = 60


class Walk(NamedTuple):
    """One file's progress through its table."""

    checksum: str
    """The file's checksum when it began."""
    columns: tuple[str, ...]
    """The key's columns."""
    size: int
    """How many keys the next batch covers."""
    passes: int = 1
    """How many times it goes through the table."""
    turn: int = 1
    """The current pass, counted from 1."""
    cursor: Key | None = None
    """The last key of the last batch; None before the first."""
    last: Key | None = None
    """The largest key when this pass began. The pass ends there; otherwise inserts could keep it going forever."""
    met: int = 0
    """How many keys this pass has covered."""
    total: int | None = None
    """How many keys there are, as PostgreSQL estimates; None if it does not know."""
    rows: int = 0
    """How many rows the statement has changed, in all passes."""
    batches: int = 0
    seconds: float = 0.0
    """How long the batches have taken."""
    ground: tuple[str, ...] | None = None
    """The table and its key's order when the walk began; None in old rows."""
    statement: str | None = None
    """A digest of the file's statement, without the directives above it; None in old rows."""

    @property
    def over(self) -> bool:
        """Whether this pass is finished."""
        return self.last is None or self.cursor == self.last

    @property
    def percent(self) -> int | None:
        """How much is done, from 0 to 99; None if the total is unknown."""
        if not self.total:
            return None
        share = min(1.0, 1.0 if self.over else self.met / self.total)
        return min(99, int(100 * (self.turn - 1 + share) / self.passes))

    def seconds_left(self, met: int, seconds: float) -> float | None:
        """Estimate how many seconds the rest will take, if `met` keys have taken `seconds`; None if unknown."""
        if not self.total or met <= 0 or seconds <= 0:
            return None
        keys = max(0, self.total - self.met) + self.total * (self.passes - self.turn)
        return keys * seconds / met

    def words(self) -> str:
        """Return the progress as a clause: 41 %, 2050000 rows in 205 batches, up to id 2050000 of 5000000."""
        parts = [f"{self.percent} %"] if self.percent is not None else []
        parts.append(f"{count(self.rows, 'row')} in {count(self.batches, 'batch', 'batches')}")
        parts += [f"pass {self.turn} of {self.passes}"] if self.passes > 1 else []
        if self.cursor is not None and self.last is not None:
            parts.append(f"up to {_one(self.columns)} {_one(self.cursor)} of {_one(self.last)}")
        return ", ".join(parts)

    def documented(self) -> dict[str, object]:
        """Return the progress as in `status --json`."""
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
    """Return a key on one line, shortened; several values are put in parentheses."""
    shown = [" ".join(value.split()) for value in values]
    shown = [text if len(text) <= _LONG else f"{text[: _LONG - 3]}..." for text in shown]
    return shown[0] if len(shown) == 1 else f"({', '.join(shown)})"


def walk_note(walk: Walk) -> str:
    """Return the line of a row's message that says how far a file has got; `walk_in` reads it."""
    import json  # Most starts with something pending do not need it.

    values = walk._asdict()
    text = json.dumps({"batch": _FORM, **values, "seconds": round(walk.seconds, 3)}, ensure_ascii=False)
    return text.replace("\0", "")


def walk_in(message: str | None) -> Walk | None:
    """Return how far a file has got, according to its row's `message`; None if that says nothing about batches."""
    line = (message or "").rpartition("\n")[2]
    if not line.startswith(_MARK):
        return None
    import json

    try:
        return _read(json.loads(line))
    except (ValueError, TypeError, KeyError):
        return None


def without_walk(message: str) -> str:
    """Return a row's message for people, with the progress in words at its end."""
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
