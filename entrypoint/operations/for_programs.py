"""What several commands have in common with `--json`: the frame of an answer, the lock, an obstacle."""

from __future__ import annotations

import json

from entrypoint.operations.whereabouts import whereabouts
from entrypoint.redaction import visible_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from entrypoint.errors import EntrypointError
    from entrypoint.migration.ledger.reading import LockRow

# Keys of the lock's row that are spelled in another way here, like the other keys.
_NAMES = {"or_later": "orLater", "blocked_by": "blockedBy", "seconds_left": "secondsLeft"}


def document(answer: Mapping[str, object], error: EntrypointError | None = None) -> str:
    """Return an answer as JSON, with the database first and the error, if any, last."""
    where = whereabouts()
    about = {"server": where.server or None, "database": where.database or None}
    return as_json({**about, **answer, "error": error and error.message})


def as_json(answer: Mapping[str, object]) -> str:
    """Return an answer in printable form."""
    return visible_json(json.dumps(answer, indent=2, ensure_ascii=False)) + "\n"


def obstacle(error: EntrypointError | None) -> dict[str, object] | None:
    """Return why a start would stop, or None."""
    return None if error is None else {"message": error.message, "remedy": error.remedy or None}


def lock(row: LockRow | None, *, alive: bool | None) -> dict[str, object] | None:
    """Return the lock's row. `alive`: whether the guard is held; None if unknown."""
    return row and {
        "held": row.held,
        "holder": row.who,
        "processId": row.process_id,
        "since": row.since,
        "migration": row.migration,
        "statement": row.statement,
        "statements": row.statements,
        "heldForSeconds": row.seconds if row.held else None,
        "alive": None if row.legacy else alive,
        "progress": {_NAMES.get(name, name): value for name, value in row.told.items()} or None,
    }
