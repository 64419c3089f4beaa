"""The decision alone: whether another migration tool has anything to do."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from entrypoint.command import Command
from entrypoint.migration.ledger.runs import NOTHING, UNKNOWN, Run, Runs
from entrypoint.migration.ledger.verdict import AHEAD, PENDING, UP_TO_DATE, Verdict, Wanted, judge_command, standing

COMMAND = Command("tool up", ("tool", "up"), ("steps",), (), with_files=False)


def wanted(fingerprint: str, names: str = "a b", seen: int | None = None) -> Wanted:
    return Wanted(COMMAND, fingerprint, frozenset(names.split()), seen)


def runs(*rows: str, digest: str) -> Runs:
    """Return runs, each as `fingerprint before after status`."""
    found = []
    for number, row in enumerate(rows, start=1):
        fingerprint, before, after, status = row.split()
        found.append(Run(number, fingerprint, before, after, status))
    return Runs(tuple(found), digest, "permission denied")


@pytest.mark.parametrize(
    ("rows", "digest", "name", "why"),
    [
        ((), NOTHING, PENDING, "has not run here yet"),
        ((), "A", PENDING, "has not run here yet"),
        (("v1 none A completed",), "A", UP_TO_DATE, ""),
        (("v1 none A completed", "v2 A B completed"), "B", AHEAD, "continued"),
        (("v1 none A completed", "v2 A B completed", "v3 B C completed"), "C", AHEAD, "continued"),
        (("v1 none A completed", "v2 A B completed"), "A", UP_TO_DATE, ""),
        (("v1 none A completed", "v2 A B completed"), "X", PENDING, "has changed since its last run"),
        (
            ("v1 none A completed", "v2 A B completed", "v3 X C completed"),
            "C",
            PENDING,
            "has changed since its last run",
        ),
        (("v1 none A completed", "v2 A B failed"), "B", PENDING, "has changed since its last run"),
        (("v2 none B completed",), "B", PENDING, "have changed"),
        (("v1 none A failed",), "A", PENDING, "the last run failed"),
        (("v1 none A failed",), NOTHING, PENDING, "the last run failed"),
        (("v1 none A interrupted",), "A", PENDING, "was interrupted"),
        (("v1 none A completed", "v1 A A failed"), "A", UP_TO_DATE, ""),
    ],
)
def test_the_verdict(rows: tuple[str, ...], digest: str, name: str, why: str) -> None:
    verdict = judge_command(wanted("v1"), runs(*rows, digest=digest))
    assert verdict.name == name
    assert why in verdict.why
    assert not verdict.always


@pytest.mark.parametrize(
    ("want", "rows", "digest", "why"),
    [
        (wanted("v1", ""), ("v1 none A completed",), "A", "MIGRATION_COMMAND_INPUTS"),
        (wanted("v1"), ("v1 none unknown completed",), UNKNOWN, "permission denied"),
        (wanted("v1"), ("v1 none none completed",), NOTHING, "MIGRATION_COMMAND_STATE"),
    ],
)
def test_where_nobody_can_know_it_always_runs(want: Wanted, rows: tuple[str, ...], digest: str, why: str) -> None:
    verdict = judge_command(want, runs(*rows, digest=digest))
    assert verdict.pending
    assert verdict.always
    assert why in verdict.why


@pytest.mark.parametrize(
    ("names", "theirs", "name"),
    [
        ("a", "a b", AHEAD),
        ("a b", "a b", PENDING),
        ("a b c", "a b", PENDING),
        ("a c", "a b", PENDING),
    ],
)
def test_a_part_of_the_inputs_is_an_older_image(names: str, theirs: str, name: str) -> None:
    history = runs("v2 none B completed", digest="B")
    result = standing(history)
    assert result is not None
    verdict = judge_command(wanted("old", names), history, standing_names=theirs.split())
    assert verdict.name == name
    assert bool(verdict.doubt) is (name == AHEAD)


@pytest.mark.parametrize(
    ("seen", "rows", "failed"),
    [
        (None, ("v1 none A failed",), None),
        (0, ("v1 none A failed",), 1),
        (1, ("v1 none A failed",), None),
        (1, ("v1 none A failed", "v1 A A failed"), 2),
        (0, ("v1 none A failed", "v1 A A interrupted"), None),
        (0, ("v2 none A failed",), None),
    ],
)
def test_what_failed_since_the_first_look(seen: int | None, rows: tuple[str, ...], failed: int | None) -> None:
    assert judge_command(wanted("v1", seen=seen), runs(*rows, digest="A")).failed == failed


# --- Random histories of images ---------------------------------------------------------------------------


class Image(NamedTuple):
    """An image with the first few steps of a project, in a certain build."""

    steps: int
    build: int

    @property
    def wanted(self) -> Wanted:
        return wanted(f"{self.steps}.{self.build}", " ".join(f"s{number}" for number in range(self.steps)) or "env")


class Model:
    """A tool that applies what it has, and fails if the database has steps that it does not know."""

    def __init__(self) -> None:
        self.applied = 0
        """How many steps the database has applied."""
        self.rows: list[Run] = []
        self.names: dict[int, frozenset[str]] = {}

    def digest(self) -> str:
        return f"after {self.applied}" if self.applied else NOTHING

    def look(self, image: Image) -> Verdict:
        history = Runs(tuple(self.rows), self.digest())
        result = standing(history)
        verdict = judge_command(image.wanted, history)
        if verdict.pending and result is not None:
            verdict = judge_command(image.wanted, history, standing_names=self.names[result.id])
        return verdict

    def start(self, image: Image) -> Verdict:
        """Start an image, and run the tool if that is the verdict."""
        verdict = self.look(image)
        if verdict.pending:
            before, fails = self.digest(), image.steps < self.applied
            self.applied = max(self.applied, image.steps)
            number = len(self.rows) + 1
            status = "failed" if fails else "completed"
            self.rows.append(Run(number, image.wanted.fingerprint, before, self.digest(), status))
            self.names[number] = image.wanted.names
        return verdict


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(20))
def test_in_random_histories_nothing_is_missed_and_older_images_do_not_run(seed: int) -> None:
    for round_ in range(50):
        chance = random.Random(seed * 1000 + round_)
        model, by_hand = Model(), False
        for _ in range(12):
            if chance.random() < 0.15 and model.applied:
                model.applied, by_hand = chance.randrange(model.applied), True
            image = Image(chance.randint(1, 4), chance.randint(1, 2))
            behind = image.steps > model.applied
            older = image.steps < model.applied
            verdict = model.start(image)
            # The promise: steps that it has and the database lacks always run.
            assert verdict.pending or not behind, (seed, round_, model.rows)
            assert model.applied >= image.steps
            # Unless somebody goes back by hand, an older image's tool never runs, so it never fails.
            assert by_hand or not older or verdict.name == AHEAD, (seed, round_, model.rows)
            # Once an image has started and is not older, it has nothing to do at its next start.
            again = model.look(image)
            assert older or not again.pending, (seed, round_, model.rows)
