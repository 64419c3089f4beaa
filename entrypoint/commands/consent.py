"""Consent to what a command is about to change: asked for on a terminal, given by `--yes` elsewhere."""

from __future__ import annotations

import sys

from entrypoint.commands import output
from entrypoint.errors.operator import NotConfirmedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add `--yes`."""
    parser.add_argument("--yes", action="store_true", help="do it without asking; needed where there is no terminal")


def obtain(shown: str, question: str, *, yes: bool) -> None:
    """Show what is to be changed, and return if somebody agrees. Raises NotConfirmedError if nobody does.

    On a terminal, text and question go to stderr, whatever stdout is, and the answer is read from stdin; its end is
    a no. Elsewhere the text goes to stdout, and only `yes` counts. A signal at the prompt ends the program.
    """
    if yes or not _is_terminal():
        output.write(shown)
        if not yes:
            raise NotConfirmedError(
                "Nobody can be asked here, as there is no terminal; nothing was changed",
                remedy="Add --yes if this is what you want.",
            )
        return
    sys.stderr.write(f"{shown}{question} [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    if answer.strip().lower() not in ("y", "yes"):
        raise NotConfirmedError("The answer was not yes; nothing was changed", remedy="Start again, and answer y.")


def _is_terminal() -> bool:
    """Tell whether a question can be seen and answered."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
