"""What a file says about itself: which directives are read, and which are refused with a suggestion."""

from __future__ import annotations

import pytest

from entrypoint.migration.script.directives import Directives, Origin, read, spell, spell_origin, spell_timeouts
from entrypoint.migration.script.rollout import Rollout, said_in
from entrypoint.migration.script.statements import advise


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("no-transaction", Directives(no_transaction=True)),
        ("timeout = 30min", Directives(timeout=1800)),
        ("timeout=250ms", Directives(timeout=0.25)),
        ("timeout = 2 h", Directives(timeout=7200)),
        ("timeout = 0005s", Directives(timeout=5)),
        ("timeout = 2147483647ms", Directives(timeout=2147483.647)),
        ("lock-timeout =1s", Directives(lock_timeout=1)),
        ("phase = after", Directives(rollout=Rollout(after=True))),
        ("phase=after", Directives(rollout=Rollout(after=True))),
        ("requires = 012", Directives(rollout=Rollout(requires=12))),
        ("replaces = 012_x.sql", Directives(rollout=Rollout(replaces=("012_x.sql",)))),
        ("origin = goose 20210101120000", Directives(origin=Origin("goose", "20210101120000"))),
        ("origin=flyway 2.1", Directives(origin=Origin("flyway", "2.1"))),
        ("origin = dbmate   001", Directives(origin=Origin("dbmate", "001"))),
        ("origin = sql-migrate 2021 a = b.sql", Directives(origin=Origin("sql-migrate", "2021 a = b.sql"))),
        ("origin = drizzle 0001_x 1700000000000", Directives(origin=Origin("drizzle", "0001_x 1700000000000"))),
    ],
)
def test_a_good_one(line: str, expected: Directives) -> None:
    assert read(f"-- entrypoint: {line}\nselect 1") == (expected, ())
    assert advise(f"-- entrypoint: {line}\nselect 1").directives == expected


def test_several() -> None:
    text = "-- A\n-- entrypoint: timeout = 1h\n\n/* b */ --entrypoint:lock-timeout=10ms\n-- entrypoint: no-transaction"
    assert read(text) == (Directives(no_transaction=True, timeout=3600, lock_timeout=0.01), ())
    assert advise(text).no_transaction


@pytest.mark.parametrize(
    ("comment", "meant"),
    [
        ("-- Entrypoint: phase = after", "phase = after"),
        ("-- ENTRYPOINT: no-transaction", "no-transaction"),
        ("-- entrypoint no-transaction", "no-transaction"),
        ("--entrypoint phase = after", "phase = after"),
        ("-- pg-entrypoint: lock_timeout: 1s", "lock-timeout = 1s"),
        ("/* entrypoint: phase = after */", "phase = after"),
        ("/*\n * entrypoint: timeout = 30min\n */", "timeout = 30min"),
        ("--- entrypoint: Requires=12", "requires = 12"),
        ("-- entrypiont: phase = after", "phase = after"),
        ("-- entrpoint: phase = after", "phase = after"),
        ("-- entrypoints: phase = after", "phase = after"),
        ("-- entr\N{CYRILLIC SMALL LETTER U}point: phase = after", "phase = after"),
        ("-- entrypoint; phase = after", "phase = after"),
        ("-- entrypoint\N{FULLWIDTH COLON} phase = after", "phase = after"),
        ("-- @entrypoint phase = after", "phase = after"),
        ("-- Entry point: phase = after", "phase = after"),
    ],
)
def test_a_comment_that_is_nearly_one_is_refused_with_what_was_meant(comment: str, meant: str) -> None:
    """If it were ignored, a DROP with `phase = after` would run alongside the pods that still read the table."""
    (fault,) = advise(f"-- A title\n{comment}\nDROP TABLE a").faults
    assert fault.message == f'this is a comment, not a directive: did you mean "-- entrypoint: {meant}"?'
    assert fault.line == 2
    assert advise(f"SELECT 1;\n{comment}\nDROP TABLE a").faults == ()
    assert advise(f"{comment}\nCREATE VIEW a AS SELECT 1", repeatable=True).faults == ()


