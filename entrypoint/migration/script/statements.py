"""Advises how to run a migration file: as one transaction, statement by statement, or not at all.

This is only advice; the server decides. It is based on two facts about each statement: whether it begins or ends a
transaction, and whether the server refuses it inside one. If PostgreSQL's own parser (`parser`) understands the file,
it supplies them. If it does not (newer syntax, a mistake), or if the file is large, the statement's first words do.
Both give the same answer.

The server refuses the statements that call `PreventInTransactionBlock`, most of them in src/backend/tcop/utility.c and
src/backend/commands/subscriptioncmds.c. Three are left to the server (SQLSTATE 25001), because they depend on its
catalog or version: REINDEX, CLUSTER and REPACK of a partitioned table, and ALTER TYPE ... ADD VALUE up to version 11.
"""

from __future__ import annotations

import re
from itertools import takewhile

from entrypoint.migration.script import batch, directives, shapes
from entrypoint.migration.script.foreign import mark_in
from entrypoint.migration.script.plain import is_plain
from entrypoint.migration.script.scanner import ScriptFault, Statement, scan_without_commands, skip, words
from entrypoint.migration.script.shapes import Kind, LeftOut
from entrypoint.migration.script.strings import STANDARD, StringReading, by_the_standard, escapes_at
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from entrypoint.migration.script.batch import Placeholder
    from entrypoint.migration.script.directives import Directives
    from entrypoint.migration.script.parser import SyntaxComplaint
    from entrypoint.migration.script.psql import PsqlCommand
    from entrypoint.migration.script.text import Text

_REMEDY = 'leave transactions to this program, or write "-- entrypoint: no-transaction" above the first statement'

# These match a statement's first words, joined by spaces.
_BEGINNING = re.compile(r"(BEGIN|START TRANSACTION|PREPARE TRANSACTION(?! AS\b| \())\b")
_ENDING = re.compile(r"(COMMIT|END|ROLLBACK|ABORT)\b(?: WORK\b| TRANSACTION\b)?(?: AND NO CHAIN\b)?(.*)")
# Statements that take no snapshot, so that SET TRANSACTION may follow them.
NO_QUERIES = (("SET",), ("RESET",), ("SHOW",), ("BEGIN",), ("START",))
_MODES = re.compile(
    r"(?:BEGIN(?: WORK| TRANSACTION)?|START TRANSACTION|SET TRANSACTION(?! SNAPSHOT))"
    r"((?: ISOLATION LEVEL (?:SERIALIZABLE|REPEATABLE READ|READ COMMITTED|READ UNCOMMITTED)"
    r"| READ WRITE| READ ONLY| NOT DEFERRABLE| DEFERRABLE| ,)*)"
)
_LAST_NAME = re.compile(r'("(?:[^"]|"")*"|[^\s"]+)$')
_OUTSIDE = {
    "VACUUM": r"VACUUM\b",
    "ALTER SYSTEM": r"ALTER SYSTEM\b",
    "DISCARD ALL": r"DISCARD ALL\b",
    "CREATE DATABASE": r"CREATE DATABASE\b",
    "DROP DATABASE": r"DROP DATABASE\b",
    "ALTER DATABASE ... SET TABLESPACE": r"ALTER DATABASE \S+ (?:SET |WITH )?TABLESPACE\b",
    "CREATE TABLESPACE": r"CREATE TABLESPACE\b",
    "DROP TABLESPACE": r"DROP TABLESPACE\b",
    "DROP SUBSCRIPTION": r"DROP SUBSCRIPTION\b",
    "CREATE INDEX CONCURRENTLY": r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY\b",
    "DROP INDEX CONCURRENTLY": r"DROP INDEX CONCURRENTLY\b",
    "ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY": r"ALTER TABLE .* DETACH PARTITION .* CONCURRENTLY$",
    "CLUSTER": r"CLUSTER(?: VERBOSE| \(.*\))?$",
}
_OUTSIDE_WORDS = re.compile("|".join(f"({pattern})" for pattern in _OUTSIDE.values()))
_REINDEX = re.compile(r"REINDEX (?:\(.*?\) )?(INDEX|TABLE|SCHEMA|DATABASE|SYSTEM)( CONCURRENTLY)?\b")
_REPACK_ALL = re.compile(r"REPACK(?: \(.*?\))?(?: USING INDEX)?")
_SUBSCRIPTION = re.compile(r"(CREATE|ALTER) SUBSCRIPTION \S+ (\S+(?: PUBLICATION)?)")

