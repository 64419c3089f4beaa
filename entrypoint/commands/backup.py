"""`backup`: dump the database, by hand or from a CronJob."""

from __future__ import annotations

from entrypoint.commands import output
from entrypoint.commands.values import at_least_one
from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "back up the database with pg_dump"
DESCRIPTION = """\
Back up the database with pg_dump, in its custom format, to MIGRATION_BACKUP_DIR. The file gets its final name only
when it is complete and checked. Restore it with pg_restore."""
EXAMPLE = "entrypoint backup --dir /backups --keep 7"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--dir` and `--keep`."""
    parser.add_argument("--dir", metavar="DIR", help="write it to this directory instead")
    parser.add_argument(
        "--keep", type=at_least_one, metavar="N", help="then delete all but the newest N backups of this database"
    )


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Take a backup, and print its path."""
    from entrypoint.operations.backup import backup

    settings = read_settings(environ, asked_for=True)
    output.write(backup(settings, directory=arguments.dir, keep=arguments.keep), done="the backup has been made")
    return 0
