"""docs/python.md: its code runs as it stands there, and what it lists is what there is."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from entrypoint import api
from kit.migrations import non_idempotent, write_migrations

if TYPE_CHECKING:
    from kit.databases import Database

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FIXTURE = BLOCKS[-1]

# Plugins of ours that take long to import, and that its users need not have.
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


def run_pytest(directory: Path, url: str, *options: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *OTHERS, "-W", "error", *options]
    run = subprocess.run(
        command, cwd=directory, env={**env, "TEST_DATABASE_URL": url}, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_fixture_gives_each_test_a_migrated_database(database: Database, tmp_path: Path) -> None:
    """By one process, and by two workers that migrate the same template at once."""
    (tmp_path / "conftest.py").write_text(FIXTURE)
    (tmp_path / "test_shop.py").write_text(TESTS)
    (tmp_path / "migrations").mkdir()
    # As nobody else's: the template stays on the server, which other tests use.
    own = {"013_own.sql": f"-- {tmp_path}\nSELECT 1;"}
    write_migrations(tmp_path / "migrations", non_idempotent(12) | own)
    before = templates(database)
    try:
        said = run_pytest(tmp_path, database.url, "-n", "2")
        assert "[gw0]" in said
        assert "[gw1]" in said
        (template,) = templates(database) - before
        with database.server.connect(template) as connection:
            assert connection.execute("SELECT count(*) FROM schema_migrations").fetchone() == (13,)
        assert "7 passed" in said
        # Again, with what is left of the first run.
        assert "7 passed" in run_pytest(tmp_path, database.url, "-p", "xdist")
        assert templates(database) == before | {template}
        assert database.one("SELECT count(*) FROM pg_database WHERE datname LIKE 'test\\_%'") == 0
    finally:
        for name in templates(database) - before:
            database.execute(f"DROP DATABASE {name} WITH (FORCE)")


def templates(database: Database) -> set[str]:
    return {name for (name,) in database.rows("SELECT datname FROM pg_database WHERE datname ~ '^template_[0-9a-f]'")}


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
    rows = dict(re.findall(r"^\| `([A-Z]\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
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
