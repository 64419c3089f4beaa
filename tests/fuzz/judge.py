"""What our two parsers say about a text, what the server made of it, and where they differ."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

from entrypoint.migration.apply.transactional import cut_into_pieces
from entrypoint.migration.script.statements import advise
from entrypoint.migration.script.strings import SETTING, may_be_set_unseen, setting
from entrypoint.migration.script.units import units_of as cut_in_units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from entrypoint.migration.script.statements import Advice

READINGS = {"parser": 1_000_000, "words": -1}
SLOW = 1.0
SEVERAL = "42601 several"
"""The server's answer to two statements in a message that may have only one."""

_CONTROL = re.compile(r"BEGIN|START TRANSACTION|COMMIT|ROLLBACK|PREPARE TRANSACTION|(COMMIT|ROLLBACK) PREPARED")
# In errors that the server knows nothing about.
_NOT_OF_SQL = (
    "READ ONLY",
    "directive",
    " is already set in line ",
    "entrypoint:",
    " is not a duration",
    " has no unit",
    " is too ",
)
_DONE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.EMPTY_QUERY)
_COPY = (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH)


class Difference(NamedTuple):
    """What differs, and for which parser; together they are its class."""

    what: str
    reading: str
    detail: str

    @property
    def shape(self) -> str:
        """Its class."""
        return f"{self.what} ({self.reading})"


class Taken(NamedTuple):
    """What the server made of one message."""

    tags: tuple[str, ...]
    sqlstate: str
    position: int
    """Of the error, in characters from 1; 0 if there is none."""
    ended: bool
    """Whether the transaction in which the message was sent had ended afterwards."""
    copied: bool
    ran: bool = True
    """Whether any of the last message ran: a syntax error anywhere in it comes first."""


NOT_BEGUN = Taken((), "42601", 0, ended=False, copied=False)


class Message(NamedTuple):
    """What is sent at once, and where it begins in the text."""

    sql: str
    start: int
    strings: str
    """The value of `standard_conforming_strings` while the server reads it."""
    single: bool = False
    """Whether it is sent in the way that makes the server refuse two statements."""


