"""What the schemas of Kubernetes cannot see: whether the objects of one overlay fit each other, and the program.

Each check takes the objects and yields faults, one sentence each. `CHECKS` lists them all.
"""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from entrypoint import cli
from entrypoint.errors import ConfigurationError, UsageError
from entrypoint.settings import Settings, read_service_settings, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Manifest = dict[str, Any]
    Check = Callable[["Release"], Iterator[str]]

# What a user makes by hand, as k8s/README.md says: kind and name, and the keys in it.
MADE_BY_HAND = {("Secret", "shop-database"): {"url"}, ("Secret", "shop-status"): {"token"}}
# Nothing else is shipped; above all nothing that gives rights.
KINDS = {"Deployment", "Service", "PodDisruptionBudget", "Job"}
# The application's own.
NOT_OURS = {"PORT"}
# How long the program takes to end (DESIGN's promise 7), and to hand over when its budgets are used up (promise 5).
OUR_END = 2
OUR_MARGIN = 2
# What an application should have for its own start behind the budgets, and for its end behind the preStop hook.
APPLICATION_START = 30
APPLICATION_END = 30
# Exit codes that another attempt may not meet again: no database yet, the lock was held.
CAN_HEAL = {69, 75}
EXIT_CODES = {64, 65, 69, 70, 75, 78}
RESTRICTED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")
}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


@dataclass(frozen=True)
class Container:
    """One container of a pod."""

    spec: Manifest
    pod: Pod
    init: bool

    @property
    def name(self) -> str:
        """Return its name, with its pod's owner's."""
        return f"{self.pod.owner['metadata']['name']}/{self.spec['name']}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that have a plain value."""
        return {entry["name"]: entry["value"] for entry in self.spec.get("env", []) if "value" in entry}

    @property
    def command(self) -> str:
        """Return which of entrypoint's commands it runs: the image's own ENTRYPOINT is `entrypoint run --`."""
        words = self.words
        return words[1] if words[1:] and words[0] == "entrypoint" else "run"

    @property
    def words(self) -> list[str]:
        """Return its command line as far as the manifest sets it."""
        return [*self.spec.get("command", []), *self.spec.get("args", [])]

    @property
    def ports(self) -> dict[str, int]:
        """Return its ports by name."""
        return {port["name"]: port["containerPort"] for port in self.spec.get("ports", [])}

    @property
    def migrates(self) -> bool:
        """Return whether it may migrate."""
        on = self.environment.get("AUTO_MIGRATE") != "false"
        return self.command == "migrate" or (self.command == "run" and on)

    def settings(self) -> Settings:
        """Return what the program makes of its environment. Raises ConfigurationError."""
        with tempfile.NamedTemporaryFile("w", suffix="-secret") as file:
            # Good as an address, and as a token.
            file.write("postgresql://shop@db.example.internal:5432/shop")
            file.flush()
            environment = {
                name: file.name if name.endswith("_FILE") else value for name, value in self.environment.items()
            }
            if self.command == "serve":
                return read_service_settings(environment)[0]
            return read_settings(environment, asked_for=self.command != "run")

    @property
    def budget(self) -> float:
        """Return within how many seconds the program is done with what this container has it do."""
        settings = self.settings()
        if self.command == "wait":
            waited = vars(cli.parser().parse_args(self.words[1:]))["timeout"]
            return settings.apply.timeout if waited is None else float(waited)
        if not self.migrates:
            return 0
        return settings.connect.longest + settings.lock.timeout + settings.apply.timeout + OUR_MARGIN


