"""Where a large file is cut into messages."""

from __future__ import annotations

from itertools import pairwise

import pytest

from entrypoint.migration.apply.transactional import Piece, cut
from entrypoint.migration.script.scanner import scan

STATEMENT = "SELECT 'a; b' /* ; */;\n"


def pieces(text: str, size: int) -> list[str]:
    """Return the pieces as text, having seen that nothing is lost and each begins where it says."""
    statements = scan(text).statements
    found = cut(text, statements, size)
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
    assert cut(STATEMENT, scan(STATEMENT).statements) == (Piece(0, len(STATEMENT), 0, 1),)
    assert cut("", ()) == (Piece(0, 0, 0, 0),)


def test_a_statement_is_never_cut() -> None:
    long = f"SELECT '{'x;' * 500}';\n"
    assert pieces(long + STATEMENT, 10) == [long, STATEMENT]


@pytest.mark.parametrize(
    ("setting", "whole"),
    [
        ("SET standard_conforming_strings = on", False),
        ("set Standard_Conforming_Strings to 'on'", False),
        ("SET standard_conforming_strings = off", True),
        ("SELECT set_config('standard_conforming_strings', 'off', false)", True),
        ("SET standard_conforming_strings = on; SET standard_conforming_strings = 'off'", True),
    ],
)
def test_a_file_that_changes_how_strings_are_read_is_whole_from_there_on(setting: str, whole: bool) -> None:  # noqa: FBT001
    text = f"{STATEMENT}{setting};\n{STATEMENT}{STATEMENT}"
    found = pieces(text, 1)
    assert found[0] == STATEMENT
    assert ("off" in found[-1]) is whole
    assert len(found) == (len(scan(text).statements) if not whole else 2 + setting.count(";"))
