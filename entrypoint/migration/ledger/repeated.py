"""The table of the texts of repeatable files: creating it, reading it if it exists, and writing to it."""

from __future__ import annotations

from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import literal
from entrypoint.database.sqlstate import INSUFFICIENT_PRIVILEGE
from entrypoint.deadline import Deadline
from entrypoint.errors.migration import MigrationHeldBackError
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.ledger.repeatables import (
    COLUMNS,
    TABLE,
    Known,
    as_failures,
    as_texts,
    failures_query,
    judge_files,
    query,
)
from entrypoint.migration.ledger.rows import COMPLETED, FAILED, ask
from entrypoint.migration.ledger.search import foreign_ledger, harmless
from entrypoint.migration.ledger.writing import must_be_written
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from entrypoint.database.session import Session
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.repeatables import Judged, Repeats
    from entrypoint.migration.script.files import Directory, Repeatable

_PATIENCE = 5.0
_IN_FORCE = f"replaced_at IS NULL AND status = {literal(COMPLETED)}"


def read(session: Session, place: Place, role: str | None, deadline: Deadline) -> Known:
    """Read the table; return nothing if it does not exist yet. Raises ForeignLedgerError if it is not ours."""
    if not place.ledger or not exists(session, place, role, deadline):
        return Known()
    texts, failures = ask(session, role, deadline, (query(place), failures_query(place)))
    return Known(as_texts(texts), as_failures(failures))


def read_known(
    session: Session,
    place: Place,
    schema: str | None,
    role: str | None,
    patiently: Callable[[Callable[[Deadline], Known]], Known] = lambda read_within: read_within(Deadline(_PATIENCE)),
) -> Known:
    """Do what `read` does, but raise EntrypointError for anything that PostgreSQL refuses.

    `patiently` is called with a function that reads within a deadline. If the table may be locked, it calls that
    function until it works.
    """

    def read_within(patience: Deadline) -> Known:
        return read(session, place, role, patience)

    try:
        return patiently(read_within)
    except StatementError as error:
        doing = "could not read the texts of repeatable files"
        refused = refused_on(session, schema, role, error, doing, reading=True)
        if error.sqlstate == INSUFFICIENT_PRIVILEGE:
            table = foreign(place.table(TABLE))
            refused.remedy = (
                f"GRANT SELECT ON {table} to this user, as on the other tables of the migration history. Or: "
                f"{refused.remedy}"
            )
        raise refused from error


def judge_meanwhile(known: Known, directory: Directory, repeats: Repeats) -> Judged:
    """Return what is still to do. Raises MigrationHeldBackError if it has failed elsewhere since this start began.

    Otherwise the waiting replicas would retry a failing file one after the other.
    """
    judged = judge_files(directory.repeatables, known.texts, directory.newest)
    for file in judged.due:
        failure = known.failure_of(file)
        if failure is not None and failure.id > repeats.seen:
            raise MigrationHeldBackError(
                f"{file.shown} failed in another replica, so this start did not try it again",
                remedy="PostgreSQL's error is in entrypoint status. The next start tries it again.",
                file=file.shown,
            )
    return judged


def exists(session: Session, place: Place, role: str | None, deadline: Deadline) -> bool:
    """Tell whether the table exists. Raises ForeignLedgerError if it is not ours, or its owner is not trusted."""
    columns = "FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    sql = (
        f"SELECT c.relkind, {harmless('c.relowner', role)}, "
        f"(SELECT string_agg(a.attname::text, chr(10)) {columns}), pg_get_userbyid(c.relowner) "
        "FROM pg_class c JOIN pg_namespace place ON place.oid = c.relnamespace "
        f"WHERE c.oid = to_regclass({literal(place.table(TABLE))})"
    )
    (rows,) = ask(session, role, deadline, (sql,))
    for kind, is_trusted, listed, owner in rows:
        what = ""
        if kind != "r" or not set((listed or "").split("\n")) >= COLUMNS:
            what = "was not created by this program"
        elif is_trusted != "t":
            what = f"belongs to {foreign(owner or '')}, and this user has no reason to trust that owner"
        if what:
            raise foreign_ledger(place, f"The table {TABLE} in schema {place.schema!r} {what}")
    return bool(rows)


def ddl(place: Place) -> str:
    """Return the statement that creates the table if it does not exist."""
    return (
        f"CREATE TABLE IF NOT EXISTS {place.table(TABLE)} ("
        "id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text NOT NULL, checksum varchar(64) NOT NULL, "
        "newest_number bigint NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp(), "
        "application_version text, replaced_at timestamptz, replaced_under bigint, "
        f"status text NOT NULL DEFAULT {literal(COMPLETED)}, error_message text);"
    )


def is_in_force(place: Place, name: str, checksum: str) -> str:
    """Return the query that finds a row if this text is recorded as in force."""
    return (
        f"SELECT 1 FROM {place.table(TABLE)} "
        f"WHERE name = {literal(name)} AND checksum = {literal(checksum)} AND {_IN_FORCE}"
    )


def applied(place: Place, file: Repeatable, newest: int, app_version: str | None) -> str:
    """Return the statements that record a text as in force, and fail if it is not recorded afterwards."""
    return (
        f"UPDATE {place.table(TABLE)} SET replaced_at = pg_catalog.clock_timestamp(), replaced_under = {newest} "
        f"WHERE name = {literal(file.name)} AND {_IN_FORCE};\n"
        f"{_settled(place, file)}\n"
        f"INSERT INTO {place.table(TABLE)} (name, checksum, newest_number, applied_at, application_version) VALUES "
        f"({literal(file.name)}, {literal(file.checksum)}, {newest}, pg_catalog.clock_timestamp(), "
        f"{literal(app_version)});\n"
        f"{must_be_written(1)} FROM {place.table(TABLE)} "
        f"WHERE name = {literal(file.name)} AND checksum = {literal(file.checksum)} AND {_IN_FORCE};"
    )


def failed(place: Place, file: Repeatable, newest: int, app_version: str | None, message: str) -> str:
    """Return the statements that record that PostgreSQL has refused a text. They replace an earlier failure."""
    values = (file.name, file.checksum, app_version, FAILED, message)
    return (
        f"{_settled(place, file)}\n"
        f"INSERT INTO {place.table(TABLE)} (newest_number, applied_at, name, checksum, application_version, status, "
        f"error_message) VALUES ({newest}, pg_catalog.clock_timestamp(), {', '.join(map(literal, values))});"
    )


def _settled(place: Place, file: Repeatable) -> str:
    """Return the statement that removes the record of a failure."""
    return f"DELETE FROM {place.table(TABLE)} WHERE name = {literal(file.name)} AND status = {literal(FAILED)};"


def record_drop(place: Place, names: Sequence[str], newest: int) -> str:
    """Return the statement that records that a migration has dropped these objects, so that they are created again.

    Only this image or a later one may do that: an older one's text may not fit the migration.
    """
    return (
        f"UPDATE {place.table(TABLE)} SET replaced_at = pg_catalog.clock_timestamp(), "
        f"newest_number = GREATEST(newest_number, {newest}) "
        f"WHERE name IN ({', '.join(map(literal, names))}) AND {_IN_FORCE};"
    )
