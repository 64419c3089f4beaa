"""TLS from the relay to the server, with the same parameters, files and rules as libpq for our own connection.

The rules are in PostgreSQL's documentation, "SSL Support", and those for names in certificates in libpq's
fe-secure-common.c and fe-secure-openssl.c. Python's `ssl` is imported inside functions, because only the relay needs
it, and only if the connection is encrypted.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket

from entrypoint.memory import file_in_memory
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping
    from typing import Any

# The values of sslmode that verify the server's certificate. Only `verify-full` also checks its name.
VERIFIED = ("verify-ca", "verify-full")
ENCRYPTED = ("require", *VERIFIED)
_VERSIONS = {"TLSv1": "TLSv1", "TLSv1.1": "TLSv1_1", "TLSv1.2": "TLSv1_2", "TLSv1.3": "TLSv1_3"}
# The formats of a DER key: PKCS#8, and the older ones for RSA and elliptic curves.
_KINDS_OF_KEY = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")


class UnusableFileError(Exception):
    """Python cannot load one of the TLS files that libpq has loaded for our own session."""

    def __init__(self, message: str, remedy: str) -> None:
        """Take the cause, with the file's name, and the remedy."""
        super().__init__(message)
        self.remedy = remedy


def encrypt(sock: socket.socket, host: str, sslmode: str, parameters: Mapping[str, str]) -> socket.socket:
    """Start TLS on `sock`, and return the encrypted socket.

    `host`: the server's name as the address has it. Raises UnusableFileError and OSError, of which TLS's errors are
    subclasses.
    """
    named = _nameable(host) if parameters.get("sslsni") != "0" else None
    secured = _context(sslmode, parameters).wrap_socket(sock, server_hostname=named)
    try:
        if sslmode == "verify-full":
            _check_name(secured, host)
    except BaseException:
        secured.close()
        raise
    return secured


def _nameable(host: str) -> str | None:
    """Return `host` if it can be sent as the server name in TLS. For others, Python raises and leaks the socket."""
    try:
        return host if host.encode("idna") else None
    except UnicodeError:
        return None


def _context(sslmode: str, parameters: Mapping[str, str]) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Python's own defaults reject the ciphers of old servers, and some self-signed certificates.
    context.set_ciphers("DEFAULT")
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = _version(parameters.get("ssl_min_protocol_version")) or ssl.TLSVersion.TLSv1_2
    if (highest := _version(parameters.get("ssl_max_protocol_version"))) is not None:
        context.maximum_version = highest
    if parameters.get("sslnegotiation") == "direct":
        context.set_alpn_protocols(["postgresql"])
    roots = parameters.get("sslrootcert") or _default_file("root.crt")
    # As in libpq, `require` means `verify-ca` if there is a root certificate.
    if sslmode in VERIFIED or (sslmode == "require" and roots and os.path.exists(roots)):
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, roots, parameters)
    _load_client_certificate(context, parameters)
    return context


def _version(name: str | None) -> ssl.TLSVersion | None:
    import ssl

    return ssl.TLSVersion[_VERSIONS[name]] if name in _VERSIONS else None


def _default_file(name: str) -> str:
    """Return the path of a file in libpq's default directory; empty if it does not exist."""
    path = os.path.expanduser(f"~/.postgresql/{name}")
    return path if os.path.exists(path) else ""


# --- Who the server is ------------------------------------------------------------------------------------


def _trust(context: ssl.SSLContext, roots: str, parameters: Mapping[str, str]) -> None:
    """Load the authorities' certificates and revocation lists."""
    import ssl

    if roots == "system":
        context.set_default_verify_paths()
    else:
        with _named("the certificate authority's certificates", "sslrootcert", roots):
            context.load_verify_locations(roots)
    revoked = parameters.get("sslcrl") or _default_file("root.crl")
    folder = parameters.get("sslcrldir")
    if (revoked and os.path.exists(revoked)) or folder:
        with _named("the list of revoked certificates", "sslcrl", revoked or folder or ""):
            context.load_verify_locations(revoked or None, folder)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN


@contextlib.contextmanager
def _named(what: str, parameter: str, path: str) -> Iterator[None]:
    """Add the file's name to an error, because Python's messages lack it."""
    try:
        yield
    except OSError as error:
        raise UnusableFileError(
            f"cannot load {what} from {path} ({parameter}): {_reason(error)}",
            f"Set {parameter} to a PEM file that the container's user can read.",
        ) from error


