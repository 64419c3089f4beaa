"""The command line: each command's options and help. The work is done in `operations` and `startup`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Protocol

    class Command(Protocol):
        """A module of this package."""

        SUMMARY: str
        """One line for the list of commands."""
        DESCRIPTION: str
        EXAMPLE: str

        def add_options(self, parser: argparse.ArgumentParser, /) -> None:
            """Add the command's own options and arguments."""

        def execute(self, arguments: argparse.Namespace, environ: Mapping[str, str], /) -> int:
            """Do it, and return the exit code. Raises EntrypointError."""