# A PL/pgSQL statement can begin after these tokens.
_BEFORE_PLPGSQL = (";", "BEGIN", "THEN", "ELSE", "LOOP", ">")

# Newer than the parser's version of PostgreSQL. The parser gets an empty SELECT instead.
_NEWER = (("REPACK",),)

_TREE_CONTROL = {
    "TRANS_STMT_BEGIN": "BEGIN",
    "TRANS_STMT_START": "START TRANSACTION",
    "TRANS_STMT_COMMIT": "COMMIT",
    "TRANS_STMT_ROLLBACK": "ROLLBACK",
    "TRANS_STMT_PREPARE": "PREPARE TRANSACTION",
    "TRANS_STMT_COMMIT_PREPARED": "COMMIT PREPARED",
    "TRANS_STMT_ROLLBACK_PREPARED": "ROLLBACK PREPARED",
}


BEGINS = ("BEGIN", "START TRANSACTION")
_ENDS = ("COMMIT", "ROLLBACK")

REPACK_CONCURRENTLY = "REPACK (CONCURRENTLY)"
ADD_VALUE = "ALTER TYPE ... ADD VALUE"
DIRECTIVE = re.compile(r"(?:^|;)[ \t]*+(--[ \t]*+entrypoint[ \t]*+:)", re.MULTILINE)
"""Finds directives anywhere, on a separate line or after a statement. They only count above the first statement."""
_ADD_VALUE = re.compile(r"\badd\s+value\s+(?:if\s+not\s+exists\s+)?('(?:[^']|'')*')", re.IGNORECASE)


class Outside(NamedTuple):
    """A statement that the server refuses inside a transaction: its index, and its name."""

    statement: int
    what: str


class Advice(NamedTuple):
    """How to run a file. If it has faults, it must not run.

    `source` is the text to send. In it, a BEGIN and COMMIT around the whole file, and psql commands, are replaced by
    spaces, so that offsets and lines stay the same. `wrapped` says that there was such a BEGIN and COMMIT;
    `statements`, and the indices in `outside`, do not count these two. `begin` is the statement that begins the
    transaction, with the file's own transaction modes.
    """

    statements: Sequence[Statement]
    source: Text
    begin: str
    wrapped: bool
    outside: tuple[Outside, ...]
    faults: tuple[ScriptFault, ...]
    parsed: bool
    disputed: bool
    """Whether the parser splits the text into other statements than the scanner; `statements` are the scanner's."""
    directives: Directives
    syntax: SyntaxComplaint | None
    blocks: tuple[tuple[int, int], ...] = ()
    """In a file that runs statement by statement: the indices of each BEGIN and its COMMIT."""
    idle: tuple[int, ...] = ()
    """In such a file: the indices of each COMMIT and ROLLBACK without a BEGIN, which do nothing."""
    readings: tuple[StringReading, ...] = STANDARD
    """How its strings are read, and from where on."""
    odd_strings: bool = False
    r"""Whether some of its strings do not end where they would by the standard, such as `'it\\'s'`."""
    commands: tuple[PsqlCommand, ...] = ()
    """The psql commands that are left out."""
    units: str = ""
    """Why a file with its own transaction control runs as units without a directive for that; otherwise empty."""
    left_out: tuple[LeftOut, ...] = ()
    """The transaction control that is left out, apart from the pair of a file that is `wrapped`."""
    unless_deferred: bool = False
    """Whether it runs as units after all if the database has an INITIALLY DEFERRED trigger."""
    placeholders: tuple[Placeholder, ...] = ()
    """In a file that runs in batches: where the keys of each batch go."""

    @property
    def body(self) -> str:
        """The whole text to send, in memory."""
        return str(self.source)

    @property
    def no_transaction(self) -> bool:
        """Whether the file asks to run statement by statement."""
        return self.directives.no_transaction

    @property
    def transactional(self) -> bool:
        """Whether the whole file and its ledger row are one transaction."""
        return not (self.no_transaction or self.outside or self.units or self.batched)

    @property
    def batched(self) -> bool:
        """Whether the file's statement runs in batches, each in one transaction with the ledger's row."""
        return self.directives.batch is not None

    @property
    def merged(self) -> bool:
        """Whether COMMITs between its statements were left out, so that it commits later than with psql."""
        return self.transactional and bool(self.left_out)


