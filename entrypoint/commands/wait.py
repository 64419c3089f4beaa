"""`wait`: wait, for an init container that does nothing else."""

from __future__ import annotations

from entrypoint.commands.values import migration_number, seconds
from entrypoint.errors.operator import UsageError
from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "wait for the database or the schema"
DESCRIPTION = """\
Wait until the database accepts connections, or until another process has brought the schema up to date. Never migrates
and never takes the migration lock. Exit codes: 0 ready, 69 no connection, 70 a migration has failed, 75 timed out."""
EXAMPLE = "entrypoint wait --for schema --timeout 120"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--for`, `--version` and `--timeout`."""
    parser.add_argument(
        "--for",
        dest="what",
        choices=("database", "schema"),
        default="schema",
        help="database: it accepts connections; schema: none of the migration files is pending (default: schema)",
    )
    parser.add_argument(
        "--version",
        type=migration_number,
        metavar="N",
        help="wait until the schema is at version N or higher, with N itself applied if there is such a file; "
        "needs no migration files",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="give up after this time; 0 looks once (default for the schema: MIGRATION_TIMEOUT_MS; for the "
        "database: as long as a start would try to connect)",
    )


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Wait, or raise what is in the way."""
    if arguments.what == "database" and arguments.version is not None:
        raise UsageError(
            "--version can only be used with --for schema", remedy="entrypoint wait [--for schema] --version N"
        )
    settings = read_settings(environ, asked_for=True)
    from entrypoint.operations.wait import wait_for_database, wait_for_schema

    if arguments.what == "database":
        wait_for_database(settings, arguments.timeout)
    else:
        wait_for_schema(settings, arguments.version, arguments.timeout)
    return 0
