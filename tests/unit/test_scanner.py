"""The scanner against PostgreSQL's lexical rules: where statements end, what is wrong, and that it always finishes."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

import entrypoint
from entrypoint.migration.script.scanner import directives, scan, skip, words


def texts(script: str) -> list[str]:
    """Return the statements of a script without errors."""
    found = scan(script)
    assert found.faults == ()
    return [script[statement.start : statement.end] for statement in found.statements]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", []),
        (" \n\t\f\v;; ; -- nothing\n /* nothing; */ ;", []),
        ("select 1", ["select 1"]),
        ("select 1 ; select 2 /* ; */ -- ;\n ;", ["select 1", "select 2"]),
        ("/* a */ select 1 -- b", ["select 1"]),
        # strings
        ("select ';'; x", ["select ';'", "x"]),
        ("select 'a'';''b'; x", ["select 'a'';''b'", "x"]),
        (r"select 'a\'; x", [r"select 'a\'", "x"]),
        (r"select E'a\';b'; x", [r"select E'a\';b'", "x"]),
        (r"select e'a\\'; x", [r"select e'a\\'", "x"]),
        (r"select E''';\''; x", [r"select E''';\''", "x"]),
        (r"select nae'a\'; x", [r"select nae'a\'", "x"]),
        (r"select 1e'\';'; x", [r"select 1e'\';'", "x"]),
        ("select E'a' -- c\n '\\';'; x", ["select E'a' -- c\n '\\';'", "x"]),
        ("select E'a'  '\\'; x", ["select E'a'  '\\'", "x"]),
        ("select E'a' -- c'\n , '\\'; x", ["select E'a' -- c'\n , '\\'", "x"]),
        (r"select U&'\0041;', u&';', B'0;1', x';', N';'; x", [r"select U&'\0041;', u&';', B'0;1', x';', N';'", "x"]),
        # quoted identifiers
        ('select ";"""; x', ['select ";"""', "x"]),
        (r'select "\"; x', [r'select "\"', "x"]),
        ('select U&"\\0041;"; x', ['select U&"\\0041;"', "x"]),
        ("select \"'\", ';'; x", ["select \"'\", ';'", "x"]),
        # dollar quotes
        ("select $$;'$$; x", ["select $$;'$$", "x"]),
        ("select $a$ $$;$b$ ; $a$; x", ["select $a$ $$;$b$ ; $a$", "x"]),
        ("select $a$;$A$;$a$; x", ["select $a$;$A$;$a$", "x"]),
        ("select $ä1_$;$ä1_$; x", ["select $ä1_$;$ä1_$", "x"]),
        ("select a$$; select b$$; x", ["select a$$", "select b$$", "x"]),
        ("select a$b$; select c$b$; x", ["select a$b$", "select c$b$", "x"]),
        ("select 1$$;$$; x", ["select 1$$;$$", "x"]),
        ("select $1, $2$$;$$; x", ["select $1, $2$$;$$", "x"]),
        ("select $1$; select $1$; x", ["select $1$", "select $1$", "x"]),
        ("select $a; select $a; x", ["select $a", "select $a", "x"]),
        ("select '$$'; select '$$'", ["select '$$'", "select '$$'"]),
        # comments
        ("select 1 /* ; /* ; */ ; */; x", ["select 1", "x"]),
        ("select 1 /*/ ; */; x", ["select 1", "x"]),
        ("select 1 /**/; x", ["select 1", "x"]),
        ("select 1 /***/*2/* ; **/; x", ["select 1 /***/*2", "x"]),
        ("select '/*'; select '*/'", ["select '/*'", "select '*/'"]),
        ("select 1 --/*\n; x --*/", ["select 1", "x"]),
        ("select 1 /*--*/; x", ["select 1", "x"]),
        ("select 1 -- ;\r; x", ["select 1", "x"]),
        ("select 4---2;\n; x", ["select 4", "x"]),
        ("select 4 - -2, 4/-2, a->>'b', a*/**/b; x", ["select 4 - -2, 4/-2, a->>'b', a*/**/b", "x"]),
        ("select @--;\n1; x", ["select @--;\n1", "x"]),
        # parentheses
        ("create rule r as on insert to t do (a; b); x", ["create rule r as on insert to t do (a; b)", "x"]),
        ("select (((((';', \")\" /*)*/ -- )\n;)))))); x", ["select (((((';', \")\" /*)*/ -- )\n;))))))", "x"]),
        ("select ); x", ["select )", "x"]),
        # psql's variables are no error here; casts and slices look like them
        ("select a::int, :name, :'name', b[1:2]; x", ["select a::int, :name, :'name', b[1:2]", "x"]),
        ("  sélect\u00a01; ärger", ["sélect\u00a01", "ärger"]),
    ],
)
def test_statements_end_where_postgresql_ends_them(script: str, expected: list[str]) -> None:
    assert texts(script) == expected


ATOMIC = """create or replace /* a */ function f(a int default (1)) returns int begin atomic
    select case when a > 1 then case a when 2 then 1 end end; /* end; */
    select (case when true then 1 end), t.end, t.case as case from t as end where x = 'end';
    select "end"; begin;
end"""


