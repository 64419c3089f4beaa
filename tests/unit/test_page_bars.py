"""The bars and the strip of the page, as numbers for SVG."""

from __future__ import annotations

import pytest

from entrypoint.service import bars
from entrypoint.service.bars import Cell, Scale

SCALES: dict[str, tuple[list[int | None], Scale]] = {
    "nothing": ([], Scale(0, linear=True)),
    "nothing that is known": ([None, None], Scale(0, linear=True)),
    "no time at all": ([0, 0], Scale(0, linear=True)),
    "one": ([70], Scale(70, linear=True)),
    "much the same": ([50, 100, 400], Scale(400, linear=True)),
    "one that is longer than all others": ([50, 100, 100, 4_000], Scale(4_000, linear=False)),
    "most take no time": ([0, 0, 0, 13], Scale(13, linear=False)),
    "what nobody knows does not count": ([None, 100, None, 1_200], Scale(1_200, linear=True)),
    "less than nothing, as a ledger may say": ([-5, 10], Scale(10, linear=True)),
}


@pytest.mark.parametrize("case", SCALES)
def test_scale(case: str) -> None:
    lengths, expected = SCALES[case]
    assert bars.scale(lengths) == expected


WIDTHS = {
    "linear, all": (Scale(200, linear=True), 200, 100.0),
    "linear, a quarter": (Scale(200, linear=True), 50, 25.0),
    "square root, a quarter is half as wide": (Scale(200, linear=False), 50, 50.0),
    "square root, all": (Scale(200, linear=False), 200, 100.0),
    "hardly anything is still to be seen": (Scale(1_000_000, linear=True), 1, 0.6),
    "nothing": (Scale(200, linear=True), 0, 0.6),
    "less than nothing": (Scale(200, linear=False), -7, 0.6),
    "where nothing took any time": (Scale(0, linear=True), 0, 0.6),
    "more than the longest": (Scale(200, linear=True), 400, 100.0),
    "not known": (Scale(200, linear=True), None, None),
}


@pytest.mark.parametrize("case", WIDTHS)
def test_width(case: str) -> None:
    scale, milliseconds, expected = WIDTHS[case]
    assert scale.width(milliseconds) == expected


def test_a_strip_of_few_has_a_cell_for_each() -> None:
    assert bars.strip([]) == ()
    assert bars.strip(["good"]) == (Cell(0, 100, "good"),)
    assert bars.strip(["good", "good", "bad", "pending"]) == (
        Cell(0, 24.75, "good"),
        Cell(25, 24.75, "good"),
        Cell(50, 24.75, "bad"),
        Cell(75, 24.75, "pending"),
    )


def test_a_strip_of_many_has_a_cell_for_each_run() -> None:
    cells = bars.strip(["good"] * 60 + ["bad"] + ["pending"] * 39)
    assert cells == (Cell(0, 60, "good"), Cell(60, 1, "bad"), Cell(61, 39, "pending"))
    assert len(bars.strip(["good", "bad"] * 5_000)) == 10_000  # each is a run; nothing is left out
