"""`run`: only its help. `__main__` starts applications without argparse."""

from __future__ import annotations

from entrypoint.errors.operator import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import NoReturn

SUMMARY = "migrate, then exec the application"
DESCRIPTION = """\
Bring the schema up to date, or wait while another replica does, then exec COMMAND in this process.
After a failure, COMMAND starts anyway, unless MIGRATION_ON_FAILURE=exit."""
EXAMPLE = "DATABASE_URL=postgresql://app@db/app entrypoint run -- node server.js"

USAGE = "entrypoint run -- COMMAND [ARGUMENT ...]"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Show what comes after `--`; there are no options."""
    parser.usage = USAGE


def execute(_arguments: argparse.Namespace, _environ: Mapping[str, str]) -> NoReturn:
    """Refuse: `run` with a command does not get here."""
    raise UsageError("run needs a command to start", remedy=USAGE)
