"""`repair`: make the migration history match the files."""

from __future__ import annotations

from entrypoint.commands import consent, output
from entrypoint.counts import count
from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "make the migration history match the files"
DESCRIPTION = """\
Accept the checksums of changed files and remove failed rows, or do what the options say. Rows whose file is missing are
forgotten only with --missing. Shows what it would do, then asks. Runs no migration."""
EXAMPLE = "entrypoint repair --failed"

_CHOICES = {
    "checksums": "record the checksums of applied files that have changed",
    "failed": "remove failed rows, so that the next start runs their files",
    "missing": "forget rows whose file is gone, except those above the last file; only with this option",
    "ahead": "forget rows above the last file, which a newer image wrote; only with this option",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each kind of repair, and `--yes`."""
    for name, what in _CHOICES.items():
        parser.add_argument(f"--{name}", action="append_const", dest="kinds", const=name, help=what)
    consent.add_yes(parser)


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Show, ask, and repair."""
    from entrypoint.operations import repair
    from entrypoint.operations.whereabouts import whereabouts

    settings = read_settings(environ, asked_for=True)
    planned = repair.plan(settings, arguments.kinds or repair.BY_DEFAULT)
    where = whereabouts(settings.role)
    if not planned.fixes:
        output.write(where.line + repair.describe(planned))
        if repair.FAILED in (arguments.kinds or ()):
            repair.refuse_unknown(planned)
        return 0
    consent.obtain(repair.describe(planned), f"Repair {count(len(planned.fixes), 'row')}", where, yes=arguments.yes)
    output.write(repair.carry_out(planned), done="the history has been repaired")
    return 0
