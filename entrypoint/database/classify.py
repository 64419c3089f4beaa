"""Turn PostgreSQL's SQLSTATEs and libpq's texts into causes, in words and with remedies.

For a failed login, libpq returns only text, which the server may have translated. In verbose mode the text contains the
SQLSTATE. So a failed connection is classified first by texts that are the same in every libpq, and then by the
SQLSTATE. Anything that is not recognized is worth another try.
The SQLSTATEs are in PostgreSQL's documentation, appendix A.
"""

from __future__ import annotations

import re

from entrypoint.database.answers import LARGER_POOL
from entrypoint.database.quoting import identifier
from entrypoint.database.sqlstate import (
    ADMIN_SHUTDOWN,
    CANNOT_CONNECT_NOW,
    CANT_CHANGE_RUNTIME_PARAM,
    CONFIGURATION_LIMIT_EXCEEDED,
    CONNECTION_EXCEPTIONS,
    CRASH_SHUTDOWN,
    DATA_CORRUPTED,
    DEADLOCK_DETECTED,
    DISK_FULL,
    INDEX_CORRUPTED,
    INSUFFICIENT_PRIVILEGE,
    INSUFFICIENT_RESOURCES,
    INVALID_AUTHORIZATION_SPECIFICATION,
    INVALID_CATALOG_NAME,
    INVALID_PARAMETER_VALUE,
    INVALID_PASSWORD,
    IO_ERROR,
    LOCK_NOT_AVAILABLE,
    OBJECT_NOT_IN_PREREQUISITE_STATE,
    OUT_OF_MEMORY,
    QUERY_CANCELED,
    READ_ONLY_SQL_TRANSACTION,
    SERIALIZATION_FAILURE,
    SYNTAX_ERROR,
    SYSTEM_ERROR,
    TOO_MANY_CONNECTIONS,
    UNDEFINED_OBJECT,
)
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    CauseName = Literal[
        "refused",
        "unknown_host",
        "timeout",
        "starting_up",
        "shutting_down",
        "wrong_password",
        "no_password",
        "no_such_role",
        "no_such_database",
        "not_permitted",
        "too_many_clients",
        "certificate",
        "tls",
        "address",
        "no_primary",
        "closed",
        "service",
        "no_user",
        "channel_binding",
        "startup_parameter",
        "search_path",
        "password_command",
        "option",
        "no_server_connection",
        "require_auth",
        "gssencmode",
        "requirepeer",
        "os_user",
        "database_closed",
        "other",
    ]
CHECK_LOGIN = "Check the user and password in DATABASE_URL."


class Cause(NamedTuple):
    """Why there is no connection."""

    name: CauseName
    words: str
    remedy: str
    heals: bool
    """Whether the same attempt may succeed later, without a change of the configuration here."""


_CHECK_ADDRESS = "Check the host and port in DATABASE_URL, and that PostgreSQL is running and reachable from here."

