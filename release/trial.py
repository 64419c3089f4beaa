"""The wheel in an empty environment: whether it installs there, and migrates a real database.

With the lowest versions that pyproject.toml allows, and with the highest that there are.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from demo.postgres import HOST, Server, free_port
from release.problems import ReleaseError, run, uv

if TYPE_CHECKING:
    from collections.abc import Mapping

    Resolution = Literal["lowest-direct", "highest"]

# On a machine with other work, the service takes its time to begin.
_PATIENCE = 120.0
_KEPT = ("PATH", "HOME", "TMPDIR", "LANG")


@dataclass(frozen=True)
class Trial:
    """An environment that has the wheel, its extra `serve`, and nothing else."""

    folder: Path
    name: str
    installed: dict[str, str]
    """The version of each package."""

    @property
    def program(self) -> Path:
        """Return the program, as the wheel's script."""
        return self.folder / "bin" / "entrypoint"

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Return what the program prints, run in a folder that has no checkout. Raises ReleaseError."""
        return run([self.program, *arguments], cwd=self.folder, env=_environment() | dict(env or {}))


def install(wheel: Path, project: Path, python: Path, resolution: Resolution, folder: Path) -> Trial:
    """Install the wheel into a new environment in `folder`. Raises ReleaseError."""
    inside = environment(project, python, resolution, folder, f"{wheel}[serve]")
    uv("pip", "check", "--python", inside)
    listed = json.loads(uv("pip", "list", "--python", inside, "--format", "json"))
    version = run([inside, "-IB", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"]).strip()
    name = f"Python {version}, {resolution.partition('-')[0]} versions"
    return Trial(folder, name, {one["name"]: one["version"] for one in listed})


def environment(project: Path, python: Path, resolution: Resolution, folder: Path, *wanted: str) -> Path:
    """Make a new environment in `folder`, with what is `wanted`; return its Python. Raises ReleaseError.

    `wanted` is what pip installs. The versions are those that `project`, a pyproject.toml, leads to: `lowest-direct` is
    about what a project itself names; for a wheel that is installed, nothing would be that.
    """
    uv("venv", "--clear", "--python", python, folder)
    inside, pins = folder / "bin" / "python", folder / "pins.txt"
    options = ("--extra", "serve", "--resolution", resolution, "--python", inside, "--output-file", pins)
    uv("pip", "compile", project, *options)
    uv("pip", "install", "--python", inside, "--constraint", pins, *wanted)
    return inside


def check(trial: Trial, server: Server, migrations: Path, version: str) -> None:
    """Let it do what it is for, on an empty database. Raises ReleaseError."""
    _is_ours(trial, version)
    database = f"trial_{trial.folder.name.replace('-', '_').replace('.', '_')}"
    server.create_database(database)
    env = {"DATABASE_URL": server.url(database), "MIGRATIONS_DIR": str(migrations), "LOG_FORMAT": "json"}
    number = len(list(migrations.glob("[0-9]*.sql")))
    tell = "import os; print(*(os.environ['ENTRYPOINT_' + name] for name in ('OUTCOME', 'SCHEMA_VERSION')))"
    python = str(trial.folder / "bin" / "python")
    for outcome in ("migrated", "up_to_date"):
        output = trial.run("run", "--", python, "-c", tell, env=env)
        if output.splitlines()[-1] != f"{outcome} {number}":
            raise ReleaseError(f"{trial.name}: expected {outcome} {number}, and got:\n{output}")
    status = json.loads(trial.run("status", "--json", env=env))
    if status["pendingMigrations"] or status["currentVersion"] != number:
        raise ReleaseError(f"{trial.name}: `status` says {status}")
    if _version_by_http(trial, env) != number:
        raise ReleaseError(f"{trial.name}: `serve` does not say that the schema is at version {number}")


def _is_ours(trial: Trial, version: str) -> None:
    if f"entrypoint {version}" not in trial.run("--version"):
        raise ReleaseError(f"{trial.name}: `entrypoint --version` does not say {version}")
    if "run" not in trial.run("--help"):
        raise ReleaseError(f"{trial.name}: `entrypoint --help` does not show the commands")
    python = trial.folder / "bin" / "python"
    # Each module: one that only a rare path imports could need a newer version of a package, too.
    place = run([python, "-IB", "-c", _IMPORT_ALL], cwd=trial.folder, env=_environment()).strip()
    if not Path(place).is_relative_to(trial.folder):
        raise ReleaseError(f"{trial.name}: what was imported is {place}, not the wheel's")


_IMPORT_ALL = """
import importlib, pkgutil, entrypoint
for module in pkgutil.walk_packages(entrypoint.__path__, "entrypoint."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(entrypoint.__file__)
"""


def _environment() -> dict[str, str]:
    """Return what the machine needs, without what a developer or CI has set for other work."""
    return {name: value for name in _KEPT if (value := os.environ.get(name))}


def _version_by_http(trial: Trial, env: Mapping[str, str]) -> int:
    """Return the schema's version as the status service tells it."""
    port = free_port()
    env = _environment() | dict(env) | {"STATUS_PORT": str(port), "STATUS_TOKEN": "trial-" * 6}
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen([trial.program, "serve"], env=env, cwd=trial.folder, stderr=log) as service,
    ):
        try:
            return _ask(service, port, {"Authorization": f"Bearer {env['STATUS_TOKEN']}"})
        except ReleaseError as error:
            log.seek(0)
            raise ReleaseError(f"{error}; its log:\n{log.read()[-2000:]}") from None
        finally:
            service.terminate()


def _ask(service: subprocess.Popen[bytes], port: int, headers: Mapping[str, str]) -> int:
    deadline = time.monotonic() + _PATIENCE
    while True:
        connection = HTTPConnection(HOST, port, timeout=_PATIENCE)
        try:
            connection.request("GET", "/api/admin/migrations/status", headers=dict(headers))
            answer = connection.getresponse().read()
        except ConnectionRefusedError:
            if service.poll() is not None or time.monotonic() > deadline:
                raise ReleaseError("`entrypoint serve` does not answer") from None
            time.sleep(0.05)
        else:
            version: int = json.loads(answer)["data"]["currentVersion"]
            return version
        finally:
            connection.close()
