"""Texts that need no parser, since it could say nothing new about their statements."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from entrypoint.migration.script.plain import is_plain
from entrypoint.migration.script.scanner import scan_without_commands
from entrypoint.migration.script.statements import Advice, advise

ROOT = Path(__file__).parents[2]

PLAIN = [
    "CREATE TABLE a (id int PRIMARY KEY);",
    "create table a (id int);\n-- a comment\nCREATE INDEX ON a (id)",
    """INSERT INTO "order" VALUES (1, 'it''s', E'x'::text);""".replace("E'x'", "'x'"),
    "ALTER TABLE a ADD COLUMN value text DEFAULT 'a -- b'; UPDATE a SET value = 'c';",
    "SELECT 'a'\n'b'; GRANT SELECT ON a TO b;;",
    "DROP TABLE a; -- the end",
]
NOT_PLAIN = [
    "BEGIN; CREATE TABLE a (); COMMIT;",
    "CREATE INDEX CONCURRENTLY ON a (id);",
    "DO $$ BEGIN COMMIT; END $$;",
    "SELECT E'a\\'; COMMIT; --';",
    "SELECT 'a\\'; COMMIT; --';",
    "SELECT U&'a'; SELECT e'a'; SELECT x'a';",
    "SELECT 'a; COMMIT; ';",
    "SELECT 'a\nb; COMMIT';",
    "SELECT 1; -- don't",
    "SELECT 1; -- it's; COMMIT; that's",
    "SELECT 1; /* a */ SELECT 2;",
    "CREATE RULE r AS ON INSERT TO a DO ALSO (INSERT INTO b VALUES (1); INSERT INTO b VALUES (2));",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END;",
    "CREATE DATABASE a;",
    "ALTER SYSTEM SET a = 1;",
    "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p;",
    "VACUUM a;",
    "CALL p();",
    "SAVEPOINT a;",
    "SET standard_conforming_strings = off; SELECT 1;",
    "SELECT\N{NO-BREAK SPACE}1; SELECT 2;",
    "SELECT 1;\N{NO-BREAK SPACE};",
    "SELECT 'a' -- b\n'c; COMMIT;",
    "SELECT 'a' -- b\r; COMMIT;",
    'SELECT 1 AS "a;b";',
    "SELECT 1;\v;",
]
PIECES = [
    *(
        "SELECT",
        "CREATE TABLE a",
        "INSERT INTO a VALUES",
        "COMMIT",
        "BEGIN",
        "CREATE RULE",
        "DO ALSO",
        "a",
        "1",
        "x",
        "E",
    ),
    *("(", ")", ";", ";", ",", "'", "''", "'b'", "'b;'", '"', '"c"', "--", "-- d", "/*", "*/", "$$", "$1", "\\", "&"),
    *(
        "\n",
        "\n",
        " ",
        " ",
        "\r",
        "\t",
        "\v",
        "\f",
        "\N{NO-BREAK SPACE}",
        "\0",
        "\x1c",
        "ä",
        "ATOMIC",
        "END",
        "e",
        "\u2028",
    ),
]


def plain(text: str) -> bool:
    text, script = scan_without_commands(text)
    return is_plain(text, script.statements)


def without_the_parser(advice: Advice) -> Advice:
    return advice._replace(parsed=False, syntax=None)


@pytest.mark.parametrize("text", PLAIN)
def test_plain(text: str) -> None:
    assert plain(text)
    whole = advise(text)
    assert whole.parsed
    assert advise(text, in_doubt_only=True) == without_the_parser(whole)


@pytest.mark.parametrize("text", NOT_PLAIN)
def test_not_plain(text: str) -> None:
    assert not plain(text)
    assert advise(text, in_doubt_only=True) == advise(text)


def test_of_the_files_here_the_parser_says_the_same() -> None:
    found = 0
    for path in sorted(ROOT.glob("**/*.sql")):
        if ".venv" in path.parts or not plain(text := path.read_text(encoding="utf-8", errors="replace")):
            continue
        found += 1
        assert advise(text, in_doubt_only=True) == without_the_parser(advise(text)), path
    assert found >= 5


@pytest.mark.thorough
def test_of_random_texts_the_parser_says_the_same_or_that_they_are_no_sql() -> None:
    random, found = Random(17), 0
    for _ in range(20_000):
        text = "SELECT" + "".join(
            random.choice(["", " "]) + random.choice(PIECES) for _ in range(random.randrange(1, 9))
        )
        if plain(text):
            found += 1
            assert advise(text, in_doubt_only=True) == without_the_parser(advise(text)), text
    assert found >= 150
