"""Which files with their own transaction control are one transaction, and which run as units."""

from __future__ import annotations

import pytest

from entrypoint.migration.script.statements import advise
from entrypoint.migration.script.units import fingerprint, goes_on_at, needs_its_session, stop, stopped_at, units_of

MERGED = {
    "the earlier system's 021 and 022": "BEGIN; CREATE TABLE a (i int); COMMIT; DO $$ BEGIN RAISE NOTICE 'x'; END $$;",
    "two blocks": "BEGIN; CREATE TABLE a (i int); COMMIT; START TRANSACTION; INSERT INTO a VALUES (1); END;",
    "settings above": "SET search_path = app;\nBEGIN; CREATE TABLE a (); COMMIT;",
    "as pg_dump sets them": "SELECT pg_catalog.set_config('search_path', '', false); BEGIN; CREATE TABLE a (); COMMIT",
    "a lone COMMIT": "CREATE TABLE a ();\nCOMMIT;\nCREATE TABLE b ();",
    "a lone COMMIT at the end": "SELECT unknown();\nCOMMIT;",
    "two at the end": "BEGIN; SELECT unknown(); COMMIT; COMMIT;",
    "SET LOCAL in the last block": "CREATE TABLE a (); BEGIN; SET LOCAL lock_timeout = '1s'; DROP TABLE a; COMMIT;",
    "known functions": "BEGIN; INSERT INTO a (i) SELECT coalesce(max(i), 0) FROM a; COMMIT; SELECT setval('s', 1);",
    "savepoints": "BEGIN; SAVEPOINT s; ROLLBACK TO s; RELEASE s; COMMIT; BEGIN; SAVEPOINT s; COMMIT;",
}
UNITS = {
    "SET LOCAL": ("BEGIN; SET LOCAL a.b = '1'; COMMIT; CREATE TABLE a ()", "SET LOCAL"),
    "SET LOCAL with a comment": ("BEGIN; SET /* */ LOCAL a.b = '1'; COMMIT; CREATE TABLE a ()", "SET"),
    "in a body": (
        "BEGIN; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SET LOCAL a.b = 1'; COMMIT; SELECT 1",
        "SET",
    ),
    "outside any block": ("CREATE TABLE a (); COMMIT; SET LOCAL a.b = '1'; SELECT 1", "SET LOCAL"),
    "set_config": ("BEGIN; SELECT set_config('a.b', 'c', true); COMMIT; SELECT 1", "set_config"),
    "SET CONSTRAINTS": ("BEGIN; SET CONSTRAINTS ALL DEFERRED; COMMIT; SELECT 1", "CONSTRAINTS"),
    "SET TRANSACTION": ("BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; COMMIT; SELECT 1", "SET TRANSACTION"),
    "characteristics": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE; BEGIN; SELECT 1; COMMIT",
        "SESSION CHARACTERISTICS",
    ),
    "defaults": ("SET default_transaction_isolation = serializable; BEGIN; SELECT 1; COMMIT", "default_transaction_"),
    "its settings": ("BEGIN; SET transaction_read_only = on; SELECT 1; COMMIT; SELECT 1", "transaction_read_only"),
    "the clock": (
        "BEGIN; INSERT INTO a VALUES (now()); COMMIT; UPDATE a SET old = true WHERE at < CURRENT_TIMESTAMP",
        "uses now()",
    ),
    "the clock in a default": (
        "BEGIN; CREATE TABLE a (at timestamptz DEFAULT now(), i int); INSERT INTO a VALUES (); COMMIT; DELETE FROM a",
        "uses now()",
    ),
    "ON COMMIT": ("BEGIN; CREATE TEMP TABLE x (i int) ON COMMIT DROP; COMMIT; SELECT 1", "ON COMMIT"),
    "a mode": ("SELECT 1; BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT", "transaction mode"),
    "the first block's mode": ("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT; SELECT 1", "transaction mode"),
    "the second block's mode": (
        "BEGIN; SELECT 1; COMMIT; BEGIN ISOLATION LEVEL SERIALIZABLE; COMMIT",
        "transaction mode",
    ),
    "BEGIN twice, with a mode": (
        "BEGIN; BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT",
        "a BEGIN inside a block",
    ),
    "a function": ("BEGIN; SELECT unknown(); COMMIT; SELECT 1", "unknown()"),
    "a function in a row": ("BEGIN; INSERT INTO a SELECT unknown(); COMMIT; SELECT 1", "unknown()"),
    "a function for a table": ("BEGIN; CREATE TABLE a AS SELECT unknown(); COMMIT; SELECT 1", "unknown()"),
    "DO": ("DO $$ BEGIN NULL; END $$; BEGIN; SELECT 1; COMMIT", "the effect of DO in line 1"),
    "CALL": ("BEGIN; CALL p(); COMMIT; SELECT 1", "the effect of CALL"),
    "a cursor": ("BEGIN; DECLARE c CURSOR FOR SELECT 1; COMMIT; BEGIN; SELECT 1; COMMIT", "the effect of DECLARE"),
    "NOTIFY": ("BEGIN; NOTIFY a; COMMIT; BEGIN; NOTIFY a; COMMIT", "the effect of NOTIFY"),
    "deferred": (
        "CREATE TABLE a (i int REFERENCES b INITIALLY DEFERRED); BEGIN; INSERT INTO a VALUES (1); COMMIT; SELECT 1",
        "INITIALLY DEFERRED",
    ),
    "NOT VALID": (
        "BEGIN; ALTER TABLE a ADD CHECK (i > 0) NOT VALID; COMMIT; BEGIN; ALTER TABLE a VALIDATE CONSTRAINT c; COMMIT",
        "NOT VALID",
    ),
    "a new value": ("ALTER TYPE m ADD VALUE 'x'; BEGIN; INSERT INTO a VALUES ('x'); COMMIT", "adds a value"),
    "BEGIN twice": ("BEGIN; BEGIN; SELECT 1; COMMIT; SELECT 1", "a BEGIN inside a block"),
    "an index": ("BEGIN; SELECT 1; COMMIT; CREATE INDEX CONCURRENTLY i ON a (i)", "cannot run inside a transaction"),
}


