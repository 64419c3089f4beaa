"""What PostgreSQL knows about a long statement: its command, its phase, and how much of that is done.

Pure functions around the views `pg_stat_progress_*`. Of these only columns that PostgreSQL 14 to 19 have in common
are read (vacuum's counts of dead tuples, for example, have other names since 17).
"""

from __future__ import annotations

from entrypoint.database import session_state
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from entrypoint.database.answers import Row

_REWRITTEN = (
    "CASE phase WHEN 'seq scanning heap' THEN heap_blks_scanned END",
    "heap_blks_total",
    "NULL::bigint",
    "NULL::bigint",
)
# Each view with its command, phase, and up to two pairs of what is done and how much there is. The first pair that
# is known and not finished counts.
_VIEWS = (
    (
        "pg_stat_progress_create_index",
        "command",
        "phase",
        ("blocks_done", "blocks_total", "tuples_done", "tuples_total"),
    ),
    (
        "pg_stat_progress_vacuum",
        "'VACUUM'",
        "phase",
        (
            "CASE phase WHEN 'scanning heap' THEN heap_blks_scanned WHEN 'vacuuming heap' THEN heap_blks_vacuumed END",
            "heap_blks_total",
            "NULL::bigint",
            "NULL::bigint",
        ),
    ),
    (
        "pg_stat_progress_analyze",
        "'ANALYZE'",
        "phase",
        (
            "CASE WHEN phase LIKE 'acquiring%' THEN sample_blks_scanned END",
            "sample_blks_total",
            "CASE phase WHEN 'computing extended statistics' THEN ext_stats_computed END",
            "ext_stats_total",
        ),
    ),
    ("pg_stat_progress_cluster", "command", "phase", _REWRITTEN),
    ("pg_stat_progress_repack", "command", "phase", _REWRITTEN),
    # COPY has no phases, and no total where it reads from a program.
    (
        "pg_stat_progress_copy",
        "command",
        "NULL::text",
        ("bytes_processed", "bytes_total", "NULL::bigint", "NULL::bigint"),
    ),
)
_SINCE = {"pg_stat_progress_copy": 140000, "pg_stat_progress_repack": 190000}
# Since then it shows what its successor shows, with a REPACK under an older command's name.
_BEFORE = {"pg_stat_progress_cluster": 190000}

# In these phases the counters are still those of the phase before.
_UNCOUNTED = ("waiting", "sorting", "initializing")


class Progress(NamedTuple):
    """How far a command is."""

    command: str
    """As in CREATE INDEX CONCURRENTLY."""
    relation: str | None
    """The table; None if nobody else can see it yet."""
    phase: str | None
    """In PostgreSQL's words."""
    percent: int | None
    """Of the phase; None if it is not known how much there is."""

    def words(self) -> str:
        """Return it as one clause: CREATE INDEX on orders: building index: scanning table, 42 %."""
        name = f"{self.command} on {self.relation}" if self.relation else self.command
        done = None if self.percent is None else f"{self.percent} %"
        rest = ", ".join(part for part in (self.phase, done) if part)
        return f"{name}: {rest}" if rest else name


class Walked(NamedTuple):
    """How far a file is that runs in batches."""

    progress: Progress
    """The percentage is of the whole file."""
    rows: int
    batches: int
    seconds_left: int | None
    """None if nobody knows."""

    def fields(self) -> dict[str, object]:
        """Return what the log and the lock's row say beside the progress."""
        return {"rows": self.rows, "batches": self.batches, "seconds_left": self.seconds_left}


def query(backend_pid: int, server_version: int) -> str:
    """Return the query for what a backend is at, of at most one row for `read`.

    A parallel command's workers report to the backend that they work for, so its own row is all there is.
    """
    return (
        " UNION ALL ".join(
            f"SELECT {command}, {session_state.shown('relid')}, {phase}, {', '.join(counters)} "
            f"FROM pg_catalog.{view} WHERE pid = {backend_pid}"
            for view, command, phase, counters in _VIEWS
            if _SINCE.get(view, 0) <= server_version < _BEFORE.get(view, server_version + 1)
        )
        + " LIMIT 1"
    )


def standby(backend_pid: int) -> str:
    """Return the query that has `synchronous_standby_names` if a backend's COMMIT waits for one of them."""
    return (
        "SELECT pg_catalog.current_setting('synchronous_standby_names') "
        f"FROM pg_catalog.pg_stat_get_activity({backend_pid}) a WHERE a.wait_event = 'SyncRep'"
    )


def read(rows: list[Row]) -> Progress | None:
    """Return what `query` has found, if the backend is at a command that reports its progress."""
    if not rows:
        return None
    command, relation, phase, *counters = rows[0]
    done, total, more_done, more_total = (None if text is None else int(text) for text in counters)
    return Progress(command or "", relation, phase, percent(phase, ((done, total), (more_done, more_total))))


def percent(phase: str | None, pairs: tuple[tuple[int | None, int | None], ...]) -> int | None:
    """Return how much of a phase is done, from 0 to 100, by the first of the `pairs` that is not finished.

    A pair is what is done and how much there is. None if it is not known how much there is: a total of 0 means that,
    and so does a phase that counts nothing.
    """
    if phase is not None and any(word in phase for word in _UNCOUNTED):
        return None
    known = [(done, total) for done, total in pairs if done is not None and total is not None and total > 0]
    if not known:
        return None
    # A table may grow while it is read.
    done, total = next(((done, total) for done, total in known if done < total), known[-1])
    return max(0, min(100, done * 100 // total))


def describe(detail: Mapping[str, object]) -> str:
    """Return in words what the lock's row says about the holder's statement, to follow "statement 2 of 3"."""
    text = " or later" if detail.get("or_later") else ""
    text += f", for {detail['seconds']} s" if "seconds" in detail else ""
    if detail.get("command"):
        seen = Progress(
            str(detail["command"]),
            _text(detail.get("relation")),
            _text(detail.get("phase")),
            value if isinstance(value := detail.get("percent"), int) else None,
        )
        text += f" ({seen.words()})"
    if detail.get("blocked_by"):
        text += f"; waiting for a lock held by {detail['blocked_by']}"
    if detail.get("retry"):
        text += f"; {detail['retry']}"
    return text


def _text(value: object) -> str | None:
    return None if value is None else str(value)
