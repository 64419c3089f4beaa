"""Writes the reason for a failure where Kubernetes looks for it, so that `kubectl describe pod` shows it."""

from __future__ import annotations

import os
import sys

from entrypoint.redaction import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PATH = "/dev/termination-log"

# The commands that are a container's main program. People and other programs run the others, inside a container.
MAIN_PROGRAMS = ("run", "migrate", "wait", "serve")

# The kubelet's limit.
_MOST_BYTES = 4096


def tell(message: str, *, faults: Sequence[str] = (), remedy: str = "") -> None:
    """Write why this program ends, if Kubernetes has created a file for that. Never raises, and never blocks.

    On a terminal, nothing is written: a person has read the message, and no container ends (`kubectl exec -it`).
    """
    if sys.stderr is not None and sys.stderr.isatty():
        return
    text = compose(visible(message), [visible(fault) for fault in faults], visible(remedy))
    try:
        # Never create the file; and do not block if it is something else, such as a pipe.
        descriptor = os.open(PATH, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.ftruncate(descriptor, 0)  # EINVAL for anything but a file
        os.write(descriptor, text)
    except OSError:
        return
    finally:
        os.close(descriptor)


def compose(message: str, faults: Sequence[str], remedy: str) -> bytes:
    """Return the text in UTF-8, at most 4096 bytes. If it is too long, the part before the remedy is cut at its end."""
    last = _cut(f"\nFix: {remedy}" if remedy else "", _MOST_BYTES // 2)
    return _cut("\n".join([message, *(f"- {fault}" for fault in faults)]), _MOST_BYTES - len(last)) + last


def _cut(text: str, most: int) -> bytes:
    data = text.encode(errors="backslashreplace")
    if len(data) <= most:
        return data
    # Drop a character that was cut in the middle.
    return data[: most - 4].decode(errors="ignore").encode() + b" ..."
