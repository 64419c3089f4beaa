"""Base images without a registry: Debian, built by mmdebstrap in the shape of the official images.

Each is an archive in ~/.cache/pg-entrypoint-tests, created once and kept between runs. Delete that folder to build new
ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from images.kit.engine import Engine

CACHE = Path.home() / ".cache" / "pg-entrypoint-tests"
_PATIENCE = 900

# As in the official slim images, no documentation and no translations. A mirror may be a snapshot, where the Release
# file of a moving suite has expired.
_SLIM = (
    '--aptopt=Acquire::Check-Valid-Until "false"',
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
)
# As in the official python images, `python` is in the PATH, and the standard library has no bytecode.
_LIKE_PYTHON = (
    "--customize-hook=ln -s /usr/bin/python3 $1/usr/local/bin/python3; ln -s python3 $1/usr/local/bin/python",
    '--customize-hook=find "$1"/usr/lib/python3* -name __pycache__ -prune -exec rm -rf {} +',
)


@dataclass(frozen=True)
class Base:
    """How to build a base image."""

    name: str
    """The image's name in the engine."""
    suite: str
    packages: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    """Dockerfile instructions that configure the image."""
    variant: str = "minbase"
    """For mmdebstrap. `extract` unpacks `packages` and nothing else."""
    stands_for: tuple[str, str, str] | None = None
    """A package, the version prefix it must have, and what to change once the moving suite has a newer one."""

    @property
    def archive(self) -> Path:
        """Return its archive's path, which depends on the recipe."""
        variant = () if self.variant == "minbase" else (self.variant,)
        recipe = repr((self.suite, self.packages, self.hooks, _SLIM, *variant))
        digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
        return CACHE / f"{self.name.replace('/', '-').replace(':', '-')}-{digest}.tar"


# The first suite that has the Dockerfile's default Python.
PYTHON = Base(
    "python:3.14-slim",
    "forky",
    ("python3", "python3-venv", "ca-certificates"),
    _LIKE_PYTHON,
    stands_for=(
        "python3",
        "3.14.",
        "PYTHON in tests/images/kit/bases.py, or BASE in the Dockerfile with it",
    ),
)
# That suite's version of PostgreSQL's client programs.
CLIENT_OF_PYTHON = "18"
# Based on what the official python images are based on, with that suite's own Python.
PYTHON_OF_DEBIAN = Base(
    "pg-entrypoint-tests/python:trixie", "trixie", ("python3", "python3-venv", "ca-certificates"), _LIKE_PYTHON
)
# Many applications' images are based on this.
PLAIN = Base("debian:bookworm-slim", "bookworm", ("ca-certificates",))
# An application's image without Python, and the oldest and newest Debian that the mirror has.
NODE = Base("node:20-slim", "trixie", ("nodejs",))
OLDEST = Base("debian:bullseye-slim", "bullseye")
# Like Alpine: musl and busybox, and nothing from glibc, dpkg or bash.
ALPINE = Base(
    "alpine:3",
    "trixie",
    ("musl", "busybox-static"),
    (
        '--extract-hook=ln -s usr/bin "$1/bin"; ln -s usr/lib "$1/lib"; mkdir "$1/root"',
        '--extract-hook=printf "root:x:0:0::/root:/bin/sh\\n" >"$1/etc/passwd"',
        '--extract-hook=chroot "$1" /bin/busybox --install -s /bin',
    ),
    variant="extract",
)
NEWEST = Base("debian:forky-slim", "forky")
POSTGRES = Base("pg-entrypoint-tests/postgres-base", "trixie", ("postgresql-17", "locales"))


def provide(engine: Engine, base: Base) -> str:
    """Make sure that the engine has the image, and return its name. Raises BaseImageError."""
    if not engine.has(base.name):
        engine.import_image(_archive(base), base.name, base.changes)
        _look_inside(engine, base)
    return base.name


def _look_inside(engine: Engine, base: Base) -> None:
    """Check that the image has what it stands for.

    A cached archive may hide for long that its suite no longer has it.
    """
    if base.stands_for is None:
        return
    package, begin, remedy = base.stands_for
    query = ("dpkg-query", "--show", "--showformat=${Version}", package)
    version = engine.run("run", "--rm", "--network=none", base.name, *query).stdout
    if not version.startswith(begin):
        engine.run("image", "rm", base.name)
        raise BaseImageError(
            f"{base.name} was made of Debian's {base.suite}, which has {package} {version} and not {begin}*.\n"
            f"  Fix: Change {remedy}."
        )


class BaseImageError(Exception):
    """A base image could not be built."""


def _archive(base: Base) -> Path:
    """Return the archive of the root file system; build it if necessary. One process at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.archive.exists():
            part = base.archive.with_suffix(f".{os.getpid()}.part")
            include = [f"--include={','.join(base.packages)}"] if base.packages else []
            command = ["mmdebstrap", f"--variant={base.variant}", "--format=tar", *_SLIM, *include, *base.hooks]
            try:
                done = subprocess.run(
                    [*command, base.suite, part],  # From the suite's default mirror.
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=_PATIENCE,
                    check=False,
                )
                if done.returncode:
                    # If a package cannot be located, the suite no longer has it, and `base` must be changed.
                    raise BaseImageError(f"{base}: {' '.join(command)} {base.suite}: {done.stderr[-3000:]}")
                part.replace(base.archive)
            finally:
                part.unlink(missing_ok=True)
    return base.archive
