"""Building overlays, with the program that their users build them with: kustomize, or the one inside kubectl."""

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
# The first without the fields that older ones had instead of `patches` and `resources`; kubectl has it since 1.27.
OLDEST = 5


class KustomizeMissingError(Exception):
    """There is no kustomize on this machine, or only one that is too old."""


@functools.cache
def builder() -> Sequence[str]:
    """Return how to build a folder, up to its name. Raises KustomizeMissingError."""
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
    """Return the objects that `folder` is built into."""
    built = subprocess.run([*builder(), str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert built.returncode == 0, built.stderr
    # It warns of fields that are going to be removed.
    assert not built.stderr, built.stderr
    return [item for item in yaml.safe_load_all(built.stdout) if item]


def build_upon(
    overlay: str, folder: Path, more: str = "", *, components: Sequence[str] = (), beside: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return what a user's own kustomization in `folder` makes of one of ours.

    `beside`: the user's own files there; `more`: the rest of the kustomization, in YAML.
    """
    # Not absolute paths: kustomize refuses those.
    resources = "".join(f"  - {name}\n" for name in (_from(folder, overlay), *beside))
    text = f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{resources}"
    if components:
        text += "components:\n" + "".join(f"  - {_from(folder, component)}\n" for component in components)
    (folder / "kustomization.yaml").write_text(text + more)
    return build(folder)


def _from(folder: Path, ours: str) -> str:
    return os.path.relpath(FOLDER / ours, folder)
