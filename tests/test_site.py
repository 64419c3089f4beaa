"""The documentation's site: its menu, how links become pages, what fails a build, and how it is published."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from release.problems import ReleaseError
from release.site import links, nav
from release.site.publish import publish
from release.site.staging import files_of, stage

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.text

ROOT = Path(__file__).parents[1]
MENU = "# Documentation\n\n## Start\n\n| page | read it to |\n|---|---|\n| [a.md](a.md) | begin |\n"


def test_the_menu_is_the_order_of_a_reader() -> None:
    parts = nav.parts((ROOT / nav.INDEX).read_text())
    assert [part.title for part in parts] == ["Start", "Use", "Operate", "Understand", "Contribute", "The commands"]
    listed = [page for part in parts for page in part.pages]
    assert len(set(listed)) == len(listed)
    assert all((ROOT / page).is_file() for page in listed)
    # Every page is in the menu, or in a folder whose first page is in it.
    pages = {path for path in files_of(ROOT) if path.startswith("docs/") and path.endswith(".md")} - {nav.INDEX}
    folders = {Path(page).parent for page in listed if page.endswith("/README.md")}
    assert {page for page in pages - set(listed) if Path(page).parent not in folders} == set()


def test_the_repositorys_pages_can_be_laid_out(tmp_path: Path) -> None:
    laid_out = stage(ROOT, files_of(ROOT), tmp_path)
    assert "docs/images/admin-migrating-light.png" in laid_out.raw_images
    home = (tmp_path / "index.md").read_text()
    assert home.index(":caption: Start") < home.index(":caption: Use") < home.index(":caption: The commands")
    assert "docs/which-way\n" in home
    # What is outside docs/ is there as well.
    assert (tmp_path / "CONTRIBUTING.md").is_file()
    assert (tmp_path / "k8s" / "README.md").is_file()


def lay_out(folder: Path, files: Mapping[str, str]) -> Path:
    """Lay out a small repository, and return its path."""
    for name, text in {"README.md": "# Home\n", nav.INDEX: MENU, "docs/a.md": "# A\n", **files}.items():
        path = folder / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    names = [path.relative_to(folder / "repository").as_posix() for path in (folder / "repository").rglob("*.*")]
    into = folder / "staged"
    stage(folder / "repository", names, into)
    return into


def test_a_link_leads_to_what_its_target_has_become(tmp_path: Path) -> None:
    page = (
        "# A\n[home](../README.md#x) [b](b.md) [file](../k8s/job.yaml) [folder](../k8s) [with a page](../compose/)\n"
        "[out](https://example.org/x) [here](#a) ![image](x.svg) `[code](nowhere.md)`\n\n"
        '```\n[code](nowhere.md)\n```\n\n<img src="x.svg">\n\n- ```yaml\n  [code](nowhere.md)\n  ```\n'
    )
    into = lay_out(
        tmp_path,
        {
            "docs/a.md": page,
            "docs/b.md": "# B\n",
            "docs/x.svg": "<svg/>",
            "k8s/job.yaml": "kind: Job  # ~~~ and ```\n",
            "k8s/deep/other.py": "pass\n",
            "compose/README.md": "# Compose\n",
        },
    )
    text = (into / "docs" / "a.md").read_text()
    assert text == (
        page.replace("../README.md#x", "../index.md#x")
        .replace("../k8s/job.yaml", "../k8s/job.yaml.md")
        .replace("(../k8s)", "(../k8s/index.md)")
        .replace("../compose/", "../compose/README.md")
    )
    assert (into / "docs" / "x.svg").is_file()
    assert "~~~~~~~~yaml\nkind: Job  # ~~~ and ```\n~~~~~~~~" in (into / "k8s" / "job.yaml.md").read_text()
    listing = (into / "k8s" / "index.md").read_text()
    assert "- [k8s/deep/other.py](deep/other.py.md)\n- [k8s/job.yaml](job.yaml.md)" in listing
    assert (into / "k8s" / "deep" / "other.py.md").is_file()
    # Not in the menu, and declared as such.
    assert listing.startswith("---\norphan: true\n---\n")
    assert not text.startswith("---")


@pytest.mark.parametrize("link", ["nowhere.md", "../k8s/nowhere.yaml", "../.git/config", "/etc/passwd", "../../out.md"])
def test_a_link_that_leads_nowhere_fails(tmp_path: Path, link: str) -> None:
    with pytest.raises(ReleaseError, match=r"docs/a\.md: "):
        lay_out(tmp_path, {"docs/a.md": f"[x]({link})\n"})


SITE = {
    "index.html": '<h1 id="top">x</h1><a href="b/c.html#deep">c</a><a href="#top">t</a>'
    '<a href="https://example.org">e</a>'
    '<img src="x.png" srcset="x.png 1x, b/y.png 2x">'
    '<link rel="next" href="b/c.html"><link rel="stylesheet" href="s.css">',
    "b/c.html": '<p id="deep"><a href="../index.html?q=1#top">up</a><a name="named"></a><a href="#named">n</a></p>',
    "x.png": "",
    "b/y.png": "",
    "s.css": "p { background: url(x.png) }",
}
FAULTS = {
    "a page": ("index.html", '<a href="gone.html">', "index.html: there is no gone.html"),
    "an anchor": ("index.html", '<a href="b/c.html#gone">', "index.html: there is no b/c.html#gone"),
    "an anchor of the page's own": ("b/c.html", '<a href="#gone">', "b/c.html: there is no #gone"),
    "an image": ("index.html", '<img src="gone.png">', "index.html: there is no gone.png"),
    "one of several images": ("b/c.html", '<source srcset="y.png 1x, z.png">', "b/c.html: there is no z.png"),
    "a script from elsewhere": (
        "index.html",
        '<script src="https://cdn.example/x.js">',
        "index.html: showing it fetches https://cdn.example/x.js",
    ),
    "an image from elsewhere": (
        "index.html",
        '<img src="//cdn.example/x.png">',
        "index.html: showing it fetches //cdn.example/x.png",
    ),
    "a style from elsewhere": (
        "index.html",
        '<link rel="preconnect" href="https://fonts.example">',
        "index.html: showing it fetches https://fonts.example",
    ),
    "a font from elsewhere": (
        "s.css",
        "@font-face { src: url('https://fonts.example/x.woff2') }",
        "s.css: fetches from another host",
    ),
}


def site(folder: Path, more: Mapping[str, str]) -> list[str]:
    for name, text in SITE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + more.get(name, ""))
    return links.faults(folder)


def test_a_site_without_faults(tmp_path: Path) -> None:
    assert site(tmp_path, {}) == []


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_of_the_built_site_is_found(tmp_path: Path, case: str) -> None:
    file, added, fault = FAULTS[case]
    assert site(tmp_path, {file: added}) == [fault]


def git(folder: Path, *arguments: str) -> str:
    # Ignore the user's git configuration.
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "HOME": str(folder)}
    argv = ["git", "-c", "user.name=x", "-c", "user.email=x@y", "-C", str(folder), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def test_it_is_published_as_one_commit(tmp_path: Path) -> None:
    remote, repository = tmp_path / "remote", tmp_path / "repository"
    for folder, flags in ((remote, ["--bare"]), (repository, [])):
        folder.mkdir()
        git(folder, "init", "--quiet", *flags)
    git(repository, "remote", "add", "origin", str(remote))
    (repository / ".gitignore").write_text("build/\n*.html\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "first")
    built = repository / "build" / "site"
    (built / "_static").mkdir(parents=True)
    (built / "_static" / "x.css").write_text("")
    (built / "index.html").write_text("1")
    publish(repository, built, "origin", "gh-pages")
    (built / "index.html").write_text("2")
    commit = publish(repository, built, "origin", "gh-pages")
    assert git(remote, "rev-parse", "gh-pages") == commit
    assert git(remote, "rev-list", "--count", "gh-pages") == "1"
    assert git(remote, "ls-tree", "-r", "--name-only", "gh-pages").split() == ["_static/x.css", "index.html"]
    assert git(remote, "show", "gh-pages:index.html") == "2"
    # Nothing else has changed.
    assert git(repository, "status", "--porcelain") == ""
    with pytest.raises(ReleaseError, match="git push"):
        publish(repository, built, "nowhere", "gh-pages")
