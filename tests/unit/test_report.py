"""How an error in a file is shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from entrypoint.migration.script.parser import SyntaxComplaint
from entrypoint.migration.script.report import Position, excerpt, outline, position_of, render, render_complaint

if TYPE_CHECKING:
    from entrypoint.database.answers import StatementError

TEXT = "one\ntwo\n\nfour"
SPOTS = {
    0: Position(1, 0, "one"),
    2: Position(1, 2, "one"),
    3: Position(1, 3, "one"),  # the line break belongs to the line that it ends
    4: Position(2, 0, "two"),
    8: Position(3, 0, ""),
    9: Position(4, 0, "four"),
    13: Position(4, 4, "four"),  # the end of the text, where PostgreSQL points "at end of input"
    99: Position(4, 4, "four"),
    -5: Position(1, 0, "one"),
}


@pytest.mark.parametrize("offset", SPOTS)
def test_spot(offset: int) -> None:
    assert position_of(TEXT, offset) == SPOTS[offset]


def test_spot_of_nothing() -> None:
    assert position_of("", 0) == Position(1, 0, "")
    assert position_of("\n", 1) == Position(2, 0, "")


def test_the_caret_stands_under_its_column() -> None:
    assert excerpt(Position(12, 7, "SELECT nope"), caret=True) == ["LINE 12: SELECT nope", "                ^"]
    assert excerpt(Position(12, 7, "SELECT nope"), caret=False) == ["LINE 12: SELECT nope"]


def test_a_tab_is_one_column_wide() -> None:
    line, caret = excerpt(Position(1, 2, "\t\tnope"), caret=True)
    assert line[caret.index("^")] == "n"


@pytest.mark.parametrize("column", [0, 1, 54, 55, 56, 200, 444, 445, 446, 498, 499])
def test_a_long_line_is_cut_around_the_caret(column: int) -> None:
    text = "".join(f"{number:03d}/" for number in range(125))
    line, caret = excerpt(Position(3, column, text), caret=True)
    assert len(line) <= 130
    assert line[caret.index("^")] == text[column]
    assert line.startswith("LINE 3: ")
    assert ("..." in line[:12]) == (text[:8] not in line)
    assert line.endswith("...") == (text[-8:] not in line)


def test_the_end_of_a_long_line() -> None:
    line, caret = excerpt(Position(1, 500, "x" * 500), caret=True)
    assert caret.index("^") == len(line)


def error(**fields: str | None) -> StatementError:
    facts = {"severity": "ERROR", "primary": "no", "sqlstate": "P0001", "detail": None, "hint": None, "context": None}
    return cast("StatementError", SimpleNamespace(**{**facts, **fields}))


def test_a_report_with_everything() -> None:
    given = error(detail="d", hint="h", context="c1\nc2")
    assert render("001_a.sql", TEXT, given, statement_start=0, offset=5).splitlines() == [
        "001_a.sql:2: ERROR:  no",
        "LINE 2: two",
        "         ^",
        "SQLSTATE:  P0001",
        "DETAIL:  d",
        "HINT:  h",
        "CONTEXT:  c1",
        "c2",
    ]


def test_a_report_without_a_position_shows_the_statement() -> None:
    assert render("001_a.sql", TEXT, error(), statement_start=4, offset=None).splitlines() == [
        "001_a.sql:2: ERROR:  no",
        "LINE 2: two",
        "SQLSTATE:  P0001",
    ]


def test_a_report_of_what_is_nowhere_in_the_file() -> None:
    assert render("001_a.sql", TEXT, error(severity="FATAL"), statement_start=None, offset=None).splitlines() == [
        "001_a.sql: FATAL:  no",
        "SQLSTATE:  P0001",
    ]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT  1", "SELECT 1"),
        ("CREATE TABLE a (\n    b text\n)", "CREATE TABLE a ( …"),
        (f"SELECT '{'x' * 200}'", f"SELECT '{'x' * 100} …"),
        ("ALTER ROLE a PASSWORD 'b'", "ALTER … (not shown: the statement may contain a password)"),
        ("ALTER ROLE a\nPASSWORD 'b'", "ALTER … (not shown: the statement may contain a password)"),
        ("'password'", "… (not shown: the statement may contain a password)"),
        ("CREATE TABLE a (password text)", "CREATE TABLE a (password text)"),
    ],
)
def test_outline(statement: str, expected: str) -> None:
    assert outline(statement) == expected


def test_a_complaint_about_what_may_be_a_password_quotes_nothing() -> None:
    text = "SELECT 1;\nALTER ROLE a PASSWORD b;"
    complaint = SyntaxComplaint('syntax error at or near "b"', text.index("b;"), 2)
    message, lines = render_complaint(text, "ALTER ROLE a PASSWORD b", complaint)
    assert message == 'syntax error at or near "***"'
    assert lines == ["LINE 2: (not shown: the statement may contain a password)"]
    assert render_complaint(text, "ALTER ROLE a", complaint) == (
        'syntax error at or near "b"',
        ["LINE 2: ALTER ROLE a PASSWORD b;", "                              ^"],
    )
