"""Debian's podman, which plays pods: first the init containers, one after the other, and only then the application.

It keeps everything in a temporary folder, and touches neither the machine's images nor its network: pods have the
host's.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import resource
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from images.kit.engine import EngineError, client, remove
from kit.processes import Run, alive, until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from images.kit.engine import Engine
    from kit.processes import Record

    Manifest = dict[str, Any]

PROGRAMS = ("podman", "conmon", "runc")
# A pod's first container, which only holds the others together, is made from this.
PAUSE = "localhost/pause:1"
_DIRECTORIES = "pgp-"
_LONG = 600
_LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
_ENOUGH = 4096


class Podman:
    """A separate storage with its pods; a context manager that leaves nothing behind."""

    def __init__(self) -> None:
        """Create the folder. Nothing runs yet: podman has no daemon."""
        sweep()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{_DIRECTORIES}{os.getpid()}-", dir="/tmp"))
        limits = {name: min(*resource.getrlimit(number), _ENOUGH) for name, number in _LIMITS.items()}
        (self.directory / "containers.conf").write_text(
            # podman asks for more than a machine may allow, and confuses the soft and hard limits if they differ.
            f"[containers]\ndefault_ulimits = {[f'{name}={limit}:{limit}' for name, limit in limits.items()]}\n"
            f'[engine]\ninfra_image = "{PAUSE}"\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n'
            # Keep locks in this folder. By default, all of the machine's storages share them, in shared memory.
            'events_logger = "none"\nlock_type = "file"\n'
        )
        self._runs: list[Run] = []

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all pods and remove the folder."""
        try:
            for run in self._runs:
                run.close()
        finally:
            _remove(self.directory)

    def run(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run podman to its end; a failure raises EngineError with its output, unless `check` is false."""
        done = _podman(self.directory, *arguments)
        if check and done.returncode:
            raise EngineError(f"exit {done.returncode}: {' '.join(done.args)}\n{done.stdout}{done.stderr}")
        return done

    def load(self, engine: Engine, *images: str) -> None:
        """Copy images from a Docker engine, under the same names."""
        archive = self.directory / "images.tar"
        subprocess.run([client(), "save", "--output", archive, *images], env=engine.environment, check=True)
        self.run("load", "--quiet", "--input", archive)
        archive.unlink()

    def make_pause(self, base: str) -> None:
        """Create the image of the pods' first container from one that has Python."""
        # As pid 1 it needs a handler, or it would ignore SIGTERM.
        wait = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()"
        context = self.directory / "pause"
        context.mkdir()
        (context / "Containerfile").write_text(
            f"FROM {base}\nENTRYPOINT []\nUSER 0\nCMD {json.dumps(['python3', '-c', wait])}\n"
        )
        self.run("build", "--quiet", "--network=host", "--tag", PAUSE, context)

    def remove(self, pods: Sequence[Pod]) -> None:
        """Remove pods, running or not."""
        for pod in pods:
            # A podman that is still waiting for an init container has the pod locked.
            pod.close()
        if pods:
            self.run("pod", "rm", "--force", "--ignore", "--time=0", *(pod.name for pod in pods))

    def play(self, pod: Manifest) -> Pod:
        """Start a pod without waiting: podman itself waits until its init containers have ended."""
        name = pod["metadata"]["name"]
        file = self.directory / f"{name}.yaml"
        file.write_text(yaml.safe_dump(pod))
        argv = _argv(self.directory, "kube", "play", "--network=host", file)
        run = Run(argv, env=_environment(self.directory), directory=self.directory)
        self._runs.append(run)
        return Pod(self, pod, run)


def _environment(directory: Path) -> dict[str, str]:
    """Return the variables that point podman to the configuration in a folder, and to no other."""
    return {
        "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
        "HOME": str(directory),
        "CONTAINERS_CONF": str(directory / "containers.conf"),
    }


def _argv(directory: Path, *arguments: str | Path) -> list[str]:
    """Return the command line of podman with its storage in a folder."""
    options = [f"--{name}={directory / name}" for name in ("root", "runroot", "tmpdir")]
    return ["podman", "--storage-driver=overlay", *options, *map(str, arguments)]


def _podman(directory: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _argv(directory, *arguments),
        env=_environment(directory),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_LONG,
        check=False,
    )


def sweep() -> None:
    """Clean up after killed runs: remove the folders of processes that are gone."""
    for directory in Path("/tmp").glob(f"{_DIRECTORIES}[0-9]*-*"):
        if not alive(int(directory.name.split("-")[1])):
            _remove(directory)


def _remove(directory: Path) -> None:
    """End the pods whose storage is in a folder, and remove it."""
    try:
        _podman(directory, "pod", "rm", "--force", "--all", "--time=0")
    finally:
        remove(directory)


def pod_of(
    owner: Manifest, name: str, files: Path, secrets: Mapping[str, Mapping[str, str]], mounted: Path | None = None
) -> Manifest:
    """Make one pod as a Deployment or a Job would, for podman on this machine; return it.

    Its template is used unchanged, except for what a kubelet would also do, or podman cannot:

    - Restarts are left to the test (`restartPolicy: Never`). So are hooks, and probes, for which podman wants systemd.
    - The network is the host's, without ports to publish.
    - Secrets, which podman 4.3 stores as base64, become variables, or files with the requested mode and group.
    - Each container gets a file at /dev/termination-log, which podman does not create. `Pod.message` reads it.
    - An image volume, which podman 4.3 does not know, becomes the folder `mounted`, which has what is in the image.

    `files` is an empty folder for all that; `secrets` has the keys and values by the secret's name.
    """
    spec = copy.deepcopy(owner["spec"]["template"]["spec"])
    group = spec["securityContext"]["fsGroup"]
    for volume in spec.setdefault("volumes", []):
        if volume.pop("image", None):
            volume["hostPath"] = {"path": str(mounted), "type": "Directory"}
        if secret := volume.pop("secret", None):
            folder = files / volume["name"]
            folder.mkdir()
            folder.chmod(0o755)
            for key, value in secrets[secret["secretName"]].items():
                (folder / key).write_text(value)
                (folder / key).chmod(secret["defaultMode"])
                os.chown(folder / key, 0, group)
            volume["hostPath"] = {"path": str(folder), "type": "Directory"}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        message = files / f"message-{container['name']}"
        message.touch()
        message.chmod(0o666)  # as with a kubelet
        spec["volumes"].append({"name": message.name, "hostPath": {"path": str(message), "type": "File"}})
        container.setdefault("volumeMounts", []).append({"name": message.name, "mountPath": "/dev/termination-log"})
        for entry in container.get("env", []):
            if source := entry.pop("valueFrom", None):
                entry["value"] = secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
        for field in ("startupProbe", "livenessProbe", "readinessProbe", "ports", "lifecycle"):
            container.pop(field, None)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": owner["spec"]["template"]["metadata"]["labels"],
            # Otherwise podman removes an init container, with its log, as soon as it has ended.
            "annotations": {"io.podman.annotations.init.container.type": "always"},
        },
        "spec": {**spec, "restartPolicy": "Never", "hostNetwork": True},
    }


