"""The first look at the ledger, without a session: for the starts that find nothing to do, which are nearly all.

Where there is something to do, its connection becomes a session's.
"""

from __future__ import annotations

import _thread
import os

from entrypoint import logs
from entrypoint.database import libpq
from entrypoint.database.address import (
    describe_target,
    has_bare_at_sign,
    is_libpqs_own,
    is_plausible,
    leave_out_time_zone,
    of_this_program,
    timeout_for_each_host,
    wants_the_systems_certificates,
)
from entrypoint.database.quoting import DEFAULT_PATH
from entrypoint.deadline import SLICE, Deadline
from entrypoint.errors import ConnectionLostError
from entrypoint.records import NamedTuple
from entrypoint.redaction import named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from entrypoint.command import Command
    from entrypoint.migration.ledger.repeatables import Text
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.ledger.runs import Runs


# Seconds: for the connection to be under way before anything else is done here.
_HEAD_START = 0.005


class FirstLook(NamedTuple):
    """What the first look found, or why it found nothing."""

    rows: tuple[LedgerRow, ...] | None = None
    """None if anything was not as it nearly always is: then the same is to be asked again, by a session."""
    runs: Runs | None = None
    """What is recorded of another migration tool, if there is one."""
    connecting_failed: str | None = None
    """libpq's text, if it did not come so far as to ask: then this was an attempt to connect like any other."""
    lost: ConnectionLostError | None = None
    """How the connection ended after that, if it did."""
    texts: tuple[Text, ...] = ()
    """Those of repeatable files that were applied, if it was asked for them."""


class Question:
    """A first look under way, in a thread, so that the migration files can be read meanwhile."""

    def __init__(
        self,
        address: str,
        schema: str | None,
        role: str | None,
        timeout: float,
        command: Command | None = None,
        *,
        repeating: bool = False,
    ) -> None:
        """Begin to connect to `address`, once, and to read the ledger, all within `timeout` seconds.

        `schema`, `role` and `command` are as they are set. `repeating`: whether there are repeatable files. Raises
        nothing.
        """
        self.token = logs.run_id()
        """Tells this process's connections from others'."""
        self._deadline = Deadline(timeout)
        self._found = FirstLook()
        self._begun = _thread.allocate_lock()
        self._done = _thread.allocate_lock()
        self._answer: FirstLook | None = None
        self._connection: libpq.Connection | None = None
        """Where it asked, if it can be asked more there."""
        self._given_up = False
        """Whether nobody will take the connection any more."""
        self.noted = False
        """Whether it has been logged that the address is another driver's."""
        self._path = ""
        self._repeating = repeating
        library = libpq.load()
        parameters = self._read(library, address) if library is not None and not has_bare_at_sign(address) else None
        if library is None or parameters is None or not is_plausible(parameters) or _several_hosts(parameters):
            return
        describe_target(parameters, os.environ)
        leave_out_time_zone()
        changed: dict[str, str | int] = {"connect_timeout": timeout_for_each_host(parameters, 1, timeout)}
        if wants_the_systems_certificates(parameters, os.environ):
            from entrypoint.database.roots import systems

            changed |= systems(parameters, os.environ)
        connect_as = of_this_program({**parameters, **changed}, self.token)
        self._begun.acquire()
        self._done.acquire()
        try:
            logs.start_thread("first look", self._work, library, connect_as, (schema, role, command))
        except RuntimeError:  # No thread is to be had.
            self._done.release()
        else:
            # The server works in parallel with us, so it is to know of us first; but a name server may be slow.
            self._begun.acquire(timeout=_HEAD_START)
            # Imported by this thread while the other one logs in, which is to ask as soon as it has.
            from entrypoint.migration.ledger import place, rows  # noqa: F401

            if command is not None:
                from entrypoint.migration.ledger import runs  # noqa: F401

    def _read(self, library: libpq.Libpq, address: str) -> dict[str, str] | None:
        """Return libpq's parameters; None if the address is none that can be read."""
        parameters = library.parse(address)
        if parameters is not None and is_libpqs_own(parameters):
            return parameters
        from entrypoint.database.translation import Untranslatable, note, translate

        try:
            translation = translate(address)
        except Untranslatable:
            return None
        parsed = None if translation is None else library.parse(translation.address)
        if translation is None or parsed is None:
            return None
        note(translation)
        self.noted, self._path = True, translation.path
        return translation.complete(parsed, os.environ)

    def answer(self) -> FirstLook:
        """Wait for the answer, until the deadline; it does not change any more. Raises nothing but signals."""
        if self._answer is None:
            while not self._done.acquire(timeout=min(self._deadline.remaining(), SLICE)):
                if self._deadline.passed():
                    from entrypoint.database.answers import SILENCE

                    self._given_up = True
                    self._answer = FirstLook(connecting_failed=f"{SILENCE} {self._deadline.budget:g} s")
                    return self._answer
            self._answer = self._found
        return self._answer

    def connection(self) -> libpq.Connection | None:
        """Hand over the connection behind the answer, if there is one; whoever takes it closes it."""
        connection, self._connection = self._connection, None
        return connection

    def close(self) -> None:
        """Say good-bye to the server, unless somebody has taken the connection."""
        self._given_up = True
        if connection := self.connection():
            connection.close()

    def seconds(self) -> float:
        """Return how long it has taken so far."""
        return self._deadline.budget - self._deadline.remaining()

    def _work(
        self,
        library: libpq.Libpq,
        parameters: Mapping[str, str | int | None],
        where: tuple[str | None, str | None, Command | None],
    ) -> None:
        try:
            connection = libpq.Connection(library, parameters)
            self._begun.release()
            self._found, kept = _look(connection, self._path, where, self._deadline, repeating=self._repeating)
            if kept and not self._given_up:
                self._connection = connection
            else:
                connection.close()
        except Exception:  # noqa: BLE001 - as in `_look`
            self._found = FirstLook()
        finally:
            self._done.release()


