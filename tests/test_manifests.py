"""k8s/: every overlay, built as its users build it, is valid, consistent, and right for the program.

`kit/manifests` has the checks. Further down, each check is shown to find manifests that were broken on purpose.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from conftest import missing
from entrypoint import cli
from kit.kustomize import FOLDER, KustomizeMissingError, build, build_upon, builder
from kit.manifests import CHECKS, names, network, places, program, security, times
from kit.manifests.program import known_variables
from kit.manifests.release import Pod, Release
from kit.pages import blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.manifests.release import Check, Manifest

ROOT = FOLDER.parent
OVERLAYS = ("init-container", "entrypoint", "job", "job-argocd")
STATUS = "status-service"
# Components that go with any of them. The monitors need the status service.
COMPONENTS = (STATUS, "monitoring", "backup", "network-policy", "address-file", "image-volume")
# Goes with any of them, and is applied separately.
AFTER = "after"
# What users may combine: each component alone, where that makes sense, and all of them together.
COMBINATIONS = (
    *((component,) for component in COMPONENTS if component != "monitoring"),
    *((STATUS, "monitoring"), COMPONENTS),
)
# These components do the same to every pattern, so one pattern is enough.
CHANGING = {"address-file", "image-volume"}
COMBINED = tuple(
    "+".join((overlay, *components))
    for overlay in OVERLAYS
    for components in COMBINATIONS
    if overlay == OVERLAYS[0] or CHANGING & {*components} or components == (STATUS,)
)
BESIDE_AFTER = tuple(f"{AFTER}+{component}" for component in ("address-file", "image-volume"))
ALL = (*OVERLAYS, AFTER, *COMBINED, *BESIDE_AFTER)
# The images that each kustomization sets.
IMAGES = ("shop", "shop-status", "shop-backup")
TAGS = f"images: [{', '.join(f'{{name: {name}, newTag: 1.4.0}}' for name in IMAGES)}]\n"
PAGES = (ROOT / "docs" / "kubernetes.md", ROOT / "docs" / "deploying.md", *sorted(FOLDER.rglob("README.md")))
# As in k8s/README.md. Image volumes need a newer Kubernetes.
BESIDE = f"entrypoint+{STATUS}"
KUBERNETES = ROOT / "docs" / "kubernetes.md"
OLDEST, OLDEST_WITH_IMAGE_VOLUMES = "1.30.0", "1.35.0"
NEWEST = all_versions()[-1]
# Belong to the Prometheus operator; `test_monitoring.py` checks them.
FOREIGN = {"ServiceMonitor", "PrometheusRule"}


@functools.cache
def _built(overlay: str) -> tuple[Manifest, ...]:
    base, *components = overlay.split("+")
    if not components:
        return tuple(build(FOLDER / overlay))
    with tempfile.TemporaryDirectory() as folder:
        return tuple(build_upon(base, Path(folder), TAGS, components=components))


def objects_of(overlay: str) -> list[Manifest]:
    """Return the objects of an overlay; the caller may change them."""
    try:
        builder()
    except KustomizeMissingError as error:
        missing(str(error))
    return copy.deepcopy(list(_built(overlay)))


def faults_of(objects: Sequence[Manifest]) -> dict[str, list[str]]:
    """Return what each check finds, by the check's name."""
    release = Release.of(objects)
    return {check.__name__: found for check in CHECKS if (found := list(check(release)))}


# --- What we ship ---------------------------------------------------------------------------------------


def test_every_overlay_is_in_the_list() -> None:
    assert {path.parent.name for path in FOLDER.glob("*/kustomization.yaml")} == {"base", *OVERLAYS, AFTER, *COMPONENTS}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("newest", [False, True], ids=["oldest", "newest"])
@pytest.mark.parametrize("overlay", ALL)
def test_the_schemas_agree(overlay: str, *, newest: bool) -> None:
    oldest = OLDEST_WITH_IMAGE_VOLUMES if "image-volume" in overlay else OLDEST
    for item in objects_of(overlay):
        if item["kind"] not in FOREIGN:
            _validate(json.dumps(item, sort_keys=True), NEWEST if newest else oldest)


@functools.cache
def _validate(item: str, version: str) -> None:
    """Validate one object; most are the same in many overlays."""
    kubernetes_validate.validate(json.loads(item), version, strict=True)


def test_the_oldest_kubernetes_is_the_one_that_the_pages_name() -> None:
    text = (FOLDER / "README.md").read_text()
    assert f"You need Kubernetes {OLDEST.removesuffix('.0')} or later" in text
    assert f"Kubernetes {OLDEST_WITH_IMAGE_VOLUMES.removesuffix('.0')}" in text
    assert OLDEST in all_versions()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("overlay", ALL)
