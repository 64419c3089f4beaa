"""The README as a registry shows it: there, a link to a file of the repository leads nowhere.

Where the repository is, only the forge knows: it tells by PROJECT_URL, the project's page, and FILES_URL, which a path
is appended to. Without FILES_URL the links become plain text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from release.problems import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^][]|\[[^][]*\])+)\]\((?P<target>[^()\s]+)\)")
_IMAGE = re.compile(r"^!\[[^][]*\]\([^()\s]+\)\n+", re.MULTILINE)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")


@dataclass(frozen=True)
class Home:
    """Where the project lives, by URL; empty if that is not known."""

    project: str = ""
    files: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Home:
        """Read PROJECT_URL and FILES_URL. Raises ReleaseError for what is no URL of the web."""
        found = {name: environment.get(name, "").rstrip("/") for name in ("PROJECT_URL", "FILES_URL")}
        for name, value in found.items():
            if value and not re.fullmatch(r"https?://[^\s\"'\\()<>]+", value):
                raise ReleaseError(f"{name} is not a URL of the web: {value!r}")
        return cls(found["PROJECT_URL"], found["FILES_URL"])


def for_registry(text: str, home: Home) -> str:
    """Return the README with absolute links, or without those that lead into the repository. Code stays as it is.

    Pictures are left out: the forge shows a file at another address than it has it, and nobody knows both.
    """

    def rewritten(link: re.Match[str]) -> str:
        target = link["target"]
        if _ELSEWHERE.match(target):
            return link[0]
        if target.startswith("#") or not home.files:
            # A registry gives headings no anchors, either.
            return link["text"]
        return f"[{link['text']}]({home.files}/{target})"

    parts = re.split(r"(^```.*?^```$|^(?: {4}[^\n]*\n)+)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if code else _LINK.sub(rewritten, _IMAGE.sub("", part)) for code, part in _alternating(parts))


def _alternating(parts: list[str]) -> list[tuple[bool, str]]:
    return [(bool(number % 2), part) for number, part in enumerate(parts)]


def urls(home: Home) -> str:
    """Return the lines of pyproject.toml that name the project's pages."""
    lines = ["", "[project.urls]", f'Repository = "{home.project}"']
    if home.files:
        lines += [f'{name} = "{home.files}/{path}"' for name, path in _PAGES.items()]
    return "\n".join(lines) + "\n"


_PAGES = {"Documentation": "docs/README.md", "Changelog": "CHANGELOG.md", "Security": "SECURITY.md"}


class _Page(HTMLParser):
    """What is in a rendered page: where its links lead, how many there are of each element, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.elements: dict[str, int] = {}
        self.text = ""
        self._code = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] = self.elements.get(tag, 0) + 1
        self._code += tag in {"code", "pre"}
        self.links += [value or "" for name, value in attrs if name in {"href", "src"}]

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in {"code", "pre"}

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.text += data


def check(text: str) -> None:
    """Render a package's README as the registry does, and look at it. Raises ReleaseError."""
    from readme_renderer.markdown import render  # noqa: PLC0415 - Only the release's environment has it.

    html = render(text)
    if not html:
        raise ReleaseError("README.md: the registry's renderer refuses it")
    page = _Page(html)
    # Each heading links to itself.
    if dead := [link for link in page.links if not re.match(r"https?://|mailto:|#user-content-", link)]:
        raise ReleaseError(f"README.md: on a registry these links lead nowhere: {', '.join(dead)}")
    if left := re.findall(r"\]\([^)]*\)|^\|.*\|$|^#+ ", page.text, re.MULTILINE):
        raise ReleaseError(f"README.md: the registry shows Markdown as text: {left}")
    wanted = {"table": len(re.findall(r"^\|[-| ]+\|$", text, re.MULTILINE)), "pre": _blocks(text)}
    for element, number in wanted.items():
        if page.elements.get(element, 0) != number:
            raise ReleaseError(f"README.md: {number} of <{element}> expected, rendered: {page.elements}")


def _blocks(text: str) -> int:
    """Return how many blocks of code a page has, fenced and indented."""
    outside, fenced = re.subn(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return fenced + len(re.findall(r"(?<=\n\n)(?: {4}\S.*\n(?:(?: {4}.*)?\n)*)", outside))
