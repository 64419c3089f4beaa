"""Which way to libpq: our own binding, or psycopg's where ours cannot be had.

docs/decisions/0039-one-reader-of-the-protocol.md says why ours comes first.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.pq import Binding

_binding: Binding | None = None


def binding() -> Binding:
    """Return the way to libpq, which is the same for as long as the process lasts."""
    global _binding  # noqa: PLW0603 - a library is loaded once for a process
    if _binding is None:
        _binding = _own() or _psycopgs()
    return _binding


def _own() -> Binding | None:
    """Return our own binding; None where Python has no such `_ctypes`, no libpq is found, or no callback is allowed."""
    try:
        from entrypoint.database import pq_ctypes
    except ImportError:
        return None
    return pq_ctypes.load()


def _psycopgs() -> Binding:
    from entrypoint.database import pq_psycopg

    return pq_psycopg.Binding()
