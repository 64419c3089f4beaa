"""Exit with 0 if this container answers `GET /readyz` with 200: its healthcheck, as the image has no curl."""

from __future__ import annotations

import os
import socket
import sys


def main() -> int:
    """Ask, print the answer (`docker inspect` shows it), and return the exit code."""
    address = ("127.0.0.1", int(os.environ.get("PORT", "8080")))
    # By hand: this is started every few seconds, and importing an HTTP client would take most of its time.
    try:
        with socket.create_connection(address, timeout=2) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode(errors="replace")
    except OSError as error:
        print(error)
        return 1
    status, _, rest = answer.partition("\r\n")
    print(status, rest.rpartition("\r\n\r\n")[2])
    return 0 if " 200 " in status else 1


if __name__ == "__main__":
    sys.exit(main())
