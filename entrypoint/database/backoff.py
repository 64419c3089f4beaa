"""Retry connecting with tenacity. Imported only after a failure."""

from __future__ import annotations

import tenacity

from entrypoint import logs
from entrypoint.clocks import CONNECTING, WAITING
from entrypoint.database.login import LEAST, Failure
from entrypoint.deadline import pause
from entrypoint.records import DOUBLINGS, LONGEST_PAUSE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.clocks import Clocks
    from entrypoint.database.session import Session
    from entrypoint.database.target import Target
    from entrypoint.deadline import Deadline
    from entrypoint.records import ConnectPolicy

# Refusing a connection takes the server a third of the time of a login. Ten thousand replicas that retry every second
# would leave it no time for anything else (docs/decisions/0059). The pause is short enough for some attempts within
# MIGRATION_LOCK_TIMEOUT_MS.
_LONGEST_IN_A_CROWD = 10.0


class AttemptLimit:
    """Decides when to stop retrying. Attempts count, except those refused because the server has too many clients."""

    def __init__(self, attempts: int, clocks: Clocks, counted: int = 0) -> None:
        """Take the maximum of `attempts`, the start's `clocks`, and how many attempts have been `counted` before."""
        self._attempts = attempts
        self._clocks = clocks
        self.counted = counted
        self.refused = 0
        """How often the server had too many clients."""

    def __call__(self, state: tenacity.RetryCallState) -> bool:
        """Count the attempt that has just failed, and tell whether it was the last."""
        waiting = self.waiting(state)
        if waiting is not None:
            self.refused += 1
            return waiting.passed()
        self._clocks.turn_to(CONNECTING)
        self.counted += 1
        return self.counted >= self._attempts

    def waiting(self, state: tenacity.RetryCallState) -> Deadline | None:
        """Return the deadline if the server had too many clients; None if the attempt failed for another reason."""
        failure = _failure_of(state)
        crowded = failure is not None and failure.cause.name == "too_many_clients"
        return self._clocks.turn_to(WAITING) if crowded else None


def pause_after(
    earlier_failures: int, backoff: float, jitter: Callable[[float, float], float], most: float = LONGEST_PAUSE
) -> float:
    """Return the seconds to wait after one more failure: they double each time, shortened at random by up to half.

    Jitter only shortens a pause, so the sum of all pauses has an upper limit, which is documented.
    """
    longest = min(backoff * 2.0 ** min(earlier_failures, DOUBLINGS), most)
    return jitter(longest / 2, longest)


def pause_in_a_crowd(earlier_refusals: int, backoff: float, jitter: Callable[[float, float], float]) -> float:
    """Return the seconds to wait if the server has too many clients. They also double, but up to a lower maximum."""
    return pause_after(earlier_refusals, backoff, jitter, _LONGEST_IN_A_CROWD)


def connect_again(
    target: Target, policy: ConnectPolicy, clocks: Clocks, first_failure: Failure, spent: int = 0
) -> Session:
    """Retry after the first attempt. `first_failure` counts as an attempt, and so do `spent` earlier ones.

    Any of the `clocks` may be running afterwards; the caller has to turn to its own. Raises Failure.
    """
    from random import uniform

    stop = AttemptLimit(policy.attempts, clocks, spent)
    done = False

    def attempt() -> Session:
        nonlocal done
        if not done:
            done = True
            raise first_failure
        return target.connect(min(policy.timeout, max(LEAST, clocks.running.remaining())))

    def wait(state: tenacity.RetryCallState) -> float:
        # tenacity asks for the pause before it asks whether to stop, so this failure has not been counted yet.
        waiting = stop.waiting(state)
        if waiting is None:
            return pause_after(stop.counted, policy.backoff, uniform)
        return min(pause_in_a_crowd(stop.refused, policy.backoff, uniform), waiting.remaining())

    def tell(state: tenacity.RetryCallState) -> None:
        failure = _failure_of(state) or first_failure
        seconds = state.upcoming_sleep
        # If the server had too many clients, the attempt does not count.
        counted = f" (attempt {stop.counted} of {policy.attempts})" if stop.counted else ""
        logs.event(
            logs.WARNING,
            "database.retry",
            f"no connection yet: {failure.cause.words}; trying again in {seconds:.1f} s{counted}",
            attempt=stop.counted,
            cause=failure.cause.name,
            detail=failure.text,
            pause_ms=round(seconds * 1000),
        )

    retrying = tenacity.Retrying(
        stop=stop,
        wait=wait,
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, Failure) and error.cause.heals),
        before_sleep=tell,
        sleep=pause,
        reraise=True,
    )
    try:
        return retrying(attempt)
    except Failure as last:
        last.attempts = spent + retrying.statistics["attempt_number"]
        raise


def _failure_of(state: tenacity.RetryCallState) -> Failure | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error if isinstance(error, Failure) else None
