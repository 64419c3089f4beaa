"""The Pythons of this machine that a release is for: those of the PATH, pyenv's, and `.ci/install-python-3.14`'s."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SUPPORTED = ("3.11", "3.12", "3.13", "3.14")


def found(home: Path) -> dict[str, Path]:
    """Return the interpreter of each supported version that is here, the oldest version first."""
    here = {version: _find(version, home) for version in SUPPORTED}
    return {version: python for version, python in here.items() if python}


def _find(version: str, home: Path) -> Path | None:
    ours = home / ".cache" / "pg-entrypoint-tests" / f"python-{version}" / "usr" / "bin" / f"python{version}"
    pyenv = sorted((home / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
    on_path = shutil.which(f"python{version}")
    return next((one for one in (*pyenv, on_path and Path(on_path), ours) if one and _works(one, version)), None)


def _works(python: Path, version: str) -> bool:
    """Return whether it runs and has what a virtual environment needs: pyenv's shims are there for any version."""
    tell = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-I", "-c", tell], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.stdout.strip() == version
