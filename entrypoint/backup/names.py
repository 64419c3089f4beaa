"""The names of backup files, and how to recognize them. Pure functions over names.

In `shop-20261122T103000.123Z-v12.dump` there are the database, the time when the backup began (UTC), and the schema's
version. The tail has a fixed form and the database's name is quoted, so two databases cannot be confused.
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
    """Return the name that a backup has until it is complete."""
    return f".{name}.partial"


def superfluous(names: Iterable[str], database: str, new: str, keep: int) -> list[str]:
    """Return the backups of `database` among `names`, except for the newest `keep`; the oldest first.

    `new` counts as the newest, even if the clock has been set back.
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
    """Return the unfinished backups of `database` among `names`."""
    ours = re.compile(rf"\.{re.escape(_quoted(database))}{_TAIL}\.partial")
    return sorted(name for name in names if ours.fullmatch(name))


def _quoted(database: str) -> str:
    """Return a database's name, which may contain anything, quoted for a file name. Different names stay different."""
    quoted = quote(database.encode(errors="surrogateescape"), safe="").replace(".", "%2E").replace("~", "%7E")
    # Programs would take a file name that begins with a hyphen for an option.
    return f"%2D{quoted[1:]}" if quoted.startswith("-") else quoted
