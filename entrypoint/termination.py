"""The reason for a failure where Kubernetes looks for it, so that `kubectl describe pod` shows it."""

from __future__ import annotations

import os
import sys

from entrypoint.redaction import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PATH = "/dev/termination-log"

# For these a container is started. The others are for people and other programs, beside a container's own program.
MAIN_PROGRAMS = ("run", "migrate", "wait", "serve")

# The kubelet takes no more.
_MOST_BYTES = 4096


def tell(message: str, *, faults: Sequence[str] = (), remedy: str = "") -> None:
    """Write why this program ends, if Kubernetes has made a file for that. Never raises, and never waits.

    Not from a terminal: somebody is sitting there, has read it, and ends no container by it (`kubectl exec -it`).
    """
    if sys.stderr is not None and sys.stderr.isatty():
        return
    text = compose(visible(message), [visible(fault) for fault in faults], visible(remedy))
    try:
        # Never created; and whatever else is at this place, a pipe for instance, must not keep us.
        descriptor = os.open(PATH, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.ftruncate(descriptor, 0)  # EINVAL for whatever is not a file
        os.write(descriptor, text)
    except OSError:
        return
    finally:
        os.close(descriptor)


def compose(message: str, faults: Sequence[str], remedy: str) -> bytes:
    """Return the text in UTF-8, 4096 bytes at most: if it is too long, the end of what comes before the remedy goes."""
    last = _cut(f"\nFix: {remedy}" if remedy else "", _MOST_BYTES // 2)
    return _cut("\n".join([message, *(f"- {fault}" for fault in faults)]), _MOST_BYTES - len(last)) + last


def _cut(text: str, most: int) -> bytes:
    data = text.encode(errors="backslashreplace")
    if len(data) <= most:
        return data
    # A character that was cut in the middle is left out.
    return data[: most - 4].decode(errors="ignore").encode() + b" ..."
