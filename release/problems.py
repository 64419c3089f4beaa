"""The one error of this package, and running the tools that it needs."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class ReleaseError(Exception):
    """Something is wrong with what would be released; the message says what, and what to do."""


def run(
    command: Sequence[object], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, umask: int = -1
) -> str:
    """Return what a command prints. Raises ReleaseError, with all of it, if the command fails."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env=env,
        umask=umask,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise ReleaseError(f"{' '.join(words)} exited with {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


def uv(*words: object) -> str:
    """Return what uv prints, which heeds no configuration but its options. Raises ReleaseError."""
    return run([sys.executable, "-m", "uv", "--quiet", "--no-config", *words])


def unpack(archive: tarfile.TarFile, target: Path) -> None:
    """Unpack an archive of our own. Its files are only files; Python 3.11 before .4 cannot be told so."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(target, filter="data")
    else:
        archive.extractall(target)  # noqa: S202 - git and the build have just written it
