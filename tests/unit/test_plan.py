"""What to do, decided from files and rows alone."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from entrypoint.migration.ledger.plan import Plan, decide
from entrypoint.migration.ledger.rows import COMPLETED, FAILED, RUNNING, LedgerRow
from entrypoint.migration.script.files import MigrationFile
from entrypoint.migration.script.rollout import Rollout


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
    """Files and rows, and the numbers expected in every field of the plan."""

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


LATE = Rollout(after=True)
NEEDS_2 = Rollout(requires=2)


class Release(NamedTuple):
    """Files, some with directives about the rollout, and the numbers that are expected."""

    said: dict[int, Rollout]
    rows: list[LedgerRow]
    files: tuple[int, ...] = (1, 2, 3, 4)
    after: bool = False
    up_to: int | None = None
    pending: tuple[int, ...] = ()
    runnable: tuple[int, ...] | None = None
    outstanding: tuple[int, ...] = ()
    held_back: int | None = None
    unmet: tuple[int, int] | None = None
    out_of_order: tuple[int, ...] = ()
    initial: int | None = None


RELEASES = {
    "it is passed by": Release({2: LATE}, rows(1), pending=(3, 4), outstanding=(2,)),
    "it is passed by when all is done": Release({2: LATE}, rows(1, 3, 4), outstanding=(2,)),
    "after the rollout it is not": Release({2: LATE}, rows(1), after=True, pending=(2, 3, 4)),
    "late is not out of order": Release({2: LATE}, rows(1, 3, 4), after=True, pending=(2,)),
    "but others still are": Release({2: LATE}, rows(1, 4), after=True, pending=(2, 3), out_of_order=(3,)),
    "only up to a number": Release({2: LATE, 4: LATE}, rows(1), after=True, up_to=3, pending=(2, 3)),
    "a failed one keeps back its like": Release(
        {2: LATE, 4: LATE}, [row(1), row(2, FAILED)], after=True, pending=(2, 3, 4), runnable=(3,), held_back=2
    ),
    "a failed one is not pending in a start": Release(
        {2: LATE, 4: LATE}, [row(1), row(2, FAILED)], pending=(3,), outstanding=(2, 4)
    ),
    "a changed one is tried again": Release(
        {2: LATE}, [row(1), row(2, FAILED, "other")], after=True, pending=(2, 3, 4)
    ),
    "an ordinary one that failed keeps back all": Release(
        {3: LATE}, [row(1), row(2, FAILED)], after=True, pending=(2, 3, 4), runnable=(), held_back=2
    ),
    "it does not overtake what another image has not finished": Release(
        {4: LATE}, [row(1), row(2), row(3, RUNNING)], (1, 2, 4), after=True, pending=(4,), runnable=(), unmet=(4, 3)
    ),
    "what is required is there": Release({3: NEEDS_2}, rows(1, 2), pending=(3, 4)),
    "what is required runs before": Release({2: LATE, 3: NEEDS_2}, rows(1), after=True, pending=(2, 3, 4)),
    "what is required waits for the end of the rollout": Release(
        {2: LATE, 3: NEEDS_2}, rows(1), pending=(3, 4), runnable=(), outstanding=(2,), unmet=(3, 2)
    ),
    "what comes before it runs": Release(
        {2: LATE, 4: NEEDS_2}, rows(1), pending=(3, 4), runnable=(3,), outstanding=(2,), unmet=(4, 2)
    ),
    "what is required failed": Release(
        {2: LATE, 3: NEEDS_2}, [row(1), row(2, FAILED)], after=True, pending=(2, 3, 4), runnable=(), held_back=2
    ),
    "what is required has no file": Release({3: NEEDS_2}, rows(1), (1, 3), pending=(3,), runnable=(), unmet=(3, 2)),
    "a new database": Release({2: LATE}, [], pending=(1, 2, 3, 4), initial=4),
    "a new database where the first one failed": Release(
        {2: LATE}, [row(1, FAILED, "other")], pending=(1, 2, 3, 4), initial=4
    ),
    "a new database, half way": Release(
        {2: LATE, 4: LATE}, [row(1)._replace(initial=3)], pending=(2, 3), outstanding=(4,), initial=3
    ),
    "zero, in a new database": Release({0: LATE}, [], (0, 1), pending=(0, 1), initial=1),
    "zero, in another one": Release({0: LATE}, rows(1), (0, 1), outstanding=(0,)),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASES)
def test_decide_about_the_rollout(name: str) -> None:
    case = RELEASES[name]
    plan = decide(files(*case.files), case.rows, up_to=case.up_to, after=case.after, said=case.said)
    for field in ("pending", "outstanding", "out_of_order"):
        assert numbers(plan, field) == getattr(case, field), field
    assert numbers(plan, "runnable") == (case.pending if case.runnable is None else case.runnable)
    assert (plan.held_back and plan.held_back.number) == case.held_back
    assert (plan.unmet and (plan.unmet[0].number, plan.unmet[1])) == case.unmet
    assert plan.initial == case.initial


@pytest.mark.parametrize(
    ("numbers_", "said", "below"),
    [
        ((1, 2), {}, ()),
        ((1,), {}, (2,)),
        ((1, 3), {3: Rollout(replaces=("002_x.sql",))}, ()),
        ((1, 3), {3: Rollout(replaces=("001_x.sql",))}, (2,)),
    ],
)
def test_a_floor_is_met_by_a_file_or_what_stands_for_it(
    numbers_: tuple[int, ...], said: dict[int, Rollout], below: tuple[int, ...]
) -> None:
    there = [row(1), row(2)._replace(floor="002_x.sql"), row(3, FAILED)._replace(floor="009_x.sql")]
    assert numbers(decide(files(*numbers_), there, said=said), "below") == below
