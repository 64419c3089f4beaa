"""Where a file that runs in batches begins: which key it uses, and whether it continues an earlier run."""

from __future__ import annotations

from entrypoint.database import session_state
from entrypoint.deadline import Deadline
from entrypoint.errors.migration import MigrationFailedError
from entrypoint.migration.apply import keys, obstacles
from entrypoint.migration.apply.attempt import GRACE
from entrypoint.migration.ledger.rows import FAILED
from entrypoint.migration.ledger.walk import Walk, walk_in
from entrypoint.migration.script.batch import Batch, changes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.database.answers import Row
    from entrypoint.migration.apply.attempt import Task
    from entrypoint.migration.apply.keys import Key
    from entrypoint.migration.script.files import MigrationFile

    Query = Callable[[str], list[list[Row]]]


def judged(task: Task, batch: Batch, query: Query, oid: str | None, earlier: Walk | None) -> Key:
    """Return the key by which the file goes through the table with this `oid`, from the catalog as `query` reads it.

    `earlier`: how far an earlier run got. Raises MigrationPreventedError if there is no such table, or the key cannot
    be used.
    """
    if oid is None:
        verdict: Key | keys.Unfit = keys.Unfit(
            f"there is no table {batch.table}",
            "Correct its name in the directive, add its schema, or create it in an earlier file. If it was renamed "
            "after the first batch, rename it back.",
        )
    else:
        answers = query(";\n".join(keys.questions(oid, batch.columns)))
        verdict = keys.usable_key(*keys.read(oid, *answers))
    if isinstance(verdict, keys.Key):
        verdict = _unsuited(task, query, verdict) or verdict
    if isinstance(verdict, keys.Unfit):
        task.lease.worker.rollback(Deadline(2 * GRACE))
        raise obstacles.unfit(task.migration.file, batch, verdict, earlier)
    return verdict


def _unsuited(task: Task, query: Query, key: Key) -> keys.Unfit | None:
    """Return why the file's statement cannot go through the table by that key; None if it can."""
    advice, role = task.migration.advice, task.assignment.role
    found = query(
        f"{session_state.FRESH[0]} {key.visible}; {session_state.ours(role)} {keys.AS_TEXT} "
        f"{keys.relatives(key.table.oid)}"
    )
    return keys.unsuited(
        key,
        visible=found[1][0][0] == "t",
        relatives=[name or "" for (name,) in found[-1]],
        changes=changes(advice.body, advice.statements[0]),
    )


def refuse_another(task: Task, fresh: Walk, walk: Walk | None, number: str, name: str) -> None:
    """Raise MigrationPreventedError if the same statement is only partly done under another file name.

    `fresh`: the walk that would begin. `walk`: the one recorded in the row of the other file, `number` and `name`.
    """
    if walk is not None and walk.batches and walk.statement == fresh.statement:
        task.lease.worker.rollback(Deadline(2 * GRACE))
        raise obstacles.renumbered(task.migration.file, walk, number, name, task.lease.place.schema)


def resumed(file: MigrationFile, batch: Batch, fresh: Walk, row: Row, schema: str) -> Walk | None:
    """Return the walk to continue, from the status and message of the file's row; None if no batch is committed.

    `fresh`: the walk that would begin otherwise. `schema`: where the ledger is. Raises
    MigrationFailedError if the file needs attention.
    """
    status, message = row
    walk = walk_in(message)
    if walk is None:
        if status == FAILED:
            return None
        raise MigrationFailedError(
            f"{file.name} was interrupted at {(message or 'an unknown statement').splitlines()[0]} before it ran in "
            "batches; nothing was run",
            remedy="Check how much of it took effect. If the statement can safely run for all rows: entrypoint "
            "repair --failed. It then runs from the first batch.",
            version=file.number,
            file=file.name,
        )
    if file.matches(walk.checksum) or (walk.statement, walk.columns) == (fresh.statement, fresh.columns):
        if walk.ground not in (None, fresh.ground) and walk.cursor is not None:
            raise obstacles.elsewhere(file, batch, walk, fresh.ground or ("",), schema)
        return fresh._replace(
            turn=walk.turn,
            cursor=walk.cursor,
            last=walk.last,
            met=walk.met,
            total=walk.total,
            rows=walk.rows,
            batches=walk.batches,
            seconds=walk.seconds,
            size=fresh.size if batch.fixed else walk.size,
        )
    if not walk.batches:
        return None
    raise obstacles.changed(file, walk)
