"""Read another migration tool's recorded runs (the rows of `migration_commands`), and its own current history."""

from __future__ import annotations

from entrypoint.database.quoting import identifier
from entrypoint.migration.ledger.place import MOST as MOST_RELATIONS
from entrypoint.migration.ledger.place import along, columns_in, evident_place, glance_at_tables, tables_of, unquoted
from entrypoint.migration.ledger.rows import RUNNING
from entrypoint.migration.script.files import sha256_for
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.command import Command
    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Place, Queryable

    History = tuple[str, str]
    """One of the tool's tables: its schema and its name."""

NOTHING = "none"
"""The digest if none of the tool's tables exists."""
UNKNOWN = "unknown"
"""The digest if the tables cannot be read."""

# The tables in the search_path in which tools keep their history.
KNOWN = (
    "alembic_version",
    "django_migrations",
    "_prisma_migrations",
    "ar_internal_metadata",
    "schema_migrations",
    "knex_migrations",
    "pgmigrations",
    "goose_db_version",
    "flyway_schema_history",
    "databasechangelog",
    "SequelizeMeta",
    "migrations",
    "atlas_schema_revisions",
)
# Those that have their own schema.
ELSEWHERE = (("drizzle", "__drizzle_migrations"), ("atlas_schema_revisions", "atlas_schema_revisions"))
# At most this many runs are kept and read. Nothing is known about an image whose last run is older than that.
MOST = 500

# Bytes. A larger table is not a tool's history, but an application's own table with the same name.
LARGEST = 2**25
# The same in pages of the usual size.
_MOST_PAGES = LARGEST // 8192
# A row's text depends on these settings.
AS_TEXT = (
    "SET LOCAL TimeZone TO 'UTC'",
    "SET LOCAL DateStyle TO 'ISO, YMD'",
    "SET LOCAL IntervalStyle TO 'iso_8601'",
    "SET LOCAL extra_float_digits TO 1",
    "SET LOCAL bytea_output TO 'hex'",
)


class Run(NamedTuple):
    """One run of the tool: what a decision needs to know about it."""

    id: int
    fingerprint: str
    before: str
    """The digest of the tool's history before the run."""
    after: str
    """The digest after the run; empty until it has ended."""
    status: str


class Runs(NamedTuple):
    """The tool's recorded runs, and its history now."""

    rows: tuple[Run, ...]
    """The oldest first."""
    digest: str
    """The digest of the tool's history: NOTHING, UNKNOWN, or a hash of its rows."""
    problem: str = ""
    """Why it is unknown, in the server's words."""

    @property
    def ended(self) -> int:
        """The id of the newest run that has ended; 0 if there is none."""
        return max((run.id for run in self.rows if run.status != RUNNING), default=0)


def runs_query(place: Place) -> str:
    """Return the query for the runs, the newest first."""
    if not place.commands:
        return "SELECT 1 WHERE false"
    columns = ", ".join(
        name if name in place.commands else "NULL" for name in ("fingerprint", "before", "after", "status")
    )
    return f"SELECT id, {columns} FROM {place.table('migration_commands')} ORDER BY id DESC LIMIT {MOST}"


def as_rows(answer: Sequence[Row]) -> tuple[Run, ...]:
    """Return the runs from the answer to `runs_query`, the oldest first."""
    return tuple(
        Run(int(number or 0), fingerprint or "", before or "", after or "", status or "")
        for number, fingerprint, before, after, status in reversed(answer)
    )


def find_tables(
    session: Queryable, schema: str | None, deadline: Deadline, role: str | None, command: Command
) -> tuple[Place | None, tuple[History, ...] | None]:
    """Find our tables as `place.find_tables` does, and the tool's history tables in the same statement.

    The place is None if finding it takes the full search. The histories are None if reading them takes more than a
    plain SELECT. Raises StatementError.
    """
    ours = tables_of(command)
    theirs = [one.rpartition(".")[2] for one in command.state] or [*KNOWN, *(table for _, table in ELSEWHERE)]
    plain = f"has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid) AND c.relpages <= {_MOST_PAGES}"
    relations = session.query(glance_at_tables(None, role, sorted({*ours, *theirs}), f", {plain}"), deadline)[-2]
    known = [row for row in relations if row[1] in ours]
    if not known or len(relations) == MOST_RELATIONS:
        return None, None
    # Another role can have a different path, and read different tables.
    return evident_place(known, schema, command), _histories(relations, command) if role is None else None


def _histories(relations: Sequence[Row], command: Command) -> tuple[History, ...] | None:
    path, user = relations[0][6:8]
    names = along(path or "", user or "")
    if names is None:
        return None
    found: list[History] = []
    for place, name, usable, kind, _, columns, _, _, plain in relations:
        schema, table = unquoted(place or ""), name or ""
        on_path = schema in names and usable == "t" and _is_on_path(table, columns or "", command)
        if kind in ("r", "p") and (on_path or _is_named(schema, table, command)):
            if (usable, plain) != ("t", "t"):
                return None
            found.append((schema, table))
    return tuple(sorted(found))


def _is_named(schema: str, table: str, command: Command) -> bool:
    """Tell whether a table is a history whatever the search_path is."""
    return f"{schema}.{table}" in command.state if command.state else (schema, table) in ELSEWHERE


def _is_on_path(table: str, columns: str, command: Command) -> bool:
    """Tell whether a table in the search_path is a history."""
    if command.state:
        return table in command.state
    return table in KNOWN and (table != "schema_migrations" or "migration_number" not in columns_in(columns))


def queries(place: Place, histories: Sequence[History]) -> tuple[str, ...]:
    """Return the statements that digest the histories and read the runs, in one transaction; see `as_runs`.

    The histories come first, so that a run that is recorded after they were read cannot make an older history look like
    the result of that run.
    """
    tables = (f"{identifier(schema)}.{identifier(table)}" for schema, table in histories)
    return (*AS_TEXT, *(f"SELECT {digest_of(table)}" for table in tables), runs_query(place))


def digest_of(table: str) -> str:
    """Return the expression that digests all rows of a table, whatever their physical order."""
    # Not `md5`, which fails on servers in FIPS mode.
    return (
        'encode(sha256(convert_to(coalesce((SELECT string_agg(line, chr(10) ORDER BY line COLLATE "C") '
        f"FROM (SELECT entrypoint_row::text AS line FROM {table} AS entrypoint_row) AS lines), ''), 'UTF8')), 'hex')"
    )


def as_runs(answers: Sequence[list[Row]], histories: Sequence[History]) -> Runs:
    """Return the runs from the answers to `queries`. The digest equals the one that `history` computes."""
    digests = (rows[0][0] for rows in answers[len(AS_TEXT) : -1])
    parts = [f"{schema}.{table} {digest};" for (schema, table), digest in zip(histories, digests, strict=True)]
    whole = "".join(parts).encode()
    return Runs(as_rows(answers[-1]), sha256_for(len(whole))(whole).hexdigest() if whole else NOTHING)
