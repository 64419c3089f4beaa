"""The lock's model, explored completely: every promise holds, and every part of the design is needed.

A quick run lets one thing go wrong in each history, CI two. ENTRYPOINT_TEST_MODEL_FAULTS=3 allows three: 800,000
states, half a minute or more.
"""

from __future__ import annotations

import logging
import os

import pytest
from lock_model import Rules, Scenario, explore

FAULTS = int(os.environ.get("ENTRYPOINT_TEST_MODEL_FAULTS", "2"))
OURS_ONLY = Scenario(legacy=False)
# Everything that can go wrong with a lock, except a wrong commit.
UNFORTUNATE = (
    "robs",
    "takes the row from",
    "ends the sessions of",
    "ends itself",
    "stops for good",
    "frees its own later lease",
    "works outside a transaction",
    "nobody comes to an end any more",
)
# If its causes are tolerated, a missing fence shows up as "The same migration is committed twice".
CAUSES = ("robs", "was replaced and can commit", "two processes can commit")


def log(caplog: pytest.LogCaptureFixture, found: object) -> None:
    with caplog.at_level(logging.INFO):
        logging.getLogger("model").info("%s", found)


@pytest.mark.timeout(600 if FAULTS > 2 else 120)
@pytest.mark.parametrize(("faults", "states"), [(1, 5_000), pytest.param(FAULTS, 100_000, marks=pytest.mark.thorough)])
def test_with_everything_in_place_every_promise_holds(
    faults: int, states: int, caplog: pytest.LogCaptureFixture
) -> None:
    found = explore(Rules(), Scenario(faults=faults))
    log(caplog, found)
    assert found.counterexample is None, str(found)
    assert found.states > states, f"only {found.states} states: the model has lost some of its events"


def test_without_faults_somebody_always_comes_to_the_end() -> None:
    found = explore(Rules(), Scenario(faults=0))
    assert found.counterexample is None, str(found)


def test_without_the_fence_a_replaced_holder_can_commit(caplog: pytest.LogCaptureFixture) -> None:
    found = explore(Rules(fence=False), OURS_ONLY, tolerating=("robs",))
    log(caplog, found)
    assert found.counterexample is not None, str(found)
    assert found.counterexample.violation == "A was replaced and can commit", str(found)
    assert found.counterexample.labels == [
        "A takes the guard",
        "A takes the row",
        "A begins, fenced",
        "A's guard alone is terminated",
        "B takes the guard",
        "B takes the row",
    ]


def test_without_the_fence_a_migration_is_committed_twice(caplog: pytest.LogCaptureFixture) -> None:
    found = explore(Rules(fence=False), OURS_ONLY, tolerating=CAUSES)
    log(caplog, found)
    assert found.counterexample is not None, str(found)
    assert found.counterexample.violation.endswith("commits file 1 a second time"), str(found)
    commits = [label for label in found.counterexample.labels if label.endswith("commit is done")]
    assert sorted(commits) == ["A's commit is done", "B's commit is done"], str(found)


def test_without_the_guard_a_living_holder_is_robbed(caplog: pytest.LogCaptureFixture) -> None:
    found = explore(Rules(guard=False), OURS_ONLY)
    log(caplog, found)
    assert found.counterexample is not None, str(found)
    assert found.counterexample.violation == "B robs A, which lives", str(found)
    assert found.counterexample.labels == ["A contends", "A takes the row", "B contends", "B takes the row"]
    assert all(step.cause == "own" for step in found.counterexample.steps), "nothing had to go wrong for it"


@pytest.mark.thorough
def test_the_fence_alone_keeps_commits_apart(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever else is missing, work may be disturbed, but the schema is never damaged."""
    bare = Rules(*(name == "fence" for name in Rules._fields))
    found = explore(bare, Scenario(files=("transactional",)), tolerating=UNFORTUNATE)
    log(caplog, found)
    assert found.counterexample is None, str(found)


@pytest.mark.thorough
def test_a_slow_win_back_costs_a_living_holder_its_work_and_nothing_else() -> None:
    """The model assumes that a lost guard is won back within 3 s, which a slow machine may not manage."""
    slow = Rules(wins_back_in_time=False)
    found = explore(slow, OURS_ONLY)
    assert found.counterexample is not None
    assert "ends the sessions of" in found.counterexample.violation, str(found)
    found = explore(slow, OURS_ONLY, tolerating=("ends the sessions of",))
    assert found.counterexample is None, str(found)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("piece", "scenario", "violation", "last"),
    [
        ("take_needs_guard", OURS_ONLY, "A robs B, which lives", "A takes the row"),
        ("take_from_dead", OURS_ONLY, "nobody comes to an end any more", "A crashes|A freezes"),
        ("take_respects_legacy", Scenario(), "A takes the row from a fresh earlier system", "A takes the row"),
        ("take_sees_session", OURS_ONLY, "B robs A, which lives", "B takes the row"),
        ("legacy_sees_guard", Scenario(), "the earlier system robs A, which lives", "releases stale locks"),
        ("legacy_sees_session", Scenario(), "the earlier system robs A, which lives", "releases stale locks"),
        ("legacy_release_spares_token", Scenario(), "the earlier system robs A, which lives", "releases all the same"),
        ("ends_zombies", OURS_ONLY, "nobody comes to an end any more", "A freezes"),
        ("ending_needs_guard", OURS_ONLY, "ends the sessions of", "ends the sessions of"),
        ("ending_spares_own", OURS_ONLY, "A ends itself", "A ends its own session"),
        ("session_before_repair", OURS_ONLY, "A works outside a transaction", "A puts right what was left"),
        ("session_lock_fenced", Scenario(("outside",)), "nobody comes to an end any more", "A freezes"),
        ("token_for_each_lease", OURS_ONLY, "A frees its own later lease", "A's old backend frees the row"),
        ("verdict_from_row", OURS_ONLY, "stops for good", "finds that the row is not its own"),
    ],
)
def test_each_piece_is_needed(
    piece: str, scenario: Scenario, violation: str, last: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = explore(Rules()._replace(**{piece: False}), scenario)
    log(caplog, found)
    assert found.counterexample is not None, str(found)
    assert violation in found.counterexample.violation, str(found)
    assert any(words in found.counterexample.labels[-1] for words in last.split("|")), str(found)
    assert len(found.counterexample.steps) <= 20, "a counterexample is to be read"


def test_a_counterexample_reads_as_a_story() -> None:
    text = str(explore(Rules(guard=False), OURS_ONLY))
    assert "  4. B takes the row" in text
    assert "row: B, guard: free, A leading, B leading, applied: 0" in text
