"""`help`: what can be typed and what can be set, without the network."""

from __future__ import annotations

import sys

from entrypoint.commands.values import did_you_mean
from entrypoint.errors.operator import UsageError
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from typing import TextIO

SUMMARY = "explain a command, or list all variables"
DESCRIPTION = """\
Without TOPIC, list the commands. TOPIC is a command; env, for the variables that configure the program; or all,
for every command and all variables on one page."""
EXAMPLE = "entrypoint help all | less"

_VARIABLES, _ALL = "env", "all"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the topic."""
    parser.add_argument("topic", nargs="?", metavar="TOPIC", help="a command, env or all")


def execute(arguments: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    """Print it. `cli` puts the parsers beside the topic: it has made them from this module, too."""
    topic: str | None = arguments.topic
    top: argparse.ArgumentParser = arguments.top
    parsers: Mapping[str, argparse.ArgumentParser] = arguments.parsers
    if topic is None:
        sys.stdout.write(top.format_help())
    elif topic == _VARIABLES:
        _print_variables(sys.stdout)
    elif topic == _ALL:
        sys.stdout.write(top.format_help())
        for name, parser in parsers.items():
            sys.stdout.write(f"\n\nentrypoint {name}\n\n{parser.format_help()}")
        sys.stdout.write("\n\nvariables\n\n")
        _print_variables(sys.stdout)
    elif topic in parsers:
        sys.stdout.write(parsers[topic].format_help())
    else:
        raise UsageError(
            f"There is no help on {foreign(topic)}{did_you_mean(topic, (*parsers, _VARIABLES, _ALL))}",
            remedy="entrypoint help lists the commands; entrypoint help env, the variables.",
        )
    return 0


def _print_variables(output: TextIO) -> None:
    output.writelines(f"{line}\n" for line in _variables())


def _variables() -> Iterator[str]:
    from entrypoint.settings.variables import GROUPS

    width = max(len(variable.name) for variables in GROUPS.values() for variable in variables)
    for title, variables in GROUPS.items():
        yield f"{title}:"
        for variable in variables:
            default = f" (default: {variable.default})" if variable.default else ""
            yield f"  {variable.name:{width}}  {variable.meaning}{default}"
        yield ""
    yield "An empty value counts as unset. docs/configuration.md explains each of them."
