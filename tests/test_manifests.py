"""k8s/: every overlay, built as its users build it, is valid, fits itself and fits the program.

What the checks look for is in `kit/manifests`. Each of them is shown to find it, in manifests that were broken here.
"""

from __future__ import annotations

import copy
import functools
import re
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
from kit.manifests import CHECKS, names, program, security, times
from kit.manifests.program import known_variables
from kit.manifests.release import Pod, Release
from kit.pages import blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.manifests.release import Check, Manifest

ROOT = FOLDER.parent
OVERLAYS = ("init-container", "entrypoint", "job", "job-argocd")
STATUS = "status-service"
# Beside any of them, and applied by itself.
AFTER = "after"
# An overlay with the component beside it, as a user combines them.
COMBINED = tuple(f"{overlay}+{STATUS}" for overlay in OVERLAYS)
# What each kustomization sets.
TAGS = "images: [{name: shop, newTag: 1.4.0}, {name: shop-status, newTag: 1.4.0}]\n"
PAGES = (ROOT / "docs" / "kubernetes.md", ROOT / "docs" / "deploying.md", *sorted(FOLDER.rglob("README.md")))
OLDEST, *_, NEWEST = all_versions()


@functools.cache
def _built(overlay: str) -> tuple[Manifest, ...]:
    base, _, component = overlay.partition("+")
    if not component:
        return tuple(build(FOLDER / overlay))
    with tempfile.TemporaryDirectory() as folder:
        return tuple(build_upon(base, Path(folder), TAGS, component=component))


def objects_of(overlay: str) -> list[Manifest]:
    """Return the objects of an overlay, for the caller to change."""
    try:
        builder()
    except KustomizeMissingError as error:
        missing(str(error))
    return copy.deepcopy(list(_built(overlay)))


def faults_of(objects: Sequence[Manifest]) -> dict[str, list[str]]:
    """Return what each check finds, by its name."""
    release = Release.of(objects)
    return {check.__name__: found for check in CHECKS if (found := list(check(release)))}


# --- What is shipped ------------------------------------------------------------------------------------


def test_every_overlay_is_in_the_list() -> None:
    assert {path.parent.name for path in FOLDER.glob("*/kustomization.yaml")} == {"base", *OVERLAYS, AFTER, STATUS}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", [*OVERLAYS, AFTER, *COMBINED])
def test_the_schemas_agree(overlay: str, version: str) -> None:
    for item in objects_of(overlay):
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("overlay", [*OVERLAYS, AFTER, *COMBINED])
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
    """With a prefix besides: names that belong together change together."""
    shown = yaml.safe_load(text)
    (overlay,) = (Path(name).name for name in shown.pop("resources"))
    component = "".join(Path(name).name for name in shown.pop("components", ()))
    more = {name: value for name, value in shown.items() if name not in ("apiVersion", "kind")}
    try:
        objects = build_upon(overlay, tmp_path, yaml.safe_dump({**more, "namePrefix": "north-"}), component=component)
    except KustomizeMissingError as error:
        missing(str(error))
    assert faults_of(objects) == {}
    images = {container.spec["image"] for container in Release.of(objects).containers}
    assert images == {f"{image.get('newName', image['name'])}:{image['newTag']}" for image in shown["images"]}
    assert {item["metadata"]["name"].startswith("north-shop") for item in objects} == {True}


def test_there_are_kustomizations_in_the_pages() -> None:
    assert {page.name for page, _ in KUSTOMIZATIONS} == {"README.md", "kubernetes.md"}


# --- What the checks find -------------------------------------------------------------------------------

DROP = object()
"""Instead of a value: take it away."""

POD = "spec.template.spec"
APP = f"{POD}.containers.0"
INIT = f"{POD}.initContainers.0"


class Mutation(NamedTuple):
    """One thing that somebody could get wrong in good faith, and what finds it."""

    check: Check
    overlay: str
    kind: str
    """The kind of the object, or kind and name where there are several."""
    path: str
    value: object
    finds: str

    def apply(self, objects: list[Manifest]) -> None:
        """Change the objects."""
        *way, last = (int(step) if step.isdecimal() else step for step in self.path.split("."))
        kind, _, name = self.kind.partition("/")
        (place,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"].endswith(name)]
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
BESIDE = f"entrypoint+{STATUS}"
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
    M(names.volumes, "init-container", "Deployment", f"{APP}.volumeMounts.1", DROP, "declared and not mounted"),
    M(names.volumes, "job", "Job", f"{POD}.volumes.0.secret.secretName", "database", "who makes it"),
    M(names.volumes, "job", "Deployment", f"{APP}.volumeMounts.1.mountPath", "/run/secrets/database", "one path"),
    M(names.secrets, "job", "Job", f"{APP}.volumeMounts", [], "no secret with such a key"),
    M(names.secrets, "job", "Job", f"{APP}.env.0.value", "/run/secrets/database/uri", "no secret with such a key"),
    M(names.secrets, "job", "Job", f"{APP}.env.3", variable("DATABASE_URL", "postgresql://db"), "use a file"),
    M(
        *(names.secrets, "job", "Job", f"{APP}.env.3"),
        {"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "shop-database", "key": "url"}}},
        "a secret in the environment",
    ),
    M(names.secrets, "job", "Job", f"{POD}.securityContext.fsGroup", DROP, "for the fsGroup"),
    M(names.secrets, "job", "Job", f"{POD}.volumes.0.secret.defaultMode", 0o444, "for the fsGroup"),
    M(names.secrets, "job", "Job", f"{POD}.volumes.0.secret.defaultMode", 0o400, "for the fsGroup"),
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
    M(program.environment, "job", "Job", f"{APP}.env.1.name", "DATABASE_URL_FILE", "set twice"),
    M(program.environment, "job", "Job", f"{APP}.env.0", DROP, "where the database is"),
    M(
        program.environment,
        "job",
        "Job",
        f"{APP}.env.3",
        variable("MIGRATION_ON_FAILURE", "exit"),
        "this starts none",
    ),
    M(program.environment, BESIDE, "Deployment/shop-status", f"{APP}.env.3", DROP, "there is no token"),
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
    M(times.rollout, "job", "Deployment", "spec.strategy.rollingUpdate.maxUnavailable", "25%", "before new ones"),
    M(times.rollout, "job", "Deployment", "spec.strategy.type", "Recreate", "before new ones"),
    M(times.rollout, "job", "Deployment", "spec.strategy.rollingUpdate.maxSurge", 0, "not both be 0"),
    M(times.rollout, "job", "Deployment", "spec.replicas", 1, "one replica"),
    M(times.rollout, "job", "PodDisruptionBudget", "spec.maxUnavailable", 3, "lets go"),
    M(times.rollout, "job", "PodDisruptionBudget", "spec.maxUnavailable", 0, "lets go"),
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
        f"{POD}.volumes.1",
        {"name": "h", "hostPath": {"path": "/"}},
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
        # A template of Helm's is no YAML before Helm has filled it in.
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
    """Its shortened form in the README says nothing else than the overlay does."""
    (snippet,) = [block for block in blocks(ROOT / "README.md", "yaml") if "initContainers" in block]
    (short,) = yaml.safe_load(snippet)["initContainers"]
    (shipped,) = Release.of(objects_of("init-container")).one("Deployment")["spec"]["template"]["spec"][
        "initContainers"
    ]
    for field in ("name", "image", "command"):
        assert short[field] == shipped[field], field
    assert {entry["name"] for entry in short["env"]} <= {entry["name"] for entry in shipped["env"]}
