"""The history of another tool, as plain values."""

from __future__ import annotations

from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


class Obstacle(NamedTuple):
    """Why a history cannot be adopted, and what to do about it."""

    message: str
    remedy: str


class History(NamedTuple):
    """What a tool's table says about the versions of our files."""

    applied: frozenset[str] = frozenset()
    """The applied versions that have a file here, spelled as in the files' `origin`."""
    unknown: tuple[str, ...] = ()
    """The applied versions without a file here, as the tool spells them."""
    refusal: Obstacle | None = None
    checksums: Mapping[str, str] = {}
    """The checksums of applied versions, if the tool records them."""


def matched(there: Iterable[str], here: Collection[str], checksums: Mapping[str, str] | None = None) -> History:
    """Return the history of a tool that lists the applied versions."""
    known = frozenset(here)
    listed = tuple(dict.fromkeys(there))
    return History(
        known.intersection(listed),
        tuple(version for version in listed if version not in known),
        checksums={version: said for version, said in (checksums or {}).items() if version in known},
    )


def list_versions(versions: Sequence[str]) -> str:
    """Return versions for a message, at most a few of them."""
    shown = ", ".join(versions[:5])
    return shown if len(versions) <= 5 else f"{shown} and {len(versions) - 5} more"
