"""How far a command has come, from the counters of PostgreSQL's progress views."""

from __future__ import annotations

import pytest

from entrypoint.migration.observe.progress import Progress, describe, percent, read

SCAN = "building index: scanning table"
LOAD = "building index: loading tuples in tree"

CASES = {
    "nothing known": (SCAN, ((None, None),), None),
    "the total is not known": (SCAN, ((5, None),), None),
    "a total of zero": (SCAN, ((0, 0),), None),
    "zero of zero, and a second pair": (SCAN, ((0, 0), (1, 4)), 25),
    "nothing done yet": (SCAN, ((0, 200),), 0),
    "a third, rounded down": (SCAN, ((1, 3),), 33),
    "nearly all": (SCAN, ((999, 1000),), 99),
    "all": (SCAN, ((200, 200),), 100),
    "more than all, as the table grew": (SCAN, ((250, 200),), 100),
    "less than nothing": (SCAN, ((-1, 200),), 0),
    "the first pair is finished, the second counts": (LOAD, ((200, 200), (10, 1000)), 1),
    "both are finished": (LOAD, ((200, 200), (1000, 1000)), 100),
    "counters beyond 32 bits": (SCAN, ((2**40, 2**41),), 50),
    "a phase that waits has the last phase's counters": ("waiting for old snapshots", ((10, 20),), None),
    "a phase that sorts, too": ("building index: sorting live tuples", ((20, 20),), None),
    "before it begins": ("initializing", ((0, 20),), None),
    "no phase, as with COPY": (None, ((512, 1024),), 50),
    "no pairs": (SCAN, (), None),
}


@pytest.mark.parametrize("case", CASES)
def test_percent(case: str) -> None:
    phase, pairs, expected = CASES[case]
    assert percent(phase, pairs) == expected


def test_a_row_is_read() -> None:
    assert read([]) is None
    found = read([("CREATE INDEX", "orders", SCAN, "42", "100", "0", "0")])
    assert found == Progress("CREATE INDEX", "orders", SCAN, 42)
    assert found.words() == "CREATE INDEX on orders: building index: scanning table, 42 %"
    # A table created in the same transaction: nobody else can see its name.
    hidden = read([("VACUUM FULL", None, "sorting tuples", None, "0", None, None)])
    assert hidden is not None
    assert hidden.words() == "VACUUM FULL: sorting tuples"
    copy = read([("COPY FROM", "orders", None, "0", "0", None, None)])
    assert copy is not None
    assert copy.words() == "COPY FROM on orders"


def test_the_rows_detail_in_words() -> None:
    assert describe({}) == ""
    assert describe({"seconds": 4}) == ", for 4 s"
    assert describe({"seconds": 4, "or_later": True}) == " or later, for 4 s"
    assert (
        describe({"seconds": 4, "command": "CREATE INDEX", "relation": "orders", "phase": SCAN, "percent": 0})
        == ", for 4 s (CREATE INDEX on orders: building index: scanning table, 0 %)"
    )
    assert describe({"seconds": 4, "blocked_by": "backend 7 (ann)"}) == (
        ", for 4 s; waiting for a lock held by backend 7 (ann)"
    )
    assert describe({"retry": "the next one starts in 2.0 s"}) == "; the next one starts in 2.0 s"
    # Another release may write anything there.
    assert describe({"command": 1, "percent": "many", "phase": None}) == " (1)"
