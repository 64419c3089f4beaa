"""A small web shop, to be started by `entrypoint run --`. It uses the tables that its migrations created.

It knows nothing about migrations, and imports nothing from pg-entrypoint. `shop.py` contains what differs between
versions. The settings are DATABASE_URL or DATABASE_URL_FILE, PORT, and SHUTDOWN_DELAY_S (see `main`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import shop

if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = tuple[int, dict[str, object]]

LONGEST_BODY = 10_000

stopping = threading.Event()


def database_url() -> str:
    """Return the database's address, from a file if one is set, because secrets are mounted as files."""
    path = os.environ.get("DATABASE_URL_FILE")
    return Path(path).read_text(encoding="utf-8").strip() if path else os.environ.get("DATABASE_URL", "")


def refuse_schema() -> None:
    """Exit if the migrations failed, and this version does not work with the schema as it is.

    `MIGRATION_ON_FAILURE=start` leaves this to the application. A replica that exits never becomes ready, so the
    upgrade stops. Without a number, the schema is unknown, and may be usable.
    """
    schema = os.environ.get("ENTRYPOINT_SCHEMA_VERSION")
    if os.environ.get("ENTRYPOINT_OUTCOME") == "failed" and schema and int(schema) not in shop.SCHEMAS:
        reason = os.environ.get("ENTRYPOINT_ERROR")
        sys.exit(f"shop: version {shop.VERSION} does not work on schema {schema}: {reason}")


def with_database(work: Callable[[psycopg.Connection], Answer]) -> Answer:
    """Do `work` in a transaction on a new connection; answer 503 if the database is not available.

    A connection for each request is simple. If that costs too much, use a pooler such as PgBouncer.
    """
    try:
        with psycopg.connect(database_url(), connect_timeout=5) as connection:
            # Only for this transaction, so that it affects nobody else behind a pooler.
            connection.execute("SET LOCAL statement_timeout = '10s'")
            return work(connection)
    except psycopg.Error as error:
        print(f"shop: the database did not answer: {type(error).__name__}", file=sys.stderr, flush=True)
        return 503, {"error": "the database did not answer"}


def front_page(connection: psycopg.Connection) -> Answer:
    """Return the products and orders, and which replica answers."""
    schema = os.environ.get("ENTRYPOINT_SCHEMA_VERSION")
    identity = {
        "replica": socket.gethostname(),
        "version": shop.VERSION,
        "outcome": os.environ.get("ENTRYPOINT_OUTCOME"),
        "schema_version": int(schema) if schema else None,
    }
    return 200, {**identity, **shop.overview(connection)}


class Page(BaseHTTPRequestHandler):
    """`GET /`, `POST /orders` with `{"product": 1, "quantity": 2}`, and `/livez` and `/readyz` for probes."""

    # A client that connects and sends nothing must not delay the end of the program for long.
    timeout = 5
    # Send each answer in one piece. A client that only reads the status, like a balancer, may be gone after the first.
    wbufsize = -1

    def do_GET(self) -> None:
        """Answer from the database; answer probes without it."""
        if self.path == "/livez":
            self.answer(200, {"status": "alive"})
        elif self.path == "/readyz":
            # Does not ask the database: if that is down, it is down for all replicas, and no balancer can help.
            ready = not stopping.is_set()
            self.answer(200 if ready else 503, {"status": "ready" if ready else "stopping"})
        elif self.path == "/":
            self.answer(*with_database(front_page))
        else:
            self.answer(404, {"error": "there is no such page"})

    def do_POST(self) -> None:
        """Place an order."""
        if self.path != "/orders":
            self.answer(404, {"error": "there is no such page"})
            return
        try:
            length = int(self.headers.get("Content-Length", "0"))
            wanted = json.loads(self.rfile.read(min(length, LONGEST_BODY)))
            product, quantity = int(wanted["product"]), int(wanted["quantity"])
        except (ValueError, KeyError, TypeError):
            self.answer(400, {"error": 'send JSON like {"product": 1, "quantity": 2}'})
            return
        if not 0 < quantity < 1000 or not 0 < product < 1000:
            self.answer(400, {"error": "product and quantity are numbers from 1 to 999"})
            return

        def place(connection: psycopg.Connection) -> Answer:
            number = shop.order(connection, product, quantity)
            return (404, {"error": "there is no such product"}) if number is None else (201, {"order": number})

        self.answer(*with_database(place))

    def answer(self, status: int, content: dict[str, object]) -> None:
        """Send `content` as JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Log nothing for each request."""


class Server(ThreadingHTTPServer):
    """Uses a thread for each request. Closing it waits for the requests that are being answered."""

    daemon_threads = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Show the error, unless the client has just closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main() -> None:
    """Serve until SIGTERM or SIGINT, then stop in three steps, so that no request is lost.

    First, `/readyz` answers 503 for SHUTDOWN_DELAY_S while everything else continues: a load balancer notices, and
    sends no more requests. Then the server accepts no new connections. Finally it answers the open requests, and exits.
    """
    refuse_schema()
    # Block the signals for all threads, and fetch them below. Only the main thread runs signal handlers, and it does
    # not wake up if the kernel delivers the signal to another thread.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    with Server(("", int(os.environ.get("PORT", "8080"))), Page) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        print(f"shop: version {shop.VERSION} listens on port {server.server_port}", file=sys.stderr, flush=True)
        signal.sigwait(signals)
        stopping.set()
        time.sleep(float(os.environ.get("SHUTDOWN_DELAY_S", "0")))
        server.shutdown()
    print("shop: finished", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
