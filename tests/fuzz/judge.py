"""What our two readings say of a text, and what the server made of it; and where they differ."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

from entrypoint.migration.script.statements import advise

if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.migration.script.statements import Advice

READINGS = {"parser": 1_000_000, "words": -1}
SLOW = 1.0

_CONTROL = re.compile(r"BEGIN|START TRANSACTION|COMMIT|ROLLBACK|PREPARE TRANSACTION|(COMMIT|ROLLBACK) PREPARED")
_DONE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.EMPTY_QUERY)
_COPY = (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH)


class Difference(NamedTuple):
    """What differs, and in which reading; the two together are its class."""

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
    """Whether the transaction in which the message was sent had ended after it."""
    copied: bool


class Judge:
    """A session that texts are sent to, each in a transaction that is taken back."""

    def __init__(self, connect: Callable[[], psycopg.Connection[tuple[object, ...]]]) -> None:
        """Open the session, in a database with nothing in it."""
        self._connect = connect
        self._open()
        self.texts = self.ran = 0

    def _open(self) -> None:
        self._connection = self._connect()
        self._connection.autocommit = True
        self._connection.prepare_threshold = None  # DISCARD ALL takes prepared statements away
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
        found = []
        taken: dict[tuple[str, str], Taken] = {}
        self.texts += 1
        for reading, limit in READINGS.items():
            began = time.process_time()
            try:
                advice = advise(text, parse_limit=limit)
            except Exception as error:  # noqa: BLE001 - whatever it raises is what is looked for
                found.append(Difference("raised", reading, repr(error)))
                continue
            if (seconds := time.process_time() - began) > SLOW:
                found.append(Difference("slow", reading, f"{seconds:.1f} s"))
            if "\0" in text or not (advice.faults or advice.transactional):
                continue
            sent = ("BEGIN", text) if advice.faults else (advice.begin, advice.body)
            if sent not in taken:
                taken[sent] = self._send(*sent)
            if difference := compare(advice, taken[sent]):
                found.append(Difference(difference[0], reading, difference[1]))
        self.ran += any(not each.sqlstate.startswith("42601") for each in taken.values())
        return found

    def _send(self, begin: str, body: str) -> Taken:
        connection = self._connection
        connection.execute(begin.encode())
        connection.execute("INSERT INTO public.fuzz_marker VALUES (1)")
        mine = self._transaction()
        taken = self._results(body)
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

    def _transaction(self) -> object:
        return self._connection.execute("SELECT pg_catalog.pg_current_xact_id_if_assigned()::text").fetchone()

    def _clean(self) -> None:
        """Remove what a text has committed: everything is in the schema `public`, or in one that it made itself."""
        self._connection.execute("DISCARD ALL")
        self._connection.execute(
            "DO $$ DECLARE s text; BEGIN FOR s IN SELECT nspname FROM pg_namespace "
            "WHERE nspname !~ '^pg_|^information' LOOP EXECUTE format('DROP SCHEMA %I CASCADE', s); END LOOP; "
            "EXECUTE 'CREATE SCHEMA public'; END $$"
        )
        self._connection.close()
        self._open()

    def _results(self, body: str) -> Taken:
        pgconn = self._connection.pgconn
        pgconn.send_query(body.encode())
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
                position = int(result.error_field(psycopg.pq.DiagnosticField.STATEMENT_POSITION) or 0)
        return Taken(tuple(tags), sqlstate, position, ended=False, copied=copied)


def compare(advice: Advice, taken: Taken) -> tuple[str, str] | None:
    """Return what a reading and the server differ in, and how; None if they agree."""
    if advice.faults:
        return _false_alarm(advice, taken)
    if taken.ended:
        return "TRANSACTION ENDED", f"after {taken.tags}"
    count, done = len(advice.statements), len(taken.tags)
    if done != count if not taken.sqlstate else done >= count:
        return "count", f"{count} statements, and the server did {done}; {taken.sqlstate or 'all of them'}"
    if done and taken.position:
        at = advice.statements[done]
        if not at.start < taken.position <= at.end + 1:
            return "position", f"character {taken.position}, and the statement is {at.start}..{at.end}"
    return None


def _false_alarm(advice: Advice, taken: Taken) -> tuple[str, str] | None:
    """Return what a reading refuses and the server takes, without an end of the transaction, and without a client."""
    control = any(_CONTROL.fullmatch(tag) for tag in taken.tags)
    read_only = "READ ONLY" in advice.faults[0].message
    if taken.sqlstate or taken.ended or taken.copied or control or read_only:
        return None
    return "false alarm where disputed" if advice.disputed else "false alarm", advice.faults[0].message


def minimised(text: str, holds: Callable[[str], bool]) -> str:
    """Return a shorter text of which `holds` is true as well, by leaving out ever smaller stretches."""
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
