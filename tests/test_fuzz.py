"""What a text's statements are, by both readings and by a real server: random texts, and what they once found."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from fuzz.hunt import KNOWN, corpus, hunt
from fuzz.judge import Judge
from scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

SECONDS = 15


@pytest.fixture
def judge(database: Database) -> Iterator[Judge]:
    judge = Judge(database.connect)
    yield judge
    judge.close()


def test_what_it_found(judge: Judge) -> None:
    differences = {name: judge.differences(text) for name, text in corpus().items()}
    assert {name: found for name, found in differences.items() if any(each.shape not in KNOWN for each in found)} == {}


@pytest.mark.parametrize("seed", ["pg-entrypoint", None])
def test_random_texts(judge: Judge, seed: str | None) -> None:
    seed = seed or secrets.token_hex(4)
    print(f"seed {seed}: make fuzz SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    result = hunt(judge, seed, SECONDS)
    assert [found for found in result.found if not found.known] == []
    assert judge.ran > judge.texts / 2, "most texts are syntax errors, which test nothing"


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
    assert database.rows("SELECT a FROM public.marker") == ([(2,)] if done else [])
