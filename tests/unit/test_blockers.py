"""Who is in the way, in words, and how the waits add up."""

from __future__ import annotations

import pytest

from entrypoint.migration.observe.blockers import Blocker, Wait, Waits, read_blockers, without_literals

LITERALS = {
    "a string": ("SELECT 'secret'", "SELECT ?"),
    "a quote within": ("SELECT 'it''s secret', b", "SELECT ?, b"),
    "an escape string": (r"SELECT E'it\'s secret', b", "SELECT ?, b"),
    "an escape string, a backslash at its end": (r"SELECT e'secret\\', b", "SELECT ?, b"),
    "an escape string, both kinds of quotes": (r"SELECT E'a''b\'secret', b", "SELECT ?, b"),
    "a name that ends in e": ("SELECT type'secret'", "SELECT type?"),
    "dollars": ("SELECT $$secret$$, b", "SELECT ?, b"),
    "tagged dollars": ("DO $fn$ a $$ secret $$ ' $fn$; b", "DO ?; b"),
    "dollars in a name": ("SELECT a$b$c, 'secret'", "SELECT a$b$c, ?"),
    "parameters stay": ("SELECT $1, $12", "SELECT $1, $12"),
    "numbers": ("SELECT 1, 1.5, .5, 1e10, 1.5e-3, 0x1F, 1_000, -7", "SELECT ?, ?, ?, ?, ?, ?, ?, -?"),
    "digits in names stay": ("SELECT t1.c2 FROM t1", "SELECT t1.c2 FROM t1"),
    "bits, national, Unicode": ("SELECT B'01', N'secret', U&'secret'", "SELECT B?, N?, U&?"),
    "quoted names stay": ('SELECT "it\'s" FROM "t 1"', 'SELECT "it\'s" FROM "t 1"'),
    "a comment": ("SELECT a -- secret\n, b", "SELECT a , b"),
    "a quote in a comment": ("SELECT a -- it's\n, 'secret'", "SELECT a , ?"),
    "nested comments": ("SELECT a /* x /* secret */ secret */, b", "SELECT a , b"),
    "cut in a string": ("SELECT a, 'secr", "SELECT a, ?"),
    "cut after a quote within": ("SELECT 'secret''", "SELECT ?"),
    "cut in an escape string": (r"SELECT E'secr", "SELECT ?"),
    "cut after a backslash": ("SELECT E'secr\\", "SELECT ?"),
    "cut in dollars": ("DO $fn$ secret", "DO ?"),
    "cut in the closing tag": ("DO $fn$ secret $f", "DO ?"),
    "cut in a comment": ("SELECT a /* secret", "SELECT a"),
    "cut in a number": ("SELECT 1.", "SELECT ?"),
    "cut in a quoted name": ('SELECT "na', 'SELECT "na'),
    "a backslash before the quote: it may not end there": (r"SELECT 'it\'s secret', b", "SELECT ?"),
    "a password": ("ALTER ROLE r PASSWORD 'secret' VALID UNTIL 'x'", "ALTER ROLE r PASSWORD ? VALID UNTIL ?"),
    "a password, cut": ("ALTER ROLE r PASSWORD 'secr", "ALTER ROLE r PASSWORD ?"),
    "lines": ("SELECT\n\ta,\r\n   b", "SELECT a, b"),
    "nothing": ("", ""),
    "long": ("SELECT " + "a, " * 100, ("SELECT " + "a, " * 100)[:117] + "..."),
}


@pytest.mark.parametrize("case", LITERALS)
def test_without_literals(case: str) -> None:
    query, expected = LITERALS[case]
    found = without_literals(query)
    assert found == expected
    assert "secr" not in found


@pytest.mark.parametrize("query", [text for text, _ in LITERALS.values() if "secret" in text])
def test_a_query_that_is_cut_anywhere_shows_no_value(query: str) -> None:
    for end in range(len(query)):
        assert "secr" not in without_literals(query[:end]), query[:end]


