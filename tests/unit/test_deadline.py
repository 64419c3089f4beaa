"""Points in time, and pauses that signals can interrupt."""

from __future__ import annotations

import pytest

from entrypoint import deadline
from entrypoint.deadline import SLICE, Deadline


class Clock:
    """A clock that only moves during a sleep."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.mark.parametrize(
    ("seconds", "sleeps"), [(-1, 0), (0, 0), (SLICE / 2, 1), (SLICE, 1), (3.5 * SLICE, 4), (100 * SLICE, 100)]
)
def test_a_pause_is_cut_into_slices(monkeypatch: pytest.MonkeyPatch, seconds: float, sleeps: int) -> None:
    clock = Clock()
    monkeypatch.setattr(deadline, "sleep", clock.sleep)
    monkeypatch.setattr(deadline, "Deadline", lambda left: Deadline(left, clock))
    deadline.pause(seconds)
    # Rounding may require one more.
    assert sleeps <= len(clock.slept) <= sleeps + 1
    assert sum(clock.slept) == pytest.approx(max(seconds, 0))
    assert max(clock.slept, default=0) <= SLICE