class Judge:
    """A session that texts are sent to, each in a transaction that is rolled back."""

    def __init__(self, connect: Callable[[], psycopg.Connection[tuple[object, ...]]]) -> None:
        """Open the session, in an empty database."""
        self._connect = connect
        self._open()
        self.texts = self.ran = 0
        self._taken: dict[object, Taken] = {}
        """What the server has made of the messages of the current text."""

    def _open(self) -> None:
        self._connection = self._connect()
        self._connection.autocommit = True
        self._connection.prepare_threshold = None  # DISCARD ALL removes prepared statements
        self._connection.execute("SET client_min_messages = error")
        self._connection.execute("CREATE TABLE IF NOT EXISTS public.t (a int)")
        self._connection.execute("CREATE OR REPLACE PROCEDURE public.p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'")
        self._connection.execute("CREATE TABLE IF NOT EXISTS public.fuzz_marker (a int)")
        self._connection.execute("TRUNCATE public.fuzz_marker")

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    def differences(self, text: str) -> list[Difference]:
        """Return every difference between a reading of `text` and what the server makes of it."""
        found: list[Difference] = []
        self._taken = {}
        self.texts += 1
        for reading, limit in READINGS.items():
            for escapes in (False, True)[: 1 if self._connection.info.server_version >= 190000 else 2]:
                found += self._differences(text, reading, limit, escapes=escapes)
        self.ran += any(not each.sqlstate.startswith("42601") for each in self._taken.values())
        return found

    def _differences(self, text: str, reading: str, limit: int, *, escapes: bool) -> Iterator[Difference]:
        name = f"{reading}, escapes" if escapes else reading
        began = time.process_time()
        try:
            advice = advise(text, parse_limit=limit, escapes=escapes)
        except Exception as error:  # noqa: BLE001 - any exception is a finding
            yield Difference("raised", name, repr(error))
            return
        if (seconds := time.process_time() - began) > SLOW:
            yield Difference("slow", name, f"{seconds:.1f} s")
        if "\0" in text:
            return
        if advice.faults:
            # As one message, which is possible only if all of it is read in the same way.
            whole = Message(text, 0, "off" if escapes else "on")
            alike = not advice.no_transaction and len(advice.readings) == 1
            if alike and (difference := _false_alarm(advice, self._send("BEGIN", whole))):
                yield Difference(difference[0], name, difference[1])
        elif advice.transactional:
            for difference in self._in_one_transaction(advice):
                yield Difference(difference[0], name, difference[1])
        else:
            for difference in self._in_units(advice):
                yield Difference(difference[0], f"{name}, units", difference[1])

    def _in_one_transaction(self, advice: Advice) -> Iterator[tuple[str, str]]:
        """Compare as one message, or one per piece; and as the program sends what it does not trust."""

        def message(start: int, end: int, *, single: bool) -> Message:
            return Message(advice.body[start:end], start, setting(advice.readings, start), single)

        pieces = cut_into_pieces(advice.body, advice.statements, advice.readings)
        taken = self._send(advice.begin, *(message(each.start, each.end, single=False) for each in pieces))
        if difference := compare(advice, taken):
            yield difference
        if advice.disputed or advice.odd_strings or may_be_set_unseen(advice.body, advice.statements):
            taken = self._send(
                advice.begin, *(message(each.start, each.end, single=True) for each in advice.statements)
            )
            if taken.ended:
                yield "TRANSACTION ENDED one by one", f"after {taken.tags}"
            elif taken.sqlstate == SEVERAL:
                yield "several in one" + (" where disputed" if advice.disputed else ""), f"after {taken.tags}"

    def _in_units(self, advice: Advice) -> Iterator[tuple[str, str]]:
        """Send the units of a file outside a transaction one after the other, as the program does."""
        for unit in cut_in_units(advice.body, advice):
            taken = self._send(unit.begin, Message(unit.sql, unit.start, setting(advice.readings, unit.start)))
            if taken.ended and unit.begin:
                yield "TRANSACTION ENDED", f"unit {unit.number}, after {taken.tags}"
            count, done = len(unit.statements), len(taken.tags)
            if taken is not NOT_BEGUN and (done != count if not taken.sqlstate else done >= count):
                yield "count", f"unit {unit.number} has {count} statements, and the server did {done}"

    def _send(self, begin: str, *messages: Message) -> Taken:
        """Send messages in a transaction that starts with `begin` and is rolled back; if that is empty, outside any."""
        if (begin, messages) not in self._taken:
            self._taken[begin, messages] = self._inside(begin, messages) if begin else self._alone(messages[0])
        return self._taken[begin, messages]

    def _inside(self, begin: str, messages: Sequence[Message]) -> Taken:
        connection = self._connection
        try:
            connection.execute(begin.encode())
        except psycopg.Error:
            return NOT_BEGUN
        connection.execute("INSERT INTO public.fuzz_marker VALUES (1)")
        mine = self._transaction()
        taken = Taken((), "", 0, ended=False, copied=False)
        for message in messages:
            self._read_as(message)
            more = self._results(message)
            position = message.start + more.position if more.position else 0
            taken = Taken(
                taken.tags + more.tags,
                more.sqlstate,
                position,
                ended=False,
                copied=taken.copied or more.copied,
                ran=bool(more.tags),
            )
            if taken.sqlstate:
                break
        status = connection.pgconn.transaction_status
        ended = status == TransactionStatus.IDLE or (
            status == TransactionStatus.INTRANS and self._transaction() != mine
        )
        connection.execute("ROLLBACK")
        row = connection.execute("SELECT count(*) FROM public.fuzz_marker").fetchone()
        if ended or (row and row[0]):
            self._clean()
            return taken._replace(ended=True)
        connection.execute("DISCARD ALL")
        connection.execute("SET client_min_messages = error")
        return taken

    def _alone(self, message: Message) -> Taken:
        self._read_as(message)
        taken = self._results(message)
        if self._connection.pgconn.transaction_status != TransactionStatus.IDLE:
            self._connection.execute("ROLLBACK")
        self._clean()
        return taken

    def _read_as(self, message: Message) -> None:
        if self._connection.pgconn.transaction_status == TransactionStatus.INERROR:
            return
        for name, value in (("client_encoding", "UTF8"), (SETTING, message.strings)):
            if self._connection.info.parameter_status(name) != value:
                self._connection.execute(f"SET {name} = {value}".encode())

    def _transaction(self) -> object:
        return self._connection.execute("SELECT pg_catalog.pg_current_xact_id_if_assigned()::text").fetchone()

    def _clean(self) -> None:
        """Remove what a text has committed: it is all in the schema `public`, or in one that the text created."""
        self._connection.execute("DISCARD ALL")
        self._connection.execute(
            "DO $$ DECLARE s text; BEGIN FOR s IN SELECT nspname FROM pg_namespace "
            "WHERE nspname !~ '^pg_|^information' LOOP EXECUTE format('DROP SCHEMA %I CASCADE', s); END LOOP; "
            "EXECUTE 'CREATE SCHEMA public'; END $$"
        )
        self._connection.close()
        self._open()

    def _results(self, message: Message) -> Taken:
        pgconn = self._connection.pgconn
        if message.single:
            pgconn.send_query_params(message.sql.encode(), None)
        else:
            pgconn.send_query(message.sql.encode())
        tags: list[str] = []
        sqlstate, position, copied = "", 0, False
        while (result := pgconn.get_result()) is not None:
            if result.status in _DONE:
                if result.status != ExecStatus.EMPTY_QUERY:
                    tags.append((result.command_status or b"").decode())
            elif result.status in _COPY:
                copied = True
                if result.status == ExecStatus.COPY_IN:
                    pgconn.put_copy_end(b"nobody sends data")
                else:
                    while pgconn.get_copy_data(0)[0] > 0:
                        pass
            else:
                sqlstate = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
                if b"multiple commands" in (result.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY) or b""):
                    sqlstate = SEVERAL
                position = int(result.error_field(psycopg.pq.DiagnosticField.STATEMENT_POSITION) or 0)
        return Taken(tuple(tags), sqlstate, position, ended=False, copied=copied)