def _look(
    connection: libpq.Connection,
    path: str,
    where: tuple[str | None, str | None, Command | None],
    deadline: Deadline,
    *,
    repeating: bool,
) -> tuple[FirstLook, bool]:
    """Ask; return the answer, and whether more can be asked on this connection."""
    schema, role, command = where
    try:
        connection.log_in(deadline)
        connection.describe()
        logs.event(logs.DEBUG, "database.connected", f"connected to {connection}", backend=connection.backend_pid)
        if path and connection.query(DEFAULT_PATH, deadline)[2][0][0] != path:
            return FirstLook(), False
        if command is not None:
            return _look_at_runs(connection, schema, role, command, deadline), True
        return _look_at_ledger(connection, schema, role, deadline, repeating=repeating), True
    except ConnectionLostError as lost:
        return FirstLook(lost=lost), False
    except Exception as error:  # noqa: BLE001 - whatever it was, a session will meet it again and say it well
        from entrypoint.database.answers import NotConnected

        return FirstLook(connecting_failed=error.args[0] if isinstance(error, NotConnected) else None), False


def _look_at_ledger(
    connection: libpq.Connection, schema: str | None, role: str | None, deadline: Deadline, *, repeating: bool
) -> FirstLook:
    """Ask for the ledger, and for the texts of repeatable files. Raises what `_look` catches."""
    # Imported while the server was at work.
    from entrypoint.migration.ledger.place import find_tables
    from entrypoint.migration.ledger.rows import as_ledger, ask, ledger_query

    place, sure = find_tables(connection, schema, deadline, role)
    if not sure:
        from entrypoint.migration.ledger import search

        place = search.find_tables(connection, schema, deadline, role)
    logs.describe(schema=place and named(place.schema))
    if place is None or place.outdated or place.intrusion:
        return FirstLook()
    if not repeating:
        return FirstLook(as_ledger(*ask(connection, role, deadline, (ledger_query(place),))))
    from entrypoint.migration.ledger import repeatables

    # Where there is no such table yet, the longer way knows what that means.
    rows, texts = ask(connection, role, deadline, (ledger_query(place), repeatables.query(place)))
    if not repeatables.evidently_ours(texts):
        return FirstLook()
    return FirstLook(as_ledger(rows), texts=repeatables.as_texts(texts))


def _look_at_runs(
    connection: libpq.Connection, schema: str | None, role: str | None, command: Command, deadline: Deadline
) -> FirstLook:
    """Ask for the ledger, and for the runs of another migration tool. Raises what `_look` catches."""
    from entrypoint.migration.ledger import runs
    from entrypoint.migration.ledger.rows import as_ledger, ask, ledger_query

    place, histories = runs.find_tables(connection, schema, deadline, role, command)
    if place is None:
        from entrypoint.migration.ledger import search

        place = search.find_tables(connection, schema, deadline, role, command)
    logs.describe(schema=place and named(place.schema))
    if place is None or place.outdated or place.intrusion:
        return FirstLook()
    if histories is None:
        from entrypoint.migration.ledger import history

        rows, *answers = ask(connection, role, deadline, (ledger_query(place), *history.queries(place, command)))
        return FirstLook(as_ledger(rows), history.as_runs(answers))
    rows, *answers = ask(connection, role, deadline, (ledger_query(place), *runs.queries(place, histories)))
    return FirstLook(as_ledger(rows), runs.as_runs(answers, histories))


def _several_hosts(parameters: Mapping[str, str]) -> bool:
    """Tell whether there are hosts to be tried one after the other, each with a time-out of its own."""
    return any(
        "," in (parameters.get(name) or os.environ.get(variable, ""))
        for name, variable in (("host", "PGHOST"), ("hostaddr", "PGHOSTADDR"))
    )
