"""What another tool's history says, as plain values."""

from __future__ import annotations

from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


class Refusal(NamedTuple):
    """Why nobody should go on from what a history says, and what to do about it."""

    message: str
    remedy: str


class History(NamedTuple):
    """What a tool's table says of the versions that our files come from."""

    applied: frozenset[str] = frozenset()
    """Those of the versions here that are applied, spelled as in the files' `origin`."""
    unknown: tuple[str, ...] = ()
    """Applied there, and without a file here; as the tool spells them."""
    refusal: Refusal | None = None
    checksums: Mapping[str, str] = {}
    """What the tool recorded of the text of a version that is applied, where it records that."""


def matched(there: Iterable[str], here: Collection[str], checksums: Mapping[str, str] | None = None) -> History:
    """Return the history of a tool that lists what is applied, version by version."""
    known = frozenset(here)
    listed = tuple(dict.fromkeys(there))
    return History(
        known.intersection(listed),
        tuple(version for version in listed if version not in known),
        checksums={version: said for version, said in (checksums or {}).items() if version in known},
    )


def named(versions: Sequence[str]) -> str:
    """Return versions as a message names them: not hundreds of them."""
    shown = ", ".join(versions[:5])
    return shown if len(versions) <= 5 else f"{shown} and {len(versions) - 5} more"