@dataclass(frozen=True)
class Pod:
    """The pods that one Deployment or Job makes."""

    owner: Manifest

    @property
    def template(self) -> Manifest:
        """Return the template."""
        template: Manifest = self.owner["spec"]["template"]
        return template

    @property
    def spec(self) -> Manifest:
        """Return what a pod is made of."""
        spec: Manifest = self.template["spec"]
        return spec

    @property
    def labels(self) -> Mapping[str, str]:
        """Return the labels that selectors see."""
        labels: Mapping[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def containers(self) -> list[Container]:
        """Return all containers, those that come first at the front."""
        return [
            *(Container(spec, self, init=True) for spec in self.spec.get("initContainers", [])),
            *(Container(spec, self, init=False) for spec in self.spec["containers"]),
        ]


class Release(NamedTuple):
    """All objects of one overlay."""

    objects: Sequence[Manifest]

    @classmethod
    def of(cls, objects: Sequence[Manifest]) -> Self:
        """Take what an overlay was built into."""
        return cls(tuple(objects))

    def all(self, kind: str) -> list[Manifest]:
        """Return the objects of a kind."""
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind: str) -> Manifest:
        """Return the only object of a kind."""
        (item,) = self.all(kind)
        return item

    @property
    def pods(self) -> list[Pod]:
        """Return what makes pods."""
        return [Pod(item) for item in self.objects if item["kind"] in ("Deployment", "Job")]

    @property
    def containers(self) -> list[Container]:
        """Return the containers of all pods."""
        return [container for pod in self.pods for container in pod.containers]


