from __future__ import annotations

import pytest

from kit.cases import FOLDER, NAMES, holders_of_cases, table

pytestmark = pytest.mark.text


def test_only_cases_that_there_are_are_named() -> None:
    assert set(holders_of_cases()) <= set(NAMES)


def test_the_table_is_up_to_date() -> None:
    """If this fails, run `python -m tests.kit.cases > tests/CASES.md`."""
    assert (FOLDER / "CASES.md").read_text() == table() + "\n"
