"""The adviser: every case by PostgreSQL's parser and by the first words, with the same result."""

from __future__ import annotations

import random
import re
import subprocess
import sys

import pytest

from entrypoint.migration.script import parser
from entrypoint.migration.script.statements import Advice, advise, blocks_that_commit

BY_PARSER = 1_000_000
BY_WORDS = -1


def advised(text: str) -> Advice:
    """Return what both ways say, which must be the same except for who said it."""
    by_parser, by_words = advise(text, parse_limit=BY_PARSER), advise(text, parse_limit=BY_WORDS)
    assert not by_words.parsed
    assert by_words._replace(parsed=by_parser.parsed, syntax=by_parser.syntax) == by_parser
    return by_parser


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("CREATE INDEX CONCURRENTLY i ON t (a)", "CREATE INDEX CONCURRENTLY"),
        ("create unique index concurrently if not exists i on t (a)", "CREATE INDEX CONCURRENTLY"),
        ("create index /* c */ concurrently on t (a)", "CREATE INDEX CONCURRENTLY"),
        ("create index i on t (a)", ""),
        ('create index "concurrently" on t (a)', ""),
        ("drop index concurrently if exists i", "DROP INDEX CONCURRENTLY"),
        ("drop index i", ""),
        ("reindex index concurrently i", "REINDEX INDEX CONCURRENTLY"),
        ("reindex (verbose) table concurrently t", "REINDEX TABLE CONCURRENTLY"),
        ("reindex (concurrently) table t", "REINDEX TABLE CONCURRENTLY"),
        ("reindex (tablespace x, concurrently on) table t", "REINDEX TABLE CONCURRENTLY"),
        ("reindex (concurrently 'off') table t", ""),
        ("reindex (concurrently 0, verbose) table t", ""),
        ("reindex (concurrently 1) table t", "REINDEX TABLE CONCURRENTLY"),
        ("reindex table t", ""),
        ("reindex index i", ""),
        ("reindex schema s", "REINDEX SCHEMA"),
        ("reindex schema concurrently s", "REINDEX SCHEMA CONCURRENTLY"),
        ("reindex (verbose) system", "REINDEX SYSTEM"),
        ("reindex database d", "REINDEX DATABASE"),
        ("vacuum", "VACUUM"),
        ("vacuum (full, analyze) t", "VACUUM"),
        ("analyze t", ""),
        ("alter system set work_mem = '1MB'", "ALTER SYSTEM"),
        ("alter system reset all", "ALTER SYSTEM"),
        ("create database d", "CREATE DATABASE"),
        ("drop database if exists d with (force)", "DROP DATABASE"),
        ("alter database d set tablespace x", "ALTER DATABASE ... SET TABLESPACE"),
        ('alter database "d e" with tablespace x', "ALTER DATABASE ... SET TABLESPACE"),
        ("alter database d tablespace = x", "ALTER DATABASE ... SET TABLESPACE"),
        ("alter database d rename to tablespace", ""),
        ("alter database d set default_tablespace = x", ""),
        ("alter database d with connection limit 3", ""),
        ("create tablespace x location '/x'", "CREATE TABLESPACE"),
        ("drop tablespace x", "DROP TABLESPACE"),
        ("alter tablespace x rename to y", ""),
        ("discard all", "DISCARD ALL"),
        ("discard temp", ""),
        ("cluster", "CLUSTER"),
        ("cluster verbose", "CLUSTER"),
        ("cluster (verbose)", "CLUSTER"),
        ("cluster t", ""),
        ("repack (concurrently) t", "REPACK (CONCURRENTLY)"),
        ("repack (verbose, concurrently on) t using index i", "REPACK (CONCURRENTLY)"),
        ("repack (concurrently off, verbose) t", ""),
        ("repack (analyze) t (a)", "REPACK (ANALYZE)"),
        ("repack", "REPACK"),
        ("repack (verbose)", "REPACK"),
        ("repack using index", "REPACK"),
        ("repack t", ""),
        ("repack (verbose) tä using index", ""),
        ("repack t using index i", ""),
        ("cluster verbose t using i", ""),
        ("cluster (verbose) t", ""),
        (
            "alter table if exists only a.b.c detach partition a.b.d concurrently",
            "ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY",
        ),
        ('alter table "detach" detach partition "concurrently"', ""),
        ("alter table t detach partition p finalize", ""),
        ("alter table t detach partition p", ""),
        ("alter table t add column concurrently_ int", ""),
        ("create subscription s connection 'x' publication p", "CREATE SUBSCRIPTION"),
        ("create subscription s connection 'x' publication p with (connect = false)", ""),
        (f"create subscription s connection 'x' publication {', '.join('abcdefghijklm')} with (connect = off)", ""),
        ("create subscription s connection 'x' publication p with (create_slot = 'false', slot_name = none)", ""),
        ("create subscription s connection 'x' publication p with (create_slot, enabled=false)", "CREATE SUBSCRIPTION"),
        ("create subscription s connection 'x' publication p with (enabled = 0, copy_data = 0)", "CREATE SUBSCRIPTION"),
        ("drop subscription s", "DROP SUBSCRIPTION"),
        ("alter subscription s refresh publication", "ALTER SUBSCRIPTION ... REFRESH PUBLICATION"),
        ("alter subscription s set publication p, q", "ALTER SUBSCRIPTION ... SET PUBLICATION"),
        ("alter subscription s set publication p with (refresh = false)", ""),
        ("alter subscription s add publication p", "ALTER SUBSCRIPTION ... ADD PUBLICATION"),
        (
            "alter subscription s drop publication p with (refresh, copy_data = off)",
            ("ALTER SUBSCRIPTION ... DROP PUBLICATION"),
        ),
        ("alter subscription s set (failover = true)", "ALTER SUBSCRIPTION ... SET"),
        ("alter subscription s set (slot_name = none)", ""),
        ("alter subscription s disable", ""),
        ("alter subscription s connection 'x'", ""),
        ("alter type color add value 'blue'", ""),
        ("do $$ begin commit; end $$", ""),
        ("call vacuum()", ""),
        ("prepare transaction as select 1", ""),
        ("create table vacuum (cluster int)", ""),
        ("select 'vacuum'", ""),
    ],
)
def test_what_cannot_run_in_a_transaction(statement: str, what: str) -> None:
    advice = advised(f"-- é\nselect 1; {statement} ;\n")
    assert advice.parsed
    assert advice.faults == ()
    assert advice.outside == (((1, what),) if what else ())
    assert advice.transactional is (what == "")
    assert advice.body == f"-- é\nselect 1; {statement} ;\n"


