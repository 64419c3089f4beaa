"""Starts the program without starting an interpreter: this process has imported it, and clones itself.

    python warm.py DESCRIPTOR

Each message from the socket asks for a start: the directory, arguments and environment, and the descriptors for the
output. The clone becomes a child of our parent, which can wait for it as usual. The clone sends its pid just before it
begins. See `kit.warm`.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
from typing import Any

CLONE_PARENT = 0x8000
CLONE3 = 435  # on every architecture

# Modules that the program only imports when it needs them.
LATER = (
    *("asyncio", "ctypes", "difflib", "encodings.idna", "fnmatch", "hashlib", "html.entities", "ipaddress", "pgparse"),
    *("psycopg", "random", "rich.live", "rich.table", "shlex", "shutil", "ssl", "termios", "traceback", "uvicorn"),
)

# Unlike CDLL, this keeps the interpreter's lock (GIL), so that the clone has it.
python = ctypes.PyDLL(None)


def import_all() -> None:
    """Import everything that a start may import, without starting."""
    import entrypoint

    for module in pkgutil.walk_packages(entrypoint.__path__, "entrypoint."):
        importlib.import_module(module.name)
    for name in LATER:
        importlib.import_module(name)


def clone() -> int:
    """Clone this process as a child of our parent; return 0 in the clone, and the clone's pid here."""
    arguments = (ctypes.c_uint64 * 8)(CLONE_PARENT)
    python.PyOS_BeforeFork()
    pid: int = python.syscall(CLONE3, arguments, ctypes.sizeof(arguments))
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    return pid


def prepare(start: dict[str, Any], output: list[int]) -> None:
    """Set up this process as an exec would have set it up for this start."""
    os.setsid()
    os.chdir(start["directory"])
    for descriptor, copy in enumerate(output, start=1):
        os.dup2(copy, descriptor)
        os.close(copy)
    # Opened again, because they remember whether their file is seekable. They stay open until the end.
    sys.stdout = open(1, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding=sys.stderr.encoding, errors=sys.stderr.errors, closefd=False)  # noqa: SIM115
    environment = [bytes.fromhex(entry) for entry in start["environment"]]
    # Python itself adds this if no locale is set (PEP 538), as here.
    own = {name: value for name, value in os.environb.items() if name == b"LC_CTYPE"}
    os.environb.clear()
    os.environb.update({**dict(entry.split(b"=", 1) for entry in environment), **own})

    from entrypoint import __main__ as program
    from entrypoint import handover, phase

    importlib.reload(phase)  # It records when the program began.
    handover.initial_environment = lambda: environment  # The kernel would return ours.
    sys.argv[:] = [str(program.__file__), *(os.fsdecode(bytes.fromhex(word)) for word in start["arguments"])]
    sys.path[0] = start["directory"]


def main() -> None:
    """Clone this process for each message."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
        signal.signal(number, default)
    sys.path[0] = ""
    import_all()
    gc.collect()
    gc.freeze()
    while True:
        message, output, _, _ = socket.recv_fds(control, 1 << 20, 2)
        if not message:
            return
        pid = clone()
        if pid == 0:
            break
        if pid < 0:
            control.send(b"no")  # Some container engines forbid it.
        for descriptor in output:
            os.close(descriptor)
    try:
        prepare(json.loads(message), output)
    except BaseException as error:  # noqa: BLE001 - reported to the process that asked for the start
        control.send(repr(error).encode()[:900])
        os._exit(1)
    with control:
        control.send(str(os.getpid()).encode())

    from entrypoint.__main__ import main as begin

    begin()


main()