def test_the_objects_fit(overlay: str) -> None:
    assert faults_of(objects_of(overlay)) == {}


def test_what_runs_after_the_rollout_lets_the_old_pods_end() -> None:
    pause, _ = Pod(Release.of(objects_of(AFTER)).one("Job")).containers
    grace = Pod(Release.of(objects_of("init-container")).one("Deployment")).spec["terminationGracePeriodSeconds"]
    assert pause.words == ["sleep", str(grace)]


def test_all_overlays_have_one_tag() -> None:
    images = {
        container.spec["image"]
        for overlay in (*OVERLAYS, AFTER)
        for container in Release.of(objects_of(overlay)).containers
    }
    assert images == {"shop:1.4.0"}


KUSTOMIZATIONS = [(page, text) for page in PAGES for text in blocks(page, "yaml") if "../k8s/" in text]


@pytest.mark.parametrize(("page", "text"), KUSTOMIZATIONS, ids=lambda value: getattr(value, "stem", ""))
def test_the_pages_kustomizations_work(page: Path, text: str, tmp_path: Path) -> None:
    """With a prefix as well: references change together with the names they refer to."""
    shown = yaml.safe_load(text)
    (overlay,) = (Path(name).name for name in shown.pop("resources"))
    components = [Path(name).name for name in shown.pop("components", ())]
    more = {name: value for name, value in shown.items() if name not in ("apiVersion", "kind")}
    try:
        objects = build_upon(overlay, tmp_path, yaml.safe_dump({**more, "namePrefix": "north-"}), components=components)
    except KustomizeMissingError as error:
        missing(str(error))
    assert faults_of(objects) == {}
    images = {container.spec["image"] for container in Release.of(objects).containers}
    assert images == {f"{image.get('newName', image['name'])}:{image['newTag']}" for image in shown["images"]}
    assert {item["metadata"]["name"].startswith("north-shop") for item in objects} == {True}


def test_there_are_kustomizations_in_the_pages() -> None:
    assert {page.name for page, _ in KUSTOMIZATIONS} == {"README.md", "kubernetes.md"}


# What users may have next to ours: a container with another name, an object without a command.
THEIR_OWN = """\
apiVersion: batch/v1
kind: CronJob
metadata: {name: shop-report}
spec:
  schedule: "0 5 * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: report, image: report, command: [report, --all]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: seed}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: seed, image: seed}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: worker}
spec:
  selector: {matchLabels: {app: worker}}
  template:
    metadata: {labels: {app: worker}}
    spec:
      containers: [{name: worker, image: worker}]
"""


@pytest.mark.parametrize("overlay", [*OVERLAYS, AFTER])
def test_the_components_leave_the_users_own_objects_alone(overlay: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(THEIR_OWN)
    components = COMPONENTS if overlay != AFTER else sorted(CHANGING)
    try:
        built = build_upon(overlay, tmp_path, TAGS, components=components, beside=["own.yaml"])
    except KustomizeMissingError as error:
        missing(str(error))
    own = {item["metadata"]["name"]: item for item in yaml.safe_load_all(THEIR_OWN)}
    assert {item["metadata"]["name"]: item for item in built if item["metadata"]["name"] in own} == own
    # None of ours is missing either.
    ours = [item for item in built if item["metadata"]["name"] not in own]
    assert ours == objects_of("+".join((overlay, *components)))


# --- What we learned on a real cluster ------------------------------------------------------------------


def pods_of_all() -> list[Pod]:
    """Return the pods of everything we ship."""
    everything = "+".join((OVERLAYS[0], *COMPONENTS))
    return [pod for overlay in (*OVERLAYS, AFTER, everything) for pod in Release.of(objects_of(overlay)).pods]


@pytest.mark.case("E1")
def test_a_slow_start_is_not_taken_for_a_dead_container() -> None:
    probed = [c.spec for pod in pods_of_all() for c in pod.containers if "livenessProbe" in c.spec]
    assert {spec["name"] for spec in probed} == {"shop", "status"}
    assert all("startupProbe" in spec for spec in probed)
    (spec,) = [c.spec for c in Release.of(objects_of(BESIDE)).containers if c.command == "serve"]
    probe = spec["startupProbe"]
    # 0.8 s of processor time takes 27 s at 30m of a processor.
    assert probe["httpGet"]["path"] == "/livez"
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 2 * 27
    assert spec["resources"]["requests"]["cpu"] == "50m"


@pytest.mark.case("E2")
def test_pods_that_crash_do_not_hold_up_a_drain() -> None:
    for overlay in OVERLAYS:
        budget = Release.of(objects_of(overlay)).one("PodDisruptionBudget")["spec"]
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.case("E3")
def test_the_autoscaler_leaves_a_job_alone() -> None:
    jobs = [pod for pod in pods_of_all() if pod.owner["kind"] == "Job"]
    assert jobs
    for pod in jobs:
        assert pod.annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert "does not protect a pod that migrates in its init container" in KUBERNETES.read_text()


@pytest.mark.case("E4")
@pytest.mark.parametrize("page", ["job", "after"])
@pytest.mark.parametrize(("condition", "code"), [("complete", 0), ("failed", 70), ("gone", 1)])
def test_the_jobs_pages_wait_for_either_end(tmp_path: Path, condition: str, code: int, page: str) -> None:
    """With a kubectl whose Job has `condition` from the second look on, or whose Job is gone."""
    (script,) = blocks(FOLDER / page / "README.md", "sh")
    seen = tmp_path / "seen"
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f"""#!/bin/sh
case "$*" in
get*) [ {condition} != gone ] ;;
*"condition={condition} "*) [ -e {seen} ] || {{ touch {seen}; exit 1; }} ;;
*) exit 1 ;;
esac
"""
    )
    kubectl.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.case("E5")
