"""k8s/, played: the pods that the overlays create, in podman, with the image of the example application.

Kustomize builds each pod from an overlay, through a kustomization like a user's. It is changed only where podman is not
a kubelet (`images.kit.podman.pod_of`). There is no scheduler, no controller and no rollout: a test does what they would
do, and says so.
"""

from __future__ import annotations

import itertools
import json
import shutil
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml

from conftest import missing
from demo.postgres import free_port
from images.kit.podman import PROGRAMS, Podman, pod_of
from kit.kustomize import FOLDER, KustomizeMissingError, build_upon, builder
from kit.manifests.names import PROBES
from kit.pages import blocks
from kit.processes import command_line, status, until
from scene import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from images.kit.engine import Engine
    from images.kit.podman import Pod
    from kit.databases import Database
    from kit.manifests.release import Manifest

SHOP = FOLDER.parent / "compose" / "shop"
OLD, NEW, NEWEST = "1.4.0", "1.5.0", "1.6.0"
# The example's version that each release has.
VERSIONS = {OLD: "1", NEW: "2", NEWEST: "3"}
# Other releases after OLD, and the one migration that each of them adds.
VARIANTS = {
    "1.5.0-broken": ("003_note.sql", "ALTER TABLE orders ADD COLUMN note bigint REFERENCES nobody;\n"),
    "1.5.0-mended": ("003_note.sql", "ALTER TABLE orders ADD COLUMN note text;\n"),
    "1.5.0-gated": (
        "003_gate.sql",
        f"-- entrypoint: lock-timeout = 10min\nCREATE TABLE gate ();\n{Gate.PASS}\n",
    ),
}
_numbers = itertools.count(1)
REASON = 'relation "nobody" does not exist'


