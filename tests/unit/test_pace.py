"""How large batches are and how far a run has come, from numbers alone."""

from __future__ import annotations

import json
from random import Random

import pytest

from entrypoint.migration.apply import pace
from entrypoint.migration.ledger.walk import Walk, walk_in, walk_note, without_walk


@pytest.mark.parametrize(
    ("size", "elapsed", "expected"),
    [
        (10_000, 0.5, 10_000),
        (10_000, 0.4, 12_500),
        (10_000, 0.01, 15_000),
        (10_000, 0.0, 15_000),
        (10_000, 0.625, 8_000),
        (10_000, 60.0, 5_000),
        (90_000, 0.1, 100_000),
        (100_000, 0.1, 100_000),
        (150, 5.0, 100),
        (100, 5.0, 100),
    ],
)
def test_the_size_follows_the_target(size: int, elapsed: float, expected: int) -> None:
    assert pace.next_size(size, elapsed=elapsed, target=0.5, first=10_000) == expected


@pytest.mark.parametrize(("size", "first", "expected"), [(10_000, 10_000, 5_000), (150, 10_000, 100), (1, 1, 1)])
def test_who_was_in_the_way_takes_half(size: int, first: int, expected: int) -> None:
    assert pace.halved(size, first) == expected


@pytest.mark.parametrize("first", [1, 2, 7, 99, 10_000, 10_000_000])
def test_it_stays_within_its_bounds_and_settles(first: int) -> None:
    """If all rows cost the same, the size settles near the target, as far as the bounds allow."""
    random = Random(first)
    size, smallest, largest = first, *pace.bounds(first)
    cost = 0.5 / first
    for _ in range(200):
        size = pace.next_size(size, elapsed=size * cost * random.uniform(0.8, 1.25), target=0.5, first=first)
        assert smallest <= size <= largest
    assert abs(size - first) <= max(1, first // 3)


def test_the_pauses_grow_and_never_agree() -> None:
    assert [pace.pause(failures, 1.0) for failures in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert pace.pause(1, 0.0) == 0.05
    assert pace.pause(10_000, 1.0) == 5.0


WALK = Walk("c" * 64, ("tenant", "id"), 500, 2, 1, ('a "\n', "7"), ("zé", "9"), 300, 1000, 290, 3, 1.25)


def test_a_walk_is_read_as_it_was_noted() -> None:
    assert walk_in(walk_note(WALK)) == WALK
    assert walk_in(f"ERROR: nothing\nLINE 1\n{walk_note(WALK)}") == WALK
    assert walk_in(walk_note(Walk("c", ("id",), 1))) == Walk("c", ("id",), 1)
    assert "\n" not in walk_note(WALK)


@pytest.mark.parametrize(
    "message",
    [
        None,
        "",
        "statement 1 of 2: SELECT 1",
        f"{walk_note(WALK)}\nmore",
        walk_note(WALK)[:-1],
        walk_note(WALK).replace('"batch": 1', '"batch": 2'),
        walk_note(WALK).replace('"size"', '"sise"'),
        '{"batch": 1, "size": {}}',
        json.dumps({"batch": 1, **WALK._asdict(), "rows": "many"}),
    ],
)
def test_what_is_no_walk(message: str | None) -> None:
    assert walk_in(message) is None


def test_what_a_person_is_told() -> None:
    assert WALK._replace(cursor=("a", "7"), last=("b", "9")).words() == (
        "15 %, 290 rows in 3 batches, pass 1 of 2, up to (tenant, id) (a, 7) of (b, 9)"
    )
    long = Walk("c", ("id",), 1, cursor=("a\n b",), last=("x" * 99,))
    assert long.words() == f"0 rows in 0 batches, up to id a b of {'x' * 57}..."
    assert Walk("c", ("id",), 1).words() == "0 rows in 0 batches"
    assert without_walk("statement 1 of 2: SELECT 1") == "statement 1 of 2: SELECT 1"
    one = Walk("c", ("id",), 5, cursor=("5",), last=("9",), rows=1, batches=1)
    assert without_walk(walk_note(one)) == "1 row in 1 batch, up to id 5 of 9"
    assert without_walk(f"ERROR: x\n{walk_note(one)}") == "ERROR: x\nBefore that: 1 row in 1 batch, up to id 5 of 9."


@pytest.mark.parametrize(
    ("walk", "percent"),
    [
        (Walk("c", ("id",), 1), None),
        (Walk("c", ("id",), 1, last=("9",), total=0), None),
        (Walk("c", ("id",), 1, last=("9",), total=200, met=50), 25),
        # There are more rows than PostgreSQL estimated.
        (Walk("c", ("id",), 1, last=("9",), total=200, met=500), 99),
        (Walk("c", ("id",), 1, 2, 2, last=("9",), total=200, met=0), 50),
        (Walk("c", ("id",), 1, 2, 1, cursor=("9",), last=("9",), total=200, met=10), 50),
    ],
)
def test_how_much_is_done(walk: Walk, percent: int | None) -> None:
    assert walk.percent == percent


def test_how_long_it_may_take() -> None:
    walk = Walk("c", ("id",), 1, 2, 1, last=("9",), total=200, met=50)
    assert walk.seconds_left(50, 5.0) == 35.0
    assert walk.seconds_left(0, 5.0) is None
    assert walk._replace(total=None).seconds_left(50, 5.0) is None
