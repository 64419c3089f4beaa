"""Choose the binding of libpq: our own, or psycopg's if ours does not work here.

docs/decisions/0039-one-reader-of-the-protocol.md says why ours comes first.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.pq import Binding

_binding: Binding | None = None


def binding() -> Binding:
    """Return the binding, which stays the same for the life of the process."""
    global _binding  # noqa: PLW0603 - a process loads a library once
    if _binding is None:
        _binding = _own() or _psycopgs()
    return _binding


def _own() -> Binding | None:
    """Return our own binding; None if this Python lacks `_ctypes`, no libpq is found, or callbacks are not allowed."""
    try:
        from entrypoint.database import pq_ctypes
    except ImportError:
        return None
    return pq_ctypes.load()


def _psycopgs() -> Binding:
    from entrypoint.database import pq_psycopg

    return pq_psycopg.Binding()