def _reason(error: OSError | ValueError) -> str:
    return foreign(str(error.strerror if isinstance(error, OSError) and error.strerror else error))


def _check_name(secured: ssl.SSLSocket, host: str) -> None:
    """Check that the server's certificate is for `host`. Raises ssl.SSLCertVerificationError."""
    import ssl

    certificate: dict[str, Any] = secured.getpeercert() or {}
    alternatives = list(certificate.get("subjectAltName", ()))
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    common = next((name for kind, name in subject if kind == "commonName"), "")
    if not is_for(host, alternatives, common):
        names = ", ".join(name for _, name in alternatives) or common
        raise ssl.SSLCertVerificationError(f"the server's certificate is for {names or 'nobody'}, not for {host}")


def is_for(host: str, alternatives: list[tuple[str, str]], common: str) -> bool:
    """Tell whether a certificate is for `host`, by libpq's rules. Pure.

    `alternatives`: the certificate's alternative names with their kinds, as `getpeercert` returns them. `common`: the
    subject's common name, which counts only if there is no alternative name of the host's kind.
    """
    address = _packed(host)
    kind = "IP Address" if address else "DNS"
    for its_kind, name in alternatives:
        if its_kind == "DNS" and _matches(host, name):
            return True
        if its_kind == "IP Address" and address and _packed(name) == address:
            return True
    return bool(common) and all(its_kind != kind for its_kind, _ in alternatives) and _matches(host, common)


def _matches(host: str, name: str) -> bool:
    """Tell whether a name in a certificate matches the host. An asterisk stands for the whole first label."""
    # As bytes, so that only ASCII letters are compared regardless of case.
    wanted, given = os.fsencode(host).lower(), os.fsencode(name).lower()
    label, _, rest = wanted.partition(b".")
    return wanted == given or bool(label and rest and given == b"*." + rest)


def _packed(text: str) -> bytes:
    """Return an IP address as bytes; empty if `text` is not one."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            return socket.inet_pton(family, text)
    return b""


# --- Who we are -------------------------------------------------------------------------------------------


def _load_client_certificate(context: ssl.SSLContext, parameters: Mapping[str, str]) -> None:
    """Load the client's certificate, if there is one."""
    if parameters.get("sslcertmode") == "disable":
        return
    certificate = parameters.get("sslcert") or _default_file("postgresql.crt")
    if not certificate or not os.path.exists(certificate):
        return
    key = parameters.get("sslkey") or _default_file("postgresql.key")
    # With an empty password, a key that needs one is an error; without, OpenSSL would ask on the terminal.
    password = parameters.get("sslpassword", "")
    try:
        if (der := _der_contents(key)) is None:
            context.load_cert_chain(certificate, key or None, password)
        else:
            _load_der(context, certificate, der)
    except (OSError, ValueError) as error:
        pair = f"the client's certificate {certificate} (sslcert) with the key {key} (sslkey)"
        raise UnusableFileError(
            f"cannot load {pair}: {_reason(error)}",
            "If the key has a password, set sslpassword in DATABASE_URL. Otherwise convert the key to PEM (openssl "
            "pkey -in KEY -out FILE) and set sslkey to that file.",
        ) from error


def _der_contents(path: str) -> bytes | None:
    """Return a key file's contents if they are DER, which libpq also reads; None if they are PEM."""
    if not path:
        return None
    with open(path, "rb") as file:
        contents = file.read(1 << 20)
    return None if b"-----BEGIN" in contents else contents


def _load_der(context: ssl.SSLContext, certificate: str, key: bytes) -> None:
    """Load a certificate with a key in DER. Python accepts only PEM, and only from a file."""
    import ssl

    text = base64.encodebytes(key).decode()
    for kind in _KINDS_OF_KEY:
        file = file_in_memory("key")
        try:
            os.write(file, f"-----BEGIN {kind}-----\n{text}-----END {kind}-----\n".encode())
            context.load_cert_chain(certificate, f"/proc/self/fd/{file}", "")
        except ssl.SSLError:
            if kind == _KINDS_OF_KEY[-1]:
                raise
        else:
            return
        finally:
            os.close(file)