def test_no_page_goes_back_by_one_revision_after_a_failure() -> None:
    assert "--to-revision=" in KUBERNETES.read_text()
    for overlay in ("init-container", "job"):
        assert "rollout undo" not in (FOLDER / overlay / "README.md").read_text()


@pytest.mark.case("E6", "E9")
def test_what_looks_like_a_failure_is_in_the_table_of_symptoms() -> None:
    shown = [line.split("|")[1] for line in KUBERNETES.read_text().splitlines() if line.startswith("| `")]
    assert any("Unhealthy … 503" in cell for cell in shown)
    assert any("`Init:0/1` for ever" in cell for cell in shown)
    assert "503" in (FOLDER / "entrypoint" / "README.md").read_text().partition("## Times")[2]


@pytest.mark.case("E7")
def test_the_autoscaler_may_remove_a_node_with_our_emptydir() -> None:
    note = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
    with_tmp = [pod for pod in pods_of_all() if any("emptyDir" in volume for volume in pod.volumes)]
    assert with_tmp
    assert {pod.annotations[note] for pod in with_tmp} == {"tmp"}
    assert "--delete-emptydir-data" in KUBERNETES.read_text()


@pytest.mark.case("E8")
def test_what_can_delay_a_rollout_gets_a_tenth_of_a_processor() -> None:
    found = {
        c.spec["resources"]["requests"]["cpu"]
        for pod in pods_of_all()
        for c in pod.containers
        if c.command in ("migrate", "wait")
    }
    assert found == {"100m"}


