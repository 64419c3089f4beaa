"""The first look at the ledger, without a session. Nearly all starts find nothing to do and need no more than this.

If there is something to do, a session takes over the connection.
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


# Seconds to wait for the connection attempt to begin before this thread goes on.
_HEAD_START = 0.005


class FirstLook(NamedTuple):
    """What the first look found, or why it found nothing."""

    rows: tuple[LedgerRow, ...] | None = None
    """None if anything was unusual; then a session has to ask again."""
    runs: Runs | None = None
    """The recorded runs of another migration tool, if there is one."""
    connecting_failed: str | None = None
    """libpq's message, if connecting failed; this counts as an ordinary attempt to connect."""
    lost: ConnectionLostError | None = None
    """How the connection was lost after connecting, if it was."""
    texts: tuple[Text, ...] = ()
    """The texts of repeatable files that were applied, if asked for."""


class Question:
    """A first look that runs in a thread, so that the migration files can be read at the same time."""

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
        """Start connecting to `address`, once, and reading the ledger, all within `timeout` seconds.

        `schema`, `role` and `command` are the settings. `repeating`: whether there are repeatable files. Raises
        nothing.
        """
        self.token = logs.run_id()
        """Distinguishes this process's connections from those of others."""
        self._deadline = Deadline(timeout)
        self._found = FirstLook()
        self._begun = _thread.allocate_lock()
        self._done = _thread.allocate_lock()
        self._answer: FirstLook | None = None
        self._connection: libpq.Connection | None = None
        """The connection it used, if that can be used further."""
        self._given_up = False
        """Whether the connection is not needed any more."""
        self.noted = False
        """Whether the log already says that the address is written for another driver."""
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
            from entrypoint.database.roots import system_certificates

            changed |= system_certificates(parameters, os.environ)
        connect_as = of_this_program({**parameters, **changed}, self.token)
        self._begun.acquire()
        self._done.acquire()
        try:
            logs.start_thread("first look", self._work, library, connect_as, (schema, role, command))
        except RuntimeError:  # Python could not start a thread.
            self._done.release()
        else:
            # The server works in parallel with us, so let the connection begin first. But a name server may be slow.
            self._begun.acquire(timeout=_HEAD_START)
            # Import these while the other thread logs in, so that it can ask as soon as it has.
            from entrypoint.migration.ledger import place, rows  # noqa: F401

            if command is not None:
                from entrypoint.migration.ledger import runs  # noqa: F401

    def _read(self, library: libpq.Libpq, address: str) -> dict[str, str] | None:
        """Return libpq's parameters; None if the address cannot be parsed."""
        parameters = library.parse(address)
        if parameters is not None and is_libpqs_own(parameters):
            return parameters
        from entrypoint.database.translation import Untranslatable, log_translation, translate

        try:
            translation = translate(address)
        except Untranslatable:
            return None
        parsed = None if translation is None else library.parse(translation.address)
        if translation is None or parsed is None:
            return None
        log_translation(translation)
        self.noted, self._path = True, translation.path
        return translation.complete(parsed, os.environ)

    def answer(self) -> FirstLook:
        """Wait for the answer, until the deadline at most. A later call returns the same. Raises only for signals."""
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
        """Hand over the connection, if there is one. The caller has to close it."""
        connection, self._connection = self._connection, None
        return connection

    def close(self) -> None:
        """Close the connection, unless it was handed over."""
        self._given_up = True
        if connection := self.connection():
            connection.close()

    def seconds(self) -> float:
        """Return how many seconds it has taken so far."""
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
    """Ask; return the answer, and whether the connection can be used further."""
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
    except Exception as error:  # noqa: BLE001 - a session will meet the same error, and report it properly
        from entrypoint.database.answers import NotConnected

        return FirstLook(connecting_failed=error.args[0] if isinstance(error, NotConnected) else None), False


def _look_at_ledger(
    connection: libpq.Connection, schema: str | None, role: str | None, deadline: Deadline, *, repeating: bool
) -> FirstLook:
    """Ask for the ledger, and for the texts of repeatable files. Raises what `_look` catches."""
    # The main thread has imported these while the server was working.
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

    # If the table does not exist yet, this fails, and the session that asks again knows what that means.
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
    """Tell whether there are several hosts, to be tried one after the other, each with its own timeout."""
    return any(
        "," in (parameters.get(name) or os.environ.get(variable, ""))
        for name, variable in (("host", "PGHOST"), ("hostaddr", "PGHOSTADDR"))
    )
