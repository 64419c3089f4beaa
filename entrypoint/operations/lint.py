"""Run the linter squawk, which reports statements that are risky under traffic. It is a separate, optional program.

docs/commands/check.md tells users how it is called, and which of its rules are not reported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from signal import Signals
from typing import Any

from entrypoint import logs
from entrypoint.errors import ConfigurationError
from entrypoint.migration.script import contraction, ignoring
from entrypoint.migration.script.files import BYTE_ORDER_MARK
from entrypoint.operations import child
from entrypoint.operations.findings import Finding
from entrypoint.operations.silence import OWN_ERRORS, OWN_WARNINGS
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from entrypoint.migration.script.prepare import Prepared

INSTALL = (
    "Put the program squawk into a directory of the PATH: the self-contained folder takes no packages. Or check where "
    "Python is, in CI for example: pip install 'pg-entrypoint[lint]'"
    if getattr(sys, "frozen", False)
    else "Install it with: pip install 'pg-entrypoint[lint]'"
)

# It needs a tenth of a second for a hundred files.
_PATIENCE = 60.0

_TIMEOUTS = "this program sets lock_timeout and statement_timeout for every attempt"
_TRANSACTIONS = "this program's own check knows how the file will run"

# Rules of squawk that are never reported, whatever its configuration says, with the reason.
NOT_REPORTED = {
    "require-timeout-settings": _TIMEOUTS,
    "require-lock-timeout": _TIMEOUTS,
    "require-statement-timeout": _TIMEOUTS,
    "transaction-nesting": _TRANSACTIONS,
    "ban-uncommitted-transaction": _TRANSACTIONS,
    "ban-concurrent-index-creation-in-transaction": _TRANSACTIONS,
}
# "May break existing clients": when a file with `phase = after` runs, no clients are left that need it.
AFTER_THE_ROLLOUT = (
    *("ban-drop-column", "ban-drop-constraint", "ban-drop-table", "ban-drop-view"),
    *("ban-set-schema", "renaming-column", "renaming-object", "renaming-table"),
)
# What squawk says about our own rules in a comment.
_UNKNOWN = {f"unknown name {rule}": rule for rule in OWN_WARNINGS | OWN_ERRORS}
# "The migration can't be rerun if it fails part way through": true only for a file that can fail part way.
_RERUN = "prefer-robust-stmts"
# Syntax that squawk's own parser does not know. PostgreSQL's parser comes first.
_SYNTAX = "syntax-error"


def find_squawk(path: str) -> str | None:
    """Return the linter's path: next to this Python, or else found along `path`, which is written like $PATH."""
    return shutil.which("squawk", path=os.path.dirname(sys.executable or "")) or shutil.which("squawk", path=path)


def lint(squawk: str, files: Mapping[str, Prepared]) -> dict[str, list[Finding]]:
    """Return the findings of `squawk` by file. `files`: the migrations by displayed path.

    Raises ConfigurationError if it fails, for example because its configuration file is invalid.
    """
    in_transaction = [shown for shown, migration in files.items() if assumed_in_transaction(migration)]
    others = [shown for shown in files if shown not in in_transaction]
    found: dict[str, list[Finding]] = {}
    for option, group in (("--assume-in-transaction", in_transaction), ("--no-assume-in-transaction", others)):
        by_path = {os.path.abspath(shown): shown for shown in group}
        # Not absolute paths: squawk compares the patterns of `excluded_paths` with its arguments.
        for answer in _ask(squawk, option, group):
            try:
                shown = by_path[os.path.abspath(answer["file"])]
                finding = read(answer, shown, files[shown])
            except (LookupError, TypeError, ValueError, OSError) as error:
                raise _cannot(squawk, "its output could not be understood") from error
            if finding is not None:
                found.setdefault(shown, []).append(finding)
    return found


def assumed_in_transaction(migration: Prepared) -> bool:
    """Return whether squawk should assume a transaction around a file. It sees the file's own BEGIN by itself."""
    advice = migration.advice
    return advice.transactional and not (advice.wrapped or advice.merged)


