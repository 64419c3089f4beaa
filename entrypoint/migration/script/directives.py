"""A file's directives: the comments `-- entrypoint: …` above its first statement. Pure functions."""

from __future__ import annotations

import re

from entrypoint.migration.script import batch, scanner
from entrypoint.migration.script.batch import BATCH, FIXED, MAX_REPLICA_LAG, PASSES, PAUSE, TARGET
from entrypoint.migration.script.files import OF_A_DESCRIPTION, number_of
from entrypoint.migration.script.rollout import (
    AFTER,
    FLOOR,
    ORDINARY,
    PHASE,
    REPLACES,
    REQUIRES,
    Rollout,
    is_number,
    said_in,
)
from entrypoint.migration.script.scanner import ScriptFault
from entrypoint.records import MOST_MILLISECONDS, TOOLS, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from typing import Any

    from entrypoint.migration.script.batch import Batch
    from entrypoint.migration.script.scanner import Directive

NO_TRANSACTION = "no-transaction"
TIMEOUT = "timeout"
LOCK_TIMEOUT = "lock-timeout"
ORIGIN = "origin"
REFRESH = "refresh"
BEHIND = "after"

_EXAMPLES = {
    NO_TRANSACTION: NO_TRANSACTION,
    TIMEOUT: "timeout = 30min",
    LOCK_TIMEOUT: "lock-timeout = 1s",
    ORIGIN: "origin = goose 20210101120000",
    PHASE: "phase = after",
    REQUIRES: "requires = 12",
    FLOOR: "floor = 012_drop_name.sql",
    REPLACES: "replaces = 012_drop_name.sql",
    REFRESH: "refresh = active_users",
    BEHIND: "after = active_users",
    **batch.EXAMPLES,
}
# What must follow the `=`.
_WANTED = {
    ORIGIN: "a tool with its version",
    PHASE: f"`{AFTER}`",
    REQUIRES: "a migration's number",
    FLOOR: "a migration's file name",
    REPLACES: "a migration's file name",
    REFRESH: "the name of a file in repeatable/",
    BEHIND: "the name of a file in repeatable/",
    BATCH: "a table with its key",
    PASSES: "a number",
    MAX_REPLICA_LAG: "a size",
}
# Describe how batches run, and mean nothing in a file without `batch`.
_OF_BATCHES = (TARGET, FIXED, PASSES, PAUSE, MAX_REPLICA_LAG)
_ALONE = (NO_TRANSACTION, FIXED)
# May occur several times in a file.
_SEVERAL = (REPLACES, REFRESH, BEHIND)
# The only directives that make sense in repeatable/, where all files run in one transaction.
_OF_REPEATABLES = (BEHIND, ORIGIN)
# In milliseconds, the longest first; spelled as in PostgreSQL.
_UNITS = {"h": 3_600_000, "min": 60_000, "s": 1_000, "ms": 1}

_PARTS = re.compile(r"([\w-]*)\s*(=?)\s*(.*)", re.DOTALL)
_TIME = re.compile(r"([0-9]+)\s*([a-z]*)", re.ASCII)


class Origin(NamedTuple):
    """The migration of another tool that a file was imported from."""

    tool: str
    """One of `TOOLS`."""
    version: str
    """What the tool writes into its own table when it has applied the migration:

    goose, golang-migrate, sqlx   the number, without leading zeros: 1, 20210101120000
    dbmate, supabase              the digits of the file's name, leading zeros kept: 001
    diesel                        the directory's name up to its first _, without -: 20210101120000
    flyway                        the version with dots: 2.1; for a repeatable migration, R__ and its description
    sql-migrate                   the file's name: 20210101-users.sql
    prisma                        the directory's name: 20240101120000_init
    drizzle                       the journal's tag, a space, and its `when`: 0001_x 1700000000000; without a
                                  journal, the directory's name
    """


class Directives(NamedTuple):
    """What a file asks for. Times are in seconds, and None if the file does not set them."""

    no_transaction: bool = False
    timeout: float | None = None
    """For all attempts at this file together; replaces MIGRATION_TIMEOUT_MS."""
    lock_timeout: float | None = None
    """Replaces MIGRATION_DDL_LOCK_TIMEOUT_MS."""
    origin: Origin | None = None
    """The other tool's migration that it was imported from. It does not affect how the file runs."""
    rollout: Rollout = ORDINARY
    """When it runs during the rollout of a release, and which images can start afterwards."""
    refresh: tuple[str, ...] = ()
    """The repeatable files whose objects it drops, and which must therefore be applied again."""
    behind: tuple[str, ...] = ()
    """In a repeatable file: the files that run before it."""
    batch: Batch | None = None
    """How its statement goes through a table in batches, each in a separate transaction."""

    @property
    def lock_patience(self) -> float | None:
        """How long one transaction may wait for locks; None for MIGRATION_DDL_LOCK_TIMEOUT_MS."""
        return batch.DEFAULT_LOCK_TIMEOUT if self.lock_timeout is None and self.batch is not None else self.lock_timeout


