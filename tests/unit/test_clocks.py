"""The time for migrations: which clock is running, and that all of them together are bounded."""

from __future__ import annotations

import random

import pytest

from entrypoint.clocks import CONNECTING, WAITING, Clocks


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
    """After a lost lock, for example: survey again, and continue with the same file."""
    clocks = Clocks(10, hand)
    for left in (5, 3, 1):
        assert clocks.turn_to(7, 5).remaining() == left
        hand.now += 2
        clocks.turn_to()
    assert clocks.turn_to(7, 5).passed()


@pytest.mark.sampled(4)
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


# --- A start's clocks -----------------------------------------------------------------------------------


def start(hand: Hand) -> Clocks:
    clocks = Clocks(10, hand, connecting=5, waiting=3)
    clocks.turn_to(CONNECTING)
    return clocks


def test_each_step_has_what_the_earlier_ones_have_left(hand: Hand) -> None:
    clocks = start(hand)
    hand.now += 4
    clocks.turn_to(WAITING)
    hand.now += 2
    assert clocks.turn_to(CONNECTING).remaining() == 1
    assert clocks.turn_to(WAITING).remaining() == 1
    hand.now += 1
    assert clocks.running.passed()
    assert clocks.turn_to().remaining() == 10
    assert clocks.turn_to(WAITING).passed()


def test_a_clock_stands_for_as_long_as_was_last_said(hand: Hand) -> None:
    clocks = start(hand)
    waiting = clocks.turn_to(WAITING)
    hand.now += 1
    clocks.stop_for(10)
    hand.now += 4
    assert waiting.remaining() == 6 + 2
    clocks.stop_for(10)
    hand.now += 8
    assert waiting.remaining() == 2 + 2
    clocks.stop_for(0)
    assert (waiting.remaining(), clocks.stopped) == (2, 12)
    clocks.stop_for(5)
    hand.now += 6
    assert waiting.remaining() == 1, "nobody said so again"
    assert clocks.stopped == 17, "also where nobody has asked since"
    clocks.stop_for(0)
    assert clocks.stopped == 17
    hand.now += 1
    assert waiting.passed()


def test_each_holder_that_is_waited_for_comes_on_top(hand: Hand) -> None:
    """The sum in docs/configuration.md: what each of them has left, plus the timeout once."""
    clocks = Clocks(300, hand, waiting=30)
    clocks.turn_to(WAITING)
    began, holders = hand.now, (300.0, 120.0)
    for left in holders:
        clocks.stop_for(left)
        hand.now += left
        assert not clocks.running.passed()
    hand.now += clocks.running.remaining()
    assert hand.now - began == sum(holders) + 30


def test_it_is_only_the_clock_that_runs_which_stands(hand: Hand) -> None:
    clocks = start(hand)
    clocks.turn_to(WAITING)
    clocks.stop_for(100)
    hand.now += 1
    assert clocks.turn_to().remaining() == 10
    hand.now += 1
    assert clocks.running.remaining() == 9
    assert clocks.turn_to(WAITING).remaining() == 3


def test_what_is_left_for_the_migrations(hand: Hand) -> None:
    clocks = start(hand)
    clocks.turn_to(WAITING)
    hand.now += 1
    assert clocks.work_left({}) == 10
    clocks.turn_to()
    hand.now += 1
    assert clocks.work_left({7: 100.0}) == 109
    clocks.turn_to(7, 100.0)
    hand.now += 40
    assert clocks.work_left({7: 100.0}) == 69
