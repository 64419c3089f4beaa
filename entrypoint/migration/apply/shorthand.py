"""What stands around a file, prepared: for ordinary files that come one after the other.

To plan these statements takes the server longer than to run them, and together longer than a small file. They are the
same for each file, but for a few values.
"""

from __future__ import annotations

from entrypoint.database.quoting import Parameter, literal
from entrypoint.migration.ledger import writing
from entrypoint.migration.ledger.rows import COMPLETED
from entrypoint.migration.lock import row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from entrypoint.migration.apply.attempt import Task
    from entrypoint.migration.script.prepare import Prepared

# What has nothing to do with prepared statements, and calls nothing for the sake of what that does.
_ORDINARY = frozenset(
    ("ALTER", "COMMENT", "CREATE", "DELETE", "DROP", "GRANT", "INSERT", "REVOKE", "TRUNCATE", "UPDATE")
)

# A file of more statements takes so long that what stands around it does not matter.
_MANY = 1_000


def suits(migration: Prepared) -> bool:
    """Tell whether a file leaves prepared statements alone: those of others, and none of its own."""
    advice = migration.advice
    return (
        advice.transactional
        and not (advice.disputed or advice.odd)
        and len(advice.statements) <= _MANY
        and all(statement.words[:1] and statement.words[0] in _ORDINARY for statement in advice.statements)
    )


class Shorthand:
    """The prepared statements of one lease, in its worker's session.

    They are named by the lease: another one may have had the same session, or have it next.
    """

    def __init__(self, task: Task) -> None:
        """Take any task of those for which they are to be."""
        self._lease = task.lease
        self._version = task.assignment.app_version
        self._template: Any = task.migration.file
        self._name = f"entrypoint_{task.lease.token.replace('.', '_')}"

    @property
    def fence(self) -> str:
        """The fence."""
        return f"EXECUTE {self._name}_fence;"

    def prepare(self) -> str:
        """Return the statements that prepare them, for a transaction in our state."""
        lease, place = self._lease, self._lease.place
        one, two, three = (Parameter(f"${number}") for number in (1, 2, 3))
        file = self._template._replace(number=one, name=two, checksum=three)
        write, check = writing.row(place, file, self._version, status=COMPLETED).split("\n")
        statements = {
            "fence": lease.fence(),
            "again (int4, float8)": lease.reassert(row.life(one, lease.token, two)),
            "lock": writing.lock_is_kept(place),
            "row (int8, text, text)": write,
            "check (int8)": check,
            "next (int4, float8, text)": lease.progress(three, life=row.life(one, lease.token, two)),
        }
        return "\n".join(f"PREPARE {self._name}_{name} AS {sql}" for name, sql in statements.items())

    def record(self, task: Task) -> list[str]:
        """Return the statements that do what those of an ordinary record do, where they are prepared."""
        lease, file = self._lease, task.migration.file
        life, name = f"{lease.guard_pid}, {lease.seconds}", self._name
        values = f"{file.number}, {literal(file.name)}, {literal(file.checksum)}"
        return [
            f"EXECUTE {name}_again ({life}); EXECUTE {name}_lock;",
            # Not prepared: how it is to be done depends on how many there are.
            writing.rows_are_kept(lease.place, task.kept) if task.kept else "",
            f"EXECUTE {name}_row ({values}); EXECUTE {name}_check ({file.number});",
            task.rollout + task.refreshed,
            f"EXECUTE {name}_next ({life}, {literal(task.following)});",
        ]
