"""`version`: print the schema's version, a number."""

from __future__ import annotations

from entrypoint.commands import output
from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "print the schema's version"
DESCRIPTION = """\
Print the number of the highest applied migration, or 0 if there is none.
For the version of this program, use entrypoint --version."""
EXAMPLE = "entrypoint version"


def add_options(_parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def execute(_arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print it."""
    from entrypoint.survey import survey_database

    survey = survey_database(read_settings(environ, asked_for=True))
    survey.session.close()
    output.write(f"{survey.plan.current or 0}\n")
    return 0
