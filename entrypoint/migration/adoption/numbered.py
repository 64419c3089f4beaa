"""Tools whose versions are integers: goose, golang-migrate and sqlx.

goose: `goose_db_version (id, version_id, is_applied, tstamp)`, in `internal/dialect/dialectquery/postgres.go`. Version
0 is its own. Releases before 3 add a row for each down migration, too: the newest row of a version counts.

golang-migrate: `schema_migrations (version, dirty)` with at most one row, in `database/postgres/postgres.go`: the
newest version. It is dirty while a migration runs, up or down, and stays dirty if that fails. -1 means "none".

sqlx: `_sqlx_migrations (version, description, installed_on, success, checksum, execution_time)`, in
`sqlx-postgres/src/migrate.rs`; the checksum is SHA-384 of the file.
"""

from __future__ import annotations

from entrypoint.migration.adoption.history import History, Obstacle, matched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from entrypoint.database.answers import Row

GOOSE = "SELECT version_id, is_applied FROM {table} ORDER BY id"
GOLANG_MIGRATE = "SELECT version, dirty FROM {table} ORDER BY 1"
SQLX = "SELECT version, success, pg_catalog.encode(checksum, 'hex') FROM {table} ORDER BY 1"


def decide_goose(rows: Sequence[Row], here: Collection[str]) -> History:
    """Return what is applied by the newest row of each version."""
    if odd := _odd(rows, "goose"):
        return odd
    newest = {version or "0": applied == "t" for version, applied in rows}
    return matched((version for version, applied in newest.items() if applied and int(version) > 0), here)


def decide_golang_migrate(rows: Sequence[Row], here: Collection[str]) -> History:
    """Return what is applied: every file up to the one version in the table."""
    if not rows:
        return History()
    if len(rows) > 1:
        return History(
            refusal=Obstacle(
                f"its table has {len(rows)} rows, but golang-migrate keeps only one",
                "Find out which version the schema is at, and tell golang-migrate: migrate force VERSION.",
            )
        )
    if odd := _odd(rows, "golang-migrate"):
        return odd
    version, dirty = int(rows[0][0] or 0), rows[0][1] == "t"
    if dirty:
        return History(
            refusal=Obstacle(
                f"version {version} is dirty: golang-migrate started a migration, up or down, and has not finished it "
                "(yet)",
                "It may be running right now: wait until it ends, then start again. If it is not running, check what "
                "it did, correct the schema, and tell golang-migrate which version it is at: migrate force "
                "VERSION. Then start again.",
            )
        )
    below = frozenset(one for one in here if _number(one) <= version)
    known = any(_number(one) == version for one in below)
    return History(below, () if known or version < 0 else (str(version),))


def decide_sqlx(rows: Sequence[Row], here: Collection[str]) -> History:
    """Return what is applied: every row, unless one was not successful."""
    failed = [version for version, success, _ in rows if success != "t"]
    if failed:
        return History(
            refusal=Obstacle(
                f"version {failed[0]} is recorded there as not successful (yet)",
                "sqlx may be running it right now: wait until it ends, then start again. If it is not running, check "
                "what that migration did, correct the schema, and then either DELETE FROM _sqlx_migrations WHERE "
                f"version = {failed[0]}, if it should run again, or set success = true there. Then start again.",
            )
        )
    return matched(
        (version or "" for version, _, _ in rows),
        here,
        {version or "": checksum or "" for version, _, checksum in rows},
    )


def _odd(rows: Sequence[Row], tool: str) -> History | None:
    """Return a refusal if the tool could not have written a row: it must be a version and a boolean."""
    for version, flag in rows:
        if flag not in ("t", "f") or not (version or "").removeprefix("-").isdecimal():
            shown = ", ".join("NULL" if value is None else value for value in (version, flag))
            return History(
                refusal=Obstacle(
                    f"its table has a row ({shown}) that {tool} would not write",
                    f"Find out what happened to that table, and correct the row the way {tool} would have written it. "
                    "Then start again.",
                )
            )
    return None


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else 2**63
