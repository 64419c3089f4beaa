"""How a file's strings are read, and the text of the same length that the scanner gets."""

from __future__ import annotations

import pytest

from entrypoint.migration.script.scanner import scan
from entrypoint.migration.script.statements import advise
from entrypoint.migration.script.strings import by_the_standard

OFF = "SET standard_conforming_strings = off;"
ON = "SET standard_conforming_strings = on;"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"'it\'s'", "'itxxs'"),
        (r"'\\'", "'xx'"),
        (r"'\\\''", "'xxxx'"),
        (r"'a''\''", "'a''xx'"),
        (r"'\a'", r"'\a'"),
        (r"E'\''", r"E'\''"),
        (r"e'a'" + "\n" + r"'\'' 'b\''", r"e'a'" + "\n" + r"'\'' 'bxx'"),
        (r"B'\' '\''", r"B'\' 'xx'"),
        (r"x'1'" + "\n" + r"'\' '\''", r"x'1'" + "\n" + r"'\' 'xx'"),
        (r"N'\''", "N'xx'"),
        (r"ab'\''", "ab'xx'"),
        ("'a' -- it's\n'\\''", "'a' -- it's\n'xx'"),
        (r"/* ' /* \' */ */ '\''", r"/* ' /* \' */ */ 'xx'"),
        ("\"'\\\" '\\'' ", "\"'\\\" 'xx' "),
        (r"$a$'\'$a$ '\''", r"$a$'\'$a$ 'xx'"),
        ("'\\\n\\''", "'x\nxx'"),
        (r"SELECT '\'; COMMIT; --", r"SELECT 'xxxxxxxxxxxxxx"),
        (r"'\'' /* '\''", r"'xx' /* '\''"),
        (r"'\'' $a$ '\''", r"'xx' $a$ '\''"),
        (r"- '\'' / '\'' $1 '\'' é'\''", r"- 'xx' / 'xx' $1 'xx' é'xx'"),
    ],
)
def test_a_text_whose_strings_end_by_the_standard(text: str, shown: str) -> None:
    standard, (reading,) = by_the_standard(text, escapes=True)
    assert standard == shown
    assert reading.escapes
    assert by_the_standard(text, escapes=False)[0] is text


@pytest.mark.parametrize(
    ("setting", "escapes"),
    [
        (OFF, True),
        ("SET SESSION standard_conforming_strings TO 'off';", True),
        ("SET LOCAL Standard_Conforming_Strings = fal;", True),
        ("set /* ; */ standard_conforming_strings = 0;", True),
        (f"{OFF} {ON}", False),
        (f"{OFF} RESET standard_conforming_strings;", False),
        (f"{OFF} RESET ALL;", False),
        (f"{OFF} DISCARD ALL;", False),
        (f"{OFF} SET standard_conforming_strings TO DEFAULT;", False),
        (f"{OFF} SET standard_conforming_strings = maybe;", True),
        (f"SELECT '{OFF}';", False),
        (f"-- {OFF}\n", False),
        ("SELECT set_config('standard_conforming_strings', 'off', false);", True),
        ("select pg_catalog . Set_Config ( 'Standard_Conforming_Strings' , 'of' , TRUE ) ;", True),
        (f"{OFF} SELECT set_config('standard_conforming_strings', 'on', false);", False),
        ("SELECT set_config('standard_conforming_strings', 'off', false) WHERE false;", False),
        ("DO $$ BEGIN SET standard_conforming_strings = off; END $$;", False),
        ("SET standard_conforming_strings.x = off;", False),
    ],
)
def test_how_strings_are_read_after(setting: str, escapes: bool) -> None:  # noqa: FBT001
    _, readings = by_the_standard(f"{setting} SELECT 1;", escapes=False)
    assert readings[-1].escapes is escapes


def test_what_the_session_reads_is_what_a_reset_goes_back_to() -> None:
    text = rf"SELECT '\''; {ON} SELECT '\'; RESET ALL; SELECT '\''"
    standard, readings = by_the_standard(text, escapes=True)
    assert [reading.escapes for reading in readings] == [True, False, True]
    assert standard == rf"SELECT 'xx'; {ON} SELECT '\'; RESET ALL; SELECT 'xx'"
    assert len(scan(standard).statements) == 5


def test_set_local_is_over_at_once_where_each_statement_is_on_its_own() -> None:
    for local in (
        "SET LOCAL standard_conforming_strings = off",
        "SELECT set_config('standard_conforming_strings', 'off', true)",
    ):
        assert len(by_the_standard(f"{local}; SELECT 1", escapes=False, alone=True)[1]) == 1


def test_a_commit_in_what_looks_like_a_string_is_found_and_one_in_a_string_is_not() -> None:
    hides = r"SELECT '\''; COMMIT AND CHAIN; SELECT ' AS a -- '"
    assert [advise(hides, escapes=escapes).faults == () for escapes in (False, True)] == [True, False]
    shows = r"SELECT 'a\'; COMMIT AND CHAIN; --'"
    assert [advise(shows, escapes=escapes).faults == () for escapes in (False, True)] == [False, True]


def test_the_text_that_is_sent_is_the_file_s_own() -> None:
    text = "BEGIN;\nINSERT INTO t VALUES ('it\\'s');\nCOMMIT;\n"
    advice = advise(text, escapes=True)
    assert advice.body == "      \nINSERT INTO t VALUES ('it\\'s');\n       \n"
    assert (advice.wrapped, advice.odd_strings, advice.parsed, advice.disputed) == (True, True, True, False)
    assert not advise("SELECT 'a\\n'", escapes=True).odd_strings


def test_a_block_cannot_say_how_it_is_read() -> None:
    text = f"-- entrypoint: no-transaction\nBEGIN; {OFF} SELECT 1; COMMIT;\n"
    (fault,) = advise(text).faults
    assert "set it before BEGIN" in fault.message
    assert not advise(f"-- entrypoint: no-transaction\n{OFF} BEGIN; SELECT 1; COMMIT;\n").faults
    assert not advise(text.replace(OFF, ON)).faults


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (f"{OFF} SAVEPOINT a; {ON} ROLLBACK TO a; CREATE TABLE b AS SELECT 'a\\'; CREATE TABLE c(); --' AS d", True),
        (f"BEGIN; SAVEPOINT a; {OFF} ROLLBACK TO a; COMMIT; SELECT 'a\\n'", True),
        (f"{OFF} SAVEPOINT a; ROLLBACK TO a; SELECT 'a\\';'", False),
        (f"SAVEPOINT a; {OFF} SELECT 'a\\';'; ROLLBACK TO a; SELECT 1", False),
    ],
)
def test_what_a_rollback_may_take_back_is_not_relied_upon(text: str, *, refused: bool) -> None:
    faults = [fault.message for fault in advise(text).faults]
    assert [fault for fault in faults if "may undo that" in fault] == (faults if refused else [])
    assert bool(faults) == refused
