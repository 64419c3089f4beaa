"""The pictures of the commands: each command has one of each width, on the page that shows it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from entrypoint.cli import COMMANDS
from kit.pictures import IMAGES, PICTURES, WIDTHS, picture
from kit.screen import painted, render

pytestmark = pytest.mark.text

PAGE = (Path(__file__).parents[1] / "docs" / "commands" / "pictures.md").read_text()
SVG = "{http://www.w3.org/2000/svg}"


def test_each_command_has_its_pictures() -> None:
    assert {one.command.split()[0] for one in PICTURES.values()} == set(COMMANDS)
    names = {f"{name}-{columns}.svg" for name in PICTURES for columns in WIDTHS}
    assert {path.name for path in IMAGES.iterdir()} == names
    assert set(re.findall(r"\(\.\./images/commands/(\S+)\)", PAGE)) == names


@pytest.mark.parametrize("name", PICTURES)
def test_they_are_small_and_show_the_command(name: str) -> None:
    for columns in WIDTHS:
        path = IMAGES / f"{name}-{columns}.svg"
        assert path.stat().st_size < 20_000
        lines = ["".join(row.itertext()) for row in ET.parse(path).iter(f"{SVG}text")]  # noqa: S314 - our own picture
        assert lines[0] == f"$ entrypoint {PICTURES[name].command}"
        assert len(lines) > 1
        assert max(map(len, lines[1:])) <= columns
        assert not [line for line in lines if "Internal error" in line or "/tmp/" in line]


def test_colours_are_the_readers() -> None:
    text = picture("x", painted("\x1b[31;1mred\x1b[0m & <plain>\r\n", 60), 60)
    assert '<tspan class="c1 b">red</tspan> &amp; &lt;plain&gt;' in text
    light, _, dark = text.partition("@media (prefers-color-scheme: dark)")
    assert ".c1 { fill: #cf222e }" in light
    assert ".c1 { fill: #f85149 }" in dark
    ET.fromstring(text)  # noqa: S314


def test_a_screen_without_its_colours_is_the_same() -> None:
    text = "one\r\n\x1b[33mtwo\x1b[0m three\r\x1b[2K\x1b[1A\x1b[32mfour\x1b[0m"
    assert render(text, 20) == ["four"]
    assert painted(text, 20) == ["\x1b[32mfour\x1b[0m"]