@pytest.mark.parametrize(
    ("before", "after", "begin"),
    [
        ("BEGIN;", "COMMIT;", "BEGIN"),
        ("-- é\nbegin work\n;", "end", "BEGIN"),
        (
            "begin /* ; */ transaction isolation\tlevel serializable, read write, not deferrable;",
            "commit work;",
            ("BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE, NOT DEFERRABLE"),
        ),
        (
            "start transaction isolation level read uncommitted deferrable;",
            "commit and no chain ; -- done",
            ("BEGIN ISOLATION LEVEL READ UNCOMMITTED DEFERRABLE"),
        ),
        (
            "begin; set transaction isolation level repeatable read;",
            "end transaction /* a */ ;;\n\n",
            ("BEGIN ISOLATION LEVEL REPEATABLE READ"),
        ),
        (
            "begin read write; set transaction isolation level serializable;",
            "commit",
            ("BEGIN READ WRITE ISOLATION LEVEL SERIALIZABLE"),
        ),
    ],
)
def test_a_file_in_its_own_transaction(before: str, after: str, begin: str) -> None:
    inner = "\nselect 'é';\nsavepoint a; rollback to savepoint a; release a;\r\n"
    text = before + inner + after
    advice = advised(text)
    assert advice.faults == ()
    assert (advice.wrapped, advice.transactional, advice.begin) == (True, True, begin)
    assert len(advice.body) == len(text)
    assert [found.start() for found in re.finditer("\n|\r", advice.body)] == [
        found.start() for found in re.finditer("\n|\r", text)
    ]
    assert inner in advice.body
    left = advise(advice.body)
    assert left.statements == advice.statements
    assert not re.search("(?i)begin|start|commit|end", re.sub(r"--.*", "", advice.body))


def test_an_empty_transaction() -> None:
    advice = advised("begin;\ncommit;")
    assert advice.wrapped
    assert advice.statements == ()
    assert advice.body == "      \n       "


