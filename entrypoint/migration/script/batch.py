"""Running in batches: the directives of a file, and its statement with the keys of a batch. Pure functions."""

from __future__ import annotations

import re
from itertools import pairwise

from entrypoint.counts import count
from entrypoint.migration.script import scanner
from entrypoint.migration.script.calls import NAME, as_in_catalog
from entrypoint.migration.script.scanner import ScriptFault
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from entrypoint.migration.script.scanner import Statement

BATCH = "batch"
TARGET = "target"
FIXED = "fixed"
PASSES = "passes"
PAUSE = "pause"
MAX_REPLICA_LAG = "max-replica-lag"

EXAMPLES = {
    BATCH: "batch = orders(id) by 10000",
    TARGET: "target = 500ms",
    FIXED: FIXED,
    PASSES: "passes = 2",
    PAUSE: "pause = 100ms",
    MAX_REPLICA_LAG: "max-replica-lag = 64MB",
}

DEFAULT_TARGET = 0.5
"""How long a batch should take, in seconds: batches of one second delayed writers by up to 1.8 s."""
DEFAULT_LOCK_TIMEOUT = 0.5
"""In seconds: with five, the application's transactions kept deadlocking with a batch."""

_FROM, _TO = "from", "to"
_VERBS = ("INSERT", "UPDATE", "DELETE", "MERGE", "WITH")
_CHANGING = ("INSERT", "UPDATE", "DELETE", "MERGE")
_MOST_ROWS = 10_000_000
_MOST_PASSES = 9
_MOST_KEYS = 32
# As PostgreSQL spells them.
_BYTES = {"B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}

_VALUE = re.compile(
    rf"((?:{NAME}\s*\.\s*)?{NAME})\s*\(\s*({NAME}(?:\s*,\s*{NAME})*)\s*\)\s*by\s+([0-9]+)", re.IGNORECASE
)
_SIZE = re.compile(r"([0-9]+)\s*([A-Za-z]*)", re.ASCII)
# These words end the assignments of an UPDATE, or of a MERGE or an INSERT that updates.
_AFTER_SET = ("FROM", "WHERE", "RETURNING", "WHEN")


class Batch(NamedTuple):
    """How a file's statement goes through a table; times in seconds."""

    table: str
    """As the file writes it."""
    columns: tuple[str, ...]
    """The key's columns, as the catalog names them."""
    size: int
    """How many keys the first batch has."""
    target: float = DEFAULT_TARGET
    """How long a batch should take."""
    fixed: bool = False
    """Whether every batch has that size."""
    passes: int = 1
    """How often to go through the table."""
    pause: float = 0.0
    """How long to wait between two batches."""
    max_replica_lag: int | None = None
    """How many bytes a standby may be behind when a batch begins."""

    @property
    def spelt(self) -> str:
        """The table, its key and the batch size, as one clause."""
        size = f"{self.size} at a time" if self.fixed else f"{self.size} at a time at first"
        return f"batches by {self.table} ({', '.join(self.columns)}), {size}"


class Placeholder(NamedTuple):
    """A `:from` or `:to` in the statement, and its place in the file."""

    start: int
    end: int
    upper: bool
    """Whether it is `:to`."""


class Filled(NamedTuple):
    """The statement with the keys of one batch filled in."""

    sql: str
    pieces: tuple[tuple[int, int, int], ...]
    """Where each piece begins in `sql` and in the file, and its length in the file."""

    def origin(self, position: int) -> int:
        """Return the place in the file that a character of `sql` comes from."""
        start, place, length = next(piece for piece in reversed(self.pieces) if piece[0] <= position)
        return place + min(position - start, length)


# The directive.


def parse_batch(value: str) -> tuple[Batch | None, str]:
    """Parse the value of `batch =`; return the batch, or what is wrong with the value."""
    shown = f"{BATCH} = {value}"
    found = _VALUE.fullmatch(value)
    if found is None:
        return None, f"{shown} must name a table, its key and a number of rows, like {EXAMPLES[BATCH]}"
    table, key, rows = found.groups()
    size = _number(rows, _MOST_ROWS)
    if size is None:
        return None, f"{shown}: a batch has from 1 to {_MOST_ROWS} rows"
    columns = tuple(as_in_catalog(name) for name in re.findall(NAME, key))
    if len(set(columns)) < len(columns):
        return None, f"{shown} names a key column twice"
    if len(columns) > _MOST_KEYS:
        return None, f"{shown}: an index has at most {_MOST_KEYS} columns"
    return Batch(table, columns, size), ""


def parse_passes(value: str) -> tuple[int, str]:
    """Parse the value of `passes =`; return the number, and what is wrong with it or an empty string."""
    found = _number(value, _MOST_PASSES)
    if found is None:
        return 0, f"{PASSES} = {value} is not a whole number from 1 to {_MOST_PASSES}, like {EXAMPLES[PASSES]}"
    return found, ""


def parse_lag(value: str) -> tuple[int, str]:
    """Parse the value of `max-replica-lag =`; return the number of bytes, and what is wrong or an empty string."""
    shown = f"{MAX_REPLICA_LAG} = {value}"
    found = _SIZE.fullmatch(value)
    if found is None or (found[2] and found[2] not in _BYTES):
        units = ", ".join(list(_BYTES)[:-1])
        return 0, f"{shown} is not a size: write a whole number and {units} or TB, like {EXAMPLES[MAX_REPLICA_LAG]}"
    number, unit = found.groups()
    if not unit:
        return 0, f"{shown} has no unit: write {', '.join(f'{number}{unit}' for unit in ('kB', 'MB'))} or {number}GB"
    size = _BYTES[unit]
    bytes_ = (_number(number, 2**62 // size) or 0) * size
    return bytes_, "" if bytes_ else f"{shown} is out of range: it must be from 1B to {2**62 // _BYTES['TB']}TB"


PARSERS: dict[str, Callable[[str], tuple[Any, str]]] = {
    BATCH: parse_batch,
    PASSES: parse_passes,
    MAX_REPLICA_LAG: parse_lag,
}
"""For each directive whose value is not a duration: the function that parses it, and says what is wrong with it."""


def batch_of(said: Mapping[str, Any]) -> Batch | None:
    """Return how a file runs in batches, from the values of its directives; None if it does not."""
    found: Batch | None = said.get(BATCH)
    return found and found._replace(
        target=said.get(TARGET, found.target),
        fixed=FIXED in said,
        passes=said.get(PASSES, found.passes),
        pause=said.get(PAUSE, found.pause),
        max_replica_lag=said.get(MAX_REPLICA_LAG),
    )


def spell_bytes(number: int) -> str:
    """Return a number of bytes in its largest whole unit: 67108864 is `64MB`."""
    unit = next(unit for unit, size in reversed(_BYTES.items()) if number % size == 0)
    return f"{number // _BYTES[unit]}{unit}"


def _number(digits: str, most: int) -> int | None:
    """Return a number from 1 to `most`, or None. The length is checked first: Python refuses to convert long ones."""
    if not (digits.isascii() and digits.isdecimal()) or len(digits.lstrip("0")) > len(str(most)):
        return None
    number = int(digits)
    return number if 1 <= number <= most else None


# The statement.


class Changes(NamedTuple):
    """What a statement may do to tables; names as in the catalog, without schemas."""

    assigned: tuple[tuple[str, str], ...]
    """Each column that it sets, after the name of its table."""
    inserted: tuple[str, ...]
    """The tables that it inserts rows into."""


def changes(text: str, statement: Statement) -> Changes:
    """Return what a statement may do to tables."""
    tokens = _tokens(text, statement)
    return Changes(
        tuple((table[-1], column) for table, column, _ in _assigned(tokens)),
        tuple(table[-1] for table, _ in _inserted(tokens) if table),
    )


def examine_batch(
    text: str, statements: Sequence[Statement], batch: Batch
) -> tuple[tuple[Placeholder, ...], tuple[ScriptFault, ...]]:
    """Return the placeholders of a file that runs in batches, and its faults."""
    if len(statements) != 1 or statements[0].words[0] not in _VERBS:
        place = statements[1 if len(statements) > 1 and statements[0].words[0] in _VERBS else 0] if statements else None
        start, line = (place.start, place.line) if place else (0, 1)
        message = (
            "a file that runs in batches contains exactly one INSERT ... SELECT, UPDATE, DELETE, MERGE or WITH "
            f"statement, but this one has {count(len(statements), 'statement')}: move everything else to a separate "
            "file"
        )
        if len(statements) == 1:
            message = (
                "only INSERT ... SELECT, UPDATE, DELETE, MERGE and WITH can run in batches: remove the directive "
                f'"{BATCH}", or use one of them'
            )
        return (), (ScriptFault(start, line, message),)
    statement = statements[0]
    tokens = _tokens(text, statement)
    words = [token.upper() if token.isascii() else token for token, _ in tokens]
    found: list[Placeholder] = []
    faults: list[ScriptFault] = []

    def fault(offset: int, message: str) -> None:
        faults.append(ScriptFault(offset, text.count("\n", 0, offset) + 1, message))

    for name, start, end in _names(tokens):
        if name.lower() in (_FROM, _TO):
            found.append(Placeholder(start, end, name.lower() == _TO))
        else:
            fault(start, f":{name} is not a placeholder; only :from and :to are. For an array slice, put a space "
                  "after the colon")  # fmt: skip
    missing = [f":{name}" for name, upper in ((_FROM, False), (_TO, True)) if all(one.upper != upper for one in found)]
    key = batch.columns[0] if len(batch.columns) == 1 else f"({', '.join(batch.columns)})"
    if missing and not faults:
        each = "each batch would change all rows" if words[0] != "INSERT" else "each batch would read all rows"
        fault(
            statement.start,
            f"the statement has no {' and no '.join(missing)}, so {each}: write WHERE {key} BETWEEN :from AND :to",
        )
    for offset in _negated(tokens):
        fault(offset, f"each batch would change all rows but its own: write {key} BETWEEN :from AND :to")
    if words[0] == "INSERT" and not {"SELECT", "TABLE"} & set(words):
        fault(statement.start, "this INSERT reads from no table: only INSERT ... SELECT can run in batches")
    if words[0] == "WITH" and not set(_CHANGING) & set(words):
        fault(statement.start, "this WITH changes nothing: it needs an INSERT, UPDATE, DELETE or MERGE")
    left_out = () if missing else _left_out(tokens, batch, key)
    for offset, message in (*left_out, *_moved_ahead(tokens, batch)):
        fault(offset, message)
    return tuple(found), tuple(sorted(faults))


def with_parameters(text: str, placeholders: Sequence[Placeholder]) -> str:
    """Return `text` with each placeholder replaced by a parameter of the same length, which the parser accepts."""
    for one in placeholders:
        text = text[: one.start] + ("$2" if one.upper else "$1").ljust(one.end - one.start) + text[one.end :]
    return text


def digest(text: str, statement: Statement) -> str:
    """Return the SHA-256 of a file's statement alone: a changed directive above it does not change the digest."""
    from hashlib import sha256

    return sha256(text[statement.start : statement.end].encode()).hexdigest()


def fill(text: str, statement: Statement, placeholders: Sequence[Placeholder], first: str, last: str) -> Filled:
    """Return the statement with `first` in place of each `:from` and `last` in place of each `:to`."""
    sql, pieces, place = "", [], statement.start
    for one in placeholders:
        pieces.append((len(sql), place, one.start - place))
        sql += text[place : one.start]
        pieces.append((len(sql), one.start, 0))
        sql += last if one.upper else first
        place = one.end
    pieces.append((len(sql), place, statement.end - place))
    return Filled(sql + text[place : statement.end], tuple(pieces))


def _tokens(text: str, statement: Statement) -> list[tuple[str, int]]:
    """Return the statement's tokens, each with its place in the text."""
    return [(text[start:end], start) for start, end in scanner.tokens(text, statement.start, statement.end)]


def _names(tokens: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """Yield each name directly after a single colon, with the place of the colon and the end of the name."""
    second = -1
    for (text, start), (following, after) in pairwise(tokens):
        if text != ":" or start == second or after != start + 1:
            continue
        if following == ":":  # `a::b`
            second = after
        elif following[0].isalpha() or following[0] in "_\"'":
            yield following, start, after + len(following)


def _negated(tokens: Sequence[tuple[str, int]]) -> Iterator[int]:
    """Yield the place of each NOT BETWEEN :from."""
    for (first, offset), (second, _), (third, _) in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if (first.upper(), second.upper(), third) == ("NOT", "BETWEEN", ":"):
            yield offset


def _left_out(tokens: Sequence[tuple[str, int]], batch: Batch, key: str) -> Iterator[tuple[int, str]]:
    """Yield where, and how, a statement's comparisons do not match the batches, so that it would miss keys."""
    words = [token.lower() for token, _ in tokens]
    for index, (_, offset) in enumerate(tokens):
        three = tuple(words[index : index + 3])
        if three in ((">", ":", _FROM), (":", _FROM, "<"), ("<", ":", _TO), (":", _TO, ">")) and (
            tuple(words[index + 3 : index + 4]) not in (("=",), (">",))
        ):
            end = "first" if _FROM in three else "last"
            yield offset, f"each batch would leave out its {end} key: write {key} BETWEEN :from AND :to"
    columns = [column for column in batch.columns for column in (column, ",")][:-1]
    for index in range(len(tokens) - 2):
        if words[index : index + 3] != ["between", ":", _FROM] or words[index - 1 : index] != [")"]:
            continue
        begin = index - len(columns) - 2
        row = [as_in_catalog(token) for token, _ in tokens[max(begin, 0) + 1 : index - 1]]
        if row != columns and sorted(row) == sorted(columns) and words[begin] == "(":
            yield tokens[begin][1], f"batches are split by {key}, in this order: write {key} BETWEEN :from AND :to"


def _moved_ahead(tokens: Sequence[tuple[str, int]], batch: Batch) -> Iterator[tuple[int, str]]:
    """Yield where, and how, a statement puts rows ahead of the batches: rows already processed, or new ones."""
    walked = tuple(as_in_catalog(name) for name in re.findall(NAME, batch.table))
    for table, column, offset in _assigned(tokens):
        if _same(table, walked) and column in batch.columns:
            message = (
                f"this statement sets {column}, which is part of the batch key, so a row could move ahead of the "
                "batch and be changed again; use a key that it does not change"
            )
            yield offset, message
    for table, offset in _inserted(tokens):
        if _same(table, walked):
            message = (
                f"this statement inserts into {table[-1]}, the table being batched, so new rows could be ahead of the "
                "batch and be processed, too; insert into another table, then move the rows from there"
            )
            yield offset, message


def _assigned(tokens: Sequence[tuple[str, int]]) -> Iterator[tuple[tuple[str, ...], str, int]]:
    """Yield each table and column that a statement assigns to, and the place."""
    target: tuple[str, ...] = ()
    index = 0
    while index < len(tokens):
        word = tokens[index][0].upper()
        if word in ("UPDATE", "INTO") and index + 1 < len(tokens) and tokens[index + 1][0].upper() != "SET":
            target, index = _name_after(tokens, index + 1)
            continue
        if word == "SET" and target:
            for column, offset in _in_clause(tokens, index + 1):
                yield target, column, offset
        index += 1


def _inserted(tokens: Sequence[tuple[str, int]]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield each table that a statement inserts into, by INSERT INTO or by a MERGE that inserts, and the place."""
    merged: tuple[tuple[str, ...], int] | None = None
    for index, (text, _) in enumerate(tokens[:-2]):
        words = text.upper(), tokens[index + 1][0].upper()
        if words[1] == "INTO" and words[0] in ("INSERT", "MERGE"):
            table = _name_after(tokens, index + 2)[0], tokens[index + 2][1]
            if words[0] == "INSERT":
                yield table
            else:
                merged = table
        elif words[0] == "THEN" and words[1] == "INSERT" and merged is not None:
            yield merged
            merged = None


def _in_clause(tokens: Sequence[tuple[str, int]], index: int) -> Iterator[tuple[str, int]]:
    """Yield the columns of the assignments that begin at `index`: `a = 1, (b, c) = (2, 3)`."""
    depth, named = 0, True
    for text, offset in tokens[index:]:
        if depth == 0 and (text == ")" or text.upper() in _AFTER_SET):
            return
        if text == "[" or (text == "=" and depth == 0):
            named = False
        elif text == "," and depth == 0:
            named = True
        elif named and re.fullmatch(NAME, text):
            yield as_in_catalog(text), offset
        depth += (text in "([") - (text in ")]")


def _name_after(tokens: Sequence[tuple[str, int]], index: int) -> tuple[tuple[str, ...], int]:
    """Return the parts of the table's name at `index`, and the index of the token after it."""
    if tokens[index][0].upper() == "ONLY":
        index += 1
    names: list[str] = []
    while index < len(tokens) and re.fullmatch(NAME, tokens[index][0]):
        names.append(as_in_catalog(tokens[index][0]))
        index += 1
        if index < len(tokens) and tokens[index][0] == ".":
            index += 1
        else:
            break
    return tuple(names), index


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Tell whether two names may mean the same table. Schemas are compared only if both names have one."""
    return one[-1:] == other[-1:] and (min(len(one), len(other)) < 2 or one[-2] == other[-2])