class Pod:
    """A pod that was played."""

    def __init__(self, podman: Podman, manifest: Manifest, run: Run) -> None:
        """`run` is the podman that plays it."""
        self._podman = podman
        self.manifest = manifest
        self.name: str = manifest["metadata"]["name"]
        self._run = run

    def __repr__(self) -> str:
        """Return what a failed assertion should show."""
        names = [container["name"] for container in self._containers]
        logs = "\n".join(f"--- {name}\n{self.log(name)}" for name in names)
        return f"<Pod {self.name}>\n{self._run.stdout}{self._run.stderr}\n{logs}"

    @property
    def _containers(self) -> Sequence[Manifest]:
        spec = self.manifest["spec"]
        return [*spec.get("initContainers", []), *spec["containers"]]

    def close(self) -> None:
        """End the podman that plays it, if it is still running."""
        self._run.close()

    def played(self) -> int:
        """Wait until podman has done what it can, and return its exit code: 0 if all containers were started."""
        return self._run.wait(120)

    def state(self, container: str) -> Mapping[str, Any]:
        """Return a container's state as podman reports it: Status, Pid, ExitCode, …; empty before it is created."""
        done = self._podman.run("inspect", "--type=container", f"{self.name}-{container}", check=False)
        if done.returncode:
            return {"Status": "", "Pid": 0}
        state: Mapping[str, Any] = json.loads(done.stdout)[0]["State"]
        return state

    def started(self, container: str) -> bool:
        """Return whether a container has ever been started."""
        return self.state(container)["Status"] not in ("", "created", "configured")

    def wait(self, container: str) -> int:
        """Wait until a container has ended and return its exit code."""
        ended = lambda: self.state(container)["Status"] in ("exited", "stopped")  # noqa: E731 - next to its use
        until(ended, 120, lambda: f"the end of {container} in {self!r}")
        return int(self.state(container)["ExitCode"])

    def pid(self, container: str) -> int:
        """Return the pid, on the machine, of a container's pid 1."""
        return int(self.state(container)["Pid"])

    def exec(self, container: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container, as a hook does."""
        return self._podman.run("exec", f"{self.name}-{container}", *command, check=False)

    def log(self, container: str) -> str:
        """Return what a container has written so far."""
        done = self._podman.run("logs", f"{self.name}-{container}", check=False)
        return done.stdout + done.stderr

    def records(self, container: str, event: str | None = None) -> list[Record]:
        """Return the records of our JSON log, all or those of one event."""
        found = []
        for line in self.log(container).splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                record = json.loads(line)
                if isinstance(record, dict) and (event is None or record.get("event") == event):
                    found.append(record)
        return found

    def message(self, container: str) -> str:
        """Return the termination message that Kubernetes would show."""
        volumes = {volume["name"]: volume for volume in self.manifest["spec"]["volumes"]}
        return Path(volumes[f"message-{container}"]["hostPath"]["path"]).read_text()

    def end(self, container: str) -> float:
        """End a container as a kubelet does, with SIGTERM; return after how many seconds its process was gone.

        Not with `podman pod stop`, which waits for a podman that is waiting for an init container.
        """
        pid = self.pid(container)
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        until(lambda: not alive(pid), 60, lambda: f"the end of {container} in {self!r}")
        return time.monotonic() - began
