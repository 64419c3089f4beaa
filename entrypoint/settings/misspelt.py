"""Find misspelt variables: unknown ones that resemble one of ours that is not set."""

from __future__ import annotations

from entrypoint.settings.variables import GROUPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The required similarity, from 0 to 1. It is lower for names that begin like our own variables.
_NEAR, _NEAR_OURS = 0.9, 0.75
_OURS = ("MIGRATION_", "MIGRATIONS_", "MIGRATE_", "AUTO_MIGRAT", "DB_CONNECT")


def misspelt(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each misspelt variable, with the one that was probably meant.

    If that one is set, too, the other is the application's own, like DATABASE_URLS next to DATABASE_URL.
    """
    known = {variable.name for variables in GROUPS.values() for variable in variables}
    unset = {name for name in known if not environ.get(name)}
    for name in sorted(environ.keys() - known):
        if near := _nearest(name, unset):
            yield name, near


def _nearest(name: str, among: set[str]) -> str:
    from difflib import get_close_matches

    written = name.upper()
    if written in among:
        return written
    # libpq's variables have their own names, and short names resemble many others.
    if len(name) < 8 or name.startswith(("PG", "npm_")):
        return ""
    near = get_close_matches(written, sorted(among), n=1, cutoff=_NEAR_OURS if written.startswith(_OURS) else _NEAR)
    return near[0] if near else ""
