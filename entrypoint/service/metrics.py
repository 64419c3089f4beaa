"""A snapshot as Prometheus reads it. Pure, but for the clock that the server's times are compared with."""

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
    """What one scrape gets to see. A new one, with a registry of its own, is made for each."""

    def __init__(self, snapshot: Snapshot, reads: int) -> None:
        self._snapshot = snapshot
        self._reads = reads

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield self._gauge(
            "up", "Whether the status could be read from files and database.", snapshot.status is not None
        )
        yield self._gauge("database_reachable", "Whether the database answered.", snapshot.reachable)
        reads = CounterMetricFamily(
            f"{_PREFIX}_database_reads", "How often this service has asked the database.", labels=["database"]
        )
        reads.add_metric([snapshot.database], self._reads)
        yield reads
        status = snapshot.status
        if status is None:
            return
        yield self._gauge("schema_version", "The highest migration that is applied, 0 if none is.", status.current)
        yield self._gauge("schema_latest_version", "The highest number among the files.", status.latest)
        yield self._gauge("migrations_applied", "How many migrations are applied.", status.applied)
        yield self._gauge("migrations_pending", "How many are not applied yet, failed ones included.", status.pending)
        about = "How many wait for the end of the rollout (phase = after); they are not pending."
        yield self._gauge("migrations_outstanding", about, status.outstanding)
        since = _timestamp(status.outstanding_since)
        if since is not None:
            about = "When the last migration below the first of those was applied, since 1970."
            yield self._gauge("migrations_outstanding_since_timestamp_seconds", about, since)
        yield self._gauge(
            "below_floor", "Whether the files are too old for the schema.", status.below_floor is not None
        )
        yield self._gauge("migrations_failed", "How many have failed and not been settled.", len(snapshot.failed))
        yield self._gauge("migrations_changed", "How many applied files have changed since.", len(snapshot.changed))
        yield self._gauge("migrations_missing", "How many applied migrations have no file.", len(snapshot.missing))
        if status.repeatables:
            states = [one.state for one in status.repeatables]
            about = "How many files in repeatable/ are to be applied, failed ones included."
            yield self._gauge("repeatables_pending", about, states.count("pending") + states.count("failed"))
            yield self._gauge("repeatables_failed", "How many of them failed last time.", states.count("failed"))
        if status.command is not None:
            pending, failed = status.command.pending, status.command.state == "failed"
            yield self._gauge("command_pending", "Whether MIGRATION_COMMAND is to run.", pending)
            yield self._gauge("command_failed", "Whether its last run with these inputs failed.", failed)
        lock = snapshot.lock
        # A stranger keeps everybody out as well as a holder does.
        held = True if (lock is not None and lock.legacy) or status.strangers else status.guarded
        if held is not None:  # On a standby nobody knows.
            yield self._gauge("lock_held", "Whether somebody holds the migration lock.", held)
            # Without a holder's row nobody knows since when: 0 would be a lock that was taken just now.
            if held and lock is not None:
                seconds = inf if lock.seconds is None else lock.seconds
                yield self._gauge("lock_held_seconds", "For how long it has been held, by the server's clock.", seconds)
        if snapshot.last_duration is not None:
            about = "How long the migration took that was applied last."
            yield self._gauge("last_migration_duration_seconds", about, snapshot.last_duration)
        at = _timestamp(status.last.applied_at if status.last else None)
        if at is not None:
            yield self._gauge("last_migration_timestamp_seconds", "When it was applied, since 1970.", at)

    def _gauge(self, name: str, about: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"{_PREFIX}_{name}", about, labels=["database"])
        family.add_metric([self._snapshot.database], float(value))
        return family


def _timestamp(moment: str | None) -> float | None:
    """Return a time in seconds since 1970; None for one that Python does not know (`infinity`, the year 10000)."""
    try:
        return None if moment is None else datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return None


def expose(snapshot: Snapshot, reads: int, accept: str) -> Exposition:
    """Return the metrics in the format that the header `accept` asks for, Prometheus' text format unless told."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshots(snapshot, reads))
    try:
        encode, content_type = choose_encoder(accept)
        return Exposition(encode(registry), content_type)
    except (TypeError, ValueError):  # It asks for a version that is no number.
        encode, content_type = choose_encoder("")
        return Exposition(encode(registry), content_type)
