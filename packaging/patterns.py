"""Import modules and tell what came along: python patterns.py SOURCES MODULE..., with more of the path on stdin.

On stdout, as `marshal` writes it: the names of the modules in SOURCES that were imported, and for each regular
expression that was compiled what `from_bundle` needs to have it again without compiling it. That takes a fifth of what
a start with something pending imports.
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
    """Compile, and note what of."""
    found = ordinary(pattern, flags, code, groups, index, names)
    # Its opcodes are numbers with names.
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