@pytest.mark.parametrize("text", ["DROP TABLE a; {}", "DROP TABLE a;{}\nSELECT 1;", "DROP TABLE a;\n {}"])
def test_a_directive_behind_a_statement_is_refused(text: str) -> None:
    (fault,) = advise(text.format("-- entrypoint: phase = after")).faults
    assert fault.message == "directives only count above the first statement: move it there"
    assert fault.line == text.partition("{")[0].count("\n") + 1


def test_a_sentence_that_begins_so_is_a_comment() -> None:
    for comment in (
        "-- Entrypoint of the reports: see docs",
        "-- entrypoint",
        "-- entrypoint after the rollout",
        "-- entrypoint no-transaction was tried here",
        "-- checkpoint: phase = after",
        "-- entropies: phase = after",
        "-- entrypoint-like: phase = after",
        "/* Entrypoint: the table of orders */",
        f"/* {'x' * 5000} entrypoint: phase = after */",
        "-- Written for entrypoint: phase = after",
    ):
        assert advise(f"{comment}\nSELECT 1").faults == ()


KNOWN = "this program knows no-transaction, timeout, lock-timeout, origin"
FORM = "write a whole number followed by ms, s, min or h, like timeout = 30min"
RANGE = "it must be from 1ms to 596h"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", f'unknown directive "": {KNOWN}'),
        ("speed = 5", f'unknown directive "speed": {KNOWN}'),
        ("statement-timeout = 5s", f'unknown directive "statement-timeout": {KNOWN}'),
        ("no-transction", 'unknown directive "no-transction": did you mean no-transaction? This program knows'),
        ("No-Transaction", 'unknown directive "No-Transaction": did you mean no-transaction?'),
        ("lock_timeout = 1s", 'unknown directive "lock_timeout": did you mean lock-timeout?'),
        ("time-out = 1s", 'unknown directive "time-out": did you mean timeout?'),
        (
            "phase = before",
            'phase = before is not a phase: write "-- entrypoint: phase = after", or remove the line',
        ),
        ("phase", '"phase" has no "=" and `after` after it: write "-- entrypoint: phase = after"'),
        ("requires = 2.1", "requires = 2.1 is not the number of a migration, like requires = 12"),
        ("requires = 1234567890123456789", "is not the number of a migration"),
        ("floor = 12", "floor = 12 is not the name of a migration's file, like floor = 012_drop_name.sql"),
        (
            "floor = 012_x.sql",
            'floor only applies to files that run after the rollout: add "-- entrypoint: phase = after" as well',
        ),
        ("replaces = 012", "replaces = 012 is not the name of a migration's file"),
        ("no-transaction = on", 'no-transaction takes no value: write "-- entrypoint: no-transaction"'),
        ("no-transaction, timeout = 5s", "no-transaction takes no value"),
        ("timeout", '"timeout" has no "=" and a time after it: write "-- entrypoint: timeout = 30min"'),
        ("timeout =", '"timeout =" has no "=" and a time after it'),
        ("timeout: 30min", '"timeout: 30min" has no "=" and a time after it'),
        ("timeout 30min", '"timeout 30min" has no "=" and a time after it'),
        (
            "origin",
            '"origin" has no "=" and a tool with its version after it: write "-- entrypoint: origin = goose 2021',
        ),
        ("origin goose 1", '"origin goose 1" has no "=" and a tool with its version after it'),
        ("origin = tern 1", "origin = tern 1 does not start with the name of a supported tool: goose, dbmate, sql-"),
        ("origin = Goose 1", "origin = Goose 1 does not start with the name of a supported tool"),
        ("origin = goose", "origin = goose does not say which goose migration it was, like origin = goose 2021"),
        ("origin = goose1", "origin = goose1 does not start with the name of a supported tool"),
        ("timeout = 30", "timeout = 30 has no unit: write 30ms, 30s, 30min or 30h"),
        ("lock-timeout = 0", "lock-timeout = 0 has no unit"),
        ("timeout = 30m", f"timeout = 30m is not a duration: {FORM}"),
        ("timeout = 30MIN", f"timeout = 30MIN is not a duration: {FORM}"),
        ("timeout = 1d", "timeout = 1d is not a duration"),
        ("timeout = 1.5h", "timeout = 1.5h is not a duration"),
        ("timeout = -5s", "timeout = -5s is not a duration"),
        ("timeout = \u0663s", "timeout = \u0663s is not a duration"),
        ("timeout = 5s, lock-timeout = 1s", "timeout = 5s, lock-timeout = 1s is not a duration"),
        ("timeout = 0s", f"timeout = 0s is too short: {RANGE}"),
        ("timeout = 2147483648ms", f"timeout = 2147483648ms is too long: {RANGE}"),
        ("timeout = 597h", f"timeout = 597h is too long: {RANGE}"),
        (f"timeout = {'9' * 5000}s", f"is too long: {RANGE}"),
    ],
)
def test_a_bad_one(line: str, message: str) -> None:
    directives, (fault,) = read(f"\n-- entrypoint: {line}\nselect 1")
    # If there is an error, nothing of the file runs, whatever it says about the rollout.
    assert directives._replace(rollout=Rollout()) == Directives()
    assert fault.line == 2
    assert message in fault.message
    assert advise(f"\n-- entrypoint: {line}\nselect 1").faults == (fault,)