def advise(
    text: str,
    *,
    parse_limit: int = 1_000_000,
    escapes: bool = False,
    units: str = "",
    in_doubt_only: bool = False,
    repeatable: bool = False,
) -> Advice:
    """Return how to run `text`, whatever it contains. The parser is not asked about more than `parse_limit` characters.

    `escapes`: whether the server reads backslash escapes in ordinary strings. `units`: if not empty, run it as units,
    for this reason. `in_doubt_only`: do not ask the parser about a plain text either, where it could only find syntax
    errors. `repeatable`: whether the file is in repeatable/.
    """
    declared, _ = directives.read(text, repeatable=repeatable)
    alone = declared.no_transaction or bool(units)
    standard, readings = by_the_standard(text, escapes=escapes, alone=alone)
    advice = _advise(standard, parse_limit, units, in_doubt_only=in_doubt_only, repeatable=repeatable)
    advice = advice._replace(readings=readings)
    if advice.units and not alone and len(readings) > 1:
        return advise(
            text,
            parse_limit=parse_limit,
            escapes=escapes,
            units=advice.units,
            in_doubt_only=in_doubt_only,
            repeatable=repeatable,
        )
    found = _read_otherwise_within(advice) if alone else _taken_back(text, advice)
    if found:
        advice = advice._replace(faults=tuple(sorted((*advice.faults, *found))))
    if standard is text:
        return advice
    as_written = (
        blank if blank != mended else char for char, mended, blank in zip(text, standard, advice.body, strict=True)
    )
    return advice._replace(source="".join(as_written), odd_strings=True)


def _advise(text: str, parse_limit: int, units: str, *, in_doubt_only: bool, repeatable: bool) -> Advice:
    text, script = scan_without_commands(text)
    declared, faults = directives.read(text, repeatable=repeatable)
    statements = script.statements
    advice = Advice(
        statements=statements,
        source=text,
        begin="BEGIN",
        wrapped=False,
        outside=(),
        faults=(),
        parsed=False,
        disputed=False,
        directives=declared,
        syntax=None,
        commands=script.commands,
    )
    mark = mark_in(text)
    faults += () if mark is None else (mark,)
    # As soon as one file in repeatable/ has changed, all are read. Those that were accepted before must stay accepted.
    faults += () if repeatable else directives.near_misses(text)
    if faults := script.faults + faults + misplaced_directives(text, statements):
        return advice._replace(faults=tuple(sorted(faults)))
    if declared.batch is not None:
        placeholders, faults = batch.examine_batch(text, statements, declared.batch)
        advice = advice._replace(placeholders=placeholders, faults=faults)
        return advice if faults or in_doubt_only or len(text) > parse_limit else _parsed_batch(advice)

    known = _without_newer_syntax(text, statements)
    asked = len(text) <= parse_limit and not (in_doubt_only and is_plain(text, statements))
    parsed: list[dict[str, Any]] | SyntaxComplaint | None = None
    if asked:
        from entrypoint.migration.script import parser  # it imports threading, which an up-to-date start does not need

        parsed = parser.parse(known)
    seen = _from_trees(known, statements, parsed) if isinstance(parsed, list) else None
    advice = advice._replace(parsed=seen is not None, syntax=None if isinstance(parsed, list) else parsed)
    if seen is not None and seen[0] is statements:
        return _with_kinds(advice, seen[1], units)
    of_words = [kind_of_words(text, statement) for statement in statements]
    if seen is None:
        return _with_kinds(advice, of_words, units)
    # We do not know which of the two the server agrees with. So the faults of both count, and no transaction control is
    # left out except a pair around the whole file.
    by_words = _with_kinds(advice, of_words, units, simple=True)
    by_parser = _with_kinds(advice._replace(statements=seen[0]), seen[1], units, simple=True)
    return by_words._replace(disputed=True, faults=tuple(sorted({*by_words.faults, *by_parser.faults})))


def _parsed_batch(advice: Advice) -> Advice:
    """Ask the parser about a statement that runs in batches."""
    from entrypoint.migration.script import parser

    parsed = parser.parse(batch.with_parameters(advice.body, advice.placeholders))
    return advice._replace(parsed=True) if isinstance(parsed, list) else advice._replace(syntax=parsed)


def _with_kinds(advice: Advice, kinds: list[Kind], units: str, *, simple: bool = False) -> Advice:
    """Return how to run statements of these kinds.

    `units`: why to run them as units, if so. `simple`: refuse all transaction control but a pair around the whole file.
    """
    text = advice.body
    kinds = [
        kind_of_words(text, statement) if statement.words[:1] in _NEWER else kind
        for statement, kind in zip(advice.statements, kinds, strict=True)
    ]
    outside = tuple(Outside(index, kind.outside) for index, kind in enumerate(kinds) if kind.outside)
    advice = advice._replace(outside=outside)
    if advice.no_transaction or units:
        return _in_units(advice, kinds)._replace(units="" if advice.no_transaction else units)
    if simple or _is_simple(advice, kinds):
        return _in_one_transaction(advice, kinds)
    return _in_its_shape(advice, kinds)


