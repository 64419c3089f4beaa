"""What may run, and which files may start, where files say something about the rollout; and what rows say of it.

Pure functions: the part of `plan.decide` and of `rows.ledger_query` that an up-to-date start does without.
"""

from __future__ import annotations

from entrypoint.migration.ledger.place import ROLLOUT_COLUMNS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from entrypoint.migration.ledger.plan import Plan
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.script.files import MigrationFile
    from entrypoint.migration.script.rollout import Rollout


def what_may_run(
    pending: Sequence[MigrationFile],
    numbers: set[int],
    applied: Mapping[int, LedgerRow],
    failed: Mapping[int, LedgerRow],
    said: Mapping[int, Rollout],
) -> tuple[tuple[MigrationFile, ...], LedgerRow | None, tuple[MigrationFile, int] | None]:
    """Return what may run, the first failure in the way of the rest, and what the first one needs that is kept by less.

    A file with `phase = after` runs only when every lower number of files and ledger (all `numbers`) is completed; what
    others have dropped does not come back. So it is kept by any failure before it, and keeps back only its like.
    """
    done = set(applied)
    ahead_of_it = iter(sorted(numbers))
    lowest = next(ahead_of_it, None)
    chosen: list[MigrationFile] = []
    failure, unmet = None, None
    for file in pending:
        rollout = said.get(file.number)
        late = rollout is not None and rollout.after
        required = rollout.requires if rollout is not None else None
        # What does not come before it, is refused where the text is checked.
        if required is not None and required < file.number and required not in done:
            unmet = unmet or (file, required)
            break
        while lowest is not None and lowest in done:
            lowest = next(ahead_of_it, None)
        if late and lowest is not None and lowest < file.number:
            unmet = unmet or (file, lowest)
            continue
        row = failed.get(file.number)
        if row is not None and file.matches(row.checksum):
            failure = failure or row
            if late:
                continue
            break
        chosen.append(file)
        done.add(file.number)
    return tuple(chosen), failure, None if failure else unmet


def not_met(
    rows: Sequence[LedgerRow], files: Sequence[MigrationFile], said: Mapping[int, Rollout]
) -> tuple[LedgerRow, ...]:
    """Return those of `rows` whose floor is neither one of the files nor what one of them stands for."""
    names = {file.name for file in files}
    names.update(name for rollout in said.values() for name in rollout.replaces)
    return tuple(row for row in rows if row.floor not in names)


def what_is_initial(plan: Plan, late: frozenset[int]) -> tuple[int | None, bool]:
    """Return what the first row says of a new database, and whether the last is to take away what a row says of one.

    `late`: which of the pending files say `phase = after`. If one file is all there is, there is nothing to say.
    """
    begins = not plan.applied and bool(late) and len(plan.runnable) > 1
    began = any(row.initial is not None for row in plan.applied)
    return plan.initial if begins else None, (begins or began) and len(plan.runnable) == len(plan.pending)


def if_there() -> str:
    """Return the branch of a CASE for what a completed row says of the rollout, whether or not it has such columns.

    A name that the innermost query does not have is one of the query's around it.
    """
    nothing = ", ".join(f"NULL::{type_} AS {name}" for name, type_ in ROLLOUT_COLUMNS.items())
    return (
        " ELSE (SELECT (SELECT nullif(pg_catalog.concat_ws(' ', initial_up_to, floor), '') FROM (SELECT l.*) AS r) "
        f"FROM (SELECT {nothing}) AS n)"
    )
