from __future__ import annotations

from tests.cases import NAMES, tests_by_case


def test_only_cases_that_there_are_are_named() -> None:
    assert set(tests_by_case()) <= set(NAMES)