def _is_simple(advice: Advice, kinds: list[Kind]) -> bool:
    """Tell whether a file has no transaction control, only a pair around the whole file, or some that is invalid."""
    places = [index for index, kind in enumerate(kinds) if kind.control]
    broken = any(
        modes_of(advice.statements[index]) is None
        if kinds[index].control in BEGINS
        else kinds[index].control not in _ENDS
        and kinds[index].control.partition(" ")[0] in _ENDS
        and not kinds[index].control.endswith((" AND CHAIN", " PREPARED"))
        for index in places
    )
    around_all = places == [0, len(kinds) - 1] and kinds[0].control in BEGINS and kinds[-1].control == "COMMIT"
    return not places or broken or around_all


def _in_its_shape(advice: Advice, kinds: list[Kind]) -> Advice:
    """Leave out the file's transaction control if it can still be one transaction; otherwise find its units."""
    text, statements = advice.body, advice.statements
    in_units = _in_units(advice, kinds)
    if in_units.faults:
        return in_units
    idle = tuple(LeftOut(statements[index].line, kinds[index].control, idle=True) for index in in_units.idle)
    begins = [statement for statement, kind in zip(statements, kinds, strict=True) if kind.control in BEGINS]
    blocks = dict(in_units.blocks)
    shape = shapes.decide(text, statements, kinds, blocks, modes=any(map(modes_of, begins)))
    why = shape.units
    if advice.outside:
        what = advice.outside[0].what
        why = f"{what} in line {statements[advice.outside[0].statement].line} cannot run inside a transaction"
    elif not why and (values := _values_used_at_once(text, statements)):
        why = f"line {statements[values[0].statement].line} adds a value to an enum, and the file uses it later"
    if why:
        return in_units._replace(units=why, left_out=idle)
    kept = tuple(statement for statement, kind in zip(statements, kinds, strict=True) if not kind.control)
    modes = [*map(modes_of, begins), said_first(kept)]
    for statement, kind in zip(statements, kinds, strict=True):
        if kind.control:
            text = _blank(text, statement)
    return advice._replace(
        statements=kept,
        source=text,
        begin=" ".join(filter(None, ["BEGIN", *modes])),
        left_out=tuple(
            LeftOut(statement.line, kind.control, idle=index in in_units.idle)
            for index, (statement, kind) in enumerate(zip(statements, kinds, strict=True))
            if kind.control
        ),
        unless_deferred=shape.unless_deferred,
    )


def _in_units(advice: Advice, kinds: list[Kind]) -> Advice:
    """Find the blocks of a file that runs statement by statement, and the faults in them.

    Each block runs in one of the program's transactions, which begins with the fence and ends with the ledger's row.
    """
    text = advice.body
    blocks: list[tuple[int, int]] = []
    idle: list[int] = []
    faults: list[ScriptFault] = []
    opened: int | None = None
    savepoints: list[str] = []
    for index, (statement, kind) in enumerate(zip(advice.statements, kinds, strict=True)):
        verb = kind.control.partition(" ")[0]
        if trouble := _trouble_in_units(kind, statement, in_block=opened is not None):
            pass
        elif verb in ("BEGIN", "START"):
            opened, savepoints = (index if opened is None else opened), []
        elif verb and opened is None:
            idle.append(index)
        elif verb == "COMMIT" and opened is not None:
            blocks.append((opened, index))
        elif statement.words[:1] in (("SAVEPOINT",), ("RELEASE",), ("ROLLBACK",)):
            name = _last_name(text, statement)
            if statement.words[0] == "SAVEPOINT":
                savepoints.append(name)
            elif name not in savepoints:
                trouble = f"there is no savepoint {name} in this block"
            else:
                place = len(savepoints) - savepoints[::-1].index(name)
                del savepoints[place if statement.words[0] == "ROLLBACK" else place - 1 :]
        if trouble:
            shown = " ".join(text[statement.start : statement.end].split())[:60]
            faults.append(ScriptFault(statement.start, statement.line, f"{shown}: {trouble}"))
        if verb in ("COMMIT", "ROLLBACK", "PREPARE"):
            opened = None
    if opened is not None:
        begin = advice.statements[opened]
        shown = " ".join(text[begin.start : begin.end].split())[:60]
        faults.append(
            ScriptFault(begin.start, begin.line, f"{shown}: this block is never ended: write COMMIT after it")
        )
    return advice._replace(blocks=tuple(blocks), idle=tuple(idle), faults=tuple(sorted(faults)))


