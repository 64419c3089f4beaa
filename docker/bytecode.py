"""Compile to bytecode what the program imports of Python's standard library, where the image has no bytecode of it.

The official python images come without, so that every start would compile those modules again: a user who may not
write into /usr keeps nothing. Run while the image is built, as root, by the Python that the program is to run with.

Not the whole library, which would be 20 MB: what the program's modules name in their imports, and what that imports
in turn. Bytecode of the ordinary kind, which is checked against the time and size of its source: a library that is
patched later is compiled anew, and is never out of date.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import os
import py_compile
import sys
import sysconfig
import warnings
from pathlib import Path

STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
OURS = "entrypoint"


def imported_by_source(package: str) -> set[str]:
    """Return the names of all modules that the files of a package import, inside functions as well."""
    names = set()
    for path in sorted((SITE_PACKAGES / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                # What is imported from a module may itself be a module.
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def main() -> int:
    """Return the exit code."""
    for name in sorted(imported_by_source(OURS)):
        # An extra that is not in this image; or not a module but something in it.
        with contextlib.suppress(ImportError), warnings.catch_warnings(action="ignore"):
            importlib.import_module(name)
    compiled = 0
    for module in list(sys.modules.values()):
        source = getattr(module, "__file__", None)
        if not source or not source.startswith(STANDARD_LIBRARY) or not source.endswith(".py"):
            continue
        target = Path(importlib.util.cache_from_source(source))
        # The import has written it already, but for what was read before this script or is frozen in the interpreter.
        if not target.exists():
            py_compile.compile(source, str(target), doraise=True)
        compiled += target.stat().st_size
    print(f"bytecode of the standard library: {compiled / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
