"""The animated picture in the README: made only from lines and times, and well-formed whatever was printed."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from demo.recording import PICTURE, Line, chosen, paced, picture

pytestmark = pytest.mark.text

SVG = "{http://www.w3.org/2000/svg}"


def shown(text: str) -> list[str]:
    rows = ET.fromstring(text).find(f"{SVG}svg/{SVG}g")  # noqa: S314 - our own picture
    assert rows is not None
    return ["".join(row.itertext()) for row in rows]


def test_each_line_comes_at_its_moment_and_stays() -> None:
    lines = [Line(0.5, "one"), Line(1.25, "\033[31;1mtwo\033[0m & <three>"), Line(2, "x" * 200)]
    text = picture(lines, "A & B")
    assert shown(text) == ["one", "two & <three>", "x" * 117 + "…"]
    assert re.findall(r"animation-duration:([0-9.]+)s", text) == ["0.5", "1.25", "2"]
    assert '<tspan style="fill: #f85149; font-weight: bold">two</tspan>' in text
    # Invisible only while it is animated: without animation, everything shows.
    assert "opacity: 0" not in re.sub(r"@keyframes unseen {.*", "", text)


def test_it_moves_up_when_it_is_full() -> None:
    text = picture([Line(number, str(number)) for number in range(1, 31)], "x")
    assert re.findall(r"\{transform:translateY\(-(\d+)px\)\}", text) == ["18", "36", "54", "72"]
    assert ".rows { transform: translateY(-72px)" in text


def test_people_can_follow_it() -> None:
    found = paced([Line(0, "a"), Line(0, "b"), Line(1, "c")])
    assert [line.text for line in found] == ["a", "b", "c"]
    assert found[0].at < found[1].at < found[2].at
    assert found[2].at > 1


def test_the_race_is_chosen() -> None:
    lines = [
        Line(0, text) for text in ("── A ──", "a", "", "── B ──", "$ run -- b", "", "── C ──", "c", "", "── D ──", "d")
    ]
    assert [line.text for line in chosen(lines)] == ["── B ──", "$ run -- b", "", "── C ──", "c"]


def test_the_picture_in_the_readme_is_one() -> None:
    rows = shown(PICTURE.read_text())
    assert any("acquired the migration lock" in row for row in rows)
    assert sum("another replica brought the schema to version 12" in row for row in rows) == 2
