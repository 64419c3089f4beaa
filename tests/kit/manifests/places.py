"""Checks where pods run and what can evict them: spreading, drains, the cluster autoscaler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kit.manifests.release import Pod, covers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kit.manifests.release import Release

TOPOLOGIES = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
AUTOSCALER = "cluster-autoscaler.kubernetes.io"


def spreading(release: Release) -> Iterator[str]:
    """Find Deployments whose replicas may all be on one node, or cannot start if there is only one node."""
    for item in release.all("Deployment"):
        pod = Pod(item)
        name = item["metadata"]["name"]
        if item["spec"].get("replicas", 1) < 2:
            continue
        constraints = pod.spec.get("topologySpreadConstraints", [])
        if [constraint["topologyKey"] for constraint in constraints] != TOPOLOGIES:
            yield f"Deployment {name}: its replicas are not spread over nodes and zones"
        for constraint in constraints:
            if not covers(constraint["labelSelector"]["matchLabels"], pod.labels):
                yield f"Deployment {name}: what is spread are not its own pods"
            if constraint["whenUnsatisfiable"] != "ScheduleAnyway":
                yield f"Deployment {name}: in a cluster of one node it would not start"
            if constraint.get("matchLabelKeys") != ["pod-template-hash"]:
                yield f"Deployment {name}: during a rollout the old pods are counted, too: matchLabelKeys"


def evictions(release: Release) -> Iterator[str]:
    """Find migrations that the autoscaler may evict, and pods that prevent it from removing a node."""
    for pod in release.pods:
        owner = f"{pod.owner['kind']} {pod.owner['metadata']['name']}"
        if pod.owner["kind"] != "Deployment":
            if pod.annotations.get(f"{AUTOSCALER}/safe-to-evict") != "false":
                yield f"{owner}: the autoscaler may end it in the middle: safe-to-evict"
            continue
        local = sorted(volume["name"] for volume in pod.volumes if "emptyDir" in volume)
        said = pod.annotations.get(f"{AUTOSCALER}/safe-to-evict-local-volumes", "")
        if local != sorted(filter(None, said.split(","))):
            yield f"{owner}: safe-to-evict-local-volumes is {said!r}, and it has {local}"
