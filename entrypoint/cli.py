"""From argv to a command. `run` is parsed in `__main__`, which does without all of this."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from entrypoint import __version__
from entrypoint.commands import (
    adopt,
    backup,
    baseline,
    check,
    import_,
    migrate,
    new,
    repair,
    rollback,
    run,
    serve,
    status,
    unlock,
    version,
    wait,
)
from entrypoint.errors.operator import UsageError
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from entrypoint.commands import Command

# In the order of the help.
COMMANDS: dict[str, Command] = {
    "run": run,
    "migrate": migrate,
    "status": status,
    "version": version,
    "wait": wait,
    "check": check,
    "new": new,
    "import": import_,
    "adopt": adopt,
    "backup": backup,
    "rollback": rollback,
    "baseline": baseline,
    "repair": repair,
    "unlock": unlock,
    "serve": serve,
}

_EPILOG = """\
exit codes:
  0 done   64 usage   65 bad migration files   69 database unavailable   70 a migration failed
  75 lock or wait time-out   78 bad configuration   126, 127 the application cannot be executed, is not there
  128+n ended by signal n

The environment configures it: DATABASE_URL, MIGRATIONS_DIR and more; see docs/configuration.md.
"""


class _Parser(argparse.ArgumentParser):
    """Complains with this program's own error, and so with its exit code."""

    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().split())  # argparse folds it for a terminal
        raise UsageError(message[:1].upper() + message[1:], remedy=usage.removeprefix("usage: "))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command that `argv` asks for; return its exit code. Raises EntrypointError."""
    try:
        arguments = parser().parse_args(argv)
    except UsageError as error:
        raise UsageError(without_secrets(error.message, argv), remedy=error.remedy) from None
    if arguments.command is None:
        *others, last = COMMANDS
        parser().error(f"a command is needed: {', '.join(others)} or {last}")
    try:
        return COMMANDS[arguments.command].execute(arguments, environ)
    except BrokenPipeError:
        return 0  # Whoever was reading has seen enough, as `status | head` does.


def without_secrets(message: str, argv: Sequence[str]) -> str:
    """Return argparse's `message` without secrets in the words that it quotes of the command line: the rest is ours."""
    for word in sorted(argv, key=len, reverse=True):
        value = word.partition("=")[2] if word.startswith("-") else word
        if value in COMMANDS or foreign(value) == value:
            continue
        for written in (repr(value), word, value):
            shown = written.replace(value, foreign(value)) if value in written else repr(foreign(value))
            message = re.sub(rf"(?<!\w){re.escape(written)}(?!\w)", shown.replace("\\", r"\\"), message)
    return message


def parser() -> argparse.ArgumentParser:
    """Return the parser for every command, each with an example in its help."""
    top = _Parser(
        prog="entrypoint",
        description="Wait for PostgreSQL, bring its schema up to date exactly once, and become the application.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"entrypoint {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, command in COMMANDS.items():
        command.add_options(
            commands.add_parser(
                name,
                help=command.SUMMARY,
                description=command.DESCRIPTION,
                epilog=f"example:\n  {command.EXAMPLE}",
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return top
