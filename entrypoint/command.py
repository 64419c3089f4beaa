"""Reads `MIGRATION_COMMAND` and its related variables: another migration tool's command line, inputs and tables.

This is imported at every start with that variable. So `shlex`, which imports `re`, is only used if there are quotes.
"""

from __future__ import annotations

from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Characters that are special to `shlex`, apart from blanks.
_QUOTING = "'\"\\"
_BLANKS = " \t\r\n"


class Command(NamedTuple):
    """Another migration tool, as configured."""

    line: str
    """The command line as written."""
    words: tuple[str, ...]
    inputs: tuple[str, ...]
    """The files that it reads: paths, directories and patterns."""
    state: tuple[str, ...]
    """The tables with its history; if empty, the tables of known tools."""
    with_files: bool
    """Whether there are also migration files of ours, which run first."""


def split(line: str) -> tuple[str, ...]:
    """Split a line into words as a POSIX shell does, but without running one: nothing is expanded.

    Raises ValueError with a clause that says what is wrong.
    """
    if any(character in line for character in _QUOTING):
        import shlex

        try:
            return tuple(shlex.split(line))
        except ValueError as error:
            what = (
                "a quotation mark is never closed" if "quotation" in foreign(str(error)) else "it ends with a backslash"
            )
            raise ValueError(what) from None
    words = [line]
    for blank in _BLANKS:
        words = [part for word in words for part in word.split(blank)]
    return tuple(filter(None, words))


def read(environ: Mapping[str, str]) -> tuple[Command, list[str]]:
    """Read MIGRATION_COMMAND and its related variables; return the command, and what is wrong with them.

    The messages quote no values, because a value may be an address with a password.
    """
    faults: list[str] = []

    def words(name: str) -> tuple[str, ...]:
        try:
            return split(environ.get(name, ""))
        except ValueError as error:
            faults.append(f"{name} cannot be split into words: {foreign(str(error))}")
            return ()

    line = environ["MIGRATION_COMMAND"].strip()
    found = words("MIGRATION_COMMAND")
    if not faults and not (found and found[0]):
        faults.append("MIGRATION_COMMAND names no program; set it to a command line, such as alembic upgrade head")
    inputs = words("MIGRATION_COMMAND_INPUTS")
    if any("://" in one or "password=" in one.lower() for one in inputs):
        faults.append(
            "MIGRATION_COMMAND_INPUTS is a database address; set it to paths and patterns, separated by spaces"
        )
    if "" in inputs:
        faults.append("MIGRATION_COMMAND_INPUTS contains an empty word; set it to paths and patterns")
    state = words("MIGRATION_COMMAND_STATE")
    if any("://" in one for one in state):
        faults.append("MIGRATION_COMMAND_STATE is a database address; set it to the name of a table")
    for one in state:
        schema, _, table = one.rpartition(".")
        if "://" not in one and (not table or one.startswith(".") or "." in schema):
            faults.append("MIGRATION_COMMAND_STATE must be the name of a table: TABLE or SCHEMA.TABLE")
    return Command(line, found, inputs, state, bool(environ.get("MIGRATIONS_DIR", "").strip())), faults
