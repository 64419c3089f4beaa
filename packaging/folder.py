"""Build the self-contained folder: python packaging/folder.py build_exe --build-exe DIRECTORY.

The Python that runs this needs the packer (requirements/folder.txt) and this program, installed and not editable.
docs/folder.md says what the folder is for; docs/decisions/0017-a-folder-by-cx-freeze.md, why it is built like this.
"""

from __future__ import annotations

import sys
import tempfile
import zoneinfo
from pathlib import Path

from cx_Freeze import Executable, setup

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # -I leaves it out.

import bundle  # noqa: E402 - after the line above
import fewer_libraries  # noqa: E402
import own_glibc  # noqa: E402
import own_tls  # noqa: E402

# An expression, because the folder may be anywhere.
LIBRARY = 'sys.executable.rpartition("/")[0] + "/lib"'

# Packages to include with all their modules, because much is imported inside functions, or by compiled modules.
PACKAGES = ("entrypoint", "psycopg", "psycopg_binary", "rich", "tenacity", "pythonjsonlogger", "pgparse")

# Modules that something imports, but that this program never uses.
UNUSED = (
    # Imported by rich, for source code and Markdown; see requirements/renew.py.
    *("pygments", "markdown_it", "mdurl"),
    # Imported by hashlib, for checksums that are not built in.
    "_hashlib",
    # own_tls.py adds them.
    *("ssl", "_ssl"),
    # Imported by rich and the debugger, for a prompt with a history. They need readline's and curses' libraries.
    *("readline", "curses", "_curses", "code", "cmd", "pdb"),
    # Imported by shutil and zipfile, for other archives, and by uuid, for a library of the system.
    *("bz2", "_bz2", "lzma", "_lzma", "_uuid"),
    # Imported by concurrent.futures and logging, for other processes.
    "multiprocessing",
    *("sqlite3", "tkinter", "tzdata", "xml", "unittest", "test", "doctest", "pydoc", "pydoc_data"),
    *("distutils", "lib2to3", "ensurepip", "pip", "setuptools", "venv"),
)

# Those of glibc's libraries that compiled modules need. own_glibc.py adds them, in the directory searched first.
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

# If cx_Freeze finds the machine's time zones, it packs them all. psycopg imports zoneinfo, but this program reads all
# times as text.
zoneinfo.reset_tzpath(to=())

with tempfile.TemporaryDirectory() as directory:
    main = Path(directory, "main.py")
    main.write_text(bundle.with_bundle((HERE / "main.py").read_text(), LIBRARY))
    done = setup(
        name="pg-entrypoint",
        # Otherwise setuptools would include what is next to this file.
        packages=[],
        py_modules=[],
        executables=[Executable(main, target_name="entrypoint", init_script=HERE / "init.py")],
        options={
            "build_exe": {
                "packages": PACKAGES,
                "excludes": UNUSED,
                "bin_excludes": GLIBC,
                # Besides glibc, the only library that PyPI's wheels expect on every system.
                "bin_includes": ["libz.so*"],
                # Modules as files: unpacking them from an archive would take several milliseconds of every start.
                "no_compress": True,
                # Without docstrings and assertions, on which nothing depends, the files are a fifth smaller.
                "optimize": 2,
                # Do not list missing modules; the list means nothing here.
                "silent_level": 2,
            }
        },
    )

# The packer has the program look for libraries in forty directories of the folder, which takes a millisecond of every
# start. The program needs only glibc's, and start.c sets the directory for those.
folder = Path(done.get_command_obj("build_exe").build_exe)
program = folder / "entrypoint"
own_glibc.patch(program, "--remove-rpath")

import entrypoint  # noqa: E402 - what was installed for the packer

try:
    own_tls.bring(folder)
    fewer_libraries.leave_out(folder)
    own_glibc.bring(folder)
except own_glibc.CannotPackError as error:
    sys.exit(f"cannot pack the folder: {error}")
bundle.write(Path(entrypoint.__file__).parents[1], folder / "lib", optimize=2)
