"""docs/public-interface.md: what it lists exists, and what exists is listed or linked there."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from entrypoint import __main__ as program
from entrypoint import __version__, api, errors
from entrypoint.errors import migration, operator
from entrypoint.operations import status
from entrypoint.operations.silence import OWN_ERRORS, OWN_WARNINGS
from kit.migrations import write_migrations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.databases import Database
    from kit.processes import Run

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "public-interface.md").read_text()
CHECK = (ROOT / "docs" / "commands" / "check.md").read_text()
LOGS = (ROOT / "docs" / "logs.md").read_text()
MODULES = sorted((ROOT / "entrypoint").rglob("*.py"))
EVENT = r"[a-z][a-z_]*(?:\.[a-z_]+)?"


def section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def codes() -> set[int]:
    """Return the exit codes that the program names, and those of a shell."""
    named = {value for name, value in vars(program).items() if name.isupper() and isinstance(value, int)}
    return named | {0, status.PENDING, status.FAILED, status.DIFFERS, 126, 127}


@pytest.mark.text
def test_each_exit_code_is_listed() -> None:
    assert "(reference.md#exit-codes)" in section("The command line and exit codes")
    reference = (ROOT / "docs" / "reference.md").read_text().partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\d, ]+) \|", reference, re.MULTILINE)
    assert {int(code) for row in rows for code in row.split(",")} == codes()


def events() -> Iterator[str]:
    """Yield the events named where they are logged, and those of the errors."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"logs.event", "event"}:
                name = node.args[1] if len(node.args) > 1 else None
                if ast.unparse(node.args[0]).endswith("DEBUG"):
                    continue  # Those are not public.
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield name.value
    for module in (errors, migration, operator):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, errors.EntrypointError):
                yield kind.event


