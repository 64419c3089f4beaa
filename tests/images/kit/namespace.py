"""A separate network: a named namespace with only a loopback interface."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

NAMES = "pge"
# Daemons and network tools are in directories that not every root user has in the PATH.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_numbers = itertools.count(1)


class Namespace:
    """A network namespace, as `ip netns` creates it; a context manager that removes it."""

    def __init__(self) -> None:
        """Create it. Its name contains our pid, so that several checkouts do not get in each other's way."""
        sweep()
        self.name = f"{NAMES}-{os.getpid()}-{next(_numbers)}"
        _ip("netns", "add", self.name)
        try:
            _ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return itself: it already exists."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove it."""
        self.close()

    def inside(self, *argv: str | Path) -> list[str]:
        """Return the command that runs `argv` in this namespace, with the machine's own files."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *map(str, argv)]

    def close(self) -> None:
        """Remove it. May be called twice."""
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "delete", self.name)


def sweep() -> None:
    """Clean up after killed runs: remove the namespaces of processes that are gone."""
    for path in Path("/run/netns").glob(f"{NAMES}-*"):
        owner = re.match(rf"{NAMES}-(\d+)-", path.name)
        if owner and not Path("/proc", owner[1]).exists():
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", path.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], env={"PATH": PATH}, check=True, capture_output=True, text=True, timeout=30)
