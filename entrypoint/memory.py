"""Files for other programs that nobody finds by a name, and that are gone with us."""

from __future__ import annotations

import errno
import os

# linux/memfd.h
_MFD_CLOEXEC = 1


def file_in_memory(name: str) -> int:
    """Return the descriptor of a new file that is in no directory; it is closed on exec. Raises OSError."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    # The Python of the self-contained folder is built for a glibc without it; the folder's has it, as from 2.27 on.
    import ctypes

    try:
        memfd_create = ctypes.CDLL(None, use_errno=True).memfd_create
    except AttributeError:
        raise OSError(errno.ENOSYS, "a file in memory needs glibc 2.27 or later here") from None
    descriptor: int = memfd_create(name.encode(), _MFD_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor
