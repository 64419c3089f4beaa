"""Every phase against every fault, once. `matrix.IMPOSSIBLE` has the impossible ones, with the reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conftest import missing
from faults import matrix
from faults.machinery import UnavailableError
from faults.play import play
from faults.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from faults.machinery import Machinery


def identify(cell: matrix.Cell) -> str:
    return f"{cell.phase}, {cell.fault}"


QUICK = matrix.quick_cells()
CELLS = [
    pytest.param(cell, id=identify(cell), marks=() if cell in QUICK else pytest.mark.thorough)
    for cell in matrix.cells()
]


@pytest.mark.every_case
@pytest.mark.parametrize("cell", CELLS)
def test_cell(machinery: Machinery, tmp_path: Path, cell: matrix.Cell) -> None:
    try:
        with Stage(machinery, tmp_path, small_disk=cell.fault == "disk full") as stage:
            play(stage, cell)
    except UnavailableError as error:
        missing(str(error))


def test_a_quick_run_has_each_phase_and_each_fault_with_both_policies() -> None:
    assert {cell.phase for cell in QUICK} == set(matrix.PHASES)
    assert {cell.fault for cell in QUICK} == {name for name, fault in matrix.FAULTS.items() if fault.suite}
    assert {cell.on_failure for cell in QUICK} == {"start", "exit"}


def test_every_cell_is_played_or_has_a_reason() -> None:
    played = {(cell.phase, cell.fault) for cell in matrix.cells()}
    assert not played & set(matrix.IMPOSSIBLE)
    everything = {(phase, name) for phase in matrix.PHASES for name, fault in matrix.FAULTS.items() if fault.suite}
    assert everything <= played | set(matrix.IMPOSSIBLE)
    assert all(matrix.IMPOSSIBLE.values())
