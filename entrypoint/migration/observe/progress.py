"""What PostgreSQL reports about a long statement: its command, its phase, and how much of the phase is done.

Pure functions around the views `pg_stat_progress_*`. They only read columns that exist in PostgreSQL 14 to 19. (The
counts of dead tuples in vacuum, for example, have other names since 17.)
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
# Each view with its command, its phase, and up to two pairs of amounts, done and total. The first pair that is known
# and not finished counts.
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
    # COPY has no phases, and no total if it reads from a program.
    (
        "pg_stat_progress_copy",
        "command",
        "NULL::text",
        ("bytes_processed", "bytes_total", "NULL::bigint", "NULL::bigint"),
    ),
)
_SINCE = {"pg_stat_progress_copy": 140000, "pg_stat_progress_repack": 190000}
# Since version 19, this view shows the same as its successor, but a REPACK under the name of an older command.
_BEFORE = {"pg_stat_progress_cluster": 190000}

# In these phases, the counters are still those of the previous phase.
_UNCOUNTED = ("waiting", "sorting", "initializing")


class Progress(NamedTuple):
    """How far a command is."""

    command: str
    """Such as CREATE INDEX CONCURRENTLY."""
    relation: str | None
    """The table; None if other sessions cannot see it yet."""
    phase: str | None
    """In PostgreSQL's words."""
    percent: int | None
    """How much of the phase is done; None if the total is unknown."""

    def words(self) -> str:
        """Return it as one clause: CREATE INDEX on orders: building index: scanning table, 42 %."""
        name = f"{self.command} on {self.relation}" if self.relation else self.command
        done = None if self.percent is None else f"{self.percent} %"
        rest = ", ".join(part for part in (self.phase, done) if part)
        return f"{name}: {rest}" if rest else name


class Walked(NamedTuple):
    """How far a file that runs in batches is."""

    progress: Progress
    """Its percentage refers to the whole file."""
    rows: int
    batches: int
    seconds_left: int | None
    """None if unknown."""

    def fields(self) -> dict[str, object]:
        """Return what the log and the lock's row say in addition to the progress."""
        return {"rows": self.rows, "batches": self.batches, "seconds_left": self.seconds_left}


def query(backend_pid: int, server_version: int) -> str:
    """Return the query for a backend's progress, of at most one row; `read` reads it.

    Parallel workers report through their leader, so there is only one row.
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
    """Return the query that returns `synchronous_standby_names` if a backend's COMMIT waits for one of them."""
    return (
        "SELECT pg_catalog.current_setting('synchronous_standby_names') "
        f"FROM pg_catalog.pg_stat_get_activity({backend_pid}) a WHERE a.wait_event = 'SyncRep'"
    )


def read(rows: list[Row]) -> Progress | None:
    """Read the result of `query`; None if the backend's command does not report progress."""
    if not rows:
        return None
    command, relation, phase, *counters = rows[0]
    done, total, more_done, more_total = (None if text is None else int(text) for text in counters)
    return Progress(command or "", relation, phase, percent(phase, ((done, total), (more_done, more_total))))


def percent(phase: str | None, pairs: tuple[tuple[int | None, int | None], ...]) -> int | None:
    """Return how much of a phase is done, from 0 to 100, by the first of the `pairs` that is not finished.

    A pair is the amount done and the total. Returns None if the total is unknown, which a total of 0 also means, or if
    the phase counts nothing.
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
    """Return what the lock's row says about the holder's statement, in words that follow "statement 2 of 3"."""
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


def way_out(detail: Mapping[str, object]) -> str | None:
    """Return the SQL that ends the session for which the holder waits; None if it waits for none.

    Only the number comes from the row, because others may be able to write there.
    """
    pid = detail.get("blocker")
    return f"SELECT pg_terminate_backend({pid})" if type(pid) is int and pid > 0 and detail.get("blocked_by") else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)
