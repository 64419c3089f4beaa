"""An animated picture of the demonstration: `make recording` writes docs/images/demo.svg, for the README.

Each line is hidden until the moment when it was printed, and the lines scroll as in a terminal, all by CSS inside the
picture. Without animation (no CSS, or a reader who prefers no motion), it shows the last screen.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "demo.svg"

_ROWS, _COLUMNS = 26, 118
# In pixels, for 13 px of a monospaced font.
_WIDTH, _HEIGHT, _BASELINE, _MARGIN, _BAR = 7.8, 18, 13, 14, 30
# PostgreSQL is fast and people read slowly, so the picture plays slower, and never shows two lines at once.
_SLOWER, _LEAST = 1.6, 0.06
# By ANSI number: red, green, yellow, blue, magenta, cyan.
_COLOURS = {1: "#f85149", 2: "#3fb950", 3: "#d29922", 4: "#58a6ff", 5: "#bc8cff", 6: "#39c5cf"}
_RULES = ("── ", "-- ")
_TEXT, _BACKGROUND, _FRAME = "#c9d1d9", "#0d1117", "#161b22"


class Line(NamedTuple):
    """A line of the recording."""

    at: float
    """Seconds after the first line."""
    text: str
    """With ANSI escapes for its colors."""


def record(command: Sequence[str]) -> list[Line]:
    """Run the command and return its output, line by line. Raises CalledProcessError if it fails."""
    environ = {**os.environ, "FORCE_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        lines = [Line(time.monotonic(), text.rstrip("\n")) for text in process.stdout or ()]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return [Line(line.at - lines[0].at, line.text) for line in lines]


def paced(lines: Sequence[Line]) -> list[Line]:
    """Return the lines with times that people can follow: slower, and never two at once."""
    moment, found = 0.0, []
    for before, line in zip((lines[0], *lines), lines, strict=False):
        moment += max((line.at - before.at) * _SLOWER, _LEAST)
        found.append(Line(round(moment, 2), line.text))
    return found


def picture(lines: Sequence[Line], title: str) -> str:
    """Return the animated picture of these lines, as SVG. Pure."""
    width = round(_COLUMNS * _WIDTH + 2 * _MARGIN)
    height = _BAR + _ROWS * _HEIGHT + _MARGIN
    over = max(0, len(lines) - _ROWS)
    end = lines[-1].at
    steps = "".join(
        f"{line.at / end * 100:.2f}%{{transform:translateY(-{max(0, number + 1 - _ROWS) * _HEIGHT}px)}}"
        for number, line in enumerate(lines)
        if number + 1 > _ROWS
    )
    rows = "".join(
        f'<text y="{number * _HEIGHT + _BASELINE}" style="animation-duration:{line.at}s">{_spans(line.text)}</text>\n'
        for number, line in enumerate(lines)
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">
<title>{escape(title)}</title>
<style>
text {{ font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: {_TEXT};
  white-space: pre }}
.rows text {{ animation: unseen step-end }}
.rows {{ transform: translateY(-{over * _HEIGHT}px); animation: up {end}s step-end }}
@keyframes unseen {{ from {{ opacity: 0 }} to {{ opacity: 0 }} }}
@keyframes up {{ 0%{{transform:translateY(0)}}{steps} }}
@media (prefers-reduced-motion: reduce) {{ .rows, .rows text {{ animation: none }} }}
</style>
<rect width="{width}" height="{height}" rx="8" fill="{_BACKGROUND}"/>
<rect width="{width}" height="{_BAR - 4}" rx="8" fill="{_FRAME}"/>
<text x="{_MARGIN}" y="18" style="fill: #8b949e">{escape(title)}</text>
<svg x="{_MARGIN}" y="{_BAR}" width="{width - 2 * _MARGIN}" height="{_ROWS * _HEIGHT}">
<g class="rows">
{rows}</g>
</svg>
</svg>
"""


def _spans(line: str) -> str:
    return "".join(
        f'<tspan style="{style}">{escape(text)}</tspan>' if style else escape(text) for text, style in _parts(line)
    )


def pieces(line: str, columns: int) -> Iterator[tuple[str, Style]]:
    """Yield a line's pieces, each with its style; a line with more than `columns` columns is truncated."""
    text = Text.from_ansi(line)
    if text.cell_len > columns:
        text.truncate(columns - 1)
        text.append("…")
    borders = sorted({0, len(text), *(place for span in text.spans for place in (span.start, span.end))})
    for start, end in itertools.pairwise(borders):
        styles = [Style.parse(str(span.style)) for span in text.spans if span.start <= start < span.end]
        yield text.plain[start:end], Style.combine(styles) if styles else Style.null()


def _parts(line: str) -> Iterator[tuple[str, str]]:
    """Yield a line's pieces, each with its CSS style."""
    for text, style in pieces(line, _COLUMNS):
        colour = style.color and _COLOURS.get(style.color.number or 0)
        css = [
            f"fill: {colour}" if colour else "",
            "font-weight: bold" if style.bold else "",
            "opacity: .6" if style.dim else "",
        ]
        yield text, "; ".join(filter(None, css))


def chosen(lines: Sequence[Line]) -> list[Line]:
    """Return the lines about the race and its result. Only people who run the demonstration see the other acts."""
    headings = [number for number, line in enumerate(lines) if Text.from_ansi(line.text).plain.startswith(_RULES)]
    return list(lines[headings[1] : headings[3] - 1])


def main() -> None:
    """Write the picture."""
    lines = chosen(record([sys.executable, "-m", "demo"]))
    PICTURE.write_text(picture(paced(lines), "Three replicas start at the same moment: make demo"))
    print(f"{PICTURE}: {len(lines)} lines")


if __name__ == "__main__":
    main()
