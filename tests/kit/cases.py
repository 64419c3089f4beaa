"""Finds the tests for each case that once broke a promise; they are marked `@pytest.mark.case("A1")`.

`python -m tests.kit.cases` prints the table for tests/CASES.md.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

FOLDER = Path(__file__).parents[1]
NAMES = tuple(
    f"{section}{number}"
    for section, count in (("A", 17), ("B", 21), ("C", 10), ("D", 14), ("E", 11))
    for number in range(1, count + 1)
)


def holders_of_cases() -> dict[str, list[str]]:
    """Return the tests marked with each case, as `file::function`, in the order of the files."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(FOLDER.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for name in _cases(node):
                    found[name].append(f"{path.relative_to(FOLDER)}::{node.name}")
    return found


def _cases(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """Return the cases in the marks of a test, and in those of its parameters."""
    names: list[str] = []
    for decorator in node.decorator_list:
        for call in ast.walk(decorator):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "case":
                names += [str(word.value) for word in call.args if isinstance(word, ast.Constant)]
    return names


def table() -> str:
    """Return the table of cases and tests, as Markdown."""
    found = holders_of_cases()
    rows = [f"| {name} | {'<br>'.join(f'`{test}`' for test in dict.fromkeys(found.get(name, ())))} |" for name in NAMES]
    return "\n".join(["| case | held by |", "|---|---|", *rows])


if __name__ == "__main__":
    print(table())
