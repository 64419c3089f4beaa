"""Texts to try: made of SQL's nastiest pieces that the server accepts, and of earlier texts, slightly changed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

ALONE = "-- entrypoint: no-transaction\n"

_VALUES = (
    *("1", "'a'", "'it''s; COMMIT;'", "E'\\';COMMIT;--'", "e'a\\\\'", "U&'\\0041;'", "B'10'", "X'1F'", "N'n;'"),
    *("$$;COMMIT;$$", "$a$ $$ ; $b$ ' $a$", "$é$;'$é$", "'\\'", "'a'\n';b'", "E'a'\n'\\';'", "'a' -- c\n '\n;'"),
    *("E'a' -- c'\n'\\';COMMIT;--'", "'a'\r'b'", "'a'\f\n'b'", "1.5e3", "0x1F", "1_000", "(SELECT 1)", "- -1", "1+-1"),
    *("1 -/* c */1", "1-- c;\n", "CASE WHEN true THEN 1 ELSE 2 END", "(1)::int", "'{}'::jsonb", "ARRAY[1,2]", "NULL"),
    *("U&'d!0061' UESCAPE '!'", "'a' || 'b'", "1 <> 2", "5 @ 3", "2 * -1", "abs(-1)", "'\t'", "'é\u2028\u00a0'"),
    *(r"'\'' AS a -- '", r"'a\'; COMMIT; --'", r"'\\'", "'a'\n'\\';'", "B'1'\n'0'", r"n'\''", r"'\''';'", "'\\\n'"),
    *("('x' ~ '\\;')", "E'\\x41'", "$1$1$".replace("$1$1$", "$_1$;$_1$"), "E'\\\\'';'", "' -- '", "'/*'", "'*/'"),
)
_NAMES = (
    *("a", "begin_", '"commit"', '"a;b"', '"a""b"', '"/*"', '"--"', '"\'"', "atomic", "commit", "rollback"),
    *(
        "begin",
        '"end"',
        "work",
        "é",
        "a$1",
        "a$b$c",
        "transaction",
        "release",
        "savepoint",
        "prepare",
        '"$$"',
        'U&"\\0061"',
    ),
)
_GAPS = (
    *(
        " ",
        " ",
        " ",
        "\n",
        "\t",
        "\r\n",
        "\r",
        "\f",
        " -- c;\n",
        " -- it's\r",
        " --\f c\n",
        "/* ; */",
        "/* /* ' */ $$ */",
    ),
    *("/*/**/*/", " -- /*\n", "/* -- */", "--;COMMIT\r\n", " /***/ ", " --\\\n"),
    *("\n\\echo 'a;' \"it's\" -- /* $$\n", " \\timing off\\pset null '\\';' \\\\ ", "\n\\set ON_ERROR_STOP on\n"),
)
# {v}: a value, {n}: a name, {s}: white space or a comment.
_STATEMENTS = (
    *("SELECT{s}{v}", "SELECT{s}{v}{s}AS{s}{n}", "SELECT {v},{s}{v}", "VALUES ({v}),({v}::text::unknown)"),
    *("SELECT 1 WHERE 1 <{s}2", "TABLE pg_catalog.pg_am", "WITH w AS (SELECT {v}) SELECT * FROM w", "SELECT"),
    *(
        "SET LOCAL standard_conforming_strings = off",
        "SET standard_conforming_strings{s}={s}on",
        "SET{s}standard_conforming_strings TO 'off'",
        "RESET standard_conforming_strings",
        "SELECT set_config('standard_conforming_strings', 'off', false)",
        "SELECT pg_catalog.set_config('standard_conforming_strings',{s}'on', true)",
        "DO $$BEGIN SET standard_conforming_strings = off; END$$",
        "SET search_path = public",
    ),
    *(
        "DO{s}$$BEGIN PERFORM 1; END$$",
        "DO $x$BEGIN{s}PERFORM {v}; END;$x$",
        "DO '<<l>> BEGIN NULL; END l'",
        "DO E'BEGIN NULL; END'",
    ),
    *(
        "DO $$BEGIN COMMIT; END$$",
        "CALL p()",
        "SAVEPOINT{s}sp",
        "SAVEPOINT{s}sp;ROLLBACK{s}TO{s}sp",
        "SAVEPOINT x; RELEASE{s}x",
    ),
    *(
        "CREATE TABLE{s}t{i}(a int,{s}b text DEFAULT{s}'x;')",
        "CREATE TABLE t{i} ({n} int)",
        "CREATE VIEW v{i} AS SELECT{s}{v}{s}AS{s}c",
    ),
    *(
        "CREATE RULE r{i} AS ON INSERT TO t DO ALSO ({s}NOTIFY a;{s}NOTIFY b;)",
        "EXPLAIN SELECT {v}",
        "INSERT INTO t VALUES (1)",
    ),
    "CREATE FUNCTION f{i}() RETURNS int{s}LANGUAGE sql{s}AS{s}$$SELECT 1;$$",
    "CREATE FUNCTION f{i}() RETURNS int{s}RETURN{s}CASE WHEN true THEN 1 END",
    "CREATE{s}FUNCTION f{i}() RETURNS int BEGIN{s}ATOMIC SELECT 1;{s}SELECT CASE WHEN true THEN 1 END;{s}END",
    "CREATE OR REPLACE PROCEDURE p{i}() BEGIN ATOMIC{s}SELECT {v}{s}AS{s}{n};{s}END",
    'CREATE FUNCTION f{i}(a int) RETURNS int BEGIN ATOMIC SELECT a{s}AS "end"; SELECT 1{s}case; END',
    "CREATE FUNCTION f{i}() RETURNS void BEGIN ATOMIC END",
    "CREATE FUNCTION f{i}() RETURNS int BEGIN ATOMIC;; SELECT 1 end; END",
    "CREATE FUNCTION f{i}(atomic int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION begin{i}(begin int, atomic int) RETURNS int LANGUAGE sql AS 'SELECT 1;'",
    *(
        "PREPARE{s}q{i} AS SELECT 1",
        "COMMENT ON TABLE t IS{s}'a;'",
        "CREATE SCHEMA s{i} CREATE TABLE a(b int)",
        "LOCK t",
        "NOTIFY a, 'b;'",
    ),
    *(
        "DECLARE c{i} CURSOR FOR SELECT {v}",
        "CREATE OPERATOR @-{i}0".replace("{i}0", "") + "(leftarg=int,rightarg=int,procedure=int4pl)",
    ),
    *("CREATE TABLE t{i} AS SELECT{s}{v}::text AS{s}c", "CREATE TABLE t{i} AS VALUES ({v}::text),{s}({v}::text)"),
    *("", "SELECT 1 WHERE (1{s}=ANY(ARRAY[1]))", "MERGE INTO t USING t x ON false WHEN MATCHED THEN DO NOTHING"),
)
_CONTROLS = (
    *(
        "COMMIT",
        "commit{s}work",
        "END",
        "END TRANSACTION",
        "COMMIT AND{s}CHAIN",
        "COMMIT AND NO CHAIN",
        "ROLLBACK",
        "ABORT",
    ),
    *("ROLLBACK{s}WORK", "ROLLBACK AND CHAIN", "BEGIN", "START{s}TRANSACTION", "BEGIN ISOLATION LEVEL SERIALIZABLE"),
    *(
        "PREPARE{s}TRANSACTION 'x'",
        "COMMIT PREPARED 'x'",
        "ROLLBACK PREPARED 'x'",
        "ABORT AND CHAIN",
        "ROLLBACK TO SAVEPOINT sp",
    ),
)
_RARE = (
    "SELECT 1{n}",
    "\\echo x\n",
    "\\echo it's\n",
    "\\connect\n",
    "\\echo `true`\n",
    "\\encoding UTF8\n",
    "\\;",
    "COPY t FROM STDIN;\n1\n\\.\n",
    "COPY t TO STDOUT",
    "COPY (SELECT 1) TO STDOUT",
    "'",
    '"',
    "$$",
    "/*",
    "(",
    ")",
)
_PIECES = re.compile(r"\w+|\s+|--|/\*|\*/|\$\w*\$|.", re.DOTALL)
_CHARACTERS = "';\"$\\-/*()\n\r\f\v\t eE&.:@é\u00a01"


def make(random: Random) -> str:
    """Return a text of a few statements, most of which the server accepts."""
    parts = []
    for number in range(random.randint(1, 5)):
        chance = random.random()
        template = random.choice(_CONTROLS if chance < 0.1 else _RARE if chance < 0.13 else _STATEMENTS)
        parts += [_filled(template, number, random), random.choice(_GAPS) if random.random() < 0.3 else "", ";"]
        parts.append(random.choice(_GAPS))
    if random.random() < 0.3:
        parts.pop(-2)
    chance = random.random()
    if chance < 0.1:
        parts = ["BEGIN;", *parts, ";COMMIT"]
    elif chance < 0.2:
        parts = [ALONE, *parts]
    elif chance < 0.25:
        parts = [ALONE, "BEGIN;", *parts, ";COMMIT;", make(random)]
    return "".join(parts)


def mutate(texts: Sequence[str], random: Random) -> str:
    """Return one of `texts` with a few pieces or characters changed, or with another text's appended."""
    pieces = _PIECES.findall(random.choice(texts))
    for _ in range(random.choice((1, 1, 2, 3))):
        place = random.randint(0, len(pieces))
        match random.randrange(6):
            case 0:
                del pieces[place : place + random.randint(1, 3)]
            case 1:
                pieces.insert(place, random.choice(_CHARACTERS))
            case 2:
                pieces[place:place] = pieces[place : place + random.randint(1, 4)]
            case 3:
                pieces.insert(place, random.choice(_GAPS))
            case 4:
                pieces.insert(place, _filled(random.choice((*_VALUES, *_NAMES, ";", *_CONTROLS)), 9, random))
            case _:
                pieces += [";", *_PIECES.findall(random.choice(texts))]
    return "".join(pieces)


def _filled(template: str, number: int, random: Random) -> str:
    choices = {"v": _VALUES, "n": _NAMES, "s": _GAPS}
    return re.sub(
        r"\{([vnsi])\}", lambda found: str(number) if found[1] == "i" else random.choice(choices[found[1]]), template
    )
