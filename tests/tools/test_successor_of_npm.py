"""A Node program started by `npm run` commits nothing once its holder's successor has begun."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from test_successors import ROUNDS, one_round

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run


@pytest.mark.timeout(60 + 60 * ROUNDS)
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_no_commit_after_the_successor_began(
    database: Database, tmp_path: Path, run_entrypoint: Callable[..., Run], fault: signal.Signals
) -> None:
    for _ in range(ROUNDS):
        one_round(database, tmp_path, run_entrypoint, "npm", fault)