@pytest.mark.parametrize("limit", [0, 1_000_000], ids=["by words", "by the parser"])
@pytest.mark.parametrize("case", MERGED)
def test_one_transaction(case: str, limit: int) -> None:
    text = MERGED[case]
    advice = advise(text, parse_limit=limit)
    assert (advice.faults, advice.units, advice.transactional, advice.merged) == ((), "", True, True)
    assert len(advice.body) == len(text)
    assert advice.body.count("\n") == text.count("\n")
    left = advise(advice.body)
    assert left.statements == advice.statements, "what is left has its place in the file"
    assert not left.merged, "nothing is left that begins or ends a transaction"


@pytest.mark.parametrize("limit", [0, 1_000_000], ids=["by words", "by the parser"])
@pytest.mark.parametrize("case", UNITS)
def test_units(case: str, limit: int) -> None:
    text, why = UNITS[case]
    advice = advise(text, parse_limit=limit)
    assert (advice.faults, advice.transactional, advice.merged) == ((), False, False)
    assert why in advice.units
    assert advice.body == text


def test_what_is_left_out_is_named_with_its_line() -> None:
    advice = advise("COMMIT;\nBEGIN;\nCREATE TABLE a ();\nEND;\nSELECT 1;\nROLLBACK;")
    assert [tuple(one) for one in advice.left_out] == [
        (1, "COMMIT", True),
        (2, "BEGIN", False),
        (4, "COMMIT", False),
        (6, "ROLLBACK", True),
    ]


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("BEGIN; INSERT INTO a VALUES (1); COMMIT; SELECT 1", True),
        ("INSERT INTO a VALUES (1); BEGIN; SELECT 1; COMMIT", True),
        ("BEGIN; CREATE TABLE a (); COMMIT; SELECT 1", False),
        ("CREATE TABLE a (); BEGIN; INSERT INTO a VALUES (1); COMMIT", False),
        ("BEGIN; INSERT INTO a VALUES (1); COMMIT", False),
    ],
)
def test_the_database_is_asked_about_deferred_triggers_only_if_rows_change_before_the_end(
    text: str, *, asks: bool
) -> None:
    assert advise(text).unless_deferred == asks


