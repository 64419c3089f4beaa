"""Files that run in batches: their directives, the statements they may have, and where the keys go."""

from __future__ import annotations

import pytest

from entrypoint.migration.script.batch import Batch, fill
from entrypoint.migration.script.directives import read, spell_batch
from entrypoint.migration.script.statements import advise

ORDERS = "-- entrypoint: batch = orders(id) by 10000\n"
FILL = "UPDATE orders SET cents = euros * 100 WHERE id BETWEEN :from AND :to AND cents IS NULL;"


def lines(*directives: str) -> str:
    return "".join(f"-- entrypoint: {directive}\n" for directive in directives)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (("batch = orders(id) by 10000",), Batch("orders", ("id",), 10000)),
        (("batch=orders(id) by 1",), Batch("orders", ("id",), 1)),
        (("batch = Orders ( ID ) BY 0010",), Batch("Orders", ("id",), 10)),
        (("batch = shop.orders(tenant_id, id) by 5",), Batch("shop.orders", ("tenant_id", "id"), 5)),
        (('batch = "My Shop"."a""b" ("Id", x) by 5',), Batch('"My Shop"."a""b"', ("Id", "x"), 5)),
        (("batch = straße(größe) by 7",), Batch("straße", ("größe",), 7)),
        (("target = 2s", "batch = t(id) by 5"), Batch("t", ("id",), 5, target=2)),
        (("batch = t(id) by 5", "fixed"), Batch("t", ("id",), 5, fixed=True)),
        (("batch = t(id) by 5", "passes = 2", "pause = 100ms"), Batch("t", ("id",), 5, passes=2, pause=0.1)),
        (("batch = t(id) by 5", "max-replica-lag = 64MB"), Batch("t", ("id",), 5, max_replica_lag=64 << 20)),
        (("batch = t(id) by 5", "max-replica-lag = 1 kB"), Batch("t", ("id",), 5, max_replica_lag=1024)),
    ],
)
def test_a_good_one(said: tuple[str, ...], expected: Batch) -> None:
    directives, faults = read(lines(*said) + FILL)
    assert (directives.batch, faults) == (expected, ())


HOW = "must name a table, its key and a number of rows, like batch = orders(id) by 10000"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (("batch",), '"batch" has no "=" and a table with its key after it: write "-- entrypoint: batch = orders(id)'),
        (("batch = orders",), f"batch = orders {HOW}"),
        (("batch = orders by 5",), HOW),
        (("batch = orders() by 5",), HOW),
        (("batch = orders(id)",), HOW),
        (("batch = orders(id) by",), HOW),
        (("batch = orders(id) by 10k",), HOW),
        (("batch = orders(id) by 10,000",), HOW),
        (("batch = orders(id) by -5",), HOW),
        (("batch = a.b.c(id) by 5",), HOW),
        (("batch = orders(lower(id)) by 5",), HOW),
        (("batch = orders(id desc) by 5",), HOW),
        (("batch = orders; drop(id) by 5",), HOW),
        (("batch = orders(id) by 0",), "a batch has from 1 to 10000000 rows"),
        (("batch = orders(id) by 10000001",), "a batch has from 1 to 10000000 rows"),
        ((f"batch = orders(id) by {'9' * 5000}",), "a batch has from 1 to 10000000 rows"),
        (("batch = orders(id, ID) by 5",), "names a key column twice"),
        (("batch = t(id) by 5", "batch = t(id) by 6"), "batch is already set in line 1"),
        (("batch = t(id) by 5", "passes = 0"), "passes = 0 is not a whole number from 1 to 9, like passes = 2"),
        (("batch = t(id) by 5", "passes = 1.5"), "is not a whole number from 1 to 9"),
        (("batch = t(id) by 5", "passes"), '"passes" has no "=" and a number after it'),
        (("batch = t(id) by 5", "target = 500"), "target = 500 has no unit: write 500ms, 500s, 500min or 500h"),
        (
            ("batch = t(id) by 5", "target = soon"),
            "is not a duration: write a whole number followed by ms, s, min or h, like targe",
        ),
        (("batch = t(id) by 5", "pause = 0ms"), "pause = 0ms is too short"),
        (("batch = t(id) by 5", "fixed = on"), 'fixed takes no value: write "-- entrypoint: fixed"'),
        (("batch = t(id) by 5", "max-replica-lag = 64"), "has no unit: write 64kB, 64MB or 64GB"),
        (
            ("batch = t(id) by 5", "max-replica-lag = 64mb"),
            "is not a size: write a whole number and B, kB, MB, GB or TB",
        ),
        (("batch = t(id) by 5", "max-replica-lag = 0MB"), "max-replica-lag = 0MB is out of range"),
        (("batch = t(id) by 5", "max-replica-lag = 10s"), "is not a size"),
        (("batch = t(id) by 5", "max_replica_lag = 1MB"), "did you mean max-replica-lag?"),
        (("batches = t(id) by 5",), "did you mean batch?"),
        (("target = 1s",), "target only applies to a file that runs in batches: add"),
        (("fixed",), "fixed only applies to a file that runs in batches"),
        (("passes = 2",), "passes only applies to a file that runs in batches"),
        (("pause = 1s",), "pause only applies to a file that runs in batches"),
        (("max-replica-lag = 1MB",), "max-replica-lag only applies to a file that runs in batches"),
        (("batch = t(id) by 5", "no-transaction"), "no-transaction cannot be combined with batch"),
        (("batch = t(id) by 5", "fixed", "target = 1s"), "target cannot be combined with fixed"),
    ],
)
def test_a_bad_one(said: tuple[str, ...], message: str) -> None:
    _, faults = read(lines(*said) + FILL)
    assert len(faults) == 1
    assert message in faults[0].message
    assert 0 < faults[0].line <= len(said)
    assert faults[0].offset == sum(len(line) + 1 for line in lines(*said).splitlines()[: faults[0].line - 1])
    assert not advise(lines(*said) + FILL).placeholders


