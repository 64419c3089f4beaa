"""Parse the beginning of a PostgreSQL session, as far as the relay needs (PostgreSQL documentation, "Message Formats").

Everything here takes and returns bytes, except `Stream`, which reads whole messages from a socket.
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

# Codes of AuthenticationRequest. Kerberos cannot pass through the relay, because its tickets are for the server's name.
_OK, _SASL, _SASL_FINAL = 0, 10, 12
_GSSAPI = (7, 8, 9)
_WITH_CHANNEL_BINDING = b"SCRAM-SHA-256-PLUS"
# The server's own limit (pqcomm.h, MAX_STARTUP_PACKET_LENGTH), and more than any message before the first query needs.
_LONGEST_STARTUP = 10_000
_LONGEST = 1 << 20
_HEADER = 5


class ProtocolError(Exception):
    """The other side violated the protocol, or closed the connection."""


class Stream:
    """Reads messages from a socket that has a timeout. Bytes read beyond the last message are in `rest`."""

    def __init__(self, sock: socket.socket) -> None:
        """Read from `sock`."""
        self._sock = sock
        self.rest = b""

    def startup(self) -> tuple[int, bytes]:
        """Read a message without a type, like a client's first one; return its code and the rest."""
        (length,) = struct.unpack("!i", self._take(4))
        if not 8 <= length <= _LONGEST_STARTUP:
            raise ProtocolError("this is not a PostgreSQL client")
        body = self._take(length - 4)
        return struct.unpack("!i", body[:4])[0], body[4:]

    def message(self) -> tuple[bytes, bytes]:
        """Read the next message; return its type and body."""
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
    """Return a message as sent over the wire."""
    return kind + struct.pack("!i", len(body) + 4) + body


def startup_message(version: int, parameters: Mapping[bytes, bytes]) -> bytes:
    """Return a client's startup message."""
    body = b"".join(name + b"\0" + value + b"\0" for name, value in parameters.items()) + b"\0"
    return struct.pack("!ii", len(body) + 8, version) + body


def startup_parameters(body: bytes) -> dict[bytes, bytes]:
    """Return the parameters in a startup message's body after the version."""
    parts = body.split(b"\0")
    # The last value is followed by an empty name; `split` also returns what comes after that.
    pairs = zip(parts[0::2], parts[1::2], strict=False)
    return {name: value for name, value in pairs if name}


def cancel_message(body: bytes) -> bytes:
    """Return a cancel request, to be passed on."""
    return struct.pack("!ii", len(body) + 8, CANCEL_REQUEST) + body


def with_name(parameters: Mapping[bytes, bytes], name: str, setting: str) -> dict[bytes, bytes]:
    """Return a client's parameters with `name` as application_name, and with a setting unless the client sets it.

    `setting`: `name=value`, added after the client's own options; may be empty.
    """
    own = parameters.get(b"options", b"")
    changed = {**parameters, b"application_name": name.encode()}
    key = setting.partition("=")[0].encode()
    if setting and key not in own and key not in parameters:
        changed[b"options"] = own + (b" " if own else b"") + b"-c " + setting.encode()
    return changed


LET_IN = message(b"R", struct.pack("!i", _OK))
"""The server's message after a successful login."""


class Authentication:
    """An authentication request from the server."""

    def __init__(self, body: bytes) -> None:
        """Read the body of an AuthenticationRequest."""
        if len(body) < 4:
            raise ProtocolError("a login message is too short")
        (code,) = struct.unpack("!i", body[:4])
        if code in _GSSAPI:
            raise ProtocolError("Kerberos is not supported here")
        self.awaits_answer = code not in (_OK, _SASL_FINAL)
        # The client's connection is not encrypted, so it cannot use channel binding; libpq would suspect an attack.
        self.body = _without_channel_binding(body) if code == _SASL else body


def _without_channel_binding(body: bytes) -> bytes:
    names = [name for name in body[4:].split(b"\0") if name and name != _WITH_CHANNEL_BINDING]
    return body[:4] + b"".join(name + b"\0" for name in names) + b"\0"


def first_value(body: bytes) -> bytes | None:
    """Return the first value in the body of a DataRow; None if it is NULL or the row has no columns."""
    columns = struct.unpack("!h", body[:2])[0]
    length = struct.unpack("!i", body[2:6])[0] if columns else -1
    return None if length < 0 else body[6 : 6 + length]


def error(sqlstate: str, text: str, hint: str = "") -> bytes:
    """Return an error that ends a session, as a server sends it, with a hint if `hint` is not empty."""
    fields = (("S", "FATAL"), ("V", "FATAL"), ("C", sqlstate), ("M", text), *([("H", hint)] if hint else []))
    body = b"".join(kind.encode() + value.encode() + b"\0" for kind, value in fields) + b"\0"
    return message(b"E", body)


def error_text(body: bytes) -> str:
    """Return the message in the body of an ErrorResponse."""
    found = next((field[1:] for field in body.split(b"\0") if field[:1] == b"M"), b"")
    return found.decode("utf-8", "replace")
