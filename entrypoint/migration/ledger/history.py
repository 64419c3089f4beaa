"""The digest of another migration tool's own history, computed by PostgreSQL whatever the tool's tables look like.

In the usual case a first look does not need this (`runs.find_tables`).
"""

from __future__ import annotations

from entrypoint.database.quoting import PINNED, literal
from entrypoint.migration.ledger.rows import ask
from entrypoint.migration.ledger.runs import (
    AS_TEXT,
    ELSEWHERE,
    KNOWN,
    LARGEST,
    NOTHING,
    UNKNOWN,
    Runs,
    as_rows,
    digest_of,
    runs_query,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.command import Command
    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Place, Queryable


def queries(place: Place, command: Command) -> tuple[str, ...]:
    """Return the statements that read the digest and the runs, in one transaction; `as_runs` reads the answers.

    The digest comes first, so that a run that is recorded after it cannot make an older history look like the result of
    that run.
    """
    return (*_digest_statements(command), runs_query(place))


def as_runs(answers: Sequence[list[Row]]) -> Runs:
    """Return the runs from the answers to `queries`."""
    digest, problem = answers[-2][0]
    return Runs(as_rows(answers[-1]), digest or UNKNOWN, problem or "")


def _digest_statements(command: Command) -> tuple[str, ...]:
    """Return the statements that digest the tool's history. The last returns the digest, and why it is unknown.

    They leave settings changed until the transaction ends, so only queries may follow them in it.
    """
    return (
        # The tool uses the default search_path; ours is pinned. This lists the schemas in it that exist and that this
        # user may use.
        "SET LOCAL search_path TO DEFAULT",
        "SELECT pg_catalog.set_config('entrypoint.schemas', pg_catalog.current_schemas(false)::pg_catalog.text, true)",
        *PINNED.split("; "),
        *AS_TEXT,
        _digest(command.state),
        "SELECT current_setting('entrypoint.digest'), current_setting('entrypoint.problem')",
    )


def _digest(state: Sequence[str]) -> str:
    """Return the DO statement that digests all rows of the tool's tables, whatever their physical order.

    If a table is locked, if we may not read it, or if row-level security filters it, the digest is unknown. That is
    not an error, which would end the start. Views are left out: they could run other people's code.
    """
    rows = digest_of("%I.%I").replace("'", "''")
    return f"""\
DO $digest$
DECLARE
    found record;
    one text;
    whole text := '';
BEGIN
    PERFORM set_config('entrypoint.problem', '', true);
    FOR found IN
        SELECT n.nspname, c.relname, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND ({_which(state)}) ORDER BY 1, 2
    LOOP
        IF pg_relation_size(found.oid) > {LARGEST} THEN
            RAISE program_limit_exceeded USING MESSAGE = format('table %s is too large for a history', found.relname);
        END IF;
        EXECUTE format('SELECT {rows}', found.nspname, found.relname) INTO one;
        whole := whole || format('%s.%s %s;', found.nspname, found.relname, one);
    END LOOP;
    PERFORM set_config('entrypoint.digest', CASE whole WHEN '' THEN '{NOTHING}'
                       ELSE encode(sha256(convert_to(whole, 'UTF8')), 'hex') END, true);
EXCEPTION WHEN insufficient_privilege OR lock_not_available OR undefined_table OR invalid_schema_name
               OR program_limit_exceeded OR untranslatable_character THEN
    PERFORM set_config('entrypoint.digest', '{UNKNOWN}', true), set_config('entrypoint.problem', SQLERRM, true);
END
$digest$"""


def _which(state: Sequence[str]) -> str:
    along = "n.nspname = ANY (current_setting('entrypoint.schemas')::name[])"
    if state:
        named = [one.rpartition(".") for one in state]
        return " OR ".join(
            f"c.relname = {literal(table)} AND {f'n.nspname = {literal(schema)}' if schema else along}"
            for schema, _, table in named
        )
    ours = "SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'migration_number'"
    elsewhere = " OR ".join(
        f"n.nspname = {literal(schema)} AND c.relname = {literal(table)}" for schema, table in ELSEWHERE
    )
    return (
        f"{along} AND c.relname IN ({', '.join(map(literal, KNOWN))}) "
        f"AND (c.relname <> 'schema_migrations' OR NOT EXISTS ({ours})) OR {elsewhere}"
    )


def read(session: Queryable, place: Place, command: Command, role: str | None, deadline: Deadline) -> Runs:
    """Read the tool's recorded runs and the digest of its history, in one round trip. Raises StatementError."""
    return as_runs(ask(session, role, deadline, queries(place, command)))


def names_of(session: Queryable, place: Place, number: int, role: str | None, deadline: Deadline) -> frozenset[str]:
    """Return the names of the inputs of run `number`. Raises StatementError."""
    query = (
        "SELECT name FROM pg_catalog.jsonb_array_elements_text("
        f"(SELECT inputs FROM {place.table('migration_commands')} WHERE id = {number})) AS name"
    )
    return frozenset(row[0] or "" for row in ask(session, role, deadline, (query,))[0])
