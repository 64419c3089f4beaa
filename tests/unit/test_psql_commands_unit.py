"""psql's backslash commands in a text: which are skipped, which are refused, and where each one ends."""

from __future__ import annotations

import time

import pytest

from entrypoint.migration.script.statements import advise


def shown(text: str) -> list[str]:
    """Return the commands that are skipped in `text`, with their lines."""
    return [f"{command.line}: {command.shown}" for command in advise(text).commands]


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("\\restrict k\nselect 1;\n\\unrestrict k", [r"1: \restrict", r"3: \unrestrict"]),
        (
            "\\set ON_ERROR_STOP\n\\set ON_ERROR_STOP on\n\\set 'ON_ERROR_STOP' 1",
            [rf"{n}: \set ON_ERROR_STOP" for n in (1, 2, 3)],
        ),
        ("\\set ON_ERROR_STOP t r UE", [r"1: \set ON_ERROR_STOP"]),
        ("\\echo `not run` 'here'".replace("`", "'"), [r"1: \echo"]),
        ("\\echo '`' \"`\" it''s -- no comment\n\\qecho /* nor this\nselect 1", [r"1: \echo", r"2: \qecho"]),
        ("\\echo\n\\echo\\echo\\\\ select 1", [r"1: \echo", r"2: \echo", r"2: \echo"]),
        ("\\echo :name :'name' $$ ( ; \x0b\n", [r"1: \echo"]),
        ("\\timing\n\\timing on\\pset pager off \\\\ select 1;", [r"1: \timing", r"2: \timing", r"2: \pset"]),
        ("\\encoding UTF8\n\\encoding 'utf-8'\n\\encoding Unicode", [rf"{n}: \encoding" for n in (1, 2, 3)]),
        ("\\unset name other\n\\x off\n\\x off;", [r"1: \unset", r"2: \x", r"3: \x"]),
        ("\\x\n\\x on\n\\x AUTO\n\\encoding\n\\warn a", [r"1: \x", r"2: \x", r"3: \x", r"4: \encoding", r"5: \warn"]),
        (
            "\\set QUIET\n\\set QUIET 1\n\\set VERBOSITY Verbose\n\\set ECHO all\n\\set SHOW_CONTEXT never\n\\set",
            [
                r"1: \set QUIET",
                r"2: \set QUIET",
                r"3: \set VERBOSITY",
                r"4: \set ECHO",
                r"5: \set SHOW_CONTEXT",
                r"6: \set",
            ],
        ),
        ("-- a\n;\\c\n\\connect - - -\nselect 1", [r"2: \c", r"3: \connect"]),
        ("select '\\echo', $$\n\\echo\n$$, E'\\\\', \"\\x off\" -- \\echo\n/* \\echo */", []),
        ("copy t from stdin;\n\\echo\n\\.\n", []),
        # in the middle of a statement
        ("select 1,\n\\echo 'a;b'\n2;", [r"2: \echo"]),
        ("select (1 \\timing \\\\ ); select 2", [r"1: \timing"]),
        ("create function f() returns int begin atomic\n\\echo end;\nselect 1; end; select 2", [r"2: \echo"]),
    ],
)
def test_what_is_left_out(text: str, commands: list[str]) -> None:
    assert shown(text) == commands


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("\\set ON_ERROR_STOP off", "a migration ends at its first error"),
        ("\\unset ON_ERROR_STOP", "a migration ends at its first error"),
        ("\\set ON_ERROR_STOP on;", "a migration ends at its first error"),
        ("\\set ON_ERROR_STOP :x", "a migration ends at its first error"),
        ("\\set AUTOCOMMIT off", "write the value where it is used"),
        ("\\unset AUTOCOMMIT", "remove it"),
        ("\\unset :name", "remove it"),
        ("\\set name value", "write the value where it is used"),
        ("\\encoding LATIN1", "save the file as UTF-8"),
        ("\\encoding :e", "save the file as UTF-8"),
        ("\\x perhaps", "remove it"),
        ("\\x :on", "remove it"),
        ("\\connect other", "a migration stays in the database"),
        ("CREATE DATABASE a;\n\\connect a", "If pg_dump wrote the file, write it again without --create (-C)"),
        ("\\connect - somebody", "a migration stays in the database"),
        ("select 1;\n\\connect -", "a migration stays in the database"),
        ("select\n\\c\n1;", "a migration stays in the database"),
        ("\\echo `date`", "the text in backquotes"),
        ("\\set ON_ERROR_STOP `echo on`", "the text in backquotes"),
        ("\\timing on `date`", "the text in backquotes"),
        ("\\echo it's\nselect 'a'", "close its quote on the same line, with '"),
        ('\\echo "\n', 'close its quote on the same line, with "'),
        ("sel\\echo\\\\ect 1", "put it on a separate line"),
        ("select E'a'\n\\echo ; \n'b\\'; commit; \n';\nselect 2", "write it above the statement"),
        ("select 'a' -- b\n\\echo\n/* c */ 'd'", "write it above the statement"),
        ("\\echos", "remove it"),
        ("\\Echo", "remove it"),
        ("\\echo'a'", "remove it"),
        ("\\warning a", "remove it"),
        ("\\set VERBOSITY loud", "write the value where it is used"),
        ("\\set VERBOSITY", "write the value where it is used"),
        ("\\set QUIET :'x'", "write the value where it is used"),
        ("\\set ECHO `date`", "write the value where it is used"),
        ("\\gset", "remove it"),
        ("\\copy t from x", "use INSERT"),
        ("\\:", "remove it"),
        ("\\", "remove it"),
    ],
)
def test_what_is_refused(text: str, remedy: str) -> None:
    fault, *_ = advise(text).faults
    assert fault.offset == text.index("\\")
    assert "the server does not understand it" in fault.message
    assert remedy in fault.message


