"""A small web application, to stand behind `entrypoint run --`: it answers from tables that migrations made.

It knows nothing of migrations and imports nothing of ours. What it reads besides its own settings (PORT,
DATABASE_URL, REPLICA) are the three variables that `entrypoint run` adds for whoever wants to know.
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
    """Read what the page shows, on a connection of its own: this application has one visitor."""
    with psycopg.connect(os.environ.get("DATABASE_URL", ""), connect_timeout=5) as connection:
        companies, devices, names = connection.execute(INVENTORY).fetchall()[0]
    return {"companies": companies, "devices": devices, "names": names}


def identity() -> dict[str, object]:
    """Tell which process this is and what it was told about its start; None for what it was not told."""
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

    # Somebody who connects and sends nothing must not hold up the end of the program for long.
    timeout = 2

    def do_GET(self) -> None:
        """Answer with the inventory, or with 503 and the reason if the database has none to give."""
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
        """Write no line for each request."""


class Server(ThreadingHTTPServer):
    """A thread for each request; closing it waits for those that are being answered."""

    daemon_threads = False


def main() -> None:
    """Serve until SIGTERM or SIGINT, then finish what is being answered and end with 0."""
    # Waited for, not handled: a handler runs between two steps of the main thread, and one that is about to wait for
    # an event takes none. Blocked before there are threads, which inherit that.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)

    # Only this machine: it is a demonstration. In a container it would be 0.0.0.0.
    with Server(("127.0.0.1", int(os.environ["PORT"])), Page) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        print(f"application: pid {os.getpid()} listens on port {server.server_port}", file=sys.stderr)
        signal.sigwait(ends)
        server.shutdown()


if __name__ == "__main__":
    main()
