"""What is to be done, decided from files and rows alone."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from entrypoint.migration.ledger.plan import Plan, decide
from entrypoint.migration.ledger.rows import COMPLETED, FAILED, RUNNING, LedgerRow
from entrypoint.migration.script.files import MigrationFile


def file(number: int, checksum: str = "") -> MigrationFile:
    name = f"{number:03d}_x.sql"
    return MigrationFile(number, name, f"migrations/{name}", checksum or f"sum-{number}", f"raw-{number}")


def row(number: int, status: str = COMPLETED, checksum: str | None = "") -> LedgerRow:
    return LedgerRow(number, f"{number:03d}_x.sql", status, f"sum-{number}" if checksum == "" else checksum, None)


def files(*numbers: int) -> list[MigrationFile]:
    return [file(number) for number in numbers]


def rows(*numbers: int) -> list[LedgerRow]:
    return [row(number) for number in numbers]


class Case(NamedTuple):
    """Files and rows, and the numbers in every field of the plan that is expected."""

    files: list[MigrationFile]
    rows: list[LedgerRow]
    up_to: int | None = None
    current: int | None = None
    latest: int | None = None
    pending: tuple[int, ...] = ()
    runnable: tuple[int, ...] | None = None
    held_back: int | None = None
    failed: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    ahead: tuple[int, ...] = ()
    out_of_order: tuple[int, ...] = ()


CASES = {
    "nothing at all": Case([], []),
    "a new database": Case(files(1, 2), [], latest=2, pending=(1, 2)),
    "zero is a number": Case(files(0, 1), [], latest=1, pending=(0, 1)),
    "up to date": Case(files(1, 2), rows(1, 2), current=2, latest=2),
    "only zero is applied": Case(files(0, 1), rows(0), current=0, latest=1, pending=(1,)),
    "one is pending": Case(files(1, 2, 3), rows(1, 2), current=2, latest=3, pending=(3,)),
    "ahead": Case(files(1), rows(1, 2, 3), current=3, latest=1, ahead=(2, 3)),
    "ahead, and something is pending": Case(
        files(1, 2), rows(1, 3), current=3, latest=2, pending=(2,), ahead=(3,), out_of_order=(2,)
    ),
    "out of order": Case(files(1, 2, 3), rows(1, 3), current=3, latest=3, pending=(2,), out_of_order=(2,)),
    "in the middle and at the end": Case(
        files(1, 2, 3, 4), rows(1, 3), current=3, latest=4, pending=(2, 4), out_of_order=(2,)
    ),
    "a file is gone": Case(files(1, 3), rows(1, 2, 3), current=3, latest=3, missing=(2,)),
    "all files are gone": Case([], rows(1, 2), current=2),
    "a file changed": Case(
        [file(1, "other"), file(2)], rows(1, 2), current=2, latest=2, changed=(1,)
    ),
    "the raw checksum is as good": Case(files(1), [row(1, checksum="raw-1")], current=1, latest=1),
    "a row without a checksum": Case(files(1), [row(1, checksum=None)], current=1, latest=1),
    "up to a number": Case(files(1, 2, 3), rows(1), up_to=2, current=1, latest=3, pending=(2,)),
    "up to what is applied": Case(files(1, 2, 3), rows(1), up_to=1, current=1, latest=3),
    "the first failed": Case(
        files(1, 2), [row(1, FAILED)], latest=2, pending=(1, 2), runnable=(), held_back=1, failed=(1,)
    ),
    "one in the middle failed": Case(
        files(1, 2, 3, 4),
        [row(1), row(3, FAILED)],
        current=1,
        latest=4,
        pending=(2, 3, 4),
        runnable=(2,),
        held_back=3,
        failed=(3,),
    ),
    "it failed and has changed since": Case(
        files(1, 2), [row(1, FAILED, "before")], latest=2, pending=(1, 2), failed=(1,)
    ),
    "two failed, the first has changed": Case(
        files(1, 2, 3),
        [row(1, FAILED, "before"), row(2, FAILED)],
        latest=3,
        pending=(1, 2, 3),
        runnable=(1,),
        held_back=2,
        failed=(1, 2),
    ),
    "it failed before there were checksums": Case(
        files(1), [row(1, FAILED, None)], latest=1, pending=(1,), runnable=(), held_back=1, failed=(1,)
    ),
    "it failed, as the earlier system saw it": Case(
        files(1), [row(1, FAILED, "raw-1")], latest=1, pending=(1,), runnable=(), held_back=1, failed=(1,)
    ),
    "it failed, and is beyond what is asked for": Case(
        files(1, 2), [row(2, FAILED)], up_to=1, latest=2, pending=(1,), failed=(2,)
    ),
    "it failed, and its file is gone": Case(files(1), [row(1), row(2, FAILED)], current=1, latest=1, failed=(2,)),
}  # fmt: skip


def numbers(plan: Plan, field: str) -> tuple[int, ...]:
    return tuple(entry.number for entry in getattr(plan, field))


@pytest.mark.parametrize("name", CASES)
def test_decide(name: str) -> None:
    case = CASES[name]
    plan = decide(case.files, case.rows, up_to=case.up_to)
    assert (plan.current, plan.latest) == (case.current, case.latest)
    for field in ("pending", "failed", "changed", "missing", "ahead", "out_of_order"):
        assert numbers(plan, field) == getattr(case, field), field
    assert numbers(plan, "runnable") == (case.pending if case.runnable is None else case.runnable)
    assert (plan.held_back and plan.held_back.number) == case.held_back
    assert numbers(plan, "applied") == tuple(one.number for one in case.rows if one.status == COMPLETED)


def test_what_runs_at_the_moment_does_not_count_as_applied() -> None:
    plan = decide(files(1), [row(1, RUNNING)])
    assert plan.current is None
    assert plan.applied == ()
