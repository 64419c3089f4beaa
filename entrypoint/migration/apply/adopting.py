"""Records what another tool has applied, before any of our migrations run.

The transaction that writes the ledger's rows also reads the tool's table. The tool itself does not take our lock. If it
applies something later, the next start that has pending files imported from that tool notices.
"""

from __future__ import annotations

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.database import classify
from entrypoint.database.answers import StatementError
from entrypoint.database.sqlstate import LOCK_NOT_AVAILABLE
from entrypoint.deadline import Deadline, pause
from entrypoint.errors import ConnectionLostError
from entrypoint.errors.migration import LockTimeoutError
from entrypoint.migration.adoption import finding
from entrypoint.migration.adoption.matching import origins, weigh
from entrypoint.migration.adoption.tools import BY_NAME
from entrypoint.migration.apply.ledger_change import Change, change_ledger
from entrypoint.migration.ledger import writing
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.ledger.rows import COMPLETED, LedgerRow, begin_look
from entrypoint.migration.script.rollout import rollout_of
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from entrypoint.database.session import Session
    from entrypoint.migration.adoption.matching import Adoption
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.plan import Plan
    from entrypoint.migration.lock.lease import Lease
    from entrypoint.records import Adopt

# How long to try to read the tool's table if it is locked.
_PATIENCE = 30.0
_LEAST = 1.0
_PAUSE = 0.5
_LEAST_LOOK = 0.2


