"""The play of one cell: into the phase, the fault, and what must hold from then on."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

import psycopg

from faults.invariants import check_output, check_world
from faults.matrix import ENDED, FAULTS, PHASES
from faults.stage import SHORT, USUAL, VERSIONS, pause

if TYPE_CHECKING:
    from faults.matrix import Cell
    from faults.stage import Stage
    from kit.processes import Run

SIGNAL_PROMISE = 2.0
TOOL_STARTS = 12_000
# The application's own end, and the time it takes to start processes while others run.
_SLACK = 1.0
GOOD = {"migrated", "waited", "up_to_date"}


def play(stage: Stage, cell: Cell) -> None:
    """Play a cell on a fresh stage, and check what must hold. Raises AssertionError."""
    phase, fault = PHASES[cell.phase], FAULTS[cell.fault]
    stage.budgets = SHORT if _is_short(cell) else USUAL
    if phase.tool:
        # Another program has to start first, on a busy machine.
        own = stage.budgets
        stage.budgets = own._replace(lock=own.lock + TOOL_STARTS, migration=own.migration + TOOL_STARTS)
    fault.prepare(stage)
    phase.reach(stage, cell)
    if cell.beside and cell.moment != "passing":
        stage.start(direct=True, on_failure="exit").until("database.connected")
    pause(cell.delay)
    fault.strike(stage, cell)
    if cell.beside and cell.moment == "passing":
        stage.start(direct=True, on_failure="exit")
    if fault.lasts:
        check_end(stage, cell)
        fault.heal(stage)
        _let_go(stage)
    else:
        _let_go(stage)
        fault.aftermath(stage, cell)
        check_end(stage, cell)
        fault.heal(stage)
    check_takeover(stage, cell)
    check_world(stage, disk_was_full=fault.name == "disk full")


def _is_short(cell: Cell) -> bool:
    """Tell whether the fault lasts until the subject has given up; if so, that should be soon."""
    fault = FAULTS[cell.fault]
    return fault.lasts and not fault.exit_codes


def _let_go(stage: Stage) -> None:
    """Let the phase go on; if the server is gone, there is nothing to let go."""
    with contextlib.suppress(psycopg.OperationalError):
        stage.held.close()


def check_end(stage: Stage, cell: Cell) -> None:
    """Fail unless the subject ends as the fault allows, in time."""
    run, fault = stage.victim, FAULTS[cell.fault]
    if fault.exit_codes:
        began = time.monotonic()
        code = run.wait(SIGNAL_PROMISE)
        took = time.monotonic() - began
        assert took < SIGNAL_PROMISE, f"{took:.1f} s to end by a signal: {run.report()}"
        if cell.moment == "passing" and code == 0:
            _check_application(run, cell, fault.may_fail)  # It was faster than the fault.
        elif not (cell.moment == "passing" and code < 0):  # Otherwise the signal hit the application.
            # In the last moment, signals already act as on the application: the kernel ends the process.
            last_instant = {-signal.SIGTERM} if cell.phase == "handing over" else set()
            assert code in fault.exit_codes | last_instant, run.report()
            assert not run.stdout, f"the application was started: {run.report()}"
        check_output(run)
        return
    left = stage.promises[run.pid] + _SLACK + cell.duration - time.monotonic()
    run.wait(max(left, 0.1))
    check_output(run)
    _check_application(run, cell, fault.may_fail)


def _check_application(run: Run, cell: Cell, may_fail: frozenset[int]) -> None:
    """Fail unless the application was started and told the truth, or was not started and the exit code is right."""
    errors = [record for record in run.logs() if record["level"] == "error"]
    if run.code == 0:
        outcome, version, pid, error = run.stdout.split("|", 3)
        assert int(pid) == run.pid, run.report()
        assert outcome in GOOD | {"failed"}, run.report()
        if outcome != "failed":
            assert (version, error) == (str(VERSIONS[-1]), ""), run.report()
            assert not errors, run.report()
            return
        assert cell.on_failure == "start", f"started after a failure: {run.report()}"
        assert error, run.report()
        assert may_fail, f"this fault is to be got over: {run.report()}"
    else:
        assert cell.on_failure == "exit", f"not started: {run.report()}"
        assert not run.stdout, run.report()
        assert run.code in may_fail, f"exit {run.code}: {run.report()}"
    assert len(errors) == 1, f"{len(errors)} errors: {run.report()}"
    assert errors[0].get("remedy"), errors[0]


def check_takeover(stage: Stage, cell: Cell) -> None:
    """Fail unless the other replicas end as they must: successfully, if only the subject was struck."""
    struck_too = cell.fault in {"server killed and restarted", "server frozen", "disk full"}
    for run in stage.runs:
        if run is stage.victim:
            continue
        left = stage.promises[run.pid] + _SLACK + cell.duration - time.monotonic()
        # A short budget may end while the subject holds the lock, which is also a proper end.
        run.wait(max(left, 0.1))
        check_output(run)
        if struck_too or _is_short(cell):
            assert run.code in {0} | ENDED, run.report()
        elif PHASES[cell.phase].tool and stage.victim.outcome == "failed":
            # A replica that waited for a tool that failed does not run it again; the next start does.
            assert run.code in {0, 70}, run.report()
        else:
            assert run.code == 0, run.report()
