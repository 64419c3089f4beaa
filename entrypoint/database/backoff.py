"""Try again after a failure, with tenacity. Imported only when there was one."""

from __future__ import annotations

import tenacity

from entrypoint import logs
from entrypoint.database.connect import Failure
from entrypoint.database.policy import DOUBLINGS, LONGEST_PAUSE
from entrypoint.deadline import Deadline, pause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.database.connect import Target
    from entrypoint.database.policy import ConnectPolicy
    from entrypoint.database.session import Session


class Stop:
    """When to stop trying: attempts are counted, except those that met a server with too many clients."""

    def __init__(self, attempts: int, too_many_clients: Deadline, counted: int = 0) -> None:
        """Take the number of `attempts`, the deadline for a server with `too_many_clients`, and what counts already."""
        self._attempts = attempts
        self._deadline = too_many_clients
        self.counted = counted

    def __call__(self, state: tenacity.RetryCallState) -> bool:
        """Judge the attempt that just failed."""
        failure = _failure_of(state)
        if failure is not None and failure.cause.name == "too_many_clients":
            return self._deadline.passed()
        self.counted += 1
        return self.counted >= self._attempts


def pause_after(earlier_failures: int, backoff: float, jitter: Callable[[float, float], float]) -> float:
    """Return the seconds to wait after one more failure: doubling, and shortened at random by up to half.

    Jitter only ever shortens, so that the sum of all pauses has a bound that can be promised.
    """
    longest = min(backoff * 2.0 ** min(earlier_failures, DOUBLINGS), LONGEST_PAUSE)
    return jitter(longest / 2, longest)


def connect_again(
    target: Target, policy: ConnectPolicy, too_many_clients_budget: float, first_failure: Failure, spent: int = 0
) -> Session:
    """Go on after the first attempt, whose failure is counted like any other, and `spent` before. Raises Failure."""
    from random import uniform

    stop = Stop(policy.attempts, Deadline(too_many_clients_budget), spent)
    done = False

    def attempt() -> Session:
        nonlocal done
        if not done:
            done = True
            raise first_failure
        return target.connect(policy.timeout)

    def wait(_state: tenacity.RetryCallState) -> float:
        # tenacity asks for the pause before it asks whether to stop, so this failure is not counted yet.
        return pause_after(stop.counted, policy.backoff, uniform)

    def tell(state: tenacity.RetryCallState) -> None:
        failure = _failure_of(state) or first_failure
        seconds = state.upcoming_sleep
        logs.event(
            logs.WARNING,
            "database.retry",
            f"no connection yet: {failure.cause.words}; trying again in {seconds:.1f} s "
            f"(attempt {stop.counted} of {policy.attempts})",
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
    return retrying(attempt)


def _failure_of(state: tenacity.RetryCallState) -> Failure | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error if isinstance(error, Failure) else None
