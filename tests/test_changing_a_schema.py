"""docs/changing-a-schema.md, put to the test: each recipe's files in order, with clients of two releases running.

Files and statements come from the page, where a release's files stand above its statements. The files are applied while
the previous release runs; then both run; then the old one stops, and what runs after the rollout is applied.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest

from entrypoint.migration.script.contraction import contractions
from entrypoint.migration.script.scanner import scan
from kit.processes import until
from scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database
    from kit.processes import Run

PAGE = (Path(__file__).parent.parent / "docs" / "changing-a-schema.md").read_text()
PEOPLE = 2000
# Each client must run its statements this many times in every stage of a rollout.
ROUNDS = 20
CLIENTS = 3

# Queries that must find nothing at the end: rows that were missed or differ.
NOTHING_LEFT = {
    "Rename a column": "SELECT FROM people WHERE full_name IS NULL",
    "Change a type": "SELECT FROM people WHERE credit_cents IS NULL",
    "Split a table": f"SELECT FROM generate_series(1, {PEOPLE}) n WHERE NOT EXISTS "
    "(SELECT FROM addresses WHERE person_id = n)",
    "Add NOT NULL": "SELECT FROM pg_attribute WHERE attrelid = 'people'::regclass AND attname = 'email' "
    "AND NOT attnotnull",
    "Add a foreign key": "SELECT FROM pg_constraint WHERE conname = 'orders_person' AND NOT convalidated",
    "Drop a column": "SELECT FROM pg_attribute WHERE attrelid = 'people'::regclass AND attname = 'fax'",
    "Build an index": "SELECT FROM pg_index WHERE NOT indisvalid",
    "Backfill a hundred million rows": "SELECT FROM people WHERE initial IS NULL AND id <= 2000",
}


class Release(NamedTuple):
    """The release's files, and the statements that its replicas repeat."""

    files: dict[str, str]
    statements: list[str]


def recipes() -> dict[str, list[Release]]:
    """Return the releases of each recipe, including the one that creates the tables."""
    found: dict[str, list[Release]] = {}
    for section in PAGE.split("\n## ")[1:]:
        releases: list[Release] = []
        files = dict(TABLES)
        for title, text in re.findall(r"^```sql\n-- ([^\n]+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            if title == f"release {len(releases) + 1}":
                releases.append(Release(files, [one.strip() for one in text.split(";") if one.strip()]))
                files = {}
            else:
                files[title] = text
        assert not files, "files that no release has"
        found[section.partition("\n")[0]] = releases
    return found


def _tables() -> dict[str, str]:
    before = PAGE.partition("\n## ")[0]
    return dict(re.findall(r"^```sql\n-- ([^\n]+\.sql)\n(.*?)^```", before, re.MULTILINE | re.DOTALL))


TABLES = _tables()
RECIPES = recipes()


class Clients:
    """The replicas of one release, each with its own connection."""

    def __init__(self, url: str, statements: list[str]) -> None:
        """Start them."""
        self._url, self._statements = url, statements
        self._stopping = threading.Event()
        self.rounds = [0] * CLIENTS
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(place,)) for place in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, place: int) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                while not self._stopping.is_set():
                    for statement in self._statements:
                        connection.execute(statement.encode())
                    self.rounds[place] += 1
        except psycopg.Error as error:
            self.failures.append(str(error))

    def work_on(self) -> None:
        """Wait until each client has run its statements a few more times."""
        wanted = [rounds + ROUNDS for rounds in self.rounds]
        until(lambda: self.failures or all(done >= goal for done, goal in zip(self.rounds, wanted, strict=True)), 60)
        assert not self.failures

    def stop(self) -> None:
        """Stop them."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)
        assert not self.failures


def test_the_page_has_these_recipes() -> None:
    assert list(RECIPES) == list(NOTHING_LEFT)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_not_for_after_the_rollout_takes_nothing_away(recipe: str) -> None:
    for release in RECIPES[recipe]:
        for name, text in release.files.items():
            if "phase = after" not in text:
                assert not contractions(text, scan(text).statements), name


@pytest.mark.thorough
@pytest.mark.sampled(3)
@pytest.mark.parametrize("recipe", RECIPES)
def test_nobody_fails_meanwhile(
    recipe: str, database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    scene = Scene(database, migrations_dir, run_entrypoint)
    first, *others = RECIPES[recipe]
    scene.write(first.files)
    scene.migrated()
    database.execute(
        "INSERT INTO people (name, email, fax, street) SELECT 'name ' || n, nullif(n % 3, 0)::text, n, 'street ' || n "
        f"FROM generate_series(1, {PEOPLE}) n; "
        f"INSERT INTO orders (person_id) SELECT n FROM generate_series(1, {PEOPLE}) n"
    )
    if recipe == "Add a foreign key":
        database.execute("INSERT INTO orders (person_id) SELECT -n FROM generate_series(1, 100) n")
    running = Clients(database.url, first.statements)
    try:
        for release in others:
            running.work_on()
            scene.write(release.files)
            scene.start("migrate").ok(60)
            running.work_on()
            new = Clients(database.url, release.statements)
            try:
                new.work_on()
                running.work_on()
            finally:
                running.stop()
                running = new
            scene.start("migrate", "--phase", "after").ok(60)
            running.work_on()
    finally:
        running.stop()
    assert scene.run()[0] == "up_to_date"
    assert database.rows(NOTHING_LEFT[recipe]) == []


@pytest.mark.sampled(3)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_new_database_runs_all_files_at_once(
    recipe: str, database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    scene = Scene(database, migrations_dir, run_entrypoint)
    for release in RECIPES[recipe]:
        scene.write(release.files)
    scene.migrated()
    assert scene.run()[0] == "up_to_date"
    assert database.rows("SELECT filename FROM schema_migrations ORDER BY 1") == [
        (name,) for release in RECIPES[recipe] for name in release.files
    ]
