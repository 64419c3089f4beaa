"""Builds overlays with the same program as their users: kustomize, or the one inside kubectl."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).parents[2] / "k8s"
# The first version without the fields that `patches` and `resources` have replaced; kubectl has it since 1.27.
OLDEST = 5


class KustomizeMissingError(Exception):
    """kustomize is not installed on this machine, or it is too old."""


@functools.cache
def builder() -> Sequence[str]:
    """Return the command that builds a folder, without the folder's name. Raises KustomizeMissingError."""
    if found := shutil.which("kustomize"):
        return (found, "build")
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        msg = "neither kustomize nor kubectl (.ci/install-kustomize has it from Debian 13)"
        raise KustomizeMissingError(msg)
    said = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, check=False, timeout=60)
    version = re.search(r"Kustomize Version: v(\d+)\.", said.stdout)
    if version is None or int(version[1]) < OLDEST:
        msg = f"the kustomize inside kubectl is older than {OLDEST} (.ci/install-kustomize has one from Debian 13)"
        raise KustomizeMissingError(msg)
    return (kubectl, "kustomize")


def build(folder: Path) -> list[dict[str, Any]]:
    """Build `folder` and return the objects."""
    built = subprocess.run([*builder(), str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert built.returncode == 0, built.stderr
    # It warns about deprecated fields.
    assert not built.stderr, built.stderr
    return [item for item in yaml.safe_load_all(built.stdout) if item]


def build_upon(
    overlay: str, folder: Path, more: str = "", *, components: Sequence[str] = (), beside: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Build a user's kustomization in `folder` on top of one of ours, and return the objects.

    `beside`: the user's own files there. `more`: the rest of the kustomization, in YAML.
    """
    # kustomize refuses absolute paths.
    resources = "".join(f"  - {name}\n" for name in (_from(folder, overlay), *beside))
    text = f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{resources}"
    if components:
        text += "components:\n" + "".join(f"  - {_from(folder, component)}\n" for component in components)
    (folder / "kustomization.yaml").write_text(text + more)
    return build(folder)


def _from(folder: Path, ours: str) -> str:
    return os.path.relpath(FOLDER / ours, folder)
