"""What the page shows of a snapshot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from browser import states
from browser.states import FREE, line, snapshot, status
from entrypoint.migration.ledger.reading import BACKUP, KeyHolder
from entrypoint.operations.repeatable_status import Repetition
from entrypoint.operations.waiters import Waiter, Waiters
from entrypoint.service import view
from entrypoint.service.running import Excerpt
from entrypoint.service.snapshot import Unavailable
from entrypoint.service.view import show
from entrypoint.service.work import Note, Steps, Waiting

if TYPE_CHECKING:
    from entrypoint.migration.ledger.reading import LockRow
    from entrypoint.service.snapshot import Snapshot

A = line(1, "a", applied_at="2026-11-02T06:12:20Z", milliseconds=10, application_version="1.0.0")
B = line(2, "b", "pending")
HELD = FREE._replace(held=True, since="2026-11-02T06:00:00Z", seconds=61, holder="pod", process_id=7, token="t.1")
LEGACY = HELD._replace(token=None)

VERDICTS = {
    "up to date": (status(A), "good", "Up to date", "At version 1; every migration file is applied."),
    "nothing at all": (status(), "good", "No migrations", "There are no migration files, and nothing is applied."),
    "one pending": (status(A, B), "pending", "1 migration is pending", "At version 1; the newest file is version 2."),
    "all pending": (
        status(B, line(3, "c", "pending")),
        "pending",
        "2 migrations are pending",
        "Nothing is applied yet; the newest file is version 3.",
    ),
    "one after the rollout": (
        status(A)._replace(outstanding=1, outstanding_since="2026-11-02T06:12:20Z"),
        "good",
        "Up to date",
        ("At version 1; 1 migration waits for the rollout to end, since 2 Nov 2026, 06:12:20 UTC."),
    ),
    "below the floor": (
        status(A)._replace(name="error", below_floor="This image is too old for the schema"),
        "bad",
        "The migration files are too old for the schema",
        "This image is too old for the schema. Deploy an image that has that file.",
    ),
    "failed": (
        status(A, line(2, "b", "failed")),
        "bad",
        "Migration 002 has failed",
        "At version 1; 1 migration not applied, up to version 2.",
    ),
    "migrating": (
        status(A, B, lock=HELD, guarded=True),
        "working",
        "Migrating to version 2",
        "At version 1; 1 migration to go.",
    ),
    "migrating after a failure": (
        status(line(1, "a", "failed"), lock=HELD, guarded=True),
        "working",
        "Migrating to version 1",
        "Nothing is applied yet; 1 migration to go.",
    ),
    "a backup first": (
        status(A, B, lock=HELD._replace(migration=BACKUP), guarded=True),
        "working",
        "Taking a backup before migrating",
        "At version 1; 1 migration to run, up to version 2.",
    ),
    "the earlier system migrates": (
        status(A, B, lock=LEGACY),
        "working",
        "Migrating to version 2",
        "At version 1; 1 migration to go.",
    ),
    "the holder is gone": (
        status(A, B, lock=HELD),
        "pending",
        "1 migration is pending",
        "At version 1; the newest file is version 2.",
    ),
    "the lock is held, and there is nothing to do": (
        status(A, lock=HELD, guarded=True),
        "good",
        "Up to date",
        "At version 1; every migration file is applied.",
    ),
    "a repeatable file is pending": (
        status(A)._replace(name="pending", repeatables=(Repetition("v", "pending", None, None),)),
        "pending",
        "1 repeatable file is pending",
        "At version 1; the next start applies it.",
    ),
    "repeatable files are being applied": (
        status(A, lock=HELD, guarded=True)._replace(
            name="pending", repeatables=(Repetition("v", "pending", None, None), Repetition("w", "failed", None, None))
        ),
        "working",
        "Applying repeatable files",
        "At version 1; 2 repeatable files to go.",
    ),
    "a repeatable file has failed": (
        status(A)._replace(name="error", repeatables=(Repetition("v", "failed", None, None),)),
        "bad",
        "A repeatable file has failed",
        "At version 1; repeatable/v.sql needs to be corrected.",
    ),
    "one is left to a newer image": (
        status(A)._replace(repeatables=(Repetition("v", "ahead", None, None),)),
        "good",
        "Up to date",
        "At version 1; every migration file is applied.",
    ),
    "ahead": (
        status(A, line(2, "b", "ahead")),
        "good",
        "Up to date",
        "At version 2. The newest file that this service sees is 1: a newer release has migrated.",
    ),
    "no files": (
        status(line(2, "b", "ahead")),
        "good",
        "Up to date",
        "At version 2. This service sees no migration files.",
    ),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_banner(case: str) -> None:
    found, tone, headline, explanation = VERDICTS[case]
    page = show(snapshot(found))
    assert (page.tone, page.headline, page.explanation) == (tone, headline, explanation)


LOCKS: dict[str, tuple[LockRow | None, bool | None, str, str | None]] = {
    "free": (FREE, False, "free", None),
    "no row yet": (None, False, "free", None),
    "held": (HELD, True, "held", "Running now"),
    "just taken, and not in the row yet": (FREE, True, "held", "The lock has just been taken"),
    "just taken, and there is no row": (None, True, "held", "The lock has just been taken"),
    "left behind": (HELD, False, "left behind", "The lock's holder is gone; the next start takes over"),
    "seen from a standby": (
        HELD,
        None,
        "unknown",
        "This is a standby: it cannot see whether the lock's holder is alive",
    ),
    "free, on a standby": (FREE, None, "free", None),
    "the earlier system's": (LEGACY, False, "held", "A replica of the earlier migration system holds the lock"),
}


@pytest.mark.parametrize("case", LOCKS)
def test_the_lock(case: str) -> None:
    lock, guarded, word, title = LOCKS[case]
    page = show(snapshot(status(A, B, lock=lock, guarded=guarded)))
    assert {fact.label: fact.value for fact in page.facts}["Lock"] == word
    assert (page.work.title if page.work else None) == title


@pytest.mark.case("C9")
@pytest.mark.parametrize(
    ("lock", "guarded", "word", "title"),
    [
        (FREE, False, "held by another session", "Nobody can migrate: another session holds the lock"),
        (None, False, "held by another session", "Nobody can migrate: another session holds the lock"),
        (HELD, False, "held by another session", "The lock's holder is gone, and another session holds the lock"),
        (HELD, True, "held", "Running now"),
        (LEGACY, False, "held", "A replica of the earlier migration system holds the lock"),
    ],
)
def test_a_stranger_that_has_the_key(lock: LockRow | None, *, guarded: bool, word: str, title: str) -> None:
    stranger = KeyHolder(4711, "p\u202esql", "ann", guards=True, makes=False, exclusive=False)
    page = show(snapshot(status(A, B, lock=lock, guarded=guarded)._replace(strangers=(stranger,))))
    assert {fact.label: fact.value for fact in page.facts}["Lock"] == word
    assert page.work
    assert page.work.title == title
    note = page.work.notes[-1]
    assert note.text.startswith("backend 4711 of ann (p⟨U+202E⟩sql) holds the migration lock.")
    assert note.command == "entrypoint unlock"


IN_PROGRESS = Steps(None, 100, "in progress")
DETAILS: dict[str, tuple[dict[str, object], tuple[Steps | None, str | None, Steps | None, tuple[Note, ...]]]] = {
    "nothing yet": ({}, (Steps(1, 3, "statement 2 of 3"), None, IN_PROGRESS, ())),
    "a while": ({"seconds": 64}, (Steps(1, 3, "statement 2 of 3, for 1 min 4 s"), None, IN_PROGRESS, ())),
    "or later": (
        {"seconds": 4, "or_later": True},
        (Steps(1, 3, "statement 2 or later of 3, for 4 s"), None, IN_PROGRESS, ()),
    ),
    "progress": (
        {"command": "CREATE INDEX", "relation": "orders", "phase": "sorting", "percent": 42},
        (Steps(1, 3, "statement 2 of 3"), "CREATE INDEX on orders: sorting", Steps(42, 100, "42 % of this phase"), ()),
    ),
    "progress without phases": (
        {"command": "COPY FROM", "percent": 0},
        (Steps(1, 3, "statement 2 of 3"), "COPY FROM", Steps(0, 100, "0 %"), ()),
    ),
    "blocked": (
        {"blocked_by": "process 9 (report)"},
        (Steps(1, 3, "statement 2 of 3"), None, None, (Note("It is waiting for a lock held by process 9 (report)."),)),
    ),
    "between two attempts": (
        {"retry": "it is tried again in 4 s"},
        (Steps(1, 3, "statement 2 of 3"), None, None, (Note("it is tried again in 4 s."),)),
    ),
    "of another type, as anybody can write there": (
        {"seconds": "x", "percent": "y", "command": 3},
        (Steps(1, 3, "statement 2 of 3"), "3", IN_PROGRESS, ()),
    ),
}


@pytest.mark.parametrize("case", DETAILS)
def test_what_the_holder_is_at(case: str) -> None:
    detail, expected = DETAILS[case]
    lock = HELD._replace(migration="002_b.sql", statement=2, statements=3, detail=detail)
    page = show(snapshot(status(A, B, lock=lock, guarded=True)))
    assert page.work
    assert (page.work.steps, page.work.activity, page.work.share, page.work.notes) == expected
    assert (page.work.file, page.work.holder, page.work.process) == ("002_b.sql", "pod", 7)
    assert page.work.held_for == "1 min 1 s"
    (entry,) = page.pending
    assert entry.state.label == "running now"
    # When the holder is gone, the file is no longer running.
    gone = show(snapshot(status(A, B, lock=lock, guarded=False)))
    assert gone.pending[0].state.label == "pending"
    assert gone.work
    assert (gone.work.file, gone.work.steps) == (None, None)


@pytest.mark.parametrize("seconds", [float("inf"), float("-inf"), float("nan"), None])
def test_a_time_that_is_none(seconds: float | None) -> None:
    lock = HELD._replace(since="infinity", seconds=seconds)
    work = show(snapshot(status(A, B, lock=lock, guarded=True))).work
    assert work
    assert (work.since, work.held_for) == (None, None)


def test_a_statement_beyond_the_last_is_no_more_than_all() -> None:
    lock = HELD._replace(migration="002_b.sql", statement=9, statements=3)
    work = show(snapshot(status(A, B, lock=lock, guarded=True))).work
    assert work
    assert work.steps == Steps(2, 3, "statement 9 of 3")


PROBLEMS = {
    "failed": ("failed", "entrypoint repair --failed"),
    "running": ("interrupted", "entrypoint migrate"),
    "changed": ("file changed", "entrypoint repair --checksums"),
    "missing": ("file missing", "entrypoint repair --missing"),
}


@pytest.mark.parametrize("state", PROBLEMS)
def test_a_problem_has_a_remedy(state: str) -> None:
    page = show(snapshot(status(A, line(2, "b", state, applied_at="2026-11-02T06:12:20Z", error="one\ntwo\n"))))
    (problem,) = page.problems
    assert (problem.state.label, problem.command) == PROBLEMS[state]
    assert problem.report == "one\ntwo"
    assert problem.what
    assert problem.remedy


def test_what_failed_comes_first() -> None:
    lines = (
        line(1, "a", "missing"),
        line(2, "b", "changed"),
        line(3, "c", "running"),
        line(4, "d", "failed"),
        line(5, "e", "failed"),
    )
    found = status(*lines)._replace(repeatables=(Repetition("v", "failed", None, None, error="no"),))
    problems = show(snapshot(found)).problems
    assert [problem.key for problem in problems] == ["004", "005", "003", "repeatable/v.sql", "002", "001"]
    assert problems[3].report == "no"
    assert problems[3].command == "entrypoint migrate"


def test_the_statement_is_shown_with_its_line() -> None:
    assert show(states.MIGRATING).work
    for or_later, place in ((False, "Line 7"), (True, "From line 7")):
        found = replace(states.MIGRATING, statement=Excerpt(7, "SELECT\u202e 1", or_later=or_later))
        work = show(found).work
        assert work
        assert (work.line, work.statement) == (place, "SELECT⟨U+202E⟩ 1")
    # During a pause, and when nobody is working.
    lock = states.MIGRATING.status.lock._replace(detail={"retry": "it is tried again in 4 s"})  # type: ignore[union-attr]
    pausing = replace(found, status=found.status._replace(lock=lock))  # type: ignore[union-attr]
    gone = replace(found, status=found.status._replace(guarded=False))  # type: ignore[union-attr]
    for one in (pausing, gone):
        work = show(one).work
        assert work
        assert (work.line, work.statement, work.share) == (None, None, None)


WAITING: dict[str, tuple[Waiters | None, Waiting | None]] = {
    "nobody has looked": (None, None),
    "nobody": (Waiters(known=True, starts=()), None),
    "one": (
        Waiters(known=True, starts=(Waiter("10.0.0.7", "2026-11-02T06:12:20Z"),)),
        Waiting("1 other start", ("10.0.0.7, since 06:12:20 UTC",), 0),
    ),
    "on the same machine, and nobody knows since when": (
        Waiters(known=True, starts=(Waiter("", ""),)),
        Waiting("1 other start", ("this database's machine",), 0),
    ),
    "many": (
        Waiters(known=True, starts=(Waiter("10.0.0.7", ""),) * 12),
        Waiting("12 other starts", ("10.0.0.7",) * 5, 7),
    ),
    "not to be seen": (
        Waiters(known=False, starts=()),
        Waiting("Not visible: seeing all of them needs pg_read_all_stats", (), 0),
    ),
    "some of them not to be seen": (
        Waiters(known=False, starts=(Waiter("10.0.0.7", ""),)),
        Waiting("At least 1 other start: seeing all of them needs pg_read_all_stats", ("10.0.0.7",), 0),
    ),
}


@pytest.mark.parametrize("case", WAITING)
def test_who_waits(case: str) -> None:
    waiting, expected = WAITING[case]
    work = show(replace(states.MIGRATING, waiting=waiting)).work
    assert work
    assert work.waiting == expected


REMEDIES = {
    "Correct the files; `entrypoint check` shows all errors.": ("entrypoint check",),
    "It is tried again: entrypoint repair --failed, or DELETE FROM x.": ("entrypoint repair --failed",),
    "Wait for it. To stop it: entrypoint unlock --force.": ("entrypoint unlock --force",),
    "entrypoint status shows it, and entrypoint status shows more": ("entrypoint status",),
    # These need something filled in.
    "entrypoint migrate --to N": (),
    "entrypoint import --from TOOL DIR": (),
    "The image's entrypoint has another name.": (),
}


@pytest.mark.parametrize("remedy", REMEDIES)
def test_the_commands_in_a_remedy_can_be_copied(remedy: str) -> None:
    failure = Unavailable("files.invalid", "x", remedy, reachable=True)
    assert show(snapshot(None, failure)).commands == REMEDIES[remedy]


@pytest.mark.parametrize("state", ["applied", "pending", "ahead"])
def test_what_is_no_problem(state: str) -> None:
    assert show(snapshot(status(A, line(2, "b", state)))).problems == ()


def test_a_file_outside_a_transaction_that_runs_is_no_problem() -> None:
    lock = HELD._replace(migration="002_b.sql")
    page = show(snapshot(status(A, line(2, "b", "running"), lock=lock, guarded=True)))
    assert page.problems == ()
    assert page.pending[0].state.label == "running now"


def test_each_state_has_a_word_and_a_sign_of_its_own() -> None:
    known = [
        view._STATES[state] for state in ("applied", "pending", "working", "failed", "changed", "missing", "ahead")
    ]
    assert len({state.label for state in known}) == len({state.sign for state in known}) == len(known)


def test_the_timeline_goes_back_day_by_day() -> None:
    page = show(states.UP_TO_DATE)
    assert [(day.label, day.note) for day in page.days] == [
        ("Monday, 16 November 2026", "3 migrations in 470 ms"),
        ("Monday, 2 November 2026", "3 migrations in 3 min 54 s"),
        ("Monday, 5 October 2026", "3 migrations in 2.3 s"),
        ("Monday, 14 September 2026", "3 migrations in 546 ms"),
    ]
    assert [entry.number for day in page.days for entry in day.entries] == [
        f"{number:03d}" for number in range(12, 0, -1)
    ]
    longest = page.days[1].entries[1]
    assert (longest.name, longest.took, longest.bar) == ("008_full_text_search.sql", "3 min 5 s", 100.0)
    assert page.scale == "Bars show how long each took, on a square-root scale; the longest took 3 min 5 s."


def test_what_nobody_recorded_is_not_made_up() -> None:
    page = show(snapshot(status(line(1, "a"), A._replace(number=2), line(3, "c", applied_at="infinity"))))
    unknown = [entry for day in page.days for entry in day.entries if day.machine is None]
    assert {entry.number for entry in unknown} == {"001", "003"}
    assert [(entry.took, entry.bar, entry.at, entry.version) for entry in unknown] == [(None, None, None, None)] * 2
    assert page.scale == "Bars show how long each took; the longest took 10 ms."
    assert show(snapshot(status(line(1, "a")))).scale == ""


def test_of_many_the_latest_are_listed() -> None:
    many = status(*(line(n, "x", applied_at=f"2026-11-02T06:{n // 60:02d}:{n % 60:02d}Z") for n in range(1, 301)))
    page = show(snapshot(many))
    assert page.older == 250
    assert [entry.number for day in page.days for entry in day.entries] == [f"{n:03d}" for n in range(300, 250, -1)]
    page = show(snapshot(many), full=True)
    assert page.older == 0
    assert sum(len(day.entries) for day in page.days) == 300


def test_what_was_seen_before_is_shown_as_what_it_is() -> None:
    page = show(states.AWAY, states.MIGRATING)
    assert (page.tone, page.headline) == ("away", "The database cannot be reached")
    assert page.fault == "Cannot connect to db:5432 (shop): connection refused"
    assert page.remedy
    assert page.seen
    assert page.seen.machine == "2026-11-22T21:45:03Z"
    assert page.days
    # Nobody knows any more who holds the lock.
    assert page.work is None
    assert {fact.label: fact.value for fact in page.facts}["Lock"] == "unknown"


ANSWERS: dict[str, tuple[Snapshot, str]] = {
    "no connection": (states.AWAY, "The database cannot be reached"),
    "bad files": (states.BAD_FILES, "The status cannot be read"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_nothing_was_ever_seen(case: str) -> None:
    found, headline = ANSWERS[case]
    page = show(found)
    assert (page.tone, page.headline) == ("away", headline)
    assert page.explanation.startswith("This service has not seen the database")
    assert (page.facts, page.days, page.seen) == ((), (), None)


POLLS = {
    "migrating": 1_000,
    "unmeasured": 1_000,
    "blocked": 1_000,
    "pending": 2_000,
    "failed": 2_000,
    "database-away": 2_000,
}


@pytest.mark.parametrize("state", states.ALL)
def test_an_open_page_looks_again_sooner_when_something_may_happen(state: str) -> None:
    working = {"hostile": 1_000, "left-behind": 2_000, "stranger": 2_000, "bad-files": 2_000, "long-numbers": 2_000}
    assert show(states.ALL[state]).poll == (POLLS | working).get(state, 4_000)


def test_a_headline_says_what_has_happened_and_not_how_far_it_is() -> None:
    lock = HELD._replace(migration="002_b.sql", statement=1, statements=3, detail={"seconds": 3})
    later = lock._replace(seconds=99, statement=2, detail={"seconds": 41, "percent": 3}, migration="003_c.sql")
    c = line(3, "c", "pending")
    first = show(snapshot(status(A, B, c, lock=lock, guarded=True)))
    second = show(snapshot(status(A, B._replace(state="applied"), c, lock=later, guarded=True)))
    assert first.headline == second.headline
