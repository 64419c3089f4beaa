"""Find out whether another schema already records these migrations, before a ledger is created.

If the search_path or MIGRATION_SCHEMA has changed, a second ledger would run every migration again.
"""

from __future__ import annotations

import contextlib
import re

from entrypoint import logs
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import identifier, literal, our_state
from entrypoint.errors.migration import SecondLedgerError
from entrypoint.migration.ledger.place import walk
from entrypoint.migration.ledger.rows import COMPLETED, ask
from entrypoint.migration.ledger.search import path_sql
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from entrypoint.database.answers import Row
    from entrypoint.database.session import Session
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.script.files import MigrationFile

# With a schema for each tenant there may be thousands of ledgers. For a warning, this many are read.
_ENOUGH = 10

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_NAME = r'(?<![\w$"])("(?:[^"]|""){1,63}"|[^\W\d][\w$]{0,62})'
# A name before a dot, a name after the word SCHEMA, or a list of names after `search_path`.
_NAMED = re.compile(
    rf"{_NAME}\.(?=[\w\"])|\bschema\s+(?:if\s+(?:not\s+)?exists\s+)?{_NAME}|\bsearch_path\b([^;]*)",
    re.IGNORECASE,
)
_EACH = re.compile(_NAME)


class OtherLedgers(NamedTuple):
    """The schemas with a table `schema_migrations` that has our columns and that we may read."""

    near: tuple[str, ...]
    """`public`, and the schemas in the connection's search_path."""
    far: tuple[str, ...]
    """All the others."""


def refuse_second(
    session: Session, place: Place, files: Sequence[MigrationFile], role: str | None, deadline: Deadline
) -> None:
    """Raise SecondLedgerError if a ledger at `place` would be this application's second one. Keeps no locks.

    If the other ledger's schema is neither near nor named in the files, `place` is taken for another tenant's schema,
    and only a warning is logged. Raises StatementError.
    """
    others = find(session, place, role, deadline)
    named = mentioned(_texts(files)) if others.far else frozenset[str]()
    for schema in (*others.near, *(schema for schema in others.far if schema in named)):
        if same_application(files, _rows(session, schema, role, deadline)):
            raise _second(schema, place)
    for schema in [schema for schema in others.far if schema not in named][:_ENOUGH]:
        if same_application(files, _rows(session, schema, role, deadline)):
            logs.event(
                logs.WARNING,
                "ledger.elsewhere",
                f"the same migrations are also recorded in schema {schema!r}; assuming that schema {place.schema!r} "
                "belongs to another tenant and running all of them there",
                schema=place.schema,
                other_schema=schema,
            )
            return


def same_application(files: Iterable[MigrationFile], rows: Iterable[Row]) -> bool:
    """Tell whether `rows` (number, name, checksum) record these files.

    They do if every number in both has the same name, and at least one has the same text. The name is not enough:
    many projects have a `001_init.sql`.
    """
    known = {str(file.number): file for file in files}
    shared = [(known[number or ""], name, checksum) for number, name, checksum in rows if number in known]
    return all(file.name == name for file, name, _ in shared) and any(
        checksum is not None and file.matches(checksum) for file, _, checksum in shared
    )


def mentioned(texts: Iterable[str]) -> frozenset[str]:
    """Return the names in SQL that may be schemas; some are not. Comments are left out."""
    found = set()
    for text in texts:
        for before_dot, after_word, path in _NAMED.findall(_COMMENT.sub(" ", text)):
            found |= {_folded(name) for name in (before_dot, after_word, *_EACH.findall(path)) if name}
    return frozenset(found)


def _folded(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _texts(files: Iterable[MigrationFile]) -> Iterable[str]:
    for file in files:
        # If an unreadable file is pending, it is refused elsewhere.
        with contextlib.suppress(OSError), open(file.path, encoding="utf-8", errors="replace") as opened:
            yield opened.read()


def find(session: Session, place: Place, role: str | None, deadline: Deadline) -> OtherLedgers:
    """Return the other schemas with a ledger that we may read, without reading it."""
    # Most databases have no other table of that name, and planning the full query takes five times as long.
    if not ask(session, role, deadline, (_ANY_TABLE,))[0]:
        return OtherLedgers((), ())
    path, *_, tables = ask(
        session, role, deadline, (*walk(None), path_sql(), *our_state(role), _tables_sql(place.schema))
    )[len(walk(None)) :]
    near = {"public", *(name for (name,) in path)}
    schemas = [name or "" for (name,) in tables]
    return OtherLedgers(
        tuple(name for name in schemas if name in near), tuple(name for name in schemas if name not in near)
    )


_ANY_TABLE = "SELECT FROM pg_class WHERE relname = 'schema_migrations' LIMIT 1"


def _tables_sql(ours: str) -> str:
    # Only columns of PostgreSQL's own types: the output function of another type would run with our privileges.
    return f"""\
SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = 'schema_migrations' AND c.relkind = 'r' AND n.nspname <> {literal(ours)}::name
AND NOT starts_with(n.nspname::text, 'pg_') AND has_schema_privilege(n.oid, 'USAGE')
AND has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid)
AND 4 = (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.atttypid < 16384
         AND a.attname IN ('migration_number', 'filename', 'status', 'checksum') AND NOT a.attisdropped)
ORDER BY 1"""


def _rows(session: Session, schema: str, role: str | None, deadline: Deadline) -> list[Row]:
    """Return the applied migrations in the ledger of `schema`; none if it is locked, or gone by now."""
    query = (
        f"SELECT migration_number::text, filename::text, checksum::text FROM {identifier(schema)}.schema_migrations "
        f"WHERE coalesce(status::text, 'completed') = {literal(COMPLETED)}"
    )
    try:
        return ask(session, role, deadline, (query,))[0]
    except StatementError as error:
        logs.event(
            logs.DEBUG, "ledger.not_readable", f"did not read the migration history in schema {schema!r}: {error}"
        )
        return []


def _second(schema: str, place: Place) -> SecondLedgerError:
    ours, theirs = identifier(place.schema), identifier(schema)
    return SecondLedgerError(
        f"These migrations are already recorded in schema {foreign(schema)!r}, but the migration history would now be "
        f"kept in schema {place.schema!r}, and all of them would run again there; nothing was run",
        remedy=f"To keep using that history, set MIGRATION_SCHEMA={foreign(schema)}. To run all migrations for schema "
        f"{place.schema!r} as well, create its history first: CREATE SCHEMA IF NOT EXISTS {ours}; CREATE TABLE "
        f"{ours}.schema_migrations (LIKE {theirs}.schema_migrations INCLUDING ALL).",
        schema=place.schema,
        other_schema=foreign(schema),
    )
