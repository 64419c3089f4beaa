"""Container engines of our own: a dockerd that we start, and that leaves no trace.

    with Engine() as engine:
        engine.build(ROOT, tag="pg-entrypoint", target="full")
        engine.run("run", "--rm", "pg-entrypoint", "true")

An engine keeps everything in a temporary directory: images, sockets, its containerd. It does not touch the machine's
own engine, its configuration or, without a namespace, its network.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from images.kit.container import Container
from images.kit.namespace import PATH
from kit.processes import PROC, StillWaitingError, alive, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from images.kit.namespace import Namespace

# On the machine's own network, leave all interfaces, rules and settings alone. So containers have the host's network or
# none.
_HANDS_OFF = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
# Short, since a socket's path is limited to 108 bytes, and containerd's sockets are several levels down.
_DIRECTORIES = "pge-"
# Where programs look for the certificates that this machine trusts.
_CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
_DAEMONS = (b"dockerd", b"containerd", b"containerd-shim-runc-v2", b"runc", b"docker-proxy", b"podman", b"conmon")
_START_TIMEOUT = 60
_LONG = 900


class CannotStartError(Exception):
    """An engine cannot start on this machine; the message ends with its log."""


class EngineError(AssertionError):
    """A command of the engine failed; an AssertionError, so that pytest counts it as a failed test."""


def missing_programs(*more: str) -> list[str]:
    """Return those programs that an engine needs, and those of `more`, that are not installed."""
    wanted = ("dockerd", "containerd", "runc", "setpriv", *more)
    return [name for name in wanted if shutil.which(name, path=PATH) is None]


def client() -> str:
    """Return the client that belongs to the daemon.

    The first `docker` in the PATH may be another one: a newer one builds only with its buildx plug-in.
    """
    daemon = shutil.which("dockerd", path=PATH) or "/usr/sbin/dockerd"
    beside = Path(daemon).parents[1] / "bin" / "docker"
    return str(beside) if beside.exists() else "docker"


class Engine:
    """A dockerd on the machine's network, or in a `namespace` with its default flags. A context manager."""

    def __init__(self, namespace: Namespace | None = None) -> None:
        """Start it and wait until it answers. Raises CannotStartError."""
        sweep()
        self.namespace = namespace
        # Not under TMPDIR, which may be long.
        self.directory = Path(tempfile.mkdtemp(prefix=f"{_DIRECTORIES}{os.getpid()}-", dir="/tmp"))
        self.host = f"unix://{self.directory}/sock"
        self._log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return itself: it is already started."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it, with all its containers."""
        self.close()

    # Commands

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that point docker and docker-compose to this engine, and to no other configuration."""
        return {
            "PATH": PATH,
            "HOME": str(self.directory),
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(self.directory / "client"),
            "DOCKER_BUILDKIT": "1",
            "COMPOSE_DOCKER_CLI_BUILD": "1",
        }

    def run(
        self,
        *arguments: str | Path,
        check: bool = True,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002 - subprocess's name for it
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker` with these arguments and return how it ended, with its output as text.

        A failure raises EngineError with the output, unless `check` is false.
        """
        return self.command(client(), *arguments, check=check, timeout=timeout, env=env, input=input)

    def command(
        self,
        *argv: str | Path,
        check: bool = True,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        input: str | None = None,  # noqa: A002 - as above
    ) -> subprocess.CompletedProcess[str]:
        """Run any program next to this engine: in its namespace, with `env` and the variables that point to it."""
        done = subprocess.run(
            self.inside(*argv),
            env={**self.environment, **(env or {})},
            cwd=cwd,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise EngineError(_report(done))
        return done

    def inside(self, *argv: str | Path) -> list[str]:
        """Return the command that runs `argv` on this engine's network, where its published ports are on loopback."""
        return self.namespace.inside(*argv) if self.namespace else [str(word) for word in argv]

    # Images

    def build(
        self,
        context: Path,
        *,
        tag: str,
        dockerfile: Path | None = None,
        target: str | None = None,
        arguments: Mapping[str, str] | None = None,
        secrets: Mapping[str, Path] | None = None,
        options: Sequence[str] = (),
        timeout: float = _LONG,
    ) -> str:
        """Build an image with BuildKit on the machine's network, and return its name, `tag`.

        `arguments` are the Dockerfile's ARGs. `secrets` are files by id; unless one is called `ca`, that secret has the
        certificates that this machine trusts.
        """
        command: list[str | Path] = ["build", "--progress=plain", "--network=host", "--tag", tag]
        if dockerfile is not None:
            command += ["--file", dockerfile]
        if target is not None:
            command += ["--target", target]
        for name, value in (arguments or {}).items():
            command += ["--build-arg", f"{name}={value}"]
        certificates = machine_certificates()
        for name, path in {**({"ca": certificates} if certificates else {}), **(secrets or {})}.items():
            command += ["--secret", f"id={name},src={path}"]
        self.run(*command, *options, context, timeout=timeout)
        return tag

    def has(self, image: str) -> bool:
        """Return whether there is such an image."""
        return self.run("image", "inspect", image, check=False).returncode == 0

    def import_image(self, archive: Path, name: str, changes: Sequence[str] = ()) -> str:
        """Create an image of one layer from an archive of a root file system; `changes` are Dockerfile instructions."""
        options = [word for change in changes for word in ("--change", change)]
        self.run("import", *options, archive, name, timeout=_LONG)
        return name

    def copy_from(self, other: Engine, *images: str) -> None:
        """Copy images from another engine."""
        read, write = os.pipe()
        try:
            saving = subprocess.Popen([client(), "save", *images], env=other.environment, stdout=write)
            os.close(write)
            write = -1
            loading = subprocess.run(
                [client(), "load"], env=self.environment, stdin=read, capture_output=True, timeout=_LONG, check=False
            )
            saved = saving.wait(60)
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)
        if saved or loading.returncode:
            raise EngineError(f"docker save {' '.join(images)} | docker load: {loading.stderr.decode()}")

    def files(self, image: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        """Iterate over everything in an image's root file system, with the content of regular files."""
        container = self.run("create", "--network=none", image, "nothing").stdout.strip()
        try:
            export = subprocess.Popen([client(), "export", container], env=self.environment, stdout=subprocess.PIPE)
            with export, tarfile.open(fileobj=export.stdout, mode="r|") as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.isreg() else None
                    yield member, file.read() if file else b""
        finally:
            self.run("rm", container)

    def inspect(self, image: str, template: str) -> str:
        """Return the result of `docker image inspect --format` for a Go `template`."""
        return self.run("image", "inspect", "--format", template, image).stdout.strip()

    # Containers

    def start(self, image: str, *command: str, options: Sequence[str | Path] = ()) -> Container:
        """Start a container in the background and return it; a context manager that removes it.

        `options` are those of `docker run`. Without `--network`, it has the host's network if the engine has no other.
        """
        network = []
        if self.namespace is None and not any(str(option).startswith("--network") for option in options):
            network = ["--network=host"]
        started = self.run("run", "--detach", *network, *options, image, *command)
        return Container(self, started.stdout.strip())

    # Start and end

    def _start(self) -> None:
        configuration = self.directory / "daemon.json"
        configuration.write_text("{}\n")  # instead of the machine's
        daemon = [
            "dockerd",
            f"--host={self.host}",
            f"--data-root={self.directory}/data",
            f"--exec-root={self.directory}/exec",
            f"--pidfile={self.directory}/pid",
            f"--config-file={configuration}",
            *(() if self.namespace else _HANDS_OFF),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                # The daemon ends with us, even if we are killed.
                self.inside("setpriv", "--pdeathsig=TERM", *daemon),
                env=self.environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        process = self._process

        def answers() -> bool:
            if process.poll() is not None:
                raise CannotStartError(f"dockerd ended with {process.returncode}:\n{self.log()}")
            return self.run("version", check=False).returncode == 0

        until(answers, _START_TIMEOUT, lambda: f"an answer of dockerd:\n{self.log()}")

    def log(self) -> str:
        """Return the end of the daemon's log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:]) if self._log.exists() else ""

    def close(self) -> None:
        """End the daemon and all its containers, and remove the directory. May be called twice."""
        try:
            if self._process is not None and self._process.poll() is None:
                self._end(self._process)
        finally:
            remove(self.directory)

    def _end(self, daemon: subprocess.Popen[bytes]) -> None:
        try:
            containers = self.run("ps", "--all", "--quiet", check=False).stdout.split()
            if containers:
                self.run("rm", "--force", "--volumes", *containers, check=False)
        finally:
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait(10)


def machine_certificates() -> Path | None:
    """Return the certificate file that this machine's variables name, for a build; None if they name none."""
    named = (os.environ.get(name) for name in _CERTIFICATES)
    return next((Path(name) for name in named if name and Path(name).is_file()), None)


def sweep() -> None:
    """Clean up after killed runs: remove the directories of processes that are gone."""
    for directory in Path("/tmp").glob(f"{_DIRECTORIES}[0-9]*-*"):
        owner = re.match(rf"{_DIRECTORIES}(\d+)-", directory.name)
        if owner and not alive(int(owner[1])):
            remove(directory)


def remove(directory: Path) -> None:
    """Stop all that runs for the engine in `directory`, containers included; unmount and remove the directory."""
    for _ in range(10):
        ours = processes_of(directory)
        if not ours:
            break
        for pid in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(StillWaitingError):
            until(lambda: not any(alive(pid) for pid in ours), 5)  # noqa: B023
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((one for one in mounts if one.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)
    shutil.rmtree(directory, ignore_errors=True)


def processes_of(directory: Path) -> list[int]:
    """Return the pids of daemons and shims, by the engine's directory in their command lines, and of containers."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if _works_for(entry, f"{directory}/".encode()):
                    found.append(int(entry.name))
    return found


def _works_for(process: Path, directory: bytes) -> bool:
    words = (process / "cmdline").read_bytes().split(b"\0")
    if words[0].rpartition(b"/")[2] in _DAEMONS and any(directory in word for word in words):
        return True
    # A container outlives a killed shim. Its root is a mount of layers in the directory.
    mounts = (line.split() for line in (process / "mountinfo").read_bytes().splitlines())
    return any(mount[4] == b"/" and any(directory in word for word in mount) for mount in mounts)


def _report(done: subprocess.CompletedProcess[str]) -> str:
    return f"exit {done.returncode}: {' '.join(done.args)}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
