"""Import modules and report what that imports: python patterns.py SOURCES MODULE..., with more of the path on stdin.

Writes to stdout with `marshal`: the names of the modules in SOURCES that were imported and, for each regular expression
that was compiled, what `from_bundle` needs to restore it without compiling. Compiling them would take a fifth of the
time for the imports of a start with something pending.
"""

from __future__ import annotations

import importlib
import marshal
import sys
from typing import Any

sources, *wanted = sys.argv[1:]
sys.path[:0] = [sources]
sys.path += [entry for entry in marshal.loads(sys.stdin.buffer.read()) if entry not in sys.path]  # noqa: S302 - ours

import _sre  # type: ignore[import-not-found]  # noqa: E402
import re  # noqa: E402

before = set(sys.modules)
known: dict[Any, Any] = re._cache  # type: ignore[attr-defined]  # noqa: SLF001 - as from_bundle fills it
known.clear()
made: dict[int, tuple[object, ...]] = {}
ordinary = _sre.compile


def noting(
    pattern: Any, flags: int, code: list[int], groups: int, index: dict[str, int], names: tuple[Any, ...]
) -> Any:
    """Compile a pattern, and record the arguments."""
    found = ordinary(pattern, flags, code, groups, index, names)
    # The opcodes are a subclass of int.
    made[id(found)] = (pattern, int(flags), list(map(int, code)), groups, dict(index), tuple(names))
    return found


_sre.compile = noting
for name in wanted:
    importlib.import_module(name)
patterns = []
for (kind, _, flags), found in known.items():
    if kind is str and id(found) in made:
        pattern, *rest = made[id(found)]
        patterns.append((pattern, int(flags), *rest))
ours = sorted(name for name in set(sys.modules) - before if name.partition(".")[0] == "entrypoint")
sys.stdout.buffer.write(marshal.dumps((ours, (_sre.MAGIC, patterns))))
