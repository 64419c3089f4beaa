"""`help`: explain the commands and variables, without the network."""

from __future__ import annotations

import os

from entrypoint.commands import layout, output
from entrypoint.commands.values import did_you_mean
from entrypoint.errors.operator import UsageError
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from entrypoint.settings.variables import Variable

SUMMARY = "explain a command, or list all variables"
DESCRIPTION = """\
Without TOPIC, list the commands. TOPIC can be a command, a variable, env (all variables), or all (every command and
variable on one page)."""
EXAMPLE = "entrypoint help all | less"

_VARIABLES, _ALL = TOPICS = ("env", "all")
_MORE = "An empty value counts as unset. The documentation explains more: docs/configuration.md in the repository."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the topic."""
    parser.add_argument("topic", nargs="?", metavar="TOPIC", help="a command, a variable, env or all")


def execute(arguments: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    """Print the help. `cli` adds the parsers to the arguments, because they are made from this module, too."""
    topic: str | None = arguments.topic
    top: argparse.ArgumentParser = arguments.top
    parsers: Mapping[str, argparse.ArgumentParser] = arguments.parsers
    output.write(_text(topic, top, parsers))
    return 0


def _text(topic: str | None, top: argparse.ArgumentParser, parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """Return the help on a topic. Raises UsageError."""
    if topic is None:
        return top.format_help()
    if topic == _VARIABLES:
        return _variables()
    if topic == _ALL:
        pages = [f"\n\nentrypoint {name}\n\n{parser.format_help()}" for name, parser in parsers.items()]
        return f"{top.format_help()}{''.join(pages)}\n\nvariables\n\n{_variables()}"
    if topic in parsers:
        return parsers[topic].format_help()
    from entrypoint.settings.variables import GROUPS

    names = {variable.name: variable for variables in GROUPS.values() for variable in variables}
    if variable := names.get(topic):
        width = _width()
        lines = [line.removeprefix("  ") for line in layout.table([_row(variable)], width)]
        return "\n".join([*lines, "", _more(width)])
    raise UsageError(
        f"There is no help on {foreign(topic)!r}{did_you_mean(topic, (*parsers, _VARIABLES, _ALL, *names))}",
        remedy="entrypoint help lists the commands, and entrypoint help env lists the variables.",
    )


def _variables() -> str:
    """Return the list of all variables."""
    from entrypoint.settings.variables import GROUPS

    width = _width()
    rows = {title: [_row(variable) for variable in variables] for title, variables in GROUPS.items()}
    longest = max(len(name) for some in rows.values() for name, _ in some)
    lines: list[str] = []
    for title, some in rows.items():
        lines += [f"{title}:", *layout.table(some, width, longest), ""]
    return "\n".join([*lines, _more(width)])


def _row(variable: Variable) -> tuple[str, str]:
    default = f" (default: {variable.default})" if variable.default else ""
    return variable.name, f"{variable.meaning}{default}"


def _more(width: int | None) -> str:
    return f"{_MORE if width is None else layout.fill(_MORE, width)}\n"


def _width() -> int | None:
    """Return the terminal's width, or COLUMNS; None for a pipe, where a line is not broken."""
    if not output.is_terminal() and not os.environ.get("COLUMNS"):
        return None
    from shutil import get_terminal_size

    return get_terminal_size().columns
