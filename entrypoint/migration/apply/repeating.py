"""Applies the repeatable files that are due, all in one transaction together with their records."""

from __future__ import annotations

import time

from entrypoint import logs, signals
from entrypoint.counts import count
from entrypoint.database import session_state, transactions
from entrypoint.database.answers import StatementError
from entrypoint.errors import ConnectionLostError
from entrypoint.errors.migration import MigrationFailedError, MigrationTimeoutError
from entrypoint.migration.apply import transactional
from entrypoint.migration.apply.attempt import Refused, Task, run_ours
from entrypoint.migration.apply.doubt import InDoubt
from entrypoint.migration.apply.leader import TO_BE_DROPPED, Leader, spot_of
from entrypoint.migration.apply.standing import Trace
from entrypoint.migration.ledger import repeated, tables, writing
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from entrypoint.migration.ledger.repeatables import Judged, Repeats
    from entrypoint.migration.script.files import Repeatable
    from entrypoint.migration.script.prepare import Prepared

_PATIENCE = 30.0
_ITS_OWN_TIME = "-- entrypoint: timeout"


class AppliedRepeatables(NamedTuple):
    """The files that were applied in one transaction."""

    names: tuple[str, ...]
    seconds: float


def name_of(migration: Prepared) -> str:
    """Return the name of a repeatable file."""
    return migration.file.name.rpartition("/")[2].removesuffix(".sql")


