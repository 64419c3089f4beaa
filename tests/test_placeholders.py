"""No page of the documentation still has a placeholder instead of a figure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.text

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "k8s").rglob("*.md")])
# What a page contains until somebody has measured.
PLACEHOLDERS = re.compile(r"\b(FIGURE|COMPRESSED|MEASURED|TODO|TBD|FIXME)\b")


def test_there_are_pages() -> None:
    assert {"README.md", "docs/deploying.md", "k8s/README.md"} <= {str(page.relative_to(ROOT)) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_its_figures(page: Path) -> None:
    assert PLACEHOLDERS.findall(page.read_text()) == []
