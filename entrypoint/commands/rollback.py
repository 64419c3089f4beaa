"""`rollback`: take migrations back."""

from __future__ import annotations

from entrypoint.commands import consent, output
from entrypoint.commands.values import migration_number
from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "take migrations back with their reverse files"
DESCRIPTION = """\
Run the reverse files rollback/NNN_description.sql of all migrations above N, newest first, each in one
transaction with the removal of its row, under the migration lock. Shows them first, and asks."""
EXAMPLE = "entrypoint rollback --to 41"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--to` and `--yes`."""
    parser.add_argument(
        "--to",
        type=migration_number,
        metavar="N",
        required=True,
        help="the migration that is to be the last one; it is not reversed itself; 0 reverses all",
    )
    consent.add_yes(parser)


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Show, ask, reverse, and say what follows from it."""
    from entrypoint.operations import rollback
    from entrypoint.operations.whereabouts import whereabouts

    settings = read_settings(environ, asked_for=True)
    planned = rollback.plan(settings, arguments.to)
    where = whereabouts(settings.role)
    if not planned.steps:
        output.write(where.line + rollback.nothing(planned))
        return 0
    consent.obtain(rollback.describe(planned), f"Reverse them, down to {arguments.to},", where, yes=arguments.yes)
    output.write(rollback.carry_out(planned), done="the migrations have been reversed")
    return 0
