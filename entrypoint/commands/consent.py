"""Consent to changes: a question on a terminal, `--yes` elsewhere."""

from __future__ import annotations

import sys

from entrypoint.commands import output
from entrypoint.errors.operator import NotConfirmedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from entrypoint.operations.whereabouts import Whereabouts


class DeclinedError(NotConfirmedError):
    """The user said no. They know, so this is not reported as an error."""


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add `--yes`."""
    parser.add_argument("--yes", action="store_true", help="do not ask; required if there is no terminal")


def obtain(shown: str, question: str, where: Whereabouts, *, yes: bool, for_programs: bool = False) -> None:
    """Show what will be changed, and where, and return if the user agrees.

    `question`: without its end, as in `Repair 2 rows`. `for_programs`: stdout is only for JSON.

    On a terminal, text and question go to stderr, whatever stdout is, and the answer is read from stdin; end of file
    means no. Elsewhere the text goes to stdout, and only `yes` counts. A signal at the prompt ends the program. Raises
    DeclinedError after a no, and NotConfirmedError if there is no terminal.
    """
    text = where.line + shown
    if yes or not _is_terminal():
        if not for_programs:
            output.write(text)
        if not yes:
            raise NotConfirmedError(
                "No terminal to confirm on; nothing was changed", remedy="Add --yes if this is what you want."
            )
        return
    sys.stderr.write(f"{text}{question} in {where.short}? [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    if answer.strip().lower() not in ("y", "yes"):
        sys.stderr.write("Nothing was changed.\n")
        raise DeclinedError("The answer was not yes; nothing was changed")


def _is_terminal() -> bool:
    """Return whether a question can be shown and answered."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
