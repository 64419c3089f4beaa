"""`baseline`: record migrations as completed without running them."""

from __future__ import annotations

from entrypoint.commands import consent, output
from entrypoint.commands.values import migration_number
from entrypoint.counts import count
from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "mark an existing database as migrated up to a number"
DESCRIPTION = """\
Record all migrations up to N as completed, with their checksums, without running them: for a database whose schema
was created some other way and has no migration history yet. Shows them, then asks."""
EXAMPLE = "entrypoint baseline 12"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number and `--yes`."""
    parser.add_argument(
        "number", type=migration_number, metavar="N", help="the last migration that the schema already has"
    )
    consent.add_yes(parser)


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Show, ask, and record."""
    from entrypoint.operations import baseline
    from entrypoint.operations.whereabouts import whereabouts

    settings = read_settings(environ, asked_for=True)
    planned = baseline.plan(settings, arguments.number)
    where = whereabouts(settings.role)
    if not planned.files:
        output.write(where.line + baseline.nothing(planned))
        return 0
    consent.obtain(
        baseline.describe(planned), f"Record {count(len(planned.files), 'migration')}", where, yes=arguments.yes
    )
    output.write(baseline.carry_out(planned), done="the migrations have been recorded")
    return 0