def test_the_pages_pod_for_the_backups_is_the_cronjobs() -> None:
    """`restricted` admits it, and it runs as the user who owns the files."""
    (command,) = [text for text in blocks(KUBERNETES, "sh") if "kubectl run shop-backup" in text]
    shell = json.loads(command.partition("--overrides='")[2].rpartition("'")[0])["spec"]
    job = yaml.safe_load((FOLDER / "backup" / "cronjob.yaml").read_text())["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    assert shell["securityContext"].items() <= pod["securityContext"].items()
    assert shell["volumes"] == pod["volumes"]
    (container,), (backup,) = shell["containers"], pod["containers"]
    assert container["securityContext"].items() <= backup["securityContext"].items()
    assert container["volumeMounts"] == backup["volumeMounts"]
    assert container["image"].startswith(f"{backup['image']}:")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shell"}, "spec": shell}
    kubernetes_validate.validate(pod, NEWEST, strict=True)


def test_the_pages_pod_to_type_in_is_let_in_and_finds_the_database() -> None:
    (command,) = [text for text in blocks(KUBERNETES, "sh") if "kubectl run shop-operator" in text]
    spec = json.loads(command.partition("--overrides='")[2].rpartition("'")[0])["spec"]
    shell = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shell"}, "spec": spec}
    kubernetes_validate.validate(shell, NEWEST, strict=True)
    pods = Release.of(objects_of("init-container")).pods
    (migrating,) = (c for pod in pods for c in pod.containers if c.command == "migrate")
    (container,) = spec["containers"]
    assert container["env"] == [entry for entry in migrating.spec["env"] if entry["name"] == "DATABASE_URL"]
    assert container["securityContext"].items() <= migrating.spec["securityContext"].items()
    assert spec["securityContext"]["runAsNonRoot"] is True


@pytest.mark.case("E11")
def test_the_page_says_what_ran_on_a_real_cluster() -> None:
    tested = KUBERNETES.read_text().partition("## What is tested")[2]
    assert "on a real Kubernetes 1.36" in tested
    assert "have not run on a cluster" in tested


# --- What the checks find -------------------------------------------------------------------------------

DROP = object()
"""As a value: removes the key."""

POD = "spec.template.spec"
APP = f"{POD}.containers.0"
INIT = f"{POD}.initContainers.0"


class Mutation(NamedTuple):
    """A mistake that somebody could make in good faith, and the check that finds it."""

    check: Check
    overlay: str
    kind: str
    """The kind of the object, or `Kind/name` if there are several of that kind."""
    path: str
    value: object
    finds: str

    def apply(self, objects: list[Manifest]) -> None:
        """Change the objects."""
        *way, last = (int(step) if step.isdecimal() else step for step in self.path.split("."))
        kind, _, name = self.kind.partition("/")
        (place,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"].endswith(name or "")]
        at: Any = place
        for step in way:
            at = at[step]
        if self.value is DROP:
            del at[last]
        elif isinstance(at, list) and last == len(at):
            at.append(self.value)
        else:
            at[last] = self.value


def variable(name: str, value: str) -> dict[str, str]:
    """Return an entry of `env`."""
    return {"name": name, "value": value}


M = Mutation
FILES = "job+address-file"
NETWORK = "job+" + "+".join(COMPONENTS)
CRON = "spec.jobTemplate.spec.template.spec"
RUNS = f"{CRON}.containers.0"
MUTATIONS = (
    M(names.kinds, "job", "Service", "kind", "Role", "nothing here needs that"),
    M(names.kinds, "job", "Service", "kind", "Deployment", "twice"),
    M(names.selectors, "job", "Deployment", "spec.selector.matchLabels.app", "y", "own pods"),
    M(names.selectors, "job", "Service", "spec.selector", {"app.kubernetes.io/name": "shop"}, "Deployment, Job"),
    M(names.selectors, "job", "Service", "spec.selector", {"app": "shop"}, "nobody"),
    M(
        *(names.selectors, "job", "PodDisruptionBudget", "spec.selector.matchLabels"),
        *({"app.kubernetes.io/name": "shop"}, "Deployment, Job"),
    ),
    M(names.volumes, "init-container", "Deployment", f"{POD}.volumes.0.name", "data", "mounted and not declared"),
    M(names.volumes, "init-container", "Deployment", f"{APP}.volumeMounts.0", DROP, "declared and not mounted"),
    M(names.volumes, FILES, "Job", f"{POD}.volumes.0.secret.secretName", "database", "who makes it"),
    M(names.volumes, FILES, "Deployment", f"{APP}.volumeMounts.1.mountPath", "/run/secrets/database", "one path"),
    M(names.volumes, "job+backup", "CronJob", f"{CRON}.volumes.0.persistentVolumeClaim.claimName", "x", "who makes"),
    M(names.volumes, "job+image-volume", "Job", f"{APP}.command.0", "/opt/entrypoint", "no image is mounted there"),
    M(names.volumes, "job+image-volume", "Job", f"{APP}.command.0", "entrypoint", "and not what is started"),
    M(names.secrets, FILES, "Job", f"{APP}.volumeMounts", [], "no secret with such a key"),
    M(names.secrets, FILES, "Job", f"{APP}.env.0.value", "/run/secrets/database/uri", "no secret with such a key"),
    M(names.secrets, "job", "Job", f"{APP}.env.3", variable("DATABASE_URL", "postgresql://db"), "use a Secret"),
    M(names.secrets, "job", "Job", f"{APP}.env.0.valueFrom.secretKeyRef.key", "uri", "uri of the Secret shop-data"),
    M(names.secrets, "job", "Job", f"{APP}.envFrom", [{"secretRef": {"name": "shop-database"}}], "name the keys"),
    M(
        *(names.secrets, "job", "Job", f"{APP}.env.3"),
        {"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "shop-database", "key": "url"}}},
        "a secret in the environment",
    ),
    M(names.secrets, FILES, "Job", f"{POD}.securityContext.fsGroup", DROP, "for the fsGroup"),
    M(names.secrets, FILES, "Job", f"{POD}.volumes.0.secret.defaultMode", 0o444, "for the fsGroup"),
    M(names.secrets, FILES, "Job", f"{POD}.volumes.0.secret.defaultMode", 0o400, "for the fsGroup"),
    M(names.ports, "entrypoint", "Deployment", f"{APP}.ports.0.name", "web", "asks port http"),
    M(
        names.ports,
        "entrypoint",
        "Deployment",
        f"{APP}.ports.0.containerPort",
        8081,
        "MIGRATION_PROBE_PORT is 8080",
    ),
    M(names.ports, "entrypoint", "Service", "spec.ports.0.targetPort", "web", "which nobody has"),
    M(names.images, "job", "Job", f"{APP}.image", "shop:1.3.9", "several releases"),
    M(names.images, "job", "Job", f"{APP}.image", "shop", "no fixed tag"),
    M(names.images, "job", "Job", f"{APP}.image", "shop-migrations:1.4.0", "several releases"),
    M(names.images, BESIDE, "Deployment/shop-status", f"{APP}.image", "shop-status:1.3.9", "several releases"),
    M(program.environment, "job", "Job", f"{APP}.env.1.name", "MIGRATION_TIMEOUT", "nobody reads"),
    M(program.environment, "job", "Job", f"{APP}.env.1.value", "5min", "it must be a whole number of milliseconds"),
    M(program.environment, "job", "Job", f"{APP}.env.1.name", "DATABASE_URL", "set twice"),
    M(program.environment, "job", "Job", f"{APP}.env.0", DROP, "where the database is"),
    M(
        program.environment,
        "job",
        "Job",
        f"{APP}.env.3",
        variable("MIGRATION_ON_FAILURE", "exit"),
        "this starts none",
    ),
    M(program.environment, BESIDE, "Deployment/shop-status", f"{APP}.env.3", DROP, "no token is set"),
    M(names.secrets, BESIDE, "Deployment/shop-status", f"{APP}.env.3.value", "/run/token", "no secret with such a"),
    M(names.ports, BESIDE, "Deployment/shop-status", f"{APP}.env.2.value", "3002", "STATUS_PORT is 3002"),
    M(program.commands, "job", "Job", f"{APP}.command", ["entrypoint", "migrate", "--wait"], "Unrecognized"),
    M(program.commands, "job", "Deployment", f"{INIT}.command.5", "10min", "--timeout"),
    M(program.commands, "job", "Job", f"{APP}.command", ["sh", "-c", "entrypoint migrate"], "not start entrypoint"),
    M(program.who_migrates, "job", "Deployment", f"{INIT}.command", ["entrypoint", "migrate"], "these migrate"),
    M(program.who_migrates, "entrypoint", "Deployment", f"{APP}.env.0", variable("AUTO_MIGRATE", "false"), "nobody"),
    M(program.who_migrates, "job", "Deployment", INIT, DROP, "does not wait for the schema"),
    M(
        times.waiters,
        "init-container",
        "Deployment",
        f"{INIT}.env.2.value",
        "30000",
        "shorter than MIGRATION_TIMEOUT_MS",
    ),
    M(times.waiters, "job", "Deployment", f"{INIT}.command.5", "600", "waits 600 s for what may take 642 s"),
    M(times.waiters, "job", "Job", f"{APP}.env.1.value", "3600000", "shorter than MIGRATION_TIMEOUT_MS"),
    M(times.probes, "entrypoint", "Deployment", f"{APP}.startupProbe.failureThreshold", 30, "lasts 150 s"),
    M(times.probes, "entrypoint", "Deployment", f"{APP}.startupProbe", DROP, "no startupProbe"),
    M(times.probes, "entrypoint", "Deployment", f"{APP}.env.1", DROP, "nobody answers probes"),
    M(times.probes, "job", "Deployment", f"{APP}.livenessProbe.httpGet.path", "/readyz", "probes ask"),
    M(times.probes, "job", "Deployment", f"{APP}.readinessProbe.timeoutSeconds", 6, "until its next turn"),
    M(times.deadlines, "init-container", "Deployment", "spec.progressDeadlineSeconds", DROP, "is 600"),
    M(times.deadlines, "entrypoint", "Deployment", "spec.progressDeadlineSeconds", 700, "needs 720 s"),
    M(times.deadlines, "job", "Deployment", "spec.progressDeadlineSeconds", 2100, "needs 2160 s"),
    M(times.deadlines, "job", "Job", "spec.activeDeadlineSeconds", DROP, "is 0"),
    M(times.deadlines, "job", "Job", "spec.backoffLimit", 3, "attempts need 2638 s"),
    M(times.grace, "job", "Deployment", f"{POD}.terminationGracePeriodSeconds", DROP, "30 s to end"),
    M(times.grace, "job", "Job", f"{POD}.terminationGracePeriodSeconds", 1, "1 s to end"),
    M(times.grace, "job", "Deployment", f"{APP}.lifecycle", DROP, "no preStop hook"),
    M(times.grace, "job", "Deployment", f"{APP}.lifecycle.preStop", {"exec": {"command": ["sleep", "5"]}}, "a program"),
    M(times.grace, "job", "Deployment", f"{APP}.lifecycle.preStop.sleep.seconds", 20, "it may need 52 s"),
    M(times.rollout, "job", "Deployment", "spec.strategy.rollingUpdate.maxUnavailable", "25%", "before new ones"),
    M(times.rollout, "job", "Deployment", "spec.strategy.type", "Recreate", "before new ones"),
    M(times.rollout, "job", "Deployment", "spec.strategy.rollingUpdate.maxSurge", 0, "not both be 0"),
    M(times.rollout, "job", "Deployment", "spec.replicas", 1, "one replica"),
    M(times.rollout, "job", "PodDisruptionBudget", "spec.maxUnavailable", 3, "lets go"),
    M(times.rollout, "job", "PodDisruptionBudget", "spec.maxUnavailable", 0, "lets go"),
    M(times.rollout, "job", "PodDisruptionBudget", "spec.unhealthyPodEvictionPolicy", DROP, "hold up drains"),
    M(times.probes, BESIDE, "Deployment/shop-status", f"{APP}.startupProbe", DROP, "and no startupProbe"),
    M(times.jobs, "job", "Job", f"{POD}.restartPolicy", "OnFailure", "restartPolicy must be Never"),
    M(times.jobs, "job", "Job", "spec.podFailurePolicy.rules.0.onExitCodes.values", [65, 69, 70], "gives up at"),
    M(times.jobs, "job", "Job", "spec.podFailurePolicy", DROP, "gives up at []"),
    M(times.jobs, "job", "Job", "spec.podFailurePolicy.rules.0.onExitCodes.containerName", "main", "names the"),
    M(times.jobs, "job", "Job", "spec.podFailurePolicy.rules.1", DROP, "a drained node"),
    M(times.jobs, "job", "Job", "spec.ttlSecondsAfterFinished", 600, "takes its log away"),
    M(times.jobs, AFTER, "Job", "spec.ttlSecondsAfterFinished", DROP, "is None; its log is to stay"),
    M(times.jobs, AFTER, "Job", "spec.ttlSecondsAfterFinished", 600, "is 600; its log is to stay"),
    M(times.jobs, AFTER, "Job", "metadata.annotations", {"argocd.argoproj.io/hook": "Sync"}, "old pods still run"),
    M(times.deadlines, AFTER, "Job", "spec.activeDeadlineSeconds", 2100, "may take hours"),
    M(
        *(times.jobs, "job-argocd", "Job", "metadata.annotations", {"argocd.argoproj.io/hook": "PostSync"}),
        "so PostSync never comes",
    ),
    M(
        *(times.jobs, "job-argocd", "Job", "metadata.annotations", {"argocd.argoproj.io/hook": "Sync"}),
        "it must be deleted",
    ),
    M(security.restricted_pods, "job", "Job", f"{POD}.securityContext.runAsNonRoot", DROP, "runAsNonRoot"),
    M(security.restricted_pods, "job", "Job", f"{POD}.securityContext.runAsUser", 0, "runAsNonRoot"),
    M(
        security.restricted_pods,
        "job",
        "Job",
        f"{POD}.securityContext.seccompProfile.type",
        "Unconfined",
        "seccompProfile",
    ),
    M(security.restricted_pods, "job", "Job", f"{POD}.hostNetwork", True, "hostNetwork"),  # noqa: FBT003 - a value
    M(
        security.restricted_pods,
        "job",
        "Job",
        f"{POD}.volumes",
        [{"name": "h", "hostPath": {"path": "/"}}],
        "hostPath",
    ),
    M(
        security.restricted_containers,
        "job",
        "Job",
        f"{APP}.securityContext.allowPrivilegeEscalation",
        DROP,
        "Escalation",
    ),
    M(
        security.restricted_containers,
        "job",
        "Job",
        f"{APP}.securityContext.capabilities.drop",
        ["NET_RAW"],
        "capabilities",
    ),
    M(
        security.restricted_containers,
        "job",
        "Job",
        f"{APP}.securityContext.readOnlyRootFilesystem",
        DROP,
        "readOnlyRoot",
    ),
    M(security.restricted_containers, "job", "Job", f"{APP}.securityContext.runAsUser", 0, "runAsUser"),
    M(
        *(security.restricted_containers, "job", "Deployment", f"{APP}.ports.0"),
        *({"name": "http", "containerPort": 8080, "hostPort": 8080}, "hostPort"),
    ),
    M(security.no_rights, "job", "Job", f"{POD}.automountServiceAccountToken", DROP, "automountServiceAccountToken"),
    M(security.no_rights, "job", "Job", f"{POD}.enableServiceLinks", DROP, "enableServiceLinks"),
    M(security.no_rights, "job", "Job", f"{POD}.serviceAccountName", "migrator", "serviceAccountName"),
    M(security.resources, "job", "Job", f"{APP}.resources", DROP, "resources"),
    M(security.resources, "job", "Job", f"{APP}.resources.limits.cpu", "1", "resources"),
    M(security.resources, "job", "Job", f"{APP}.resources.requests.memory", "512Mi", "more memory"),
    M(
        security.resources,
        "job",
        "Deployment",
        f"{INIT}.resources.requests.cpu",
        "10m",
        "less of a processor than 100m",
    ),
    M(security.resources, BESIDE, "Deployment/shop-status", f"{APP}.resources.requests.cpu", "10m", "than 50m"),
    M(places.spreading, "job", "Deployment", f"{POD}.topologySpreadConstraints", DROP, "not spread"),
    M(places.spreading, "job", "Deployment", f"{POD}.topologySpreadConstraints.1", DROP, "not spread"),
    M(
        *(places.spreading, "job", "Deployment", f"{POD}.topologySpreadConstraints.0.labelSelector.matchLabels"),
        *({"app": "shop"}, "not its own pods"),
    ),
    M(
        *(places.spreading, "job", "Deployment", f"{POD}.topologySpreadConstraints.0.whenUnsatisfiable"),
        *("DoNotSchedule", "would not start"),
    ),
    M(places.spreading, "job", "Deployment", f"{POD}.topologySpreadConstraints.0.matchLabelKeys", DROP, "old pods"),
    M(places.evictions, "job", "Job", "spec.template.metadata.annotations", DROP, "in the middle"),
    M(places.evictions, "job", "Deployment", "spec.template.metadata.annotations", DROP, "and it has ['tmp']"),
    M(times.schedules, "job+backup", "CronJob", "spec.concurrencyPolicy", "Allow", "two may run at once"),
    M(times.schedules, "job+backup", "CronJob", "spec.startingDeadlineSeconds", DROP, "not made up for"),
    M(times.schedules, "job+backup", "CronJob", "spec.timeZone", DROP, "of the control plane"),
    M(times.schedules, "job+backup", "CronJob", "spec.failedJobsHistoryLimit", DROP, "how many logs"),
    M(times.schedules, "job+backup", "CronJob", f"{CRON}.restartPolicy", "OnFailure", "must be Never"),
    M(times.schedules, "job+backup", "CronJob", "spec.jobTemplate.spec.activeDeadlineSeconds", 3600, "need 10956 s"),
    M(times.schedules, "job+backup", "CronJob", f"{RUNS}.command.3", "/tmp", "which does not last"),
    M(times.schedules, "job+backup", "CronJob", f"{RUNS}.command", ["entrypoint", "backup", "--dir", "/b"], "--keep"),
    M(network.policies, NETWORK, "NetworkPolicy/shop", "spec.podSelector.matchLabels.app", "x", "the rest is open"),
    M(network.policies, NETWORK, "NetworkPolicy/shop", "spec.policyTypes", ["Ingress"], "the rest is open"),
    M(network.policies, NETWORK, "NetworkPolicy/shop", "spec.egress.1", DROP, "and needs"),
    M(network.policies, NETWORK, "NetworkPolicy/shop", "spec.egress.1.ports", DROP, "every port"),
    M(network.policies, NETWORK, "NetworkPolicy/shop-web", "spec.ingress.0.ports.0.port", "web", "are open"),
    M(network.policies, NETWORK, "NetworkPolicy/shop-web", "spec.ingress.0.ports", DROP, "are open"),
    M(network.policies, NETWORK, "NetworkPolicy/shop-status", "spec.ingress.0.from", DROP, "everybody reaches"),
    M(network.monitors, NETWORK, "ServiceMonitor", "spec.selector.matchLabels", {"app": "x"}, "selects 0 Services"),
    M(network.monitors, NETWORK, "ServiceMonitor", "spec.endpoints.0.port", "http", "asks port http"),
    M(network.monitors, NETWORK, "ServiceMonitor", "spec.endpoints.0.authorization", DROP, "has no token"),
    M(names.images, NETWORK, "Job", f"{POD}.volumes.0.image.reference", "entrypoint:latest", "no fixed tag"),
    M(security.reasons, "job", "Job", f"{APP}.terminationMessagePolicy", DROP, "terminationMessagePolicy"),
    M(security.reasons, "job", "Job", f"{APP}.terminationMessagePath", "/tmp/x", "terminationMessagePath"),
    M(security.reasons, "job", "Job", f"{APP}.tty", True, "tty"),  # noqa: FBT003 - a value
)


@pytest.mark.parametrize(
    "mutation", MUTATIONS, ids=lambda mutation: f"{mutation.check.__name__}: {mutation.finds}".replace("/", "|")
)
def test_a_broken_manifest_is_found(mutation: Mutation) -> None:
    objects = objects_of(mutation.overlay)
    mutation.apply(objects)
    found = list(mutation.check(Release.of(objects)))
    assert any(mutation.finds in fault for fault in found), found


def test_each_job_is_held_to_its_own_deadline() -> None:
    objects = objects_of("job")
    job = Release.of(objects).one("Job")
    short = copy.deepcopy(job)
    short["metadata"]["name"] = "shop-short"
    short["spec"]["activeDeadlineSeconds"] = 60
    for both in ([*objects, short], [short, *objects]):
        (fault,) = times.deadlines(Release.of(both))
        assert fault.startswith("Job shop-short: activeDeadlineSeconds is 60;")


def test_every_check_has_something_to_find() -> None:
    assert {mutation.check for mutation in MUTATIONS} == set(CHECKS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.replica", 3),
        (f"{APP}.securityContext.runAsNonroot", True),
        (f"{APP}.env.0.value", 8080),
        ("spec.replicas", "three"),
    ],
)
def test_the_schemas_are_strict(path: str, value: object) -> None:
    objects = objects_of("entrypoint")
    Mutation(names.kinds, "entrypoint", "Deployment", path, value, "").apply(objects)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(Release.of(objects).one("Deployment"), NEWEST, strict=True)


# --- The pages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_has_a_page(overlay: str) -> None:
    text = (FOLDER / overlay / "README.md").read_text()
    assert "\n## When to choose it\n" in text
    assert "\n## When a migration fails\n" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_pages_yaml_is_yaml(page: Path) -> None:
    for block in blocks(page, "yaml"):
        # A Helm template is not YAML until Helm has filled it in.
        yaml.safe_load(block.replace("{{ .Release.Revision }}", "7"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_pages_name_commands_and_variables_that_exist(page: Path) -> None:
    text = page.read_text()
    for word in re.findall(r"`entrypoint ([a-z]+)\b", text):
        assert word in cli.COMMANDS, word
    known = known_variables() | {"ENTRYPOINT_OUTCOME", "ENTRYPOINT_SCHEMA_VERSION", "ENTRYPOINT_ERROR"}
    for name in re.findall(r"\b(?:MIGRATION|DB|DATABASE|ENTRYPOINT)_[A-Z_]+\b", text):
        assert name in known, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_pages_name_folders_that_exist(page: Path) -> None:
    for name in re.findall(r"(?<![\w.])(?:\.\./)*(k8s/[a-z-]+)", page.read_text()):
        assert (ROOT / name).exists(), name


def test_the_hook_in_the_page_of_the_job_for_after_the_rollout(tmp_path: Path) -> None:
    (shown,) = blocks(FOLDER / AFTER / "README.md", "yaml")
    try:
        (job,) = build_upon(AFTER, tmp_path, shown)
    except KustomizeMissingError as error:
        missing(str(error))
    assert job["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "PostSync"
    assert faults_of([job]) == {}


def test_the_times_in_the_page_are_those_in_the_manifests() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    init, run, job = (Release.of(objects_of(overlay)) for overlay in ("init-container", "entrypoint", "job"))
    migrate, _ = Pod(init.one("Deployment")).containers
    wait, _ = Pod(job.one("Deployment")).containers
    startup = run.containers[0].spec["startupProbe"]
    shown = {
        f"{migrate.budget:g} s": 1,
        f"| {init.one('Deployment')['spec']['progressDeadlineSeconds']} |": 1,
        f"| {job.one('Deployment')['spec']['progressDeadlineSeconds']} |": 1,
        f"| {startup['periodSeconds']} × {startup['failureThreshold']} = ": 1,  # noqa: RUF001 - the page's sign
        f"| {job.one('Job')['spec']['activeDeadlineSeconds']} |": 1,
        f"| {wait.budget:g} |": 1,
    }
    assert {piece: text.count(piece) for piece in shown} == shown


def test_the_readmes_init_container_is_the_shipped_one() -> None:
    """The README's shortened version does not contradict the overlay."""
    (snippet,) = [block for block in blocks(ROOT / "README.md", "yaml") if "initContainers" in block]
    (short,) = yaml.safe_load(snippet)["initContainers"]
    (shipped,) = Release.of(objects_of("init-container")).one("Deployment")["spec"]["template"]["spec"][
        "initContainers"
    ]
    for field in ("name", "image", "command"):
        assert short[field] == shipped[field], field
    assert {entry["name"] for entry in short["env"]} <= {entry["name"] for entry in shipped["env"]}
