"""Parses argv and runs the command. `__main__` itself parses `run`, and does not import this module for it."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from typing import Any, NoReturn

from entrypoint import __version__
from entrypoint.commands import (
    adopt,
    backup,
    baseline,
    check,
    completion,
    help_,
    import_,
    migrate,
    new,
    output,
    repair,
    rollback,
    run,
    serve,
    status,
    unlock,
    version,
    wait,
)
from entrypoint.commands.consent import DeclinedError
from entrypoint.commands.layout import HelpFormatter
from entrypoint.commands.values import did_you_mean, which_choice
from entrypoint.errors.operator import UsageError
from entrypoint.redaction import foreign, know_for_now, secrets_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

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
    "help": help_,
    "completion": completion,
}

_EPILOG = """\
exit codes:
  0 done   64 usage error   65 invalid migration files   69 database unavailable   70 a migration failed
  75 timed out waiting, or lost the lock   78 invalid configuration   126 the application cannot be executed
  127 the application was not found   128+n ended by signal n

Environment variables configure everything else: DATABASE_URL, MIGRATIONS_DIR and more. To list them:
  entrypoint help env
"""


# Names in other tools, and our command for the same.
_ELSEWHERE = {
    **dict.fromkeys(("create", "generate", "add", "make", "revision"), "new"),
    **dict.fromkeys(("up", "apply", "upgrade", "deploy", "update"), "migrate"),
    **dict.fromkeys(("down", "undo", "revert", "downgrade"), "rollback"),
    **dict.fromkeys(("info", "history", "list", "current"), "status"),
    **dict.fromkeys(("validate", "lint"), "check"),
}
_NEEDLESS = ("init", "setup")
# Options that may come before the command.
_OF_ALL = ("-h", "--help", "-V", "--version", "--no-color")
# Variables whose whole value is a secret.
_SECRET_VARIABLES = ("PGPASSWORD", "PGSSLPASSWORD", "STATUS_TOKEN")
# The name of an option, without a value attached to it: -pPASSWORD, --pass:PASSWORD.
_OPTION = r"--[A-Za-z][\w-]*|-[^-]|-+"


class _Once(argparse.Action):
    """Stores a value, as argparse does, but refuses a second one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string is not None:
            given: set[str] = vars(namespace).setdefault("given", set())
            if option_string in given:
                parser.error(f"{option_string} is given twice")
            given.add(option_string)
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """Raises this program's own error, with its exit code, and accepts no abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, formatter_class=HelpFormatter)
        self.register("action", None, _Once)
        self.color = False  # Python 3.14 has different rules for colors.

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"ignored explicit argument .*", "it takes no value", message, flags=re.DOTALL)
        if found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message, re.DOTALL):
            message += which_choice(found[1], re.findall(r"[\w-]+", found[2]))
        raise UsageError(message[:1].upper() + message[1:], remedy=_usage(self))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or version. The original ignores a full disk, and exits with 0."""
        del file  # Only errors would go to another file, and this parser raises them.
        if message:
            output.write(message)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command that `argv` asks for; return its exit code. Raises EntrypointError."""
    if set(argv) <= {"--no-color"} and sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(parser().format_help())
        return 64
    # A word may be an address in the wrong place. `run` does not come here: its words belong to the application.
    know_for_now(secret for word in argv for secret in _secrets_in(word))
    try:
        arguments = _parse(argv)
    except UsageError as error:
        raise UsageError(without_secrets(error.message, argv), remedy=error.remedy) from None
    try:
        return COMMANDS[arguments.command].execute(arguments, environ)
    except DeclinedError:
        return 64
    except BrokenPipeError:
        return 0  # The reader has seen enough, as in `status | head`.


def _secrets_in(word: str) -> frozenset[str]:
    """Return the secrets in a word of the command line that may be an address, or a secret variable's assignment."""
    value = word.partition("=")[2] if word.startswith("-") else word
    name, _, rest = value.partition("=")
    return secrets_of(value) | (frozenset((rest,)) if name in _SECRET_VARIABLES and rest else frozenset())


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse `argv`. Raises UsageError, which suggests the nearest name for an unknown one."""
    top, commands = made()
    if argv[-1:] == ["--"] or argv[:1] == ["--"]:  # Nothing follows the end of the options, or no option comes first.
        argv = argv[:-1] if argv[-1:] == ["--"] else argv[1:]
    before = list(itertools.takewhile(lambda word: word.startswith("-"), argv))
    rest = argv[len(before) :]
    if rest and rest[0] not in COMMANDS and not _unknown_option(before, _OF_ALL):
        raise _no_command(rest[0])
    _refuse_options(before, rest, top, commands)
    arguments, unknown = top.parse_known_args(argv)
    command: str | None = arguments.command
    if command is None:
        *others, last = COMMANDS
        raise UsageError(f"No command given: {', '.join(others)} or {last}", remedy="`entrypoint help` explains them.")
    unknown = [word for word in unknown if word != "--"]
    if unknown:
        used = commands[command]
        raise UsageError(f"{used.prog} does not take the argument {unknown[0]!r}", remedy=_usage(used))
    return arguments


def _no_command(word: str) -> UsageError:
    if word in _NEEDLESS:
        return UsageError(
            f"Unknown command {word!r}; there is nothing to initialize",
            remedy="`entrypoint migrate` creates the tables it needs; `entrypoint new` creates your first migration.",
        )
    meant = f". Did you mean {_ELSEWHERE[word]}?" if word in _ELSEWHERE else did_you_mean(word, COMMANDS)
    return UsageError(
        f"Unknown command {word!r}{meant}",
        remedy="`entrypoint help` lists the commands. To start an application: entrypoint run -- COMMAND",
    )


def _refuse_options(
    before: Sequence[str],
    rest: Sequence[str],
    top: argparse.ArgumentParser,
    commands: Mapping[str, argparse.ArgumentParser],
) -> None:
    """Raise UsageError for an unknown option, before argparse complains about what is missing.

    `before`: the options before the command. `rest`: the command and what follows it. `top`, `commands`: from `made`.
    """
    if {"-h", "--help", "-V", "--version"}.isdisjoint(before) and (name := _unknown_option(before, _OF_ALL)):
        owners = [command for command, used in commands.items() if name in _options(used)]
        if owners:
            command = rest[0] if rest[:1] and rest[0] in owners else owners[0] if len(owners) == 1 else "COMMAND"
            raise UsageError(f"{name} goes after the command, not before it", remedy=f"entrypoint {command} {name}")
        raise UsageError(f"entrypoint has no option {name}{did_you_mean(name, _OF_ALL)}", remedy=_usage(top))
    if not rest:
        return
    used = commands[rest[0]]
    options = _options(used)
    words = list(itertools.takewhile(lambda word: word != "--", rest[1:]))
    if {"-h", "--help"}.isdisjoint(words) and (name := _unknown_option(words, options)):
        raise UsageError(f"{used.prog} has no option {name}{did_you_mean(name, options)}", remedy=_usage(used))


def _unknown_option(words: Sequence[str], known: Collection[str]) -> str:
    """Return the name of the first option among `words` that is not `known`; empty if there is none."""
    for word in words:
        # To argparse, a single hyphen, a number and a text with blanks are arguments, not options.
        if len(word) < 2 or " " in word or not (found := re.match(_OPTION, word)) or word[1].isdecimal():
            continue
        if found[0] not in known:
            return found[0]
    return ""


def _options(used: argparse.ArgumentParser) -> frozenset[str]:
    """Return the names of a command's options."""
    return frozenset(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", used.format_usage())) | {"--help"}


def _usage(used: argparse.ArgumentParser) -> str:
    """Return a command's usage on one line; argparse wraps it for a terminal."""
    usage = " ".join(used.format_usage().split()).removeprefix("usage: ")
    return usage.replace(" [-h]", "").replace(" [--no-color]", "")


def without_secrets(message: str, argv: Sequence[str]) -> str:
    """Return argparse's `message` without secrets in the words that it quotes from the command line."""
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
    return made()[0]


def made() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the same parser, and those of its commands by name, in the order of the help."""
    top = _Parser(
        prog="entrypoint",
        description="Wait for PostgreSQL, bring its schema up to date exactly once, and exec the application.",
        epilog=_EPILOG,
    )
    top.add_argument("-V", "--version", action="version", version=f"entrypoint {__version__}")
    _add_no_color(top)
    commands = top.add_subparsers(title="commands", dest="command", metavar="COMMAND", parser_class=_Parser)
    found: dict[str, argparse.ArgumentParser] = {}
    for name, command in COMMANDS.items():
        found[name] = commands.add_parser(
            name, help=command.SUMMARY, description=command.DESCRIPTION, epilog=f"example:\n  {command.EXAMPLE}"
        )
        command.add_options(found[name])
        _add_no_color(found[name])
    found["help"].set_defaults(top=top, parsers=found)
    return top, found


def _add_no_color(to: argparse.ArgumentParser) -> None:
    """Add the option to the help. `__main__` has already handled it, as it also affects errors of this parser."""
    to.add_argument(
        "--no-color", action="store_true", default=argparse.SUPPRESS, help="disable colors, like NO_COLOR=1"
    )
