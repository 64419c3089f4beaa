"""The system's certificates, for a libpq whose OpenSSL looks for them where no system has them.

psycopg's binary package, and with it the self-contained folder, brings such an OpenSSL. A variable would show it the
way, but the application and other tools would see that, too; so libpq gets the file's name for `system`.
"""

from __future__ import annotations

import os

from entrypoint.database import libpq
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from entrypoint.database.classify import Cause

# Where systems have them in one file. OpenSSL's own default goes over them, see `_DEFAULT`.
FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine, distroless
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat, Fedora, Amazon Linux
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine
)
# What psycopg's OpenSSL was built with: whoever knows of it may have put certificates there.
_DEFAULT = "/usr/lib/psycopg-openssl"
# Set, they tell OpenSSL where to look.
_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def systems(parameters: Mapping[str, str | int | None], environ: Mapping[str, str]) -> dict[str, str]:
    """Return what is to go over libpq's `parameters`, which ask for the system's certificates.

    Nothing where libpq finds them by itself, or would refuse the address: for it, `system` means `verify-full`.
    """
    mode = parameters.get("sslmode") or environ.get("PGSSLMODE") or ""
    if libpq.bundled() is None or mode not in ("", "verify-full"):
        return {}
    if any(environ.get(name) for name in _VARIABLES) or os.path.exists(_DEFAULT):
        return {}
    file = next((path for path in FILES if os.path.exists(path)), None)
    return {} if file is None else {"sslrootcert": file, "sslmode": "verify-full"}


def explained(cause: Cause, text: str, environ: Mapping[str, str]) -> Cause:
    """Return the `cause` of `text`, whose remedy tells it if a variable names certificates that are not there."""
    if cause.name != "certificate" or "certificate verify failed" not in text:
        return cause
    missing = [name for name in _VARIABLES if (path := environ.get(name)) and not os.path.exists(path)]
    if not missing:
        return cause
    told = " and ".join(f"{name} names {foreign(environ[name])}" for name in missing)
    return cause._replace(remedy=f"{told}, which does not exist: correct or unset it. {cause.remedy}")