class Repeater(Leader):
    """A leader that applies repeatable files, after the migrations."""

    _files: Mapping[str, Repeatable] = {}

    def repeat(
        self, prepared: Sequence[Prepared], kept: frozenset[int], refreshed: Collection[str]
    ) -> AppliedRepeatables:
        """Apply those of the `prepared` files that are due, in this order. If it raises, none is applied.

        `prepared`: all repeatable files. `kept`: the migrations whose rows must still exist afterwards. `refreshed`:
        the names of the files whose objects this run has dropped, which are due even if they have not changed. Raises
        EntrypointError.
        """
        repeats, directory = self._assignment.repeats, self._assignment.directory
        if repeats is None:
            return AppliedRepeatables((), 0.0)
        due = {file.name: file for file in self._judged(repeats).due}
        due |= {
            file.name: file for file in directory.repeatables if file.name in repeats.forced or file.name in refreshed
        }
        self._files, self._kept = due, kept
        migrations = [one for one in prepared if name_of(one) in due]
        if not migrations:
            return AppliedRepeatables((), 0.0)
        began = time.monotonic()
        self._assignment.board.pending = self._assignment.board.done + len(migrations)
        with self._watcher(migrations) as watcher:
            deadline = self._clocks.turn_to()
            tasks = [
                Task(
                    self._assignment,
                    self._lease,
                    one,
                    None,
                    deadline,
                    watcher,
                    self._lock_patience(one),
                    kept=kept,
                    repeatable=name_of(one),
                )
                for one in migrations
            ]
            self._until_committed(tasks)
        done = AppliedRepeatables(tuple(task.migration.file.name for task in tasks), time.monotonic() - began)
        logs.event(
            logs.INFO,
            "repeatable.applied",
            f"applied {count(len(tasks), 'repeatable file')} in {done.seconds * 1000:.0f} ms: {', '.join(done.names)}",
            files=list(done.names),
            duration_ms=round(done.seconds * 1000),
        )
        return done

    def make_table(self) -> None:
        """Create the table `repeatable_migrations` if it does not exist. Raises EntrypointError."""
        place, role, patience = self._lease.place, self._assignment.role, self._clocks.turn_to().within(_PATIENCE)
        try:
            if not repeated.exists(self._worker, place, role, patience):
                self._lease.open(patience, lock_timeout_ms=patience.milliseconds() // 2 + 1)
                self._worker.query(f"SET LOCAL client_min_messages = warning; {repeated.ddl(place)}\nCOMMIT", patience)
        except StatementError as error:
            raise self._refused(error, "could not create the table repeatable_migrations") from error
        finally:
            self._worker.rollback(patience)

    def _judged(self, repeats: Repeats) -> Judged:
        patience = self._clocks.turn_to().within(_PATIENCE)
        try:
            known = repeated.read(self._worker, self._lease.place, self._assignment.role, patience)
        except StatementError as error:
            raise self._refused(error, "could not read the texts of repeatable files") from error
        return repeated.judge_meanwhile(known, self._assignment.directory, repeats)

    def _until_committed(self, tasks: Sequence[Task]) -> None:
        """Apply all files in one transaction. Retry temporary errors until the time is up."""
        attempt = 1
        self._blocker, self._why, self._passing = None, "", ""
        while True:
            trace = Trace()
            one = _Current(tasks[0])
            signals.raise_received()
            if one.task.deadline.passed():
                raise self._out_of_time(one.task)
            try:
                self._lease.check_guard()
                self._attempt(tasks, trace, one)
            except InDoubt as doubt:
                self._remember(one.task.watcher.stand_down())
                self._after_lost_commit(tasks[-1], doubt)
                return
            except Refused as refusal:
                watched = one.task.watcher.stand_down()
                self._roll_back(one.task, trace, refusal)
                self._judge(one.task, refusal, attempt, watched)
            except MigrationFailedError as failure:
                self._record_failure(one.task, failure)
                raise
            except ConnectionLostError as lost:
                spot = spot_of(one.task)
                self._remember(one.task.watcher.stand_down())
                self._raise_if_committed(one.task, trace)
                raise self._explain(one.task, lost, spot) from lost
            else:
                return
            finally:
                one.task.watcher.stand_down()
            attempt += 1

    def _attempt(self, tasks: Sequence[Task], trace: Trace, one: _Current) -> None:
        lease, assignment = self._lease, self._assignment
        transaction_id, backend_pid = transactional.begin(tasks[0], trace)
        for index, task in enumerate(tasks):
            one.task = task
            if index:
                self._between(task)
            assignment.board.begin(task.migration.file.name)
            if not transactional.execute(task, trace, backend_pid):
                raise self._file_ended_transaction(task)
        last = tasks[-1]
        parts = [
            session_state.restore(pooled=self._worker.login_pid != lease.place.backend_pid),
            transactions.limits(last.limit, server_version=self._worker.server_version, role=assignment.role),
        ]
        if any(tables.mentions(task.migration.text) for task in tasks):
            parts += ["SET LOCAL client_min_messages = warning;", tables.ddl(lease.place)]
        newest, version = assignment.directory.newest, assignment.app_version
        parts += [lease.reassert(), writing.kept(lease.place, self._kept)]
        parts += [repeated.applied(lease.place, self._files[task.repeatable], newest, version) for task in tasks]
        parts += [lease.progress(None), "COMMIT"]
        try:
            run_ours(last, lambda: self._worker.query("\n".join(parts), last.patience))
        except ConnectionLostError as lost:
            raise InDoubt(transaction_id, lost) from lost

    def _between(self, task: Task) -> None:
        """Reset the session after one file, for the next one."""
        parts = (
            session_state.restore(pooled=self._worker.login_pid != self._lease.place.backend_pid),
            transactions.limits(task.limit, server_version=self._worker.server_version, role=self._assignment.role),
            f"SET LOCAL lock_timeout = {task.ddl_lock_timeout_ms};",
            *session_state.FRESH,
        )
        run_ours(task, lambda: self._worker.query("\n".join(parts), task.patience))

    def _failure(self, task: Task, refusal: Refused) -> MigrationFailedError:
        name = name_of(task.migration)
        remedy = "All repeatable files were rolled back, and every start tries them again. Correct the file."
        if refusal.error.sqlstate in TO_BE_DROPPED:
            remedy = (
                "PostgreSQL cannot replace it in place: drop it (DROP ... IF EXISTS) in a new migration with the "
                f"line `-- entrypoint: refresh = {name}` at the top, so that this file is applied after it. {remedy}"
            )
        failure = refusal.failure(task.lease.place.schema, remedy=remedy)
        # The number of a repeatable file is only borrowed: that of the newest migration.
        failure.fields.pop("version", None)
        return failure

    def _out_of_time(self, task: Task, waited: str = "") -> MigrationTimeoutError:
        error = super()._out_of_time(task, waited)
        if _ITS_OWN_TIME in error.remedy:
            # These files cannot have their own timeout: they are one transaction.
            error.remedy = "Raise MIGRATION_TIMEOUT_MS, or move what takes long into a migration. Then start again."
        return error

    def _plain_failure(self, task: Task, refusal: Refused) -> MigrationFailedError:
        return self._failure(task, refusal)

    def _failed_row(self, task: Task, message: str) -> str:
        """Record it in `repeatable_migrations`, not in the ledger, which only has rows for numbered migrations."""
        file, directory = self._files[task.repeatable], self._assignment.directory
        return repeated.failed(self._lease.place, file, directory.newest, self._assignment.app_version, message)


class _Current:
    """The file that an attempt has reached."""

    def __init__(self, task: Task) -> None:
        self.task = task
