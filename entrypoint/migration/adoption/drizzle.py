"""Drizzle: `drizzle.__drizzle_migrations`, in drizzle-orm's `pg-core/dialect.ts` and `up-migrations/pg.ts`.

Its migrator runs migrations whose `when` in the journal is later than the newest row's `created_at`. One that is merged
with an earlier time is skipped forever, and has no row. Since 1.0 the table has the migration's name, which is
compared; the first run of 1.0 adds that column to an older table. The hash is that of the file before `import` removed
the breakpoints, so it cannot be compared.
"""

from __future__ import annotations

import time

from entrypoint.migration.adoption.history import History, Obstacle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from entrypoint.database.answers import Row

QUERY = "SELECT created_at, NULL FROM {table} ORDER BY id"
QUERY_WITH_NAMES = "SELECT created_at, name FROM {table} ORDER BY id"


def decide(rows: Sequence[Row], here: Collection[str]) -> History:
    """Return what is applied: by name if both sides have one, otherwise by the time in the journal."""
    times = {version: int(when) for version in here if (when := _time_in(version))}
    names = {version for version in here if version not in times}
    there = [(int(when or 0), name or _name_of(int(when or 0), names)) for when, name in rows]
    applied_at = {when for when, _ in there}
    applied = {version for version, when in times.items() if when in applied_at}
    applied |= names.intersection(name for _, name in there if name)
    passed_by = [version for version, when in times.items() if applied_at and when < max(applied_at)]
    passed_by = sorted(set(passed_by) - applied)
    if passed_by:
        tag, _, when = passed_by[0].rpartition(" ")
        return History(
            refusal=Obstacle(
                f"{tag} is not recorded there, but later ones are: Drizzle orders migrations by the time in "
                "meta/_journal.json, so it skipped this one and will never run it",
                "If the database already has what it creates: INSERT INTO drizzle.__drizzle_migrations (hash, "
                f"created_at) VALUES ('by hand', {when}). If not, remove the origin line from its file, so that it "
                "runs here. Then start again.",
            )
        )
    known_times = set(times.values())
    unknown = [name or f"created_at {when}" for when, name in there if when not in known_times and name not in names]
    return History(frozenset(applied), tuple(unknown))


def _time_in(version: str) -> str:
    """Return the time in the journal, which `import` writes after the tag; empty if there was no journal."""
    when = version.rpartition(" ")[2]
    return when if " " in version and when.isdecimal() else ""


def _name_of(when: int, names: Collection[str]) -> str | None:
    """Return the migration whose name begins with that time, as 1.0 does for a table without names."""
    stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(when // 1000))
    same = [name for name in names if name.startswith(stamp)]
    return same[0] if len(same) == 1 else None