def read(text: str, *, repeatable: bool = False) -> tuple[Directives, tuple[ScriptFault, ...]]:
    """Return a file's directives, and a fault for each that is unknown, malformed, misplaced or repeated.

    `repeatable`: whether the file is in repeatable/.
    """
    times: dict[str, float] = {}
    of_batches: dict[str, Any] = {}
    origin = None
    lines: dict[str, int] = {}
    offsets: dict[str, int] = {}
    named: dict[str, list[str]] = {REFRESH: [], BEHIND: []}
    mentioned: set[str] = set()
    faults: list[ScriptFault] = []
    for found in scanner.directives(text):
        name, value, complaint = _split(found)
        mentioned.add(name)
        time, came_from = 0.0, None
        complaint = complaint or _out_of_place(name, repeatable=repeatable)
        if complaint:
            pass
        elif name == ORIGIN:
            came_from, complaint = _parse_origin(value)
        elif name in named:
            complaint = _name_of_repeatable(name, value)
            named[name] += [] if complaint else [value]
        elif name in batch.PARSERS:
            of_batches[name], complaint = batch.PARSERS[name](value)
        elif name in _WANTED:
            complaint = _complaint_about_rollout(name, value)
        elif name not in _ALONE:
            time, complaint = _parse_time(name, value)
        if not complaint and name in lines and name not in _SEVERAL:
            complaint = f"{name} is already set in line {lines[name]}: keep only one"
        if complaint:
            faults.append(ScriptFault(found.offset, found.line, complaint))
            continue
        lines[name], offsets[name], times[name] = found.line, found.offset, time
        origin = came_from or origin
    faults += [ScriptFault(offsets[name], lines[name], message) for name, message in _conflicts(lines, mentioned)]
    batches = batch.batch_of({name: times[name] for name in lines if name in times} | of_batches)
    rollout = said_in(text)
    if FLOOR in lines and not rollout.after:
        # In any other file it would stop replicas of the previous release as soon as the rollout begins.
        message = (
            f'{FLOOR} only applies to files that run after the rollout: add "-- entrypoint: {_EXAMPLES[PHASE]}" as well'
        )
        faults.append(ScriptFault(offsets[FLOOR], lines[FLOOR], message))
    refresh, behind = (tuple(dict.fromkeys(named[name])) for name in (REFRESH, BEHIND))
    directives = Directives(
        NO_TRANSACTION in lines, times.get(TIMEOUT), times.get(LOCK_TIMEOUT), origin, rollout, refresh, behind, batches
    )
    return directives, tuple(faults)


def near_misses(text: str) -> tuple[ScriptFault, ...]:
    """Return a fault for each comment above the first statement that was probably meant to be a directive.

    Its text must be that of a directive: a sentence that happens to begin with "entrypoint" is a comment.
    """
    return tuple(
        ScriptFault(
            found.offset, found.line, f'this is a comment, not a directive: did you mean "-- entrypoint: {meant}"?'
        )
        for found in scanner.near_directives(text)
        if (meant := _meant_by(found.text))
    )


def _meant_by(text: str) -> str:
    """Return the directive that a comment was probably meant to be; empty for an ordinary sentence."""
    parts = _PARTS.fullmatch(text.replace(":", "=", 1))
    word, equals, value = parts.groups() if parts else ("", "", "")
    name = word.lower().replace("_", "-")
    if name in _ALONE:
        return "" if equals or value else name
    return f"{name} = {value.strip()}" if name in _EXAMPLES and equals and value else ""