# The first cause with a text that occurs counts. All texts are in lower case.
_CAUSES: tuple[tuple[tuple[str, ...], Cause], ...] = (
    (
        # PgBouncer's texts.
        ("query_wait_timeout", "server_login_retry", "server login has been failing", "cannot connect to server"),
        Cause(
            "no_server_connection",
            "the pooler had no free server connection",
            "Check that the server behind the pooler is running and has this database and user. If it does: "
            f"{LARGER_POOL}",
            heals=True,
        ),
    ),
    (
        ("authentication method requirement",),
        Cause(
            "require_auth",
            "require_auth cannot be met",
            "The server asks for an authentication method that require_auth does not allow. Change the method for "
            "this user in pg_hba.conf, or change require_auth in DATABASE_URL or PGREQUIREAUTH.",
            heals=False,
        ),
    ),
    (
        ("gssapi encryption required", "gssapi encryption, but it was required", 'gssencmode value "" invalid'),
        Cause(
            "gssencmode",
            "gssencmode=require cannot be met",
            "It needs a Kerberos ticket here, and a server that supports GSSAPI, over TCP. If you do not use "
            "Kerberos, remove gssencmode=require from DATABASE_URL, or unset PGGSSENCMODE.",
            heals=False,
        ),
    ),
    (
        ("requirepeer specifies",),
        Cause(
            "requirepeer",
            "the server behind the socket does not run as the user given by requirepeer",
            "Correct or remove requirepeer in DATABASE_URL, or PGREQUIREPEER; or check which server owns the socket.",
            heals=False,
        ),
    ),
    (
        ("peer authentication failed", "ident authentication failed"),
        Cause(
            "os_user",
            "the operating system user running this may not log in as this database user",
            "Use another user in DATABASE_URL, run this as the user of that name, map one to the other in "
            "pg_ident.conf, or have pg_hba.conf ask for a password instead of peer or ident.",
            heals=False,
        ),
    ),
    (
        ("is not currently accepting connections", "cannot connect to invalid database"),
        Cause(
            "database_closed",
            "the database does not accept connections",
            "Run ALTER DATABASE … ALLOW_CONNECTIONS true, with the database's name. A database left invalid by an "
            "interrupted DROP DATABASE can only be dropped.",
            heals=False,
        ),
    ),
    (
        (
            "sorry, too many clients",
            "remaining connection slots",
            "too many connections for",
            "no more connections allowed",
        ),
        Cause(
            "too_many_clients",
            "the server has too many clients",
            "Raise max_connections, use a pooler, or start fewer replicas at once.",
            heals=True,
        ),
    ),
    (
        ("the database system is starting up", "not yet accepting connections", "in recovery mode"),
        Cause("starting_up", "the server is starting up", "Give it more time: raise DB_CONNECT_ATTEMPTS.", heals=True),
    ),
    (
        ("the database system is shutting down", "terminating connection due to administrator command"),
        Cause("shutting_down", "the server is shutting down", "Start the server again.", heals=True),
    ),
    (
        (
            "invalid port number",
            "invalid integer value",
            "invalid sslmode value",
            "invalid target_session_attrs value",
            "invalid channel_binding value",
            "invalid gssencmode value",
            "invalid load_balance_hosts value",
        ),
        Cause("address", "the address is malformed", "Correct DATABASE_URL.", heals=False),
    ),
    (
        ('definition of service "" not found', 'service file "" not found'),
        Cause(
            "service",
            "the connection service is not defined",
            "Check `service` in DATABASE_URL, or PGSERVICE, and the file that defines it: PGSERVICEFILE, or "
            "~/.pg_service.conf.",
            heals=False,
        ),
    ),
    (
        ("local user with id", "could not look up local user id"),
        Cause(
            "no_user",
            "no database user was given, and the user running this process has no name either",
            "Give the user: postgresql://USER@HOST/DATABASE, or PGUSER.",
            heals=False,
        ),
    ),
    (
        ("channel binding required", "channel binding is required"),
        Cause(
            "channel_binding",
            "channel_binding=require cannot be met",
            "It needs TLS, a password stored as SCRAM-SHA-256, and no pooler in between. If you cannot have all "
            "three, remove channel_binding=require from DATABASE_URL, or unset PGCHANNELBINDING.",
            heals=False,
        ),
    ),
    (
        ("unsupported startup parameter",),
        Cause(
            "startup_parameter",
            "the pooler rejected one of the connection's parameters",
            "Add that parameter to ignore_startup_parameters in PgBouncer's configuration, or remove it from "
            "DATABASE_URL (for options: or from PGOPTIONS).",
            heals=False,
        ),
    ),
    (
        (
            "unrecognized configuration parameter",
            "invalid value for parameter",
            "permission denied to set parameter",
            "invalid command-line argument for server process",
        ),
        Cause(
            "option",
            "the server rejected one of the connection's options",
            "Correct or remove that parameter. It is in DATABASE_URL, most likely in `options`, or in PGOPTIONS.",
            heals=False,
        ),
    ),
    (
        ("no password supplied",),
        Cause(
            "no_password",
            "the server asked for a password and none was given",
            "Add the password to DATABASE_URL.",
            heals=False,
        ),
    ),
    (
        ("password authentication failed", "authentication failed for user", "sasl authentication failed"),
        Cause("wrong_password", "wrong user or password", CHECK_LOGIN, heals=True),
    ),
    (
        # The cause is on our side: nothing has been sent yet.
        ("could not create ssl context", "no protocols available"),
        Cause(
            "tls",
            "OpenSSL could not be set up for TLS",
            "If OPENSSL_CONF is set, check the file it names: it may require modules (as FIPS images do), protocols "
            "or ciphers that this program's OpenSSL does not have. Correct that file, or unset the variable for "
            "this program. Check ssl_min_protocol_version and ssl_max_protocol_version in DATABASE_URL, too.",
            heals=False,
        ),
    ),
    (
        ("certificate verify failed",),
        Cause(
            "certificate",
            "the certificates or TLS settings do not match the server",
            "Set sslrootcert in DATABASE_URL to the file with your certificate authority's certificate. For "
            "sslrootcert=system, install the package ca-certificates in the image (it provides "
            "/etc/ssl/certs/ca-certificates.crt on Debian, Ubuntu, Alpine and distroless, and "
            "/etc/pki/tls/certs/ca-bundle.crt on Red Hat), or set SSL_CERT_FILE.",
            heals=False,
        ),
    ),
    (
        # The cause is on our side: the file is missing, empty or unreadable (for which libpq gives no reason), or there
        # is no home directory to look in.
        ("root certificate file",),
        Cause(
            "certificate",
            "the certificate authority's certificate cannot be read",
            "Set sslrootcert in DATABASE_URL to a PEM file that the container's user can read. With "
            "sslrootcert=system, the image's own file must be readable.",
            heals=False,
        ),
    ),
    (
        ("could not load private key file",),
        Cause(
            "certificate",
            "the client's key cannot be read",
            "Set sslkey in DATABASE_URL to the key that belongs to sslcert; if it is encrypted, set sslpassword, too.",
            heals=False,
        ),
    ),
    (
        ("certificate", "server does not support ssl", "ssl error: wrong version", "root.crt", "private key file"),
        Cause(
            "certificate",
            "the certificates or TLS settings do not match the server",
            "Check sslmode, sslrootcert, sslcert and sslkey in DATABASE_URL against what the server offers.",
            heals=False,
        ),
    ),
    (
        ("no pg_hba.conf entry", "pg_hba.conf rejects", "is not permitted to log in", "permission denied for database"),
        Cause(
            "not_permitted",
            "this user may not connect from this host",
            "Check pg_hba.conf and the role's privileges.",
            heals=False,
        ),
    ),
    (
        ("could not translate host name", "name or service not known", "name resolution", "failed to resolve host"),
        Cause("unknown_host", "unknown host", "Check the host in DATABASE_URL, and DNS.", heals=True),
    ),
    (
        (
            "session is read-only",
            "server is in hot standby",
            "session is not read-only",
            "server is not in hot standby",
        ),
        Cause(
            "no_primary",
            "no host matches target_session_attrs",
            "Check the hosts and target_session_attrs in DATABASE_URL. A primary also counts as read-only if "
            "default_transaction_read_only is on, for the login, the database, the server or in `options`.",
            heals=True,
        ),
    ),
    (
        ("connection refused", "no such file or directory"),
        Cause("refused", "connection refused", _CHECK_ADDRESS, heals=True),
    ),
    (
        ("timeout expired", "timed out", "no answer within"),
        Cause("timeout", "no answer in time", _CHECK_ADDRESS, heals=True),
    ),
    (
        ("server closed the connection", "connection reset", "broken pipe", "unexpected eof"),
        Cause("closed", "the server closed the connection", "Check the server's log.", heals=True),
    ),
)

