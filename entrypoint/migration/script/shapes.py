"""Decides whether a file with its own BEGIN and COMMIT can be one transaction, or runs as units. Pure functions.

psql commits after each of the file's blocks, and after each statement outside a block. Leaving out those commits makes
the file and its ledger row one transaction, as a migration should be; but this is only allowed if the result is the
same. The rule is strict: unless the result is known to be the same, the file runs as units, as psql would run it.
"""

from __future__ import annotations

import re

from entrypoint.migration.script.calls import called
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from entrypoint.migration.script.scanner import Statement

_GAP = r"(?:\s|--[^\n]*\n|/\*.*?\*/)+"
# The effect of these ends with the transaction, or is nothing outside one. A false match only means units.
_ENDS_WITH_TRANSACTION = re.compile(
    rf"\bset{_GAP}local\b|set_config|constraints|\bon{_GAP}commit\b|\bset{_GAP}transaction\b"
    rf"|\bsession{_GAP}characteristics\b|(?:default_)?transaction_(?:isolation|read_only|deferrable)\b",
    re.IGNORECASE | re.DOTALL,
)
# As pg_dump writes it: for the session, and so the same either way.
_FOR_THE_SESSION = re.compile(r"set_config\s*\(\s*'[^'\\]*'\s*,\s*'[^'\\]*'\s*,\s*false\s*\)", re.IGNORECASE)
_DEFERRED = re.compile(rf"\binitially{_GAP}deferred\b", re.IGNORECASE | re.DOTALL)
_NOT_VALID = re.compile(rf"\bnot{_GAP}valid\b", re.IGNORECASE | re.DOTALL)
_VALIDATE = re.compile(r"\bvalidate\b", re.IGNORECASE)
# The time when the transaction began. Stored in a row, it may be compared with another, or have to be unique.
_CLOCK = re.compile(r"\bnow\s*\(|\bcurrent_time(?:stamp)?\b|\blocaltime(?:stamp)?\b", re.IGNORECASE)
_WRITES_ROWS = frozenset(("INSERT", "UPDATE", "DELETE", "MERGE", "WITH"))
_MAY_CALL = _WRITES_ROWS | {"SELECT", "VALUES", "TABLE"}
# These do the same whether the statements before them are committed or not; about all others we do not know.
_THE_SAME = _MAY_CALL | {
    *("ALTER", "ANALYSE", "ANALYZE", "COMMENT", "CREATE", "DROP", "GRANT", "LOCK", "REASSIGN", "RESET", "REVOKE"),
    *("RELEASE", "ROLLBACK", "SAVEPOINT", "SECURITY", "SET", "TRUNCATE"),
}
# PostgreSQL's functions that migrations use, and other words that can come before a parenthesis.
_KNOWN = frozenset(
    """
    abs age all and any array array_agg array_append array_length array_remove array_to_string as between bigint
    btrim by case cast ceil char char_length character coalesce concat concat_ws conflict count currval date_part
    date_trunc decimal distinct do else end exists extract filter float floor format from gen_random_uuid
    generate_series greatest having in initcap interval is json_agg json_build_array json_build_object jsonb_agg
    jsonb_array_elements jsonb_build_array jsonb_build_object jsonb_set jsonb_strip_nulls lateral least left length
    like limit lower lpad ltrim make_date max md5 min mod nextval not now nullif numeric on or over partition
    pg_get_serial_sequence position random regexp_replace replace returning right round row row_number rtrim select
    set set_config setval sha256 split_part string_agg string_to_array substr substring sum then time timestamp
    timestamptz to_char to_date to_json to_jsonb to_regclass to_timestamp translate trim unnest update upper using
    uuid_generate_v4 values varchar varying when where
    """.split()  # noqa: SIM905 - a list of strings would take a page
)


class Kind(NamedTuple):
    """What a statement is: transaction control, something that cannot run in a transaction, or neither."""

    control: str
    """Such as `COMMIT AND CHAIN`; empty if it is not transaction control."""
    outside: str
    """The statement's name if it cannot run in a transaction; otherwise empty."""


class LeftOut(NamedTuple):
    """A statement that is left out of the text that is sent, such as BEGIN or COMMIT."""

    line: int
    what: str
    idle: bool
    """Whether there is no transaction that it would end."""