def test_a_bad_one_is_complained_of_once() -> None:
    _, faults = read(lines("batch = orders", "target = 1s") + FILL)
    assert len(faults) == 1


def test_how_it_is_said() -> None:
    said = read(lines("batch = orders(tenant_id, id) by 500", "passes = 2", "max-replica-lag = 64MB", "pause = 1s"))[0]
    assert spell_batch(said) == (
        "batches by orders (tenant_id, id), 500 at a time at first, target 500ms, passes 2, pause 1s, "
        "max-replica-lag 64MB"
    )
    assert spell_batch(read(lines("batch = t(id) by 1", "fixed"))[0]) == "batches by t (id), 1 at a time"
    assert spell_batch(read("SELECT 1")[0]) == ""


@pytest.mark.parametrize(
    "statement",
    [
        FILL,
        "INSERT INTO b SELECT * FROM orders WHERE id BETWEEN :from AND :to",
        "INSERT INTO b (x) (SELECT id FROM orders WHERE id BETWEEN :from AND :to) ON CONFLICT (x) DO UPDATE SET y = 1",
        "DELETE FROM orders WHERE id>=:from AND id<=:to",
        "DELETE FROM orders WHERE :from<=id AND :to>=id",
        'WITH a AS (DELETE FROM b.orders WHERE id BETWEEN :from AND :to) UPDATE o."orders" SET ids = 1',
        "WITH gone AS (DELETE FROM orders WHERE id BETWEEN :FROM AND :To RETURNING *) SELECT count(*) FROM gone",
        "MERGE INTO b USING orders o ON o.id = b.id AND o.id BETWEEN :from AND :to WHEN MATCHED THEN UPDATE SET id = 1",
        # Casts, strings and comments contain no placeholders.
        "UPDATE orders SET a = b::text || ':no' || $$:no$$ || E'\\':no' WHERE id BETWEEN :from::bigint AND :to",
        'DELETE FROM orders /* :no */ -- :no\n WHERE ":no"::date ::x = 1 AND id BETWEEN :from AND :to',
        "UPDATE orders SET a = b[1: n] || f(x := 1) || c[:2] WHERE id BETWEEN :from AND :to",
        # A column with the same name in another table.
        "UPDATE other SET id = o.x FROM orders o WHERE o.id BETWEEN :from AND :to",
        "UPDATE orders SET (a, b) = (SELECT id, 1 FROM x WHERE id = 5), c = id WHERE id BETWEEN :from AND :to",
        "UPDATE orders SET ids = 1, a[id] = 2 WHERE id BETWEEN :from AND :to;\n;",
    ],
)
def test_what_runs_in_batches(statement: str) -> None:
    advice = advise(ORDERS + statement)
    assert advice.faults == ()
    assert (advice.batched, advice.transactional, advice.parsed, advice.syntax) == (True, False, True, None)
    assert [advice.body[one.start : one.end].lower() for one in advice.placeholders] == [":from", ":to"]
    assert [one.upper for one in advice.placeholders] == [False, True]


ONE = (
    "a file that runs in batches contains exactly one INSERT ... SELECT, UPDATE, DELETE, MERGE or WITH statement, "
    "but this one has"
)
MOVES = "which is part of the batch key"
INSERTS = "this statement inserts into orders, the table being batched"
TAKEN = "WITH d AS (DELETE FROM orders WHERE id BETWEEN :from AND :to RETURNING *)"
OWN = "o.id = s.id AND s.id BETWEEN :from AND :to"