# Limits of a role or a database, not of the server.
_ROLE_OR_DATABASE_LIMIT = re.compile(r'too many connections for (role|database) "(.*)"', re.IGNORECASE)
_MAY_NOT_CONNECT = re.compile(r'permission denied for database "(.*)"', re.IGNORECASE)

_NAMES = re.compile(r""" "[^"]*" | '[^']*' """, re.VERBOSE)
_NO_DATABASE = Cause(
    "no_such_database", "no such database", "Create it, or check the name in DATABASE_URL.", heals=True
)
_OTHER = Cause("other", "the server rejected the connection", "Check the server's log.", heals=True)


# In verbose mode, in any language, libpq writes `FATAL:  53300: sorry, too many clients already`, and another line with
# the place in the server's source.
_SQLSTATE = re.compile(r"(?<=:  )([0-9A-Z]{5}): ")
# A setting that may not be set and a database that may not be entered have the same code. The place in the server's
# source distinguishes them.
_IN_SETTINGS = re.compile(r"^[^\s:]+:  (?:\w+, )?(?:[\w./-]+/)?guc\w*\.c:\d+\s*$", re.MULTILINE)
_ROUTINE = re.compile(r"^[^\s:]+:  (\w+), [\w./-]+\.\w+:\d+\s*$", re.MULTILINE)
_LOCATION = re.compile(r"^[^\s:]+:  (?:\w+, )?[\w./-]+\.\w+:\d+\s*$\n?", re.MULTILINE)


