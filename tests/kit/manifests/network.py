"""Checks that network policies allow only what is needed, and that Prometheus finds what it should scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kit.manifests.names import MADE_BY_HAND
from kit.manifests.release import covers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kit.manifests.release import Manifest, Pod, Release

# What a pod must reach: DNS, and the database.
NEEDED = {("UDP", 53), ("TCP", 53), ("TCP", 5432)}


class _Policies(NamedTuple):
    """The policies that select one pod."""

    found: list[Manifest]

    @classmethod
    def of(cls, pod: Pod, release: Release) -> _Policies:
        policies = release.all("NetworkPolicy")
        return cls(
            [item for item in policies if covers(item["spec"]["podSelector"].get("matchLabels", {}), pod.labels)]
        )

    @property
    def types(self) -> set[str]:
        return {kind for item in self.found for kind in item["spec"]["policyTypes"]}

    def rules(self, direction: str) -> list[Manifest]:
        return [rule for item in self.found for rule in item["spec"].get(direction) or []]


def policies(release: Release) -> Iterator[str]:
    """Find pods that are too open, or that cannot reach what they need."""
    if not release.all("NetworkPolicy"):
        return
    for pod in release.pods:
        owner = f"{pod.owner['kind']} {pod.owner['metadata']['name']}"
        selecting = _Policies.of(pod, release)
        if selecting.types != {"Ingress", "Egress"}:
            yield f"{owner}: policies of the types {sorted(selecting.types)}: the rest is open"
            continue
        yield from _incoming(owner, pod, selecting)
        outgoing = [rule for rule in selecting.rules("egress") if "ports" in rule]
        if len(outgoing) != len(selecting.rules("egress")):
            yield f"{owner}: it may reach every port"
        reached = {(port.get("protocol", "TCP"), port["port"]) for rule in outgoing for port in rule["ports"]}
        if reached != NEEDED:
            yield f"{owner}: it may reach {sorted(reached)}, and needs {sorted(NEEDED)}"


def _incoming(owner: str, pod: Pod, selecting: _Policies) -> Iterator[str]:
    """Find ports of a pod that are closed although needed, open although not needed, or open to everybody."""
    rules = selecting.rules("ingress")
    opened = sorted(str(port["port"]) for rule in rules for port in rule.get("ports", [{"port": "all"}]))
    named = sorted(name for container in pod.containers for name in container.ports)
    if opened != named:
        yield f"{owner}: the ports {opened} are open, and it has {named}"
    serves = any(container.command == "serve" for container in pod.containers)
    if serves and not all(rule.get("from") for rule in rules):
        yield f"{owner}: everybody reaches the status service"


def monitors(release: Release) -> Iterator[str]:
    """Find monitors that select no Service, use a port that does not exist, or have no token."""
    for item in release.all("ServiceMonitor"):
        name = item["metadata"]["name"]
        wanted = item["spec"]["selector"]["matchLabels"]
        services = [service for service in release.all("Service") if covers(wanted, service["metadata"]["labels"])]
        if len(services) != 1:
            yield f"ServiceMonitor {name}: it selects {len(services)} Services"
            continue
        for endpoint in item["spec"]["endpoints"]:
            if endpoint["port"] not in {port["name"] for port in services[0]["spec"]["ports"]}:
                yield f"ServiceMonitor {name}: it asks port {endpoint['port']}, which the Service does not have"
            token = endpoint.get("authorization", {}).get("credentials", {})
            if token.get("key") not in MADE_BY_HAND.get(("Secret", token.get("name")), ()):
                yield f"ServiceMonitor {name}: it has no token"
