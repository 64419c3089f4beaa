"""The main program: argv and environment in, exit code out. Only this module maps errors to exit codes."""

from __future__ import annotations

import gc

# A start allocates much memory and frees little; the garbage collector would take a tenth of its time
# (docs/startup-cost.md). It is switched on again if there is more to do than a first look.
gc.disable()

import os  # noqa: E402 - after the line above, which should affect the imports
import sys  # noqa: E402

from entrypoint import handover, signals  # noqa: E402
from entrypoint.redaction import foreign, foreign_values, named  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from entrypoint.errors import EntrypointError
    from entrypoint.startup import Outcome

# From sysexits.h where it has a suitable code.
USAGE = 64
BAD_FILES = 65
UNAVAILABLE = 69
FAILED = 70
LOCK_TIMEOUT = 75
BAD_CONFIGURATION = 78


def main() -> NoReturn:
    """Run the program on this process's arguments and environment, and end the process."""
    inherited = handover.inherit()
    signals.install()
    try:
        # A copy: each lookup in `os.environ` itself encodes the name, and there are a hundred lookups.
        code = run_command(sys.argv[1:], dict(os.environ), inherited)
        signals.raise_received()  # An error during clean-up may have replaced its exception.
    except signals.Interrupted as interrupted:
        code = _interrupted(interrupted)
    except SystemExit as end:  # argparse's, after --help and --version
        code = end.code if isinstance(end.code, int) else 0
    _end(code)


def _end(code: int) -> NoReturn:
    """End the process with `code`, even if nobody reads its output any more.

    The interpreter's normal exit would wait for threads, and has a different exit code for a broken pipe.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            continue
    os._exit(code)


def run_command(argv: Sequence[str], environ: Mapping[str, str], inherited: handover.Inheritance) -> int:
    """Carry out the command in `argv`; return the exit code. `run` only returns if the application was not started."""
    if len(argv) > 1 and {*argv[:2]} == {"--no-color", "run"}:
        argv = ["run", *argv[2:]]
        environ = {**environ, "NO_COLOR": "1"}
    if argv[:1] == ["run"] and argv[1:2] not in (["--help"], ["-h"]):
        return _run(argv[1:], environ, inherited)
    from entrypoint.errors import EntrypointError

    if "--no-color" in argv:
        environ = {**environ, "NO_COLOR": "1"}
    _start_logging(argv, environ)
    if argv[:1] not in (["migrate"], ["help"], ["completion"]):
        _tell_misspelt(environ)
    try:
        return _carry_out(argv, environ)
    except EntrypointError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - never a traceback
        from entrypoint.startup import internal_error

        failure = internal_error(error)
    code = _fail(failure, argv)
    if code != USAGE and argv[0] == "migrate":
        _tell_misspelt(environ)
        if not {"--dry-run", "--rehearse"}.intersection(argv):
            from entrypoint.startup import Outcome

            _report(Outcome("failed", failure.schema_version, failure), "migrate", environ)
    return code


def _carry_out(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Carry out any command but `run`; return the exit code. Raises EntrypointError."""
    if [*argv] == ["migrate"]:
        # The call of init containers and Jobs. It needs neither argparse nor the modules of all other commands.
        from entrypoint.commands.migrate import without_options

        return without_options(environ)
    from entrypoint import cli

    return cli.main(argv, environ)


def exit_code_of(error: EntrypointError) -> int:
    """Return the documented exit code for an error."""
    from entrypoint.errors import ConfigurationError, DatabaseUnavailableError, migration, operator

    codes = (
        (operator.UsageError, USAGE),
        (migration.MigrationFilesError, BAD_FILES),
        (ConfigurationError, BAD_CONFIGURATION),
        (DatabaseUnavailableError, UNAVAILABLE),
        (migration.LockTimeoutError, LOCK_TIMEOUT),
        (operator.WaitTimeoutError, LOCK_TIMEOUT),
        (migration.LeaseLostError, LOCK_TIMEOUT),
        (operator.LockHeldError, LOCK_TIMEOUT),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), FAILED)


def _fail(error: EntrypointError, argv: Sequence[str]) -> int:
    from entrypoint import logs

    (logs.complain if exit_code_of(error) == USAGE else logs.failure)(error)
    return _end_of_container(error, argv)


def _end_of_container(error: EntrypointError, argv: Sequence[str]) -> int:
    """Write the reason for Kubernetes, if this is a container's main program; return the exit code."""
    from entrypoint import termination

    if argv[:1] and argv[0] in termination.MAIN_PROGRAMS:
        faults = error.fields.get("faults")
        termination.tell(error.message, faults=faults if isinstance(faults, list) else (), remedy=error.remedy)
    return exit_code_of(error)


