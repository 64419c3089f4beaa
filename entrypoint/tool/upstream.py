"""The way from the relay to the server: the same one that our own session has taken, encrypted as that one is.

The parameters are libpq's (PostgreSQL documentation, "Parameter Key Words" and "SSL Support").
"""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

from entrypoint.tool import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

# Without these the server is not known by its name, and without the first two not at all.
_VERIFIED = ("verify-ca", "verify-full")
_ENCRYPTED = ("require", *_VERIFIED)
_VERSIONS = {"TLSv1": "TLSv1", "TLSv1.1": "TLSv1_1", "TLSv1.2": "TLSv1_2", "TLSv1.3": "TLSv1_3"}
# A link that has died without a word; as libpq does for our own connections (database/address.py).
_KEEPALIVES = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class Server(NamedTuple):
    """Where the server is, and what is said of encryption."""

    host: str
    """A name, an address, the directory of a socket, or an abstract one, with an @ before it."""
    hostaddr: str
    port: str
    sslmode: str
    tls: bool
    """Whether our own session is encrypted: what `sslmode=prefer` has come to."""
    parameters: Mapping[str, str]
    """libpq's others: certificates, and the like."""

    @property
    def local(self) -> bool:
        """Whether it is a socket of Unix."""
        return not self.hostaddr and self.host[:1] in ("/", "@")

    def connect(self, timeout: float) -> socket.socket:
        """Connect, encrypted if so. Raises OSError, which TLS's errors are as well, and wire.ProtocolError."""
        sock = self._socket(timeout)
        try:
            return sock if self.local or not self._encrypted else self._encrypt(sock)
        except BaseException:
            sock.close()
            raise

    @property
    def _encrypted(self) -> bool:
        return self.sslmode in _ENCRYPTED or (self.tls and self.sslmode != "disable")

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
            # One byte and not more, as what follows is TLS's.
            answer = sock.recv(1)
            if answer == wire.REFUSED and self.sslmode not in _ENCRYPTED:
                return sock
            if answer != b"S":
                raise wire.ProtocolError("the server does not offer TLS")
        named = self.parameters.get("sslsni") != "0" or self.sslmode == "verify-full"
        return self._context().wrap_socket(sock, server_hostname=(self.host or self.hostaddr) if named else None)

    def _context(self) -> ssl.SSLContext:
        import ssl

        given = self.parameters
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = _version(given.get("ssl_min_protocol_version")) or ssl.TLSVersion.TLSv1_2
        if (highest := _version(given.get("ssl_max_protocol_version"))) is not None:
            context.maximum_version = highest
        if given.get("sslnegotiation") == "direct":
            context.set_alpn_protocols(["postgresql"])
        roots = given.get("sslrootcert") or _at_home("root.crt")
        # libpq: with a root certificate at hand, `require` is `verify-ca`.
        if self.sslmode in _VERIFIED or (self.sslmode == "require" and roots and os.path.exists(roots)):
            context.verify_mode = ssl.CERT_REQUIRED
            context.check_hostname = self.sslmode == "verify-full"
            if roots == "system":
                context.set_default_verify_paths()
            else:
                context.load_verify_locations(roots)
            revoked = given.get("sslcrl") or _at_home("root.crl")
            folder = given.get("sslcrldir")
            if (revoked and os.path.exists(revoked)) or folder:
                context.load_verify_locations(revoked or None, folder)
                context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
        self._show_certificate(context)
        return context

    def _show_certificate(self, context: ssl.SSLContext) -> None:
        """Load the client's certificate, if there is one."""
        given = self.parameters
        if given.get("sslcertmode") == "disable":
            return
        certificate = given.get("sslcert") or _at_home("postgresql.crt")
        if certificate and os.path.exists(certificate):
            # An empty password, so that a key that needs one is an error and nobody is asked.
            key = given.get("sslkey") or _at_home("postgresql.key")
            context.load_cert_chain(certificate, key or None, given.get("sslpassword", ""))


def _version(name: str | None) -> ssl.TLSVersion | None:
    import ssl

    return ssl.TLSVersion[_VERSIONS[name]] if name in _VERSIONS else None


def _at_home(name: str) -> str:
    """Return the path of a file that libpq looks for by itself."""
    path = os.path.expanduser(f"~/.postgresql/{name}")
    return path if os.path.exists(path) else ""