def _read_otherwise_within(advice: Advice) -> list[ScriptFault]:
    """Return a fault for each block that changes how its strings are read: by then the server has read all of it."""
    faults = []
    for first, last in advice.blocks:
        begin, end = advice.statements[first], advice.statements[last]
        if escapes_at(advice.readings, begin.start) != escapes_at(advice.readings, end.start):
            message = "standard_conforming_strings is set inside this block; set it before BEGIN"
            faults.append(ScriptFault(begin.start, begin.line, message))
    return faults


def _taken_back(text: str, advice: Advice) -> list[ScriptFault]:
    """Return a fault if a ROLLBACK TO may undo a change of how strings are read, and later strings depend on it."""
    turns = [reading.start for reading in advice.readings[1:]]
    savepoint: int | None = None
    for statement in advice.statements if turns else ():
        if statement.words[:1] == ("SAVEPOINT",) and savepoint is None:
            savepoint = statement.start
        if statement.words[:1] != ("ROLLBACK",) or savepoint is None or "\\" not in text[statement.end :]:
            continue
        for turn in turns:
            if savepoint < turn < statement.start:
                line = text.count("\n", 0, turn) + 1
                message = f"standard_conforming_strings is set in line {line}, and this may undo that; set it before"
                return [ScriptFault(statement.start, statement.line, f"{message} the SAVEPOINT")]
    return []


def _trouble_in_units(kind: Kind, statement: Statement, *, in_block: bool) -> str:
    """Return why a statement is not allowed in its place in a file that runs statement by statement; empty if it is."""
    if kind.control == "PREPARE TRANSACTION" or kind.control.endswith(" PREPARED"):
        return "a prepared transaction outlives the migration and keeps its locks; run it by hand instead"
    if kind.control.endswith(" AND CHAIN"):
        return "the migration's row could not be written between the two transactions; write COMMIT and BEGIN"
    if kind.control.startswith("ROLLBACK") and in_block:
        return "a block that is rolled back changes nothing and cannot be recorded; remove the block"
    if in_block and kind.outside:
        return "cannot run inside BEGIN ... COMMIT: move it out of the block"
    if (in_block or kind.control) and "READ ONLY" in (modes_of(statement) or ""):
        return "the migration's row could not be written; remove READ ONLY"
    return "" if in_block else _lost_savepoint(kind, statement)


def _lost_savepoint(kind: Kind, statement: Statement) -> str:
    """Return why RELEASE or ROLLBACK TO cannot work if each statement is a separate transaction; empty for others."""
    if kind.control or statement.words[:1] not in (("RELEASE",), ("ROLLBACK",)):
        return ""
    return (
        "there is no savepoint here, because each statement of this file runs in its own transaction; write BEGIN "
        "before the savepoint, COMMIT after this statement, and -- entrypoint: no-transaction at the top of the file"
    )


def _last_name(text: str, statement: Statement) -> str:
    """Return the name at the end of a statement, as PostgreSQL stores it."""
    found = _LAST_NAME.search(text, statement.start, statement.end)
    name = found[1] if found else ""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _in_one_transaction(advice: Advice, kinds: list[Kind]) -> Advice:
    """Remove the file's own BEGIN and COMMIT, and find what would break the program's transaction."""
    text, statements, outside = advice.body, advice.statements, advice.outside
    wrapped = (
        len(kinds) > 1
        and kinds[0].control in BEGINS
        and kinds[-1].control == "COMMIT"
        and modes_of(statements[0]) is not None
    )
    own = modes_of(statements[0]) if wrapped else None
    pair = {0, len(kinds) - 1} if wrapped else set()
    faults: list[ScriptFault] = []
    for index, (statement, kind) in enumerate(zip(statements, kinds, strict=True)):
        shown = foreign(" ".join(text[statement.start : statement.end].split()))[:60]
        if index not in pair and kind.control:
            message = (
                f"{shown}: starts or ends a transaction, but this program already runs the migration in one; {_REMEDY}"
            )
        elif kind.outside and wrapped:
            message = f"{kind.outside} cannot run inside BEGIN ... COMMIT: remove BEGIN and COMMIT"
        elif "READ ONLY" in (modes_of(statement) or ""):
            message = f"{shown}: the migration's row could not be written; remove READ ONLY"
        else:
            continue
        faults.append(ScriptFault(statement.start, statement.line, message))
    if wrapped:
        text = _blank(_blank(text, statements[0]), statements[-1])
        statements = statements[1:-1]
        outside = tuple(Outside(index - 1, what) for index, what in outside)
    elif not faults:
        outside = tuple(sorted((*outside, *_values_used_at_once(text, statements))))
        faults += _lost_savepoints(text, statements, kinds) if outside else []
    begin = " ".join(filter(None, ["BEGIN", own, said_first(statements)]))
    return advice._replace(
        statements=statements, source=text, begin=begin, wrapped=wrapped, outside=outside, faults=tuple(faults)
    )


