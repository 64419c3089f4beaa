"""Lay the pages out for Sphinx, in the repository's own layout, so that links from page to page are right as they are.

Outside docs/ a link may lead to a folder or to a file that is no page. A forge shows those; here each becomes a page:
the folder's README or a list of its files, and the file's text.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from release.problems import ReleaseError
from release.site import nav

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HOME = "README.md"
"""The page that is the site's first; `index.md` for Sphinx."""

_CODE = re.compile(
    r"(^ *(?P<fence>```+|~~~+).*?^ *(?P=fence)$|(?P<tick>`+)(?!`).+?(?<!`)(?P=tick)(?!`))", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(
    r"(?P<before>\]\(|^\[[^]]+\]: +|(?P<html>\b(?:src|srcset|href)=\"))(?P<target>[^()\s\"]+)", re.MULTILINE
)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#|//")
_IMAGES = (".svg", ".png", ".gif", ".jpg", ".webp")
_LEXERS = {
    ".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".sql": "sql", ".json": "json", ".toml": "toml",
    ".rb": "ruby", ".go": "go", ".js": "js", ".mjs": "js", ".ts": "ts", ".java": "java", ".xml": "xml", ".c": "c",
}  # fmt: skip
_LARGEST = 200_000


class Staged(NamedTuple):
    """What was laid out."""

    pages: frozenset[str]
    """By their paths in the repository."""
    raw_images: frozenset[str]
    """Images in raw HTML, which Sphinx passes by."""


class _Stage:
    """The work, from the first page to the last that is linked to."""

    def __init__(self, root: Path, tracked: Iterable[str], into: Path) -> None:
        self._root = root
        self._into = into
        self._tracked = frozenset(tracked)
        self._folders = frozenset(folder for path in self._tracked for folder in _above(path))
        self._parts = nav.parts((root / nav.INDEX).read_text())
        self._faults: list[str] = []
        self._raw_images: set[str] = set()
        self._todo = [
            HOME,
            *sorted(path for path in self._tracked if path.startswith("docs/") and path.endswith(".md")),
        ]
        self._done: set[str] = set()

    def run(self) -> Staged:
        """Lay out all that is linked to. Raises ReleaseError for a link that leads nowhere."""
        while self._todo:
            path = self._todo.pop()
            if path not in self._done:
                self._done.add(path)
                self._lay_out(path)
        if self._faults:
            raise ReleaseError("links that lead nowhere:\n" + "\n".join(sorted(self._faults)))
        return Staged(frozenset(self._done), frozenset(self._raw_images))

    def _lay_out(self, path: str) -> None:
        place = self._into / staged(path, self._folders)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(_IMAGES):
            shutil.copyfile(self._root / path, place)
            return
        if path in self._folders:
            text = self._listing(path)
        elif path.endswith(".md"):
            text = self._rewritten(path, (self._root / path).read_text())
        else:
            text = _source(path, (self._root / path).read_text(errors="replace"))
        place.write_text(self._in_menu(path, text))

    def _rewritten(self, path: str, text: str) -> str:
        """Return a page with links to what its targets have become."""

        def to(link: re.Match[str]) -> str:
            target, hash_sign, anchor = link["target"].partition("#")
            if _ELSEWHERE.match(link["target"]):
                return link[0]
            goal = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if f"{goal}/README.md" in self._tracked:
                goal = f"{goal}/README.md"
            if goal not in self._tracked and goal not in self._folders:
                self._faults.append(f"{path}: {link['target']}")
                return link[0]
            if link["html"] and goal.endswith(_IMAGES):
                self._raw_images.add(goal)
            self._todo.append(goal)
            shown = posixpath.relpath(
                staged(goal, self._folders), posixpath.dirname(staged(path, self._folders)) or "."
            )
            return f"{link['before']}{shown}{hash_sign}{anchor}"

        # Every fourth piece is text, and between two of them are a piece of code and its fence.
        pieces = _CODE.split(text)
        pieces[::4] = [_LINK.sub(to, piece) for piece in pieces[::4]]
        return "".join(piece for number, piece in enumerate(pieces) if piece is not None and number % 4 < 2)

    def _listing(self, folder: str) -> str:
        inside = sorted(path for path in self._tracked if path.startswith(f"{folder}/"))
        self._todo += inside
        lines = [f"- [{path}]({posixpath.relpath(staged(path, self._folders), folder)})" for path in inside]
        return "\n".join([f"# `{folder}/`", "", *lines, ""])

    def _in_menu(self, path: str, text: str) -> str:
        """Return a page with its part of the menu, or as one that stands beside it."""
        listed = [page for part in self._parts for page in part.pages]
        if path == HOME:
            menus = [_menu("", [nav.INDEX]), *(_menu(part.title, part.pages) for part in self._parts)]
            return "\n".join([text, *menus])
        folder = posixpath.dirname(path)
        below = sorted(
            other
            for other in self._tracked
            if posixpath.dirname(other) == folder and other.endswith(".md") and other not in (*listed, nav.INDEX)
        )
        if path in listed and path.endswith("/README.md"):
            return f"{text}\n{_menu('', below, folder)}"
        reached = f"{folder}/README.md" in listed and path in below
        return text if path in (*listed, nav.INDEX) or reached else f"---\norphan: true\n---\n{text}"


def files_of(root: Path) -> list[str]:
    """Return the files of the repository at `root`, those that are to be committed among them."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sorted({path for path in listed.split("\0") if path and (root / path).is_file()})


def stage(root: Path, tracked: Iterable[str], into: Path) -> Staged:
    """Lay out the pages of the repository at `root`, whose files are `tracked`, in the empty folder `into`.

    Raises ReleaseError for links that lead nowhere.
    """
    return _Stage(root, tracked, into).run()


def staged(path: str, folders: frozenset[str]) -> str:
    """Return where a file or a folder of the repository is laid out."""
    if path == HOME:
        return "index.md"
    if path in folders:
        return f"{path}/index.md"
    return path if path.endswith((".md", *_IMAGES)) else f"{path}.md"


def _above(path: str) -> Iterable[str]:
    while path := posixpath.dirname(path):
        yield path


def _source(path: str, text: str) -> str:
    lexer = _LEXERS.get(posixpath.splitext(path)[1], "docker" if "Dockerfile" in path else "text")
    if len(text) > _LARGEST:
        text, lexer = f"{text[:_LARGEST]}\n…\n", "text"
    return f"# `{path}`\n\n~~~~~~~~{lexer}\n{text.rstrip()}\n~~~~~~~~\n"


def _menu(caption: str, pages: Iterable[str], folder: str = ".") -> str:
    """Return Sphinx's directive for a part of the menu, which is shown beside the page."""
    names = [posixpath.relpath(staged(page, frozenset()).removesuffix(".md"), folder) for page in pages]
    return "\n".join(
        ["```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), "", *names, "```", ""]
    )
