"""What there is to do: pure functions over the files and the ledger's rows."""

from __future__ import annotations

from entrypoint.migration.ledger.rows import COMPLETED, FAILED, RUNNING
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.script.files import MigrationFile
    from entrypoint.migration.script.rollout import Rollout


class Plan(NamedTuple):
    """The difference between files and ledger."""

    current: int | None
    """The highest applied number; None if nothing is applied."""
    latest: int | None
    """The highest number among the files; None if there are none."""
    applied: tuple[LedgerRow, ...]
    pending: tuple[MigrationFile, ...]
    """Not applied yet, in the order in which they will run."""
    runnable: tuple[MigrationFile, ...]
    """The pending files that may run now."""
    held_back: LedgerRow | None
    """The failure of the first pending migration that failed earlier and whose file has not changed since."""
    failed: tuple[LedgerRow, ...]
    running: tuple[LedgerRow, ...]
    """Outside a transaction: running now, or interrupted."""
    changed: tuple[MigrationFile, ...]
    """Applied, but the text has changed since."""
    missing: tuple[LedgerRow, ...]
    """Applied, within the range of the files, but the file is missing."""
    ahead: tuple[LedgerRow, ...]
    """Applied, and above the last file's number: a newer image has run here."""
    out_of_order: tuple[MigrationFile, ...]
    """Pending, but a higher number is applied."""
    outstanding: tuple[MigrationFile, ...] = ()
    """Not applied and not pending: they run after the rollout."""
    unmet: tuple[MigrationFile, int] | None = None
    """The first pending migration that waits for another one, and that one's number. None if something has failed."""
    below: tuple[LedgerRow, ...] = ()
    """Applied, with a floor that none of the files meets: an image with these files must not start any more."""
    initial: int | None = None
    """In a new database: up to this number, files with `phase = after` run with the others."""


def plan_of(
    files: Sequence[MigrationFile], rows: Sequence[LedgerRow], *, up_to: int | None = None, after: bool = False
) -> Plan:
    """Compare the files with the ledger as `decide` does, and read only those files' texts that matter, mostly none.

    Raises nothing. A file that cannot be read counts as one without directives; it is refused when it is about to run.
    """
    plan = decide(files, rows, up_to=up_to, after=after)
    if not (plan.pending or plan.below):
        return plan
    from entrypoint.migration.script.rollout import rollouts

    applied = {row.number for row in plan.applied}
    said = rollouts(files if plan.below else [file for file in files if file.number not in applied])
    return decide(files, rows, up_to=up_to, after=after, said=said) if said else plan


def decide(
    files: Sequence[MigrationFile],
    rows: Sequence[LedgerRow],
    *,
    up_to: int | None = None,
    after: bool = False,
    said: Mapping[int, Rollout] | None = None,
) -> Plan:
    """Compare the files with the ledger.

    `up_to`: files with higher numbers are not pending. `after`: whether the rollout is over. `said`: the files'
    directives about the rollout, by number.
    """
    by_number = {file.number: file for file in files}
    applied = {row.number: row for row in rows if row.status == COMPLETED}
    failed = {row.number: row for row in rows if row.status == FAILED}
    current = max(applied, default=None)
    latest = max(by_number, default=None)
    pending = tuple(file for file in files if file.number not in applied and (up_to is None or file.number <= up_to))
    below = tuple(row for row in applied.values() if row.floor)
    initial = None
    outstanding: tuple[MigrationFile, ...] = ()
    late: frozenset[int] = frozenset()
    if below:
        from entrypoint.migration.ledger.rollout import not_met

        below = not_met(below, files, said or {})
    if said:
        from entrypoint.migration.ledger.rollout import what_may_run

        late = frozenset(number for number, rollout in said.items() if rollout.after)
        initial = max((row.initial for row in applied.values() if row.initial is not None), default=None)
        initial = initial if applied else latest
        if not after:
            limit = -1 if initial is None else initial
            outstanding = tuple(file for file in pending if file.number in late and file.number > limit)
            pending = tuple(file for file in pending if file.number not in late or file.number <= limit)
        numbers = {*by_number, *(row.number for row in rows)}
        runnable, held_back, unmet = what_may_run(pending, numbers, applied, failed, said)
    else:
        stop, held_back = _held_back(pending, failed)
        runnable, unmet = pending[:stop], None
    return Plan(
        current=current,
        latest=latest,
        applied=tuple(applied.values()),
        pending=pending,
        runnable=runnable,
        held_back=held_back,
        failed=tuple(failed.values()),
        running=tuple(row for row in rows if row.status == RUNNING),
        changed=tuple(
            file for file in files if file.number in applied and not file.matches(applied[file.number].checksum)
        ),
        missing=tuple(
            row
            for row in applied.values()
            if row.number not in by_number and latest is not None and row.number < latest
        ),
        ahead=tuple(row for row in applied.values() if latest is not None and row.number > latest),
        out_of_order=tuple(
            file for file in pending if current is not None and file.number < current and file.number not in late
        ),
        outstanding=outstanding,
        unmet=unmet,
        below=below,
        initial=initial,
    )


def _held_back(pending: Sequence[MigrationFile], failed: dict[int, LedgerRow]) -> tuple[int, LedgerRow | None]:
    """Return how many of `pending` may run, and the failure that holds back the rest.

    Replicas do not retry a failed migration one after the other. It waits until its file changes or somebody deletes
    the row. If the row has no checksum, the file never counts as changed.
    """
    for index, file in enumerate(pending):
        row = failed.get(file.number)
        if row is not None and file.matches(row.checksum):
            return index, row
    return len(pending), None
