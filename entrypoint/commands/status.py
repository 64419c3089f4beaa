"""`status`: what is applied and what is pending, for a person or for a program."""

from __future__ import annotations

import sys

from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "show what is applied and what is pending"
DESCRIPTION = """\
Compare the migration files with the database: what is applied, pending, failed or changed,
and who holds the lock."""
EXAMPLE = "entrypoint status --json | jq .pendingMigrations"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="for programs")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the status."""
    from entrypoint.operations import status

    if arguments.json:
        return status.print_json(lambda: read_settings(environ, asked_for=True), sys.stdout)
    sys.stdout.write(status.as_table(status.read(read_settings(environ, asked_for=True))))
    return 0
