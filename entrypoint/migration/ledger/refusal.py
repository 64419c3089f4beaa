"""PostgreSQL's refusals of our own statements, translated into the errors of this program."""

from __future__ import annotations

from entrypoint.database import classify
from entrypoint.deadline import Deadline
from entrypoint.errors import ConfigurationError, EntrypointError, MigrationError, ReadOnlyError
from entrypoint.migration.ledger import privileges, writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.answers import StatementError
    from entrypoint.database.session import Session

_PERMISSION = "42501"
# For the question what is missing.
_PATIENCE = 5.0
_IN_THE_WAY = ("0A000", "2BP01")
_NO_SUCH_ROLE = ("22023", "42704")


def refused(error: StatementError, doing: str) -> EntrypointError:
    """Return what a refused statement of our own means; `doing` says what failed, as a clause."""
    facts = {"sqlstate": error.sqlstate, "detail": error.detail, "hint": error.hint}
    message = f"{doing[0].upper()}{doing[1:]}: {error.primary}"
    if classify.is_read_only(error.sqlstate):
        return read_only(f"{message}", error.sqlstate)
    if writing.is_not_written(error):
        message = f"{doing[0].upper()}{doing[1:]}: PostgreSQL reported no error, and did not write the row"
        remedy = "A trigger or a rule on schema_migrations keeps it out: drop it, and start again."
    elif error.hides_rows:
        remedy = (
            "Row-level security on that table hides rows from this user. As its owner: ALTER TABLE … DISABLE ROW LEVEL "
            "SECURITY; or, as a superuser: ALTER ROLE … BYPASSRLS; or set MIGRATION_DATABASE_URL or MIGRATION_ROLE to "
            "its owner."
        )
    elif error.sqlstate == _PERMISSION:
        remedy = (
            "Give the migration user the right to create and change the ledger in that schema, or set "
            "MIGRATION_DATABASE_URL to a user that owns it, or MIGRATION_ROLE to a role that does."
        )
    elif error.sqlstate in _NO_SUCH_ROLE and "role" in error.primary:
        return ConfigurationError(f"MIGRATION_ROLE cannot be used: {error.primary}", remedy="Check its name.", **facts)
    elif error.sqlstate in _IN_THE_WAY:
        remedy = (
            "A view or another object depends on the earlier system's tables. Drop it, start, and create it again: "
            "PostgreSQL does not change a column under it."
        )
    elif trouble := classify.trouble(error.sqlstate):
        message, remedy = f"{message} ({trouble.words})", trouble.remedy
    else:
        remedy = "Look into the server's log."
    return MigrationError(message, remedy=remedy, **facts)


def refused_on(
    session: Session | None, schema: str | None, role: str | None, error: StatementError, doing: str, *, reading: bool
) -> EntrypointError:
    """Return what `refused` does; where a privilege is missing, ask PostgreSQL which, and name the GRANT to type.

    The open transaction of `session` is rolled back. `schema` and `role`: what was set, if anything. `reading`:
    whether the ledger was to be read, and never is to be written.
    """
    fault = refused(error, doing)
    if error.sqlstate != _PERMISSION or error.hides_rows or session is None or not session.usable:
        return fault
    facts = privileges.ask(session, schema, role, Deadline(_PATIENCE), reading=reading)
    if facts is not None and (grants := privileges.grants(facts, reading=reading)):
        other = "MIGRATION_ROLE" if facts.takes_role else "another MIGRATION_ROLE"
        fault.remedy = (
            f"As the owner, or as a superuser: {'; '.join(grants)}. Or set MIGRATION_DATABASE_URL to a user that has "
            f"these privileges, or {other} to a role that has."
        )
    return fault


def read_only_by_default(message: str) -> ReadOnlyError:
    """Return the error for a primary whose sessions are read-only because somebody has set them so.

    There are four places for that setting, and the one that counts is in `pg_settings` and `pg_db_role_setting`.
    """
    return ReadOnlyError(
        message,
        remedy="default_transaction_read_only is on. Find where it is set: "
        "SELECT source, sourcefile FROM pg_settings WHERE name = 'default_transaction_read_only'. Then, for the source "
        "user: ALTER ROLE name RESET default_transaction_read_only; database: ALTER DATABASE name RESET …; database "
        "user: ALTER ROLE name IN DATABASE name RESET …; client: remove it from options in the address or PGOPTIONS; "
        "configuration file: set it in postgresql.conf. Or set MIGRATION_DATABASE_URL to an address without it.",
    )


def read_only(message: str, sqlstate: str | None = None) -> ReadOnlyError:
    """Return the error for a server that accepts no writes."""
    return ReadOnlyError(
        message,
        remedy="Migrations run on the primary: set MIGRATION_DATABASE_URL to it, or add "
        "target_session_attrs=read-write to a URL with several hosts.",
        sqlstate=sqlstate,
    )
