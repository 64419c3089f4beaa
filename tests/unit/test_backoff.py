"""When to retry, and when to stop."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import tenacity

from entrypoint.clocks import CONNECTING, Clocks
from entrypoint.database.backoff import AttemptLimit, connect_again, pause_after, pause_in_a_crowd
from entrypoint.database.classify import classify_connection_failure
from entrypoint.database.connect import connect
from entrypoint.database.login import Failure
from entrypoint.errors import DatabaseUnavailableError
from entrypoint.records import ConnectPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.database.session import Session
    from entrypoint.database.target import Target

REFUSED = "Connection refused"
CROWDED = "sorry, too many clients already"
NO_PASSWORD = "fe_sendauth: no password supplied"


def failure(text: str) -> Failure:
    return Failure(classify_connection_failure(text), text)


def longest(_low: float, high: float) -> float:
    return high


def shortest(low: float, _high: float) -> float:
    return low


@pytest.mark.parametrize(
    ("earlier", "backoff_seconds", "jitter", "pause"),
    [
        (0, 1.0, longest, 1.0),
        (1, 1.0, longest, 2.0),
        (2, 1.0, longest, 4.0),
        (3, 1.0, longest, 8.0),
        (0, 1.0, shortest, 0.5),
        (3, 1.0, shortest, 4.0),
        (0, 0.25, longest, 0.25),
        (10, 1.0, longest, 30.0),
        (10, 1.0, shortest, 15.0),
        (1000, 1.0, longest, 30.0),
        (0, 60.0, longest, 30.0),
    ],
)
def test_pauses(earlier: int, backoff_seconds: float, jitter: Callable[[float, float], float], pause: float) -> None:
    assert pause_after(earlier, backoff_seconds, jitter) == pause


def test_a_pause_after_very_many_failures() -> None:
    """With DB_CONNECT_ATTEMPTS in the thousands, a float cannot hold 2 to that power."""
    assert pause_after(5000, 1.0, longest) == 30.0


def test_jitter_only_shortens() -> None:
    """Otherwise, the sum of all pauses would exceed the promised bound."""
    source = random.Random(7)
    for earlier in range(8):
        bound = min(2.0**earlier, 30)
        pauses = [pause_after(earlier, 1.0, source.uniform) for _ in range(200)]
        assert bound / 2 <= min(pauses) < bound * 0.6
        assert bound * 0.9 < max(pauses) <= bound


def test_a_full_server_is_asked_less_and_less_often() -> None:
    assert [pause_in_a_crowd(refused, 1.0, longest) for refused in (0, 1, 2, 3, 4, 500)] == [1, 2, 4, 8, 10, 10]
    assert pause_in_a_crowd(4, 1.0, shortest) == 5


# --- When to stop ---------------------------------------------------------------------------------------


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def after(text: str) -> tenacity.RetryCallState:
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    error = failure(text)
    state.set_exception((Failure, error, None))
    return state


def test_stop_counts_attempts() -> None:
    stop = AttemptLimit(3, Clocks(0, waiting=5))
    assert [stop(after(REFUSED)) for _ in range(3)] == [False, False, True]
    assert stop.counted == 3


def test_a_crowded_server_is_not_counted_but_timed() -> None:
    clock = Clock()
    stop = AttemptLimit(2, Clocks(0, clock, waiting=5))
    assert not any(stop(after(CROWDED)) for _ in range(50))
    assert stop.counted == 0
    assert not stop(after(REFUSED))
    clock.now += 50
    assert not stop(after(CROWDED)), "what other failures take is not waiting"
    clock.now += 5
    assert stop(after(CROWDED))
    assert stop.counted == 1


def test_one_attempt_is_one_attempt() -> None:
    assert AttemptLimit(1, Clocks(0, waiting=5))(after(REFUSED))


# --- All together, with a target that fails on cue ------------------------------------------------------


class FakeTarget:
    """Fails with these texts, one after another, and then connects."""

    configured = True

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.attempts = 0

    def connect(self, timeout: float) -> str:
        assert timeout == 3.0
        self.attempts += 1
        if self.texts:
            raise failure(self.texts.pop(0))
        return "a session"

    def remedy(self, text: str) -> str:
        return text


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the pauses instead of making them, and return them."""
    made: list[float] = []
    monkeypatch.setattr("entrypoint.database.backoff.pause", made.append)
    return made


def attempt(fake: FakeTarget, attempts: int, *, budget: float = 0.0) -> Session:
    target: Target = fake  # type: ignore[assignment]  # what `connect` asks of a target, and nothing else
    policy = ConnectPolicy(attempts, 1.0, 3.0)
    return connect(target, policy, clocks_for(policy, budget))


