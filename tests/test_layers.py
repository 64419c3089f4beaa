"""Imports go in one direction, downwards: which module may import which, read from the source.

A room is a module or a package directly under `entrypoint`, or directly under `entrypoint.migration`.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import entrypoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Literal

    When = Literal["at once", "later", "typing"]

pytestmark = pytest.mark.text

PACKAGE = Path(entrypoint.__file__).parent

# From top to bottom: each room and the rooms it imports. In annotations (TYPE_CHECKING), it may name any room below it.
ROOMS: dict[str, set[str]] = {
    "__main__": {
        "reporting",
        "cli",
        "commands",
        "operations",
        "startup",
        "settings",
        "handover",
        "executable",
        "termination",
        "logs",
        "signals",
        "redaction",
        "errors",
    },
    "api": {"operations", "startup", "settings", "logs", "deadline", "signals", "redaction", "errors", "records"},
    "cli": {"commands", "redaction", "errors", "version"},
    "commands": {
        "reporting",
        "service",
        "operations",
        "startup",
        "survey",
        "settings",
        "migration.script",
        "records",
        "redaction",
        "errors",
        "counts",
    },
    "service": {
        "operations",
        "startup",
        "migration.ledger",
        "migration.observe",
        "migration.script",
        "tool",
        "backup",
        "database",
        "logs",
        "deadline",
        "signals",
        "redaction",
        "errors",
        "counts",
        "version",
    },
    "operations": {
        "bounded",
        "startup",
        "survey",
        "tool",
        "migration.operator",
        "migration.apply",
        "migration.lock",
        "migration.adoption",
        "migration.ledger",
        "migration.script",
        "backup",
        "database",
        "logs",
        "clocks",
        "deadline",
        "records",
        "redaction",
        "errors",
        "counts",
        "version",
    },
    "reporting": {"settings", "bounded", "logs", "deadline", "redaction"},
    "startup": {
        "survey",
        "tool",
        "settings",
        "migration.apply",
        "migration.ledger",
        "migration.script",
        "probe",
        "phase",
        "logs",
        "redaction",
        "errors",
        "records",
        "counts",
    },
    "survey": {
        "tool",
        "migration.lock",
        "migration.assignment",
        "migration.losses",
        "migration.ledger",
        "migration.observe",
        "migration.script",
        "database",
        "phase",
        "logs",
        "clocks",
        "deadline",
        "signals",
        "errors",
        "records",
    },
    "settings": {"migration.adoption", "command", "redaction", "errors", "records"},
    "migration.operator": {
        "migration.apply",
        "migration.lock",
        "migration.ledger",
        "migration.script",
        "database",
        "logs",
        "clocks",
        "deadline",
        "redaction",
        "errors",
        "records",
    },
    "migration.apply": {
        "tool",
        "migration.lock",
        "migration.adoption",
        "migration.losses",
        "migration.ledger",
        "migration.observe",
        "migration.script",
        "backup",
        "database",
        "logs",
        "deadline",
        "signals",
        "redaction",
        "secret_patterns",
        "errors",
        "records",
        "counts",
    },
    "tool": {
        "migration.losses",
        "migration.lock",
        "migration.ledger",
        "migration.script",
        "handover",
        "executable",
        "database",
        "memory",
        "logs",
        "deadline",
        "signals",
        "redaction",
        "errors",
    },
    "migration.lock": {
        "migration.ledger",
        "migration.observe",
        "database",
        "logs",
        "clocks",
        "deadline",
        "signals",
        "errors",
        "records",
        "counts",
    },
    "migration.adoption": {
        "migration.ledger",
        "migration.script",
        "database",
        "deadline",
        "redaction",
        "errors",
        "counts",
        "records",
    },
    "migration.assignment": {"migration.ledger", "records"},
    "migration.losses": {"deadline", "errors", "records"},
    "migration.ledger": {
        "migration.observe",
        "migration.script",
        "database",
        "logs",
        "deadline",
        "redaction",
        "errors",
        "records",
        "counts",
    },
    "migration.observe": {"database", "phase", "redaction", "records"},
    "migration.script": {"deadline", "redaction", "secret_patterns", "errors", "records", "counts"},
    "migration": set(),
    "backup": {"bounded", "database", "memory", "logs", "signals", "redaction", "errors"},
    "database": {"bounded", "logs", "clocks", "deadline", "signals", "redaction", "errors", "records", "counts"},
    "handover": {"signals", "records"},
    "executable": set(),
    "termination": {"redaction"},
    "probe": {"phase", "logs", "deadline", "redaction"},
    "phase": {"records"},
    "logs": {"redaction", "records"},
    "bounded": {"deadline", "memory", "signals"},
    "clocks": {"deadline"},
    "deadline": {"signals", "records"},
    "command": {"records", "redaction"},
    "memory": set(),
    "signals": set(),
    "redaction": {"secret_patterns"},
    "secret_patterns": set(),
    "errors": set(),
    "records": set(),
    "counts": set(),
    "version": set(),
}

# The only module that may import each third-party package.
OUTSIDE = {
    "psycopg": {"entrypoint.database.pq_psycopg"},
    "tenacity": {"entrypoint.database.backoff"},
    "pgparse": {"entrypoint.migration.script.parser"},
    "pythonjsonlogger": {"entrypoint.logs"},
    "rich": {"entrypoint.operations.progress_bar", "entrypoint.operations.status_table"},
    "starlette": {
        "entrypoint.service.access",
        "entrypoint.service.api",
        "entrypoint.service.app",
        "entrypoint.service.page",
    },
    "jinja2": {"entrypoint.service.page"},
    "itsdangerous": {"entrypoint.service.sessions"},
    "uvicorn": {"entrypoint.service.connections", "entrypoint.service.server"},
    "h11": {"entrypoint.service.connections"},
    "prometheus_client": {"entrypoint.service.metrics"},
}


@dataclass(frozen=True)
class Import:
    """One module's import of another."""

    importer: str
    imported: str
    when: When
    line: int

    def __str__(self) -> str:
        """Return it as a message shows it."""
        return f"{self.importer}:{self.line} imports {self.imported} ({self.when})"


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_in(source: str, importer: str) -> list[Import]:
    """Return all imports of a module: the modules and packages, not the names in them."""
    return list(_walk(ast.parse(source).body, importer, "at once"))


