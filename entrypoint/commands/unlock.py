"""`unlock`: free the migration lock."""

from __future__ import annotations

from entrypoint.commands import consent, output
from entrypoint.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "show who holds the migration lock, and free it"
DESCRIPTION = """\
Show who holds the migration lock. If the holder is dead, free the row. A living holder is left alone (exit code
75), unless --force: then it is told to stop, and its sessions are ended if it does not."""
EXAMPLE = "entrypoint unlock --force"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--force` and `--yes`."""
    parser.add_argument("--force", action="store_true", help="free it from a living holder, too; asks first")
    consent.add_yes(parser)


def execute(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Show who holds the lock, and free it if that is permitted."""
    from entrypoint.operations import unlock

    seen = unlock.look(read_settings(environ, asked_for=True))
    shown = unlock.describe(seen)
    robs = seen.verdict in ("alive", "unknown", "stranger")
    if robs and arguments.force:
        strange = seen.verdict == "stranger"
        what = "hold the key" if seen.sight.alive else "have locked migration_lock"
        question = f"End the sessions that {what}?" if strange else "Free the lock from its holder?"
        consent.obtain(shown, question, yes=arguments.yes)
    else:
        say(shown.rstrip("\n"))
    if robs and not arguments.force:
        raise unlock.refuse(seen)
    if seen.verdict == "free" and not (arguments.force and seen.sight.backends):
        say("The lock is free.")
        return 0
    unlock.free(seen, say, force=arguments.force)
    return 0


def say(text: str) -> None:
    """Print a step as soon as it is taken."""
    output.write(f"{text}\n")
