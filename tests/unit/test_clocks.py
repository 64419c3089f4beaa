"""The time for migrations: whose clock runs, and that all of them together are bounded."""

from __future__ import annotations

import random

import pytest

from entrypoint.clocks import Clocks


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hand() -> Hand:
    return Hand()


def test_without_declarations_there_is_one_clock(hand: Hand) -> None:
    clocks = Clocks(10, hand)
    first = clocks.turn_to(1)
    hand.now += 4
    assert clocks.turn_to(2) is first
    assert clocks.running.remaining() == 6


def test_a_file_with_its_own_time_does_not_use_the_others(hand: Hand) -> None:
    clocks = Clocks(10, hand)
    clocks.turn_to(1)
    hand.now += 4
    own = clocks.turn_to(2, 100)
    assert own.remaining() == 100
    hand.now += 99
    assert not own.passed()
    assert clocks.turn_to(3).remaining() == 6
    hand.now += 6
    assert clocks.running.passed()


def test_a_shorter_one_ends_earlier(hand: Hand) -> None:
    clocks = Clocks(10, hand)
    hand.now += 1
    assert clocks.turn_to(1, 2).remaining() == 2
    hand.now += 2
    assert clocks.running.passed()
    assert clocks.turn_to().remaining() == 9


def test_no_clock_is_wound_up_again(hand: Hand) -> None:
    """As after a lost lock: survey again, and go on with the same file."""
    clocks = Clocks(10, hand)
    for left in (5, 3, 1):
        assert clocks.turn_to(7, 5).remaining() == left
        hand.now += 2
        clocks.turn_to()
    assert clocks.turn_to(7, 5).passed()


@pytest.mark.parametrize("seed", range(20))
def test_all_time_is_bounded_by_what_was_given(hand: Hand, seed: int) -> None:
    chance = random.Random(seed)
    declared = {number: chance.choice([None, 3.0, 50.0]) for number in range(6)}
    clocks = Clocks(10, hand)
    began, bound = hand.now, 10 + sum(seconds or 0 for seconds in declared.values())
    for _ in range(10_000):
        number = chance.choice([None, *declared])
        running = clocks.turn_to() if number is None else clocks.turn_to(number, declared[number])
        if not running.passed():
            hand.now += min(running.remaining(), chance.random())
    assert hand.now - began == pytest.approx(bound)