@pytest.mark.parametrize(
    "statement",
    [
        ATOMIC,
        "create procedure p() begin atomic end",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC; SELECT 1; END",
        "create function begin() returns int as $$ begin; end; $$ language plpgsql",
        "create function f() returns int return case when true then 1 end",
        "create function f() returns int as 'begin atomic;' language sql",
    ],
)
def test_a_routine_is_one_statement(statement: str) -> None:
    assert texts(f"{statement}; select 1; commit;") == [statement, "select 1", "commit"]


@pytest.mark.case("A6")
@pytest.mark.parametrize(
    "body",
    [
        "select 1 case;",
        "select 1 end;",
        "select case when true then 1. end;",
        "select case when true then 1 end case;",
        "select t.end, t.case from t end;",
        "select (case when true then 1 end);",
        "create rule r as on insert to t do (select 1; select 2);",
        "create function g() returns int begin atomic select 1; end;",
        "select begin atomic;",
        "",
        "select 1; /* end */ -- end\n",
    ],
)
def test_where_a_body_ends(body: str) -> None:
    """The END that closes it is where a statement could begin; the server reads all of these the same way."""
    function = f"create function f() returns int begin atomic {body} end"
    assert texts(f"{function}; commit; select 1") == [function, "commit", "select 1"]


def test_begin_atomic_matters_only_in_a_routine() -> None:
    assert texts("begin atomic; select 1; end; create table begin (atomic int); create view v as select 1") == [
        "begin atomic",
        "select 1",
        "end",
        "create table begin (atomic int)",
        "create view v as select 1",
    ]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("begin", ("BEGIN",)),
        ("/* x */ start -- y\n transaction/**/read only", ("START", "TRANSACTION", "READ", "ONLY")),
        ("insert into t values (1)", ("INSERT",)),
        ("(select 1)", ("(", "SELECT", "1", ")")),
        (
            'alter table "A b".t detach partition p concurrently',
            ("ALTER", "TABLE", '"', ".", "T", "DETACH", "PARTITION", "P", "CONCURRENTLY"),
        ),
        (
            "set a = 'off', 'somewhat longer', E'\\'', $$x$$, 1.5, $1",
            (*("SET", "A", "=", "'OFF'", ",", "'", ",", "'", ",", "$", ",", "1.5", ",", "$"),),
        ),
        ("beg\u0131n", ("beg\u0131n",)),
        ("a " * 100, ("A",) * 24),
    ],
)
def test_words(script: str, expected: tuple[str, ...]) -> None:
    (statement,) = scan(script).statements
    assert statement.words == expected


def test_lines_and_offsets() -> None:
    script = "\n-- é\n/*\n*/ select 'é\n';\n\nselect\n2"
    assert [(found.start, found.end, found.line) for found in scan(script).statements] == [(12, 23, 4), (26, 34, 7)]


@pytest.mark.parametrize(
    ("script", "faults"),
    [
        ("select 1;\n\\connect other\nselect 2", [(2, r"psql command \connect: the server does not understand it")]),
        ("\\restrict abc'\nselect 2;\n\\unrestrict abc'", [(1, r"\restrict"), (3, r"\unrestrict")]),
        ("\\echo it's\nselect 2", [(1, "close its quote on the same line")]),
        (
            "select 1;\n\\echo `date`",
            [(2, r"psql command \echo: the server does not understand it; remove it: psql would")],
        ),
        ("select 1 \\gset pre'\nselect 2", [(1, r"\gset")]),
        ("\\i other.sql", [(1, "paste the other file's contents here")]),
        ("select 1\\; select 2;", [(1, r"psql command \;")]),
        ("select 1 \\\\ select 2", [(1, "psql command \\\\")]),
        ("\\", [(1, "psql command \\:")]),
        (
            "copy t (a, b) from stdin;\n1\tit's\n2\t\\N\n\\.\n\nselect 'a\n",
            [
                (1, "COPY FROM STDIN"),
                (6, "this string is never closed"),
            ],
        ),
        ('COPY t FROM STDIN WITH (FORMAT csv);\r\n"a\n\\.\r\nselect 1;', [(1, "use INSERT, or COPY FROM a file")]),
        ("copy t from stdin;\nselect 1;\n\\i", [(1, "COPY FROM STDIN"), (3, r"\i")]),
        ("copy binary t from stdin", [(1, "COPY FROM STDIN")]),
        ("copy (select a from stdin) to stdout", [(1, "COPY TO STDOUT")]),
        ("copy t to stdin", [(1, "COPY TO STDOUT")]),
        ("x;\nselect 'a''\n;", [(2, "this string is never closed: end it with '")]),
        ("x;\nselect E'a\\'\n;", [(2, "a backslash before a quote hides it")]),
        ("x;\nselect E'a'\n'\\';", [(2, "this string is never closed")]),
        ('x;\nselect "a""\n;', [(2, 'this quoted identifier is never closed: end it with "')]),
        ("x;\ndo $a$\n$b$;", [(2, "this dollar-quoted string is never closed: end it with $a$")]),
        ("x;\n/* /* \n */", [(2, "this comment is never closed: end it with */")]),
        ("'", [(1, "this string is never closed")]),
        ("create /*", [(1, "this comment is never closed")]),
        ("a\n\0b\0", [(2, "2 NUL characters")]),
    ],
)
def test_faults(script: str, faults: list[tuple[int, str]]) -> None:
    found = scan(script).faults
    assert [fault.line for fault in found] == [line for line, _ in faults]
    for fault, (_, message) in zip(found, faults, strict=True):
        assert message in fault.message