def _run(words: Sequence[str], environ: Mapping[str, str], inherited: handover.Inheritance) -> int:
    bad_log_settings = _start_logging(words, environ)
    command = words[1:] if words[:1] == ["--"] else words
    if not command or (words[0] != "--" and words[0].startswith("-")):
        from entrypoint.errors.operator import UsageError

        problem = f"run has no option {foreign(words[0])}" if command else "run needs a command to start"
        return _fail(UsageError(problem, remedy="entrypoint run -- COMMAND [ARGUMENT ...]"), ["run"])
    _head_log(environ)
    from entrypoint.startup import prepare_for_application

    outcome, exit_on_failure = prepare_for_application(environ)
    if outcome.name == "disabled":
        # Nothing else has checked the settings.
        from entrypoint import logs

        for fault in bad_log_settings:
            logs.event(logs.WARNING, "configuration.invalid", fault)
    if outcome.error is not None:
        _tell_misspelt(environ)
    if outcome.error is not None and exit_on_failure:
        code = _end_of_container(outcome.error, ["run"])
        _report(outcome, "run", environ)
        return code
    _report(outcome, "run", environ)
    if outcome.error is not None:
        _log_start_after_failure(environ)
    return _become(command, outcome, inherited)


def _report(outcome: Outcome, command: str, environ: Mapping[str, str]) -> None:
    """Write the configured reports, besides the log. If there are none, their module is not imported."""
    if environ.get("MIGRATION_FAILURE_COMMAND") or environ.get("MIGRATION_METRICS_FILE"):
        from entrypoint.reporting import report

        report(outcome, command, environ)


def _log_start_after_failure(environ: Mapping[str, str]) -> None:
    """Log that the application starts after a failure, and which setting allows that."""
    from entrypoint import logs

    said = environ.get("MIGRATION_ON_FAILURE", "").strip()
    why = "MIGRATION_ON_FAILURE=start"
    if said.lower() not in ("", "start"):
        why = (
            f"MIGRATION_ON_FAILURE is {foreign(said)!r}, which is neither start nor exit, so the default, start, "
            "applies"
        )
    logs.event(logs.WARNING, "start.after_failure", f"starting the application anyway ({why})")


def _become(command: Sequence[str], outcome: Outcome, inherited: handover.Inheritance) -> int:
    from entrypoint import logs

    environment = handover.application_environment(inherited.environment, outcome.variables())
    logs.event(logs.DEBUG, "start.exec", f"executing {foreign(command[0])}")
    try:
        handover.hand_over(command, environment, inherited)
    except OSError as error:
        from entrypoint import termination
        from entrypoint.executable import what_helps, why_not

        reason, exit_code = why_not(error)
        remedy = foreign(what_helps(command, reason, exit_code))
        said = f"Cannot start the application: {foreign(command[0])}: {reason}"
        logs.event(logs.ERROR, "start.cannot_execute", said, remedy=remedy)
        termination.tell(said, remedy=remedy)
        return exit_code
    return USAGE  # Not reached: hand_over does not return.


def _start_logging(words: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Start the log; return what is wrong with its settings. `words` may contain an address by mistake."""
    from entrypoint import logs
    from entrypoint.settings import read_log_settings, read_names, read_secrets, wants_colours

    stream = sys.stderr
    terminal = stream is not None and stream.isatty()
    settings, faults = read_log_settings(environ, terminal=terminal)
    secrets = read_secrets(environ, words)
    colours = settings.style == "text" and wants_colours(environ, terminal=terminal)
    logs.configure(style=settings.style, level=settings.level, stream=stream, secrets=secrets, colours=colours)
    names = {"host": os.uname().nodename, **read_names(environ)}
    logs.describe(**{name: named(value) for name, value in names.items() if value})
    if settings.fields:
        logs.describe(**foreign_values(settings.fields))
    return faults


def _head_log(environ: Mapping[str, str]) -> None:
    """Make the log begin with the database's name if it goes to a terminal. Otherwise import nothing."""
    from entrypoint import logs

    if logs.on_terminal():
        from entrypoint.operations.headed_log import head_log

        head_log(environ.get("MIGRATION_ROLE"))


def _tell_misspelt(environ: Mapping[str, str]) -> None:
    """Warn about variables whose names are nearly ours. A start that succeeds skips this, to save time."""
    from entrypoint import logs
    from entrypoint.settings.misspelt import misspelt

    for name, meant in misspelt(environ):
        said = f"{foreign(name)} is set, but this program has no such variable. Did you mean {meant}?"
        logs.event(logs.WARNING, "configuration.misspelt", said, variable=foreign(name))


def _interrupted(interrupted: signals.Interrupted) -> int:
    from signal import Signals

    from entrypoint import logs

    name = Signals(interrupted.signum).name
    logs.event(logs.WARNING, "interrupted", f"{name}: stopped", signal=name)
    return interrupted.exit_code


if __name__ == "__main__":
    main()