def test_set_transaction_comes_first_without_begin_too() -> None:
    advice = advised("set transaction isolation level serializable; select 1")
    assert (advice.begin, advice.wrapped, len(advice.statements)) == (
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        False,
        2,
    )
    assert advised("select 1; set transaction isolation level serializable").begin == "BEGIN"
    assert advised("set transaction snapshot '1'; select 1").begin == "BEGIN"


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("begin; select 1", [(1, "this block is never ended")]),
        ("begin; select 1; commit;\nbegin; select 1", [(2, "this block is never ended")]),
        ("begin;\nselect 1;\nrollback", [(3, "a block that is rolled back")]),
        ("begin;\nselect 1;\nabort work", [(3, "a block that is rolled back")]),
        ("begin;\nselect 1;\ncommit and chain;", [(3, "write COMMIT and BEGIN")]),
        ("begin;\nselect 1;\nprepare transaction 'x';", [(3, "outlives the migration")]),
        ("begin; savepoint a; commit;\nbegin;\nrollback to a; commit", [(3, "there is no savepoint a in this block")]),
        ("begin; savepoint a; commit;\nbegin;\nrelease a; commit", [(3, "there is no savepoint a in this block")]),
        ("begin; savepoint a; commit;\nrelease a", [(2, "there is no savepoint here")]),
        ("commit prepared 'x'", [(1, "commit prepared 'x'")]),
        ("rollback prepared 'x'", [(1, "rollback prepared 'x'")]),
        ("rollback and chain", [(1, "rollback and chain")]),
        (
            "begin;\nselect 1;\ncreate index\nconcurrently i on t (a);\ncommit",
            [
                (3, "CREATE INDEX CONCURRENTLY cannot run inside BEGIN ... COMMIT"),
            ],
        ),
        ("begin read only;\nselect 1;\ncommit", [(1, "remove READ ONLY")]),
        ("select 1;\nset transaction read only", [(2, "remove READ ONLY")]),
        ("select 1;\n-- entrypoint: no-transaction\nvacuum", [(2, "above the first statement")]),
        ("select 1;\n  -- entrypoint: no-transaction", [(2, "above the first statement")]),
        ("-- entrypoint: x\nselect '", [(1, "unknown directive"), (2, "never closed")]),
        ("copy t from stdin;\n\\connect x", [(1, "COPY FROM STDIN"), (2, r"\connect")]),
    ],
)
def test_faults(text: str, faults: list[tuple[int, str]]) -> None:
    advice = advised(text)
    assert [fault.line for fault in advice.faults] == [line for line, _ in faults]
    for fault, (_, message) in zip(advice.faults, faults, strict=True):
        assert message in fault.message


@pytest.mark.parametrize(
    "text",
    [
        "savepoint a; release savepoint a; rollback work to a",
        "create function f() returns int begin atomic select 1; end; select 2",
        "select '\n-- entrypoint: x\n'; do $$\n-- entrypoint: x\n$$",
        "set session characteristics as transaction isolation level serializable",
        "prepare transaction (int) as select 1; deallocate transaction",
        'create table "commit" (a int); comment on table "commit" is \'x\'',
    ],
)
def test_no_faults(text: str) -> None:
    advice = advised(text)
    assert advice.parsed
    assert advice.faults == ()
    assert advice.transactional


def test_the_directive_allows_everything() -> None:
    text = "-- entrypoint: no-transaction\nbegin;\nselect 1;\ncommit;\nvacuum;\nbegin;\ncommit;"
    advice = advised(text)
    assert advice.faults == ()
    assert (advice.no_transaction, advice.transactional, advice.wrapped) == (True, False, False)
    assert advice.body == text
    assert advice.outside == ((3, "VACUUM"),)


def test_a_syntax_error_is_a_complaint_and_not_a_fault() -> None:
    advice = advised("begin;\nselect 'é';\n  selec 2;\ncommit;")
    assert advice.faults == ()
    assert not advice.parsed
    assert advice.wrapped
    assert advice.syntax == ('syntax error at or near "selec"', 21, 3)


def test_a_broken_begin_is_not_taken_off() -> None:
    for text in ("begin transacton; select 1; commit", "begin; select 1; commit now"):
        advice = advised(text)
        assert advice.body == text
        assert len(advice.faults) == 2