def _conflicts(lines: Mapping[str, int], mentioned: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each directive that conflicts with the file's others, and why. `mentioned` includes malformed ones."""
    if BATCH not in mentioned:
        for name in _OF_BATCHES:
            if name in lines:
                example = f'add "-- entrypoint: {_EXAMPLES[BATCH]}" as well, or remove the line'
                yield name, f"{name} only applies to a file that runs in batches: {example}"
    if BATCH in lines and NO_TRANSACTION in lines:
        yield (
            NO_TRANSACTION,
            (f"{NO_TRANSACTION} cannot be combined with {BATCH}: each batch is a transaction; remove it"),
        )
    if FIXED in lines and TARGET in lines:
        yield (
            TARGET,
            f"{TARGET} cannot be combined with {FIXED}: it adjusts the batch size; remove one of them",
        )


def spell_rollout(rollout: Rollout) -> str:
    """Return a file's directives about the rollout as one clause; empty if it has none."""
    said = [f"{PHASE} {AFTER}"] if rollout.after else []
    said += [f"{REQUIRES} {rollout.requires:03d}"] if rollout.requires is not None else []
    said += [f"{FLOOR} {rollout.floor}"] if rollout.floor else []
    return ", ".join([*said, *(f"{REPLACES} {name}" for name in rollout.replaces)])


def spell_origin(origin: Origin) -> str:
    """Return the directive that says where a file comes from."""
    return f"-- entrypoint: {ORIGIN} = {origin.tool} {origin.version}"


def spell(seconds: float) -> str:
    """Return a time in its largest whole unit: 1800 is `30min`."""
    milliseconds = round(seconds * 1000)
    unit = next(unit for unit, size in _UNITS.items() if milliseconds % size == 0)
    return f"{milliseconds // _UNITS[unit]}{unit}"


def spell_timeouts(directives: Directives) -> str:
    """Return the timeouts that a file sets, as one clause; empty if it sets none."""
    times = ((TIMEOUT, directives.timeout), (LOCK_TIMEOUT, directives.lock_timeout))
    return ", ".join(f"{name} {spell(seconds)}" for name, seconds in times if seconds is not None)


def _split(found: Directive) -> tuple[str, str, str]:
    """Return a directive's name, the value after its `=`, and what is wrong with them."""
    parts = _PARTS.fullmatch(found.text)
    name, equals, value = parts.groups() if parts else ("", "", "")
    if name not in _EXAMPLES:
        return name, "", _unknown(found.text if not equals else name)
    right = f'write "-- entrypoint: {_EXAMPLES[name]}"'
    if name in _ALONE:
        return name, "", f"{name} takes no value: {right}" if equals or value else ""
    if not equals or not value:
        return name, "", f'"{found.text}" has no "=" and {_WANTED.get(name, "a time")} after it: {right}'
    return name, value, ""


def _out_of_place(name: str, *, repeatable: bool) -> str:
    """Return why a directive is not allowed in this file; empty if it is."""
    if repeatable and name not in _OF_REPEATABLES:
        return f"{name} only applies to numbered migrations: all files in repeatable/ run in one transaction"
    if not repeatable and name == BEHIND:
        return f"{BEHIND} only applies to files in repeatable/: migrations run in the order of their numbers"
    return ""


def _name_of_repeatable(name: str, value: str) -> str:
    if value.strip(OF_A_DESCRIPTION):
        right = f'write "-- entrypoint: {_EXAMPLES[name]}"'
        return f"{name} = {value} is not the name of a file in repeatable/, without .sql: {right}"
    return ""


def _parse_origin(value: str) -> tuple[Origin | None, str]:
    tool, _, version = value.partition(" ")
    version = version.strip()
    if tool not in TOOLS:
        return None, f"{ORIGIN} = {value} does not start with the name of a supported tool: {', '.join(TOOLS)}"
    if not version:
        return None, f"{ORIGIN} = {value} does not say which {tool} migration it was, like {_EXAMPLES[ORIGIN]}"
    return Origin(tool, version), ""


def _complaint_about_rollout(name: str, value: str) -> str:
    shown = f"{name} = {value}"
    if name == PHASE and value != AFTER:
        return f'{shown} is not a phase: write "-- entrypoint: {_EXAMPLES[PHASE]}", or remove the line'
    if name == REQUIRES and not is_number(value):
        return f"{shown} is not the number of a migration, like {_EXAMPLES[REQUIRES]}"
    if name in (FLOOR, REPLACES) and number_of(value) is None:
        return f"{shown} is not the name of a migration's file, like {_EXAMPLES[name]}"
    return ""


def _parse_time(name: str, value: str) -> tuple[float, str]:
    found = _TIME.fullmatch(value)
    shown = f"{name} = {value}"
    if found is None or (found[2] and found[2] not in _UNITS):
        return 0.0, (
            f"{shown} is not a duration: write a whole number followed by ms, s, min or h, like {_EXAMPLES[name]}"
        )
    number, unit = found.groups()
    if not unit:
        return 0.0, f"{shown} has no unit: write {number}ms, {number}s, {number}min or {number}h"
    # A number with more digits is out of range anyway, and Python may refuse to convert it.
    milliseconds = int(number[-20:]) * _UNITS[unit] if len(number.lstrip("0")) <= 10 else MOST_MILLISECONDS + 1
    if not 0 < milliseconds <= MOST_MILLISECONDS:
        return 0.0, f"{shown} is too {'long' if milliseconds else 'short'}: it must be from 1ms to 596h"
    return milliseconds / 1000, ""


def spell_batch(directives: Directives) -> str:
    """Return how a file runs in batches, as one clause; empty if it does not."""
    said = directives.batch
    if said is None:
        return ""
    parts = [said.spelt]
    parts += [] if said.fixed else [f"{TARGET} {spell(said.target)}"]
    parts += [f"{PASSES} {said.passes}"] if said.passes > 1 else []
    parts += [f"{PAUSE} {spell(said.pause)}"] if said.pause else []
    parts += [f"{MAX_REPLICA_LAG} {batch.spell_bytes(said.max_replica_lag)}"] if said.max_replica_lag else []
    return ", ".join(parts)


def _unknown(name: str) -> str:
    from difflib import get_close_matches  # only for a mistake

    near = get_close_matches(name.lower(), _EXAMPLES, n=1, cutoff=0.75)
    meant = f"did you mean {near[0]}? T" if near else "t"
    return f'unknown directive "{name}": {meant}his program knows {", ".join(_EXAMPLES)}'
