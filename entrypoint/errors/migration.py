"""Errors of a start that has something to migrate, or that must refuse the files or the ledger it finds."""

from __future__ import annotations

from entrypoint.errors import ConfigurationError, DatabaseUnavailableError, EntrypointError


class ForeignLedgerError(ConfigurationError):
    """The table `schema_migrations` belongs to another tool."""

    event = "ledger.foreign"


class SecondLedgerError(ConfigurationError):
    """Another schema's ledger already has these migrations, so with a new one they would all run again."""

    event = "ledger.elsewhere"


class ClosedSchemaError(ConfigurationError):
    """The `search_path` includes a schema with a ledger, but this user may not use that schema."""


class BelowFloorError(ConfigurationError):
    """The image lacks a migration that every image needs since a migration with a floor was applied."""

    event = "schema.below_floor"


class MigrationFilesError(EntrypointError):
    """The migration files have errors; `faults` lists all of them, one line each."""

    event = "files.invalid"

    def __init__(self, message: str, *, faults: tuple[str, ...], remedy: str = "") -> None:
        """Take all `faults` at once, because people want to fix them together; none if they are already printed."""
        super().__init__(message, remedy=remedy, faults=list(faults) or None)
        self.faults = faults


class OutOfOrderError(MigrationFilesError):
    """A pending migration has a lower number than the newest applied one, and MIGRATION_OUT_OF_ORDER is `refuse`."""

    event = "migration.out_of_order"


class ReadOnlyError(DatabaseUnavailableError):
    """The server does not accept writes, and there is something to write."""

    event = "database.read_only"


class ReportedError(EntrypointError):
    """An error with more to say than fits on one line, such as the output of another program."""

    def __init__(self, message: str, *, report: str = "", remedy: str = "", **fields: object) -> None:
        """Take the one-line `message`, and a `report` of several lines if there is one."""
        super().__init__(message, remedy=remedy, **fields)
        self._report = report

    @property
    def report(self) -> str:
        """Several lines, or nothing."""
        return self._report

    @report.setter
    def report(self, report: str) -> None:
        self._report = report


class MigrationError(EntrypointError):
    """A migration was not applied."""

    event = "migration.failed"


class MigrationFailedError(ReportedError, MigrationError):
    """PostgreSQL rejected the migration; `report` shows the error as psql would."""

    change = ""
    """What to change in the file: the start of a remedy, valid whether or not the failure could be recorded."""

    place = ""
    """Where in the file to continue once it is fixed, as the last line of the record; empty for the beginning."""


class MigrationHeldBackError(MigrationError):
    """A migration failed on a previous run, and nothing has changed since."""

    event = "migration.held_back"


class CommandFailedError(ReportedError, MigrationError):
    """Another migration tool (MIGRATION_COMMAND) failed; `report` is the end of its output."""

    event = "command.failed"


class MigrationRequiresError(MigrationError):
    """A migration requires another one that is not completed."""

    event = "migration.requires"


class HistoryRefusedError(MigrationError):
    """The history of another tool has a migration that failed or is not finished."""

    event = "adopt.refused"


class MigrationTimeoutError(MigrationError):
    """The time for all migrations together ran out."""

    event = "migration.timeout"


class MigrationStoppedError(MigrationError):
    """An operator cancelled the statement or ended its session."""

    event = "migration.stopped"


class MigrationPreventedError(ReportedError, MigrationError):
    """The environment prevented a migration; the file is fine. `report` is like that of a failed migration."""

    event = "migration.prevented"


class MigrationLostError(MigrationError):
    """The connection was lost again and again at the same statement."""

    event = "migration.lost"


class LockTimeoutError(EntrypointError):
    """Somebody else held the migration lock for longer than we may wait."""

    event = "lock.timeout"


class LeaseLostError(EntrypointError):
    """We held the migration lock and lost it."""

    event = "lock.lost"

    def __init__(self, message: str, *, remedy: str = "", by_operator: bool) -> None:
        """Say whether an operator took the lock, and so wants us to stop, or another replica did."""
        super().__init__(message, remedy=remedy, by_operator=by_operator)
        self.by_operator = by_operator
