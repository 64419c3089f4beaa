"""A small web application for `entrypoint run --`. It answers from tables that migrations have created.

It does not know about migrations, and imports nothing from this project. Besides its own settings (PORT, DATABASE_URL,
REPLICA), it reads the three variables that `entrypoint run` adds for applications that are interested.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

INVENTORY = """
    SELECT (SELECT count(*) FROM companies),
           (SELECT count(*) FROM devices WHERE status <> 'retired'),
           ARRAY(SELECT name FROM companies ORDER BY name LIMIT 3)
"""


def inventory() -> dict[str, object]:
    """Read what the page shows, on a new connection each time: this application has only one visitor."""
    with psycopg.connect(os.environ.get("DATABASE_URL", ""), connect_timeout=5) as connection:
        companies, devices, names = connection.execute(INVENTORY).fetchall()[0]
    return {"companies": companies, "devices": devices, "names": names}


def identity() -> dict[str, object]:
    """Return which process this is, and what it knows about its start; None for unknown values."""
    version = os.environ.get("ENTRYPOINT_SCHEMA_VERSION")
    return {
        "replica": os.environ.get("REPLICA"),
        "pid": os.getpid(),
        "outcome": os.environ.get("ENTRYPOINT_OUTCOME"),
        "schema_version": int(version) if version else None,
        "error": os.environ.get("ENTRYPOINT_ERROR"),
    }


class Page(BaseHTTPRequestHandler):
    """Answers `GET /` with JSON."""

    # A client that connects and sends nothing must not delay the end of the program for long.
    timeout = 2

    def do_GET(self) -> None:
        """Answer with the inventory, or with 503 and the reason if the database cannot be read."""
        if self.path != "/":
            self.send_error(404)
            return
        try:
            status, found = 200, inventory()
        except psycopg.Error as error:
            status, found = 503, {"database": str(error).strip()}
        body = json.dumps({**identity(), **found}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Do not log requests."""


class Server(ThreadingHTTPServer):
    """Uses a thread for each request. Closing it waits for requests in progress."""

    daemon_threads = False


def main() -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in progress and exit with 0."""
    # Signals are waited for, not handled: a handler only runs between two steps of the main thread, and would not run
    # while that waits for an event. They are blocked before threads start, which inherit the mask.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)

    # Only on this machine, as this is a demonstration. In a container, it would be 0.0.0.0.
    with Server(("127.0.0.1", int(os.environ["PORT"])), Page) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        print(f"application: pid {os.getpid()} listens on port {server.server_port}", file=sys.stderr)
        signal.sigwait(ends)
        server.shutdown()


if __name__ == "__main__":
    main()
