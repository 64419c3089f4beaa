"""`completion`: print a script with which a shell completes commands and options."""

from __future__ import annotations

import os

from entrypoint.commands import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "print the completion script for a shell"
DESCRIPTION = """\
Print a script that makes the shell complete this program's commands and options. Where to put it:
  bash: entrypoint completion bash > /etc/bash_completion.d/entrypoint
  zsh:  entrypoint completion zsh > "${fpath[1]}/_entrypoint"
  fish: entrypoint completion fish > ~/.config/fish/completions/entrypoint.fish"""
EXAMPLE = "source <(entrypoint completion bash)"

SHELLS = ("bash", "zsh", "fish")

_SCRIPTS = os.path.join(os.path.dirname(__file__), "completions")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the shell."""
    # Accept a path, as in $SHELL.
    parser.add_argument("shell", type=os.path.basename, choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def execute(arguments: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    """Print it."""
    with open(os.path.join(_SCRIPTS, f"entrypoint.{arguments.shell}"), encoding="utf-8") as file:
        output.write(file.read())
    return 0
