"""A small web shop, to stand behind `entrypoint run --`: it answers from tables that its migrations made.

It knows nothing of migrations and imports nothing of pg-entrypoint's. What differs from version to version is in
`shop.py`. Its own settings are DATABASE_URL or DATABASE_URL_FILE, PORT, and SHUTDOWN_DELAY_S (see `main`).
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
    """Return the database's address, from a file if there is one: that is how secrets are mounted."""
    path = os.environ.get("DATABASE_URL_FILE")
    return Path(path).read_text(encoding="utf-8").strip() if path else os.environ.get("DATABASE_URL", "")


def refuse_schema() -> None:
    """End if this was started although something failed, and this version does not work on the schema as it is.

    `MIGRATION_ON_FAILURE=start` leaves that to the application. A replica that ends does not get ready, so an upgrade
    stops there. Without a number the schema is not known, and may be good.
    """
    schema = os.environ.get("ENTRYPOINT_SCHEMA_VERSION")
    if os.environ.get("ENTRYPOINT_OUTCOME") == "failed" and schema and int(schema) not in shop.SCHEMAS:
        reason = os.environ.get("ENTRYPOINT_ERROR")
        sys.exit(f"shop: version {shop.VERSION} does not work on schema {schema}: {reason}")


def with_database(work: Callable[[psycopg.Connection], Answer]) -> Answer:
    """Do `work` in a transaction on a connection of its own; answer 503 if the database is not to be had.

    A connection for each request is simple. Where that costs too much, a pooler such as PgBouncer helps.
    """
    try:
        with psycopg.connect(database_url(), connect_timeout=5) as connection:
            # For this transaction alone, so that it reaches nobody else behind a pooler.
            connection.execute("SET LOCAL statement_timeout = '10s'")
            return work(connection)
    except psycopg.Error as error:
        print(f"shop: the database did not answer: {type(error).__name__}", file=sys.stderr, flush=True)
        return 503, {"error": "the database did not answer"}


def front_page(connection: psycopg.Connection) -> Answer:
    """Tell what there is, and who says so."""
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

    # Somebody who connects and sends nothing must not hold up the end of the program for long.
    timeout = 5
    # An answer leaves in one piece. Whoever asks only for the status, as a balancer does, may be gone after the first.
    wbufsize = -1

    def do_GET(self) -> None:
        """Answer from the database, or for a probe without it."""
        if self.path == "/livez":
            self.answer(200, {"status": "alive"})
        elif self.path == "/readyz":
            # Without the database: when that is gone, it is gone for all replicas, and no balancer can help.
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
        """Write no line for each request."""


class Server(ThreadingHTTPServer):
    """A thread for each request; closing it waits for those that are being answered."""

    daemon_threads = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Show what went wrong, unless it is that the other side has gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main() -> None:
    """Serve until SIGTERM or SIGINT, then leave in three steps, so that no request is lost.

    First `/readyz` answers 503 while everything else goes on, for SHUTDOWN_DELAY_S: a load balancer looks, and sends
    no more requests. Then nothing new is accepted. Then what is being answered is finished, and the program ends.
    """
    refuse_schema()
    # Blocked, for every thread to come, and fetched below. A handler would be called by the main thread, which does not
    # wake if the kernel gives the signal to another one.
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
