"""Another program, run to completion: it reads and writes everything, however slowly, and does not outlive us."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from entrypoint.operations import child
from entrypoint.operations.child import run

ENVIRON = {"PATH": os.environ["PATH"]}


def test_one_that_reads_late_and_writes_much() -> None:
    """It gets and returns more than a pipe holds, over several slices of our waiting."""
    data = os.urandom(1 << 20)
    code, output, errors = run(["sh", "-c", "sleep 0.6; cat; sleep 0.4; echo x >&2; exit 3"], ENVIRON, 30, data=data)
    assert (code, output, errors) == (3, data, b"x\n")


def test_one_that_does_not_read_what_there_is() -> None:
    assert run(["true"], ENVIRON, 30, data=b"x" * (1 << 20)) == (0, b"", b"")


def test_without_data_there_is_nothing_to_read() -> None:
    assert run(["cat"], ENVIRON, 30) == (0, b"", b"")


def test_one_that_takes_too_long_is_gone() -> None:
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run(["sh", "-c", "exec sleep 30"], ENVIRON, 0.3, data=b"x")
    assert time.monotonic() - began < 10


def test_whoever_waits_long_is_told_what_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_SLOW", 0.05)
    told: list[int] = []
    assert run(["sh", "-c", "sleep 1.2"], ENVIRON, 30, slow=lambda: told.append(1))[0] == 0
    assert told == [1]
    monkeypatch.setattr(child, "_SLOW", 60)
    run(["sh", "-c", "sleep 0.3"], ENVIRON, 30, slow=lambda: told.append(2))
    assert told == [1]
