"""The badge: the schema's version and state, as SVG. Pure functions."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from entrypoint.counts import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.service.snapshot import Snapshot

LABEL = "schema"

_GREY = "#555"
_HEIGHT = 20
# Approximate widths of Verdana at 11 pixels; `textLength` corrects for other fonts.
_CHARACTER = 7
_PADDING = 6


class Colour(NamedTuple):
    """A background, and a text colour that is readable on it (contrast of 4.5 or more)."""

    background: str
    text: str


GREEN = Colour("#2e7d32", "#fff")
YELLOW = Colour("#fbc02d", "#212121")
RED = Colour("#c62828", "#fff")


class Badge(NamedTuple):
    """The text and colour of a badge."""

    message: str
    title: str
    """The same as a sentence, for screen readers."""
    colour: Colour


def badge_of(snapshot: Snapshot) -> Badge:
    """Return the badge: green up to date, yellow pending, red failed or unknown."""
    status = snapshot.status
    if status is None:
        return Badge("unknown", "schema: unknown, the database cannot be read", RED)
    version = f"v{status.current}"
    if status.below_floor is not None:
        return Badge(
            f"{version}, files too old", f"schema: version {status.current}, the files are too old for it", RED
        )
    if status.name == "error":
        failed = any(line.state == "failed" for line in status.lines)
        what = "a migration has failed" if failed or status.command is not None else "a repeatable file has failed"
        return Badge(f"{version} failed", f"schema: version {status.current}, {what}", RED)
    repeatables = sum(one.state == "pending" for one in status.repeatables)
    if status.name == "pending" and repeatables and not status.pending:
        title = f"schema: version {status.current}, {count(repeatables, 'repeatable file')} pending"
        return Badge(f"{version}, {repeatables} pending", title, YELLOW)
    if status.name == "pending":
        return Badge(
            f"{version}, {status.pending} pending",
            f"schema: version {status.current}, {status.pending} pending, up to version {status.latest}",
            YELLOW,
        )
    return Badge(version, f"schema: version {status.current}, up to date", GREEN)


def as_svg(badge: Badge) -> str:
    """Return a badge as a self-contained image, with a title for screen readers."""
    left, right = _width(LABEL), _width(badge.message)
    width = left + right
    colour = badge.colour
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT}" role="img" '
        f'aria-labelledby="badge-title"><title id="badge-title">{escape(badge.title)}</title>'
        f'<clipPath id="badge-corners"><rect width="{width}" height="{_HEIGHT}" rx="3"/></clipPath>'
        f'<g clip-path="url(#badge-corners)"><rect width="{left}" height="{_HEIGHT}" fill="{_GREY}"/>'
        f'<rect x="{left}" width="{right}" height="{_HEIGHT}" fill="{colour.background}"/></g>'
        '<g font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle" aria-hidden="true">'
        f"{_text(LABEL, left / 2, '#fff')}{_text(badge.message, left + right / 2, colour.text)}</g></svg>\n"
    )


def _width(text: str) -> int:
    return len(text) * _CHARACTER + 2 * _PADDING


def _text(text: str, middle: float, colour: str) -> str:
    length = len(text) * _CHARACTER
    return f'<text x="{middle:g}" y="14" fill="{colour}" textLength="{length}">{escape(text)}</text>'