@pytest.mark.parametrize(
    "script",
    [
        "copy t from '/stdin'; copy t to '/stdout'; copy t to program 'cat'",
        "copy stdin from '/x'",
        "copy (select 1 from stdin) to '/x'",
        "copy \"from\" from '/x'",
        r"""select '\x', '\', E'\\', $$\x$$, "\" -- \x""",
        "select :name, :'name', :\"name\"",
    ],
)
def test_no_faults(script: str) -> None:
    assert scan(script).faults == ()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", []),
        ("-- entrypoint: no-transaction\nselect 1", [(0, 1, "no-transaction")]),
        ("\n/* a /* b */ */\n--entrypoint:a  = b \r\n-- more", [(1 + 16, 3, "a  = b")]),
        ("select 1;\n-- entrypoint: no-transaction", []),
        ("/*\n-- entrypoint: no-transaction\n*/", []),
        ("-- entrypoints: none\n-- see entrypoint: x", []),
        ("-- entrypoint:\n-- entrypoint: x", [(0, 1, ""), (15, 2, "x")]),
        ("-- entrypoint: no-transaction\n/* never closed", [(0, 1, "no-transaction")]),
    ],
)
def test_directives(script: str, expected: list[tuple[int, int, str]]) -> None:
    assert list(directives(script)) == expected


FRAGMENTS = (
    *(
        "a",
        "e",
        "E'",
        "'",
        "''",
        '"',
        "$",
        "$$",
        "$a$",
        "$1",
        "1",
        ";",
        ";",
        ";\n",
        "(",
        ")",
        "/*",
        "*/",
        "--",
        "-",
        "/",
    ),
    *(
        "\\",
        "\\.",
        "\\i",
        " ",
        "\n",
        "\r",
        "\t",
        "é",
        "\0",
        ":",
        "create function ",
        "begin ",
        "atomic ",
        "end",
        "case ",
    ),
    *("copy t from stdin", "copy", "select ", "as ", ".", "commit", "U&", "\u00a0", "\ufeff", "-- entrypoint: x\n"),
)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(20))
def test_statements_cover_all_but_space_and_comments_of_any_text(seed: int) -> None:
    chance = random.Random(seed)  # seeded, to repeat a failure
    for _ in range(200):
        text = "".join(chance.choices(FRAGMENTS, k=chance.randrange(40)))
        statements, faults, _ = scan(text)
        directives(text)
        assert [list(statement[:2]) for statement in statements] == sorted(list(found[:2]) for found in statements)
        for statement in statements:
            assert statement.start < statement.end
            assert statement.line == text.count("\n", 0, statement.start) + 1
            words(text, statement.start, statement.end)
        if faults:
            continue
        before = 0
        for statement in statements:
            assert _is_filling(text[before : statement.start]), text
            before = statement.end
        assert _is_filling(text[before:]), text


def _is_filling(text: str) -> bool:
    """Tell whether a text has only white space, comments and semicolons."""
    pos = 0
    while (pos := skip(text, pos)) < len(text) and text[pos] == ";":
        pos += 1
    return pos == len(text)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "unit",
    [
        "(",
        "(a ",
        "/*",
        "$",
        "$a",
        "a$",
        "'",
        "e'",
        "E'a'\n'",
        '"',
        "-",
        "- ",
        "/",
        "\\",
        ";",
        "a;",
        "create function begin ",
    ],
)
def test_time_is_linear(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    scan(text)
    # The slowest takes a second on a slow machine; quadratic behaviour would take hours.
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("DO $$ BEGIN IF true THEN SELECT 1; END IF; END $$;", 1),
        ("SELECT (1 /* ( ; */); SELECT 2;", 2),
        ("SELECT (a -- ;\n); SELECT 2;", 2),
        ("SELECT $1 - -1; SELECT $a$;$a$;", 2),
        ("SELECT B'1' x, E'\\';'; SELECT ('a''b;');", 2),
    ],
)
def test_what_only_looks_like_the_beginning_of_something(script: str, statements: int) -> None:
    """Before Python 3.11.5, what an alternative consumed before it failed stayed consumed."""
    assert len(scan(script).statements) == statements


@pytest.mark.text
def test_groups_that_are_repeated_possessively_work_in_every_python() -> None:
    """They end with an alternative that matches nothing; scanner.py says why."""
    package = Path(entrypoint.__file__).parent
    repeated = [
        f"{path.relative_to(package)}:{number}"
        for path in sorted(package.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for found in re.finditer(r"\)(?:[*?+]|\{[0-9,]+\})\+", line)
        if not line[: found.start()].endswith("|(?!)")
    ]
    assert repeated == []
