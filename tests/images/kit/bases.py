"""Base images without a registry: Debian, made by mmdebstrap, as the official images are made of it.

Each is an archive in ~/.cache/pg-entrypoint-tests, made once and kept between runs; remove the folder for new ones.
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

# As in the official slim images: no documentation, no translations. And a mirror may be a snapshot, whose file of a
# moving suite has expired.
_SLIM = (
    '--aptopt=Acquire::Check-Valid-Until "false"',
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
)
# As in the official python images: `python` is in the PATH, and there is no bytecode of the standard library.
_LIKE_PYTHON = (
    "--customize-hook=ln -s /usr/bin/python3 $1/usr/local/bin/python3; ln -s python3 $1/usr/local/bin/python",
    '--customize-hook=find "$1"/usr/lib/python3* -name __pycache__ -prune -exec rm -rf {} +',
)


@dataclass(frozen=True)
class Base:
    """How to make a base image."""

    name: str
    """What the image is called in the engine."""
    suite: str
    packages: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    """Instructions of a Dockerfile, for the image's configuration."""
    variant: str = "minbase"
    """mmdebstrap's: with `extract`, what `packages` names, unpacked, and nothing else."""
    stands_for: tuple[str, str, str] | None = None
    """What a suite that moves will change one day: a package, how its version begins, and what to change then."""

    @property
    def archive(self) -> Path:
        """Return where its archive is; another recipe has another."""
        variant = () if self.variant == "minbase" else (self.variant,)
        recipe = repr((self.suite, self.packages, self.hooks, _SLIM, *variant))
        digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
        return CACHE / f"{self.name.replace('/', '-').replace(':', '-')}-{digest}.tar"


# The first suite with the Python of the Dockerfile's default.
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
# The version of PostgreSQL's client programs in that suite.
CLIENT_OF_PYTHON = "18"
# What the official python images are made of, with the Python that it has itself.
PYTHON_OF_DEBIAN = Base(
    "pg-entrypoint-tests/python:trixie", "trixie", ("python3", "python3-venv", "ca-certificates"), _LIKE_PYTHON
)
# What many applications' images are made of.
PLAIN = Base("debian:bookworm-slim", "bookworm", ("ca-certificates",))
# An application's image without Python, and the oldest and newest Debian that the mirror has.
NODE = Base("node:20-slim", "trixie", ("nodejs",))
OLDEST = Base("debian:bullseye-slim", "bullseye")
# Like Alpine: musl and busybox, and nothing of glibc, dpkg or bash.
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
    """See that the engine has the image, and return its name. Raises BaseImageError."""
    if not engine.has(base.name):
        engine.import_image(_archive(base), base.name, base.changes)
        _look_inside(engine, base)
    return base.name


def _look_inside(engine: Engine, base: Base) -> None:
    """See that the image has what it stands for. An archive in the cache may hide for long that its suite has not."""
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
    """A base image could not be made."""


def _archive(base: Base) -> Path:
    """Return the archive of the root file system; make it if it is not there. One process at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.archive.exists():
            part = base.archive.with_suffix(f".{os.getpid()}.part")
            include = [f"--include={','.join(base.packages)}"] if base.packages else []
            command = ["mmdebstrap", f"--variant={base.variant}", "--format=tar", *_SLIM, *include, *base.hooks]
            try:
                done = subprocess.run(
                    [*command, base.suite, part],  # From its own default mirror.
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=_PATIENCE,
                    check=False,
                )
                if done.returncode:
                    # A package that cannot be located is one that the suite has no more: then `base` is to be changed.
                    raise BaseImageError(f"{base}: {' '.join(command)} {base.suite}: {done.stderr[-3000:]}")
                part.replace(base.archive)
            finally:
                part.unlink(missing_ok=True)
    return base.archive
