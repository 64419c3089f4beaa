"""What can end a start that has something to migrate, or that finds files or a ledger which it must refuse."""

from __future__ import annotations

from entrypoint.errors import ConfigurationError, DatabaseUnavailableError, EntrypointError


class ForeignLedgerError(ConfigurationError):
    """The table `schema_migrations` belongs to another tool."""

    event = "ledger.foreign"


class SecondLedgerError(ConfigurationError):
    """Another schema's ledger has these migrations already, so that a new one would have them run again."""

    event = "ledger.elsewhere"


class ClosedSchemaError(ConfigurationError):
    """The `search_path` names a schema with a ledger that this user may not use, until somebody grants that."""


class BelowFloorError(ConfigurationError):
    """The image lacks a migration that every image must have, since one with a floor was applied."""

    event = "schema.below_floor"


class MigrationFilesError(EntrypointError):
    """The migration files cannot be used as they are; `faults` lists every reason, a line each."""

    event = "files.invalid"

    def __init__(self, message: str, *, faults: tuple[str, ...], remedy: str = "") -> None:
        """Take all `faults` at once: whoever mends the files wants to see them together. None if that is done."""
        super().__init__(message, remedy=remedy, faults=list(faults) or None)
        self.faults = faults


class OutOfOrderError(MigrationFilesError):
    """A pending migration has a lower number than the newest applied one, and MIGRATION_OUT_OF_ORDER is `refuse`."""

    event = "migration.out_of_order"


class ReadOnlyError(DatabaseUnavailableError):
    """The server does not accept writes, and there is something to write."""

    event = "database.read_only"


class ReportedError(EntrypointError):
    """A failure of which there is more to say than fits in one line, such as what another program printed."""

    def __init__(self, message: str, *, report: str = "", remedy: str = "", **fields: object) -> None:
        """Take the one-line `message` and the `report` of several lines, if there is one."""
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
    """A migration did not get in."""

    event = "migration.failed"


class MigrationFailedError(ReportedError, MigrationError):
    """PostgreSQL refused the migration; `report` shows it as psql would."""

    change = ""
    """What to change about the file, as the beginning of a remedy, whatever becomes of the record of its failure."""

    place = ""
    """Where in the file to go on when it is mended, as the last line of the record; empty if at its beginning."""


class MigrationHeldBackError(MigrationError):
    """A migration failed at an earlier start, and nothing has changed since."""

    event = "migration.held_back"


class CommandFailedError(ReportedError, MigrationError):
    """Another migration tool (MIGRATION_COMMAND) has failed; `report` is the end of what it printed."""

    event = "command.failed"


class MigrationRequiresError(MigrationError):
    """A migration needs another one completed before it, and that is not."""

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
    """The environment kept a migration from running: nothing is wrong with it; `report` is as of one that failed."""

    event = "migration.prevented"


class MigrationLostError(MigrationError):
    """The connection was lost again and again, at the same statement."""

    event = "migration.lost"


class LockTimeoutError(EntrypointError):
    """Somebody else held the migration lock for longer than we may wait."""

    event = "lock.timeout"


class LeaseLostError(EntrypointError):
    """The migration lock was ours and is not any more."""

    event = "lock.lost"

    def __init__(self, message: str, *, remedy: str = "", by_operator: bool) -> None:
        """Say whether an operator took it, who wants us to stop, or another replica, whose turn it then is."""
        super().__init__(message, remedy=remedy, by_operator=by_operator)
        self.by_operator = by_operator
