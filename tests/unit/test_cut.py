"""Where a large file is cut into messages."""

from __future__ import annotations

from itertools import pairwise

import pytest

from entrypoint.migration.apply.transactional import Piece, cut_into_pieces
from entrypoint.migration.script.scanner import scan
from entrypoint.migration.script.strings import by_the_standard

STATEMENT = "SELECT 'a; b' /* ; */;\n"


def pieces(text: str, size: int) -> list[str]:
    """Return the pieces as text, after checking that nothing is lost and each starts where it says."""
    standard, readings = by_the_standard(text, escapes=False)
    statements = scan(standard).statements
    found = cut_into_pieces(text, statements, readings, size)
    assert found[0].start == 0
    assert found[-1].end == len(text)
    for before, after in pairwise(found):
        assert before.end == after.start == statements[after.first].start
        assert before.after == after.first
    return [text[piece.start : piece.end] for piece in found]


@pytest.mark.parametrize("size", [1, 10, len(STATEMENT), 1000])
def test_between_statements(size: int) -> None:
    text = f"-- a comment\n{STATEMENT * 5}-- and another\n{STATEMENT * 3}-- the end\n"
    found = pieces(text, size)
    assert "".join(found) == text
    assert len(found) == (1 if size == 1000 else 8)
    for piece in found:
        assert scan(piece).statements


def test_a_small_file_and_an_empty_one_are_one_piece() -> None:
    assert cut_into_pieces(STATEMENT, scan(STATEMENT).statements) == (Piece(0, len(STATEMENT), 0, 1),)
    assert cut_into_pieces("", ()) == (Piece(0, 0, 0, 0),)


def test_a_statement_is_never_cut() -> None:
    long = f"SELECT '{'x;' * 500}';\n"
    assert pieces(long + STATEMENT, 10) == [long, STATEMENT]


def test_a_small_file_is_cut_where_it_says_how_strings_are_read() -> None:
    first, second = (
        "SELECT 1;\nSET standard_conforming_strings = off;\n",
        "SELECT 'a\\'b';\nSELECT set_config('', '');\n",
    )
    third = "RESET standard_conforming_strings;\n"
    assert pieces(f"{first}{second}{third}{STATEMENT}", 1000) == [first, second + third, STATEMENT]
