"""Checks that pods have only the privileges that they need, enough resources, and report why they failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kit.manifests.release import Container, Release

RESTRICTED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"),
    "image",  # since 1.33, although the documentation of the profile does not say so
}
# In thousandths of a processor: with less, seconds become half a minute on a busy node.
DELAYS_A_ROLLOUT = 100
SERVES = 50


def restricted_pods(release: Release) -> Iterator[str]:
    """Find settings of pods that the Pod Security profile `restricted` does not allow."""
    for pod in release.pods:
        name = pod.owner["metadata"]["name"]
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
            yield f"{name}: runAsNonRoot"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name}: seccompProfile"
        for field in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"):
            if field in pod.spec:
                yield f"{name}: {field}"
        for volume in pod.spec.get("volumes", []):
            for source in sorted(volume.keys() - {"name"} - RESTRICTED_VOLUMES):
                yield f"{name}: a volume of the type {source}"


def restricted_containers(release: Release) -> Iterator[str]:
    """Find settings of containers that it does not allow, and writable root file systems."""
    for container in release.containers:
        context = container.spec.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{container.name}: allowPrivilegeEscalation"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{container.name}: capabilities"
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"{container.name}: readOnlyRootFilesystem"
        for field in ("privileged", "procMount", "runAsUser", "runAsNonRoot", "seccompProfile", "seLinuxOptions"):
            if field in context:
                yield f"{container.name}: {field} is the pod's business"
        if any("hostPort" in port for port in container.spec.get("ports", [])):
            yield f"{container.name}: hostPort"


def no_rights(release: Release) -> Iterator[str]:
    """Find pods that can access the API server, or see the namespace's other services."""
    for pod in release.pods:
        name = pod.owner["metadata"]["name"]
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: automountServiceAccountToken"
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{name}: enableServiceLinks"
        if "serviceAccountName" in pod.spec:
            yield f"{name}: serviceAccountName"


def resources(release: Release) -> Iterator[str]:
    """Find containers without resource requests, without a memory limit, or with a CPU limit."""
    for container in release.containers:
        given = container.spec.get("resources", {})
        requests, limits = given.get("requests", {}), given.get("limits", {})
        if requests.keys() != {"cpu", "memory"} or limits.keys() != {"memory"}:
            yield f"{container.name}: resources: {given}"
        elif _megabytes(requests["memory"]) > _megabytes(limits["memory"]):
            yield f"{container.name}: it asks for more memory than it may have"
        elif _thousandths(requests["cpu"]) < (least := _least(container)):
            yield f"{container.name}: it asks for less of a processor than {least}m, and so is late"


def _least(container: Container) -> int:
    """Return how much CPU a container must request to be fast enough."""
    if container.command == "sleep":
        return 0
    return SERVES if container.command == "serve" else DELAYS_A_ROLLOUT


def _thousandths(quantity: str) -> int:
    return int(quantity.removesuffix("m"))


def _megabytes(quantity: str) -> int:
    return int(quantity.removesuffix("Mi"))


def reasons(release: Release) -> Iterator[str]:
    """Find containers for which the reason of a failure would be lost."""
    for container in release.containers:
        if container.spec.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            yield f"{container.name}: terminationMessagePolicy"
        if "terminationMessagePath" in container.spec:
            yield f"{container.name}: terminationMessagePath: the program knows the default only"
        if container.spec.get("tty"):
            yield f"{container.name}: tty: the program writes no reason on a terminal"
