"""Apply a migration that cannot run in one transaction: unit by unit, on a direct connection.

There is no fence around such a statement. Instead the worker's session holds a second advisory lock, shared, for
as long as it lives, and whoever takes the migration lock over first sees that it is free. And a `running` row
names the statement before it is sent, so that a crash in the middle is known for what it is.
"""

from __future__ import annotations

import time

from entrypoint import logs
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import identifier, literal
from entrypoint.deadline import Deadline
from entrypoint.errors import ConfigurationError, ConnectionLostError, MigrationFailedError
from entrypoint.migration import ledger, recording, transactions
from entrypoint.migration.attempt import GRACE, Refused, ours
from entrypoint.migration.units import Unit, cut, reached, repeatable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from entrypoint.database.session import Session
    from entrypoint.migration.attempt import Task
    from entrypoint.migration.ledger import Place
    from entrypoint.migration.prepare import Prepared

_DUPLICATE_TABLE = "42P07"
_LOCK_TRIES = 40
_LOCK_PAUSE = 0.05


def refuse_behind_pooler(prepared: Iterable[Prepared], session: Session, place: Place) -> None:
    """Raise ConfigurationError if a pooler stands between us and a server that must remember our session.

    It shows itself: the process that answers a query is not the one that answered the login.
    """
    if session.login_pid == place.backend_pid:
        return
    names = [one.file.name for one in prepared if not one.advice.transactional]
    if names:
        raise ConfigurationError(
            f"{', '.join(names)} must run outside a transaction, which needs a direct connection, and there is a "
            "pooler in between; nothing was run",
            remedy="Set MIGRATION_DATABASE_URL to the server itself; DATABASE_URL can stay as it is.",
        )


def apply(task: Task, *, again: bool) -> None:
    """Run what is left of a migration, and record it as completed with the last unit.

    `again`: this process has tried before, and PostgreSQL has refused the statement that the row names.

    Raises Refused (what came before stays, and the next attempt goes on there), MigrationFailedError if an earlier
    run was interrupted and nobody can know how far it came, LeaseLostError or ConnectionLostError.
    """
    _Run(task, again=again).run()


