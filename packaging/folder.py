"""Build the self-contained folder: python packaging/folder.py build_exe --build-exe DIRECTORY.

The Python that runs this needs the packer (requirements/folder.txt) and this program, installed and not editable.
docs/folder.md says what the folder is for; docs/decisions/0017-a-folder-by-cx-freeze.md, why it is made like this.
"""

from __future__ import annotations

import sys
import tempfile
import zoneinfo
from pathlib import Path

from cx_Freeze import Executable, setup

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # With -I it is not there.

import bundle  # noqa: E402 - after the line above
import own_glibc  # noqa: E402
import own_tls  # noqa: E402

# As an expression, as the folder may be anywhere.
LIBRARY = 'sys.executable.rpartition("/")[0] + "/lib"'

# As packages, with all their modules: much is imported inside functions, or by compiled modules.
PACKAGES = ("entrypoint", "psycopg", "psycopg_binary", "rich", "tenacity", "pythonjsonlogger", "pgparse")

# What somebody imports, but nobody on a way that this program takes.
UNUSED = (
    # rich, for source code and Markdown; see requirements/renew.py.
    *("pygments", "markdown_it", "mdurl"),
    # hashlib, for more checksums than those that are built in.
    "_hashlib",
    # own_tls.py brings them.
    *("ssl", "_ssl"),
    # rich and the debugger, for a prompt with a history: readline and curses with their libraries.
    *("readline", "curses", "_curses", "code", "cmd", "pdb"),
    # shutil and zipfile, for other archives; uuid, for the machine's own library.
    *("bz2", "_bz2", "lzma", "_lzma", "_uuid"),
    # concurrent.futures and logging, for other processes.
    "multiprocessing",
    *("sqlite3", "tkinter", "tzdata", "xml", "unittest", "test", "doctest", "pydoc", "pydoc_data"),
    *("distutils", "lib2to3", "ensurepip", "pip", "setuptools", "venv"),
)

# Of glibc's libraries, those that compiled modules name. own_glibc.py brings them, to where they are found first.
GLIBC = (
    "ld-linux*",
    "libc.so*",
    "libm.so*",
    "libdl.so*",
    "libpthread.so*",
    "libutil.so*",
    "librt.so*",
    "libresolv.so*",
)

# Where it finds the machine's time zones, cx_Freeze would pack them all. psycopg imports zoneinfo, but this program
# asks for every time as text.
zoneinfo.reset_tzpath(to=())

with tempfile.TemporaryDirectory() as directory:
    main = Path(directory, "main.py")
    main.write_text(bundle.with_bundle((HERE / "main.py").read_text(), LIBRARY))
    done = setup(
        name="pg-entrypoint",
        # Not what setuptools would find beside this file.
        packages=[],
        py_modules=[],
        executables=[Executable(main, target_name="entrypoint", init_script=HERE / "init.py")],
        options={
            "build_exe": {
                "packages": PACKAGES,
                "excludes": UNUSED,
                "bin_excludes": GLIBC,
                # What PyPI's wheels expect of every system, apart from glibc.
                "bin_includes": ["libz.so*"],
                # Modules as files: to unpack them from an archive takes several milliseconds of every start.
                "no_compress": True,
                # Without docstrings and assertions, of which nothing depends; the files are a fifth smaller.
                "optimize": 2,
                # The names of modules that are looked for and are not there mean nothing here.
                "silent_level": 2,
            }
        },
    )

# The packer lets the program look for its libraries in forty places of the folder first. It needs glibc's alone, which
# start.c has looked for in one; the others take a millisecond of every start.
folder = Path(done.get_command_obj("build_exe").build_exe)
program = folder / "entrypoint"
own_glibc.patch(program, "--remove-rpath")

import entrypoint  # noqa: E402 - what was installed for the packer

try:
    own_tls.bring(folder)
    own_glibc.bring(folder)
except own_glibc.CannotPackError as error:
    sys.exit(f"cannot pack the folder: {error}")
bundle.write(Path(entrypoint.__file__).parents[1], folder / "lib", optimize=2)
