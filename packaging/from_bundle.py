"""Import the modules of a start from one file: bundle.py puts this into it, and the command's script executes it."""

import marshal
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    _Modules = dict[str, tuple[CodeType | bytes, bool, str]]

# What the script knows: by name a module's code, in bytes if not every start imports it, whether it is a package, and
# its file, in the directory of packages.
found: "_Modules" = globals()["modules"]
packages: str = globals()["packages"]
# What is in the other file, once it has been read.
pending: "dict[str, Any]" = {}


class Bundle:
    """A finder, and the loader of what it finds."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Return where a module comes from; None if that is not this file."""
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
            # Its other modules are files, as ever.
            spec.submodule_search_locations.append(origin.rpartition("/")[0])
        return spec

    @staticmethod
    def read_on() -> None:
        """Read the other file, as something is imported that is not here."""
        with open(f"{packages}/entrypoint/pending.bundle", "rb") as file:  # noqa: PTH123 - nothing else needs pathlib
            modules, patterns = marshal.loads(file.read())  # noqa: S302 - bundle.py has written it
        found.update(modules)
        pending.update(modules=modules, patterns=patterns)

    @staticmethod
    def know_patterns() -> None:
        """Have `re` find compiled what the modules of the other file will ask it to compile.

        Two threads of a start may import at the same moment: whoever takes the patterns out, does it.
        """
        taken = pending.pop("patterns", None)
        if taken is None:
            return
        import _sre  # type: ignore[import-not-found]  # noqa: PLC0415 - an up-to-date start does without
        import re  # noqa: PLC0415

        magic, patterns = taken
        cache = getattr(re, "_cache", None)
        if cache is not None and magic == _sre.MAGIC:
            for pattern, asked, *rest in patterns:
                cache[str, pattern, asked] = _sre.compile(pattern, *rest)

    @staticmethod
    def create_module(_spec: ModuleSpec) -> None:
        """Leave that to Python."""

    @staticmethod
    def exec_module(module: "ModuleType") -> None:
        """Run the module's code."""
        code, _, place = found[module.__name__]
        module.__file__ = f"{packages}/{place}"
        if module.__name__ in pending.get("modules", ()):
            Bundle.know_patterns()
        if isinstance(code, bytes):  # Of a module that not every start imports.
            code = marshal.loads(code)  # noqa: S302 - bundle.py has written it
        exec(code, module.__dict__)  # noqa: S102 - it was compiled from this program's own files


sys.meta_path.insert(0, Bundle)
