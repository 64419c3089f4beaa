"""How a connection that ended during COMMIT is described."""

from __future__ import annotations

import pytest

from entrypoint.errors import ConnectionLostError
from entrypoint.migration.apply.doubt import STANDBY_REMEDY, commit_ended

WAITED = "COMMIT waited for a synchronous standby (synchronous_standby_names"


@pytest.mark.parametrize(
    ("sqlstate", "standby", "gave_up", "ended", "remedy"),
    [
        (None, None, False, "the connection ended during COMMIT (gone)", ""),
        ("57P01", "a", False, f"{WAITED} = 'a'), and the connection ended (gone)", f"{STANDBY_REMEDY} "),
        (
            None,
            "",
            False,
            f"{WAITED}), and the connection ended (gone)",
            f"Check that the server is running. {STANDBY_REMEDY} ",
        ),
        (None, "a", True, f"{WAITED} = 'a')", f"{STANDBY_REMEDY} "),
    ],
    ids=["no standby", "ended by the server", "the server is gone", "our time was up"],
)
def test_what_is_said_of_a_commit(
    sqlstate: str | None,
    standby: str | None,
    gave_up: bool,  # noqa: FBT001 - a column of the table
    ended: str,
    remedy: str,
) -> None:
    lost = ConnectionLostError("gone", sqlstate=sqlstate)
    assert commit_ended(lost, standby, gave_up=gave_up) == (ended, remedy)
