"""Look for differences for a while, and minimize the first of each class."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from fuzz.judge import Difference, Judge, minimised
from fuzz.texts import make, mutate

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.whole import Whole

CORPUS = Path(__file__).parent / "corpus"

KNOWN = {
    "false alarm where disputed (parser)": "where our two readings differ, what either of them finds is refused",
}
"""Classes of differences that are as they should be, each with its reason."""


class Found(NamedTuple):
    """The first text of a class, minimized."""

    difference: Difference
    text: str
    known: str


def sample(whole: Whole, seed: str, count: int, tell: Callable[[Found], None] = lambda _: None) -> list[Found]:
    """Let the whole program apply `count` random texts; return the first of each class of differences."""
    random = Random(seed)
    pool = list(corpus().values())
    found: dict[str, Found] = {}
    for _ in range(count):
        text = mutate(pool, random) if random.random() < 0.25 else make(random)
        difference = whole.difference(text, escapes=random.random() < 0.3)
        if difference is not None and difference.shape not in found:
            found[difference.shape] = Found(difference, text, KNOWN.get(difference.shape, ""))
            tell(found[difference.shape])
    return list(found.values())


class Result(NamedTuple):
    """What a hunt has found."""

    seconds: float
    counts: Counter[str]
    found: list[Found]


def corpus() -> dict[str, str]:
    """Return the texts that we once read differently from the server, by their file names."""
    return {path.name: path.read_bytes().decode() for path in sorted(CORPUS.glob("*.sql"))}


def hunt(judge: Judge, seed: str, seconds: float, tell: Callable[[Found], None] = lambda _: None) -> Result:
    """Try texts until the time is over. The same seed tries the same texts in the same order."""
    random = Random(seed)
    pool = list(corpus().values())
    counts: Counter[str] = Counter()
    found: list[Found] = []
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        text = mutate(pool, random) if pool and random.random() < 0.25 else make(random)
        if len(pool) < 1000:
            pool.append(text)
        for difference in judge.differences(text):
            shape = difference.shape
            if not counts[shape]:
                small = minimised(text, lambda shorter, shape=shape: _shows(judge, shorter, shape))  # type: ignore[misc]
                found.append(Found(difference, small, KNOWN.get(shape, "")))
                tell(found[-1])
            counts[shape] += 1
    return Result(time.monotonic() - began, counts, found)


def _shows(judge: Judge, text: str, shape: str) -> bool:
    return any(difference.shape == shape for difference in judge.differences(text))
