"""`help`: what can be typed and what can be set, without the network."""

from __future__ import annotations

from entrypoint.commands import output
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
_MORE = "An empty value counts as unset. docs/configuration.md explains each of them."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the topic."""
    parser.add_argument("topic", nargs="?", metavar="TOPIC", help="a command, a variable, env or all")


def execute(arguments: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    """Print it. `cli` puts the parsers beside the topic: it has made them from this module, too."""
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
        return f"{_row(variable, len(topic))}\n\n{_MORE}\n"
    raise UsageError(
        f"There is no help on {foreign(topic)!r}{did_you_mean(topic, (*parsers, _VARIABLES, _ALL, *names))}",
        remedy="entrypoint help lists the commands; entrypoint help env, the variables.",
    )


def _variables() -> str:
    """Return the list of all variables."""
    from entrypoint.settings.variables import GROUPS

    width = max(len(variable.name) for variables in GROUPS.values() for variable in variables)
    lines: list[str] = []
    for title, variables in GROUPS.items():
        lines += [f"{title}:", *(f"  {_row(variable, width)}" for variable in variables), ""]
    return "\n".join([*lines, f"{_MORE}\n"])


def _row(variable: Variable, width: int) -> str:
    default = f" (default: {variable.default})" if variable.default else ""
    return f"{variable.name:{width}}  {variable.meaning}{default}"
