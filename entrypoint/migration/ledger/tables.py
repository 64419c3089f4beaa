"""Create the bookkeeping, upgrade what an earlier system left, and put right what a migration replaced.

All of it runs under the guard's lock, so that cold starts do not collide. The DDL is in `sql`, beside this module.
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
from entrypoint.migration.ledger.writing import definitions, nothing
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
    """Tell whether a migration's text names something of the bookkeeping, so that it may have replaced it."""
    return names(text, *OF_THE_LEDGER)


def ddl(place: Place) -> str:
    """Return the statements that make the bookkeeping in `place` complete, whatever is there already.

    The view and the functions are always among them, as a migration can replace those without any trace. Where no
    table is, none is upgraded; one that somebody makes beside us is an error then (42P07): look again.
    """
    upgrades = () if nothing_is_there(place) else ("upgrade.sql",) if place.with_files else ("upgrade_lock.sql",)
    made = ("tables.sql", "lock.sql") if place.with_files else ("lock.sql",)
    views = ("view.sql",) if place.with_files else ()
    commands = ("commands.sql",) if place.command else ()
    return _filled(place, *made, *upgrades, "row.sql", *views, *commands, "functions.sql")


def nothing_is_there(place: Place) -> bool:
    """Tell whether none of the tables is there, where migration files of ours are to be recorded."""
    return place.with_files and not (place.ledger or place.lock or place.commands)


def view(place: Place) -> str:
    """Return the statement that makes the view, or replaces it."""
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
        "no_holder": nothing(HOLDER_COLUMNS),
        "nothing_added": nothing(ADDED_COLUMNS),
    }
    # In one pass: a schema may be called anything.
    return _PLACEHOLDER.sub(lambda match: values[match[1]], "".join(map(_read, names)))


def setup(place: Place, schema: str | None) -> str:
    """Return the statements that create or upgrade the bookkeeping in an open transaction, without a notice.

    `schema` is the one that was asked for: it is created if it does not exist.
    """
    create = f"CREATE SCHEMA IF NOT EXISTS {identifier(schema)};\n" if schema and not place.schema_exists else ""
    # Else every statement about a table that is there already would send a notice. And to check the bodies of our
    # functions, which are what they always are, a new server process would load PL/pgSQL and compile them.
    return (
        f"{create}SET LOCAL client_min_messages = warning;\nSET LOCAL check_function_bodies = off;\n{ddl(place)}\n"
        "SET LOCAL check_function_bodies TO DEFAULT;"
    )


def ensure(
    session: Session, place: Place, schema: str | None, role: str | None, prologue: str, deadline: Deadline
) -> Place | None:
    """Create or upgrade the bookkeeping in one transaction; return the place as it is afterwards.

    `prologue` is what every transaction of ours begins with. `schema` is the one that was asked for. Returns None if
    somebody else is making a ledger at this moment, or if this is not the place for it any more: look again.
    Raises ForeignLedgerError if something else has the name of what would be made.
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
    # There, and nowhere else, whatever somebody has changed about the search_path meanwhile.
    if nothing_is_there(place):
        return find_made(session, place, role, deadline)
    return find_at(session, place.schema, deadline, role, place.command)


def _read(name: str) -> str:
    with open(os.path.join(_SQL, name), encoding="utf-8") as file:
        return file.read()
