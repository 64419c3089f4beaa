"""Install the peers, each with the client of its package registry."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from typing import TYPE_CHECKING

from benchmarks.peers import RECORD

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# `pg` is node-pg-migrate's driver. Liquibase's package contains its jars, including PostgreSQL's driver.
NPM = {
    "dbmate": "2.36.0",
    "node-pg-migrate": "9.0.0",
    "pg": "8.23.1",
    "liquibase": "4.28.1",
    "prisma": "6.19.3",
    "@prisma/adapter-pg": "6.19.3",
}
PIP = {
    "yoyo-migrations": "9.0.0",
    "alembic": "1.20.1",
    "SQLAlchemy": "2.1.9",
    "Django": "5.2.19",
    "psycopg[binary]": "3.3.9",
}
TERN = "2.3.4"
# What the tests of other tools install as well: where they record each version.
SHARED = {"go": {"goose": "/cmd/goose@v", "golang-migrate": "/cmd/migrate@v"}, "flyway": {"flyway": "flyway-core:"}}
SQLX = "0.9.0"
# The version is Debian's. Without the second package, sqitch cannot connect to PostgreSQL.
APT = ("sqitch", "libdbd-pg-perl")


class InstallationError(Exception):
    """A peer could not be installed; the message says which and why."""


def install(home: Path) -> list[str]:
    """Install what is possible into `home`; return what failed, and why."""
    home.mkdir(parents=True, exist_ok=True)
    versions: dict[str, str] = {}
    problems = []
    for step in (_npm, _pip, _sqitch, _shared, _tern, _sqlx):
        try:
            versions |= step(home)
        except InstallationError as error:
            problems.append(str(error))
    (home / RECORD).write_text(json.dumps(versions, indent=1) + "\n")
    return problems


def _npm(home: Path) -> dict[str, str]:
    npm = shutil.which("npm")
    if npm is None:
        raise InstallationError(f"no `npm` here, so without {', '.join(NPM)}")
    packages = [f"{name}@{version}" for name, version in NPM.items()]
    # None of them needs an installation script.
    _run([npm, "install", "--prefix", home, "--ignore-scripts", "--no-audit", "--no-fund", *packages])
    return dict(NPM)


def _pip(home: Path) -> dict[str, str]:
    place = home / "venv"
    # Without pip and setuptools, which add a file that every start of Python reads.
    venv.EnvBuilder(symlinks=True, with_pip=False, clear=True).create(place)
    packages = [f"{name}=={version}" for name, version in PIP.items()]
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        place / "bin" / "python",
        "--disable-pip-version-check",
    ]
    _run([*pip, "install", "--quiet", *packages])
    return dict(PIP)


def _sqitch(home: Path) -> dict[str, str]:
    program = shutil.which("sqitch")
    if program is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        _run(["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *APT], environment)
        program = shutil.which("sqitch")
    if program is None:
        raise InstallationError(f"no `sqitch` here; on Debian, as root: apt-get install {' '.join(APT)}")
    link = home / "bin" / "sqitch"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(program)
    # It prints: sqitch (App::Sqitch) v1.3.1.
    return {"sqitch": _run([program, "--version"]).split()[-1].removeprefix("v")}


def _shared(home: Path) -> dict[str, str]:
    # Into a separate folder, where it records what need not be installed again.
    place = home / "tools"
    for part in SHARED:
        _run([sys.executable, "-m", "tests.tools.install", "--home", place, "--only", part])
    record = (place / RECORD).read_text()
    marks = {package: mark for part in SHARED.values() for package, mark in part.items()}
    return {package: re.split(r"[^\d.]", record.partition(mark)[2])[0] for package, mark in marks.items()}


def _tern(home: Path) -> dict[str, str]:
    go = shutil.which("go")
    if go is None:
        raise InstallationError("no `go` here, so without tern")
    environment = {**os.environ, "GOBIN": str(home / "go"), "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    _run([go, "install", f"github.com/jackc/tern/v2@v{TERN}"], environment)
    return {"tern": TERN}


def _sqlx(home: Path) -> dict[str, str]:
    cargo = shutil.which("cargo")
    if cargo is None:
        raise InstallationError("no `cargo` here, so without sqlx-cli")
    features = ["--no-default-features", "--features", "postgres,rustls"]
    _run([cargo, "install", "--quiet", "--locked", "--root", home / "cargo", *features, f"sqlx-cli@{SQLX}"])
    return {"sqlx-cli": SQLX}


def _run(argv: Sequence[str | Path], env: dict[str, str] | None = None) -> str:
    """Run a program, which must succeed; return what it printed."""
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        command = shlex.join(os.fspath(word) for word in argv)
        raise InstallationError(f"{command} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
