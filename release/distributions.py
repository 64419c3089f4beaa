"""The sdist and the wheel: built from an export, the same bytes each time, and with exactly what belongs into them."""

from __future__ import annotations

import gzip
import io
import os
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_string
from typing import TYPE_CHECKING

from release import readme
from release.problems import ReleaseError, run, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from release.source import Source

# What a build may know of the machine: setuptools asks for nothing else, and a stranger's variables change nothing.
_KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
# In the sdist beside the package: what builds it, and what a reader of an unpacked sdist needs.
_BESIDE = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "SECURITY.md", "bin/entrypoint", "pyproject.toml"}
_MADE = {"PKG-INFO", "setup.cfg"}
_EGG_INFO = {"PKG-INFO", "SOURCES.txt", "dependency_links.txt", "requires.txt", "top_level.txt"}
_DIST_INFO = {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE", "top_level.txt"}


@dataclass(frozen=True)
class Distributions:
    """The two files that a registry takes."""

    sdist: Path
    wheel: Path


def build(tree: Path, target: Path, epoch: int) -> Distributions:
    """Build the sdist from `tree`, and the wheel from the sdist, into `target`. Raises ReleaseError."""
    target.mkdir(parents=True, exist_ok=True)
    _run_build(tree, target, "--sdist", epoch)
    sdist = _only(target, "*.tar.gz")
    _settle(sdist, epoch)
    unpacked = target / "unpacked"
    with tarfile.open(sdist) as files:
        unpack(files, unpacked)
    return Distributions(sdist, build_wheel(_only(unpacked, "*"), target, epoch))


def build_wheel(tree: Path, target: Path, epoch: int) -> Path:
    """Build the wheel from a tree, and return it. Raises ReleaseError."""
    _run_build(tree, target, "--wheel", epoch)
    return _only(target, "*.whl")


def _run_build(tree: Path, target: Path, what: str, epoch: int) -> None:
    env = {name: value for name in _KEPT if (value := os.environ.get(name))}
    env |= {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    # The backend is that of requirements/build.txt, in this environment. -P: no module of the tree's folder.
    command = [sys.executable, "-P", "-m", "build", "--no-isolation", what, "--outdir", target, tree]
    run(command, env=env, umask=0o022)


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise ReleaseError(
            f"{folder}: one {pattern} expected, found: {', '.join(path.name for path in found) or 'none'}"
        )
    return found[0]


def _settle(sdist: Path, epoch: int) -> None:
    """Write the sdist anew with its members in order, and without times and owners of the machine that built it.

    setuptools does this for wheels, by SOURCE_DATE_EPOCH, but not for sdists.
    """
    settled = io.BytesIO()
    with (
        tarfile.open(sdist) as old,
        gzip.GzipFile("", "wb", mtime=epoch, fileobj=settled) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            plain = tarfile.TarInfo(member.name)
            plain.type, plain.size, plain.mtime = member.type, member.size, epoch
            plain.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(plain, old.extractfile(member) if member.isfile() else None)
    sdist.write_bytes(settled.getvalue())


def check(made: Distributions, source: Source) -> None:
    """Look at what is in both, and at what they say of themselves. Raises ReleaseError."""
    package = source.files("entrypoint")
    with tarfile.open(made.sdist) as files:
        _check_contents(
            made.sdist, {one.name for one in files.getmembers() if one.isfile()}, _of_sdist(source, package)
        )
    with zipfile.ZipFile(made.wheel) as archive:
        _check_contents(made.wheel, set(archive.namelist()), _of_wheel(source, package))
        script = archive.getinfo(f"pg_entrypoint-{source.version}.data/scripts/entrypoint")
        if not script.external_attr >> 16 & 0o100:
            raise ReleaseError(f"{made.wheel.name}: {script.filename} is not executable")
        metadata = archive.read(f"pg_entrypoint-{source.version}.dist-info/METADATA").decode()
    _check_metadata(metadata, source)
    run([sys.executable, "-m", "twine", "--no-color", "check", "--strict", made.sdist, made.wheel])


def _of_sdist(source: Source, package: set[str]) -> set[str]:
    inside = package | _BESIDE | _MADE | {f"pg_entrypoint.egg-info/{name}" for name in _EGG_INFO}
    return {f"pg_entrypoint-{source.version}/{name}" for name in inside}


def _of_wheel(source: Source, package: set[str]) -> set[str]:
    base = f"pg_entrypoint-{source.version}"
    return package | {f"{base}.dist-info/{name}" for name in _DIST_INFO} | {f"{base}.data/scripts/entrypoint"}


def _check_contents(file: Path, found: set[str], wanted: set[str]) -> None:
    if missing := sorted(wanted - found):
        raise ReleaseError(
            f"{file.name} lacks {', '.join(missing)}; see package-data in pyproject.toml, and MANIFEST.in"
        )
    if extra := sorted(found - wanted):
        raise ReleaseError(f"{file.name} has what does not belong there: {', '.join(extra)}")


def _check_metadata(text: str, source: Source) -> None:
    metadata = message_from_string(text)
    wanted = {"Name": "pg-entrypoint", "Version": source.version, "License-Expression": "Apache-2.0"}
    wanted |= {"Description-Content-Type": "text/markdown", "Requires-Python": ">=3.11"}
    for name, value in wanted.items():
        if metadata[name] != value:
            raise ReleaseError(f"the metadata say {name}: {metadata[name]}, not {value}")
    readme.check(str(metadata.get_payload()))


def differences(one: Iterable[Path], other: Iterable[Path]) -> list[str]:
    """Return the names of the files that are not the same in both, to the byte."""
    first, second = ({path.name: path.read_bytes() for path in paths} for paths in (one, other))
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
