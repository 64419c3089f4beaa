"""What images and releases are built from: pinned, complete, within our own ranges, and without addresses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from conftest import missing

if TYPE_CHECKING:
    from packaging.markers import Marker

pytestmark = pytest.mark.text

ROOT = Path(__file__).parents[1]
FILES = ("build", "folder", "image", "full", "release", "site")
# What the images' builder asks the index for, in the index's terms: both processors, every Python.
MACHINES = ("x86_64", "aarch64")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LEFT_OUT = {"pygments", "markdown-it-py", "mdurl"}
PACKER = "cx_Freeze>=8.7,<9"
SITE = ("sphinx>=9,<10", "myst-parser>=5,<6", "furo>=2025.12")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def pinned(name: str) -> list[tuple[Requirement, list[str]]]:
    """Return the requirements in a file, each with its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
            found.append((Requirement(requirement), hashes))
    return found


def versions(name: str, **environment: str) -> dict[str, str]:
    """Return the version of each package that a file asks for in an environment."""
    return {
        canonicalize_name(requirement.name): next(iter(requirement.specifier)).version
        for requirement, _ in pinned(name)
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


def wanted(name: str) -> list[Requirement]:
    """Return what pyproject.toml requires of a file."""
    if name == "folder":
        return [Requirement(PACKER)]
    if name == "site":
        return [Requirement(text) for text in SITE]
    found = project()
    texts = found["build-system"]["requires"] if name == "build" else list(found["project"]["dependencies"])
    extras = found["project"]["optional-dependencies"]
    if name == "full":
        texts += extras["serve"]
    if name == "release":
        # The first refers to our own other extras.
        texts += [*extras["release"][1:], *extras["demo"], *extras["requirements"]]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("name", FILES)
def test_each_is_pinned_with_hashes_and_no_address(name: str) -> None:
    for requirement, hashes in pinned(name):
        assert [one.operator for one in requirement.specifier] == ["=="], requirement
        assert hashes
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in hashes)
        assert requirement.url is None
    assert "://" not in (ROOT / "requirements" / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_each_is_what_pyproject_asks_for(name: str, python: str, machine: str) -> None:
    have = versions(name, python_version=python, python_full_version=f"{python}.0", platform_machine=machine)
    for requirement in wanted(name):
        package = canonicalize_name(requirement.name)
        assert package in have, f"{package}: make requirements"
        assert requirement.specifier.contains(have[package]), f"{requirement} is not {have[package]}: make requirements"
        if package == "psycopg":
            # Its extras are packages of that name; other projects' extras are not.
            assert [extra for extra in requirement.extras if f"psycopg-{extra}" in have] == ["binary"]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_folders_wheels_run_with_the_oldest_glibc_that_is_packed(python: str, machine: str, tmp_path: Path) -> None:
    """According to the index: both processors have wheels that pip accepts with this glibc and nothing newer."""
    page = (ROOT / "docs" / "folder.md").read_text()
    (documented,) = re.findall(r"glibc 2\.(\d+) or later\.\s+Its", page)
    assert f"OLDEST = (2, {documented})" in (ROOT / "packaging" / "own_glibc.py").read_text()
    command = [*(sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries=1", "--timeout=15", "install")]
    command += ["--dry-run", "--quiet", "--report=-", "--ignore-installed", f"--target={tmp_path}", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    command += [f"--platform=manylinux{name}_{machine}" for name in _MANYLINUX]
    command += [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(5, int(documented) + 1)]
    found = []
    for name in ("image", "folder"):
        file = ROOT / "requirements" / f"{name}.txt"
        done = subprocess.run(
            [*command, f"--requirement={file}"], capture_output=True, text=True, timeout=100, check=False
        )
        if "connection broken" in done.stderr:
            missing("no package index, which knows the wheels of both processors")
        assert done.returncode == 0, done.stderr
        found += [item["download_info"]["url"].rpartition("/")[2] for item in json.loads(done.stdout)["install"]]
    assert 0 < max(_glibc(unquote(name), machine) for name in found) <= int(documented), found


_MANYLINUX = {"1": 5, "2010": 12, "2014": 17}


def _glibc(wheel: str, machine: str) -> int:
    """Return the oldest glibc 2.x that a wheel supports; 0 if it has no compiled code."""
    tags = " ".join(tag.platform for tag in parse_wheel_filename(wheel)[3])
    minors = [int(minor) for minor in re.findall(rf"\bmanylinux_2_(\d+)_{machine}\b", tags)]
    names = [_MANYLINUX[name] for name in re.findall(rf"\bmanylinux(\d+)_{machine}\b", tags)]
    return min(minors + names, default=0)


def test_the_dockerfile_names_no_registry_and_no_frontend() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "://" not in text
    assert not re.search(r"^#\s*syntax\s*=", text, re.MULTILINE)
    images = re.findall(r"^(?:FROM\s+|ARG\s+BASE=)(\S+)", text, re.MULTILINE)
    assert "python:3.14-slim" in images
    # A slash would follow the registry's host.
    assert not [image for image in images if "/" in image]


def test_the_full_image_has_the_versions_of_the_other() -> None:
    assert versions("image").items() <= versions("full").items()


def test_the_files_are_complete() -> None:
    """Nothing that the packages require is missing, except what is left out on purpose."""
    for name in ("image", "full"):
        have = versions(name)
        for package, version in have.items():
            try:
                installed = distribution(package)
            except PackageNotFoundError:
                continue  # of an extra that the tests do not need
            if installed.version != version:
                continue  # a newer version, whose requirements may differ
            for text in installed.requires or ():
                requirement = Requirement(text)
                if _applies(requirement.marker):
                    needed = canonicalize_name(requirement.name)
                    assert needed in have.keys() | LEFT_OUT, f"{package} needs {needed}: make requirements"
    assert not LEFT_OUT & versions("full").keys()


def _applies(marker: Marker | None) -> bool:
    return marker is None or marker.evaluate({"extra": ""})


def test_tables_and_bars_need_nothing_that_is_left_out() -> None:
    """Rich asks for these packages anyway, for other features."""
    program = f"""
import sys
for name in {[name.partition("-")[0] for name in sorted(LEFT_OUT)]} + ["markdown_it"]:
    sys.modules[name] = None  # as if it were not installed
import io, time
from entrypoint.migration.observe.board import Board
from entrypoint.operations import status_table
from entrypoint.operations.progress_bar import progress_bar
with progress_bar(Board(3)):
    time.sleep(0.5)
print("a bar")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "a bar\n"), done.stderr
    assert "\x1b[" in done.stderr
