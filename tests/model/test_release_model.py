"""Random histories of releases check the promises about the rollout: images, starts, contracts, failures, crashes.

The decisions are the program's own (`decide`, `what_is_initial`). The simulation around them is not, and the judge only
sees which image applied which file, and with which command.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, NamedTuple

import pytest

from entrypoint.migration.ledger import plan as planning
from entrypoint.migration.ledger import rollout as about_rollout
from entrypoint.migration.ledger.rows import COMPLETED, FAILED, LedgerRow
from entrypoint.migration.script.files import MigrationFile
from entrypoint.migration.script.rollout import Rollout

if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.migration.ledger.plan import Plan

HISTORIES = 400


class Script(NamedTuple):
    """A file, and its directives."""

    number: int
    rollout: Rollout
    text: str

    @property
    def name(self) -> str:
        return f"{self.number:03d}_x.sql"

    @property
    def file(self) -> MigrationFile:
        return MigrationFile(self.number, self.name, self.name, self.text, self.text)


Image = tuple[Script, ...]


class World:
    """A database with its ledger, and what must hold at each step."""

    def __init__(self) -> None:
        self.rows: dict[int, LedgerRow] = {}
        self.began_with: int | None = None
        """The highest number in the image that started with the empty ledger; None once all of it is applied."""

    def completed(self) -> set[int]:
        return {row.number for row in self.rows.values() if row.status == COMPLETED}

    def start(self, image: Image, random: Random, *, after: bool) -> bool:
        """Play one start or contract; tell whether it finished without a complaint."""
        files, said = [one.file for one in image], {one.number: one.rollout for one in image}
        said = {number: rollout for number, rollout in said.items() if rollout != Rollout()}
        plan = planning.decide(files, sorted(self.rows.values()), after=after, said=said)
        floors = {row.floor for row in self.rows.values() if row.floor}
        names = {one.name for one in image} | {name for one in image for name in one.rollout.replaces}
        assert bool(plan.below) == bool(floors - names)
        if plan.below:
            return False
        new = not self.completed()
        late = frozenset(number for number in said if said[number].after)
        first, ends = about_rollout.what_is_initial(plan, late & {file.number for file in plan.pending})
        by_number = {one.number: one for one in image}
        if new:
            self.began_with = max(by_number, default=None)
        for index, file in enumerate(plan.runnable):
            end = random.random()
            if end < 0.06:  # killed
                return False
            script = by_number[file.number]
            if end < 0.14:
                before = self.rows.get(file.number)
                assert before is None or before.checksum != script.text, "tried again without a change"
                self.rows[file.number] = LedgerRow(file.number, file.name, FAILED, script.text, "refused")
                return False
            last = index + 1 == len(plan.runnable)
            self._apply(script, image, after=after, initial=first if index == 0 else None, ends=ends and last)
        return not (plan.held_back or plan.unmet)

    def _apply(self, script: Script, image: Image, *, after: bool, initial: int | None, ends: bool) -> None:
        number, rollout, done = script.number, script.rollout, self.completed()
        assert number not in done, "applied twice"
        assert rollout.requires is None or rollout.requires in done, "without what it requires"
        if rollout.after:
            lower = {one.number for one in image if one.number < number} | {n for n in self.rows if n < number}
            assert lower <= done, "it has overtaken"
            assert after or (self.began_with is not None and number <= self.began_with), "before the end of the rollout"
        self.rows[number] = LedgerRow(number, script.name, COMPLETED, script.text, None, rollout.floor, initial)
        if ends:
            self.rows = {n: row._replace(initial=None) for n, row in self.rows.items()}
            self.began_with = None


def some_image(random: Random, before: Image) -> Image:
    """Return the next release: a few more files, perhaps one fixed, or one missing as on a branch."""
    scripts = list(before)
    number = max((one.number for one in scripts), default=0)
    for _ in range(random.randint(1, 3)):
        number += random.choice((1, 1, 1, 2))
        known = [one.number for one in scripts]
        late = random.random() < 0.35
        floor = random.choice([f"{n:03d}_x.sql" for n in (*known, number)]) if late and random.random() < 0.5 else None
        requires = random.choice(known) if known and random.random() < 0.15 else None
        scripts.append(Script(number, Rollout(late, requires, floor), f"{number}"))
    if random.random() < 0.1 and len(before) > 2:
        gone = random.choice(before)
        scripts = [
            one._replace(rollout=one.rollout._replace(replaces=(*one.rollout.replaces, gone.name)))
            if one is scripts[-1] and random.random() < 0.5
            else one
            for one in scripts
            if one is not gone
        ]
    return tuple(scripts)


def mended(image: Image, world: World) -> Image:
    """Return the image with a new text for what has failed."""
    failed = {row.number for row in world.rows.values() if row.status == FAILED}
    return tuple(one._replace(text=one.text + "+") if one.number in failed else one for one in image)


def play(seed: int) -> None:
    random = Random(seed)
    world, images = World(), [some_image(random, ())]
    for _ in range(random.randint(3, 14)):
        step = random.random()
        if step < 0.3:
            images.append(some_image(random, images[-1]))
        elif step < 0.4:
            images[-1] = mended(images[-1], world)
        image = images[-1] if random.random() < 0.75 else random.choice(images)
        world.start(image, random, after=random.random() < 0.3)
    # At the end, with nothing in the way, one release applies everything.
    image = images[-1]
    for _ in range(20):
        image = mended(image, world)
        if world.start(image, Calm(seed), after=True):
            break
    plan = planning.decide([one.file for one in image], sorted(world.rows.values()), after=True)
    if plan.below:
        return
    here = {one.number for one in image}
    foreign = [row for row in world.rows.values() if row.number not in here and row.status == FAILED]
    missing = [one for one in image if one.rollout.requires not in {None, *here, *world.completed()}]
    assert not plan.pending or foreign or missing, f"left: {plan.pending}"


class Calm(Random):
    """Nothing fails, and nobody is killed."""

    def random(self) -> float:
        return 1.0


def test_random_histories() -> None:
    for seed in range(HISTORIES):
        play_one(seed)


@pytest.mark.thorough
def test_many_random_histories() -> None:
    for seed in range(HISTORIES, 20_000):
        play_one(seed)


def play_one(seed: int) -> None:
    try:
        play(seed)
    except AssertionError as error:
        msg = f"seed {seed}: {error}"
        raise AssertionError(msg) from error


def test_a_new_database_that_is_interrupted_gets_all_of_its_first_image() -> None:
    for seed in range(HISTORIES):
        random = Random(seed)
        world, image = World(), some_image(random, some_image(random, ()))
        for _ in range(50):
            image = mended(image, world)
            if world.start(image, random, after=False) and not world.began_with:
                break
        known = {one.number for one in image}
        if all(one.rollout.requires in {None, *known} for one in image):
            assert known == world.completed(), f"seed {seed}"


# Without each rule, the histories find what it prevents.


def everything_pending(plan: Plan) -> Plan:
    return plan._replace(runnable=plan.pending, held_back=None, unmet=None)


def outstanding_too(plan: Plan) -> Plan:
    everything = tuple(sorted((*plan.pending, *plan.outstanding)))
    return plan._replace(pending=everything, runnable=everything, outstanding=())


def no_floor(plan: Plan) -> Plan:
    return plan._replace(below=())


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (everything_pending, r"overtaken|requires|tried again"),
        (outstanding_too, "before the end of the rollout|overtaken"),
        (no_floor, r"plan.below|below"),
    ],
)
def test_a_rule_left_out_is_found(monkeypatch: pytest.MonkeyPatch, broken: Callable[[Plan], Plan], found: str) -> None:
    decide = planning.decide
    monkeypatch.setattr(planning, "decide", lambda *args, **options: broken(decide(*args, **options)))
    with pytest.raises(AssertionError, match=found):
        test_random_histories()


def test_a_new_database_without_a_mark_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(about_rollout, "what_is_initial", lambda *_: (None, False))
    with pytest.raises(AssertionError):
        test_a_new_database_that_is_interrupted_gets_all_of_its_first_image()
