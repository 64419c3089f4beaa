"""`check`: check the migration files, without a database."""

from __future__ import annotations

import contextlib
import os

from entrypoint.commands import output
from entrypoint.errors import EntrypointError
from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from entrypoint.operations.findings import Format, Report

SUMMARY = "check the migration files without a database"
DESCRIPTION = """\
Check the names, numbers, encoding, syntax and transaction control of all migration files. If the linter squawk is
installed, also warn of statements that are risky under traffic. Exits with 65 if there are errors, or with --strict,
warnings."""
EXAMPLE = "entrypoint check --strict migrations/012_api_tokens.sql"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the files to check, and the options."""
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="only these migrations (numbers are compared with all)"
    )
    linter = parser.add_mutually_exclusive_group()
    linter.add_argument(
        "--lint",
        action="store_true",
        default=None,
        help="require the linter squawk; by default it runs if it is installed",
    )
    linter.add_argument(
        "--no-lint", dest="lint", action="store_false", help="do not warn of statements that are risky under traffic"
    )
    parser.add_argument(
        "--against",
        metavar="REF",
        help="compare with another branch, such as origin/main; it is an error if that branch uses a number for "
        "another file, or has different content in a file",
    )
    parser.add_argument("--all", action="store_true", help="report everything about applied files as well")
    parser.add_argument("--strict", action="store_true", help="treat warnings as errors (exit code 65)")
    style = parser.add_mutually_exclusive_group()
    style.add_argument(
        "--format",
        choices=("text", "json", "github", "sarif", "codequality"),
        metavar="FORMAT",
        default="text",
        help="text: for people; json: a list of objects; github: annotations in the pull request; "
        "sarif: SARIF 2.1.0, for GitHub's code scanning; codequality: for GitLab's Code Quality",
    )
    style.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the findings; raise MigrationFilesError if there are errors."""
    from entrypoint.operations.findings import render

    try:
        report = _check(arguments, environ)
    except EntrypointError as error:
        _print_failure(error, arguments.format)
        raise
    except Exception as error:
        from entrypoint.startup import internal_error

        failure = internal_error(error)
        _print_failure(failure, arguments.format)
        raise failure from error
    output.write(render(report, arguments.format))
    report.judge(strict=arguments.strict)
    return 0


def _check(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Report:
    from entrypoint.operations.check import CheckOptions, check

    settings = read_settings(environ, asked_for=True)
    wishes = CheckOptions(tuple(arguments.files), arguments.lint, arguments.all, arguments.against)
    return check(settings, wishes, environ.get("PATH", os.defpath))


def _print_failure(error: EntrypointError, style: Format) -> None:
    """Print a complete report after a failure, too, for services that reject an empty file."""
    if style == "sarif":
        from entrypoint.operations.machine_reports import failure_as_sarif

        text = failure_as_sarif(error)
    elif style == "codequality":
        text = "[]\n"
    else:
        return
    # The first failure is the one to report.
    with contextlib.suppress(EntrypointError):
        output.write(text)
