"""A few stories in every run, and tests of the judge of their histories."""

from __future__ import annotations

import secrets
import time
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from faults import story
from faults.history import History, Mark, Row, Sample, Script, Start, violations
from kit.processes import Run, until
from kit.proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from faults.machinery import Machinery


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", ["suite/1", "suite/2", "suite/3", ""])
def test_a_story_ends_well(machinery: Machinery, tmp_path: Path, seed: str) -> None:
    seed = seed or f"random/{secrets.randbelow(10**9)}"
    violation, _ = story.tell(machinery, tmp_path, story.draw(Random(seed)))
    assert not violation, f"the story of {seed}: {violation}"


def test_who_is_stopped_in_the_instant_of_its_end_has_ended_by_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["sh", "-c", "echo ready >&2; exec sleep 60"]
    with Run(argv, directory=tmp_path) as run, Proxy(1) as proxy:
        replica = story.Replica(run, proxy, time.time() + 20)
        scene = cast("story.Telling", SimpleNamespace(replica=lambda _: replica, later=lambda *_: None))
        until(lambda: run.stderr, 10, "its first words")
        story.FAULTS["SIGTERM"](scene, story.Blow(0.0, "SIGTERM", 0, 0.0))
        until(lambda: replica.ended is not None, 10, "the end")
        monkeypatch.setattr(Run, "running", True)  # as it was a moment before
        story.FAULTS["SIGSTOP for a while"](scene, story.Blow(0.0, "SIGSTOP for a while", 0, 3.0))
        start = replica.story()._replace(code=143)
        assert violations(GOOD._replace(starts=(start,))) == []


# Two transactional migrations by one holder, then one outside by another, which has two steps.
GOOD = History(
    scripts=(Script(1, 2), Script(2, 1), Script(3, 2, outside=True)),
    marks=(
        Mark(1, 1, "700", "a", 10.0, 11.0),
        Mark(1, 2, "700", "a", 10.5, 11.0),
        Mark(2, 1, "701", "a", 11.1, 11.2),
        Mark(3, 1, "705", "b", 12.0, 12.1),
        Mark(3, 2, "706", "b", 12.2, 12.3),
    ),
    samples=(Sample(9.9, ((41, 7),)), Sample(11.5, ()), Sample(11.9, ((42, 7),))),
    starts=(
        Start(100, 9.0, 20.0, 11.5, -9, "", killed=True),
        Start(101, 9.0, 20.0, 12.5, 0, "migrated|3|101|"),
        Start(102, 9.0, 20.0, 12.9, 0, "waited|3|102|"),
        Start(103, 9.0, 20.0, 13.0, 75, ""),
        Start(104, 9.0, 20.0, 12.0, 143, "", signalled=11.0),
        Start(105, 9.0, 20.0, 12.0, 0, "failed||105|The lock was lost"),
        Start(106, 9.0, 20.0, 15.0, 143, "", signalled=11.0, stopped=2.0),
    ),
    ledger=(Row(1, "completed"), Row(2, "completed"), Row(3, "completed")),
)
STARTS, MARKS = GOOD.starts, GOOD.marks


def test_a_good_history_breaks_nothing() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (GOOD._replace(marks=MARKS[:2]), "its steps are in [0] times"),
        (GOOD._replace(marks=(*MARKS, MARKS[2]._replace(transaction="9"))), "its steps are in [2] times"),
        (GOOD._replace(marks=(*MARKS, MARKS[4]._replace(transaction="9"))), "migration 3 is completed, and its steps"),
        (
            GOOD._replace(ledger=GOOD.ledger[:2], marks=(*MARKS, MARKS[4]._replace(transaction="9"))),
            "migration 3: its steps are in [1, 2] times",
        ),
        (GOOD._replace(ledger=(GOOD.ledger[0], GOOD.ledger[2])), "migration 2 is not completed"),
        (GOOD._replace(marks=(MARKS[0], MARKS[1]._replace(transaction="9"), *MARKS[2:])), "by several transactions"),
        (GOOD._replace(ledger=(*GOOD.ledger, Row(2, "failed", "no"))), "migration 2 has 2 rows"),
        (GOOD._replace(ledger=(Row(1, "failed", "no"),), marks=()), "migration 1 is recorded as failed: no"),
        (GOOD._replace(marks=(*MARKS, Mark(9, 1, "9", "a", 1.0, 1.1))), "a migration that there is not"),
        (GOOD._replace(marks=(*MARKS[:2], MARKS[2]._replace(at=10.9), *MARKS[3:])), "began before"),
        (
            GOOD._replace(marks=(*MARKS[:3], MARKS[3]._replace(at=11.15), *MARKS[4:])),
            "701 of a and 705 of b were open at once",
        ),
        (GOOD._replace(samples=(Sample(1.0, ((41, 7), (42, 8))),)), "2 guards at once"),
        (GOOD._replace(starts=(STARTS[1]._replace(ended=22.0),)), "ended 2.0 s after it was due"),
        (GOOD._replace(starts=(STARTS[1]._replace(ended=None, code=-1),)), "did not end"),
        (GOOD._replace(starts=(STARTS[1]._replace(ended=12.2),)), "before migration 3 was committed"),
        (GOOD._replace(starts=(STARTS[1]._replace(output="migrated|2|101|"),)), "told its application"),
        (GOOD._replace(starts=(STARTS[5]._replace(output="failed||105|"),)), "was not told why"),
        (GOOD._replace(starts=(STARTS[3]._replace(output="failed||1|x"),)), "the application was started"),
        (GOOD._replace(starts=(STARTS[3]._replace(code=1),)), "ended with 1"),
        (GOOD._replace(starts=(STARTS[4]._replace(ended=15.0),)), "took 4.0 s to end by a signal"),
        (GOOD._replace(starts=(STARTS[4]._replace(output="up_to_date|3|1|"),)), "got a signal, and"),
        (GOOD._replace(starts=(STARTS[3]._replace(log="Traceback (most recent"),)), "'Traceback' in its log"),
        (
            GOOD._replace(starts=(STARTS[3]._replace(log='{"level": "error", "m": "relation already exists"}'),)),
            "met traces of an earlier run",
        ),
    ],
)
def test_the_judge_finds(history: History, said: str) -> None:
    found = violations(history)
    assert any(said in violation for violation in found), found
