"""How a session with PostgreSQL begins, read as far as the relay has to (PostgreSQL documentation, "Message Formats").

Everything here is bytes in, bytes out, except `Stream`, which reads whole messages from a socket.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

CANCEL_REQUEST, SSL_REQUEST, GSSENC_REQUEST = 80877102, 80877103, 80877104
REFUSED = b"N"
"""The answer to a request for encryption that is not offered."""
ASK_FOR_TLS = struct.pack("!ii", 8, SSL_REQUEST)

# AuthenticationRequest: that all is well, that the client's last message was the final one, and what has a list of
# mechanisms in it. Those that need Kerberos are for a host's own name, so they cannot pass here.
_OK, _SASL, _SASL_FINAL = 0, 10, 12
_GSSAPI = (7, 8, 9)
_WITH_CHANNEL_BINDING = b"SCRAM-SHA-256-PLUS"
# The server's own limit (pqcomm.h, MAX_STARTUP_PACKET_LENGTH), and more than any message before the first query has.
_LONGEST_STARTUP = 10_000
_LONGEST = 1 << 20
_HEADER = 5


class ProtocolError(Exception):
    """What came is not what the protocol has at this place, or the connection has ended."""


class Stream:
    """Reads from a socket with a time-out, message by message; what comes after the last one is in `rest`."""

    def __init__(self, sock: socket.socket) -> None:
        """Read from `sock`."""
        self._sock = sock
        self.rest = b""

    def startup(self) -> tuple[int, bytes]:
        """Return a message without a type, as the first one of a client is: its code, and what follows."""
        (length,) = struct.unpack("!i", self._take(4))
        if not 8 <= length <= _LONGEST_STARTUP:
            raise ProtocolError("this is not a PostgreSQL client")
        body = self._take(length - 4)
        return struct.unpack("!i", body[:4])[0], body[4:]

    def message(self) -> tuple[bytes, bytes]:
        """Return the next message: its type and its body."""
        header = self._take(_HEADER)
        (length,) = struct.unpack("!i", header[1:])
        if not 4 <= length <= _LONGEST:
            raise ProtocolError("a startup message is too long")
        return header[:1], self._take(length - 4)

    def _take(self, size: int) -> bytes:
        while len(self.rest) < size:
            data = self._sock.recv(1 << 16)
            if not data:
                raise ProtocolError("the connection ended")
            self.rest += data
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


def message(kind: bytes, body: bytes) -> bytes:
    """Return a message as it is sent."""
    return kind + struct.pack("!i", len(body) + 4) + body


def startup_message(version: int, parameters: Mapping[bytes, bytes]) -> bytes:
    """Return the message with which a client begins."""
    body = b"".join(name + b"\0" + value + b"\0" for name, value in parameters.items()) + b"\0"
    return struct.pack("!ii", len(body) + 8, version) + body


def startup_parameters(body: bytes) -> dict[bytes, bytes]:
    """Return what is in such a message after the version."""
    parts = body.split(b"\0")
    # After the last value come an empty name, and what split has found behind it.
    pairs = zip(parts[0::2], parts[1::2], strict=False)
    return {name: value for name, value in pairs if name}


def cancel_message(body: bytes) -> bytes:
    """Return a request to cancel, as it is passed on."""
    return struct.pack("!ii", len(body) + 8, CANCEL_REQUEST) + body


def named(parameters: Mapping[bytes, bytes], name: str, setting: str) -> dict[bytes, bytes]:
    """Return a client's parameters with the session's `name`, and a setting unless the client has it itself.

    `setting`: `name=value`; it comes after the client's own, and empty there is none.
    """
    own = parameters.get(b"options", b"")
    changed = {**parameters, b"application_name": name.encode()}
    key = setting.partition("=")[0].encode()
    if setting and key not in own and key not in parameters:
        changed[b"options"] = own + (b" " if own else b"") + b"-c " + setting.encode()
    return changed


LET_IN = message(b"R", struct.pack("!i", _OK))
"""What a server says to a client that it lets in."""


class Authentication:
    """What a message of the server about the login asks for."""

    def __init__(self, body: bytes) -> None:
        """Read the body of an AuthenticationRequest."""
        if len(body) < 4:
            raise ProtocolError("a login message is too short")
        (code,) = struct.unpack("!i", body[:4])
        if code in _GSSAPI:
            raise ProtocolError("Kerberos is not supported here")
        self.awaits_answer = code not in (_OK, _SASL_FINAL)
        # The client is not encrypted, so it could not bind to a channel, and libpq takes such an offer for an attack.
        self.body = _without_channel_binding(body) if code == _SASL else body


def _without_channel_binding(body: bytes) -> bytes:
    names = [name for name in body[4:].split(b"\0") if name and name != _WITH_CHANNEL_BINDING]
    return body[:4] + b"".join(name + b"\0" for name in names) + b"\0"


def first_value(body: bytes) -> bytes | None:
    """Return the first value in the body of a DataRow; None for NULL and for a row without columns."""
    columns = struct.unpack("!h", body[:2])[0]
    length = struct.unpack("!i", body[2:6])[0] if columns else -1
    return None if length < 0 else body[6 : 6 + length]


def error(sqlstate: str, text: str, hint: str = "") -> bytes:
    """Return an error that ends a session, as a server sends it; with a hint, if there is one."""
    fields = (("S", "FATAL"), ("V", "FATAL"), ("C", sqlstate), ("M", text), *([("H", hint)] if hint else []))
    body = b"".join(kind.encode() + value.encode() + b"\0" for kind, value in fields) + b"\0"
    return message(b"E", body)


def error_text(body: bytes) -> str:
    """Return the message in the body of an ErrorResponse."""
    found = next((field[1:] for field in body.split(b"\0") if field[:1] == b"M"), b"")
    return found.decode("utf-8", "replace")
