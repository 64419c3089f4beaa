"""How a lease finds out why it was lost, with scripted answers in place of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from entrypoint.database.answers import Row, StatementError
from entrypoint.deadline import Deadline
from entrypoint.migration.ledger.place import Place
from entrypoint.migration.lock.lease import Lease

if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.migration.lock.guard import Guard

PLACE = Place("public", True, {}, {})  # noqa: FBT003 - as it reads the catalogues

FREED: list[list[Row]] = [[()]]
NOT_FREED: list[list[Row]] = [[]]


class Refusal:
    """libpq's result of a statement that failed."""

    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate

    def error_field(self, code: int, /) -> bytes | None:
        return self.sqlstate.encode() if code == ord("C") else None

    def get_error_message(self) -> str:
        return "refused"


class Script:
    """A session with scripted answers."""

    def __init__(self, *answers: list[list[Row]] | str) -> None:
        self.answers = list(answers)

    def query(self, _sql: str, _deadline: Deadline) -> list[list[Row]]:
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            raise StatementError(Refusal(answer), 0)
        return answer

    def rollback(self, _deadline: Deadline) -> None:
        """Do nothing: no transaction is open."""


@pytest.mark.parametrize(
    ("answers", "by_operator"),
    [
        pytest.param([FREED], True, id="freed"),
        pytest.param([NOT_FREED], False, id="taken by another"),
        pytest.param(["57014", FREED], True, id="the watcher's cancel came late, then freed"),
        pytest.param(["57014", NOT_FREED], False, id="the watcher's cancel came late, then taken"),
        pytest.param(["42P01"], False, id="no such table"),
    ],
)
def test_who_took_the_lease(answers: list[list[list[Row]] | str], by_operator: bool) -> None:  # noqa: FBT001
    worker = Script(*answers)
    lease = Lease(cast("Guard", None), cast("Session", worker), PLACE, "token", None, Deadline(1))
    error = lease.lost()
    assert error.by_operator is by_operator
    assert ("operator" in error.message) is by_operator
    assert not worker.answers