@pytest.mark.parametrize(
    ("statement", "message", "line"),
    [
        ("", f"{ONE} 0 statements", 1),
        (f"{FILL}\nSELECT 1", f"{ONE} 2 statements", 3),
        (f"BEGIN;\n{FILL}\nCOMMIT", f"{ONE} 3 statements", 2),
        (f"SET x = 1;\n{FILL}", f"{ONE} 2 statements", 2),
        ("SELECT * FROM orders WHERE id BETWEEN :from AND :to", "only INSERT ... SELECT, UPDATE, DELETE, MERGE and", 2),
        ("CREATE TABLE x (id int)", "only INSERT ... SELECT", 2),
        ("DO $$ BEGIN UPDATE orders SET x = :from; END $$", "only INSERT ... SELECT", 2),
        ("INSERT INTO b VALUES (:from, :to)", "this INSERT reads from no table", 2),
        ("WITH a AS (SELECT 1 WHERE 1 BETWEEN :from AND :to) SELECT * FROM a", "this WITH changes nothing", 2),
        (
            "UPDATE orders\nSET a = 1",
            "the statement has no :from and no :to, so each batch would change all rows: write WHERE id BETWEEN :from",
            2,
        ),
        ("UPDATE orders SET a = 1 WHERE id > :from", "the statement has no :to,", 2),
        ("UPDATE orders SET a = 1 WHERE id not between :from AND :to", "all rows but its own", 2),
        ("UPDATE orders SET a = ':from' WHERE id < :to", "the statement has no :from,", 2),
        ("UPDATE orders SET a = 1\nWHERE id BETWEEN :from\nAND :until", ":until is not a placeholder; only", 4),
        ("UPDATE orders SET a = :'x' WHERE id BETWEEN :from AND :to", ":'x' is not a placeholder", 2),
        ("UPDATE orders SET a = b[1:n] WHERE id BETWEEN :from AND :to", ":n is not a placeholder", 2),
        ("DELETE FROM orders WHERE id > :from AND id <= :to", "each batch would leave out its first key: write id", 2),
        ("DELETE FROM orders WHERE :from<=id AND\nid<:to", "each batch would leave out its last key", 3),
        ("DELETE FROM orders WHERE :from<id AND :to>=id", "each batch would leave out its first key", 2),
        ("UPDATE orders SET id = 1 WHERE id BETWEEN :from AND :to", f"this statement sets id, {MOVES}", 2),
        ("UPDATE ONLY shop.Orders o SET a = 1,\nID = 2 WHERE id BETWEEN :from AND :to", f"sets id, {MOVES}", 3),
        ("UPDATE orders SET (a, id) = (1, 2) WHERE id BETWEEN :from AND :to", f"sets id, {MOVES}", 2),
        ("INSERT INTO shop.Orders SELECT * FROM o WHERE id BETWEEN :from AND :to", INSERTS, 2),
        (f"{TAKEN}\nINSERT INTO orders SELECT * FROM d", INSERTS, 3),
        (f"MERGE INTO orders o USING s ON {OWN}\nWHEN NOT MATCHED THEN INSERT VALUES (1)", INSERTS, 2),
        ("WITH x AS (UPDATE orders SET id = 2 WHERE id BETWEEN :from AND :to RETURNING 1) SELECT 1", MOVES, 2),
        (
            "MERGE INTO orders o USING b ON o.id BETWEEN :from AND :to\nWHEN MATCHED THEN UPDATE SET id = 2",
            MOVES,
            3,
        ),
    ],
)
def test_what_does_not(statement: str, message: str, line: int) -> None:
    advice = advise(ORDERS + statement)
    assert [fault.line for fault in advice.faults] == [line]
    assert message in advice.faults[0].message


def test_a_mistake_in_the_statement_is_found_where_it_is() -> None:
    advice = advise(f"{ORDERS}UPDATE orders SET a = = 1 WHERE id BETWEEN :from AND :to")
    assert advice.faults == ()
    assert advice.syntax is not None
    assert advice.body[advice.syntax.offset :].startswith("= 1")


def test_the_statement_with_its_keys() -> None:
    text = f"{ORDERS}UPDATE orders SET a = :to /* :from */ WHERE id BETWEEN :from AND :to -- x\n;"
    advice = advise(text)
    filled = fill(advice.body, advice.statements[0], advice.placeholders, " ('1'::int) ", " ('20'::int) ")
    assert filled.sql == (
        "UPDATE orders SET a =  ('20'::int)  /* :from */ WHERE id BETWEEN  ('1'::int)  AND  ('20'::int) "
    )
    for word in ("UPDATE", "WHERE", "BETWEEN", "AND"):
        assert text[filled.origin(filled.sql.index(word)) :].startswith(word)
    assert text[filled.origin(filled.sql.index("'1'")) :].startswith(":from AND")
    assert filled.origin(len(filled.sql)) == advice.statements[0].end


def test_a_key_of_several_columns_is_compared_in_its_order() -> None:
    head = "-- entrypoint: batch = shop.t(a, b) by 10\n"
    (fault,) = advise(f"{head}DELETE FROM shop.t WHERE x AND\n(b, a) BETWEEN :from AND :to").faults
    assert (fault.line, fault.message) == (
        3, "batches are split by (a, b), in this order: write (a, b) BETWEEN :from AND :to"
    )  # fmt: skip
    assert not advise(f"{head}DELETE FROM t WHERE (a, b) BETWEEN :from AND :to").faults
    assert not advise(f"{head}UPDATE other.t SET a = 1 FROM shop.t WHERE (t.a, t.b) BETWEEN :from AND :to").faults
    assert advise(f"{head}UPDATE t SET a = 1 FROM shop.t s WHERE (s.a, s.b) BETWEEN :from AND :to").faults