def _covers(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


# --- Names ----------------------------------------------------------------------------------------------


def kinds(release: Release) -> Iterator[str]:
    """Find what is not known to be needed, rights and accounts above all."""
    for item in release.objects:
        if item["kind"] not in KINDS:
            yield f"{item['kind']} {item['metadata']['name']}: nothing here needs that"
    names = [(item["kind"], item["metadata"]["name"]) for item in release.objects]
    for kind, name in sorted({pair for pair in names if names.count(pair) > 1}):
        yield f"{kind} {name} is there twice"


def selectors(release: Release) -> Iterator[str]:
    """Find selectors that do not select just the Deployment's pods: the Job's too, above all."""
    for item in release.all("Deployment"):
        if not _covers(item["spec"]["selector"].get("matchLabels", {}), Pod(item).labels):
            yield f"Deployment {item['metadata']['name']} does not select its own pods"
    for item in [*release.all("Service"), *release.all("PodDisruptionBudget")]:
        selector = item["spec"]["selector"]
        wanted = selector.get("matchLabels", {}) if item["kind"] == "PodDisruptionBudget" else selector
        found = [pod.owner["kind"] for pod in release.pods if _covers(wanted, pod.labels)]
        if found != ["Deployment"]:
            yield f"{item['kind']} {item['metadata']['name']} selects the pods of: {', '.join(found) or 'nobody'}"


def volumes(release: Release) -> Iterator[str]:
    """Find mounts of what is not there, and volumes of something that nobody makes."""
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
        for container in pod.containers:
            paths = [mount["mountPath"] for mount in container.spec.get("volumeMounts", [])]
            if len(paths) > len(set(paths)):
                yield f"{container.name}: two volumes are mounted at one path"


def _files(container: Container) -> set[str]:
    """Return the files of secrets that this container has."""
    declared = {volume["name"]: volume for volume in container.pod.spec.get("volumes", [])}
    return {
        f"{mount['mountPath']}/{key}"
        for mount in container.spec.get("volumeMounts", [])
        if (secret := declared.get(mount["name"], {}).get("secret"))
        for key in MADE_BY_HAND.get(("Secret", secret["secretName"]), ())
    }


def secrets(release: Release) -> Iterator[str]:
    """Find secrets that do not come as files, or as files that are not there or not for the pod's group alone."""
    for container in release.containers:
        for entry in [*container.spec.get("env", []), *container.spec.get("envFrom", [])]:
            if "secretKeyRef" in entry.get("valueFrom", {}) or "secretRef" in entry:
                yield f"{container.name}: a secret in the environment; mount it as a file"
        for name, value in container.environment.items():
            if name.endswith("_FILE") and value not in _files(container):
                yield f"{container.name}: {name} is {value}, and no secret with such a key is mounted there"
            if name in ("DATABASE_URL", "MIGRATION_DATABASE_URL", "PGPASSWORD"):
                yield f"{container.name}: {name} stands in the manifest; use a file"
    for pod in release.pods:
        group = pod.spec.get("securityContext", {}).get("fsGroup")
        for volume in pod.spec.get("volumes", []):
            mode = volume.get("secret", {}).get("defaultMode")
            if "secret" in volume and (mode is None or mode & 0o007 or not mode & 0o040 or group is None):
                yield f"{pod.owner['metadata']['name']}: the secret {volume['name']} is to be for the fsGroup: 0440"


def ports(release: Release) -> Iterator[str]:
    """Find ports that are named and that no container has."""
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
                if _covers(service["spec"]["selector"], pod.labels) and port["targetPort"] not in names:
                    yield f"Service {service['metadata']['name']} sends to port {port['targetPort']}, which nobody has"


def images(release: Release) -> Iterator[str]:
    """Find different releases of the migrations, which are in the image; and tags that may become another image."""
    used = sorted({container.spec["image"] for container in release.containers})
    # The status service needs more packages, and so an image of its own.
    applications = {container.spec["image"] for container in release.containers if container.command != "serve"}
    if len(applications) > 1 or len({_tag(image) for image in used}) > 1:
        yield f"several releases: {', '.join(used)}"
    for image in used:
        if "@sha256:" not in image and _tag(image) in ("", "latest"):
            yield f"the image {image} has no fixed tag"


def _tag(image: str) -> str:
    return image.rpartition("/")[2].partition(":")[2]


# --- The program ----------------------------------------------------------------------------------------


class _Known(dict[str, str]):
    """An environment that remembers which variables the program asks it for."""

    asked: set[str]

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def known_variables() -> set[str]:
    """Return the variables that the program reads, by letting it read them."""
    environment = _Known()
    environment.asked = set()
    read_settings(environment, asked_for=False)
    read_service_settings(environment)
    return environment.asked | NOT_OURS


def environment(release: Release) -> Iterator[str]:
    """Find variables that the program does not read, or whose value it does not take."""
    known = known_variables()
    for container in release.containers:
        names = [entry["name"] for entry in container.spec.get("env", [])]
        for name in names:
            if name not in known:
                yield f"{container.name}: nobody reads the variable {name}"
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{container.name}: {name} is set twice"
        if container.command != "run" and "MIGRATION_ON_FAILURE" in names:
            yield f"{container.name}: MIGRATION_ON_FAILURE is about starting an application, and this starts none"
        if "DATABASE_URL_FILE" not in names and "MIGRATION_DATABASE_URL_FILE" not in names:
            yield f"{container.name}: it does not know where the database is"
        try:
            container.settings()
        except ConfigurationError as error:
            for fault in error.fields["faults"]:  # type: ignore[attr-defined]
                yield f"{container.name}: {fault}"


def commands(release: Release) -> Iterator[str]:
    """Find command lines that the program does not understand."""
    for container in release.containers:
        if not container.words:
            continue  # the image's own
        if container.words[0] != "entrypoint":
            yield f"{container.name}: it does not start entrypoint but {container.words[0]}"
            continue
        try:
            cli.parser().parse_args(container.words[1:])
        except UsageError as error:
            yield f"{container.name}: {shlex.join(container.words)}: {error}"


def who_migrates(release: Release) -> Iterator[str]:
    """Find overlays in which nobody migrates, or several do; or the application does not wait for whoever does."""
    migrating = [container.name for container in release.containers if container.migrates]
    if len(migrating) != 1:
        yield f"these migrate: {', '.join(migrating) or 'nobody'}"
    for pod in release.pods:
        if any(container.command == "run" for container in pod.containers) and not any(
            container.command in ("migrate", "wait") or container.migrates for container in pod.containers
        ):
            yield f"{pod.owner['metadata']['name']}: the application does not wait for the schema"


# --- Time -----------------------------------------------------------------------------------------------


def _length(probe: Mapping[str, int]) -> int:
    """Return how many seconds a probe may fail: Kubernetes' own defaults are 10 s, 3 times."""
    return probe.get("initialDelaySeconds", 0) + probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)


def _readable(release: Release) -> bool:
    """Tell whether budgets can be computed; what is in the way, other checks report."""
    return not [*environment(release), *commands(release)]


def waiters(release: Release) -> Iterator[str]:
    """Find whoever waits for a shorter time than others may work."""
    if not _readable(release):
        return
    for container in release.containers:
        settings = container.settings()
        if container.migrates and settings.lock.timeout < settings.apply.timeout:
            yield f"{container.name}: MIGRATION_LOCK_TIMEOUT_MS is shorter than MIGRATION_TIMEOUT_MS"
    longest = max((container.budget for container in release.containers if container.migrates), default=0)
    for container in release.containers:
        if container.command == "wait" and container.budget < longest:
            yield f"{container.name}: waits {container.budget:g} s for what may take {longest:g} s"