class _Run:
    """One attempt at one file."""

    def __init__(self, task: Task, *, again: bool) -> None:
        self._task = task
        self._again = again
        self._worker = task.lease.worker
        self._place = task.lease.place
        self._count = len(task.migration.advice.statements)
        self._units = cut(task.migration.text, task.migration.advice)
        self._began = time.monotonic()

    def run(self) -> None:
        try:
            self._lock_session()
            left = self._left()
            if left and not left[0].begin:
                self._record(left[0])
            for unit, following in zip(left, [*left[1:], None], strict=True):
                if unit.begin:
                    self._run_inside(unit, following)
                else:
                    self._run_alone(unit)
                    self._record(following)
            if not left:
                self._record(None)
        finally:
            self._restore_session()

    # Where to begin.

    def _left(self) -> list[Unit]:
        """Return the units that have not run, as far as an earlier attempt's row tells."""
        message, unchanged = self._earlier_run()
        number = reached(message)
        if number is not None and not unchanged:
            raise self._in_the_dark(f"was interrupted at {message}, and has changed since")
        begin = next((i for i, unit in enumerate(self._units) if unit.number == number), None)
        if begin is None:
            return list(self._units)
        self._replay_session(self._units[:begin])
        if not self._units[begin].begin and self._finished(self._units[begin]):
            begin += 1
        if not self._again:
            logs.event(
                logs.WARNING,
                "migration.resumed",
                f"{self._task.migration.file.name} was interrupted at {message}; going on from there",
                file=self._task.migration.file.name,
                statement=number,
            )
        return list(self._units[begin:])

    def _earlier_run(self) -> tuple[str | None, bool]:
        """Return what the row of an earlier, unfinished run says, and whether the file is still the same."""
        file = self._task.migration.file
        rows = self._query(
            f"SELECT error_message, checksum = {literal(file.checksum)} FROM {self._place.table('schema_migrations')} "
            f"WHERE migration_number = {file.number} AND status = {literal(ledger.RUNNING)}"
        )[-1]
        return (rows[0][0], rows[0][1] == "t") if rows else (None, True)

    def _replay_session(self, earlier: tuple[Unit, ...]) -> None:
        """Set again what earlier statements of the file set for its session."""
        for unit in earlier:
            if unit.session:
                self._send(unit)

    def _finished(self, unit: Unit) -> bool:
        """Tell whether an interrupted unit ran to its end; if it did not, prepare for running it again.

        Raises MigrationFailedError if nobody can know, or if running it again could do harm.
        """
        if unit.built_index is not None:
            valid = self._index_is_valid(unit)
            if valid is False:
                self._drop_index(unit)
            return valid is True
        refused = self._again and unit.words[:1] not in (("CALL",), ("DO",))
        if not (refused or repeatable(unit)):
            raise self._in_the_dark(
                f"was interrupted at {unit.progress(self._count)}; it cannot be known whether that took effect"
            )
        return False

    def _in_the_dark(self, why: str) -> MigrationFailedError:
        """Return the error for a file that a person has to look at."""
        file = self._task.migration.file
        return MigrationFailedError(
            f"{file.name} {why}",
            remedy="Look which of its statements took effect. Then finish it by hand and set its row's status to "
            "'completed', or take what took effect out of the file, or undo it, and delete the row.",
            version=file.number,
            file=file.name,
        )

    # Running.

    def _run_inside(self, unit: Unit, following: Unit | None) -> None:
        """Run a unit in a transaction of its own, behind the fence, with the row that says what comes next."""
        begin = self._begin(unit.begin, self._task.ddl_lock_timeout_ms)
        self._fenced(begin)
        self._send(unit)
        try:
            self._query(f"{self._row(following)}\nCOMMIT")
        except StatementError as error:
            raise Refused(self._task.migration, error, statement_start=unit.start) from error

    def _run_alone(self, unit: Unit) -> None:
        timeout = 0 if unit.concurrently else self._task.ddl_lock_timeout_ms
        self._query(
            f"SET statement_timeout = {self._task.deadline.milliseconds()}; SET lock_timeout = {timeout}; "
            f"{transactions.session_survival(self._worker.server_version)}"
        )
        try:
            self._send(unit)
        except Refused as refusal:
            if unit.built_index is not None and refusal.error.sqlstate != _DUPLICATE_TABLE:
                # What a failed concurrent build leaves behind would stand in the way of the next attempt.
                self._drop_invalid(unit)
            raise
        if self._worker.in_transaction:
            file = self._task.migration.file
            raise MigrationFailedError(
                f"{file.name} leaves a transaction open; that transaction was rolled back",
                remedy="End it with COMMIT in the same file.",
                version=file.number,
                file=file.name,
            )
        if unit.words[:1] == ("DISCARD",):
            self._lock_session()

    def _send(self, unit: Unit) -> None:
        """Send the file's own statements, and watch them."""
        task, worker = self._task, self._worker
        # A unit that runs alone may commit within, or wait for others without being in anybody's way.
        task.work_on(unit.number, task.lease.place.backend_pid, transaction=unit.number, limited=bool(unit.begin))
        worker.on_notice = task.log_notice
        try:
            worker.script(unit.sql, task.patience, lambda _result: None)
        except StatementError as error:
            offset = None if error.position is None else unit.start + error.position
            raise Refused(task.migration, error, statement_start=unit.start, offset=offset) from error
        finally:
            worker.on_notice = None

    # The row.

    def _record(self, following: Unit | None) -> None:
        """Commit, behind the fence, that `following` is next; without one, that the file is completed."""
        self._fenced(self._begin(transactions.READ_COMMITTED, self._task.patience.milliseconds()))
        self._query(f"{self._row(following)}\nCOMMIT")

    def _row(self, following: Unit | None) -> str:
        task = self._task
        progress = task.lease.progress(task.following) if following is None else ""
        return (
            _OWN_SESSION
            + recording.row(
                self._place,
                task.migration.file,
                task.assignment.app_version,
                status=ledger.COMPLETED if following is None else ledger.RUNNING,
                message=None if following is None else logs.redact(following.progress(self._count)),
                milliseconds=round((time.monotonic() - self._began) * 1000),
            )
            + progress
        )

    def _fenced(self, begin: str) -> None:
        task = self._task
        ours(task, lambda: task.lease.open(begin, task.patience))

    def _begin(self, statement: str, lock_timeout_ms: int) -> str:
        return transactions.begin(
            self._task.deadline,
            server_version=self._worker.server_version,
            lock_timeout_ms=lock_timeout_ms,
            role=self._task.assignment.role,
            statement=statement,
        )

    # The session.

    def _lock_session(self) -> None:
        """Take the second advisory lock, for as long as this session lives, while the lease is surely ours."""
        for _ in range(_LOCK_TRIES):
            self._fenced(self._begin(transactions.READ_COMMITTED, self._task.ddl_lock_timeout_ms))
            taken = self._query(f"SELECT pg_catalog.pg_try_advisory_lock_shared({self._place.session_key}); COMMIT")[0]
            if taken[0][0] == "t":
                break
            time.sleep(_LOCK_PAUSE)  # A contender tests it at this moment.
        else:
            raise self._task.lease.lost()
        self._query(transactions.session_survival(self._worker.server_version))
        if self._task.assignment.role:
            self._query(f"SET ROLE {identifier(self._task.assignment.role)}")

    def _restore_session(self) -> None:
        """Leave nothing of the file's session to the next file, our lock included. Never raises."""
        if not self._worker.usable:
            return
        self._worker.rollback(Deadline(GRACE))
        try:
            self._worker.query("DISCARD ALL", Deadline(2 * GRACE))
        except (StatementError, ConnectionLostError):
            self._worker.abandon()

    # Indexes that were left half built.

    def _index_is_valid(self, unit: Unit) -> bool | None:
        """Tell whether the unit's index is there and valid; None if it is not there, or somebody is building it now."""
        if unit.built_index is None:
            return None
        name, table = unit.built_index
        rows = self._query(
            "SELECT i.indisvalid FROM pg_catalog.pg_class t "
            "JOIN pg_catalog.pg_index i ON i.indrelid = t.oid JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid "
            f"WHERE t.oid = pg_catalog.to_regclass({literal(table)}) AND c.relname = {literal(_plain(name))} "
            "AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = c.oid)"
        )[-1]
        return rows[0][0] == "t" if rows else None

    def _drop_index(self, unit: Unit) -> None:
        if unit.built_index is None:
            return
        name, table = unit.built_index
        schema = table.rpartition(".")[0].strip()
        if not schema:
            rows = self._query(
                "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_class t "
                "JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace "
                f"WHERE t.oid = pg_catalog.to_regclass({literal(table)})"
            )[-1]
            schema = (rows[0][0] if rows else None) or ""
        qualified = f"{schema}.{name}" if schema else name
        logs.event(
            logs.WARNING,
            "migration.invalid_index",
            f"dropping the invalid index {qualified} that an unfinished build left",
            file=self._task.migration.file.name,
            index=qualified,
        )
        self._query(f"DROP INDEX CONCURRENTLY IF EXISTS {qualified}")

    def _drop_invalid(self, unit: Unit) -> None:
        try:
            if self._index_is_valid(unit) is False:
                self._drop_index(unit)
        except Refused as refusal:
            logs.event(logs.WARNING, "migration.invalid_index", f"an invalid index was left: {refusal}")

    def _query(self, sql: str) -> list[list[tuple[str | None, ...]]]:
        return ours(self._task, lambda: self._worker.query(sql, self._task.patience))


# For the rest of a transaction, in which the file's statement may have changed these.
_OWN_SESSION = "SET LOCAL search_path = pg_catalog; "


def _plain(name: str) -> str:
    """Return an identifier as the catalogue has it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
