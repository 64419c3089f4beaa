"""docs/python.md: its code runs as printed, and what it lists exists."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from entrypoint import api, errors
from entrypoint.errors import migration, operator
from kit.migrations import non_idempotent, write_migrations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kit.databases import Database

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FIXTURE = BLOCKS[-1]

# Plugins that we have and its users need not have; they take long to import.
OTHERS = [f"-pno:{name}" for name in ("schemathesis", "hypothesispytest", "playwright", "base_url", "anyio")]
TESTS = """
import os
import psycopg
import pytest


@pytest.mark.parametrize("number", range(6))
def test_it_is_mine_alone(database_url: str, number: int) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM step").fetchone() == (12,)
        connection.execute("DELETE FROM step")


def test_who_am_i(worker_id: str) -> None:
    pass
"""


TEMPLATES = "shop_template_"


def run_pytest(directory: Path, url: str, *options: str, code: int = 0) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *OTHERS, "-W", "error", *options]
    run = subprocess.run(
        command, cwd=directory, env={**env, "TEST_DATABASE_URL": url}, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert run.returncode == code, run.stdout + run.stderr
    return run.stdout


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Iterator[Path]:
    """Return a directory with the fixture, tests and migrations. Its templates are its own, and are dropped."""
    (tmp_path / "conftest.py").write_text(FIXTURE.replace(f'"{TEMPLATES}"', f'"{prefix(database)}"'))
    (tmp_path / "test_shop.py").write_text(TESTS)
    (tmp_path / "migrations").mkdir()
    write_migrations(tmp_path / "migrations", non_idempotent(12) | {"013_own.sql": "CREATE TABLE own ();"})
    yield tmp_path
    for name in templates(database):
        database.execute(f"DROP DATABASE {name} WITH (FORCE)")


def prefix(database: Database) -> str:
    return f"{TEMPLATES}{own(database)}_"


def own(database: Database) -> str:
    """Return a short name that no other test has."""
    return hashlib.sha256(database.name.encode()).hexdigest()[:12]


def templates(database: Database) -> set[str]:
    found = {name for (name,) in database.rows("SELECT datname FROM pg_database")}
    return {name for name in found if name.startswith(prefix(database))}


def test_the_fixture_gives_each_test_a_migrated_database(database: Database, shop: Path) -> None:
    """In one process, and in two workers at once."""
    assert f'TEMPLATES = "{TEMPLATES}"' in FIXTURE
    said = run_pytest(shop, database.url, "-n", "2")
    assert "[gw0]" in said
    assert "[gw1]" in said
    assert "7 passed" in said
    (template,) = templates(database)
    with database.server.connect(template) as connection:
        assert connection.execute("SELECT count(*) FROM schema_migrations").fetchone() == (13,)
    # Again, with what the first run left behind.
    assert "7 passed" in run_pytest(shop, database.url, "-p", "xdist")
    assert templates(database) == {template}
    assert database.one("SELECT count(*) FROM pg_database WHERE datname LIKE 'test\\_%'") == 0


@pytest.mark.thorough
def test_the_fixture_makes_another_template_for_other_names(database: Database, shop: Path) -> None:
    """For example, if another branch has taken a number: the file's text is the same. The older template is dropped."""
    options = ("-p", "xdist", "-k", "mine and 0")
    run_pytest(shop, database.url, *options)
    (before,) = templates(database)
    (shop / "migrations" / "013_own.sql").rename(shop / "migrations" / "015_own.sql")
    for _ in range(2):
        run_pytest(shop, database.url, *options)
    (after,) = templates(database)
    assert after != before
    with database.server.connect(after) as connection:
        assert connection.execute("SELECT max(migration_number) FROM schema_migrations").fetchone() == (15,)