def clocks_for(policy: ConnectPolicy, waiting: float) -> Clocks:
    clocks = Clocks(0, connecting=policy.longest, waiting=waiting)
    clocks.turn_to(CONNECTING)
    return clocks


def test_the_first_attempt_needs_no_other(pauses: list[float]) -> None:
    fake = FakeTarget()
    assert attempt(fake, 5) == "a session"  # type: ignore[comparison-overlap]
    assert (fake.attempts, pauses) == (1, [])


def test_five_attempts_and_four_pauses(pauses: list[float]) -> None:
    fake = FakeTarget(*[REFUSED] * 9)
    with pytest.raises(DatabaseUnavailableError, match="Database connection failed after 5 retries: connection ref"):
        attempt(fake, 5)
    assert fake.attempts == 5
    assert len(pauses) == 4
    for pause, bound in zip(pauses, (1, 2, 4, 8), strict=True):
        assert bound / 2 <= pause <= bound


def test_it_ends_with_the_first_success(pauses: list[float]) -> None:
    fake = FakeTarget(REFUSED, REFUSED)
    assert attempt(fake, 5) == "a session"  # type: ignore[comparison-overlap]
    assert (fake.attempts, len(pauses)) == (3, 2)


@pytest.mark.parametrize(("before", "attempts"), [([], 1), ([REFUSED], 2), ([REFUSED, CROWDED], 3)])
def test_what_does_not_heal_is_told_at_once(pauses: list[float], before: list[str], attempts: int) -> None:
    fake = FakeTarget(*before, NO_PASSWORD, REFUSED)
    with pytest.raises(DatabaseUnavailableError, match="asked for a password") as caught:
        attempt(fake, 5, budget=60)
    assert fake.attempts == attempts
    assert caught.value.fields["cause"] == "no_password"
    assert caught.value.fields["attempts"] == attempts
    assert "failed: " in caught.value.message


def test_a_crowded_server_costs_no_attempts(pauses: list[float]) -> None:
    fake = FakeTarget(CROWDED, CROWDED, REFUSED, CROWDED, CROWDED, CROWDED, REFUSED)
    assert attempt(fake, 3, budget=60) == "a session"  # type: ignore[comparison-overlap]
    assert fake.attempts == 8
    crowded = [pauses[place] for place in (0, 1, 3, 4, 5)]
    assert all(pause <= bound for pause, bound in zip(crowded, (1, 2, 4, 8, 10), strict=True)), "counted by themselves"
    assert pauses[6] <= 2.0


def test_the_last_failure_is_the_one_that_is_told(pauses: list[float]) -> None:
    fake = FakeTarget(REFUSED, "the database system is starting up")
    with pytest.raises(DatabaseUnavailableError, match="after 2 attempts: the server is starting up"):
        attempt(fake, 2)


@pytest.mark.case("D8")
@pytest.mark.parametrize(
    ("texts", "attempts", "said", "made"),
    [
        ([REFUSED], 1, "after 1 attempt: ", 1),
        ([REFUSED] * 2, 2, "after 2 attempts: ", 2),
        ([CROWDED, CROWDED, REFUSED], 1, "after 3 attempts: ", 3),
        ([CROWDED, REFUSED, CROWDED, REFUSED], 2, "after 4 attempts: ", 4),
        ([REFUSED] * 6, 6, "after 6 attempts: ", 6),
        # The default always has the documented sentence.
        ([REFUSED] * 5, 5, "after 5 retries: ", 5),
        ([CROWDED] + [REFUSED] * 5, 5, "after 5 retries: ", 6),
    ],
)
def test_attempts_are_counted_as_they_were_made(
    pauses: list[float], texts: list[str], attempts: int, said: str, made: int
) -> None:
    fake = FakeTarget(*texts)
    with pytest.raises(DatabaseUnavailableError) as caught:
        attempt(fake, attempts, budget=60)
    assert f"Database connection failed {said}" in caught.value.message
    assert fake.attempts == caught.value.fields["attempts"] == made


def test_connect_again_counts_the_first_failure(pauses: list[float]) -> None:
    fake = FakeTarget(REFUSED, REFUSED)
    target: Target = fake  # type: ignore[assignment]  # see above
    policy = ConnectPolicy(2, 1.0, 3.0)
    with pytest.raises(Failure):
        connect_again(target, policy, clocks_for(policy, 0.0), failure(REFUSED))
    assert fake.attempts == 1
