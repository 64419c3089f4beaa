"""Connect, and try again after a failure.

The first attempt, which nearly always succeeds, does without tenacity, which is imported with the first failure.
"""

from __future__ import annotations

from entrypoint.counts import count
from entrypoint.database.login import LEAST, Failure
from entrypoint.database.target import DIRECTLY
from entrypoint.errors import ConfigurationError, DatabaseUnavailableError
from entrypoint.records import ATTEMPTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.clocks import Clocks
    from entrypoint.database.session import Session
    from entrypoint.database.target import Target
    from entrypoint.errors import EntrypointError
    from entrypoint.records import ConnectPolicy


def connect(
    target: Target,
    policy: ConnectPolicy,
    clocks: Clocks,
    *,
    spent: int = 0,
    failed: Failure | None = None,
    begun: float = 0.0,
) -> Session:
    """Connect, with attempts and backoff as `policy` says.

    A server that has too many clients is asked again while the start's clock for waiting runs, and that does not
    count as attempts: when many replicas start at once, there is a place as soon as one of them is done.

    `spent` attempts have been made already; if `failed`, one more has just failed so; `begun` seconds of the first
    one's time are over. Raises DatabaseUnavailableError with the cause in words.
    """
    try:
        if failed is not None:
            raise failed
        return target.connect(max(min(LEAST, policy.timeout), policy.timeout - begun))
    except Failure as failure:
        if not failure.cause.heals:
            raise unavailable(failure, target, attempts=1) from None
        from entrypoint.database import backoff  # Only now: tenacity is not needed where the first attempt succeeds.

        try:
            return backoff.connect_again(target, policy, clocks, failure, spent)
        except Failure as last:
            # The default has the documented sentence, by which runbooks and alerts know it.
            default = policy.attempts == ATTEMPTS
            tried = f"{ATTEMPTS} retries" if default else count(last.attempts, "attempt")
            raise unavailable(last, target, attempts=last.attempts, tried=tried) from None


def unavailable(failure: Failure, target: Target, *, attempts: int, tried: str = "") -> EntrypointError:
    """Return the error for a connection that could not be had, be it after it was `tried` again and again."""
    cause = failure.cause
    remedy = target.remedy(cause.remedy)
    if cause.name == "address":
        return ConfigurationError(f"The database address is malformed: {failure.text}", remedy=remedy)
    if cause.name == "option":
        message = f"The server rejected a connection option: {failure.text}"
        return ConfigurationError(message, remedy=remedy, cause=cause.name)
    if cause.name == "search_path":
        message = f"The connection does not match its address: {cause.words} ({failure.text})"
        return ConfigurationError(message, remedy=remedy, cause=cause.name)
    # To ignore the parameter, PgBouncer's remedy, is none where it carries the schema.
    if cause.name == "startup_parameter" and target.path:
        remedy = DIRECTLY
    after = f" after {tried}" if cause.heals and tried else ""
    message = f"Database connection failed{after}: {cause.words} ({failure.text})"
    if not target.configured:
        example = "postgresql://user:password@db:5432/shop"
        otherwise = "" if cause.name == "refused" else f" {remedy}"
        remedy = f"DATABASE_URL is not set, so libpq's defaults were used. Set it, for example to {example}.{otherwise}"
    return DatabaseUnavailableError(message, remedy=remedy, cause=cause.name, attempts=attempts)