@pytest.mark.thorough
def test_the_fixture_tries_again_what_failed_for_a_cause_elsewhere(database: Database, shop: Path) -> None:
    """Here, something that is missing on the server at first."""
    role = f"reader_{own(database)}"
    write_migrations(shop / "migrations", {"014_grant.sql": f"GRANT SELECT ON own TO {role};"})
    for options in (("-p", "xdist"), ("-n", "2")):
        said = run_pytest(shop, database.url, *options, code=1)
        assert f'role "{role}" does not exist' in said
        assert "held back" not in said
        assert templates(database) == set()
    database.execute(f"CREATE ROLE {role}")
    try:
        assert "7 passed" in run_pytest(shop, database.url, "-n", "2")
    finally:
        for name in templates(database):
            database.execute(f"DROP DATABASE {name} WITH (FORCE)")
        database.execute(f"DROP ROLE {role}")


@pytest.mark.text
def test_each_block_is_python() -> None:
    for block in BLOCKS:
        compile(block, "python.md", "exec")


@pytest.mark.text
def test_the_tables_have_every_parameter_and_every_field() -> None:
    parameters = set(re.findall(r"^\| `(\w+)` \| `(?:migrate|check)|^\| `(variables)` \|", PAGE, re.MULTILINE))
    documented = {one or other for one, other in parameters} | {"url", "directory"}
    functions = (api.migrate, api.status, api.check)
    assert documented == {name for one in functions for name in inspect.signature(one).parameters}
    table = PAGE.partition("## Results")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([A-Z]\w+)` \| (.*) \|$", table, re.MULTILINE))
    for name, said in rows.items():
        fields = getattr(api, name)._fields
        assert [field for field in fields if f"`{field}`" not in said] == []
    assert set(rows) == {name for name in api.__all__ if name[0].isupper()}
    assert (
        set(re.findall(r"`([A-Z_]+)`", PAGE.partition("`variables` takes")[2].partition(", with")[0])) == api._VARIABLES
    )


@pytest.mark.text
def test_all_public_names_have_a_docstring() -> None:
    for name in api.__all__:
        assert inspect.getdoc(getattr(api, name)), name


@pytest.mark.text
def test_the_table_of_exceptions_has_each_with_its_module_and_what_it_is() -> None:
    section = PAGE.partition("## Errors")[2].partition("\n## ")[0]
    module, found = "", {}
    for first, bases, when in re.findall(r"^\| (.+?) \| (.*?) ?\| (.*?) ?\|$", section, re.MULTILINE):
        if first.startswith("in "):
            module = re.findall(r"`([\w.]+)`", first)[0]
        elif module:
            (name,) = re.findall(r"`(\w+)`", first)
            found[f"{module}.{name}"] = set(re.findall(r"`(\w+)`", bases))
            assert when or found[f"{module}.{name}"]
    there = {
        f"{kind.__module__}.{name}": {base.__name__ for base in kind.__bases__}
        for one in (errors, migration, operator)
        for name, kind in vars(one).items()
        if isinstance(kind, type) and issubclass(kind, errors.EntrypointError)
    }
    assert found == there
    named = re.findall(r"`(\w+)`", section.partition("| attribute |")[2].partition("\n\n")[0])
    error = errors.EntrypointError("x")
    assert set(named) == {"message", "remedy", "report", "event", "fields", "schema_version", "applied"}
    assert [name for name in named if not hasattr(error, name)] == []


@pytest.mark.text
def test_annotations_can_be_evaluated() -> None:
    """FastAPI and pydantic do this. That `typing` is not imported for it is checked in tests/test_api.py."""
    for name in api.__all__:
        if name != "errors":
            hints = typing.get_type_hints(getattr(api, name))
            assert not [one for one in hints if one.startswith("_")]
    assert typing.get_type_hints(api.StatusResult)["document"] == Mapping[str, typing.Any]
    assert typing.get_type_hints(api.Finding)["level"] == typing.Literal["error", "warning", "note"]
    assert typing.get_type_hints(api.check)["files"] == Iterable[str | os.PathLike[str]] | None