class Shape(NamedTuple):
    """How to run a file that has its own transaction control."""

    units: str
    """Why it runs as units; empty if it is one transaction."""
    unless_deferred: bool
    """Whether it is one transaction only in a database that has no INITIALLY DEFERRED trigger."""


def decide(
    text: str, statements: Sequence[Statement], kinds: Sequence[Kind], blocks: Mapping[int, int], *, modes: bool
) -> Shape:
    """Return how to run the statements of a text.

    `blocks`: the index of each BEGIN, with that of its COMMIT. All other transaction control must be a COMMIT or
    ROLLBACK that ends nothing, or a BEGIN inside a block. `modes`: whether some BEGIN has transaction modes.
    """

    def said(indices: Iterable[int]) -> list[tuple[Statement, str]]:
        there = (statements[index] for index in indices if not kinds[index].control)
        return [(statement, text[statement.start : statement.end]) for statement in there]

    count = len(statements)
    idle = _idle(kinds, blocks)
    while count - 1 in idle:
        count -= 1
    alone = blocks.get(0) == count - 1
    # The last block, if the file ends with it. psql would have committed everything before it by then.
    last = next((begin for begin, end in blocks.items() if end == count - 1), None)
    inner = max((end for end in (*blocks.values(), *idle) if end < count), default=-1) + 1 if last is None else last
    before, behind = said(range(inner)), said(range(inner, count)) if last is None else []
    units = _nested(statements, kinds, blocks)
    if modes and not alone:
        units = units or "one of its blocks sets its own transaction mode"
    units = units or _ends_with_transaction([*before, *behind]) or _of_unknown_effect(before)
    everything = " ".join(sql for _, sql in said(range(count)))
    if not alone and _NOT_VALID.search(everything) and _VALIDATE.search(everything):
        units = units or "it adds a NOT VALID constraint and validates one"
    if not alone and _CLOCK.search(everything) and any(map(_writes_rows, statements)):
        units = units or "it changes rows and uses now() or similar, which depends on when the transaction began"
    writes = any(_writes_rows(statement) for statement, _ in [*before, *behind[:-1]])
    if writes and _DEFERRED.search(everything):
        units = units or "it has INITIALLY DEFERRED constraints and changes rows before its last COMMIT"
    return Shape(units, writes and not units)


def _writes_rows(statement: Statement) -> bool:
    return statement.words[:1] != () and statement.words[0] in _WRITES_ROWS


def _idle(kinds: Sequence[Kind], blocks: Mapping[int, int]) -> frozenset[int]:
    """Return the indices of transaction control outside the blocks, which ends no transaction."""
    inside = {index for begin, end in blocks.items() for index in range(begin, end + 1)}
    return frozenset(index for index, kind in enumerate(kinds) if kind.control and index not in inside)


def _nested(statements: Sequence[Statement], kinds: Sequence[Kind], blocks: Mapping[int, int]) -> str:
    for begin, end in blocks.items():
        for index in range(begin + 1, end):
            if kinds[index].control:
                return f"line {statements[index].line} has a BEGIN inside a block"
    return ""


def _ends_with_transaction(said: Iterable[tuple[Statement, str]]) -> str:
    for statement, sql in said:
        others = _FOR_THE_SESSION.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), sql)
        if found := _ENDS_WITH_TRANSACTION.search(others):
            line = statement.line + sql.count("\n", 0, found.start())
            return f"the effect of {' '.join(found[0].split())} in line {line} ends with its own transaction"
    return ""


def _of_unknown_effect(said: Iterable[tuple[Statement, str]]) -> str:
    """Return why statements may depend on being committed before the file's end; empty if none does."""
    for statement, sql in said:
        word = statement.words[0] if statement.words else ""
        makes_table = word == "CREATE" and re.search(r"\bas\b", sql, re.IGNORECASE) and "TABLE" in statement.words
        unknown = called(sql) - _KNOWN if word in _MAY_CALL or (makes_table and "(" in sql) else frozenset()
        if word not in _THE_SAME:
            return f"the effect of {word or 'a statement'} in line {statement.line} may depend on the COMMIT after it"
        if unknown:
            name = min(unknown)
            return f"the effect of {name}() in line {statement.line} may depend on the COMMIT after it"
    return ""
