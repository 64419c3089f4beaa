"""Switch the session between our state and the migration file's. Pure functions that return SQL.

A migration may change anything about its session. That must not affect our own statements. And the file's next
statement, the next file and, behind a pooler, other clients must find the state they expect. Files inside and outside a
transaction both use this.
"""

from __future__ import annotations

from entrypoint.database.quoting import PINNED, literal, our_state
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

CHECK_CONSTRAINTS = "SET CONSTRAINTS ALL IMMEDIATE;"
"""Fires deferred triggers, while the role and `search_path` are still the file's."""


def ours(role: str | None) -> str:
    """Return `our_state` as one text."""
    return "\n".join(f"{statement};" for statement in our_state(role))


OURS_WITH_PATH = "; ".join(
    (
        "SELECT pg_catalog.set_config('entrypoint.path', pg_catalog.current_schemas(true)::pg_catalog.text, true)",
        *our_state(None),
    )
)
"""Like `ours`, for statements that show names of the user's relations with `shown`."""


def shown(relation: str) -> str:
    """Return an expression: the name of the relation with that OID, qualified only if the session's own path needs it.

    A cast to regclass would use the current search_path, which is ours. NULL if the relation is not visible yet.
    """
    return (
        "(SELECT CASE WHEN n.nspname = ANY (current_setting('entrypoint.path')::name[]) "
        "THEN quote_ident(c.relname) ELSE quote_ident(n.nspname) || '.' || quote_ident(c.relname) END "
        f"FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {relation})"
    )


# Undoes what `ours` has set, for a file that begins in the same transaction. Its role is MIGRATION_ROLE, like ours.
FRESH = ("SET LOCAL search_path TO DEFAULT;", "SET LOCAL row_security TO DEFAULT;")


# Like DISCARD ALL, which cannot run inside a transaction.
_RESTORE = f"""\
{CHECK_CONSTRAINTS}
RESET SESSION AUTHORIZATION;
RESET ROLE;
RESET ALL;
CLOSE ALL;
UNLISTEN *;
DISCARD TEMP;"""
UNLOCK = "pg_catalog.pg_advisory_unlock_all()"
"""Releases the session's advisory locks; a part of `restore`."""


def restore(*, pooled: bool, locked: bool = True) -> str:
    """Return the statements that restore, inside a migration's transaction, what it changed in its session.

    `pooled`: keep prepared statements, because a pooler has its own in the server session. `locked`: include UNLOCK; if
    false, it has to follow later.
    """
    parts = [_RESTORE]
    if locked:
        parts.append(f"SELECT {UNLOCK};")
    if not pooled:
        parts.append("DEALLOCATE ALL;")
    return "\n".join(parts)


# Two extensions whose functions are volatile only because they return random values.
_RANDOM = "('uuid-ossp', 'pgcrypto')"


def changing(functions: Collection[str], views: Collection[str]) -> str:
    """Return the query for those of these functions and views that may change the session when they are used.

    Those are the volatile functions that are not PostgreSQL's own, and the views that call one, directly or not.
    """
    return f"""WITH RECURSIVE suspect AS (
            SELECT p.oid, p.proname FROM pg_catalog.pg_proc p
            JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
            WHERE p.provolatile = 'v' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
                -- These cannot be called by name.
                AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
                AND NOT EXISTS (
                    SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
                        AND d.refclassid = 'pg_extension'::regclass AND e.extname IN {_RANDOM})
        ), uses (named, oid) AS (
            SELECT c.relname, c.oid FROM pg_catalog.pg_class c
            WHERE c.relkind IN ('v', 'm') AND c.relname = ANY ({_names(views)})
            UNION
            SELECT u.named, d.refobjid FROM uses u JOIN pg_catalog.pg_rewrite r ON r.ev_class = u.oid
            JOIN pg_catalog.pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass
        )
        SELECT 'function', s.proname FROM suspect s WHERE s.proname = ANY ({_names(functions)})
        UNION
        SELECT 'view', u.named FROM uses u JOIN pg_catalog.pg_rewrite r ON r.ev_class = u.oid
        JOIN pg_catalog.pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_proc'::regclass
        JOIN suspect s ON s.oid = d.refobjid"""


def _names(names: Collection[str]) -> str:
    return f"ARRAY[{', '.join(map(literal, sorted(names)))}]::pg_catalog.name[]"


# Outside a transaction, our own transactions run between the file's statements, and must preserve the file's state.

_KEPT = ("session_authorization", "role", "search_path", "row_security")


class Timeouts(NamedTuple):
    """The timeouts of a file's statements in milliseconds, unless the file sets them itself."""

    lock: int
    statement: int

    @property
    def _rows(self) -> str:
        values = ", ".join(f"({literal(name)}, '{value}')" for name, value in self.items().items())
        return f"FROM pg_catalog.pg_settings s JOIN (VALUES {values}) AS o (name, setting) ON o.name = s.name"

    def items(self) -> Mapping[str, int]:
        """Return the values by setting."""
        return {"lock_timeout": self.lock, "statement_timeout": self.statement}

    def saved(self) -> str:
        """Return the statement that saves the file's own values, or else these, for `back`."""
        return (
            "SELECT pg_catalog.set_config('entrypoint.' || s.name, "
            f"CASE s.source WHEN 'session' THEN s.setting ELSE o.setting END, true) {self._rows};"
        )

    def set_for_session(self) -> str:
        """Return the statement that sets these for the session, except those that the file has set itself."""
        return f"SELECT pg_catalog.set_config(s.name, o.setting, false) {self._rows} WHERE s.source <> 'session';"

    def reset_for_session(self) -> str:
        """Return the statement that undoes `set_for_session`, except for values that the file has set since."""
        return (
            f"SELECT pg_catalog.set_config(s.name, NULL, false) {self._rows} "
            "WHERE s.source = 'session' AND s.setting = o.setting;"
        )


def begin_aside(begin: str, file: Timeouts, lent: Timeouts | None, lend: Timeouts | None) -> str:
    """Return the beginning of one of our transactions in the middle of a file. It saves the file's state.

    After this use `ours`, and `back` if the file continues in the transaction. After COMMIT, the file has its own state
    again in any case. `lent`: the timeouts that an earlier transaction set for the session. `lend`: those to set for
    the next statement, outside any transaction.
    """
    kept = ", ".join(
        f"pg_catalog.set_config('entrypoint.{name}', pg_catalog.current_setting('{name}'), true)" for name in _KEPT
    )
    # The file may have made transactions read-only by default, but ours writes the ledger.
    parts = [f"{begin} READ WRITE;", f"SELECT {kept};", f"{PINNED};"]
    if lent is not None:
        parts.append(lent.reset_for_session())
    parts.append(file.saved())
    if lend is not None:
        parts.append(lend.set_for_session())
    return "\n".join(parts).removesuffix(";")


def back() -> str:
    """Return the statements, on one line, that restore the file's state in a transaction begun with `begin_aside`."""

    def noted(name: str) -> str:
        return f"pg_catalog.set_config('{name}', pg_catalog.current_setting('entrypoint.{name}'), true)"

    # One after the other: the session's user decides which roles can be set.
    names = (*_KEPT, "lock_timeout", "statement_timeout")
    return " ".join(f"SELECT {noted(name)};" for name in names)
