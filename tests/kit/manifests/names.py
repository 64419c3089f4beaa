"""Checks that every name refers to something: kinds, labels, volumes, secrets, ports, images."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from kit.manifests.release import Pod, covers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kit.manifests.release import Container, Manifest, Release

# What a user creates by hand, according to k8s/README.md: kind and name, and the keys in it.
MADE_BY_HAND = {("Secret", "shop-database"): {"url"}, ("Secret", "shop-status"): {"token"}}
# We ship nothing else; above all nothing that grants privileges.
KINDS = {
    *("Deployment", "Service", "PodDisruptionBudget", "Job"),
    *("ConfigMap", "CronJob", "NetworkPolicy", "PersistentVolumeClaim", "PrometheusRule", "ServiceMonitor"),
}
# Allowed in the environment of an application that reads its database's address from there.
ADDRESSES = {"DATABASE_URL", "MIGRATION_DATABASE_URL"}
CLAIM = "PersistentVolumeClaim"
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def kinds(release: Release) -> Iterator[str]:
    """Find objects that nothing needs, above all roles and accounts."""
    for item in release.objects:
        if item["kind"] not in KINDS:
            yield f"{item['kind']} {item['metadata']['name']}: nothing here needs that"
    names = [(item["kind"], item["metadata"]["name"]) for item in release.objects]
    for kind, name in sorted({pair for pair in names if names.count(pair) > 1}):
        yield f"{kind} {name} is there twice"


def selectors(release: Release) -> Iterator[str]:
    """Find selectors that do not select exactly the Deployment's pods; above all those that also select the Job's."""
    for item in release.all("Deployment"):
        if not covers(item["spec"]["selector"].get("matchLabels", {}), Pod(item).labels):
            yield f"Deployment {item['metadata']['name']} does not select its own pods"
    for item in [*release.all("Service"), *release.all("PodDisruptionBudget")]:
        selector = item["spec"]["selector"]
        wanted = selector.get("matchLabels", {}) if item["kind"] == "PodDisruptionBudget" else selector
        found = [pod.owner["kind"] for pod in release.pods if covers(wanted, pod.labels)]
        if found != ["Deployment"]:
            yield f"{item['kind']} {item['metadata']['name']} selects the pods of: {', '.join(found) or 'nobody'}"


def volumes(release: Release) -> Iterator[str]:
    """Find mounts of undeclared volumes, and volumes of objects that nobody creates."""
    for pod in release.pods:
        declared = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        mounted = {mount["name"] for container in pod.containers for mount in container.spec.get("volumeMounts", [])}
        owner = pod.owner["metadata"]["name"]
        for name in sorted(mounted - declared.keys()):
            yield f"{owner}: the volume {name} is mounted and not declared"
        for name in sorted(declared.keys() - mounted):
            yield f"{owner}: the volume {name} is declared and not mounted"
        for volume in declared.values():
            for kind, source, key in (("Secret", "secret", "secretName"), ("ConfigMap", "configMap", "name")):
                if source in volume and (kind, volume[source][key]) not in MADE_BY_HAND:
                    yield f"{owner}: the volume {volume['name']} is of the {kind} {volume[source][key]}: who makes it?"
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in {item["metadata"]["name"] for item in release.all(CLAIM)}:
                yield f"{owner}: the volume {volume['name']} is of the claim {claim}: who makes it?"
        for container in pod.containers:
            paths = [mount["mountPath"] for mount in container.spec.get("volumeMounts", [])]
            if len(paths) > len(set(paths)):
                yield f"{container.name}: two volumes are mounted at one path"
            yield from _program(container, declared)


def _program(container: Container, declared: Mapping[str, Manifest]) -> Iterator[str]:
    """Find programs that are started from a path where no image volume is mounted."""
    images = [
        mount["mountPath"]
        for mount in container.spec.get("volumeMounts", [])
        if "image" in declared.get(mount["name"], {})
    ]
    if container.words and container.words[0].startswith("/"):
        program = PurePosixPath(container.words[0])
        if not any(program.is_relative_to(path) for path in images):
            yield f"{container.name}: it starts {program}, and no image is mounted there"
    elif images:
        yield f"{container.name}: the image at {images[0]} is mounted, and not what is started"


def _files(container: Container) -> set[str]:
    """Return the paths of the secrets that are mounted in this container."""
    declared = {volume["name"]: volume for volume in container.pod.spec.get("volumes", [])}
    return {
        f"{mount['mountPath']}/{key}"
        for mount in container.spec.get("volumeMounts", [])
        if (secret := declared.get(mount["name"], {}).get("secret"))
        for key in MADE_BY_HAND.get(("Secret", secret["secretName"]), ())
    }


def secrets(release: Release) -> Iterator[str]:
    """Find secrets written in manifests, secrets that nobody creates, and files not restricted to the pod's group."""
    for container in release.containers:
        if container.spec.get("envFrom"):
            yield f"{container.name}: envFrom: whatever is in there gets into the environment; name the keys"
        for name, (secret, key) in container.from_secrets.items():
            if key not in MADE_BY_HAND.get(("Secret", secret), ()):
                yield f"{container.name}: {name} is {key} of the Secret {secret}: who makes that?"
            elif name not in ADDRESSES:
                yield f"{container.name}: {name}: a secret in the environment; mount it as a file"
        for name, value in container.environment.items():
            if name.endswith("_FILE") and value not in _files(container):
                yield f"{container.name}: {name} is {value}, and no secret with such a key is mounted there"
            if name in (*ADDRESSES, "PGPASSWORD"):
                yield f"{container.name}: {name} stands in the manifest; use a Secret"
    for pod in release.pods:
        group = pod.spec.get("securityContext", {}).get("fsGroup")
        for volume in pod.spec.get("volumes", []):
            mode = volume.get("secret", {}).get("defaultMode")
            if "secret" in volume and (mode is None or mode & 0o007 or not mode & 0o040 or group is None):
                yield f"{pod.owner['metadata']['name']}: the secret {volume['name']} is to be for the fsGroup: 0440"


