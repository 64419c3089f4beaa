"""Make an up-to-date start load fewer libraries; see docs/decisions/0060-what-a-faster-start-would-take.md.

Each library costs a start about 0.15 ms: the loader finds it, maps it in four pieces, and relocates it.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import own_glibc

HERE = Path(__file__).parent
_LIBRARIES = Path("lib") / "psycopg_binary.libs"
# What libpq needs, how its functions' names begin, and what they are defined in here.
_ON_DEMAND = {"libldap": "ldap_", "libgssapi_krb5": "(?:gss|GSS)_"}
_SOURCES = {"libldap": "ldap_on_demand.c", "libgssapi_krb5": "gssapi_on_demand.c"}

# RTLD_NOW: a function that is missing is an error now, not when it is called.
_LOAD = "import ctypes, os, sys; ctypes.CDLL(sys.argv[1], os.RTLD_NOW)"

# glibc 2.34 moved the contents of these libraries into libc. They still exist, for programs that name them.
_IN_LIBC = {b"libpthread.so.0", b"libdl.so.2", b"libutil.so.1", b"librt.so.1"}
_LIBC = b"libc.so.6"

# From <elf.h>: an entry of the dynamic section, and the header of a list of versions that a library must have.
_ENTRY = struct.Struct("<QQ")
_VERSIONS = struct.Struct("<HHIII")
_END, _NEEDED, _STRINGS, _VERSIONS_NEEDED = 0, 1, 5, 0x6FFFFFFE


def leave_out(folder: Path) -> None:
    """Change what the folder's files need. Raises CannotPackError."""
    for name in _ON_DEMAND:
        _load_on_demand(name, folder / _LIBRARIES)
    for file in (path for path in folder.rglob("*") if path.is_file()):
        contents = bytearray(file.read_bytes())
        if contents[:4] == b"\x7fELF" and _need_only_libc(contents):
            file.write_bytes(contents)


def _need_only_libc(contents: bytearray) -> bool:
    """Make a file need libc where it needs a library that is part of libc now. Return whether it changed.

    The file needs libc anyway, so it already contains the name, and only references to names change. patchelf would
    add up to 2 MB to each file.
    """
    _, table, size, count = own_glibc.HEADER.unpack_from(contents)
    segments = [own_glibc.SEGMENT.unpack_from(contents, table + size * index) for index in range(count)]

    def offset(address: int) -> int:
        """Return the offset in the file."""
        loaded = (segment for segment in segments if segment[0] == own_glibc.PT_LOAD)
        found: int = next(start - at for _, _, start, at, _, length, *_ in loaded if at <= address < at + length)
        return found + address

    (dynamic,) = (segment[2] for segment in segments if segment[0] == own_glibc.PT_DYNAMIC)
    needed, single = [], {}
    while (entry := _ENTRY.unpack_from(contents, dynamic))[0] != _END:
        single[entry[0]] = entry[1]
        if entry[0] == _NEEDED:
            needed.append(dynamic + 8)
        dynamic += _ENTRY.size
    if _VERSIONS_NEEDED not in single:
        return False
    strings = offset(single[_STRINGS])
    # Where a library is named, and in how many bytes: as one that is needed, and above a list of its versions.
    references = [(place, 8) for place in needed]
    versions, following = offset(single[_VERSIONS_NEEDED]), 1
    while following:
        references.append((versions + 4, 4))
        following = _VERSIONS.unpack_from(contents, versions)[4]
        versions += following

    def name(place: int, length: int) -> bytes:
        start = strings + int.from_bytes(contents[place : place + length], "little")
        return bytes(contents[start : contents.index(0, start)])

    names = {reference: name(*reference) for reference in references}
    libc = next((place for place, found in names.items() if found == _LIBC), None)
    found = [reference for reference in references if names[reference] in _IN_LIBC]
    if libc is None or not found:
        return False
    where = int.from_bytes(contents[libc[0] : sum(libc)], "little")
    for place, length in found:
        contents[place : place + length] = where.to_bytes(length, "little")
    return True


def _load_on_demand(name: str, libraries: Path) -> None:
    """Make libpq need our library instead of the one with this name."""
    (libpq,), (real,) = libraries.glob("libpq-*"), libraries.glob(f"{name}-*")
    if real.name not in own_glibc.needed(libpq):
        raise own_glibc.CannotPackError(f"{libpq.name} does not need {real.name}")
    symbols = _print("nm", "--dynamic", "--undefined-only", "--with-symbol-versions", libpq)
    called = dict(re.findall(rf"\bU ({_ON_DEMAND[name]}\w+)@(\S+)", symbols))
    library = libraries / f"{name}-on-demand.so"
    # With the same version on each symbol as the real library has.
    versions = libraries / "versions"
    versions.write_text("".join(f"{version} {{ global: *; }};\n" for version in set(called.values())))
    options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden", "-shared", "-s"]
    options += [f'-DLIBRARY="{real.name}"', f"-Wl,--version-script={versions}", f"-Wl,-soname,{library.name}"]
    # DT_RPATH, as in psycopg's libraries: the loader searches it before the directories in LD_LIBRARY_PATH.
    options += ["-Wl,--disable-new-dtags", "-Wl,-rpath,$ORIGIN", "-Wl,--build-id=none"]
    subprocess.run([own_glibc.tool("cc", "gcc"), *options, HERE / _SOURCES[name], "-o", library], check=True)
    versions.unlink()
    defined = dict(re.findall(r"\b(\w+)@@(\S+)", _print("nm", "--dynamic", "--with-symbol-versions", library)))
    if not called or not called.items() <= defined.items():
        raise own_glibc.CannotPackError(f"{libpq.name} calls functions of {name} that are not in {_SOURCES[name]}")
    own_glibc.patch(libpq, "--replace-needed", real.name, library.name)
    done = subprocess.run([sys.executable, "-ISc", _LOAD, libpq], capture_output=True, text=True, check=False)
    if done.returncode:
        raise own_glibc.CannotPackError(f"cannot load {libpq.name}: {done.stderr.strip().rpartition(chr(10))[2]}")


def _print(program: str, *arguments: str | Path) -> str:
    return subprocess.check_output([own_glibc.tool(program), *arguments], text=True)
