"""How long the lock's holder may take, as long as it shows signs of life."""

from __future__ import annotations

import pytest

from entrypoint.migration.ledger.reading import Guardian, LockRow
from entrypoint.migration.lock.patience import time_left

ROW = LockRow(
    held=True,
    since=None,
    seconds=20.0,
    holder="pod-1",
    process_id=7,
    token="0123456789abcdef.1",
    migration=None,
    statement=None,
    statements=None,
    detail={},
    guard_pid=4711,
    left=42.0,
)
GUARD = Guardian(4711, "entrypoint:0123456789abcdef")
STRANGER = Guardian(4712, "psql")
EARLIER = ROW._replace(guard_pid=None, left=None)


@pytest.mark.parametrize(
    ("row", "guardian", "left"),
    [
        pytest.param(ROW, GUARD, 42.0, id="alive"),
        pytest.param(ROW._replace(left=-1.0), GUARD, 0.0, id="alive, and its time is over"),
        pytest.param(ROW._replace(left=None), GUARD, 0.0, id="alive, with a time that is none"),
        pytest.param(ROW, None, None, id="dead"),
        pytest.param(ROW, STRANGER, None, id="somebody else's lock"),
        pytest.param(None, STRANGER, None, id="no row"),
        pytest.param(ROW._replace(held=False), GUARD, None, id="freed by an operator"),
        pytest.param(EARLIER, STRANGER, 280.0, id="of an earlier release"),
        pytest.param(EARLIER._replace(seconds=500.0), STRANGER, 0.0, id="of an earlier release, late"),
        pytest.param(EARLIER, None, None, id="of an earlier release, dead"),
        pytest.param(EARLIER._replace(token=None), GUARD, None, id="of the earlier system"),
    ],
)
def test_time_left(row: LockRow | None, guardian: Guardian | None, left: float | None) -> None:
    assert time_left(row, guardian, 300.0) == left