def ports(release: Release) -> Iterator[str]:
    """Find ports that are named although no container has them."""
    for container in release.containers:
        for probe in PROBES:
            port = container.spec.get(probe, {}).get("httpGet", {}).get("port")
            if port is not None and port not in container.ports and port not in container.ports.values():
                yield f"{container.name}: {probe} asks port {port}, which it does not have"
        for name in ("PORT", "MIGRATION_PROBE_PORT", "STATUS_PORT"):
            value = container.environment.get(name)
            if value is not None and value not in map(str, container.ports.values()):
                yield f"{container.name}: {name} is {value}, which is none of its ports"
    for pod in release.pods:
        numbers = [number for container in pod.containers if not container.init for number in container.ports.values()]
        if len(numbers) > len(set(numbers)):
            yield f"{pod.owner['metadata']['name']}: two containers have one port"
    for service in release.all("Service"):
        for port in service["spec"]["ports"]:
            for pod in release.pods:
                names = {name for container in pod.containers for name in container.ports}
                if covers(service["spec"]["selector"], pod.labels) and port["targetPort"] not in names:
                    yield f"Service {service['metadata']['name']} sends to port {port['targetPort']}, which nobody has"


def images(release: Release) -> Iterator[str]:
    """Find different releases, as the migrations are in the image; and tags that may later mean another image."""
    used = sorted({container.spec["image"] for container in release.containers})
    # The status service needs more packages, and a backup needs pg_dump: they have other images.
    applications = {c.spec["image"] for c in release.containers if c.command not in ("serve", "backup")}
    if len(applications) > 1 or len({_tag(image) for image in used}) > 1:
        yield f"several releases: {', '.join(used)}"
    mounted = {volume["image"]["reference"] for pod in release.pods for volume in pod.volumes if "image" in volume}
    for image in [*used, *sorted(mounted)]:
        if "@sha256:" not in image and _tag(image) in ("", "latest"):
            yield f"the image {image} has no fixed tag"


def _tag(image: str) -> str:
    return image.rpartition("/")[2].partition(":")[2]