def _walk(nodes: Iterable[ast.AST], importer: str, when: When) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, when, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}:{node.lineno}: relative imports are not used here"
            for alias in node.names:
                # `from package import module`, or `from module import name`
                submodule = f"{node.module}.{alias.name}"
                yield Import(importer, submodule if submodule in modules() else str(node.module), when, node.lineno)
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from _walk(node.body, importer, "typing")
            yield from _walk(node.orelse, importer, when)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _walk(ast.iter_child_nodes(node), importer, "later" if when == "at once" else when)
        else:
            yield from _walk(ast.iter_child_nodes(node), importer, when)


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(found for name, path in modules().items() for found in imports_in(path.read_text(), name))


def inside(imports: Iterable[Import], *when: When) -> list[Import]:
    """Return the imports of our own modules at these times."""
    return [found for found in imports if found.imported in modules() and found.when in when]


def room_of(module: str) -> str:
    """Return the room that one of our modules is in."""
    if module == "entrypoint":
        return "version"
    first, *rest = module.split(".")[1:]
    # A package that only holds rooms is not a room.
    return f"{first}.{rest[0]}" if first == "migration" and rest else first


def cycle_in(imports: Iterable[Import]) -> list[str] | None:
    """Return the modules of an import cycle, if there is one."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        graph.setdefault(found.importer, set()).add(found.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def wrong(imports: Iterable[Import], rooms: Mapping[str, set[str]]) -> list[str]:
    """Return what the table forbids."""
    order = list(rooms)
    faults = []
    for found in inside(imports, "at once", "later", "typing"):
        above, below = room_of(found.importer), room_of(found.imported)
        allowed = order[order.index(above) :] if found.when == "typing" else {above, *rooms[above]}
        if below not in allowed:
            faults.append(str(found))
    return faults


def test_the_table_points_downwards() -> None:
    order = list(ROOMS)
    for room, below in ROOMS.items():
        assert below <= set(order[order.index(room) + 1 :]), f"{room} imports upwards"


def test_every_module_has_a_room_and_every_room_a_module() -> None:
    assert {room_of(module) for module in modules()} == set(ROOMS)


def test_every_import_goes_the_way_of_the_table() -> None:
    assert not wrong(all_imports(), ROOMS)


def test_the_table_allows_nothing_that_nobody_does() -> None:
    done = {(room_of(found.importer), room_of(found.imported)) for found in inside(all_imports(), "at once", "later")}
    assert not {(room, below) for room, allowed in ROOMS.items() for below in allowed} - done


def test_no_module_knows_itself_by_a_roundabout_way() -> None:
    assert cycle_in(inside(all_imports(), "at once")) is None


def test_imports_that_come_later_close_no_circle() -> None:
    assert cycle_in(inside(all_imports(), "at once", "later")) is None


def test_each_package_from_outside_has_its_importer() -> None:
    importers: dict[str, set[str]] = {}
    for found in all_imports():
        top = found.imported.partition(".")[0]
        if found.when != "typing" and top not in {*sys.stdlib_module_names, "entrypoint"}:
            importers.setdefault(top, set()).add(found.importer)
    assert importers == OUTSIDE


@pytest.mark.parametrize(
    ("importer", "source", "when"),
    [
        ("entrypoint.logs", "from entrypoint.errors import EntrypointError", "at once"),
        ("entrypoint.deadline", "def f():\n    from entrypoint import logs", "later"),
        ("entrypoint.migration.ledger.plan", "class A:\n    def f(self):\n        import entrypoint.settings", "later"),
        ("entrypoint.database.session", "TYPE_CHECKING = 0\nif TYPE_CHECKING:\n    import entrypoint.cli", "typing"),
        ("entrypoint.settings", "try:\n    import entrypoint.database.connect\nexcept E: pass", "at once"),
        ("entrypoint.operations.check", "from entrypoint import cli", "at once"),
    ],
)
def test_an_import_the_wrong_way_is_seen(importer: str, source: str, when: When) -> None:
    [found] = imports_in(source, importer)
    assert found.when == when
    assert wrong([found], ROOMS) == [str(found)]


def test_a_circle_is_seen() -> None:
    a, b, c = "entrypoint.logs", "entrypoint.redaction", "entrypoint.errors"
    circle = [Import(a, b, "at once", 1), Import(b, c, "at once", 1), Import(c, a, "at once", 1)]
    assert set(cycle_in(circle) or ()) == {a, b, c}
    assert cycle_in(circle[:2]) is None
