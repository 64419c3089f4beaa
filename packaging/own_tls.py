"""Have the folder's Python use the OpenSSL that psycopg brings for libpq, instead of a second one.

The relay, through which MIGRATION_COMMAND reaches the server, encrypts with Python's module `ssl`. That is linked to
the packing machine's OpenSSL, which is 7 MB, would have to be updated separately, and looks for certificates where that
machine has them. All versions of OpenSSL 3 are compatible, so we link a copy of `_ssl` to psycopg's.
"""

from __future__ import annotations

import importlib.util
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import own_glibc

_LIBRARIES = "psycopg_binary.libs"
# The libraries that `_ssl` needs, and the beginnings of their names in psycopg's package.
_OPENSSL = {"libssl.so.3": "libssl-", "libcrypto.so.3": "libcrypto-"}
# Resolves all symbols, because psycopg's OpenSSL may be older than the one that Python was built with.
_LOAD = "import ctypes, os, sys; ctypes.CDLL(sys.argv[1], os.RTLD_NOW)"


def bring(folder: Path) -> None:
    """Add `ssl` and `_ssl` to the folder. Raises CannotPackError."""
    place = folder / "lib"
    source, compiled = _file_of("ssl"), _file_of("_ssl")
    py_compile.compile(str(source), str(place / "ssl.pyc"), "ssl.py", doraise=True, optimize=2)
    module = Path(shutil.copy(compiled, place))
    subprocess.run([own_glibc.tool("strip"), "--strip-unneeded", module], check=True)
    changes = ["--set-rpath", f"$ORIGIN/{_LIBRARIES}"]
    for name in own_glibc.needed(module) & _OPENSSL.keys():
        (found,) = (place / _LIBRARIES).glob(f"{_OPENSSL[name]}*.so.3")
        changes += ["--replace-needed", name, found.name]
    if len(changes) != 2 + 3 * len(_OPENSSL):
        raise own_glibc.CannotPackError(f"{compiled} is not linked to OpenSSL 3, like psycopg's libpq")
    own_glibc.patch(module, *changes)
    done = subprocess.run([sys.executable, "-ISc", _LOAD, module], capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise own_glibc.CannotPackError(f"{compiled} needs a newer OpenSSL than psycopg's: {last}")


def _file_of(name: str) -> Path:
    """Return the file of one of this Python's modules."""
    found = importlib.util.find_spec(name)
    if found is None or not found.has_location or found.origin is None:
        raise own_glibc.CannotPackError(f"this Python has no file for the module {name}")
    return Path(found.origin)
