"""`python -m release COMMAND`, in the environment of requirements/release.txt; the Makefile has the commands.

- `dist`: build, check and try the distributions, into dist/
- `make FOLDER`: what `dist` does twice; build all files of a release into FOLDER
- `audit [--strict]`: look for known vulnerabilities in what is pinned
- `pythons [TEST…]`: run a part of the tests with each Python that is here
- `tag TAG`: exit with 0 if TAG is the tag of this version, and the changelog has its date
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from demo.postgres import Server
from release import bom, distributions, pythons, suite, trial
from release.audit import audit
from release.problems import ReleaseError, run
from release.readme import Home
from release.source import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
CHECKSUMS = "SHA256SUMS"
# The second of the two builds that have to come to the same bytes.
_ELSEWHERE = {"TZ": "Pacific/Chatham", "LC_ALL": "C", "PYTHONHASHSEED": "4711", "SOURCE_DATE_EPOCH": "1"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 if something is wrong with the release, and it is said what."""
    parser = argparse.ArgumentParser(prog="python -m release")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("dist")
    commands.add_parser("make").add_argument("folder", type=Path)
    commands.add_parser("audit").add_argument("--strict", action="store_true")
    commands.add_parser("pythons").add_argument("test", nargs="*")
    commands.add_parser("tag").add_argument("tag")
    options = parser.parse_args(arguments)
    try:
        if options.command == "audit":
            return audit(pinned(), os.environ.get("OSV_URL")).report(strict=options.strict)
        if options.command == "pythons":
            suite.run_each(ROOT, pythons.found(Path.home()), options.test)
            return 0
        source = Source.of(ROOT)
        if options.command == "dist":
            dist(source)
        elif options.command == "make":
            make(source, options.folder)
        else:
            check_tag(source, options.tag)
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def pinned() -> list[Path]:
    """Return all files of pinned requirements, the examples' among them."""
    return [*sorted((ROOT / "requirements").glob("*.txt")), *sorted(ROOT.glob("examples/*/requirements.txt"))]


def check_tag(source: Source, tag: str) -> None:
    """Hold the tag, the version and the changelog against one another. Raises ReleaseError."""
    if tag != source.tag:
        raise ReleaseError(f"the tag is {tag}, and entrypoint/__init__.py says {source.version}: {source.tag} expected")
    head = re.search(
        r"^## \[([^]]+)\] - (.*)$", (source.root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    if head is None or head[1] != source.version or not re.fullmatch(r"\d{4}-\d\d-\d\d", head[2]):
        raise ReleaseError(f"CHANGELOG.md does not begin with ## [{source.version}] - YYYY-MM-DD")


def make(source: Source, folder: Path) -> None:
    """Build all files of a release into `folder`, from an export of the commit."""
    tree = folder / "tree"
    source.export(tree, Home.from_environment(os.environ))
    made = distributions.build(tree, folder / "made", source.epoch)
    bills = [bom.make(made, source, tree, flavour, folder / "made") for flavour in bom.FLAVOURS]
    for file in (made.sdist, made.wheel, *bills):
        shutil.copyfile(file, folder / file.name)
    files = sorted([made.sdist.name, made.wheel.name, *(file.name for file in bills)])
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in files]
    (folder / CHECKSUMS).write_text("".join(sums))


def dist(source: Source) -> None:
    """Make a release, check and try it, and leave it in dist/."""
    print(f"pg-entrypoint {source.version}, commit {source.commit[:12]}")
    if source.uncommitted:
        print("note: what is not committed is left out")
    with tempfile.TemporaryDirectory(prefix="pg-entrypoint-dist-") as work:
        files = _twice(source, Path(work))
        made = distributions.Distributions(*(next(f for f in files if f.suffix == end) for end in (".gz", ".whl")))
        distributions.check(made, source)
        print("the contents, the metadata and the README are right")
        _try_it(source, made.wheel, Path(work))
        target = ROOT / "dist"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for file in files:
            shutil.copyfile(file, target / file.name)
    print(run(["sha256sum", "--check", "--strict", CHECKSUMS], cwd=target), end="")


def _twice(source: Source, work: Path) -> list[Path]:
    """Make everything twice, in places and environments that have little in common. Return the first files."""
    folders = {work / "one": ({}, 0o022), work / "some other place": (_ELSEWHERE, 0o077)}

    def make_in(folder: Path) -> None:
        odd, umask = folders[folder]
        folder.mkdir()
        run([sys.executable, "-m", "release", "make", folder], cwd=ROOT, env={**os.environ, **odd}, umask=umask)

    with ThreadPoolExecutor(len(folders)) as both:
        list(both.map(make_in, folders))
    first, second = ([path for path in sorted(folder.iterdir()) if path.is_file()] for folder in folders)
    if different := distributions.differences(first, second):
        raise ReleaseError(f"built twice, and not the same bytes: {', '.join(different)}")
    # Whoever builds from the repository, as the Dockerfile does, gets the wheel of the sdist.
    direct = distributions.build_wheel(work / "one" / "tree", work / "direct", source.epoch)
    if distributions.differences([direct], [path for path in first if path.suffix == ".whl"]):
        raise ReleaseError(f"{direct.name} is another when it is built from the tree and not from the sdist")
    print(f"built twice, the same bytes: {', '.join(path.name for path in first)}")
    return first


def _try_it(source: Source, wheel: Path, work: Path) -> None:
    """Install and use it with each Python that is here: the highest versions, and with the oldest the lowest, too."""
    here = pythons.found(Path.home())
    if absent := [version for version in pythons.SUPPORTED if version not in here]:
        print(f"NOT TRIED, as it is not on this machine: Python {', '.join(absent)}")
    if not here:
        raise ReleaseError(f"no Python of {', '.join(pythons.SUPPORTED)} on this machine")
    oldest = next(iter(here.values()))
    plans: list[tuple[Path, trial.Resolution]] = [
        (oldest, "lowest-direct"),
        *((one, "highest") for one in here.values()),
    ]
    with Server() as server:
        for number, (python, resolution) in enumerate(plans):
            folder = work / f"trial-{number}"
            tried = trial.install(wheel, ROOT / "pyproject.toml", python, resolution, folder)
            trial.check(tried, server, ROOT / "migrations", source.version)
            print(f"{tried.name}: installed, migrated, served ({_main_versions(tried)})")


def _main_versions(tried: trial.Trial) -> str:
    direct = ("psycopg", "tenacity", "python-json-logger", "pgparse", "rich", "starlette", "uvicorn")
    return ", ".join(f"{name} {tried.installed[name]}" for name in direct)


if __name__ == "__main__":
    sys.exit(main())
