"""`status`: show what is applied and what is pending, for people or programs."""

from __future__ import annotations

from entrypoint.commands import output
from entrypoint.commands.values import at_least_one
from entrypoint.settings import read_settings, wants_colours

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from entrypoint.operations.status import Status

SUMMARY = "show what is applied and what is pending"
DESCRIPTION = """\
Compare the migration files with the database: what is applied, pending, failed or changed, and who holds the lock.
Exit codes with --exit-code: 0 up to date (or ahead), 10 pending, 11 a migration failed. With --strict also 12: an
applied file has changed or is missing."""
EXAMPLE = "entrypoint status --json | jq .pendingMigrations"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--json`, what to list, and the exit codes."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--pending", action="store_true", help="list only what a start would run")
    parser.add_argument(
        "--last", type=at_least_one, metavar="N", help="list only the last N applied migrations; with --pending, both"
    )
    parser.add_argument("--exit-code", action="store_true", help="report the result in the exit code: 0, 10 or 11")
    parser.add_argument(
        "--strict", action="store_true", help="the same, and 12 if an applied file has changed or is missing"
    )


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the status."""
    from entrypoint.errors.migration import MigrationFilesError
    from entrypoint.operations import status

    wishes = {"pending": arguments.pending, "last": arguments.last}
    if arguments.json:
        found = status.print_json(lambda: read_settings(environ, asked_for=True), output.write, **wishes)
    else:
        settings = read_settings(environ, asked_for=True)
        try:
            found = status.read(settings)
        except MigrationFilesError:
            # The history and the lock can still be shown.
            if (recorded := status.read_recorded(settings)) is not None:
                _print(recorded.only(**wishes), environ)
            raise
        found = found.only(**wishes)
        _print(found, environ)
    return found.exit_code(strict=arguments.strict) if arguments.exit_code or arguments.strict else 0


def _print(found: Status, environ: Mapping[str, str]) -> None:
    """Print the table for a person."""
    from shutil import get_terminal_size  # It imports archive modules, which no other command needs.

    from entrypoint.operations.status_table import as_text  # It imports rich, which JSON does not need.

    terminal = output.is_terminal()
    width = get_terminal_size().columns if terminal else None
    output.write(as_text(found, width=width, colours=wants_colours(environ, terminal=terminal)))
