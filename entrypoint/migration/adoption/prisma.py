"""Prisma: `_prisma_migrations`, in `schema-engine/connectors/sql-schema-connector` of prisma-engines.

A migration may have several rows. A row counts if it has `finished_at` and no `rolled_back_at`. A row with neither has
failed or is running; `migrate resolve` decides. The checksum is SHA-256 of the file.
"""

from __future__ import annotations

from entrypoint.migration.adoption.history import History, Obstacle, matched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from entrypoint.database.answers import Row

QUERY = (
    "SELECT migration_name, finished_at IS NOT NULL, rolled_back_at IS NOT NULL, checksum FROM {table} "
    "ORDER BY started_at, migration_name"
)


def decide(rows: Sequence[Row], here: Collection[str]) -> History:
    """Return what is applied: what was finished and not rolled back."""
    failed = [name for name, finished, back, _ in rows if finished != "t" and back != "t"]
    if failed:
        return History(
            refusal=Obstacle(
                f"{failed[0]} was started there, and has neither finished nor been rolled back",
                "Prisma may be running it right now: wait until it ends, then start again. If it is not running, "
                "check what that migration did, correct the schema, and tell Prisma: prisma migrate resolve "
                f"--applied {failed[0]}, or --rolled-back {failed[0]}. Then start again.",
            )
        )
    done = {name or "": checksum or "" for name, finished, back, checksum in rows if finished == "t" and back != "t"}
    return matched(done, here, done)