@pytest.mark.parametrize("limit", [BY_WORDS, 1_000_000])
def test_an_end_that_is_a_name_does_not_end_a_function(limit: int) -> None:
    # END after a bare column is the column's name, which psql's rule does not know.
    text = "create function f() returns int begin atomic select 1 end; select 2; end ;\nselect 'é'; vacuum"
    advice = advise(text, parse_limit=limit)
    assert advice.faults == ()
    assert [text[found.start : found.end] for found in advice.statements] == [
        "create function f() returns int begin atomic select 1 end; select 2; end",
        "select 'é'",
        "vacuum",
    ]
    assert [found.line for found in advice.statements] == [1, 2, 2]
    assert advice.outside == ((2, "VACUUM"),)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("expression", ["+1", "||1", "::int", " union select 1", " and not true", " is null"])
def test_a_deep_expression_does_not_end_the_process(expression: str) -> None:
    """Run it in a child: a stack overflow in C would kill the tests."""
    code = (
        "from entrypoint.migration.script.statements import advise\n"
        f"advice = advise('select 1' + {expression!r} * (900_000 // {len(expression)}))\n"
        "assert advice.transactional and advice.faults == ()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_thousand_files_leave_openssl_what_it_needs() -> None:
    """A thread that has called the parser keeps a pthread key, and a process has only 1,024 of them."""
    code = (
        "import ctypes\n"
        "from entrypoint.migration.script.statements import advise\n"
        "library = ctypes.CDLL(None)\n"
        "def free():\n"
        "    keys = []\n"
        "    while library.pthread_key_create(ctypes.byref(key := ctypes.c_uint()), None) == 0:\n"
        "        keys.append(key)\n"
        "    return len([library.pthread_key_delete(key) for key in keys])\n"
        "before = free()\n"
        "for number in range(1_100):\n"
        "    assert advise('BEGIN; SELECT ' + '1' * number * 50).parsed\n"
        "print(before - free())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr == ""
    assert int(done.stdout) < 10


def test_whoever_is_interrupted_leaves_no_answer_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_wait: object, _seconds: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(parser, "sliced", interrupt)
    with pytest.raises(KeyboardInterrupt):
        advise("BEGIN; SELECT 1; COMMIT")
    monkeypatch.undo()
    assert [each.words[0] for each in advise("BEGIN; DELETE FROM a").statements] == ["BEGIN", "DELETE"]


def test_without_the_parser_the_words_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pgparse", None)
    advice = advise("begin; select 1; commit")
    assert not advice.parsed
    assert advice.wrapped


@pytest.mark.parametrize("answer", [[{}], [{"stmt": {}}], [{"stmt": {"TransactionStmt": {}}}], [None]])
def test_an_answer_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch, answer: list[object]) -> None:
    monkeypatch.setattr(parser, "parse", lambda _: answer)
    advice = advise("begin; select 1; commit")
    assert not advice.parsed
    assert advice.wrapped


def test_lone_surrogates_are_left_to_others() -> None:
    assert advise("select '\ud800'").faults == ()


FRAGMENTS = (
    *(
        "select 1",
        "select ';'",
        "select E'\\';'",
        'select ";"',
        "select $a$;$$;$a$",
        "select a$b, $1",
        "begin",
        "commit",
    ),
    *(
        "create rule r as on insert to t do (select 1; select 2)",
        "do $$ begin; end $$",
        "vacuum",
        "values (1, (2), ((3)))",
    ),
    *(
        "create function f() returns int begin atomic select case when true then 1 end; select t.end; end",
        "end",
        "abort",
    ),
    *(
        "select 'é' /* ; /* ' */ */",
        "select 1 -- ;'\n",
        "select 4/-2 - -1",
        "table t",
        "cluster",
        "savepoint x",
        "rollback to x",
    ),
    *("select E'a'\n'\\';'", "set a = b", "(select 1)", "select 1e5, 1.5", "select n'a', b'1', U&'\\0041', u&\"a\""),
    *("", " ", "/* a */", "-- b\n", "\n"),
)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(20))
def test_both_ways_agree_on_any_script(seed: int) -> None:
    chance = random.Random(seed)  # seeded, to repeat a failure
    for _ in range(50):
        text = ";".join(chance.choices(FRAGMENTS, k=chance.randrange(12)))
        assert advised(text).parsed, text


