"""Create our tables, upgrade those of the earlier system, and restore what a migration has replaced.

All of this runs under the guard's lock, so that cold starts do not collide. The DDL is in `sql/`, next to this module.
"""

from __future__ import annotations

import os
import re

from entrypoint.database import session_state
from entrypoint.database.quoting import identifier, literal
from entrypoint.migration.ledger.finding import find_at, find_made, refuse_strangers
from entrypoint.migration.ledger.keys import guard_key, session_key
from entrypoint.migration.ledger.place import ADDED_COLUMNS, COMMAND_COLUMNS, HOLDER_COLUMNS, ROLLOUT_COLUMNS
from entrypoint.migration.ledger.search import may_make
from entrypoint.migration.ledger.writing import definitions, set_to_null
from entrypoint.migration.script.text import OF_THE_LEDGER, names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.script.text import Text

_SQL = os.path.join(os.path.dirname(__file__), "sql")

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def mentions(text: Text) -> bool:
    """Tell whether a migration's text names any of our objects, so that it may have replaced one."""
    return names(text, *OF_THE_LEDGER)


def ddl(place: Place) -> str:
    """Return the statements that create or complete our objects in `place`, whatever exists already.

    They always include the view and the functions, because a migration can replace those without leaving a trace. If
    there are no tables, none is upgraded, and one that another session creates at the same time is an error (42P07):
    then look again.
    """
    upgrades = () if nothing_is_there(place) else ("upgrade.sql",) if place.with_files else ("upgrade_lock.sql",)
    made = ("tables.sql", "lock.sql") if place.with_files else ("lock.sql",)
    views = ("view.sql",) if place.with_files else ()
    commands = ("commands.sql",) if place.command else ()
    return _filled(place, *made, *upgrades, "row.sql", *views, *commands, "functions.sql")


def nothing_is_there(place: Place) -> bool:
    """Tell whether none of the tables exists, in a place for a ledger of migration files."""
    return place.with_files and not (place.ledger or place.lock or place.commands)


def view(place: Place) -> str:
    """Return the statement that creates or replaces the view."""
    return _filled(place, "view.sql")


def _filled(place: Place, *names: str) -> str:
    schema = identifier(place.schema)
    values = {
        "schema": schema,
        "schema_literal": literal(schema),
        "lock_key": guard_key(place),
        "session_key": session_key(place),
        "unless_there": "" if nothing_is_there(place) else "IF NOT EXISTS ",
        "lock_columns": definitions(HOLDER_COLUMNS | ADDED_COLUMNS),
        "added_columns": definitions(ADDED_COLUMNS, "ADD COLUMN IF NOT EXISTS "),
        "rollout_columns": definitions(ROLLOUT_COLUMNS),
        "added_to_ledger": definitions(ROLLOUT_COLUMNS, "ADD COLUMN IF NOT EXISTS "),
        "command_columns": definitions(COMMAND_COLUMNS, "ADD COLUMN IF NOT EXISTS "),
        "no_holder": set_to_null(HOLDER_COLUMNS),
        "nothing_added": set_to_null(ADDED_COLUMNS),
    }
    # In one pass, because a schema's name may contain a placeholder.
    return _PLACEHOLDER.sub(lambda match: values[match[1]], "".join(map(_read, names)))


def setup(place: Place, schema: str | None) -> str:
    """Return the statements that create or upgrade our objects in an open transaction, without notices.

    `schema`: the requested one, if any; it is created if it does not exist.
    """
    create = f"CREATE SCHEMA IF NOT EXISTS {identifier(schema)};\n" if schema and not place.schema_exists else ""
    # Without the first setting, every statement about an existing table would send a notice. Without the second, a new
    # server process would load PL/pgSQL and compile our functions, which never change.
    return (
        f"{create}SET LOCAL client_min_messages = warning;\nSET LOCAL check_function_bodies = off;\n{ddl(place)}\n"
        "SET LOCAL check_function_bodies TO DEFAULT;"
    )


def ensure(
    session: Session, place: Place, schema: str | None, role: str | None, prologue: str, deadline: Deadline
) -> Place | None:
    """Create or upgrade our tables in one transaction; return the place as it is afterwards.

    `prologue`: the statements that begin each of our transactions. `schema`: the requested one, if any. Returns None if
    another session is creating a ledger now, or if this is no longer the place for it: then look again. Raises
    ForeignLedgerError if something else has a name that we would use.
    """
    try:
        if place.founded:
            session.query(prologue, deadline)
        elif not may_make(session, place, schema, role, prologue, deadline):
            return None
        refuse_strangers(session, place, role, deadline)
        session.query(f"{session_state.ours(role)}\n{setup(place, schema)}\nCOMMIT", deadline)
    finally:
        session.rollback(deadline.within(1))
    # Look only there, even if the search_path has changed by now.
    if nothing_is_there(place):
        return find_made(session, place, role, deadline)
    return find_at(session, place.schema, deadline, role, place.command)


def _read(name: str) -> str:
    with open(os.path.join(_SQL, name), encoding="utf-8") as file:
        return file.read()
