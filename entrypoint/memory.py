"""Files without a name, in memory, for other programs. They disappear when this process ends."""

from __future__ import annotations

import errno
import os

# linux/memfd.h
_MFD_CLOEXEC = 1


def file_in_memory(name: str) -> int:
    """Return the descriptor of a new file that has no path; it is closed on exec. Raises OSError."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    # The self-contained folder's Python is built for a glibc without it. The folder's own glibc has it, as 2.27 does.
    import ctypes

    try:
        memfd_create = ctypes.CDLL(None, use_errno=True).memfd_create
    except AttributeError:
        raise OSError(errno.ENOSYS, "a file in memory needs glibc 2.27 or later here") from None
    descriptor: int = memfd_create(name.encode(), _MFD_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor
