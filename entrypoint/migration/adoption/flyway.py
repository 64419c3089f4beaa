"""Flyway: `flyway_schema_history`, in `JdbcTableSchemaHistory` and `MigrationInfoServiceImpl` of its core.

Only `repair` changes rows; the newest row of a version (by `installed_rank`) counts. `UNDO_…` has reversed it; `repair`
writes `DELETE` for one whose file is gone. A `BASELINE` includes every version up to its own. `SCHEMA` and repeatable
migrations have no version. Any other type (SQL, JDBC, SCRIPT, …) is a migration that ran, and may have a hand-written
file here. Versions have parts: 1 and 1.0 are the same.
"""

from __future__ import annotations

from entrypoint.migration.adoption.history import History, Obstacle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from entrypoint.database.answers import Row

QUERY = "SELECT version, type, script, success, checksum FROM {table} ORDER BY installed_rank"
_BASELINE = "BASELINE"


def decide(rows: Sequence[Row], here: Collection[str]) -> History:
    """Return what is applied by the newest row of each version."""
    failed = [version or script for version, _, script, success, _ in rows if success != "t"]
    if failed:
        return History(
            refusal=Obstacle(
                f"{failed[0]} is recorded there as failed",
                "Check what that migration did, correct the schema, and have Flyway forget the attempt: flyway "
                "repair. Then start again.",
            )
        )
    # Written by hand, as Flyway would not.
    odd = tuple(version for version, *_ in rows if version and not _has_parts(version))
    newest = {
        parts_of(version): (version, kind or "", checksum)
        for version, kind, _, _, checksum in rows
        if version and version not in odd
    }
    done = {
        parts: (version, checksum)
        for parts, (version, kind, checksum) in newest.items()
        if kind not in (_BASELINE, "DELETE") and not kind.startswith("UNDO")
    }
    baselines = [parts for parts, (_, kind, _) in newest.items() if kind == _BASELINE]
    files = {version: parts_of(version) for version in here if _has_parts(version)}
    applied = {
        version: parts
        for version, parts in files.items()
        if parts in done or any(parts <= baseline for baseline in baselines)
    }
    checksums = {version: done[parts][1] for version, parts in applied.items() if parts in done}
    return History(
        frozenset(applied),
        (*odd, *(version for parts, (version, _) in done.items() if parts not in set(files.values()))),
        checksums={version: checksum for version, checksum in checksums.items() if checksum is not None},
    )


def parts_of(version: str) -> tuple[int, ...]:
    """Return a version as Flyway compares it: trailing zeros do not count."""
    parts = [int(part) for part in version.replace("_", ".").split(".")]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _has_parts(version: str) -> bool:
    """Return whether this is the version of a migration that is not repeatable."""
    return version.isascii() and all(part.isdecimal() for part in version.replace("_", ".").split("."))
