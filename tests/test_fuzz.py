"""Which statements a text has: both readings and a real server must agree, on random texts and on past failures."""

from __future__ import annotations

import secrets
from random import Random
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from entrypoint.migration.script.statements import advise
from fuzz.hunt import KNOWN, corpus, hunt, sample
from fuzz.judge import Judge
from fuzz.shapes import Shapes
from fuzz.whole import Whole, psql
from scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run


@pytest.fixture
def judge(database: Database) -> Iterator[Judge]:
    judge = Judge(database.connect)
    yield judge
    judge.close()


def test_what_it_found(judge: Judge) -> None:
    differences = {name: judge.differences(text) for name, text in corpus().items()}
    assert {name: found for name, found in differences.items() if any(each.shape not in KNOWN for each in found)} == {}


@pytest.mark.parametrize(
    ("seed", "seconds"), [("pg-entrypoint", 2), pytest.param(None, 25, marks=pytest.mark.thorough)]
)
def test_random_texts(judge: Judge, seed: str | None, seconds: int) -> None:
    seed = seed or secrets.token_hex(4)
    print(f"seed {seed}: make fuzz SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    result = hunt(judge, seed, seconds)
    assert [found for found in result.found if not found.known] == []
    assert judge.ran > judge.texts / 2, "most texts are syntax errors, which test nothing"


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_files_have_the_same_effect_as_with_psql(database: Database, tmp_path: Path) -> None:
    if (beside := psql(database.server)) is None:
        missing("no psql (Debian's package postgresql-client)")
    seed = secrets.token_hex(4)
    print(f"seed {seed}: make fuzz SEED={seed}")  # noqa: T201
    whole = Whole(database.server, tmp_path, beside, prefix=database.name[:50])
    try:
        assert sample(whole, seed, 10) == []
    finally:
        whole.close()
    assert whole.applied > 0


@pytest.mark.thorough
@pytest.mark.parametrize("name", corpus())
def test_the_program_applies_what_it_found_whole_or_not_at_all(
    name: str, database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_a.sql": "CREATE TABLE t (a int); CREATE TABLE marker (a int);"})
    scene.migrated()
    scene.write({"002_b.sql": f"INSERT INTO marker VALUES (2);\n{corpus()[name]}"})
    scene.start("migrate").wait()
    done = (2, "completed") in scene.ledger()
    units = bool(advise(f"INSERT INTO marker VALUES (2);\n{corpus()[name]}").units)
    assert units or database.rows("SELECT a FROM public.marker") == ([(2,)] if done else [])


@pytest.mark.parametrize(
    ("seed", "count"), [("pg-entrypoint", 10), pytest.param(None, 200, marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.timeout(600)
def test_files_with_transaction_control_of_their_own(
    database: Database, seed: str | None, count: int, *, deferred: bool
) -> None:
    if (beside := psql(database.server)) is None:
        missing("no psql (Debian's package postgresql-client)")
    seed = seed or secrets.token_hex(4)
    print(f"seed {seed}: python -m tests.fuzz --seconds 0 --shapes {count} --seed {seed}")  # noqa: T201
    shapes = Shapes(database.server, beside, deferred=deferred, prefix=database.name[:40])
    try:
        shapes.run(Random(seed), count)
    finally:
        shapes.close()
    assert shapes.found == []
    assert shapes.counts["merged"] > 0
    assert shapes.counts["units"] > 0