class Adopter:
    """Takes over a tool's history. Reads the files once, and the database as often as needed."""

    def __init__(self, assignment: Assignment, adopt: Adopt) -> None:
        """Read the origins of the files. Raises MigrationFilesError if two files have the same origin."""
        self._assignment = assignment
        self._adopt = adopt
        self._origins = origins(adopt.tool, assignment.directory.files, by_hand=adopt.by_hand)

    @property
    def tool(self) -> str:
        """The tool's name in its usual spelling."""
        return BY_NAME[self._adopt.tool].shown

    def look(self, session: Session, rows: Sequence[LedgerRow]) -> Adoption | None:
        """Return what would be recorded, without changing anything; None if the tool has no table here.

        Raises EntrypointError if adopting is refused.
        """
        # Limited by the running clock, whichever that is, and by the time for the migrations.
        running, most = self._assignment.clocks.running, self._assignment.apply.timeout
        deadline = Deadline(max(min(_PATIENCE, most, running.remaining()), _LEAST))
        told = False
        while True:
            try:
                session.query(";\n".join(begin_look(self._assignment.role, deadline)), deadline)
                return self.weigh(session, rows, deadline)
            except StatementError as error:
                session.rollback(Deadline(1.0))
                # With less time left, another try would end by its own timeout, before it could name the blocker.
                if not classify.may_pass(error.sqlstate) or deadline.remaining() < _PAUSE + _LEAST_LOOK:
                    raise self._unreadable(session, error) from error
                if not told:
                    self._log_waiting(error)
                told = True
                pause(_PAUSE)
            finally:
                session.rollback(Deadline(1.0))

    def _locked(self) -> LockTimeoutError:
        name = self._adopt.table or BY_NAME[self._adopt.tool].table
        return LockTimeoutError(
            f"Timed out reading the history of {self.tool}: another session has locked its table {foreign(name)}",
            remedy="SELECT * FROM pg_locks WHERE NOT granted OR mode = 'AccessExclusiveLock' shows which session. "
            "End it or wait for it, then start again.",
        )

    def _log_waiting(self, error: StatementError) -> None:
        logs.event(
            logs.WARNING,
            "adopt.waiting",
            f"could not read the history of {self.tool}: {error.primary}; trying again",
            tool=self._adopt.tool,
            sqlstate=error.sqlstate,
        )

    def foresee(self, session: Session, plan: Plan) -> Plan | None:
        """Return the plan as it will be once the tool's history is recorded; None if the connection was lost."""
        rows = rows_of(plan)
        if not plan.pending or not self._origins.worth_a_look(rows):
            return plan
        try:
            adoption = self.look(session, rows)
        except ConnectionLostError as lost:
            # Contending for the lock opens a new connection.
            logs.event(
                logs.DEBUG, "adopt.not_foreseen", f"have not read the history of {self.tool} yet: {lost.message}"
            )
            return None
        if adoption is None or not adoption.files:
            return plan
        recorded = [LedgerRow(file.number, file.name, COMPLETED, file.checksum, None) for file in adoption.files]
        others = [row for row in rows if row.number not in {file.number for file in adoption.files}]
        return self._assignment.plan(sorted([*others, *recorded]))

    def record(self, lease: Lease, plan: Plan, deadline: Deadline) -> bool:
        """Record what the tool has applied, under the lock; tell whether there was anything. Raises EntrypointError."""
        if not plan.pending or not self._origins.worth_a_look(rows_of(plan)):
            return False
        found: list[Adoption | None] = []
        theirs = False

        def choose(session: Session, rows: tuple[LedgerRow, ...], patience: Deadline) -> Change | None:
            nonlocal theirs
            try:
                found[:] = [self.weigh(session, rows, patience)]
            except StatementError as error:
                theirs = error.sqlstate == LOCK_NOT_AVAILABLE
                raise
            theirs = False
            return self.change(lease.place, found[0])

        try:
            change_ledger(self._assignment, lease, choose, self.numbers, deadline)
        except LockTimeoutError as error:
            raise (self._locked() if theirs else error) from error
        self.tell(found[0])
        return bool(found[0] and found[0].files)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers for which rows may be added."""
        return tuple(file.number for file in self._origins.files.values())

    def change(self, place: Place, adoption: Adoption | None) -> Change | None:
        """Return the change to the ledger that records an adoption; None if there is nothing to record."""
        if adoption is None or not adoption.files:
            return None
        version = self._assignment.app_version
        rows = [
            writing.row(place, file, version, status=COMPLETED, milliseconds=0)
            + writing.rollout(place, file.number, rollout_of(file).floor, None)
            for file in adoption.files
        ]
        # All are written together, so checking one of them is enough.
        return Change(rows, writing.is_applied(place, adoption.files[-1].number))

    def tell(self, adoption: Adoption | None) -> None:
        """Log what was recorded, or why nothing was."""
        if adoption is None:
            # If the user named the table, the name may be misspelled: so this is a warning.
            own = self._adopt.table
            name = foreign(".".join(filter(None, (self._adopt.schema, own)))) or BY_NAME[self._adopt.tool].table
            logs.event(
                logs.INFO if own is None else logs.WARNING,
                "adopt.nothing",
                f"this database has no {self.tool} table {name}, so there is nothing to adopt",
                tool=self._adopt.tool,
            )
            return
        tell_differing(self.tool, adoption)
        if not adoption.files:
            logs.event(
                logs.INFO,
                "adopt.nothing",
                f"everything {self.tool} has applied is already recorded here ({adoption.table.shown})",
                tool=self._adopt.tool,
                table=adoption.table.shown,
            )
            return
        logs.event(
            logs.INFO,
            "adopt.recorded",
            f"recorded {count(len(adoption.files), 'migration')} applied by {self.tool} ({adoption.table.shown}) as "
            f"completed, without running {'it' if len(adoption.files) == 1 else 'them'}",
            tool=self._adopt.tool,
            table=adoption.table.shown,
            applied=len(adoption.files),
            version=adoption.files[-1].number,
        )

    def weigh(self, session: Session, rows: Iterable[LedgerRow], patience: Deadline) -> Adoption | None:
        """Do what `look` does, inside a transaction that is already open. Raises StatementError, too."""
        role = self._assignment.role
        table = finding.find(session, self._adopt, role, patience)
        if table is None:
            return None
        return weigh(self._origins, table, finding.read(session, self._adopt, table, patience), tuple(rows))

    def _unreadable(self, session: Session, error: StatementError) -> Exception:
        if error.sqlstate == LOCK_NOT_AVAILABLE:
            return self._locked()
        schema, role = self._assignment.schema, self._assignment.role
        doing = f"the history of {self.tool} could not be read"
        return refused_on(session, schema, role, error, doing, reading=True)


def rows_of(plan: Plan) -> tuple[LedgerRow, ...]:
    """Return the ledger's rows that a plan was made of."""
    return (*plan.applied, *plan.failed, *plan.running)


def tell_differing(tool: str, adoption: Adoption) -> None:
    """Log which files differ from what the tool applied, according to the tool's checksums."""
    names = [file.name for file in adoption.differing]
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        logs.event(
            logs.WARNING,
            "adopt.differs",
            f"{shown}: differs from what {tool} applied, according to its checksum; recorded anyway, as it is now",
            files=names,
        )
