"""`check`: the migration files alone, without a database."""

from __future__ import annotations

import sys

from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "check the migration files without a database"
DESCRIPTION = "Check names, numbers, encodings, syntax and transaction control of all migration files."
EXAMPLE = "MIGRATIONS_DIR=migrations entrypoint check"


def add_options(_parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def execute(_arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print what there is to say about good files; bad ones raise MigrationFilesError."""
    from entrypoint.operations.check import check

    sys.stdout.write(check(read_settings(environ, asked_for=True).migrations_dir))
    return 0
