"""Import the modules of a start from one file: bundle.py puts this into it, and the command's script executes it."""

import marshal
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

    _Modules = dict[str, tuple[CodeType | bytes, bool, str]]

# What the script knows: by name a module's code, in bytes if not every start imports it, whether it is a package, and
# its file, in the directory of packages.
found: "_Modules" = globals()["modules"]
packages: str = globals()["packages"]


class Bundle:
    """A finder, and the loader of what it finds."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Return where a module comes from; None if that is not this file."""
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
    def create_module(_spec: ModuleSpec) -> None:
        """Leave that to Python."""

    @staticmethod
    def exec_module(module: "ModuleType") -> None:
        """Run the module's code."""
        code, _, place = found[module.__name__]
        module.__file__ = f"{packages}/{place}"
        if isinstance(code, bytes):  # Of a module that not every start imports.
            code = marshal.loads(code)  # noqa: S302 - bundle.py has written it
        exec(code, module.__dict__)  # noqa: S102 - it was compiled from this program's own files


sys.meta_path.insert(0, Bundle)