IN_UNITS = [
    ("prepare transaction 'x'", [(1, "a prepared transaction outlives")]),
    ("begin;\nprepare transaction 'x';\ncommit prepared 'x'", [(2, "outlives"), (3, "outlives")]),
    ("rollback prepared 'x'", [(1, "outlives")]),
    ("begin;\ncommit and chain;\ncommit", [(2, "write COMMIT and BEGIN")]),
    ("begin;\nrollback and chain;\ncommit", [(2, "write COMMIT and BEGIN")]),
    ("begin;\nselect 1;\nabort", [(3, "remove the block")]),
    ("begin;\nrollback work and no chain", [(2, "remove the block")]),
    ("begin;\nsavepoint a;\nrollback transaction to savepoint a;\ncommit", []),
    ("begin;\nsavepoint A;\nrollback to a;\nrelease a;\nrollback to a;\ncommit", [(5, "no savepoint a in this block")]),
    ("begin;\nsavepoint a;\ncommit;\nbegin;\nrollback work to a;\nend", [(5, "no savepoint a in this block")]),
    ('begin;\nsavepoint "A";\nrollback to a;\ncommit', [(3, "no savepoint a in this block")]),
    ('begin;\nsavepoint "a";\nsavepoint b;\nrelease savepoint a;\nrollback to b;\ncommit', [(5, "no savepoint b")]),
    ("release a", [(1, "no savepoint here")]),
    ("begin;\nsavepoint a;\ncommit;\nrollback to a", [(4, "no savepoint here")]),
    ("begin;\nvacuum;\ncommit", [(2, "out of the block")]),
    ("begin read only;\nselect 1;\ncommit", [(1, "remove READ ONLY")]),
    ("start transaction isolation level serializable, read only;\ncommit", [(1, "remove READ ONLY")]),
    ("begin;\nset transaction read only;\ncommit", [(2, "remove READ ONLY")]),
    ("select 1;\nbegin;\nselect 2", [(2, "never ended")]),
    ("begin; begin; commit", []),
    ("commit; rollback; select 1; end", []),
    ("prepare transaction as select 1; begin; commit", []),
]


@pytest.mark.case("A7")
@pytest.mark.parametrize("parse_limit", [1_000_000, 0], ids=["parser", "words"])
@pytest.mark.parametrize(("text", "expected"), IN_UNITS)
def test_blocks_that_cannot_be_where_statements_run_one_by_one(
    text: str, expected: list[tuple[int, str]], parse_limit: int
) -> None:
    faults = advise(f"-- entrypoint: no-transaction\n{text}", parse_limit=parse_limit).faults
    assert [fault.line - 1 for fault in faults] == [line for line, _ in expected]
    for fault, (_, message) in zip(faults, expected, strict=True):
        assert message in fault.message


@pytest.mark.case("D5")
@pytest.mark.parametrize(
    ("block", "found"),
    [
        ("do $$ begin commit; end $$", True),
        ("do $x$ begin if true then rollback and chain; end if; end $x$", True),
        ("do language plpgsql 'begin perform ''a''; commit; end'", True),
        ("do $$ begin for i in 1..2 loop commit; end loop; end $$ language plpgsql", True),
        ("do $$ begin <<here>> commit; end $$", True),
        ("do $$ begin raise notice '; commit;'; end $$", False),
        ("do $$ begin execute 'commit'; /* ; commit; */ -- ; commit;\n end $$", False),
        ("do $$ declare commit int := 1; begin perform commit; end $$", False),
        ("do language plpython3u $$ begin; commit; $$", False),
        ("do $$ begin $$", False),
        ("do", False),
        ("create procedure p() language plpgsql as $$ begin commit; end $$", False),
    ],
)
def test_blocks_that_commit(block: str, found: bool) -> None:  # noqa: FBT001
    text = f"select 1; {block}"
    assert len(blocks_that_commit(text, advise(text))) == int(found)


DISPUTED = "select 1;\ndo E'begin end'\n-- c\n'--\\' language '{}; --'"


@pytest.mark.case("A5")
def test_where_the_readings_differ_control_in_either_is_refused() -> None:
    """The parser takes a comment for the end of a string; the server and the scanner read on after it."""
    advice = advise(DISPUTED.format("; commit; select 2"))
    assert advice.disputed
    assert [(fault.line, fault.message[:7]) for fault in advice.faults] == [(4, "commit:")]
    advice = advise(DISPUTED.format("; select 2"))
    assert advice.disputed
    assert advice.faults == ()
    assert len(advice.statements) == 3
    assert not advise("select E'a'\n'b'; select 2").disputed
