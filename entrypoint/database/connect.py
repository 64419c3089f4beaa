"""Connect, and retry after a failure.

The first attempt nearly always succeeds, so tenacity is imported only after a failure.
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
    """Connect, with the attempts and backoff of `policy`.

    If the server has too many clients, that does not count as an attempt, and retrying is limited by the start's clock
    for waiting. When many replicas start at once, a connection becomes free as soon as one of them is done.

    `spent`: how many attempts have been made before. `failed`: one more attempt, which has just failed. `begun`: how
    many seconds of the first attempt's timeout are over. Raises DatabaseUnavailableError with the cause in words.
    """
    try:
        if failed is not None:
            raise failed
        return target.connect(max(min(LEAST, policy.timeout), policy.timeout - begun))
    except Failure as failure:
        if not failure.cause.heals:
            raise unavailable(failure, target, attempts=1) from None
        from entrypoint.database import backoff  # Only now, because it imports tenacity.

        try:
            return backoff.connect_again(target, policy, clocks, failure, spent)
        except Failure as last:
            # With the default, the message is the documented one that runbooks and alerts look for.
            default = policy.attempts == ATTEMPTS
            tried = f"{ATTEMPTS} retries" if default else count(last.attempts, "attempt")
            raise unavailable(last, target, attempts=last.attempts, tried=tried) from None


def unavailable(failure: Failure, target: Target, *, attempts: int, tried: str = "") -> EntrypointError:
    """Return the error for a failed connection. `tried` says how often it was tried, for causes that may heal."""
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
    # Having PgBouncer ignore the parameter does not help if the parameter sets the schema.
    if cause.name == "startup_parameter" and target.path:
        remedy = DIRECTLY
    after = f" after {tried}" if cause.heals and tried else ""
    message = f"Database connection failed{after}: {cause.words} ({failure.text})"
    if not target.configured:
        example = "postgresql://user:password@db:5432/shop"
        otherwise = "" if cause.name == "refused" else f" {remedy}"
        remedy = f"DATABASE_URL is not set, so libpq's defaults were used. Set it, for example to {example}.{otherwise}"
    return DatabaseUnavailableError(message, remedy=remedy, cause=cause.name, attempts=attempts)
