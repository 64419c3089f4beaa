"""Checks what Kubernetes' schemas cannot: whether an overlay's objects fit each other, and the program.

Each check takes the objects and yields faults, one sentence each. `CHECKS` lists all checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kit.manifests.names import images, kinds, ports, secrets, selectors, volumes
from kit.manifests.network import monitors, policies
from kit.manifests.places import evictions, spreading
from kit.manifests.program import commands, environment, who_migrates
from kit.manifests.security import no_rights, reasons, resources, restricted_containers, restricted_pods
from kit.manifests.times import deadlines, grace, jobs, probes, rollout, schedules, waiters

if TYPE_CHECKING:
    from kit.manifests.release import Check

CHECKS: tuple[Check, ...] = (
    kinds,
    selectors,
    volumes,
    secrets,
    ports,
    images,
    environment,
    commands,
    who_migrates,
    waiters,
    probes,
    deadlines,
    grace,
    rollout,
    jobs,
    restricted_pods,
    restricted_containers,
    no_rights,
    resources,
    reasons,
    spreading,
    evictions,
    schedules,
    policies,
    monitors,
)
