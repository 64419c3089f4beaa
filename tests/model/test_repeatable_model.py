"""Which image applies which text of a repeatable file, over random histories of releases."""

from __future__ import annotations

import random

import pytest
from repeatable_model import Release, as_designed, by_checksum, by_number, play, start

HISTORIES = 2_000


@pytest.mark.thorough
def test_older_texts_over_newer_ones_are_rare() -> None:
    """The other rules are reasonable: they are what Flyway does, and what a number alone can do."""
    means = {}
    for rule in (as_designed, by_number, by_checksum):
        chance = random.Random(1)
        means[rule] = sum(play(random.Random(chance.random()), rule).backwards for _ in range(HISTORIES)) / HISTORIES
    assert means[as_designed] < 0.2, means
    assert means[as_designed] * 4 < means[by_number] < means[by_checksum], means


@pytest.mark.parametrize("seed", range(50))
def test_two_images_never_replace_each_others_text_in_turns(seed: int) -> None:
    """However often the images start, each text is applied once, unless a new number comes in between."""
    history = play(random.Random(seed), as_designed)
    seen: set[tuple[str, int]] = set()
    for mine, _ in history.applications:
        assert (mine.text, mine.newest) not in seen
        seen.add((mine.text, mine.newest))


@pytest.mark.parametrize("seed", range(50))
def test_the_newest_release_gets_its_text_in_force(seed: int) -> None:
    """Except for a text that was replaced before: going back to it takes a new number."""
    chance = random.Random(seed)
    history = play(chance, as_designed)
    last = history.releases[-1]
    before = [text for text in history.texts if text.checksum == last.text and text.replaced]
    in_force = next(text.checksum for text in history.texts if not text.replaced)
    if all(text.replaced_under is not None and text.replaced_under < last.newest for text in before):
        assert in_force == last.text
    again = Release(last.order + 1, last.newest + 1, history.releases[0].text)
    start(again, history.texts, as_designed)
    assert next(text.checksum for text in history.texts if not text.replaced) == again.text
