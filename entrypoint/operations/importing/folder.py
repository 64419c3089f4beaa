"""A directory, as the readers of tools see it."""

from __future__ import annotations

import os

from entrypoint.migration.script.files import BYTE_ORDER_MARK, read_bytes
from entrypoint.operations.importing.values import UnreadableError
from entrypoint.redaction import foreign

# How deep to look into directories if no depth is given.
_DEEPEST = 32


class Folder:
    """The files of a directory, except for those that begin with a dot. Follows links, as the tools do."""

    paths: tuple[str, ...]
    folders: tuple[str, ...]

    def __init__(self, path: str, depth: int | None, limit: int) -> None:
        """List the files, `depth` levels deep. Raises OSError if there is no such directory."""
        self._path = path
        self._limit = limit
        self.paths = tuple(sorted(self._list("", _DEEPEST if depth is None else depth, frozenset())))
        names = (name for name in os.listdir(path) if not name.startswith("."))
        self.folders = tuple(sorted(name for name in names if os.path.isdir(os.path.join(path, name))))

    def content(self, path: str) -> bytes:
        """Return a file's bytes, without a byte-order mark. Raises UnreadableError."""
        try:
            return read_bytes(os.path.join(self._path, path), self._limit).removeprefix(BYTE_ORDER_MARK)
        except OSError as error:
            raise UnreadableError(path, error.strerror or foreign(str(error))) from error

    def _list(self, below: str, depth: int, above: frozenset[tuple[int, int]]) -> list[str]:
        here = os.path.join(self._path, below)
        identity = os.stat(here)
        key = (identity.st_dev, identity.st_ino)
        if key in above:  # A link in a cycle.
            return []
        found: list[str] = []
        for name in os.listdir(here):
            if name.startswith("."):
                continue
            path = f"{below}/{name}" if below else name
            if not os.path.isdir(os.path.join(self._path, path)):
                found.append(path)
            elif depth > 1:
                found += self._list(path, depth - 1, above | {key})
        return found
