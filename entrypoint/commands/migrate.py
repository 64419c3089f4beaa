"""`migrate`: migrate, for init containers, Jobs and by hand."""

from __future__ import annotations

import sys

from entrypoint.errors import EntrypointError
from entrypoint.records import LONGEST_AFTER
from entrypoint.settings import is_dumb, read_log_settings, read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from entrypoint.settings import Settings

SUMMARY = "migrate, and report by exit code"
DESCRIPTION = "Bring the schema up to date, or wait while another replica does. For init containers, Jobs and by hand."
EXAMPLE = "entrypoint migrate --dry-run"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--dry-run`, `--rehearse`, `--json`, `--to`, `--phase` and `--repeatable`."""
    from entrypoint.commands.values import migration_number  # Not for `without_options`.

    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="show what would run, in order, and change nothing")
    instead.add_argument(
        "--rehearse", action="store_true", help="run everything pending in one transaction, then roll it back"
    )
    parser.add_argument("--json", action="store_true", help="with --dry-run or --rehearse: print JSON")
    parser.add_argument("--to", type=migration_number, metavar="N", help="stop after migration number N")
    parser.add_argument(
        "--phase",
        choices=("after",),
        help="after: the rollout is over, so apply the files with `-- entrypoint: phase = after`, too",
    )
    parser.add_argument(
        "--repeatable",
        action="append",
        metavar="NAME",
        help="also apply repeatable/NAME.sql, even if it was applied before; can be given several times",
    )


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Migrate, show what would run, or rehearse it."""
    if arguments.dry_run:
        return _dry_run(arguments, environ)
    if arguments.rehearse:
        return _rehearse(arguments, environ)
    if arguments.json:
        from entrypoint.errors.operator import UsageError

        raise UsageError("--json needs --dry-run or --rehearse", remedy="entrypoint migrate --dry-run --json")
    settings, after, forced = _read(arguments, environ)
    return _migrate(settings, environ, up_to=arguments.to, after=after, forced=forced)


def without_options(environ: Mapping[str, str]) -> int:
    """Migrate like `entrypoint migrate` without options, and without argparse. Raises EntrypointError."""
    return _migrate(read_settings(environ, asked_for=True), environ)


def _migrate(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    up_to: int | None = None,
    after: bool = False,
    forced: frozenset[str] = frozenset(),
) -> int:
    from entrypoint.startup import bring_up_to_date

    display = None
    if _at_a_terminal(environ):
        from entrypoint.operations.progress_bar import progress_bar

        display = progress_bar
    _begin_log(environ, settings.role)
    outcome = bring_up_to_date(settings, up_to=up_to, after=after, display=display, forced=forced)
    if environ.get("MIGRATION_METRICS_FILE"):
        from entrypoint.reporting import report

        report(outcome, "migrate", environ)
    return 0


def _read(arguments: argparse.Namespace, environ: Mapping[str, str]) -> tuple[Settings, bool, frozenset[str]]:
    """Return the settings, whether the rollout is over, and which repeatable files must run.

    Raises EntrypointError.
    """
    settings = read_settings(environ, asked_for=True)
    after = arguments.phase is not None
    if after:
        # It serves nobody yet, so no probe is waiting for it.
        settings = settings._replace(apply=settings.apply._replace(timeout=LONGEST_AFTER))
    forced = frozenset(arguments.repeatable or ())
    if forced:
        from entrypoint.operations.dry_run import check_repeatables

        check_repeatables(settings, forced, beside=arguments.dry_run or arguments.rehearse or arguments.to is not None)
    if arguments.to is not None:
        from entrypoint.operations.dry_run import check_target

        check_target(settings, arguments.to)
    return settings, after, forced


def _dry_run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from entrypoint.commands import output
    from entrypoint.operations import dry_run_report
    from entrypoint.operations.dry_run import foresee
    from entrypoint.operations.whereabouts import whereabouts

    try:
        settings, after, _ = _read(arguments, environ)
        found = foresee(settings, up_to=arguments.to, after=after)
    except EntrypointError as error:
        if arguments.json:
            output.write(dry_run_report.as_json(None, error))
        raise
    if arguments.json:
        output.write(dry_run_report.as_json(found))
    else:
        output.write(whereabouts(settings.role).line + dry_run_report.as_text(found))
    return 0


def _rehearse(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from entrypoint.commands import output
    from entrypoint.operations import rehearse

    try:
        settings, after, _ = _read(arguments, environ)
    except EntrypointError as error:
        if arguments.json:
            output.write(rehearse.as_json(None, [], error))
        raise
    return rehearse.print_rehearsal(settings, output.write, up_to=arguments.to, after=after, json=arguments.json)


def _begin_log(environ: Mapping[str, str], role: str | None) -> None:
    """Have a log for people begin with the database. In JSON, every line has it."""
    if sys.stderr is not None and read_log_settings(environ, terminal=sys.stderr.isatty())[0].style == "text":
        from entrypoint.operations.headed_log import head_log

        head_log(role)


def _at_a_terminal(environ: Mapping[str, str]) -> bool:
    """Return whether the log is on a terminal that can move its cursor."""
    if sys.stderr is None or not sys.stderr.isatty() or is_dumb(environ):
        return False
    return read_log_settings(environ, terminal=True)[0].style == "text"
