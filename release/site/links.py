"""Look at the built site: each link and anchor leads somewhere, and showing a page fetches nothing from elsewhere."""

from __future__ import annotations

import posixpath
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from pathlib import Path

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)
_INLINE = re.compile(r"(?:data|mailto):")
_FETCHED_BY_CSS = re.compile(r"(?:url\(|@import)\s*[\"']?\s*(?:https?:)?//")
# In these the address is where a reader may go; in all others, what a browser fetches to show the page.
_WHERE_TO_GO = ("a", "area")
_RELATIONS_THAT_FETCH_NOTHING = ("next", "prev", "index", "search", "canonical", "author", "help")


class _Page(HTMLParser):
    """A page's anchors, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values and tag != "meta"}
        found = [values[name] for name in ("href", "src") if values.get(name)]
        found += [one.split()[0] for one in values.get("srcset", "").split(",") if one.strip()]
        self.links += found
        harmless = tag in _WHERE_TO_GO or (tag == "link" and values.get("rel") in _RELATIONS_THAT_FETCH_NOTHING)
        self.fetched += [] if harmless else found


def faults(site: Path) -> list[str]:
    """Return what is wrong with the pages in a folder, one line each."""
    pages = {path.relative_to(site).as_posix(): _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = [fault for name, page in pages.items() for fault in _faults_of(name, page, pages, site)]
    found += [
        f"{path.relative_to(site).as_posix()}: fetches from another host"
        for path in sorted(site.rglob("*.css"))
        if _FETCHED_BY_CSS.search(path.read_text())
    ]
    return found


def _faults_of(name: str, page: _Page, pages: dict[str, _Page], site: Path) -> list[str]:
    found = [
        f"{name}: showing it fetches {link}" for link in page.fetched if _SCHEME.match(link) and not _INLINE.match(link)
    ]
    for link in dict.fromkeys(page.links):
        if _SCHEME.match(link):
            continue
        target, _, anchor = link.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(target.partition("?")[0])))
        path = name if not target else path
        if not (site / path).is_file() or (anchor and path in pages and unquote(anchor) not in pages[path].anchors):
            found.append(f"{name}: there is no {link}")
    return found
