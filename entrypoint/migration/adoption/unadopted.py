"""Find out whether another tool has migrated a database without records here: a hint that adopt was forgotten."""

from __future__ import annotations

from entrypoint.database.answers import StatementError
from entrypoint.deadline import Deadline
from entrypoint.errors import EntrypointError
from entrypoint.migration.adoption.finding import known
from entrypoint.migration.adoption.tools import BY_NAME
from entrypoint.migration.ledger.rows import begin_look

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.migration.adoption.finding import ToolTable

_PATIENCE = 5.0


def other_history(session: Session, role: str | None) -> tuple[str, ToolTable] | None:
    """Return which tool has its history here, and where. It is only for a hint, so an error counts as none."""
    patience = Deadline(_PATIENCE)
    found = None
    try:
        session.query(";\n".join(begin_look(role, patience)), patience)
        found = known(session, role, patience)
    except (StatementError, EntrypointError):
        pass
    session.rollback(patience)
    return found


def unadopted(session: Session, role: str | None) -> str | None:
    """Return whose history is here and how to take it over, without the last full stop."""
    found = other_history(session, role)
    if found is None:
        return None
    tool, table = found
    has = f"{BY_NAME[tool].shown} has migrated this database ({table.shown}), and nothing is recorded here"
    return f"{has}. If these files are its migrations, take over that history first: entrypoint adopt --from {tool}"
