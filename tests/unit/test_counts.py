from __future__ import annotations

import pytest

from entrypoint.counts import count


@pytest.mark.case("D8")
@pytest.mark.parametrize(
    ("number", "nouns", "words"),
    [
        (0, ("migration",), "0 migrations"),
        (1, ("migration",), "1 migration"),
        (2, ("migration",), "2 migrations"),
        (0, ("row is", "rows are"), "0 rows are"),
        (1, ("row is", "rows are"), "1 row is"),
        (3, ("row is", "rows are"), "3 rows are"),
    ],
)
def test_a_number_and_its_noun_agree(number: int, nouns: tuple[str, ...], words: str) -> None:
    assert count(number, *nouns) == words
