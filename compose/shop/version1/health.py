"""The container's healthcheck, as the image has no curl: exit with 0 if `GET /readyz` is answered with 200."""

from __future__ import annotations

import os
import re
import socket
import sys


def complete(answer: bytes) -> bool:
    """Tell whether the answer is complete. It contains its length, and the server may not close the connection."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return bool(end) and length is not None and len(body) >= int(length[1])


def main() -> int:
    """Send the request, print the answer (`docker inspect` shows it), and return the exit code."""
    answer = b""
    # Without an HTTP client: this runs every few seconds, and importing one would take most of the time.
    try:
        with socket.create_connection(("127.0.0.1", int(os.environ.get("PORT", "8080"))), timeout=2) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            while not complete(answer) and (more := connection.recv(4096)):
                answer += more
    except OSError as error:
        print(error)
        return 1
    status, _, rest = answer.decode(errors="replace").partition("\r\n")
    print(status, rest.rpartition("\r\n\r\n")[2].strip())
    return 0 if " 200 " in status else 1


if __name__ == "__main__":
    sys.exit(main())