def test_the_same_twice() -> None:
    directives, (fault,) = read("-- entrypoint: timeout = 1s\n--\n-- entrypoint: timeout = 2s\n")
    assert directives.timeout == 1
    assert (fault.line, fault.message) == (3, "timeout is already set in line 1: keep only one")


def test_every_fault_is_listed() -> None:
    text = "-- entrypoint: speed\n-- entrypoint: timeout = 5\nselect 1;\n-- entrypoint: timeout = 5s\n"
    assert [fault.line for fault in advise(text).faults] == [1, 2, 4]


@pytest.mark.parametrize(
    ("seconds", "text"), [(1800, "30min"), (7200, "2h"), (90, "90s"), (0.25, "250ms"), (1.5, "1500ms"), (300.0, "5min")]
)
def test_times_are_spelled_as_one_would_write_them(seconds: float, text: str) -> None:
    assert spell(seconds) == text


def test_what_a_file_declares_in_words() -> None:
    assert spell_timeouts(Directives(timeout=60, lock_timeout=0.5)) == "timeout 1min, lock-timeout 500ms"
    assert spell_timeouts(Directives(no_transaction=True)) == ""


def test_an_origin_is_spelled_as_it_is_read() -> None:
    origin = Origin("drizzle", "0001_x 1700000000000")
    assert read(spell_origin(origin))[0].origin == origin


def test_a_second_origin() -> None:
    directives, (fault,) = read("-- entrypoint: origin = goose 1\n-- entrypoint: origin = goose 2")
    assert directives.origin == Origin("goose", "1")
    assert "origin is already set in line 1" in fault.message


AFTER = "-- entrypoint: phase = after\n-- entrypoint: floor = 002_x.sql\n"


@pytest.mark.parametrize(
    "text",
    [
        AFTER,
        f"-- Why.\n\n{AFTER}SELECT 1;",
        f"/* Why. /* nested */ */ {AFTER}",
        f"\\set ON_ERROR_STOP on\n{AFTER}",
        "--entrypoint:phase=after\r\n-- entrypoint  :  floor=002_x.sql",
        "-- entrypoint: phase = after\r-- entrypoint: floor = 002_x.sql\rSELECT 1",
        f"SELECT 1;\n{AFTER}",
        f"/* open\n{AFTER}",
        f"-- Entrypoint: phase = after\n- {AFTER}",
        "",
    ],
)
def test_what_a_start_reads_of_the_rollout_is_what_is_declared(text: str) -> None:
    assert said_in(text) == advise(text).directives.rollout
    expected = Rollout(after=True, floor="002_x.sql")
    assert said_in(text) == (Rollout() if text[:1] in ("S", "") or "open" in text or "- --" in text else expected)


def test_several_replaces() -> None:
    text = "-- entrypoint: replaces = 001_a.sql\n-- entrypoint: replaces = 002_b.sql"
    assert read(text) == (Directives(rollout=Rollout(replaces=("001_a.sql", "002_b.sql"))), ())