def blocker(**fields: object) -> Blocker:
    values: dict[str, object] = {
        "pid": 7,
        "user": "ann",
        "application": "report",
        "transaction_s": 42,
        "state": "idle in transaction",
        "waits": False,
        "query": "SELECT ?",
        "kind": "client backend",
        "gid": None,
    }
    return Blocker(**(values | fields))  # type: ignore[arg-type]


WORDS = {
    "idle in a transaction": (
        blocker(),
        "backend 7 (ann, report, idle in transaction, transaction open for 42 s); its last statement: SELECT ?",
    ),
    "active, and blocked itself": (
        blocker(state="active", waits=True),
        "backend 7 (ann, report, active, transaction open for 42 s, waiting for a lock itself): SELECT ?",
    ),
    "no transaction": (
        blocker(state="idle", transaction_s=None, query="SELECT pg_advisory_lock(?)"),
        "backend 7 (ann, report, idle, no transaction open); its last statement: SELECT pg_advisory_lock(?)",
    ),
    "no name, no query": (
        blocker(application=None, query=""),
        "backend 7 (ann, no application name, idle in transaction, transaction open for 42 s)",
    ),
    "nobody's session": (
        blocker(user=None, application=None, state="active", kind="autovacuum worker", query="autovacuum: VACUUM t"),
        "backend 7 (autovacuum worker, active, transaction open for 42 s): autovacuum: VACUUM t",
    ),
    "we may not know": (
        blocker(application=None, transaction_s=None, state=None, kind=None, query="<insufficient privilege>"),
        "backend 7 (ann; this user may not see what it is doing)",
    ),
    "prepared": (
        blocker(pid=0, application=None, state=None, kind=None, query="", gid="order 1"),
        "prepared transaction 'order 1' (ann, prepared 42 s ago)",
    ),
}


@pytest.mark.parametrize("case", WORDS)
def test_words(case: str) -> None:
    one, expected = WORDS[case]
    assert one.words() == expected
    assert "None" not in one.words() + one.short + one.remedy()


def test_what_to_do_about_it() -> None:
    assert "that transaction ends" in blocker().remedy()
    assert "pg_terminate_backend(7)" in blocker().remedy()
    assert "releases its lock" in blocker(transaction_s=None).remedy()
    assert "ROLLBACK PREPARED 'it''s'" in blocker(gid="it's", pid=0).remedy()


def test_rows_are_read() -> None:
    row = ("7", "ann", "", "42", "active", "t", "SELECT 'secret'", "client backend", None)
    (found,) = read_blockers([row])
    assert found == blocker(application=None, state="active", waits=True)


def wait(began: str, seconds: float, *, in_the_way: bool = True) -> Wait:
    return Wait(began, seconds, "AccessExclusiveLock", "t", in_the_way)


ADDED: dict[str, tuple[list[Wait | None], float]] = {
    "nothing": ([], 0),
    "no wait": ([None, None], 0),
    "one, seen twice": ([wait("1", 0.5), wait("1", 0.7)], 0.7),
    "one that is over": ([wait("1", 0.5), None, None], 0.5),
    "two with a break": ([wait("1", 0.5), None, wait("2", 0.25)], 0.75),
    "two without a break": ([wait("1", 0.5), wait("2", 0.25), wait("2", 0.5)], 1.0),
    "nobody waits behind the first": ([wait("1", 0.5, in_the_way=False), wait("2", 0.25)], 0.25),
    "its length once counted stays": ([wait("1", 0.5), wait("1", 0.6, in_the_way=False)], 0.5),
}


@pytest.mark.parametrize("case", ADDED)
def test_waits_add_up(case: str) -> None:
    samples, expected = ADDED[case]
    waits = Waits()
    for number, sample in enumerate(samples):
        waits.seen(sample, now=float(number))
    assert waits.seconds == pytest.approx(expected)


def test_a_server_that_does_not_tell_when_a_wait_began() -> None:
    """Before PostgreSQL 14, a wait counts from when it was first seen."""
    waits = Waits()
    for now in (10.0, 11.0, 12.5):
        waits.seen(wait("", 0), now)
    waits.seen(None, 13.0)
    waits.seen(wait("", 0), 14.0)
    assert waits.seconds == pytest.approx(2.5)
