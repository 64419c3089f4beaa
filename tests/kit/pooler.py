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
    """Return where PgBouncer is, or None."""
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

    `patience`: after so many seconds it turns away a client for which it has no connection; its own default is 120.
    `query_timeout`: it ends a session whose statement takes so many seconds; 0 for never, as is its default.
    `idle_transaction_timeout`: the same for one that is idle in a transaction for so long.
    `login_retry`: for so many seconds after a login that failed it refuses all clients; 15 is its default.
    `ignored`: the start-up parameters that it drops, where it would refuse a client that has them.
    """
    program = executable()
    if program is None:
        msg = "no pgbouncer"
        raise FileNotFoundError(msg)
    owner = Owner.choose()
    port = free_port()
    # Not below pytest's own folder, which only our account may enter.
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
            # Fail soon where a pool is too small, so that a test need not wait for the default of two minutes.
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
