"""What is released: the last commit, exported into a folder of its own, and its version.

What is not committed is not in it. Nothing in the export depends on the checkout: not its place, nor its umask.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from release import readme
from release.problems import ReleaseError, unpack

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Source:
    """The commit that is released."""

    root: Path
    """The checkout."""
    commit: str
    epoch: int
    """When it was committed, in seconds since 1970: the time of everything that is made of it."""
    version: str
    uncommitted: bool
    """Whether the checkout has changes that are left out."""

    @property
    def tag(self) -> str:
        """Return the name of the tag that releases this version."""
        return f"v{self.version}"

    @classmethod
    def of(cls, root: Path) -> Source:
        """Return the last commit of a checkout. Raises ReleaseError if there is none, or no version in it."""
        commit, epoch = _git(root, "log", "-1", "--format=%H %ct").decode().split()
        text = _git(root, "show", "HEAD:entrypoint/__init__.py").decode()
        found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
        if found is None:
            raise ReleaseError('entrypoint/__init__.py has no line __version__ = "…"')
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
        return cls(root, commit, int(epoch), found[1], bool(changes.strip()))

    def files(self, *folders: str) -> set[str]:
        """Return the paths of the committed files under `folders`."""
        listed = _git(self.root, "ls-tree", "-r", "-z", "--name-only", "HEAD", "--", *folders)
        return set(listed.decode().rstrip("\0").split("\0"))

    def export(self, target: Path, home: readme.Home) -> None:
        """Write the commit's files into `target`, the README and pyproject.toml as a registry needs them."""
        archive = io.BytesIO(_git(self.root, "archive", "HEAD"))
        with tarfile.open(fileobj=archive) as files:
            unpack(files, target)
        # 644 or 755, whatever the umask of this process is.
        for path in target.rglob("*"):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        page = target / "README.md"
        page.write_text(readme.for_registry(page.read_text(encoding="utf-8"), home), encoding="utf-8")
        if home.project:
            with (target / "pyproject.toml").open("a", encoding="utf-8") as file:
                file.write(readme.urls(home))


def _git(root: Path, *words: str) -> bytes:
    done = subprocess.run(["git", "-C", root, *words], capture_output=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git {' '.join(words)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
