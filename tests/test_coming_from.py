"""The pages in docs/coming-from: each one's commands are run as written, on a database with the tool's own history."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from entrypoint.records import TOOLS
from kit.pages import blocks
from scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kit.databases import Database
    from kit.processes import Run

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "coming-from"
HISTORIES = ROOT / "tests" / "fixtures" / "histories"
APPLIED = ("CREATE TABLE accounts (id integer);\n", "CREATE TABLE touch (id integer);\n")
PENDING = "CREATE TABLE orders (id integer);\n"
STAMPS = ("20240101000100", "20240101000200", "20240101000300")
NAMES = ("accounts", "touch", "orders")


class Project(NamedTuple):
    """A tool's directory with three migrations, of which two are applied."""

    files: Mapping[str, str]
    history: str
    """SQL that makes the tool's table."""


def project(tool: str) -> Project:
    """Return the project that the tool's page assumes."""
    steps = list(zip(STAMPS, NAMES, (*APPLIED, PENDING), strict=True))
    if tool in ("prisma", "diesel"):
        script = "up.sql" if tool == "diesel" else "migration.sql"
        folder = "migrations" if tool == "diesel" else "prisma/migrations"
        files = {f"{folder}/{stamp}_{name}/{script}": sql for stamp, name, sql in steps}
        rows = "".join(f"INSERT INTO __diesel_schema_migrations VALUES ('{stamp}');" for stamp in STAMPS[:2])
        table = (
            "CREATE TABLE __diesel_schema_migrations (version varchar(50) PRIMARY KEY, run_on timestamp DEFAULT now());"
        )
        return Project(files, table + rows if tool == "diesel" else of("prisma", "DELETE FROM _prisma_migrations WHERE "
                       "migration_name LIKE '%orders'"))  # fmt: skip
    if tool == "drizzle":
        times = [int(when) for when in re.findall(r'"when": (\d+)', (HISTORIES / "drizzle.sql").read_text())]
        entries = [
            {"tag": f"{n:04d}_{name}", "when": when} for n, (name, when) in enumerate(zip(NAMES, times, strict=True))
        ]
        files = {f"drizzle/{entry['tag']}.sql": sql for entry, (_, _, sql) in zip(entries, steps, strict=True)}
        journal = {"drizzle/meta/_journal.json": json.dumps({"dialect": "postgresql", "entries": entries})}
        return Project({**files, **journal}, of("drizzle", "DELETE FROM drizzle.__drizzle_migrations WHERE id = 3"))
    if tool == "flyway":
        names = ("V1__accounts.sql", "V2__touch.sql", "V2_1__orders.sql")
        files = {f"db/migration/{name}": sql for name, (_, _, sql) in zip(names, steps, strict=True)}
        return Project(files, of("flyway", "DELETE FROM flyway_schema_history WHERE installed_rank > 2"))
    if tool == "golang-migrate":
        files = {f"db/migrations/{n}_{name}.up.sql": sql for n, (_, name, sql) in enumerate(steps, start=1)}
        return Project(files, of("golang-migrate", "UPDATE schema_migrations SET version = 2"))
    above = {"goose": "-- +goose Up\n", "dbmate": "-- migrate:up\n", "sql-migrate": "-- +migrate Up\n"}.get(tool, "")
    folder = {"sqlx": "migrations", "supabase": "supabase/migrations"}.get(tool, "db/migrations")
    between = "-" if tool == "sql-migrate" else "_"
    files = {f"{folder}/{stamp}{between}{name}.sql": above + sql for stamp, name, sql in steps}
    last = {
        "goose": "DELETE FROM goose_db_version WHERE version_id = 20240101000300",
        "supabase": "DELETE FROM supabase_migrations.schema_migrations WHERE version = '20240101000300'",
    }
    return Project(files, of(tool, last.get(tool, "")))