def _lost_savepoints(text: str, statements: Sequence[Statement], kinds: list[Kind]) -> list[ScriptFault]:
    """Return a fault for each use of a savepoint in a file that turns out to run statement by statement."""
    return [
        ScriptFault(statement.start, statement.line, f"{text[statement.start : statement.end]}: {trouble}")
        for statement, kind in zip(statements, kinds, strict=True)
        if (trouble := _lost_savepoint(kind, statement))
    ]


def _values_used_at_once(text: str, statements: Sequence[Statement]) -> list[Outside]:
    """Find each ALTER TYPE that adds a value to an enum, if the rest of the file mentions the value.

    PostgreSQL refuses to use a new value in the transaction that adds it (55P04).
    """
    found = []
    for index, statement in enumerate(statements):
        if statement.words[:2] != ("ALTER", "TYPE"):
            continue
        value = added_value(text, statement)
        if value and value in text[statement.end :]:
            found.append(Outside(index, ADD_VALUE))
    return found


def added_value(text: str, statement: Statement) -> str:
    """Return the value, as written, that an ALTER TYPE adds to an enum; empty if it adds none."""
    found = _ADD_VALUE.search(text, statement.start, statement.end)
    return found[1] if found else ""


def blocks_that_commit(text: str, advice: Advice) -> tuple[Statement, ...]:
    """Return each DO block that contains COMMIT or ROLLBACK, which the server refuses inside a transaction (2D000).

    This is not a fault: the block may never reach that statement.
    """
    return tuple(
        statement
        for statement in advice.statements
        if statement.words[:1] == ("DO",) and _commits(text[statement.start : statement.end])
    )


def _commits(block: str) -> bool:
    if "LANGUAGE" in (head := words(block, 0, len(block))) and "PLPGSQL" not in head:
        return False
    opened = re.search(r"\$\w*\$|'", block)
    if opened is None:
        return False
    body = block[opened.end() : block.rfind(opened[0])]
    if opened[0] == "'":
        body = body.replace("''", "'")
    tokens = words(body, 0, len(body), limit=len(body))
    return any(
        token in ("COMMIT", "ROLLBACK") and before in _BEFORE_PLPGSQL and after in (";", "AND")
        for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False)
    )


def modes_of(statement: Statement) -> str | None:
    """Return the transaction modes of a BEGIN, START TRANSACTION or SET TRANSACTION; None for anything else."""
    if statement.words[:1] not in (("BEGIN",), ("START",), ("SET",)):
        return None
    found = _MODES.fullmatch(" ".join(statement.words))
    return found[1].strip().replace(" ,", ",") if found else None


def said_first(statements: Sequence[Statement]) -> str:
    """Return the modes that SET TRANSACTION sets before any query, for the BEGIN: our own queries run before it."""
    settings = takewhile(lambda statement: statement.words[:1] in NO_QUERIES, statements)
    return ", ".join(filter(None, map(modes_of, settings)))


def _blank(text: str, statement: Statement) -> str:
    """Replace a statement and its semicolon by spaces; keep the line breaks."""
    stop = statement.end
    after = skip(text, stop)
    if text.startswith(";", after):
        text = f"{text[:after]} {text[after + 1 :]}"
    return text[: statement.start] + re.sub(r"[^\r\n]", " ", text[statement.start : stop]) + text[stop:]


def _without_newer_syntax(text: str, statements: Sequence[Statement]) -> str:
    """Return `text` with an empty SELECT, of the same length, for each statement that is too new for the parser."""
    for statement in statements:
        if statement.words[:1] in _NEWER:
            blank = "SELECT".ljust(statement.end - statement.start)
            text = text[: statement.start] + blank + text[statement.end :]
    return text


