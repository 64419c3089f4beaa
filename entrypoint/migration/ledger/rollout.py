"""What may run, and which images may start, if files or rows say something about the rollout.

Pure functions: the part of `plan.decide` and `rows.ledger_query` that an up-to-date start does not need.
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
    """Return which files may run, the first failure that holds back others, and the first unmet requirement.

    A file with `phase = after` runs only after every lower number in the files and the ledger (`numbers`) is completed,
    because what it drops does not come back. So any earlier failure holds it back, but its own failure holds back only
    other files with `phase = after`. The requirement is None if there is a failure.
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
        # A required number that is not lower is refused when the text is checked.
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
    """Return those of `rows` whose floor is neither one of the files nor replaced by one."""
    names = {file.name for file in files}
    names.update(name for rollout in said.values() for name in rollout.replaces)
    return tuple(row for row in rows if row.floor not in names)


def what_is_initial(plan: Plan, late: frozenset[int]) -> tuple[int | None, bool]:
    """Return the value of `initial_up_to` that the first row records, and whether the last row clears it.

    In a new database it says up to which number files with `phase = after` run with the others. `late`: the pending
    files with `phase = after`. With only one file, nothing needs to be recorded.
    """
    begins = not plan.applied and bool(late) and len(plan.runnable) > 1
    began = any(row.initial is not None for row in plan.applied)
    return plan.initial if begins else None, (begins or began) and len(plan.runnable) == len(plan.pending)


def if_there() -> str:
    """Return the branch of a CASE for what a completed row says about the rollout, even if the table lacks the columns.

    If the innermost query has no column of that name, PostgreSQL takes it from the enclosing query, where it is NULL.
    """
    nothing = ", ".join(f"NULL::{type_} AS {name}" for name, type_ in ROLLOUT_COLUMNS.items())
    return (
        " ELSE (SELECT (SELECT nullif(pg_catalog.concat_ws(' ', initial_up_to, floor), '') FROM (SELECT l.*) AS r) "
        f"FROM (SELECT {nothing}) AS n)"
    )