def read(answer: Mapping[str, Any], shown: str, migration: Prepared) -> Finding | None:
    """Return one of squawk's violations as a finding; None if it does not apply here.

    squawk counts lines from 0, and columns in bytes from 0, a byte-order mark included. Raises LookupError,
    TypeError or ValueError if it is not a violation.
    """
    rule, message = str(answer["rule_name"]), str(answer["message"])
    ours = _UNKNOWN.get(message) if rule == "unused-ignore" else None
    if not holds(rule, migration) or ours in OWN_WARNINGS:
        return None
    if ours is not None:
        message = f"{ours} is an error, and an error cannot be silenced"
    line, byte = int(answer["line"]), int(answer["column"])
    lines = migration.text.split("\n")
    before = lines[line].encode()[: max(0, byte - (_mark(migration) if line == 0 else 0))]
    column = len(before.decode(errors="ignore")) + 1
    # A comment that excepts our rule about the previous release also excepts the linter's rules about that.
    if rule in AFTER_THE_ROLLOUT and contraction.RULE in ignoring.ignored_at(
        migration.text, migration.advice.statements, line + 1, column
    ):
        return None
    return Finding("warning", rule, foreign(message), shown, line + 1, column, remedy=answer["help"] or None)


def holds(rule: str, migration: Prepared) -> bool:
    """Return whether a rule of squawk makes sense for the way this program runs a migration."""
    if rule == _RERUN:
        return not migration.advice.transactional and len(migration.advice.statements) > 1
    if rule == _SYNTAX:
        return not migration.advice.parsed
    if rule in AFTER_THE_ROLLOUT:
        return not migration.advice.directives.rollout.after
    return rule not in NOT_REPORTED


def _mark(migration: Prepared) -> int:
    """Return the length of the byte-order mark, which is not part of the text."""
    with open(migration.file.path, "rb") as file:
        return len(BYTE_ORDER_MARK) if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0


def _ask(squawk: str, option: str, paths: Sequence[str]) -> list[dict[str, Any]]:
    if not paths:
        return []
    command = [squawk, "--reporter", "json", "--no-error-on-unmatched-pattern", option, "--", *map(_literally, paths)]
    try:
        # Without GITHUB_ACTIONS, which makes some versions print more than JSON, and without the database address.
        environ = {"PATH": os.environ.get("PATH", os.defpath)}
        code, output, errors = child.run(command, environ, _PATIENCE, slow=lambda: _tell_slow(squawk))
    except subprocess.TimeoutExpired as error:
        raise _cannot(squawk, f"no answer within {_PATIENCE:g} s") from error
    except OSError as error:
        raise _cannot(squawk, foreign(str(error))) from error
    try:
        answers = json.loads(output or b"[]")
        understood = code in (0, 1) and (output or code == 0)
    except ValueError:
        answers, understood = None, False
    if not understood or not isinstance(answers, list):
        said = errors.decode(errors="replace").strip().splitlines()
        raise _cannot(squawk, foreign(said[0]) if said else _end_of(code))
    return answers


def _tell_slow(squawk: str) -> None:
    waiting = f"waiting for the linter {foreign(squawk)}, for at most {_PATIENCE:g} s; --no-lint skips it"
    logs.event(logs.INFO, "check.waiting", waiting)


def _end_of(code: int) -> str:
    """Return how a linter ended that printed neither findings nor an error."""
    if code < 0:
        return f"it was killed by {Signals(-code).name}"
    return f"its output is not squawk's JSON, and it exited with code {code}"


def _literally(path: str) -> str:
    """Return the pattern that only `path` matches: squawk reads its arguments as patterns."""
    return "".join(f"[{character}]" if character in "[]*?" else character for character in path)


def _cannot(squawk: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The linter {squawk} failed: {why}",
        remedy="Correct .squawk.toml if it is that. It may be too old, or another program of that name: "
        "`squawk --version` tells; pip install 'pg-entrypoint[lint]' brings one that fits. "
        "`entrypoint check --no-lint` does without the linter.",
    )
