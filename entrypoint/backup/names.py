"""How a backup's file is called, and which files are ours. Pure functions over names.

`shop-20261122T103000.123Z-v12.dump`: the database, when the backup began (UTC), the schema's version. The tail has a
form of its own and the database's name is quoted, so that no two databases can be taken for each other.
"""

from __future__ import annotations

import re
import time
from urllib.parse import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_TAIL = r"-(?P<moment>\d{8}T\d{6}\.\d{3}Z)-v\d+\.dump"


def backup_name(database: str, moment: float, version: int) -> str:
    """Return the name of a backup of `database` that began at `moment` (seconds since 1970), at schema `version`."""
    milliseconds = int(moment * 1000)
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_quoted(database)}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{rest:03d}Z-v{version}.dump"


def partial_name(name: str) -> str:
    """Return what the backup `name` is called until it is complete."""
    return f".{name}.partial"


def superfluous(names: Iterable[str], database: str, new: str, keep: int) -> list[str]:
    """Return those of `names` that are backups of `database` beyond the newest `keep`, the oldest first.

    The one called `new` counts as the newest, whatever the clock has done meanwhile.
    """
    ours = re.compile(re.escape(_quoted(database)) + _TAIL)
    others = []
    for name in names:
        found = ours.fullmatch(name)
        if found and name != new:
            others.append((found["moment"], name))
    others.sort(reverse=True)
    return [name for _, name in reversed(others[max(keep - 1, 0) :])]


def partial_names(names: Iterable[str], database: str) -> list[str]:
    """Return those of `names` that are unfinished backups of `database`."""
    ours = re.compile(rf"\.{re.escape(_quoted(database))}{_TAIL}\.partial")
    return sorted(name for name in names if ours.fullmatch(name))


def _quoted(database: str) -> str:
    """Return a database's name, which may hold anything, as a part of a file's; different ones stay different."""
    quoted = quote(database.encode(errors="surrogateescape"), safe="").replace(".", "%2E").replace("~", "%7E")
    # A name that begins with a hyphen would be an option to every program that is given it.
    return f"%2D{quoted[1:]}" if quoted.startswith("-") else quoted