@pytest.fixture(scope="module")
def podman(engine: Engine, image: str, python_base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    absent = [name for name in PROGRAMS if shutil.which(name) is None and shutil.which(name, path="/usr/sbin") is None]
    if absent:
        missing(f"not installed: {', '.join(absent)} (Debian: podman, runc)")
    try:
        builder()
    except KustomizeMissingError as error:
        missing(str(error))
    names = [
        engine.build(SHOP, tag=f"shop:{tag}", target="shop", arguments={"ENTRYPOINT_IMAGE": image, "VERSION": version})
        for tag, version in VERSIONS.items()
    ]
    for tag, (name, text) in VARIANTS.items():
        context = tmp_path_factory.mktemp("variant")
        (context / name).write_text(text)
        (context / "Dockerfile").write_text(f"FROM shop:{OLD}\nENV APP_VERSION={tag}\nCOPY {name} migrations/\n")
        names.append(engine.build(context, tag=f"shop:{tag}"))
    with Podman() as podman:
        podman.load(engine, python_base, *names)
        podman.make_pause(python_base)
        yield podman


class Cluster:
    """Stands in for Kubernetes: creates the pods of an overlay, one by one."""

    def __init__(self, podman: Podman, database: Database, directory: Path) -> None:
        """Put the database's address into the Secret that the overlays need."""
        self._podman = podman
        self._secrets = {"shop-database": {"url": database.url}}
        self._directory = directory
        self.mounted: Path | None = None
        self.port = 0
        self.probes: dict[str, Manifest] = {}
        self._pods: list[Pod] = []

    def pod(
        self, overlay: str, tag: str, kind: str = "Deployment", patches: str = "", components: Sequence[str] = ()
    ) -> Pod:
        """Make a pod of an overlay's Deployment or Job at a release, and play it.

        Its port is in `self.port`. Its application's probes, which podman does not run, are in `self.probes`.
        """
        name = f"{overlay}-{next(_numbers)}"
        folder = self._directory / name
        folder.mkdir()
        self.port = free_port()
        objects = build_upon(
            overlay, folder, f"images: [{{name: shop, newTag: {tag}}}]\n{patches}", components=components
        )
        (owner,) = [item for item in objects if item["kind"] == kind]
        _move(owner, self.port)
        (container,) = owner["spec"]["template"]["spec"]["containers"]
        self.probes = {name: container[name] for name in PROBES if name in container}
        pod = self._podman.play(pod_of(owner, name, folder, self._secrets, self.mounted))
        self._pods.append(pod)
        return pod

    def close(self) -> None:
        """Remove all pods."""
        self._podman.remove(self._pods)


def _move(owner: Manifest, port: int) -> None:
    """Let the application listen on another port than 8080, which may be taken on this machine."""
    for container in owner["spec"]["template"]["spec"]["containers"]:
        for entry in container.get("env", []):
            if entry["name"] in ("PORT", "MIGRATION_PROBE_PORT"):
                assert entry["value"] == "8080"
                entry["value"] = str(port)
        for declared in container.get("ports", []):
            declared["containerPort"] = port


@pytest.fixture
def cluster(podman: Podman, database: Database, tmp_path: Path) -> Iterator[Cluster]:
    tmp_path.chmod(0o755)
    cluster = Cluster(podman, database, tmp_path)
    try:
        yield cluster
    finally:
        cluster.close()


def ask(port: int, path: str = "/") -> tuple[int, dict[str, Any]]:
    """Return the status and the body of an answer; status 0 if there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, {}


def serves(port: int) -> dict[str, Any]:
    """Wait until the application is ready, and return what its front page says."""
    until(lambda: ask(port, "/readyz")[1].get("status") == "ready", 60, "the application to be ready")
    found, page = ask(port)
    assert found == 200
    return page


def ledger(database: Database) -> list[str]:
    """Return the ledger: `number status`, in order."""
    try:
        rows = database.rows("SELECT migration_number, status FROM schema_migrations ORDER BY migration_number")
    except psycopg.errors.UndefinedTable:
        return []
    return [f"{number} {state}" for number, state in rows]


V1 = ["1 completed", "2 completed"]


# --- (a) An init container in each pod ------------------------------------------------------------------


def test_an_init_container_migrates_and_then_the_application_starts(cluster: Cluster, database: Database) -> None:
    pod = cluster.pod("init-container", OLD)
    assert pod.played() == 0, pod
    page = serves(cluster.port)
    assert pod.wait("migrate") == 0
    assert (page["outcome"], page["version"]) == ("disabled", 1)
    assert ledger(database) == V1
    assert len(pod.records("migrate", "migration.applied")) == 2
    assert pod.message("migrate") == ""

    # The next replica finds nothing to do.
    second = cluster.pod("init-container", OLD)
    assert second.played() == 0, second
    serves(cluster.port)
    assert second.records("migrate", "migration.applied") == []
    assert second.wait("migrate") == 0


def test_the_address_may_be_a_file(cluster: Cluster, database: Database) -> None:
    pod = cluster.pod("init-container", OLD, components=["address-file"])
    assert pod.played() == 0, pod
    serves(cluster.port)
    assert ledger(database) == V1
    containers = [*pod.manifest["spec"]["initContainers"], *pod.manifest["spec"]["containers"]]
    assert all("DATABASE_URL" not in {entry["name"] for entry in container["env"]} for container in containers)
    found = pod.exec("shop", "cat", "/run/secrets/database/url")
    assert found.stdout == database.url


def test_the_program_may_come_from_an_image_volume(
    cluster: Cluster, database: Database, folder: Path, tmp_path: Path
) -> None:
    cluster.mounted = tmp_path / "image"
    shutil.copytree(folder, cluster.mounted / "opt" / "entrypoint", symlinks=True)
    pod = cluster.pod("init-container", OLD, components=["image-volume"])
    assert pod.played() == 0, pod
    serves(cluster.port)
    assert ledger(database) == V1
    (migrate,) = pod.manifest["spec"]["initContainers"]
    assert migrate["command"] == ["/pg-entrypoint/opt/entrypoint/entrypoint", "migrate"]


def test_the_containers_are_as_restricted_as_the_manifests_say(cluster: Cluster) -> None:
    pod = cluster.pod("entrypoint", OLD)
    assert pod.played() == 0, pod
    serves(cluster.port)
    seen = status(pod.pid("shop"))
    assert seen["Uid"].split() == ["65532"] * 4
    assert seen["Gid"].split() == ["65532"] * 4
    assert {seen[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
    assert seen["NSpid"].split()[-1] == "1", "entrypoint has become the application: it is the container's pid 1"
    assert command_line(pod.pid("shop"))[1] == "server.py"


def test_a_failed_migration_stops_the_rollout_and_the_old_pod_serves_on(cluster: Cluster, database: Database) -> None:
    old = cluster.pod("init-container", OLD)
    assert old.played() == 0, old
    port = cluster.port
    serves(port)

    # The rollout's first new pod. Since maxUnavailable is 0, all old ones stay until it is ready.
    new = cluster.pod("init-container", "1.5.0-broken")
    assert new.played() != 0
    assert new.wait("migrate") == 70
    assert not new.started("shop")
    assert ask(cluster.port)[0] == 0
    assert REASON in new.message("migrate")
    assert "Fix:" in new.message("migrate")
    assert ledger(database) == [*V1, "3 failed"]
    assert serves(port)["version"] == 1

    # The kubelet restarts the init container: the result is the same, and the file is not run again.
    again = cluster.pod("init-container", "1.5.0-broken")
    again.played()
    assert again.wait("migrate") == 70
    assert not again.started("shop")
    assert REASON in again.message("migrate")
    assert [record["event"] for record in again.records("migrate") if record["level"] == "error"] == [
        "migration.held_back"
    ]

    # `kubectl rollout undo`, or a node is lost: the old release starts.
    back = cluster.pod("init-container", OLD)
    assert back.played() == 0, back
    assert serves(cluster.port)["version"] == 1

    # A corrected file succeeds.
    mended = cluster.pod("init-container", "1.5.0-mended")
    assert mended.played() == 0, mended
    serves(cluster.port)
    assert ledger(database) == [*V1, "3 completed"]


def test_pods_that_start_together_migrate_once(cluster: Cluster, database: Database) -> None:
    pods = [(cluster.pod("init-container", OLD), cluster.port) for _ in range(3)]
    for pod, port in pods:
        assert pod.played() == 0, pod
        serves(port)
    applied = [record["file"] for pod, _ in pods for record in pod.records("migrate", "migration.applied")]
    assert sorted(applied) == ["001_products.sql", "002_orders.sql"]
    assert ledger(database) == V1


# --- A release, and the way back ------------------------------------------------------------------------

# With a Job, a separate pod migrates.
OUTCOMES = {"init-container": ("disabled", "disabled"), "entrypoint": ("migrated", "ahead"), "job": ("disabled",) * 2}


@pytest.mark.parametrize("overlay", OUTCOMES)
def test_a_release_and_the_way_back(cluster: Cluster, database: Database, overlay: str) -> None:
    """As a Deployment does with one replica: the new pod becomes ready, then the old one is ended; and back again."""
    if overlay == "job":
        assert cluster.pod(overlay, OLD, "Job").wait("migrate") == 0
    old = cluster.pod(overlay, OLD)
    assert old.played() == 0, old
    port = cluster.port
    serves(port)

    if overlay == "job":
        assert cluster.pod(overlay, NEW, "Job").wait("migrate") == 0
    new = cluster.pod(overlay, NEW)
    assert new.played() == 0, new
    page = serves(cluster.port)
    assert (page["version"], page["outcome"]) == (2, OUTCOMES[overlay][0])
    assert ledger(database) == [*V1, "3 completed"]
    assert serves(port)["version"] == 1, "the old one answers on the new schema"
    assert old.end("shop") < old.manifest["spec"]["terminationGracePeriodSeconds"]
    assert old.wait("shop") == 0

    # `kubectl rollout undo`: the schema is ahead of the old image's files.
    back = cluster.pod(overlay, OLD)
    assert back.played() == 0, back
    page = serves(cluster.port)
    assert (page["version"], page["outcome"]) == (1, OUTCOMES[overlay][1])
    assert ledger(database) == [*V1, "3 completed"]


# --- After the rollout ----------------------------------------------------------------------------------


# Without the sleep, since a test has no old pods that are terminating.
AT_ONCE = yaml.safe_dump(
    {
        "patches": [
            {
                "target": {"kind": "Job"},
                "patch": '[{"op": "replace", "path": "/spec/template/spec/initContainers/0/command/1", "value": "0"}]',
            }
        ]
    }
)


def test_three_releases_and_then_the_first_one_by_mistake(cluster: Cluster, database: Database) -> None:
    """What k8s/after/README.md describes, with the overlay shown there and one replica."""
    running = None
    for tag, rolled_out, afterwards in (
        (OLD, V1, V1),
        (NEW, [*V1, "3 completed"], [*V1, "3 completed", "4 completed"]),
        (NEWEST, [f"{number} completed" for number in range(1, 7)], [f"{number} completed" for number in range(1, 8)]),
    ):
        new = cluster.pod("init-container", tag)
        assert new.played() == 0, new
        port = cluster.port
        serves(port)
        if running is not None:
            running.end("shop")
        running = new
        assert ledger(database) == rolled_out
        job = cluster.pod("after", tag, "Job", patches=AT_ONCE)
        assert job.wait("migrate") == 0, job
        assert ledger(database) == afterwards
        assert serves(port)["version"] == int(VERSIONS[tag]), "it serves on"
        if tag == OLD:
            database.execute(
                "INSERT INTO orders (product_id, quantity, price) SELECT 3, 1, 4.25 FROM generate_series(1, 5000)"
            )
    assert serves(port)["turnover"] == "21250.00"

    for tag in (OLD, NEW):
        mistake = cluster.pod("init-container", tag)
        assert mistake.played() != 0
        assert mistake.wait("migrate") == 78
        assert not mistake.started("shop")
        told = mistake.message("migrate")
        assert told.startswith("This image is too old for the schema: it does not contain 007_drop_price.sql"), told
        assert "Fix: Start an image that has that file." in told
    # The application's own container migrates, with the policy that the page requires.
    (shown,) = blocks(FOLDER / "entrypoint" / "README.md", "yaml")
    mistake = cluster.pod("entrypoint", OLD, patches=yaml.safe_dump(yaml.safe_load(shown)))
    mistake.played()
    assert mistake.wait("shop") == 78
    assert mistake.message("shop").startswith("This image is too old for the schema")
    # With the overlay unchanged, the application is started, and exits by itself. Kubernetes then shows the end of its
    # log.
    mistake = cluster.pod("entrypoint", OLD)
    mistake.played()
    assert mistake.wait("shop") == 1
    assert mistake.message("shop") == ""
    last = mistake.log("shop").splitlines()[-1]
    assert last.startswith("shop: version 1 does not work on schema 7: This image is too old for the schema"), last
    assert serves(port)["version"] == 3


def test_a_release_whose_job_was_forgotten_stops_the_next_rollout(cluster: Cluster, database: Database) -> None:
    for tag in (OLD, NEW):
        pod = cluster.pod("init-container", tag)
        assert pod.played() == 0, pod
        port = cluster.port
        serves(port)
    newest = cluster.pod("init-container", NEWEST)
    assert newest.played() != 0
    assert newest.wait("migrate") == 70
    assert "requires migration 004, which is not completed" in newest.message("migrate")
    assert ledger(database) == [*V1, "3 completed"]
    assert serves(port)["version"] == 2


# --- (b) entrypoint in the application's container ------------------------------------------------------


def test_probes_are_answered_during_a_long_migration(cluster: Cluster, database: Database) -> None:
    with Gate(database) as gate:
        pod = cluster.pod("entrypoint", "1.5.0-gated")
        gate.arrival(60)
        port = cluster.port
        assert pod.played() == 0, pod
        pid = pod.pid("shop")
        # The probes ask and are told that it is alive but not ready, so the startup probe continues.
        answers = {name: ask(port, probe["httpGet"]["path"]) for name, probe in cluster.probes.items()}
        assert {name: found for name, (found, _) in answers.items()} == {
            "startupProbe": 503,
            "livenessProbe": 200,
            "readinessProbe": 503,
        }
        told = answers["startupProbe"][1]
        assert (told["phase"], told["file"]) == ("migrating", "003_gate.sql")
    assert serves(port)["outcome"] == "migrated"
    assert pod.pid("shop") == pid
    assert {ask(port, probe["httpGet"]["path"])[0] for probe in cluster.probes.values()} == {200}
    assert ledger(database) == [*V1, "3 completed"]


def test_a_failed_migration_lets_the_application_start_and_tells_it(cluster: Cluster, database: Database) -> None:
    pod = cluster.pod("entrypoint", "1.5.0-broken")
    assert pod.played() == 0, pod
    assert serves(cluster.port)["outcome"] == "failed"
    assert ledger(database) == [*V1, "3 failed"]
    assert pod.message("shop") == "", "it has not ended"


def test_a_failed_migration_ends_the_container_under_exit(cluster: Cluster, database: Database) -> None:
    """With the patch that the overlay's page shows."""
    (shown,) = blocks(FOLDER / "entrypoint" / "README.md", "yaml")
    patches = yaml.safe_dump(yaml.safe_load(shown))
    pod = cluster.pod("entrypoint", "1.5.0-broken", patches=patches)
    pod.played()
    assert pod.wait("shop") == 70
    assert REASON in pod.message("shop")
    assert ask(cluster.port)[0] == 0
    assert ledger(database) == [*V1, "3 failed"]


@pytest.mark.parametrize("overlay", ["init-container", "entrypoint"])
def test_a_pod_that_is_ended_in_the_middle_leaves_nothing_half_done(
    cluster: Cluster, database: Database, overlay: str
) -> None:
    with Gate(database) as gate:
        pod = cluster.pod(overlay, "1.5.0-gated")
        gate.arrival(60)
        container = "migrate" if overlay == "init-container" else "shop"
        assert pod.end(container) < 2, "long before any grace period is over"
        assert pod.wait(container) == 143
        assert not database.exists("gate")
    assert ledger(database) == V1
    # The next one takes over.
    after = cluster.pod(overlay, "1.5.0-gated")
    assert after.played() == 0, after
    serves(cluster.port)
    assert ledger(database) == [*V1, "3 completed"]


# --- (c) A Job, and pods that wait ----------------------------------------------------------------------


@pytest.mark.parametrize("overlay", ["job", "job-argocd"])
def test_a_job_migrates_and_the_pods_that_were_there_first_wait(
    cluster: Cluster, database: Database, overlay: str
) -> None:
    waiting = cluster.pod(overlay, OLD)
    port = cluster.port
    until(lambda: waiting.records("wait-for-schema", "wait.waiting"), 60, lambda: f"{waiting!r} to wait")
    assert not waiting.started("shop")
    assert ledger(database) == []

    job = cluster.pod(overlay, OLD, "Job")
    assert job.wait("migrate") == 0, job
    assert ledger(database) == V1
    assert waiting.played() == 0, waiting
    assert serves(port)["outcome"] == "disabled"

    # The same Job run again finds nothing to do.
    again = cluster.pod(overlay, OLD, "Job")
    assert again.wait("migrate") == 0, again
    assert again.records("migrate", "migration.applied") == []


def test_a_failed_job_keeps_the_new_pods_from_starting(cluster: Cluster, database: Database) -> None:
    assert cluster.pod("job", OLD, "Job").wait("migrate") == 0
    old = cluster.pod("job", OLD)
    assert old.played() == 0, old
    port = cluster.port
    serves(port)

    waiting = cluster.pod("job", "1.5.0-broken")
    until(lambda: waiting.records("wait-for-schema", "wait.waiting"), 60, lambda: f"{waiting!r} to wait")
    job = cluster.pod("job", "1.5.0-broken", "Job")
    job.played()
    # One of the codes at which podFailurePolicy gives up.
    assert job.wait("migrate") == 70
    assert REASON in job.message("migrate")
    assert waiting.wait("wait-for-schema") == 70
    assert REASON in waiting.message("wait-for-schema")
    assert not waiting.started("shop")
    assert serves(port)["version"] == 1
    assert ledger(database) == [*V1, "3 failed"]


def test_a_pod_whose_job_was_forgotten_says_so(cluster: Cluster, database: Database) -> None:
    """With a shorter --timeout than the overlay's eleven minutes."""
    patch = [
        {
            "op": "replace",
            "path": "/spec/template/spec/initContainers/0/command",
            "value": ["entrypoint", "wait", "--timeout", "2"],
        }
    ]
    target = {"kind": "Deployment", "name": "shop"}
    patches = yaml.safe_dump({"patches": [{"target": target, "patch": yaml.safe_dump(patch)}]})
    pod = cluster.pod("job", OLD, patches=patches)
    pod.played()
    assert pod.wait("wait-for-schema") == 75
    assert "2 migrations are pending" in pod.message("wait-for-schema")
    assert not pod.started("shop")
    assert ledger(database) == []
