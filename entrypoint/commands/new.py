"""`new`: create the next migration file."""

from __future__ import annotations

from entrypoint.commands import output
from entrypoint.errors import ConfigurationError
from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "create the next migration file"
DESCRIPTION = """\
Create a migration file with the next number and a name made from NAME. If the newest file's number is a timestamp, the
new number is the current time in UTC. Existing files are never overwritten. Prints the paths it wrote."""
EXAMPLE = 'entrypoint new "Add users table" --rollback'


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the name, `--rollback`, `--timestamp` and `--after`."""
    parser.add_argument("name", nargs="+", metavar="NAME", help="what the migration does, in a few words")
    parser.add_argument("--rollback", action="store_true", help="also create the down migration")
    parser.add_argument(
        "--timestamp", action="store_true", help="use the current time in UTC as the number, as in 20261127101500"
    )
    parser.add_argument(
        "--after", action="store_true", help="make it run after the rollout (phase = after), with a floor"
    )


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Write the files, and print their paths."""
    from entrypoint.operations.new import new

    settings = read_settings(environ, asked_for=True)
    if not settings.migrations_dir:
        raise ConfigurationError(
            "MIGRATION_COMMAND is set and MIGRATIONS_DIR is not, so that tool has all the migrations",
            remedy="Create the migration with that tool. Or set MIGRATIONS_DIR to have files that run before it.",
        )
    title = " ".join(arguments.name)
    paths = new(
        settings.migrations_dir,
        title,
        rollback=arguments.rollback,
        timestamp=arguments.timestamp,
        after=arguments.after,
    )
    output.write("".join(f"{path}\n" for path in paths), done=f"{' and '.join(paths)} has been written")
    return 0
