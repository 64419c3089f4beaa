"""Everything that can end a start, as one tree.

    EntrypointError
    ├── UsageError               the command line is invalid
    │   └── NotConfirmedError        a change was not confirmed
    ├── ConfigurationError       a variable has an invalid value; the address is malformed
    │   ├── ForeignLedgerError   `schema_migrations` belongs to another tool
    │   ├── SecondLedgerError    another schema already records these migrations
    │   ├── ClosedSchemaError    this user may not use the ledger's schema
    │   └── BelowFloorError      this image is too old for the schema
    ├── MigrationFilesError      the migration files have errors; lists all of them
    │   └── OutOfOrderError          a pending file comes before an applied one, and MIGRATION_OUT_OF_ORDER=refuse
    ├── DatabaseUnavailableError no connection, or none that can be written to
    │   ├── ConnectionLostError  an open connection ended
    │   └── ReadOnlyError        a standby, or a database that is set to read-only
    ├── MigrationError           a migration was not applied
    │   ├── MigrationFailedError       PostgreSQL rejected it; recorded as `failed`
    │   ├── MigrationHeldBackError     it failed on a previous run, and nothing has changed since
    │   ├── CommandFailedError         another migration tool failed
    │   ├── MigrationRequiresError     it requires another one, which is not completed
    │   ├── HistoryRefusedError        another tool's history has a failed or unfinished migration
    │   ├── MigrationTimeoutError      the time for all migrations ran out
    │   ├── MigrationStoppedError      an operator cancelled it
    │   ├── MigrationPreventedError    the server's disk, memory or the like prevented it
    │   └── MigrationLostError         the connection was lost too often at the same statement
    ├── BackupFailedError        no backup was written, or an older one could not be deleted
    ├── LedgerChangedError       the ledger is no longer what the operator was shown
    ├── NotRepairedError         the row to repair belongs to a file that this image does not have
    ├── LockHeldError            the lock's holder is alive, so the lock was not freed
    ├── LockTimeoutError         somebody else held the lock for longer than we may wait
    ├── WaitTimeoutError         the schema was not up to date in time (`wait`)
    └── LeaseLostError           we held the lock and lost it

An error carries facts for the log (`fields`) and what to do (`remedy`). A ReportedError also carries a report of
several lines. Only `entrypoint.__main__` decides which exit code an error gets.

Every start imports this module, so it contains only what every start needs: defining a class takes longer than the rest
of a small module (docs/startup-cost.md). The other errors are in `errors.migration`, which a start imports when it has
something to do or to refuse, and in `errors.operator`, for the commands that people type.
"""

from __future__ import annotations


class EntrypointError(Exception):
    """What happened, what to do about it, and facts for the log."""

    event = "entrypoint.failed"
    schema_version: int | None = None
    """The schema's version at that moment, if it is known."""
    applied: tuple[str, ...] = ()
    """The names of the migrations that were applied before it, in this run."""

    def __init__(self, message: str, *, remedy: str = "", **fields: object) -> None:
        """Take one `message` that says what happened, the `remedy`, and the `fields` of the log."""
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.fields = {name: value for name, value in fields.items() if value is not None}

    @property
    def report(self) -> str:
        """Several more lines, such as the error as psql shows it; empty if there are none."""
        return str(self.fields.get("report") or "")

    def __reduce__(self) -> tuple[object, ...]:
        """Make every kind picklable, whatever its constructor takes: so an error can cross processes."""
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[EntrypointError], args: tuple[object, ...], facts: dict[str, object]) -> EntrypointError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class ConfigurationError(EntrypointError):
    """A variable has a value that cannot be used."""

    event = "configuration.invalid"


class DatabaseUnavailableError(EntrypointError):
    """There is no usable connection to the database."""

    event = "database.unavailable"


class ConnectionLostError(DatabaseUnavailableError):
    """An open connection ended, or did not answer in time."""

    event = "database.lost"
    starved = False
    """Whether the login succeeded and then nothing answered: a pooler may have no free server connection."""

    @property
    def sqlstate(self) -> str | None:
        """The SQLSTATE with which the server closed the connection, if it sent one."""
        value = self.fields.get("sqlstate")
        return value if isinstance(value, str) else None
