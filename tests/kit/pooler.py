"""PgBouncer in front of a server."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from demo.postgres import HOST, Owner, free_port
from kit.processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from demo.postgres import Server


def executable() -> str | None:
    """Return the path of PgBouncer; None if it is not installed."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@contextlib.contextmanager
def pooler(
    server: Server,
    *,
    pool_size: int,
    mode: str = "transaction",
    patience: int = 2,
    query_timeout: int = 0,
    idle_transaction_timeout: int = 0,
    login_retry: int = 15,
    ignored: str = "",
) -> Iterator[int]:
    """Run PgBouncer with `pool_size` server connections for each database; yield its port.

    `patience`: after this many seconds, it rejects a client for which it has no connection (by default 120).
    `query_timeout`: it ends a session if a statement takes this many seconds; 0, the default, for no limit.
    `idle_transaction_timeout`: the same for a session that is idle in a transaction.
    `login_retry`: it rejects all clients for this many seconds after a failed login to the server (by default 15).
    `ignored`: the startup parameters to ignore; it rejects clients with other unknown ones.
    """
    program = executable()
    if program is None:
        msg = "no pgbouncer"
        raise FileNotFoundError(msg)
    owner = Owner.choose()
    port = free_port()
    # Not inside pytest's temporary directory, which only our account may enter.
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        directory = Path(name)
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(
            f"""
            [databases]
            * = host={HOST} port={server.port} user=postgres
            [pgbouncer]
            listen_addr = {HOST}
            listen_port = {port}
            auth_type = any
            admin_users = postgres
            pool_mode = {mode}
            query_timeout = {query_timeout}
            idle_transaction_timeout = {idle_transaction_timeout}
            server_login_retry = {login_retry}
            ignore_startup_parameters = {ignored}
            default_pool_size = {pool_size}
            unix_socket_dir =
            # Fail soon if the pool is too small, so that a test need not wait for two minutes, the default.
            query_wait_timeout = {patience}
            """.replace("\n            ", "\n")
        )
        directory.chmod(0o755)
        with (directory / "log").open("wb") as log:
            process = owner.popen([program, configuration], cwd=directory, output=log.fileno())
        try:
            until(lambda: _listens(port), what="PgBouncer to listen")
            yield port
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False