def misplaced_directives(text: str, statements: Sequence[Statement]) -> tuple[ScriptFault, ...]:
    """Return a fault for each directive between or after statements, where it has no effect."""
    faults = []
    following = iter(statements)
    statement = next(following, None)
    before = 0
    for found in DIRECTIVE.finditer(text):
        while statement is not None and statement.end <= found.start(1):
            before, statement = before + 1, next(following, None)
        if before and (statement is None or found.end() <= statement.start):
            line = text.count("\n", 0, found.start(1)) + 1
            faults.append(
                ScriptFault(found.start(1), line, "directives only count above the first statement: move it there")
            )
    return tuple(faults)


def kind_of_words(text: str, statement: Statement) -> Kind:
    """Return the kind of a statement, judging by its first words."""
    tokens = statement.words
    if tokens[1:2] == ("SUBSCRIPTION",):  # its options are at its end
        tokens = words(text, statement.start, statement.end, limit=statement.end)
    line = " ".join(tokens)
    if found := _BEGINNING.match(line):
        return Kind(found[1], "")
    if found := _ENDING.match(line):
        verb = {"END": "COMMIT", "ABORT": "ROLLBACK"}.get(found[1], found[1])
        if found[2].startswith(" PREPARED"):
            return Kind(f"{verb} PREPARED", "")
        return Kind("" if verb == "ROLLBACK" and found[2].startswith(" TO ") else verb + found[2], "")
    if found := _REINDEX.match(line):
        options = _word_options(line) | ({"CONCURRENTLY": "TRUE"} if found[2] else {})
        return Kind("", _reindex(found[1], options))
    if found := _SUBSCRIPTION.match(line):
        return Kind("", _subscription(found[1], found[2], _word_options(line)))
    found = _OUTSIDE_WORDS.match(line)
    return Kind("", list(_OUTSIDE)[found.lastindex - 1] if found and found.lastindex else _repack(line))


def _reindex(kind: str, options: dict[str, str]) -> str:
    if _is_on(options.get("CONCURRENTLY", "FALSE")):
        return f"REINDEX {kind} CONCURRENTLY"
    return f"REINDEX {kind}" if kind in ("SCHEMA", "DATABASE", "SYSTEM") else ""


def _repack(line: str) -> str:
    """Return the name of a REPACK (version 19) that commits in between; empty for others.

    It does so for all tables (like CLUSTER), and with CONCURRENTLY. With ANALYZE, only the last betas refuse it;
    earlier ones could crash the server process.
    """
    if line.partition(" ")[0] != "REPACK":
        return ""
    options = _word_options(line) if line.startswith("REPACK (") else {}
    for name in ("CONCURRENTLY", "ANALYZE", "ANALYSE"):
        if _is_on(options.get(name, "FALSE")):
            return f"REPACK ({name})"
    return "REPACK" if _REPACK_ALL.fullmatch(line) else ""


def _subscription(verb: str, action: str, options: dict[str, str]) -> str:
    """Return the name of a CREATE or ALTER SUBSCRIPTION if it changes something on the other server; else empty."""
    if verb == "CREATE":
        wanted = _is_on(options.get("CONNECT", "TRUE")) and _is_on(options.get("CREATE_SLOT", "TRUE"))
        return "CREATE SUBSCRIPTION" if wanted else ""
    refused = (
        action == "REFRESH PUBLICATION"
        or (
            action in ("SET PUBLICATION", "ADD PUBLICATION", "DROP PUBLICATION")
            and _is_on(options.get("REFRESH", "TRUE"))
        )
        or (action in ("SET", "OPTIONS") and options.keys() & {"FAILOVER", "TWO_PHASE"})  # versions 17 and 18
    )
    return f"ALTER SUBSCRIPTION ... {action.replace('OPTIONS', 'SET')}" if refused else ""


def _is_on(value: str) -> bool:
    """Read a boolean option as PostgreSQL does (commands/define.c, defGetBoolean)."""
    return value not in ("FALSE", "OFF", "0")


def _word_options(line: str) -> dict[str, str]:
    """Return the options in the first parentheses, such as `( CONNECT = FALSE , BINARY )`."""
    options = {}
    for option in line.partition("( ")[2].partition(" )")[0].split(" , "):
        name, _, value = option.partition(" ")
        options[name] = value.removeprefix("= ").strip("'") or "TRUE"
    return options


