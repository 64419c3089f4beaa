"""Checks that everything that waits does so for long enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entrypoint import cli
from kit.manifests.names import PROBES
from kit.manifests.program import commands, environment
from kit.manifests.release import Pod, covers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kit.manifests.release import Release

# How long the program takes to end (DESIGN's promise 7).
OUR_END = 2
# How many seconds an application should get to start, after the budgets; and to end, after the preStop hook.
APPLICATION_START = 30
APPLICATION_END = 30
# Exit codes that another attempt may avoid: no database yet, the lock was held.
CAN_HEAL = {69, 75}
# How many seconds late a backup must at least be allowed to start: a control plane may be down for that long.
LEAST_LATE = 3600
# How many seconds to keep the log of a Job that deletes itself.
LOG_KEPT = 24 * 3600
BUDGET = "PodDisruptionBudget"
EXIT_CODES = {64, 65, 69, 70, 75, 78}


def _length(probe: Mapping[str, int]) -> int:
    """Return how many seconds a probe may fail; by default, Kubernetes probes every 10 s and allows 3 failures."""
    return probe.get("initialDelaySeconds", 0) + probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)


def _readable(release: Release) -> bool:
    """Tell whether budgets can be computed. If not, other checks report why."""
    return not [*environment(release), *commands(release)]


def waiters(release: Release) -> Iterator[str]:
    """Find containers that wait for a shorter time than others may work."""
    if not _readable(release):
        return
    for container in release.containers:
        settings = container.settings()
        if container.migrates and settings.lock.hard and settings.lock.timeout < settings.apply.timeout:
            yield f"{container.name}: MIGRATION_LOCK_TIMEOUT_MS is shorter than MIGRATION_TIMEOUT_MS"
    longest = max((container.budget for container in release.containers if container.migrates), default=0)
    for container in release.containers:
        if container.command == "wait" and container.budget < longest:
            yield f"{container.name}: waits {container.budget:g} s for what may take {longest:g} s"


def probes(release: Release) -> Iterator[str]:
    """Find probes that would end a container which is still within its budget."""
    if not _readable(release):
        return
    for container in release.containers:
        if "livenessProbe" in container.spec and "startupProbe" not in container.spec:
            yield f"{container.name}: a livenessProbe and no startupProbe: where it starts slowly, it never starts"
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
    """Find rollouts and Jobs that would be given up while a container is still within its budget."""
    if not _readable(release):
        return
    of_jobs = 0
    for job in release.all("Job"):
        (container,) = [container for container in Pod(job).containers if not container.init]
        if container.after_rollout:
            if "activeDeadlineSeconds" in job["spec"]:
                yield f"Job {job['metadata']['name']}: activeDeadlineSeconds ends a walk that may take hours"
            continue
        # The Job's controller waits after each failure: 10 s, then twice as long each time, at most six minutes.
        pauses = sum(min(10 * 2**number, 360) for number in range(job["spec"].get("backoffLimit", 6)))
        needed = (job["spec"].get("backoffLimit", 6) + 1) * container.budget + pauses
        given = job["spec"].get("activeDeadlineSeconds", 0)
        of_jobs = max(of_jobs, given)
        if given < needed:
            yield f"Job {job['metadata']['name']}: activeDeadlineSeconds is {given}; its attempts need {needed:g} s"
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
        given = item["spec"].get("progressDeadlineSeconds", 600)
        if given < needed:
            yield f"Deployment {item['metadata']['name']}: progressDeadlineSeconds is {given}; a pod needs {needed:g} s"


def grace(release: Release) -> Iterator[str]:
    """Find pods that do not get enough time to end."""
    for pod in release.pods:
        given_hooks = [hook for c in pod.containers if (hook := c.spec.get("lifecycle", {}).get("preStop"))]
        if any("exec" in hook for hook in given_hooks):
            yield f"{pod.owner['metadata']['name']}: a preStop hook that needs a program in the image"
        hooks = [float(hook["sleep"]["seconds"]) for hook in given_hooks if "sleep" in hook]
        applications = any(container.command == "run" for container in pod.containers)
        needed = max(hooks, default=0) + (OUR_END + APPLICATION_END if applications else OUR_END)
        given = pod.spec.get("terminationGracePeriodSeconds", 30)
        if given < needed:
            yield f"{pod.owner['metadata']['name']}: {given} s to end, and it may need {needed:g} s"
        if applications and not given_hooks:
            yield f"{pod.owner['metadata']['name']}: no preStop hook: requests come in when nobody listens any more"


def rollout(release: Release) -> Iterator[str]:
    """Find rollouts and drains that would remove pods which are still needed."""
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
            for budget in release.all(BUDGET)
            if covers(budget["spec"]["selector"].get("matchLabels", {}), Pod(item).labels)
        ]
        if not all(budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow" for budget in release.all(BUDGET)):
            yield f"Deployment {name}: pods that crash hold up drains: unhealthyPodEvictionPolicy"
        if len(budgets) != 1 or not 0 < (budgets[0] or 0) < spec.get("replicas", 1):
            yield f"Deployment {name}: its PodDisruptionBudget lets go: {budgets}"


def jobs(release: Release) -> Iterator[str]:
    """Find Jobs that would retry permanent errors, or remove the logs of a failure too soon."""
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
        after = any(container.after_rollout for container in Pod(job).containers)
        kept = spec.get("ttlSecondsAfterFinished")
        if after and (kept is None or kept < LOG_KEPT):
            yield f"Job {name}: ttlSecondsAfterFinished is {kept}; its log is to stay for a day, and then it is to go"
        if not after and kept is not None:
            yield f"Job {name}: ttlSecondsAfterFinished takes its log away, and has GitOps tools make it anew"
        notes = job["metadata"].get("annotations", {})
        hook = "argocd.argoproj.io/hook"
        if hook in notes and notes.get(f"{hook}-delete-policy") != "BeforeHookCreation":
            yield f"Job {name}: as a hook it must be deleted before it is made again"
        if after and notes.get(hook, "PostSync") != "PostSync":
            yield f"Job {name}: at {notes[hook]} old pods still run"
        if not after and notes.get(hook, "Sync") not in ("Sync", "PreSync"):
            yield f"Job {name}: pods wait for it, so {notes[hook]} never comes"


def schedules(release: Release) -> Iterator[str]:
    """Find backups that may overlap, are not made up for, fill the volume, or are given up in the middle."""
    for item in release.all("CronJob"):
        name, spec = f"CronJob {item['metadata']['name']}", item["spec"]
        if spec.get("concurrencyPolicy") != "Forbid":
            yield f"{name}: two may run at once"
        if spec.get("startingDeadlineSeconds", 0) < LEAST_LATE:
            yield f"{name}: one that was missed is not made up for: startingDeadlineSeconds"
        if "timeZone" not in spec:
            yield f"{name}: the hour is that of the control plane"
        if not {"successfulJobsHistoryLimit", "failedJobsHistoryLimit"} <= spec.keys():
            yield f"{name}: it does not say how many logs are kept"
        job = spec["jobTemplate"]["spec"]
        if job["template"]["spec"].get("restartPolicy") != "Never":
            yield f"{name}: restartPolicy must be Never for podFailurePolicy, and for the pod's log to stay"
        (container,) = Pod(item).containers
        retries = job.get("backoffLimit", 6)
        needed = (retries + 1) * container.budget + sum(min(10 * 2**number, 360) for number in range(retries))
        if job.get("activeDeadlineSeconds", 0) < needed:
            yield f"{name}: activeDeadlineSeconds is {job.get('activeDeadlineSeconds')}; its attempts need {needed:g} s"
        claims = {volume["name"] for volume in Pod(item).volumes if "persistentVolumeClaim" in volume}
        lasting = {mount["mountPath"] for mount in container.spec["volumeMounts"] if mount["name"] in claims}
        options = vars(cli.parser().parse_args(container.words[1:]))
        if str(options["dir"]) not in lasting:
            yield f"{name}: its backups go to {options['dir']}, which does not last"
        if options["keep"] is None:
            yield f"{name}: nothing is ever deleted: --keep"
