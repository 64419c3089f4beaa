"""`rollback`: reverse migrations."""

from __future__ import annotations

from entrypoint.commands import consent, output
from entrypoint.commands.values import migration_number
from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "undo migrations with their down migrations"
DESCRIPTION = """\
Undo all migrations above N by running their down migrations, rollback/NNN_description.sql, newest first. Each runs in
one transaction together with the removal of its row, under the migration lock. Shows them, then asks."""
EXAMPLE = "entrypoint rollback --to 41"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--to` and `--yes`."""
    parser.add_argument(
        "--to",
        type=migration_number,
        metavar="N",
        required=True,
        help="keep migrations up to N; 0 undoes all of them",
    )
    consent.add_yes(parser)


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Show, ask, reverse, and say what to do next."""
    from entrypoint.operations import rollback
    from entrypoint.operations.whereabouts import whereabouts

    settings = read_settings(environ, asked_for=True)
    planned = rollback.plan(settings, arguments.to)
    where = whereabouts(settings.role)
    if not planned.steps:
        output.write(where.line + rollback.nothing(planned))
        return 0
    consent.obtain(rollback.describe(planned), f"Roll back to {arguments.to}", where, yes=arguments.yes)
    output.write(rollback.carry_out(planned), done="the migrations have been reversed")
    return 0
