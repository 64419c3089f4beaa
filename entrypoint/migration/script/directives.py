"""What a file says about itself: `-- entrypoint: …` above its first statement. Pure functions."""

from __future__ import annotations

import re
from typing import NamedTuple

from entrypoint.migration.script import scanner
from entrypoint.migration.script.scanner import ScriptFault
from entrypoint.policy import MOST_MILLISECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.migration.script.scanner import Directive

NO_TRANSACTION = "no-transaction"
TIMEOUT = "timeout"
LOCK_TIMEOUT = "lock-timeout"

_EXAMPLES = {NO_TRANSACTION: NO_TRANSACTION, TIMEOUT: "timeout = 30min", LOCK_TIMEOUT: "lock-timeout = 1s"}
# In milliseconds, from the longest; spelled as PostgreSQL spells them.
_UNITS = {"h": 3_600_000, "min": 60_000, "s": 1_000, "ms": 1}

_PARTS = re.compile(r"([\w-]*)\s*(=?)\s*(.*)", re.DOTALL)
_TIME = re.compile(r"([0-9]+)\s*([a-z]*)", re.ASCII)


class Directives(NamedTuple):
    """What a file asks for; times in seconds, None where it does not say."""

    no_transaction: bool = False
    timeout: float | None = None
    """For this file alone, all attempts together; instead of MIGRATION_TIMEOUT_MS."""
    lock_timeout: float | None = None
    """Instead of MIGRATION_DDL_LOCK_TIMEOUT_MS."""


def read(text: str) -> tuple[Directives, tuple[ScriptFault, ...]]:
    """Return the directives of a file, and a fault for each that is unknown, malformed or said twice."""
    values: dict[str, float] = {}
    lines: dict[str, int] = {}
    faults: list[ScriptFault] = []
    for found in scanner.directives(text):
        name, value, complaint = _parse(found)
        if not complaint and name in lines:
            complaint = f"{name} is said in line {lines[name]} already: leave one of the two"
        if complaint:
            faults.append(ScriptFault(found.offset, found.line, complaint))
            continue
        lines[name], values[name] = found.line, value
    return (
        Directives(NO_TRANSACTION in values, values.get(TIMEOUT), values.get(LOCK_TIMEOUT)),
        tuple(faults),
    )


def spell(seconds: float) -> str:
    """Return a time as one would write it: 1800 is `30min`."""
    milliseconds = round(seconds * 1000)
    unit = next(unit for unit, size in _UNITS.items() if milliseconds % size == 0)
    return f"{milliseconds // _UNITS[unit]}{unit}"


def spell_timeouts(directives: Directives) -> str:
    """Return the times that a file declares, as one clause; empty if it declares none."""
    times = ((TIMEOUT, directives.timeout), (LOCK_TIMEOUT, directives.lock_timeout))
    return ", ".join(f"{name} {spell(seconds)}" for name, seconds in times if seconds is not None)


def _parse(found: Directive) -> tuple[str, float, str]:
    """Return a directive's name, its value in seconds (0 if it has none), and what is wrong with it."""
    parts = _PARTS.fullmatch(found.text)
    name, equals, value = parts.groups() if parts else ("", "", "")
    if name not in _EXAMPLES:
        return name, 0.0, _unknown(found.text if not equals else name)
    right = f'write "-- entrypoint: {_EXAMPLES[name]}"'
    if name == NO_TRANSACTION:
        return name, 0.0, f"{name} stands alone in its line: {right}" if equals or value else ""
    if not equals or not value:
        return name, 0.0, f'"{found.text}" has no "=" and a time after it: {right}'
    return name, *_parse_time(name, value)


def _parse_time(name: str, value: str) -> tuple[float, str]:
    found = _TIME.fullmatch(value)
    shown = f"{name} = {value}"
    if found is None or (found[2] and found[2] not in _UNITS):
        return 0.0, f"{shown} is not a time: write a whole number and ms, s, min or h, like {_EXAMPLES[name]}"
    number, unit = found.groups()
    if not unit:
        return 0.0, f"{shown} has no unit: write {number}ms, {number}s, {number}min or {number}h"
    # A number of more digits than that is too large, and may be too long to be converted.
    milliseconds = int(number[-20:]) * _UNITS[unit] if len(number.lstrip("0")) <= 10 else MOST_MILLISECONDS + 1
    if not 0 < milliseconds <= MOST_MILLISECONDS:
        return 0.0, f"{shown} is too {'long' if milliseconds else 'short'}: it must be from 1ms to 596h"
    return milliseconds / 1000, ""


def _unknown(name: str) -> str:
    from difflib import get_close_matches  # only for a mistake

    near = get_close_matches(name.lower(), _EXAMPLES, n=1, cutoff=0.75)
    meant = f"did you mean {near[0]}? T" if near else "t"
    return f'unknown directive "{name}": {meant}his program knows {", ".join(_EXAMPLES)}'
