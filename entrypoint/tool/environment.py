"""The environment that another migration tool gets: the application's own, and where the database is."""

from __future__ import annotations

import os

from entrypoint.database.address import OURS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from entrypoint.policy import Address

TOOL = ":tool"
"""How the names of its sessions end; before it is the token of whoever runs it."""


def session_name(token: str) -> str:
    """Return what the tool's sessions are called in `pg_stat_activity`."""
    return f"{OURS}{token.partition('.')[0]}{TOOL}"


def environment(environ: Mapping[bytes, bytes], address: Address, token: str) -> dict[bytes, bytes]:
    """Return the tool's environment.

    `DATABASE_URL` is the address for migrations, wherever that came from. `PGAPPNAME` is for those of the tool's
    sessions that libpq, or who reads its variables, opens without asking us for the way.
    """
    changed = dict(environ)
    if address.conninfo:
        changed[b"DATABASE_URL"] = os.fsencode(address.conninfo)
    changed[b"PGAPPNAME"] = session_name(token).encode()
    return changed
