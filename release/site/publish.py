"""Put the built site into a branch of its own, which a forge serves as pages: one commit, without a history."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from release.problems import ReleaseError

if TYPE_CHECKING:
    from pathlib import Path


_SELF = {"NAME": "pg-entrypoint", "EMAIL": "<>"}


def publish(root: Path, site: Path, remote: str, branch: str) -> str:
    """Push the folder `site` as all that is in `branch` of a `remote` of the repository at `root`; return the commit.

    Nothing else of the repository changes, and what the branch was before is replaced. Raises ReleaseError.
    """
    index = site.parent / "site.index"
    index.unlink(missing_ok=True)
    # A machine that builds need not be told who it is.
    author = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in _SELF.items()}
    environment = {**author, **os.environ, "GIT_INDEX_FILE": str(index)}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            raise ReleaseError(f"git {arguments[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    try:
        # What a .gitignore leaves out of the repository belongs to the site.
        git(f"--work-tree={site}", "add", "--all", "--force", ".")
        tree = git("write-tree")
        commit = git("commit-tree", tree, "-m", f"The documentation of {git('rev-parse', '--short', 'HEAD')}")
        git("push", "--force", remote, f"{commit}:refs/heads/{branch}")
    finally:
        index.unlink(missing_ok=True)
    return commit