def test_a_password_in_a_command_is_not_shown() -> None:
    for text in ("\\connect postgres://me:secret@host", "\\c'postgres://me:secret@host'", "\\password secret"):
        (fault,) = advise(text).faults
        assert "secret" not in fault.message


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\r"])
def test_only_the_command_is_taken_out_of_the_text_that_is_sent(separator: str) -> None:
    lines = ["\\restrict é'a'", "begin;", "select 1, \\echo x \\\\ 2", "\\timing", ", 'é\\echo';", "commit;"]
    sent = ["              ", "      ", "select 1,            2", "       ", ", 'é\\echo';", "       "]
    assert advise(separator.join(lines)).body == separator.join(sent)


def test_directives_may_stand_below() -> None:
    advice = advise("\\restrict k\n-- entrypoint: no-transaction\n\\echo\n-- entrypoint: timeout = 1s\nvacuum")
    assert not advice.faults
    assert (advice.no_transaction, advice.directives.timeout) == (True, 1)


def test_with_escapes_in_strings_too() -> None:
    text = "\\echo /* \"'\" 'it\\'s'\nselect 'it\\'s'; \\echo 'a\\'\\\\ select ';'\n"
    assert advise(text, escapes=False).faults
    text = text.replace("'a\\'\\\\", "'a' \\\\")
    advice = advise(text, escapes=True)
    assert not advice.faults
    assert [text[s.start : s.end] for s in advice.statements] == ["select 'it\\'s'", "select ';'"]
    assert advice.body == "\n".join((" " * len(text.split("\n")[0]), "select 'it\\'s';              select ';'", ""))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("unit", ["\\", "\\echo ", "\\echo\n", "\\echo '", "\\echo \\\\ a ", "a\\echo 'b'\n", "\\c\\"])
def test_it_takes_no_more_than_linear_time(unit: str) -> None:
    began = time.process_time()
    advise(unit * (200_000 // len(unit)), parse_limit=0)
    assert time.process_time() - began < 5
