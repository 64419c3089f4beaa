"""Find the system's certificates for a libpq whose OpenSSL looks in the wrong place.

The OpenSSL in psycopg's binary package, and so in the self-contained folder, was built with a path that no system uses.
We could set a variable, but the application and other tools would inherit it. So we replace `sslrootcert=system` with
the file's name.
"""

from __future__ import annotations

import os

from entrypoint.database import libpq
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from entrypoint.database.classify import Cause

# The files in which systems have all certificates. `_DEFAULT` takes precedence.
FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine, distroless
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat, Fedora, Amazon Linux
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine
)
# The directory that psycopg's OpenSSL was built with. Somebody may have put certificates there.
_DEFAULT = "/usr/lib/psycopg-openssl"
# Variables that tell OpenSSL where to look.
_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def system_certificates(parameters: Mapping[str, str | int | None], environ: Mapping[str, str]) -> dict[str, str]:
    """Return what to change in libpq's `parameters`, which ask for the system's certificates.

    Empty if libpq finds them itself, or if it must refuse the address: it allows `system` only with `verify-full`.
    """
    mode = parameters.get("sslmode") or environ.get("PGSSLMODE") or ""
    if libpq.bundled() is None or mode not in ("", "verify-full"):
        return {}
    if any(environ.get(name) for name in _VARIABLES) or os.path.exists(_DEFAULT):
        return {}
    file = next((path for path in FILES if os.path.exists(path)), None)
    return {} if file is None else {"sslrootcert": file, "sslmode": "verify-full"}


def explained(cause: Cause, text: str, environ: Mapping[str, str]) -> Cause:
    """Return the `cause` of `text`. If a variable names certificates that do not exist, the remedy says so."""
    if cause.name != "certificate" or "certificate verify failed" not in text:
        return cause
    missing = [name for name in _VARIABLES if (path := environ.get(name)) and not os.path.exists(path)]
    if not missing:
        return cause
    told = " and ".join(f"{name} names {foreign(environ[name])}" for name in missing)
    return cause._replace(remedy=f"{told}, which does not exist: correct or unset it. {cause.remedy}")