def _tree_options(elements: Sequence[dict[str, Any]]) -> dict[str, str]:
    options = {}
    for element in elements:
        option = element["DefElem"]
        value = "TRUE"
        for kind, argument in option.get("arg", {}).items():
            if kind == "TypeName":  # an unquoted word that is not a keyword
                value = argument["names"][-1]["String"]["sval"]
            else:
                value = str(argument.get("sval", argument.get("ival", 0)))
        options[option["defname"].upper()] = value.upper()
    return options


def _detaches_concurrently(tree: dict[str, Any]) -> bool:
    commands = (command.get("AlterTableCmd", {}) for command in tree.get("cmds", ()))
    return any(command.get("def", {}).get("PartitionCmd", {}).get("concurrent") for command in commands)


def _alter_subscription(tree: dict[str, Any]) -> str:
    action = tree["kind"].removeprefix("ALTER_SUBSCRIPTION_").replace("_", " ")
    action = "REFRESH PUBLICATION" if action == "REFRESH" else action
    return _subscription("ALTER", action, _tree_options(tree.get("options", ())))


_TREE_OUTSIDE: dict[str, Callable[[dict[str, Any]], str]] = {
    "VacuumStmt": lambda tree: "VACUUM" if tree.get("is_vacuumcmd") else "",
    "AlterSystemStmt": lambda _: "ALTER SYSTEM",
    "DiscardStmt": lambda tree: "DISCARD ALL" if tree.get("target") == "DISCARD_ALL" else "",
    "CreatedbStmt": lambda _: "CREATE DATABASE",
    "DropdbStmt": lambda _: "DROP DATABASE",
    "AlterDatabaseStmt": lambda tree: (
        "ALTER DATABASE ... SET TABLESPACE" if "TABLESPACE" in _tree_options(tree.get("options", ())) else ""
    ),
    "CreateTableSpaceStmt": lambda _: "CREATE TABLESPACE",
    "DropTableSpaceStmt": lambda _: "DROP TABLESPACE",
    "IndexStmt": lambda tree: "CREATE INDEX CONCURRENTLY" if tree.get("concurrent") else "",
    "DropStmt": lambda tree: "DROP INDEX CONCURRENTLY" if tree.get("concurrent") else "",
    "AlterTableStmt": lambda tree: (
        "ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY" if _detaches_concurrently(tree) else ""
    ),
    "ClusterStmt": lambda tree: "" if "relation" in tree else "CLUSTER",
    "ReindexStmt": lambda tree: _reindex(
        tree["kind"].removeprefix("REINDEX_OBJECT_"), _tree_options(tree.get("params", ()))
    ),
    "CreateSubscriptionStmt": lambda tree: _subscription("CREATE", "", _tree_options(tree.get("options", ()))),
    "AlterSubscriptionStmt": _alter_subscription,
    "DropSubscriptionStmt": lambda _: "DROP SUBSCRIPTION",
}


def _kind_of_tree(tree: dict[str, Any]) -> Kind:
    name, fields = next(iter(tree.items()))
    if name == "TransactionStmt":
        control = _TREE_CONTROL.get(fields["kind"], "")
        return Kind(f"{control} AND CHAIN" if fields.get("chain") else control, "")
    outside = _TREE_OUTSIDE.get(name)
    return Kind("", outside(fields) if outside else "")


def _from_trees(
    text: str, scanned: tuple[Statement, ...], trees: list[dict[str, Any]]
) -> tuple[tuple[Statement, ...], list[Kind]] | None:
    """Return the parser's statements and their kinds; None if its answer makes no sense (never seen).

    The parser counts in bytes, and treats white space and comments before a statement as part of it.
    """
    data = text.encode()
    spans = []
    seen = offset = 0  # the same place, in bytes and in characters respectively
    try:
        for tree in trees:
            begin = tree.get("stmt_location", 0)
            stop = begin + tree["stmt_len"] if "stmt_len" in tree else len(data)
            start = offset + len(data[seen:begin].decode())
            seen, offset = stop, start + len(data[begin:stop].decode())
            spans.append((skip(text, start), offset))
        kinds = [_kind_of_tree(tree["stmt"]) for tree in trees]
    except (LookupError, TypeError, AttributeError, ValueError, StopIteration):
        return None
    if [start for start, _ in spans] == [statement.start for statement in scanned]:
        return scanned, kinds
    # The parser's lexer differs slightly from the server's: a comment between two parts of a string ends the string.
    return tuple(_statement(text, start, stop) for start, stop in spans), kinds


def _statement(text: str, start: int, stop: int) -> Statement:
    end = start + len(text[start:stop].rstrip(" \t\n\r\f\v"))
    return Statement(start, end, text.count("\n", 0, start) + 1, words(text, start, end))