@pytest.mark.text
def test_each_event_is_on_the_page_about_the_log() -> None:
    listed = LOGS.partition("\n## Events\n")[2]
    documented = set(re.findall(rf"`({EVENT})`", listed))
    found = set(events())
    assert len(found) > 100
    assert sorted(found - documented) == []
    # And the other way round: everything that has a row is somewhere in the code.
    sources = "\n".join(path.read_text() for path in MODULES)
    rows = re.findall(r"^\| ([^|]+) \|", listed, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z][a-z_]*\.[a-z_]+)`", row)}
    assert sorted(name for name in named if f'"{name}"' not in sources) == []
    assert "(logs.md#events)" in PAGE


@pytest.mark.text
def test_variables_are_linked_and_those_for_the_application_named() -> None:
    """tests/test_configuration_page.py compares the two pages with the program."""
    said = section("Variables")
    assert "(reference.md#environment-variables)" in said
    assert "(configuration.md)" in said
    from entrypoint.startup import Outcome

    assert [name for name in Outcome("failed").variables() if f"`{name}`" not in said] == []


@pytest.mark.text
def test_what_python_has_is_linked_and_named() -> None:
    said = section("Python")
    assert "(python.md)" in said
    public = [name for name in api.__all__ if name.islower() and name != "errors"]
    assert [name for name in public if f"`{name}`" not in said] == []
    page = (ROOT / "docs" / "python.md").read_text()
    assert [name for name in api.__all__ if name[0].isupper() and f"`{name}`" not in page] == []
    modules = {module.__name__ for module in (errors, migration, operator)}
    assert {f"entrypoint.{name}" for name in ("api",)} | modules <= set(re.findall(r"`([\w.]+)`", said))


@pytest.mark.text
def test_how_it_is_installed_is_said_of_each_way() -> None:
    said = section("How it is installed")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {project["name"], "entrypoint", *project["optional-dependencies"]}
    names |= set(re.findall(r"^- id: (\S+)$", (ROOT / ".pre-commit-hooks.yaml").read_text(), re.MULTILINE))
    assert [name for name in sorted(names) if f"`{name}`" not in said] == []
    for folder in ("k8s", "compose", "examples"):
        assert (ROOT / folder).is_dir()
        assert f"[{folder}/]" in said
    assert "`entrypoint.__version__`" in section("Python")
    assert isinstance(__version__, str)


@pytest.mark.text
def test_each_format_and_each_rule_of_check_is_named() -> None:
    said = section("The command line and exit codes")
    formats = set(re.findall(r"^\| `--format (\w+)` \|", CHECK, re.MULTILINE))
    assert len(formats) == 5
    assert [one for one in sorted(formats - {"text"}) if f"`{one}`" not in said] == []
    rows = dict(
        re.findall(r"^\| `(\w+)` \| (.*) \|$", CHECK.partition("## The rules")[2].partition("\n## ")[0], re.MULTILINE)
    )
    assert set(re.findall(r"`([\w-]+)`", rows["warning"])) == OWN_WARNINGS | {"command"}
    assert set(re.findall(r"`([\w-]+)`", rows["error"])) == rules_of_errors()
    assert rules_of_errors() - OWN_WARNINGS == OWN_ERRORS


def rules_of_errors() -> set[str]:
    """Return the rules for errors, as written in the modules where `check` gets them."""
    found = set()
    for folder in ("migration/script", "operations"):
        for path in sorted((ROOT / "entrypoint" / folder).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in {"Finding", "FileFault"}:
                    level, rule = (ast.unparse(one) for one in node.args[:2]) if len(node.args) > 1 else ("", "")
                    if (ast.unparse(node.func) == "FileFault" or level == "'error'") and rule.startswith("'"):
                        found.add(rule.strip("'"))
    return found


@pytest.mark.text
def test_each_link_leads_somewhere() -> None:
    for name, anchor in re.findall(r"\]\(([\w./-]*?)(?:#([\w-]+))?\)", PAGE):
        path = (ROOT / "docs" / name) if name else ROOT / "docs" / "public-interface.md"
        assert path.is_file(), name
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
            assert anchor in anchors, f"{name}#{anchor}"


def documented_columns() -> dict[str, set[str]]:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section("Tables"), re.MULTILINE)
    return {table: set(re.findall(r"`(\w+)`", columns)) for table, columns in rows}


@pytest.mark.every_case
def test_each_table_and_each_column_is_listed(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    (migrations_dir / "repeatable").mkdir()
    after = "-- entrypoint: phase = after\n-- entrypoint: floor = 001_t.sql\nSELECT 1;"
    write_migrations(
        migrations_dir,
        {
            "001_t.sql": "CREATE TABLE t (id int PRIMARY KEY, x int);",
            "003_after.sql": after,
            "repeatable/v.sql": "CREATE OR REPLACE VIEW v AS SELECT 1 AS one;",
        },
    )
    url = {"DATABASE_URL": database.url}
    run_entrypoint("migrate", "--phase", "after", env=url).ok()
    run_entrypoint("migrate", env={**url, "MIGRATION_COMMAND": "true", "MIGRATION_COMMAND_INPUTS": "migrations"}).ok()
    found: dict[str, set[str]] = {}
    for table, column in database.rows(
        "SELECT relname, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
        "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped "
        "AND relname NOT IN ('t', 'v')"
    ):
        found.setdefault(table, set()).add(column)
    assert found == documented_columns()
    functions = {
        name for (name,) in database.rows("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
    }
    assert [name for name in functions if f"`{name}`" not in section("Tables")] == []


def keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def test_each_key_of_the_status_is_on_its_page(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    write_migrations(migrations_dir, {"001_a.sql": "SELECT 1;"})
    url = {"DATABASE_URL": database.url}
    run_entrypoint("migrate", env=url).ok()
    found = json.loads(run_entrypoint("status", "--json", env=url).ok().stdout)
    page = (ROOT / "docs" / "commands" / "status.md").read_text()
    assert len(set(keys(found))) > 15
    assert [name for name in sorted(set(keys(found))) if not re.search(rf"[`\"]{name}[`\"]", page)] == []
