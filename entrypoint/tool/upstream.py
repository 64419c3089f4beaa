"""Connect the relay to the server in the same way as our own session, with the same encryption.

The parameters are libpq's (PostgreSQL documentation, "Parameter Key Words" and "SSL Support").
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from entrypoint.tool import encryption, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# To notice a dead link, with the same values as for our own connections (database/address.py).
_KEEPALIVES = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class Server(NamedTuple):
    """The server's address and its encryption settings."""

    host: str
    """A name, an address, a socket directory, or @ and the name of an abstract socket."""
    hostaddr: str
    port: str
    sslmode: str
    tls: bool
    """Whether our own session is encrypted, which says what `sslmode=prefer` led to."""
    parameters: Mapping[str, str]
    """libpq's other parameters: certificates, their key's password and so on."""

    @property
    def local(self) -> bool:
        """Whether it is a Unix socket."""
        return not self.hostaddr and self.host[:1] in ("/", "@")

    def connect(self, timeout: float) -> socket.socket:
        """Connect, with TLS if the settings say so, and return the socket. `timeout` is in seconds.

        Raises OSError (also for TLS errors), wire.ProtocolError and encryption.UnusableFileError.
        """
        sock = self._socket(timeout)
        try:
            return sock if self.local or not self._encrypted else self._encrypt(sock)
        except BaseException:
            sock.close()
            raise

    @property
    def _encrypted(self) -> bool:
        return self.sslmode in encryption.ENCRYPTED or (self.tls and self.sslmode != "disable")

    def _socket(self, timeout: float) -> socket.socket:
        if self.local:
            path = f"{self.host}/.s.PGSQL.{self.port}"
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout)
                sock.connect("\0" + path[1:] if path.startswith("@") else path)
            except BaseException:
                sock.close()
                raise
            return sock
        sock = socket.create_connection((self.hostaddr or self.host, int(self.port)), timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVES:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        return sock

    def _encrypt(self, sock: socket.socket) -> socket.socket:
        if self.parameters.get("sslnegotiation") != "direct":
            sock.sendall(wire.ASK_FOR_TLS)
            # Only one byte: whatever follows belongs to TLS.
            answer = sock.recv(1)
            if answer == wire.REFUSED and self.sslmode not in encryption.ENCRYPTED:
                return sock
            if answer != b"S":
                raise wire.ProtocolError("the server does not offer TLS")
        return encryption.encrypt(sock, self.host or self.hostaddr, self.sslmode, self.parameters)
