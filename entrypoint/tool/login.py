"""Log in to the server on the tool's behalf, if a password is issued for each connection.

The relay does this after the tool has presented the relay's key, which is good for nothing else. So the tool's
environment contains no password that the server accepts. The server may ask for a cleartext password, MD5 or
SCRAM-SHA-256 (PostgreSQL documentation, "Message Flow", "SASL Authentication"; RFC 5802).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import struct
from typing import NamedTuple

from entrypoint.tool import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_OK, _CLEARTEXT, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 3, 5, 10, 11, 12
_MECHANISM = b"SCRAM-SHA-256"
# The GS2 header for "no channel binding", and the same in base64 for the final message.
_HEADER, _BINDING = "n,,", "biws"


class PasswordIssuer(NamedTuple):
    """How passwords are issued for each connection."""

    user: str
    """The user they are for. If the tool connects as another user, it has that user's password and logs in itself."""
    password: Callable[[], str]
    """Issues a password; may raise EntrypointError."""
    key: str
    """What the tool uses as its password."""


class RefusedError(Exception):
    """The server refused the login."""

    def __init__(self, message: bytes) -> None:
        """Take the server's message, as it is passed on to the client."""
        super().__init__(wire.error_text(message[5:]))
        self.message = message


def shows_key(client: socket.socket, stream: wire.Stream, key: str) -> bool:
    """Ask a client for the key, and tell whether it is right."""
    client.sendall(wire.message(b"R", struct.pack("!i", _CLEARTEXT)))
    kind, body = stream.message()
    return kind == b"p" and hmac.compare_digest(body.rstrip(b"\0"), key.encode())


def log_in(server: socket.socket, answers: wire.Stream, user: str, password: str) -> None:
    """Answer what the server asks until it lets us in. Raises RefusedError, wire.ProtocolError, OSError."""
    secret = password.encode()
    while True:
        code, body = _asked(answers)
        if code == _OK:
            return
        if code == _CLEARTEXT:
            _answer(server, secret + b"\0")
        elif code == _MD5:
            inner = hashlib.md5(secret + user.encode(), usedforsecurity=False).hexdigest()
            outer = hashlib.md5(inner.encode() + body[:4], usedforsecurity=False).hexdigest()
            _answer(server, b"md5" + outer.encode() + b"\0")
        elif code == _SASL and _MECHANISM in body.split(b"\0"):
            _exchange(server, answers, secret)
        else:
            raise wire.ProtocolError("the server asks for an authentication method other than a password")


def _exchange(server: socket.socket, answers: wire.Stream, secret: bytes) -> None:
    """Prove that we know the password, and check that the server knows it, too."""
    # The server takes the user's name from the startup message.
    bare = f"n=,r={base64.b64encode(os.urandom(18)).decode()}"
    first = f"{_HEADER}{bare}".encode()
    _answer(server, _MECHANISM + b"\0" + struct.pack("!i", len(first)) + first)
    challenge = _expected(answers, _SASL_CONTINUE)
    final, proof = scram(bare, challenge, secret)
    _answer(server, final.encode())
    said = _expected(answers, _SASL_FINAL)
    if not hmac.compare_digest(said.encode(), f"v={proof}".encode()):
        raise wire.ProtocolError("the server could not prove that it knows the password")


def scram(bare: str, challenge: str, secret: bytes) -> tuple[str, str]:
    """Return the client's final message, and the signature that the server must send. Pure.

    `bare` is the client's first message without its header. Raises wire.ProtocolError.
    """
    said = dict(part.split("=", 1) for part in challenge.split(",") if "=" in part)
    nonce = said.get("r", "")
    try:
        salt, rounds = base64.b64decode(said["s"], validate=True), int(said["i"])
    except (KeyError, ValueError):
        raise wire.ProtocolError("the server's challenge is malformed") from None
    if not nonce.startswith(bare.partition("r=")[2]) or rounds < 1:
        raise wire.ProtocolError("the server's challenge does not answer ours")
    salted = salted_password(secret, salt, rounds)
    signed = f"{bare},{challenge},c={_BINDING},r={nonce}".encode()
    key = _signature(salted, b"Client Key")
    proof = bytes(a ^ b for a, b in zip(key, _signature(hashlib.sha256(key).digest(), signed), strict=True))
    shown = _signature(_signature(salted, b"Server Key"), signed)
    return f"c={_BINDING},r={nonce},p={base64.b64encode(proof).decode()}", base64.b64encode(shown).decode()


def salted_password(secret: bytes, salt: bytes, rounds: int) -> bytes:
    """Return SCRAM's SaltedPassword (RFC 5802, `Hi`). Works without OpenSSL, too, as in the self-contained folder."""
    if (derive := getattr(hashlib, "pbkdf2_hmac", None)) is not None:
        return bytes(derive("sha256", secret, salt, rounds))
    keyed = hmac.new(secret, digestmod="sha256")

    def signed(text: bytes) -> bytes:
        one = keyed.copy()
        one.update(text)
        return one.digest()

    last = signed(salt + b"\0\0\0\1")
    result = int.from_bytes(last, "big")
    for _ in range(rounds - 1):
        last = signed(last)
        result ^= int.from_bytes(last, "big")
    return result.to_bytes(32, "big")


def _signature(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _expected(answers: wire.Stream, wanted: int) -> str:
    code, body = _asked(answers)
    if code != wanted:
        raise wire.ProtocolError("the server sent a message out of order")
    return body.decode()


def _asked(answers: wire.Stream) -> tuple[int, bytes]:
    """Return the code of the server's next authentication request, and its data."""
    while True:
        kind, body = answers.message()
        if kind == b"E":
            raise RefusedError(wire.message(kind, body))
        if kind == b"R" and len(body) >= 4:
            return struct.unpack("!i", body[:4])[0], body[4:]
        if kind != b"N":
            raise wire.ProtocolError("the server sent a message out of order")


def _answer(server: socket.socket, body: bytes) -> None:
    server.sendall(wire.message(b"p", body))