def without_codes(text: str) -> str:
    """Return libpq's verbose text as it would be without verbose mode."""
    return _LOCATION.sub("", _SQLSTATE.sub("", text))


def classify_connection_failure(text: str) -> Cause:
    """Return the cause of a failed connection from libpq's `text` about it."""
    cause = _by_words(without_codes(text))
    # The last code counts: it is from the server reached last, and an earlier one may be from an attempt without TLS.
    codes, routines = _SQLSTATE.findall(text), _ROUTINE.findall(text)
    if not codes or cause is not _OTHER:
        return cause
    if routines and (codes[-1], routines[-1]) in _BY_ROUTINE:
        return _BY_ROUTINE[codes[-1], routines[-1]]
    if codes[-1] == INSUFFICIENT_PRIVILEGE and _IN_SETTINGS.search(text):
        return _known("option")
    return _BY_SQLSTATE.get(codes[-1], cause)


def _limit_of(kind: str, name: str | None) -> Cause:
    kind = kind.lower()
    return _known("too_many_clients")._replace(
        words=f"too many clients for the {kind}'s CONNECTION LIMIT",
        remedy=f"Run ALTER {kind.upper()} {_shown(name)} CONNECTION LIMIT -1, or set a higher number; or start fewer "
        "replicas at once.",
    )


def _may_not_connect(database: str | None) -> Cause:
    return _known("not_permitted")._replace(
        words="this user has no CONNECT privilege on the database",
        remedy=f"As the database's owner, run GRANT CONNECT ON DATABASE {_shown(database)} TO … with the user's name.",
    )


def _shown(name: str | None) -> str:
    return "…" if name is None else foreign(identifier(name))


def _by_words(text: str) -> Cause:
    if found := _ROLE_OR_DATABASE_LIMIT.search(text):
        return _limit_of(found[1], found[2])
    if found := _MAY_NOT_CONNECT.search(text):
        return _may_not_connect(found[1])
    # The names of hosts, roles and databases say nothing about the cause.
    lower = _NAMES.sub('""', text.lower())
    if 'role "" does not exist' in lower:
        return Cause("no_such_role", "no such user", "Create the role, or check the user in DATABASE_URL.", heals=True)
    if 'database "" does not exist' in lower or "no such database" in lower:
        return _NO_DATABASE
    for texts, cause in _CAUSES:
        if any(text in lower for text in texts):
            return cause
    return _OTHER


# Errors that may go away without intervention, besides connection exceptions.
_PASSING = (
    SERIALIZATION_FAILURE,
    DEADLOCK_DETECTED,
    TOO_MANY_CONNECTIONS,
    LOCK_NOT_AVAILABLE,
    CRASH_SHUTDOWN,
    CANNOT_CONNECT_NOW,
)
_STOPPED_BY_OPERATOR = (QUERY_CANCELED, ADMIN_SHUTDOWN)


def _known(name: CauseName) -> Cause:
    return next(cause for _, cause in _CAUSES if cause.name == name)


# For texts in another language. If several refusals share a code, the cause is only as precise as the code.
_BY_SQLSTATE = {
    TOO_MANY_CONNECTIONS: _known("too_many_clients"),
    CANNOT_CONNECT_NOW: _known("starting_up"),
    ADMIN_SHUTDOWN: _known("shutting_down"),
    INVALID_PASSWORD: _known("wrong_password"),
    INVALID_AUTHORIZATION_SPECIFICATION: _known("not_permitted")._replace(
        words="this user may not connect from this host, or does not exist", heals=True
    ),
    INSUFFICIENT_PRIVILEGE: _known("not_permitted"),
    OBJECT_NOT_IN_PREREQUISITE_STATE: _known("database_closed"),
    INVALID_CATALOG_NAME: _NO_DATABASE,
    # An unknown parameter, an invalid value, a parameter that a session cannot set, something that is no option.
    UNDEFINED_OBJECT: _known("option"),
    INVALID_PARAMETER_VALUE: _known("option"),
    CANT_CHANGE_RUNTIME_PARAM: _known("option"),
    SYNTAX_ERROR: _known("option"),
}

