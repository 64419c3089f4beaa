"""No text leaves it to the reader whether something is one or many."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.text

ROOT = Path(__file__).parents[1]
TEXTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(
            path
            for folder in ("entrypoint", "demo", "benchmarks")
            for path in (ROOT / folder).rglob("*")
            if path.suffix in {".py", ".sql", ".html", ".js", ".md"}
            # Not ours: what `make bench-peers` and `make tools` install.
            and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        ),
    ]
)


def test_there_are_texts() -> None:
    names = {str(path.relative_to(ROOT)) for path in TEXTS}
    assert {
        "README.md",
        "docs/commands/check.md",
        "entrypoint/startup.py",
        "entrypoint/migration/ledger/sql/tables.sql",
    } <= names


@pytest.mark.case("D8")
def test_no_noun_has_its_plural_in_brackets() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in TEXTS
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if "(s)" in line
    ]
    assert found == []