def compare(advice: Advice, taken: Taken) -> tuple[str, str] | None:
    """Return how a reading and the server differ; None if they agree."""
    if advice.faults:
        return _false_alarm(advice, taken)
    if taken.ended:
        return "TRANSACTION ENDED", f"after {taken.tags}"
    count, done = len(advice.statements), len(taken.tags)
    # Before version 17, the server did not take a vertical tab for white space, and complains if there is nothing else.
    if done != count if not taken.sqlstate else done >= max(count, 1):
        return "count", f"{count} statements, and the server did {done}; {taken.sqlstate or 'all of them'}"
    if done and taken.ran and taken.position:
        at = advice.statements[done]
        if not at.start < taken.position <= at.end + 1:
            return "position", f"character {taken.position}, and the statement is {at.start}..{at.end}"
    return None


def _false_alarm(advice: Advice, taken: Taken) -> tuple[str, str] | None:
    """Return what a reading refuses although the server accepts it, ends no transaction, and needs no client."""
    control = any(_CONTROL.fullmatch(tag) for tag in taken.tags)
    not_of_sql = any(word in advice.faults[0].message for word in _NOT_OF_SQL)
    if taken.sqlstate or taken.ended or taken.copied or control or not_of_sql:
        return None
    return "false alarm where disputed" if advice.disputed else "false alarm", advice.faults[0].message


def minimised(text: str, holds: Callable[[str], bool]) -> str:
    """Return a shorter text for which `holds` is also true, by leaving out ever smaller parts."""
    size = max(len(text) // 2, 1)
    while size:
        place = 0
        while place < len(text):
            shorter = text[:place] + text[place + size :]
            if holds(shorter):
                text = shorter
            else:
                place += size
        size //= 2
    return text
