"""The commands and their options. `run` is parsed in `__main__`, which does without all of this."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from entrypoint import __version__
from entrypoint.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_EPILOG = """\
exit codes:
  0 done   64 usage   65 bad migration files   69 database unavailable   70 a migration failed
  75 lock time-out   78 bad configuration   126, 127 the application cannot be executed, is not there
  128+n ended by signal n

The environment configures it: DATABASE_URL, MIGRATIONS_DIR and more; see docs/configuration.md.
"""


class _Parser(argparse.ArgumentParser):
    """Complains with this program's own error, and so with its exit code."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message[:1].upper() + message[1:], remedy=self.format_usage().strip().removeprefix("usage: "))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command that `argv` asks for; return its exit code. Raises EntrypointError."""
    arguments = parser().parse_args(argv)
    if arguments.command is None:
        parser().error("a command is needed: run, migrate, status, version or check")
    if arguments.command == "run":
        parser().error("run needs the application's command")
    command = {"migrate": _migrate, "status": _status, "version": _version, "check": _check}[arguments.command]
    try:
        return command(arguments, environ)
    except BrokenPipeError:
        return 0  # Whoever was reading has seen enough, as `status | head` does.


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

    def command(name: str, summary: str, description: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    run = command(
        "run",
        "migrate, then become the application",
        "Bring the schema up to date, or wait while another replica does, and then execute COMMAND in this process.\n"
        "A failure is logged and does not stop the start, unless MIGRATION_ON_FAILURE=exit.",
        "DATABASE_URL=postgresql://app@db/app entrypoint run -- node server.js",
    )
    run.usage = "entrypoint run -- COMMAND [ARGUMENT ...]"

    migrate = command(
        "migrate",
        "migrate, and report by exit code",
        "Bring the schema up to date, or wait while another replica does. For init containers, Jobs and by hand.",
        "entrypoint migrate --dry-run",
    )
    migrate.add_argument("--dry-run", action="store_true", help="show what would run, in order, and change nothing")
    migrate.add_argument("--to", type=_migration_number, metavar="N", help="stop after migration number N")

    status = command(
        "status",
        "show what is applied and what is pending",
        "Compare the migration files with the database: what is applied, pending, failed or changed,\n"
        "and who holds the lock.",
        "entrypoint status --json | jq .pendingMigrations",
    )
    status.add_argument("--json", action="store_true", help="for programs")

    command(
        "version",
        "print the schema's version",
        "Print the number of the highest migration that is applied; 0 if none is.\n"
        "(The program's own: entrypoint --version.)",
        "entrypoint version",
    )
    command(
        "check",
        "check the migration files without a database",
        "Check names, numbers, encodings, syntax and transaction control of all migration files.",
        "MIGRATIONS_DIR=migrations entrypoint check",
    )
    return top


def _migration_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        msg = f"{text!r} is not the number of a migration"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _migrate(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from entrypoint.settings import read_settings

    settings = read_settings(environ, asked_for=True)
    if arguments.to is not None:
        from entrypoint.operations.dry_run import check_target

        check_target(settings.migrations_dir, arguments.to)
    if arguments.dry_run:
        from entrypoint.operations.dry_run import dry_run

        sys.stdout.write(dry_run(settings, up_to=arguments.to))
        return 0
    from entrypoint.startup import bring_up_to_date

    bring_up_to_date(settings, up_to=arguments.to)
    return 0


def _status(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from entrypoint.operations import status
    from entrypoint.settings import read_settings

    if arguments.json:
        return status.print_json(lambda: read_settings(environ, asked_for=True), sys.stdout)
    sys.stdout.write(status.as_table(status.read(read_settings(environ, asked_for=True))))
    return 0


def _version(_arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from entrypoint.settings import read_settings
    from entrypoint.startup import survey_database

    survey = survey_database(read_settings(environ, asked_for=True))
    survey.session.close()
    sys.stdout.write(f"{survey.plan.current or 0}\n")
    return 0


def _check(_arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from entrypoint.operations.check import check
    from entrypoint.settings import read_settings

    sys.stdout.write(check(read_settings(environ, asked_for=True).migrations_dir))
    return 0
