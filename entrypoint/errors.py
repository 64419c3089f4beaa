"""Everything that can end a start, as one tree.

    EntrypointError
    ├── UsageError               the command line does not say what to do
    │   └── NotConfirmedError        nobody has agreed to what would be changed
    ├── ConfigurationError       a variable has a bad value; the address is malformed
    │   ├── ForeignLedgerError   `schema_migrations` belongs to another tool
    │   ├── SecondLedgerError    another schema records these migrations already
    │   └── ClosedSchemaError    the ledger's schema may not be used
    ├── MigrationFilesError      the migration files cannot be used; lists every fault
    │   └── OutOfOrderError          a pending one comes before what is applied, and that is to be refused
    ├── DatabaseUnavailableError no connection, or not one that can be written to
    │   ├── ConnectionLostError  an open connection ended
    │   └── ReadOnlyError        a standby, or a database that is set to read-only
    ├── MigrationError           a migration did not get in
    │   ├── MigrationFailedError       PostgreSQL refused it; recorded as `failed`
    │   ├── MigrationHeldBackError     it failed earlier and nobody has changed that
    │   ├── HistoryRefusedError        another tool's history is in a state from which nobody should go on
    │   ├── MigrationTimeoutError      the time for all migrations ran out
    │   ├── MigrationStoppedError      an operator cancelled it
    │   ├── MigrationPreventedError    the server's disk, memory or the like did not let it run
    │   └── MigrationLostError         the connection was lost too often at the same statement
    ├── BackupFailedError        no backup was taken, or an older one could not be deleted
    ├── LedgerChangedError       the ledger is not any more what the operator was shown
    ├── LockHeldError            the lock's holder lives, and is not to be robbed
    ├── LockTimeoutError         somebody else held the lock for longer than we may wait
    ├── WaitTimeoutError         the schema was not there in time; `wait` does nothing about it
    └── LeaseLostError           we held the lock and do not hold it any more

An error carries its facts (`fields`, for the log) and what to do about it (`remedy`). Which exit code it
gets is decided in `entrypoint.__main__`, nowhere else.
"""

from __future__ import annotations


class EntrypointError(Exception):
    """A failure with a cause in words, a remedy, and facts for the log."""

    event = "entrypoint.failed"
    schema_version: int | None = None
    """The schema's version at that moment, where it is known."""

    def __init__(self, message: str, *, remedy: str = "", **fields: object) -> None:
        """Take the cause as one `message`, the `remedy` as one sentence, and `fields` as the log's own."""
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.fields = {name: value for name, value in fields.items() if value is not None}


class UsageError(EntrypointError):
    """The command line does not say what to do."""

    event = "usage"


class NotConfirmedError(UsageError):
    """A change needs somebody's consent, and nobody gave it."""

    event = "not_confirmed"


class ConfigurationError(EntrypointError):
    """A variable has a value that cannot be used."""

    event = "configuration.invalid"


class ForeignLedgerError(ConfigurationError):
    """The table `schema_migrations` belongs to another tool."""

    event = "ledger.foreign"


class SecondLedgerError(ConfigurationError):
    """Another schema's ledger has these migrations already, so that a new one would have them run again."""

    event = "ledger.elsewhere"


class ClosedSchemaError(ConfigurationError):
    """The `search_path` names a schema with a ledger that this user may not use, until somebody grants that."""


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


class DatabaseUnavailableError(EntrypointError):
    """There is no usable connection to the database."""

    event = "database.unavailable"


class ConnectionLostError(DatabaseUnavailableError):
    """A connection that was open has ended, or did not answer in time."""

    event = "database.lost"
    starved = False
    """Whether we were let in and then got no answer: a pooler may have no server connection for us."""

    @property
    def sqlstate(self) -> str | None:
        """What the server said before it closed the connection, if it said anything."""
        value = self.fields.get("sqlstate")
        return value if isinstance(value, str) else None


class ReadOnlyError(DatabaseUnavailableError):
    """The server does not accept writes, and there is something to write."""

    event = "database.read_only"


class MigrationError(EntrypointError):
    """A migration did not get in."""

    event = "migration.failed"


class MigrationFailedError(MigrationError):
    """PostgreSQL refused the migration; `report` shows it as psql would."""

    change = ""
    """What to change about the file, as the beginning of a remedy, whatever becomes of the record of its failure."""

    place = ""
    """Where in the file to go on when it is mended, as the last line of the record; empty if at its beginning."""

    def __init__(self, message: str, *, report: str = "", remedy: str = "", **fields: object) -> None:
        """Take the one-line `message` and the `report` of several lines."""
        super().__init__(message, remedy=remedy, **fields)
        self.report = report


class MigrationHeldBackError(MigrationError):
    """A migration failed at an earlier start, and nothing has changed since."""

    event = "migration.held_back"


class HistoryRefusedError(MigrationError):
    """The history of another tool has a migration that failed or is not finished."""

    event = "adopt.refused"


class MigrationTimeoutError(MigrationError):
    """The time for all migrations together ran out."""

    event = "migration.timeout"


class MigrationStoppedError(MigrationError):
    """An operator cancelled the statement or ended its session."""

    event = "migration.stopped"


class MigrationPreventedError(MigrationError):
    """The environment kept a migration from running: nothing is wrong with it; `report` is as of one that failed."""

    event = "migration.prevented"

    def __init__(self, message: str, *, report: str = "", remedy: str = "", **fields: object) -> None:
        """Take the one-line `message` and the `report` of several lines."""
        super().__init__(message, remedy=remedy, **fields)
        self.report = report


class MigrationLostError(MigrationError):
    """The connection was lost again and again, at the same statement."""

    event = "migration.lost"


class BackupFailedError(EntrypointError):
    """There is no backup; `report` is all that the program which was to make it said."""

    event = "backup.failed"

    def __init__(self, message: str, *, report: str = "", remedy: str = "", **fields: object) -> None:
        """Take the one-line `message` and the `report` of several lines, if there is more to say."""
        super().__init__(message, remedy=remedy, **fields)
        self.report = report


class LedgerChangedError(EntrypointError):
    """Somebody changed the ledger between what an operator was shown and the change itself."""

    event = "ledger.changed"


class LockHeldError(EntrypointError):
    """The migration lock has a living holder, and was to be freed."""

    event = "lock.held"


class LockTimeoutError(EntrypointError):
    """Somebody else held the migration lock for longer than we may wait."""

    event = "lock.timeout"


class WaitTimeoutError(EntrypointError):
    """The schema was not there in time, and nobody asked us to do anything but wait."""

    event = "wait.timeout"


class LeaseLostError(EntrypointError):
    """The migration lock was ours and is not any more."""

    event = "lock.lost"

    def __init__(self, message: str, *, remedy: str = "", by_operator: bool) -> None:
        """Say whether an operator took it, who wants us to stop, or another replica, whose turn it then is."""
        super().__init__(message, remedy=remedy, by_operator=by_operator)
        self.by_operator = by_operator
