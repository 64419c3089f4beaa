"""Compile to bytecode what the program imports: its own modules, its libraries', and the standard library's.

Run while the image is built, as root, by the Python that the program is to run with (with -B, so that the imports
themselves write nothing). Without it every start would compile those modules again: a user who may not write into
/usr keeps nothing, and the official python images come without bytecode of the standard library.

What the program does not import, two fifths of its libraries and nearly all of the standard library, stays source. So
do its own modules for what is done at a desk, before there is an image, and those of an extra that is not in this one.
The modules of a start, and of one with something to apply, are in two files already (packaging/bundle.py).
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import marshal
import os
import py_compile
import sys
import sysconfig
import warnings
from pathlib import Path
from py_compile import PycInvalidationMode

SITE_PACKAGES = sysconfig.get_path("purelib") + os.sep
STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep
OURS = Path(SITE_PACKAGES, "entrypoint")
# Migrations are written, imported, checked and rehearsed by those who write the image.
AT_A_DESK = ("commands/check.py", "commands/import_.py", "commands/new.py", "migration/operator/rehearsal.py",
             "migration/operator/trial.py", "operations/against.py", "operations/check.py", "operations/child.py",
             "operations/findings.py", "operations/import_.py", "operations/importing", "operations/lint.py",
             "operations/new.py", "operations/rehearse.py")  # fmt: skip
BUNDLES = {"start.bundle": 1, "pending.bundle": 0}
"""Where in each of them the modules are."""
# What stands behind our own binding of libpq where that cannot be had, which is not so in this image.
FALLBACK = ("database/pq_psycopg.py",)
# Each with a package that only its extra brings.
EXTRAS = {"service": "starlette"}


def main() -> int:
    """Return the exit code."""
    ours = [path for path in sorted(OURS.rglob("*.py")) if is_used(path)]
    unused = ({str(path) for path in OURS.rglob("*.py")} - set(map(str, ours))) | bundled()
    for path in ours:
        for name in sorted(imports(path)):
            # What only unused modules import is not imported by anybody.
            if not is_used(OURS.parent.joinpath(*name.split(".")).with_suffix(".py")):
                continue
            # An extra that is not in this image; or not a module but something in it.
            with contextlib.suppress(ImportError), warnings.catch_warnings(action="ignore"):
                importlib.import_module(name)
    written = 0
    sources = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    for source in sorted((sources | set(map(str, ours))) - unused):
        written += compile_one(source)
    print(f"bytecode: {written / 1e6:.1f} MB")
    return 0


def bundled() -> set[str]:
    """Return the files whose bytecode is in a bundle."""
    contents = [marshal.loads((OURS / name).read_bytes())[index] for name, index in BUNDLES.items()]  # noqa: S302 - ours
    return {str(OURS.parent / place) for modules in contents for _, _, place in modules.values()}


def is_used(path: Path) -> bool:
    """Tell whether a module of ours is of use in this image, at the speed that bytecode gives it."""
    if not path.is_relative_to(OURS):
        return True
    place = path.relative_to(OURS).as_posix()
    extra = EXTRAS.get(place.partition("/")[0])
    if extra is not None and importlib.util.find_spec(extra) is None:
        return False
    return not any(place == one or place.startswith(f"{one}/") for one in (*AT_A_DESK, *FALLBACK))


def imports(path: Path) -> set[str]:
    """Return the names of all modules that a file imports, inside functions as well."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # What is imported from a module may itself be a module.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def compile_one(source: str) -> int:
    """Compile a file unless that is done already; return the size of what was written."""
    if source.startswith(SITE_PACKAGES):
        # Never checked against the source, which changes no more: a tool that rewrites a layer's times, so that builds
        # can be compared, does not make it useless.
        mode = PycInvalidationMode.UNCHECKED_HASH
    elif source.startswith(STANDARD_LIBRARY):
        # Checked by time and size, as ever: this library may be patched in an image that is built on this one.
        mode = PycInvalidationMode.TIMESTAMP
    else:
        return 0
    target = Path(importlib.util.cache_from_source(source))
    if not source.endswith(".py") or target.exists():
        return 0
    py_compile.compile(source, str(target), doraise=True, invalidation_mode=mode)
    return target.stat().st_size


if __name__ == "__main__":
    sys.exit(main())
