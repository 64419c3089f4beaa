"""`python -m release.site COMMAND`, in the environment of requirements/site.txt; the Makefile has the commands.

- `build`: into build/site; with broken links it ends with 1
- `publish [--remote NAME] [--branch NAME]`: push what was built to a branch of its own
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from release.problems import ReleaseError
from release.site import links
from release.site.publish import publish
from release.site.staging import files_of, stage

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 if something is wrong, and it is said what."""
    parser = argparse.ArgumentParser(prog="python -m release.site")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build")
    pushing = commands.add_parser("publish")
    pushing.add_argument("--remote", default="origin")
    pushing.add_argument("--branch", default="gh-pages")
    options = parser.parse_args(arguments)
    try:
        if options.command == "build":
            build(ROOT, SITE)
        else:
            commit = publish(ROOT, SITE, options.remote, options.branch)
            print(f"{options.remote} has {commit} as {options.branch}")
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build(root: Path, site: Path) -> None:
    """Build the site of the repository at `root` into the folder `site`. Raises ReleaseError."""
    source = site.with_name(f"{site.name}-source")
    for folder in (site, source):
        shutil.rmtree(folder, ignore_errors=True)
    laid_out = stage(root, files_of(root), source)
    argv = ["-m", "sphinx", "--builder", "html", "--jobs", "auto", "--quiet", "--nitpicky", "--fail-on-warning"]
    argv += [
        "--conf-dir",
        str(HERE),
        "--doctree-dir",
        str(site.with_name(f"{site.name}-doctrees")),
        str(source),
        str(site),
    ]
    if subprocess.run([sys.executable, *argv], cwd=root, check=False).returncode:
        raise ReleaseError("Sphinx has warnings")
    for image in laid_out.raw_images:
        (site / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / image, site / image)
    # Or else a forge takes the folders that begin with an underscore for its own.
    (site / ".nojekyll").touch()
    if faults := links.faults(site):
        raise ReleaseError("the built site has faults:\n" + "\n".join(faults))


if __name__ == "__main__":
    sys.exit(main())
