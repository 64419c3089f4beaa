"""Prepares the statements around a file, when several ordinary files run one after the other.

The server takes longer to plan these statements than to run them, and longer for all of them than for a small file.
Except for a few values, they are the same for each file.
"""

from __future__ import annotations

from entrypoint.database import session_state, transactions
from entrypoint.database.quoting import Parameter, literal
from entrypoint.migration.ledger import writing
from entrypoint.migration.ledger.rows import COMPLETED
from entrypoint.migration.lock import row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from entrypoint.deadline import Deadline
    from entrypoint.migration.apply.attempt import Task
    from entrypoint.migration.script.prepare import Prepared

# These statements do not touch prepared statements, and do not exist to call functions, as SELECT may.
_ORDINARY = frozenset(
    ("ALTER", "COMMENT", "CREATE", "DELETE", "DROP", "GRANT", "INSERT", "REVOKE", "TRUNCATE", "UPDATE")
)

# A file with more statements takes so long that the time for the statements around it does not matter.
_MANY = 1_000


def suits(migration: Prepared) -> bool:
    """Tell whether a file certainly does not touch prepared statements, ours or its own."""
    advice = migration.advice
    return (
        advice.transactional
        and not (advice.disputed or advice.odd_strings)
        and len(advice.statements) <= _MANY
        and all(statement.words[:1] and statement.words[0] in _ORDINARY for statement in advice.statements)
    )


class Shorthand:
    """The prepared statements of one lease, in its worker's session.

    Their names contain the lease's token, because another lease may have used the same session, or may use it next.
    """

    def __init__(self, task: Task) -> None:
        """Take any of the tasks that they are for."""
        self._lease = task.lease
        self._version = task.assignment.app_version
        self._template: Any = task.migration.file
        self._name = f"entrypoint_{task.lease.token.replace('.', '_')}"

    @property
    def fence(self) -> str:
        """The statement that takes the fence."""
        return f"EXECUTE {self._name}_fence;"

    def limits(self, deadline: Deadline, lock_timeout_ms: int) -> str:
        """Return the statement that sets the timeouts for a transaction, its statements, and their waits for locks."""
        return f"EXECUTE {self._name}_limits ({deadline.milliseconds()}, {lock_timeout_ms});"

    def ours(self, deadline: Deadline) -> str:
        """Return the statements for the rest of `session_state.restore`, and for `transactions.limits`."""
        return f"{session_state.ours(self._lease.role)}\nEXECUTE {self._name}_ours ({deadline.milliseconds()});"

    def prepare(self) -> str:
        """Return the statements that prepare them, for a transaction with our own settings."""
        lease, place = self._lease, self._lease.place
        one, two, three = (Parameter(f"${number}") for number in (1, 2, 3))
        file = self._template._replace(number=one, name=two, checksum=three)
        limits = transactions.prepared_limits
        version = lease.worker.server_version
        statements = {
            "fence": lease.fence(),
            "limits (int4, int4)": f"SELECT {limits(version)};",
            "ours (int4)": f"SELECT {session_state.UNLOCK}, {limits(version, waits=False)};",
            "again (int4, float8)": lease.reassert(row.life(one, lease.token, two)),
            "row (int8, text, text)": writing.insert(place, file, self._version, status=COMPLETED),
            "check (int8, int8, int8, int8)": writing.prepared_check(place),
            "next (int4, float8, text)": lease.progress(three, life=row.life(one, lease.token, two)),
        }
        return "\n".join(f"PREPARE {self._name}_{name} AS {sql}" for name, sql in statements.items())

    def record(self, task: Task) -> list[str]:
        """Return the prepared equivalents of the statements that record a migration."""
        lease, file = self._lease, task.migration.file
        life, name = f"{lease.guard_pid}, {lease.seconds}", self._name
        values = f"{file.number}, {literal(file.name)}, {literal(file.checksum)}"
        kept = writing.without_gaps(task.kept)
        first, last, count = kept or writing.without_gaps(()) or (0, 0, 0)
        return [
            f"EXECUTE {name}_again ({life});",
            # Not prepared: the best form of this check depends on how many there are.
            "" if kept else writing.rows_are_kept(lease.place, task.kept),
            f"EXECUTE {name}_row ({values}); EXECUTE {name}_check ({file.number}, {first}, {last}, {count});",
            task.rollout + task.refreshed,
            f"EXECUTE {name}_next ({life}, {literal(task.following)});",
        ]