# If several refusals share a code, the server's routine distinguishes them. It is the same from 13 to 19.
_BY_ROUTINE = {
    (TOO_MANY_CONNECTIONS, "InitializeSessionUserId"): _limit_of("role", None),
    (TOO_MANY_CONNECTIONS, "CheckMyDatabase"): _limit_of("database", None),
    (INSUFFICIENT_PRIVILEGE, "CheckMyDatabase"): _may_not_connect(None),
    (INVALID_AUTHORIZATION_SPECIFICATION, "ClientAuthentication"): _known("not_permitted"),
    (INVALID_AUTHORIZATION_SPECIFICATION, "auth_failed"): Cause(
        "not_permitted",
        "the server did not accept this process as that user",
        "See pg_hba.conf for what the server asks for: an operating system user (peer, ident), a certificate, or a "
        "password checked by another service.",
        heals=True,
    ),
}


class Trouble(NamedTuple):
    """A reason why a statement failed that lies outside the statement."""

    words: str
    """A clause about the server or this program."""
    remedy: str


_DISK = Trouble("the server's disk is full", "Free space on the server's disk, or enlarge it.")
_MEMORY = Trouble("the server is out of memory", "Give the server more memory, or configure it to use less.")
_LIMIT = Trouble("the server reached a configured limit", "Raise the limit named in the message.")
_DAMAGE = Trouble(
    "the server read damaged data", "Check the server's log and its storage before anything else is written to it."
)
_STORAGE = Trouble("the server's storage failed", "Check the server's log and its storage.")
_OWN = Trouble(
    "libpq in this program could not process the server's answer",
    "If it ran out of memory, give the container more, or have the statement return less.",
)

# Errors that more disk, memory or another configuration would fix: class 53 (insufficient resources), those of class 58
# that come from the operating system, and damaged storage. An error without a code is libpq's own.
# Not included: class 54, limits that only another statement can respect; 58P01 and 58P02, as the path is from the
# statement; XX000, which can be anything.
_OUTSIDE_THE_FILE = {
    INSUFFICIENT_RESOURCES: _LIMIT,
    DISK_FULL: _DISK,
    OUT_OF_MEMORY: _MEMORY,
    CONFIGURATION_LIMIT_EXCEEDED: _LIMIT,
    SYSTEM_ERROR: _STORAGE,
    IO_ERROR: _STORAGE,
    DATA_CORRUPTED: _DAMAGE,
    INDEX_CORRUPTED: _DAMAGE,
    "": _OWN,
}


def trouble(sqlstate: str) -> Trouble | None:
    """Return what is wrong with the server or this program if that made a statement fail; else None."""
    return _OUTSIDE_THE_FILE.get(sqlstate)


def may_pass(sqlstate: str) -> bool:
    """Tell whether a statement that failed with `sqlstate` may succeed if it is retried."""
    return sqlstate.startswith(CONNECTION_EXCEPTIONS) or sqlstate in _PASSING


# The remedy if an error persists after many retries. For the other codes, other sessions simply took too long.
_NOT_PASSED = {
    SERIALIZATION_FAILURE: "Other sessions keep changing what the statement reads or writes. Run it at a quieter "
    "time, or in a weaker isolation level.",
    DEADLOCK_DETECTED: "Other sessions take the same locks in a different order. Run it at a quieter time, or take "
    "all its locks up front with LOCK TABLE.",
    TOO_MANY_CONNECTIONS: "The server that the statement connects to has too many clients. Connect fewer, or raise "
    "its max_connections.",
    CRASH_SHUTDOWN: "Check the server's log for what ended it.",
    CANNOT_CONNECT_NOW: "Check that the server the statement connects to is running, and check its log.",
}


def remedy_of_passing(sqlstate: str) -> str:
    """Return what to do if a statement keeps failing with an error that `may_pass`; empty for other codes."""
    return _NOT_PASSED.get(sqlstate, "")


def stopped_by_operator(sqlstate: str) -> bool:
    """Tell whether somebody cancelled the statement (or its timeout did) or terminated the session."""
    return sqlstate in _STOPPED_BY_OPERATOR


def is_read_only(sqlstate: str) -> bool:
    """Tell whether the server accepts no writes."""
    return sqlstate == READ_ONLY_SQL_TRANSACTION
