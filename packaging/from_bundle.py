"""Import a start's modules from one file. bundle.py puts this code into that file, and the command's script runs it."""

import marshal
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    _Modules = dict[str, tuple[CodeType | bytes, bool, str]]

# Set by the script: for each module its code (bytes if not every start imports it), whether it is a package, and its
# file in the directory `packages`.
found: "_Modules" = globals()["modules"]
packages: str = globals()["packages"]
# The contents of the other file, once it has been read.
pending: "dict[str, Any]" = {}


class Bundle:
    """A finder of modules that is also their loader."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Return a module's spec; None if it is in neither file."""
        if name not in found:
            if pending or not name.startswith("entrypoint."):
                return None
            Bundle.read_on()
            if name not in found:
                return None
        _, is_package, place = found[name]
        origin = f"{packages}/{place}"
        spec = ModuleSpec(name, Bundle, origin=origin, is_package=is_package)  # type: ignore[arg-type]
        if is_package and spec.submodule_search_locations is not None:
            # Its other modules are ordinary files.
            spec.submodule_search_locations.append(origin.rpartition("/")[0])
        return spec

    @staticmethod
    def read_on() -> None:
        """Read the other file, when a module is imported that is not in the first."""
        with open(f"{packages}/entrypoint/pending.bundle", "rb") as file:  # noqa: PTH123 - nothing else needs pathlib
            modules, patterns = marshal.loads(file.read())  # noqa: S302 - bundle.py has written it
        found.update(modules)
        pending.update(modules=modules, patterns=patterns)

    @staticmethod
    def know_patterns() -> None:
        """Fill `re`'s cache with the compiled patterns that the other file's modules will ask for.

        Two threads may import at the same time; the one that takes the patterns does this.
        """
        taken = pending.pop("patterns", None)
        if taken is None:
            return
        import _sre  # type: ignore[import-not-found]  # noqa: PLC0415 - an up-to-date start does not need it
        import re  # noqa: PLC0415

        magic, patterns = taken
        cache = getattr(re, "_cache", None)
        if cache is not None and magic == _sre.MAGIC:
            for pattern, asked, *rest in patterns:
                cache[str, pattern, asked] = _sre.compile(pattern, *rest)

    @staticmethod
    def create_module(_spec: ModuleSpec) -> None:
        """Let Python create the module."""

    @staticmethod
    def exec_module(module: "ModuleType") -> None:
        """Run the module's code."""
        code, _, place = found[module.__name__]
        module.__file__ = f"{packages}/{place}"
        if module.__name__ in pending.get("modules", ()):
            Bundle.know_patterns()
        if isinstance(code, bytes):  # Not every start imports this module.
            code = marshal.loads(code)  # noqa: S302 - bundle.py has written it
        exec(code, module.__dict__)  # noqa: S102 - it was compiled from this program's own files


sys.meta_path.insert(0, Bundle)
