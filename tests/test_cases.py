from __future__ import annotations

from kit.cases import NAMES, holders_of_cases


def test_only_cases_that_there_are_are_named() -> None:
    assert set(holders_of_cases()) <= set(NAMES)
