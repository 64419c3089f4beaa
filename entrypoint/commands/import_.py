"""`import`: convert another tool's migrations."""

from __future__ import annotations

from entrypoint.commands import output
from entrypoint.records import TOOLS
from entrypoint.redaction import foreign
from entrypoint.settings import adopt_from, read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "import another tool's migrations"
DESCRIPTION = """\
Import a migrations directory of goose, dbmate, sql-migrate, golang-migrate, Flyway, sqlx, diesel, Prisma, Drizzle
or Supabase. The SQL is copied byte for byte, down migrations go to rollback/, and the first line of each file records
its version in that tool. Nothing is overwritten, and DIR is not changed. Lists what could not be imported, and checks
the result."""
EXAMPLE = "entrypoint import --from goose db/migrations --into migrations"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the directory, `--from`, `--into` and `--dry-run`."""
    parser.add_argument("--from", dest="tool", required=True, metavar="TOOL", help=", ".join(TOOLS))
    parser.add_argument("directory", metavar="DIR", help="the directory that contains the tool's migrations")
    parser.add_argument("--into", metavar="DIR", help="where to write the files (default: MIGRATIONS_DIR)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Write the files and print the report; raise MigrationFilesError for missing or invalid files."""
    from entrypoint.errors.operator import UsageError
    from entrypoint.operations.import_ import ImportOptions, import_directory
    from entrypoint.operations.importing.report import render

    try:
        tool = adopt_from(arguments.tool, None).tool
    except ValueError as error:
        raise UsageError(
            f"Argument --from: {foreign(str(error))}", remedy="entrypoint import --from TOOL DIR"
        ) from None
    settings = read_settings(environ, asked_for=True)
    into = arguments.into or settings.migrations_dir
    imported = import_directory(settings, ImportOptions(tool, arguments.directory, into, arguments.dry_run))
    output.write(render(imported), done="" if arguments.dry_run else "the files have been written")
    imported.judge()
    return 0