def probes(release: Release) -> Iterator[str]:
    """Find probes that end a container which is still within its budget."""
    if not _readable(release):
        return
    for container in release.containers:
        if container.init or container.command != "run":
            continue
        missing = [probe for probe in PROBES if probe not in container.spec]
        if missing:
            yield f"{container.name}: no {', '.join(missing)}"
            continue
        needed = container.budget + APPLICATION_START
        if _length(container.spec["startupProbe"]) < needed:
            given = _length(container.spec["startupProbe"])
            yield f"{container.name}: the startup probe lasts {given} s; budgets and a start need {needed:g} s"
        if container.migrates and container.settings().probe_port is None:
            yield f"{container.name}: it migrates, and nobody answers probes: MIGRATION_PROBE_PORT"
        paths = {probe: container.spec[probe]["httpGet"]["path"] for probe in PROBES}
        if paths != {"startupProbe": "/readyz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}:
            yield f"{container.name}: probes ask {paths}"
        for probe in PROBES:
            if container.spec[probe].get("timeoutSeconds", 1) > container.spec[probe].get("periodSeconds", 10):
                yield f"{container.name}: {probe} waits longer for an answer than until its next turn"


def deadlines(release: Release) -> Iterator[str]:
    """Find rollouts and Jobs that are given up while what they wait for is within its budget."""
    if not _readable(release):
        return
    of_jobs = 0
    for job in release.all("Job"):
        (container,) = Pod(job).containers
        # After each failure the Job's controller waits: 10 s, doubling, six minutes at most.
        pauses = sum(min(10 * 2**number, 360) for number in range(job["spec"].get("backoffLimit", 6)))
        needed = (job["spec"].get("backoffLimit", 6) + 1) * container.budget + pauses
        of_jobs = max(of_jobs, job["spec"].get("activeDeadlineSeconds", 0))
        if of_jobs < needed:
            yield f"Job {job['metadata']['name']}: activeDeadlineSeconds is {of_jobs}; its attempts need {needed:g} s"
    for item in release.all("Deployment"):
        pod = Pod(item)
        first = sum(container.budget for container in pod.containers if container.init)
        start = max(
            (
                _length(container.spec["startupProbe"])
                for container in pod.containers
                if not container.init and "startupProbe" in container.spec
            ),
            default=0,
        )
        behind = of_jobs if any(container.command == "wait" for container in pod.containers) else 0
        needed = max(first, behind) + start
        if item["spec"].get("progressDeadlineSeconds", 600) < needed:
            given = item["spec"].get("progressDeadlineSeconds", 600)
            yield f"Deployment {item['metadata']['name']}: progressDeadlineSeconds is {given}; a pod needs {needed:g} s"


def grace(release: Release) -> Iterator[str]:
    """Find pods that are not given the time to end."""
    for pod in release.pods:
        hooks = [
            float(hook["exec"]["command"][1])
            for container in pod.containers
            if (hook := container.spec.get("lifecycle", {}).get("preStop"))
        ]
        applications = any(container.command == "run" for container in pod.containers)
        needed = max(hooks, default=0) + (OUR_END + APPLICATION_END if applications else OUR_END)
        given = pod.spec.get("terminationGracePeriodSeconds", 30)
        if given < needed:
            yield f"{pod.owner['metadata']['name']}: {given} s to end, and it may need {needed:g} s"
        if applications and not hooks:
            yield f"{pod.owner['metadata']['name']}: no preStop hook: requests come in when nobody listens any more"


def rollout(release: Release) -> Iterator[str]:
    """Find rollouts and drains that take pods which are needed."""
    for item in release.all("Deployment"):
        spec = item["spec"]
        name = item["metadata"]["name"]
        rolling = spec.get("strategy", {}).get("rollingUpdate", {})
        if not any(container.command == "run" for container in Pod(item).containers):
            continue  # not the application
        if spec.get("strategy", {}).get("type") != "RollingUpdate" or rolling.get("maxUnavailable") != 0:
            yield f"Deployment {name}: old pods go before new ones are ready"
        if rolling.get("maxSurge", 0) == 0:
            yield f"Deployment {name}: maxSurge and maxUnavailable must not both be 0"
        if spec.get("replicas", 1) < 2:
            yield f"Deployment {name}: one replica is none while it is replaced"
        budgets = [
            budget["spec"].get("maxUnavailable")
            for budget in release.all("PodDisruptionBudget")
            if _covers(budget["spec"]["selector"].get("matchLabels", {}), Pod(item).labels)
        ]
        if len(budgets) != 1 or not 0 < (budgets[0] or 0) < spec.get("replicas", 1):
            yield f"Deployment {name}: its PodDisruptionBudget lets go: {budgets}"


def jobs(release: Release) -> Iterator[str]:
    """Find Jobs that try again what cannot heal, or leave nothing to look at."""
    for job in release.all("Job"):
        spec = job["spec"]
        name = job["metadata"]["name"]
        if spec["template"]["spec"].get("restartPolicy") != "Never":
            yield f"Job {name}: restartPolicy must be Never for podFailurePolicy, and for the pod's log to stay"
        rules = spec.get("podFailurePolicy", {}).get("rules", [])
        final = [rule["onExitCodes"] for rule in rules if rule["action"] == "FailJob" and "onExitCodes" in rule]
        codes = {code for rule in final for code in rule["values"]}
        if codes != EXIT_CODES - CAN_HEAL:
            yield f"Job {name}: it gives up at {sorted(codes)}; it should at {sorted(EXIT_CODES - CAN_HEAL)}"
        names = {container.spec["name"] for container in Pod(job).containers}
        for rule in final:
            if rule.get("containerName") not in names:
                yield f"Job {name}: podFailurePolicy names the container {rule.get('containerName')}"
        ignored = [
            condition["type"]
            for rule in rules
            if rule["action"] == "Ignore"
            for condition in rule.get("onPodConditions", [])
        ]
        if ignored != ["DisruptionTarget"]:
            yield f"Job {name}: a drained node would count as an attempt"
        if "ttlSecondsAfterFinished" in spec:
            yield f"Job {name}: ttlSecondsAfterFinished takes its log away, and has GitOps tools make it anew"
        notes = job["metadata"].get("annotations", {})
        hook = "argocd.argoproj.io/hook"
        if hook in notes and notes.get(f"{hook}-delete-policy") != "BeforeHookCreation":
            yield f"Job {name}: as a hook it must be deleted before it is made again"
        if notes.get(hook, "Sync") not in ("Sync", "PreSync"):
            yield f"Job {name}: pods wait for it, so {notes[hook]} never comes"


# --- Security -------------------------------------------------------------------------------------------


def restricted_pods(release: Release) -> Iterator[str]:
    """Find what the profile `restricted` of Pod Security does not allow a pod."""
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
    """Find what it does not allow a container, and root file systems that can be written to."""
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
    """Find pods that can talk to the API server, or learn what others the namespace has."""
    for pod in release.pods:
        name = pod.owner["metadata"]["name"]
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: automountServiceAccountToken"
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{name}: enableServiceLinks"
        if "serviceAccountName" in pod.spec:
            yield f"{name}: serviceAccountName"


def resources(release: Release) -> Iterator[str]:
    """Find containers that do not say what they need, or whose memory is unbounded, or whose processor is bounded."""
    for container in release.containers:
        given = container.spec.get("resources", {})
        requests, limits = given.get("requests", {}), given.get("limits", {})
        if requests.keys() != {"cpu", "memory"} or limits.keys() != {"memory"}:
            yield f"{container.name}: resources: {given}"
        elif _megabytes(requests["memory"]) > _megabytes(limits["memory"]):
            yield f"{container.name}: it asks for more memory than it may have"


def _megabytes(quantity: str) -> int:
    return int(quantity.removesuffix("Mi"))


def reasons(release: Release) -> Iterator[str]:
    """Find containers whose reason for a failure would be lost."""
    for container in release.containers:
        if container.spec.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            yield f"{container.name}: terminationMessagePolicy"
        if "terminationMessagePath" in container.spec:
            yield f"{container.name}: terminationMessagePath: the program knows the default only"
        if container.spec.get("tty"):
            yield f"{container.name}: tty: the program writes no reason on a terminal"


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
)