def of(history: str, then: str) -> str:
    """Return SQL for the real tool's history and then another statement, such as one that removes the last row."""
    return f"{(HISTORIES / f'{history}.sql').read_text()};RESET search_path;{then}"


@pytest.fixture
def scene(database: Database, tmp_path: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene whose database has the tables of the two applied migrations."""
    database.execute("".join(APPLIED))
    return Scene(database, tmp_path / "migrations", run_entrypoint)


def write(directory: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.sampled(10)
@pytest.mark.parametrize("tool", TOOLS)
def test_the_page_is_typed_as_it_stands(scene: Scene, tmp_path: Path, tool: str) -> None:
    theirs = project(tool)
    write(tmp_path, theirs.files)
    scene.database.execute(theirs.history)
    [typed] = blocks(PAGES / f"{tool}.md", "sh")
    env: dict[str, str] = {}
    said: dict[str, str] = {}
    for line in typed.splitlines():
        first, *rest = shlex.split(line)
        if first == "export":
            env |= dict(word.split("=", 1) for word in rest)
            continue
        assert first == "entrypoint", line
        said[" ".join(rest)] = scene.start(*rest, **env).ok().stdout
    assert "Will record 2 migrations as completed" in said[f"adopt --from {tool} --dry-run"]
    assert "1 migration would run" in said["migrate --dry-run"]
    assert (
        "0 pending" in said["status"] or "nothing pending" in said["status"] or "up to date" in said["status"].lower()
    )
    assert scene.database.exists("orders")


@pytest.mark.sampled(10)
@pytest.mark.parametrize("tool", TOOLS)
def test_the_image_does_the_same_for_the_fleet(scene: Scene, tmp_path: Path, tool: str) -> None:
    """Do what the page's Dockerfile says, without Docker."""
    theirs = project(tool)
    write(tmp_path, theirs.files)
    scene.database.execute(theirs.history)
    page = PAGES / f"{tool}.md"
    [image] = blocks(page, "dockerfile")
    env = dict(re.findall(r"^ENV (\w+)=(\S+)$", image, re.MULTILINE))
    [importing] = [line for line in blocks(page, "sh")[0].splitlines() if line.startswith("entrypoint import")]
    scene.start(*shlex.split(importing)[1:], **env).ok()
    assert (tmp_path / env.get("MIGRATIONS_DIR", "migrations")).is_dir()
    assert scene.run(**env).outcome == "migrated"
    assert scene.database.exists("orders")


@pytest.mark.text
def test_each_tool_has_its_page_and_the_index_has_all() -> None:
    index = (PAGES / "README.md").read_text()
    pages = {path.name for path in PAGES.glob("*.md")} - {"README.md"}
    assert pages == {*(f"{tool}.md" for tool in TOOLS), "programs.md"}
    assert all(f"]({page})" in index for page in pages)
    links = [(page, link) for page in PAGES.glob("*.md") for link in re.findall(r"\]\(([^)#]+)", page.read_text())]
    assert not [(page.name, link) for page, link in links if not (PAGES / link).exists()]


def test_what_the_page_about_programs_says(scene: Scene, tmp_path: Path, run_program: Callable[..., Run]) -> None:
    scene.database.execute(
        "CREATE TABLE alembic_version (version_num varchar(32)); CREATE TABLE schema_migrations (version text)"
    )
    first, second = blocks(PAGES / "programs.md", "sh")
    shell = f'entrypoint() {{ {shlex.quote(sys.executable)} -m entrypoint "$@"; }}\nset -e\n'
    env = {"DATABASE_URL": scene.database.url, "PATH": f"{scene.database.server.bin}:/usr/bin:/bin"}
    run_program(["bash", "-c", shell + first + second], env=env).ok()
    assert "CREATE TABLE public.accounts" in (tmp_path / "migrations" / "001_schema.sql").read_text()
    rows = scene.database.rows("SELECT filename, status FROM entrypoint.schema_migrations")
    assert rows == [("001_schema.sql", "completed")]
