"""A snapshot as metrics for Prometheus. Pure functions."""

from __future__ import annotations

from datetime import datetime
from math import inf
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from entrypoint.service.snapshot import Snapshot

_PREFIX = "pg_entrypoint"


class Exposition(NamedTuple):
    """The answer to a scrape."""

    content: bytes
    content_type: str


class _Snapshots(Collector):
    """The metrics of one scrape. Each scrape has a new collector and registry."""

    def __init__(self, snapshot: Snapshot, reads: int) -> None:
        self._snapshot = snapshot
        self._reads = reads

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield self._gauge(
            "up", "Whether the status could be read from the files and the database.", snapshot.status is not None
        )
        yield self._gauge("database_reachable", "Whether the database answered.", snapshot.reachable)
        reads = CounterMetricFamily(
            f"{_PREFIX}_database_reads", "Number of times this service has read from the database.", labels=["database"]
        )
        reads.add_metric([snapshot.database], self._reads)
        yield reads
        status = snapshot.status
        if status is None:
            return
        yield self._gauge("schema_version", "The highest applied migration; 0 if there is none.", status.current)
        yield self._gauge("schema_latest_version", "The highest number of a migration file.", status.latest)
        yield self._gauge("migrations_applied", "Number of applied migrations.", status.applied)
        yield self._gauge(
            "migrations_pending", "Number of migrations not applied yet, including failed ones.", status.pending
        )
        about = "Number of migrations that wait for the rollout to end (phase = after); they are not pending."
        yield self._gauge("migrations_outstanding", about, status.outstanding)
        since = _timestamp(status.outstanding_since)
        if since is not None:
            about = (
                "Time at which the last migration before the first outstanding one was applied, in seconds since 1970."
            )
            yield self._gauge("migrations_outstanding_since_timestamp_seconds", about, since)
        yield self._gauge(
            "below_floor", "Whether the files are too old for the schema.", status.below_floor is not None
        )
        yield self._gauge("migrations_failed", "Number of failed migrations.", len(snapshot.failed))
        yield self._gauge(
            "migrations_changed", "Number of applied migrations whose file has changed since.", len(snapshot.changed)
        )
        yield self._gauge(
            "migrations_missing", "Number of applied migrations whose file is missing.", len(snapshot.missing)
        )
        if status.repeatables:
            states = [one.state for one in status.repeatables]
            about = "Number of pending files in repeatable/, including failed ones."
            yield self._gauge("repeatables_pending", about, states.count("pending") + states.count("failed"))
            yield self._gauge(
                "repeatables_failed",
                "Number of files in repeatable/ that failed at the last attempt.",
                states.count("failed"),
            )
        if status.command is not None:
            pending, failed = status.command.pending, status.command.state == "failed"
            yield self._gauge("command_pending", "Whether MIGRATION_COMMAND is pending.", pending)
            yield self._gauge(
                "command_failed", "Whether the last run of MIGRATION_COMMAND with these inputs failed.", failed
            )
        lock = snapshot.lock
        # Another program's session blocks migrations just as a holder does.
        held = True if (lock is not None and lock.legacy) or status.strangers else status.guarded
        if held is not None:  # Unknown on a standby.
            yield self._gauge("lock_held", "Whether the migration lock is held.", held)
            # Without a row the time is unknown; 0 would mean that the lock was taken just now.
            if held and lock is not None:
                seconds = inf if lock.seconds is None else lock.seconds
                yield self._gauge(
                    "lock_held_seconds", "How long the migration lock has been held, by the server's clock.", seconds
                )
        if snapshot.last_duration is not None:
            about = "How long the last applied migration took."
            yield self._gauge("last_migration_duration_seconds", about, snapshot.last_duration)
        at = _timestamp(status.last.applied_at if status.last else None)
        if at is not None:
            yield self._gauge(
                "last_migration_timestamp_seconds",
                "Time at which the last migration was applied, in seconds since 1970.",
                at,
            )

    def _gauge(self, name: str, about: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"{_PREFIX}_{name}", about, labels=["database"])
        family.add_metric([self._snapshot.database], float(value))
        return family


def _timestamp(moment: str | None) -> float | None:
    """Return a time in seconds since 1970; None if Python cannot represent it (`infinity`, the year 10000)."""
    try:
        return None if moment is None else datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return None


def expose(snapshot: Snapshot, reads: int, accept: str) -> Exposition:
    """Return the metrics in the format of the header `accept`; by default, Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshots(snapshot, reads))
    try:
        encode, content_type = choose_encoder(accept)
        return Exposition(encode(registry), content_type)
    except (TypeError, ValueError):  # It has an invalid version.
        encode, content_type = choose_encoder("")
        return Exposition(encode(registry), content_type)
