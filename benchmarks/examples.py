"""The applications in examples/: what their images contain, and where their programs are on this machine."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1] / "examples"
TOOLS = Path(__file__).parents[1] / ".tools"
"""Where `make tools` installs what they need."""


class Image(NamedTuple):
    """What an example's Dockerfile says."""

    env: dict[str, str]
    command: list[str]


def image(name: str) -> Image:
    """Read an example's Dockerfile: the environment of its last stage, and its command line."""
    text = (ROOT / name / "Dockerfile").read_text().replace("\\\n", " ")
    env: dict[str, str] = {}
    for line in re.findall(r"^ENV (.*)$", text.rpartition("\nFROM ")[2], re.MULTILINE):
        # Docker substitutes no variable that has a backslash before it; shlex keeps the backslash.
        env |= {key: value.replace("\\$", "$") for key, _, value in (word.partition("=") for word in shlex.split(line))}
    [command] = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    return Image(env, json.loads(command))


def programs(name: str) -> list[Path]:
    """Return the folders with an example's programs; empty if something is not installed."""
    home = TOOLS / "examples" / name
    if name == "rails":
        return [Path("/usr/bin")] if shutil.which("puma") and shutil.which("rails") else []
    if not home.is_dir():
        return []
    if name == "goose":
        return [home, TOOLS / "go"]
    if name.startswith("node-"):
        node = shutil.which("node")
        return [Path(node).parent] if node else []
    return [home / "bin"]


def copy(name: str, place: Path) -> None:
    """Copy the files that an example's image contains."""
    ignored = shutil.ignore_patterns("__pycache__", "Dockerfile", "README.md", "node_modules")
    shutil.copytree(ROOT / name, place, ignore=ignored)
    modules = TOOLS / "examples" / name / "node_modules"
    if modules.is_dir():
        (place / "node_modules").symlink_to(modules)


def scheme(name: str) -> str:
    """Return how the address of an example's database begins."""
    return "postgresql+psycopg" if name == "fastapi-alembic" else "postgresql"


def names() -> list[str]:
    """Return the examples."""
    return sorted(path.parent.name for path in ROOT.glob("*/Dockerfile"))
