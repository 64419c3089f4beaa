"""Everything that can end a start, as one tree.

    EntrypointError
    ├── UsageError               the command line does not say what to do
    │   └── NotConfirmedError        nobody has agreed to what would be changed
    ├── ConfigurationError       a variable has a bad value; the address is malformed
    │   ├── ForeignLedgerError   `schema_migrations` belongs to another tool
    │   ├── SecondLedgerError    another schema records these migrations already
    │   ├── ClosedSchemaError    the ledger's schema may not be used
    │   └── BelowFloorError      this image is older than the schema lets start
    ├── MigrationFilesError      the migration files cannot be used; lists every fault
    │   └── OutOfOrderError          a pending one comes before what is applied, and that is to be refused
    ├── DatabaseUnavailableError no connection, or not one that can be written to
    │   ├── ConnectionLostError  an open connection ended
    │   └── ReadOnlyError        a standby, or a database that is set to read-only
    ├── MigrationError           a migration did not get in
    │   ├── MigrationFailedError       PostgreSQL refused it; recorded as `failed`
    │   ├── MigrationHeldBackError     it failed earlier and nobody has changed that
    │   ├── CommandFailedError         another migration tool has failed
    │   ├── MigrationRequiresError     it needs another one completed before it
    │   ├── HistoryRefusedError        another tool's history is in a state from which nobody should go on
    │   ├── MigrationTimeoutError      the time for all migrations ran out
    │   ├── MigrationStoppedError      an operator cancelled it
    │   ├── MigrationPreventedError    the server's disk, memory or the like did not let it run
    │   └── MigrationLostError         the connection was lost too often at the same statement
    ├── BackupFailedError        no backup was taken, or an older one could not be deleted
    ├── LedgerChangedError       the ledger is not any more what the operator was shown
    ├── NotRepairedError         what is to be repaired belongs to a file that this image does not have
    ├── LockHeldError            the lock's holder lives, and is not to be robbed
    ├── LockTimeoutError         somebody else held the lock for longer than we may wait
    ├── WaitTimeoutError         the schema was not there in time; `wait` does nothing about it
    └── LeaseLostError           we held the lock and do not hold it any more

An error carries its facts (`fields`, for the log) and what to do about it (`remedy`); a ReportedError also what there
is to say in several lines. Which exit code it gets is decided in `entrypoint.__main__`, nowhere else.

Every start imports this module, so only what every start needs stands in it: a class costs more of its time than the
rest of a small module (docs/startup-cost.md). The others are in `errors.migration`, which a start imports where it has
something to do or to refuse, and `errors.operator`, of the commands that people type.
"""

from __future__ import annotations


class EntrypointError(Exception):
    """A failure with a cause in words, a remedy, and facts for the log."""

    event = "entrypoint.failed"
    schema_version: int | None = None
    """The schema's version at that moment, where it is known."""
    applied: tuple[str, ...] = ()
    """The names of the migrations that were applied before it, in this run."""

    def __init__(self, message: str, *, remedy: str = "", **fields: object) -> None:
        """Take the cause as one `message`, the `remedy` as one sentence, and `fields` as the log's own."""
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.fields = {name: value for name, value in fields.items() if value is not None}

    @property
    def report(self) -> str:
        """What there is to say in several lines, such as the error as psql shows it; empty if there is nothing."""
        return str(self.fields.get("report") or "")

    def __reduce__(self) -> tuple[object, ...]:
        """Let it be pickled whatever its kind takes to be made: other processes' errors reach Python that way."""
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
    """A connection that was open has ended, or did not answer in time."""

    event = "database.lost"
    starved = False
    """Whether we were let in and then got no answer: a pooler may have no server connection for us."""

    @property
    def sqlstate(self) -> str | None:
        """What the server said before it closed the connection, if it said anything."""
        value = self.fields.get("sqlstate")
        return value if isinstance(value, str) else None
