"""The rows of `migration_commands`, each a run of another migration tool, and what that tool's own history is now."""

from __future__ import annotations

from entrypoint.database.quoting import identifier
from entrypoint.migration.ledger.place import MOST as MOST_RELATIONS
from entrypoint.migration.ledger.place import along, columns_in, evident_place, glance, tables_of, unquoted
from entrypoint.migration.ledger.rows import RUNNING
from entrypoint.migration.script.files import sha256_for
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.command import Command
    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Connection, Place

    History = tuple[str, str]
    """One of the tool's tables: its schema and its name."""

NOTHING = "none"
"""The digest where none of the tool's tables is there."""
UNKNOWN = "unknown"
"""The digest where they cannot be read."""

# The tables in which tools keep their history, along the search_path.
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
# Those that have a schema of their own.
ELSEWHERE = (("drizzle", "__drizzle_migrations"), ("atlas_schema_revisions", "atlas_schema_revisions"))
# So many runs are looked at: of an image that is older than all of them nobody knows any more what it has done.
MOST = 500

# Bytes: a larger table is no history, but some application's own that has such a name.
LARGEST = 2**25
# The same, at the size that nearly all servers have for a page.
_MOST_PAGES = LARGEST // 8192
# What a row looks like as text depends on them.
AS_TEXT = (
    "SET LOCAL TimeZone TO 'UTC'",
    "SET LOCAL DateStyle TO 'ISO, YMD'",
    "SET LOCAL IntervalStyle TO 'iso_8601'",
    "SET LOCAL extra_float_digits TO 1",
    "SET LOCAL bytea_output TO 'hex'",
)


class Run(NamedTuple):
    """One run of the tool, as far as a decision needs it."""

    id: int
    fingerprint: str
    before: str
    """The digest of the tool's history before it."""
    after: str
    """... and after it; empty until then."""
    status: str


class Runs(NamedTuple):
    """What is recorded of the tool, and what its history is at this moment."""

    rows: tuple[Run, ...]
    """In their order."""
    digest: str
    """Of the tool's history: NOTHING, UNKNOWN, or one that only the same rows have."""
    problem: str = ""
    """Why it is unknown, in the server's words."""

    @property
    def ended(self) -> int:
        """The id of the newest run that is not under way; 0 if there is none."""
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
    """Return the answer to `runs_query`, the oldest first."""
    return tuple(
        Run(int(number or 0), fingerprint or "", before or "", after or "", status or "")
        for number, fingerprint, before, after, status in reversed(answer)
    )


def find_tables(
    session: Connection, schema: str | None, deadline: Deadline, role: str | None, command: Command
) -> tuple[Place | None, tuple[History, ...] | None]:
    """Find the bookkeeping's tables as `place.find_tables` does, and in the same statement those of the tool's history.

    No place if it takes a search; no histories if they take more than a plain SELECT. Raises StatementError.
    """
    ours = tables_of(command)
    theirs = [one.rpartition(".")[2] for one in command.state] or [*KNOWN, *(table for _, table in ELSEWHERE)]
    plain = f"has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid) AND c.relpages <= {_MOST_PAGES}"
    relations = session.query(glance(None, role, sorted({*ours, *theirs}), f", {plain}"), deadline)[-2]
    known = [row for row in relations if row[1] in ours]
    if not known or len(relations) == MOST_RELATIONS:
        return None, None
    # Another role has another path, and may read other tables.
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
    """Tell whether a table is a history wherever the path leads."""
    return f"{schema}.{table}" in command.state if command.state else (schema, table) in ELSEWHERE


def _is_on_path(table: str, columns: str, command: Command) -> bool:
    """Tell whether a table, which is on the path, is a history."""
    if command.state:
        return table in command.state
    return table in KNOWN and (table != "schema_migrations" or "migration_number" not in columns_in(columns))


def queries(place: Place, histories: Sequence[History]) -> tuple[str, ...]:
    """Return the statements that read the runs and digest the histories, in a transaction; `as_runs` reads the answers.

    First the histories: what is recorded after they were read cannot make an older one look like that of the new run.
    """
    tables = (f"{identifier(schema)}.{identifier(table)}" for schema, table in histories)
    return (*AS_TEXT, *(f"SELECT {digest_of(table)}" for table in tables), runs_query(place))


def digest_of(table: str) -> str:
    """Return the expression that digests all rows of a table, whatever their order in it."""
    # `sha256`, as `md5` is refused where only what FIPS has may be used.
    return (
        'encode(sha256(convert_to(coalesce((SELECT string_agg(line, chr(10) ORDER BY line COLLATE "C") '
        f"FROM (SELECT entrypoint_row::text AS line FROM {table} AS entrypoint_row) AS lines), ''), 'UTF8')), 'hex')"
    )


def as_runs(answers: Sequence[list[Row]], histories: Sequence[History]) -> Runs:
    """Return the answers to `queries`, with the digest that `history` has of the same tables."""
    digests = (rows[0][0] for rows in answers[len(AS_TEXT) : -1])
    parts = [f"{schema}.{table} {digest};" for (schema, table), digest in zip(histories, digests, strict=True)]
    whole = "".join(parts).encode()
    return Runs(as_rows(answers[-1]), sha256_for(len(whole))(whole).hexdigest() if whole else NOTHING)
