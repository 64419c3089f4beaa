"""`unlock`: free the migration lock."""

from __future__ import annotations

from entrypoint.commands import consent, output
from entrypoint.errors import EntrypointError
from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from entrypoint.operations.unlock import Unlock
    from entrypoint.settings import Settings

SUMMARY = "show who holds the migration lock, and free it"
DESCRIPTION = """\
Show who holds the migration lock, and free it if the holder is gone. A live holder keeps it (exit code 75), unless you
pass --force: then it is told to stop, and its sessions are ended if it does not."""
EXAMPLE = "entrypoint unlock --force"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--force`, `--json` and `--yes`."""
    parser.add_argument("--force", action="store_true", help="also take it from a live holder; asks first")
    parser.add_argument("--json", action="store_true", help="print JSON")
    consent.add_yes(parser)


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Show who holds the lock, and free it if allowed."""
    from entrypoint.operations import unlock

    if not arguments.json:
        settings = read_settings(environ, asked_for=True)
        return _unlock(unlock.look(settings), settings, arguments, say)
    seen = None
    steps: list[str] = []
    try:
        settings = read_settings(environ, asked_for=True)
        seen = unlock.look(settings)
        code = _unlock(seen, settings, arguments, steps.append)
    except EntrypointError as error:
        output.write(unlock.as_json(seen, steps, error))
        raise
    output.write(unlock.as_json(seen, steps))
    return code


def _unlock(seen: Unlock, settings: Settings, arguments: argparse.Namespace, tell: Callable[[str], None]) -> int:
    """Ask if necessary, and free it; report each step to `tell`."""
    from entrypoint.operations import unlock
    from entrypoint.operations.whereabouts import whereabouts

    where, shown = whereabouts(settings.role), unlock.describe(seen)
    robs = seen.verdict in ("alive", "unknown", "stranger")
    if robs and arguments.force:
        strange = seen.verdict == "stranger"
        what = "hold the key" if seen.sight.alive else "have locked migration_lock"
        question = f"End the sessions that {what}" if strange else "Free the lock from its holder"
        consent.obtain(shown, question, where, yes=arguments.yes, for_programs=arguments.json)
    elif not arguments.json:
        output.write(where.line + shown)
    if robs and not arguments.force:
        return unlock.leave_alone(seen)
    if seen.verdict == "free" and not (arguments.force and seen.sight.backends):
        tell("The lock is free.")
        return 0
    unlock.free(seen, tell, force=arguments.force)
    return 0


def say(text: str) -> None:
    """Print a step at once."""
    output.write(f"{text}\n")
