"""Whose the session's state is: ours for our own statements, the file's for the file's. Pure functions that make SQL.

A migration may change anything about its session. Our statements must not notice, and its own next statement, the next
file and, behind a pooler, other clients must find what they expect. Both ways of applying a file use what is here.
"""

from __future__ import annotations

from entrypoint.database.quoting import PINNED, literal, our_state
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

CHECK_CONSTRAINTS = "SET CONSTRAINTS ALL IMMEDIATE;"
"""Fires deferred triggers, while role and `search_path` are still those that the file chose."""


def ours(role: str | None) -> str:
    """Return `our_state` as one text, for what follows."""
    return "\n".join(f"{statement};" for statement in our_state(role))


OURS_WITH_PATH = "; ".join(
    (
        "SELECT pg_catalog.set_config('entrypoint.path', pg_catalog.current_schemas(true)::pg_catalog.text, true)",
        *our_state(None),
    )
)
"""What `ours` says, for statements that show names of the user's relations by `shown`."""


def shown(relation: str) -> str:
    """Return an expression: the name of the relation with that number, as somebody with the session's path says it.

    A cast to regclass goes by the path that is in effect, and that is ours. NULL if nobody else can see it yet.
    """
    return (
        "(SELECT CASE WHEN n.nspname = ANY (current_setting('entrypoint.path')::name[]) "
        "THEN quote_ident(c.relname) ELSE quote_ident(n.nspname) || '.' || quote_ident(c.relname) END "
        f"FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {relation})"
    )


# What `ours` has set, undone for a file that begins in the same transaction. Its role is MIGRATION_ROLE, as ours is.
FRESH = ("SET LOCAL search_path TO DEFAULT;", "SET LOCAL row_security TO DEFAULT;")


# DISCARD ALL does the same but cannot run inside a transaction.
_RESTORE = f"""\
{CHECK_CONSTRAINTS}
RESET SESSION AUTHORIZATION;
RESET ROLE;
RESET ALL;
CLOSE ALL;
UNLISTEN *;
DISCARD TEMP;"""
UNLOCK = "pg_catalog.pg_advisory_unlock_all()"
"""Lets go of the session's advisory locks: a part of `restore`."""


def restore(*, pooled: bool, locked: bool = True) -> str:
    """Return the statements that put back, inside a migration's transaction, what it changed of its session.

    `pooled`: a pooler keeps prepared statements of its own in the server's session, which must stay. `locked`: with
    UNLOCK; without it, that has to follow.
    """
    parts = [_RESTORE]
    if locked:
        parts.append(f"SELECT {UNLOCK};")
    if not pooled:
        parts.append("DEALLOCATE ALL;")
    return "\n".join(parts)


# Of two extensions whose functions are volatile because what they return is random.
_RANDOM = "('uuid-ossp', 'pgcrypto')"


def changing(functions: Collection[str], views: Collection[str]) -> str:
    """Return the query for what may change its session when it is run: which of these functions and of these views.

    Those are the volatile functions that are not PostgreSQL's own, and the views that call one, by way of others, too.
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


# A file outside a transaction has many of ours between its statements, and its state lives on from one to the next.

_KEPT = ("session_authorization", "role", "search_path", "row_security")


class Timeouts(NamedTuple):
    """What bounds a statement of the file, in milliseconds, unless the file has set it itself."""

    lock: int
    statement: int

    @property
    def _rows(self) -> str:
        values = ", ".join(f"({literal(name)}, '{value}')" for name, value in self.items().items())
        return f"FROM pg_catalog.pg_settings s JOIN (VALUES {values}) AS o (name, setting) ON o.name = s.name"

    def items(self) -> Mapping[str, int]:
        """Return the settings by name."""
        return {"lock_timeout": self.lock, "statement_timeout": self.statement}

    def noted(self) -> str:
        """Return the statement that notes, for `back`, the file's own values, or these."""
        return (
            "SELECT pg_catalog.set_config('entrypoint.' || s.name, "
            f"CASE s.source WHEN 'session' THEN s.setting ELSE o.setting END, true) {self._rows};"
        )

    def lent(self) -> str:
        """Return the statement that sets these beyond the transaction, except what the file has set itself."""
        return f"SELECT pg_catalog.set_config(s.name, o.setting, false) {self._rows} WHERE s.source <> 'session';"

    def taken_back(self) -> str:
        """Return the statement that undoes `lent`, except what the file has set since."""
        return (
            f"SELECT pg_catalog.set_config(s.name, NULL, false) {self._rows} "
            "WHERE s.source = 'session' AND s.setting = o.setting;"
        )


def aside(begin: str, file: Timeouts, lent: Timeouts | None, lend: Timeouts | None) -> str:
    """Return the beginning of a transaction of ours in the middle of a file: the file's state is noted first.

    Then comes `ours`, and `back` to give the transaction to the file. After COMMIT the file has its state without that.
    `lent`: what an earlier transaction lent. `lend`: what the next statement is to have, outside any transaction.
    """
    kept = ", ".join(
        f"pg_catalog.set_config('entrypoint.{name}', pg_catalog.current_setting('{name}'), true)" for name in _KEPT
    )
    # The file may have made transactions read-only by default; ours writes the ledger.
    parts = [f"{begin} READ WRITE;", f"SELECT {kept};", f"{PINNED};"]
    if lent is not None:
        parts.append(lent.taken_back())
    parts.append(file.noted())
    if lend is not None:
        parts.append(lend.lent())
    return "\n".join(parts).removesuffix(";")


def back() -> str:
    """Return the statements, on one line, that give a transaction begun with `aside` to the file."""

    def noted(name: str) -> str:
        return f"pg_catalog.set_config('{name}', pg_catalog.current_setting('entrypoint.{name}'), true)"

    # One after the other: who the session's user is decides which roles it may take.
    names = (*_KEPT, "lock_timeout", "statement_timeout")
    return " ".join(f"SELECT {noted(name)};" for name in names)
