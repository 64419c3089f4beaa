"""Translate PostgreSQL's refusals of our own statements into this program's errors."""

from __future__ import annotations

from entrypoint.database import classify
from entrypoint.database.classify import Trouble
from entrypoint.database.sqlstate import (
    DEPENDENT_OBJECTS_STILL_EXIST,
    FEATURE_NOT_SUPPORTED,
    INSUFFICIENT_PRIVILEGE,
    INVALID_PARAMETER_VALUE,
    UNDEFINED_OBJECT,
)
from entrypoint.deadline import Deadline
from entrypoint.errors import ConfigurationError, EntrypointError
from entrypoint.errors.migration import MigrationError, ReadOnlyError
from entrypoint.migration.ledger import privileges, readonly, writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.answers import StatementError
    from entrypoint.database.session import Session

# Seconds for asking what is missing.
_PATIENCE = 5.0
_IN_THE_WAY = (FEATURE_NOT_SUPPORTED, DEPENDENT_OBJECTS_STILL_EXIST)
_NO_SUCH_ROLE = (INVALID_PARAMETER_VALUE, UNDEFINED_OBJECT)


def refused_on(
    session: Session | None, schema: str | None, role: str | None, error: StatementError, doing: str, *, reading: bool
) -> EntrypointError:
    """Return the error for a refused statement of our own; `doing` is a clause that says what failed.

    This asks PostgreSQL which privilege is missing, what is read-only, or whether the role exists, and rolls back the
    open transaction of `session` first. `schema` and `role` are the settings. `reading`: whether the caller only reads
    the ledger and never writes it.
    """
    message = f"{doing[0].upper()}{doing[1:]}: {error.primary}"
    if session is not None and not session.usable:
        session = None
    if classify.is_read_only(error.sqlstate):
        facts = None if session is None else readonly.ask(session, Deadline(_PATIENCE))
        return _read_only(facts, message, error.sqlstate)
    if error.sqlstate in _NO_SUCH_ROLE and role and _lacks_role(session, role):
        return ConfigurationError(
            f"MIGRATION_ROLE cannot be used: {error.primary}", remedy="Check its name.", **_facts(error)
        )
    refused = _refused(error, message)
    if error.sqlstate == INSUFFICIENT_PRIVILEGE and not error.hides_rows:
        remedy = None if session is None else _grants(session, schema, role, reading=reading)
        refused.remedy = remedy or refused.remedy
    return refused


def lacking(session: Session, schema: str, role: str | None, error: StatementError) -> Trouble | None:
    """Return which privilege on the ledger is missing, if that is why a statement of ours was refused."""
    if error.sqlstate != INSUFFICIENT_PRIVILEGE or error.hides_rows or not session.usable:
        return None
    remedy = _grants(session, schema, role, reading=False)
    return None if remedy is None else Trouble("this user lacks a privilege on the migration history", remedy)


def takes_no_writes(session: Session, message: str, sqlstate: str, *, pooled: bool) -> ReadOnlyError | None:
    """Return the error for a file whose write was refused, if the server accepts no writes; None if the file is why.

    A file can make its own transaction or session read-only, or write to another server that is read-only. `pooled`:
    whether the session's settings may come from another client.
    """
    facts = readonly.ask(session, Deadline(_PATIENCE)) if session.usable else None
    if facts is not None and not facts.standby and (not facts.on or (facts.set_in_session and not pooled)):
        return None
    return _read_only(facts, message, sqlstate)


def read_only_by_default(session: Session, message: str) -> ReadOnlyError:
    """Return the error for a primary whose sessions are read-only by default."""
    return _read_only(readonly.ask(session, Deadline(_PATIENCE)), message, None)


def read_only(message: str, sqlstate: str | None = None) -> ReadOnlyError:
    """Return the error for a server that accepts no writes."""
    return ReadOnlyError(
        message,
        remedy="Run migrations on the primary: set MIGRATION_DATABASE_URL to it, or add "
        "target_session_attrs=read-write to a URL with several hosts.",
        sqlstate=sqlstate,
    )


def _read_only(facts: readonly.ReadOnlyFacts | None, message: str, sqlstate: str | None) -> ReadOnlyError:
    refused = read_only(message, sqlstate)
    if facts is None:
        name = readonly.SETTING
        refused.remedy += f" Or {name} is on: SELECT source FROM pg_settings WHERE name = '{name}'."
    elif facts.on and not facts.standby:
        refused.remedy = readonly.remedy(facts)
    return refused


def _lacks_role(session: Session | None, role: str) -> bool:
    """Tell whether the role is missing. Without an answer, the refusal is taken to mean that."""
    exists = None if session is None else privileges.role_exists(session, role, Deadline(_PATIENCE))
    return not exists


def _grants(session: Session, schema: str | None, role: str | None, *, reading: bool) -> str | None:
    """Return the remedy with the GRANT to type, if we know one."""
    facts = privileges.ask(session, schema, role, Deadline(_PATIENCE), reading=reading)
    if facts is not None and facts.superuser and not facts.takes_role:
        return (
            f"MIGRATION_ROLE is a superuser, {facts.role}, and {facts.login} should not become one. Set it to the "
            "role that should own the migration history, and GRANT that role; or set MIGRATION_DATABASE_URL to its "
            "owner."
        )
    if facts is None or not (grants := privileges.grants(facts, reading=reading)):
        return None
    other = "MIGRATION_ROLE" if facts.takes_role else "another MIGRATION_ROLE"
    return (
        f"As the owner, or as a superuser: {'; '.join(grants)}. Or set MIGRATION_DATABASE_URL to a user with these "
        f"privileges, or {other} to a role with them."
    )


def _facts(error: StatementError) -> dict[str, str | None]:
    return {"sqlstate": error.sqlstate, "detail": error.detail, "hint": error.hint}


def _refused(error: StatementError, message: str) -> MigrationError:
    """Return the error as far as it is known without asking PostgreSQL."""
    if writing.is_not_written(error):
        message = f"{message.removesuffix(error.primary)}PostgreSQL reported no error but did not write the row"
        remedy = "A trigger or rule on schema_migrations blocks the row. Drop it and start again."
    elif error.hides_rows:
        remedy = (
            "Row-level security on that table hides rows from this user. As its owner: ALTER TABLE … DISABLE ROW LEVEL "
            "SECURITY; or, as a superuser: ALTER ROLE … BYPASSRLS; or set MIGRATION_DATABASE_URL or MIGRATION_ROLE to "
            "its owner."
        )
    elif error.sqlstate == INSUFFICIENT_PRIVILEGE:
        remedy = (
            "Let the migration user create and change the migration history in that schema, or set "
            "MIGRATION_DATABASE_URL to a user that owns it, or MIGRATION_ROLE to a role that does."
        )
    elif error.sqlstate in _IN_THE_WAY:
        remedy = (
            "A view or another object depends on the tables of the migration history, and PostgreSQL cannot change a "
            "column it uses. Drop that object, start, and create it again."
        )
    elif trouble := classify.trouble(error.sqlstate):
        message, remedy = f"{message} ({trouble.words})", trouble.remedy
    else:
        remedy = "Check the server's log."
    return MigrationError(message, remedy=remedy, **_facts(error))
