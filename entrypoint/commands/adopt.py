"""`adopt`: record what another migration tool has applied here."""

from __future__ import annotations

from entrypoint.commands import consent, output
from entrypoint.counts import count
from entrypoint.redaction import foreign
from entrypoint.settings import adopt_from, read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "record what another tool has applied, from its history"
DESCRIPTION = """\
Record what another tool has already applied to this database as completed, for files that `import` wrote. Files are
matched by the origin in their first line, never by number. The tool's own table is only read. Shows what it would
record, then asks."""
EXAMPLE = "entrypoint adopt --from goose --dry-run"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--from`, `--table`, `--dry-run` and `--yes`."""
    parser.add_argument("--from", dest="tool", required=True, metavar="TOOL", help="the tool, as in import --from")
    parser.add_argument("--table", metavar="SCHEMA.TABLE", help="the tool's history table, if it is not the usual one")
    parser.add_argument("--dry-run", action="store_true", help="show what would be recorded, and change nothing")
    consent.add_yes(parser)


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Show, ask, and record."""
    from entrypoint.errors.operator import UsageError
    from entrypoint.operations import adopt
    from entrypoint.operations.whereabouts import whereabouts

    try:
        wanted = adopt_from(arguments.tool, arguments.table)._replace(by_hand=True)
    except ValueError as error:
        raise UsageError(f"Argument --from: {foreign(str(error))}", remedy="entrypoint adopt --from TOOL") from None
    settings = read_settings(environ, asked_for=True)
    planned = adopt.plan(settings, wanted)
    where = whereabouts(settings.role)
    if arguments.dry_run or not planned.something:
        output.write(where.line + adopt.describe(planned))
        return 0
    consent.obtain(adopt.describe(planned), f"Record {count(planned.number, 'migration')}", where, yes=arguments.yes)
    output.write(adopt.carry_out(planned), done="the migrations have been recorded")
    return 0