def test_a_units_transaction_has_its_modes() -> None:
    text = (
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;"
        "BEGIN; SET a.b = '1'; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT 2; COMMIT; SELECT 3;"
        "BEGIN; RESET a.b; SHOW a.b; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT 4; COMMIT"
    )
    assert [unit.begin for unit in units_of(text, advise(text))] == [
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "BEGIN",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
    ]
    merged = "RESET a.b; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT 1"
    assert advise(merged).begin == advise(f"BEGIN; {merged}; COMMIT").begin == "BEGIN ISOLATION LEVEL SERIALIZABLE"


def test_a_second_begin_in_a_block_sets_the_modes_of_its_transaction() -> None:
    """The server does this too, with a warning."""
    text = (
        "BEGIN; BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT;"
        "BEGIN ISOLATION LEVEL SERIALIZABLE; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 2; COMMIT;"
        "BEGIN; SELECT 3; COMMIT; SELECT 4"
    )
    assert [unit.begin for unit in units_of(text, advise(text))] == [
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "BEGIN ISOLATION LEVEL SERIALIZABLE ISOLATION LEVEL REPEATABLE READ",  # the last one counts
        "BEGIN",
        "BEGIN",
    ]
    text = "BEGIN; BEGIN READ ONLY; SELECT 1; COMMIT; SELECT 2"
    assert "the migration's row could not be written" in advise(text).faults[0].message


def test_a_row_says_where_to_go_on_and_comments_do_not_matter() -> None:
    text = "BEGIN; SET LOCAL a.b = '1';\nCOMMIT;\nSELECT 1;\nSELECT 2;"
    advice = advise(text)
    units = units_of(text, advice)
    line = stop(text, advice, units, 2)
    stopped = stopped_at(f"statement 5 of 5: SELECT 2\n{line}")
    assert stopped == (3, 3, 5, 4, fingerprint(text, advice.statements[:4]))
    for changed, index in [
        ("-- entrypoint: timeout = 1h\n" + text.replace("SELECT 2", "-- mended\nSELECT 3"), 2),
        (text.replace("SELECT 1", "SELECT 0"), None),
        (text.replace("SELECT 1;\n", ""), None),
        (text.replace("\nSELECT 2;", ""), None),
        (text.replace("SELECT 2", "BEGIN; SELECT 3; COMMIT; SELECT 2"), 2),
    ]:
        advice = advise(changed)
        assert stopped is not None
        assert goes_on_at(changed, advice, units_of(changed, advice), stopped) == index, changed
    assert stopped_at("statement 5 of 5: SELECT 2") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("BEGIN; SET LOCAL a.b = '1'; COMMIT; CREATE TABLE a ()", ""),
        ("BEGIN; SET LOCAL a.b = '1'; COMMIT; SET a.b = '1'", ""),
        ("BEGIN; SET LOCAL a.b = '1'; COMMIT;\nSET a.b = '1'; SELECT 1", "line 2 sets"),
        ("BEGIN; SELECT unknown(); COMMIT; SELECT 1", "what statement 2 does to its session"),
        ("CREATE TEMP TABLE x (); BEGIN; SET LOCAL a.b = '1'; COMMIT; SELECT 1", "what statement 1 does"),
        ("BEGIN; SELECT 1; COMMIT; VACUUM", "cannot run inside a transaction"),
    ],
)
def test_what_needs_its_session(text: str, why: str) -> None:
    found = needs_its_session(text, units_of(text, advise(text)))
    assert (why in found) if why else found == ""
