"""Causes recognised from the texts of libpq and PostgreSQL, and from SQLSTATEs."""

from __future__ import annotations

import pytest

from entrypoint.database.classify import (
    classify_connection_failure,
    is_read_only,
    may_pass,
    stopped_by_operator,
    without_codes,
)

AT = 'connection to server at "db" (10.0.0.7), port 5432 failed: '
FATAL = AT + "FATAL:  "

# Texts of libpq 13 to 18 and psycopg 3.3.
CASES = [
    (
        AT + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
        "refused",
        True,
    ),
    ('connection to server on socket "/run/.s.PGSQL.5432" failed: No such file or directory', "refused", True),
    ("could not connect to server: Connection refused", "refused", True),
    ("failed to resolve host 'db.invalid': [Errno -2] Name or service not known", "unknown_host", True),
    ("failed to resolve host 'db': [Errno -3] Temporary failure in name resolution", "unknown_host", True),
    ("failed to resolve host 'db': [Errno -5] No address associated with hostname", "unknown_host", True),
    ('could not translate host name "db" to address: Name does not resolve', "unknown_host", True),
    ("no answer within 5 s", "timeout", True),
    ("connection timeout expired", "timeout", True),
    (AT + "timeout expired", "timeout", True),
    (AT + "Connection timed out", "timeout", True),
    (AT + "No route to host", "other", True),
    (AT + "Network is unreachable", "other", True),
    (FATAL + "the database system is starting up", "starting_up", True),
    (FATAL + "the database system is not yet accepting connections", "starting_up", True),
    (FATAL + "the database system is in recovery mode", "starting_up", True),
    (FATAL + "the database system is shutting down", "shutting_down", True),
    (FATAL + "terminating connection due to administrator command", "shutting_down", True),
    (FATAL + 'password authentication failed for user "app"', "wrong_password", True),
    (FATAL + 'PAM authentication failed for user "app"', "wrong_password", True),
    (FATAL + 'LDAP authentication failed for user "app"', "wrong_password", True),
    (AT + "fe_sendauth: no password supplied", "no_password", False),
    (FATAL + 'role "app" does not exist', "no_such_role", True),
    (FATAL + 'role "app" is not permitted to log in', "not_permitted", False),
    (FATAL + 'database "shop" does not exist', "no_such_database", True),
    (FATAL + 'permission denied for database "shop"', "not_permitted", False),
    (FATAL + 'no pg_hba.conf entry for host "10.0.0.1", user "a", database "b", no encryption', "not_permitted", False),
    (FATAL + 'pg_hba.conf rejects connection for host "10.0.0.1", user "a", database "b"', "not_permitted", False),
    (FATAL + "sorry, too many clients already", "too_many_clients", True),
    (
        FATAL + "remaining connection slots are reserved for roles with the SUPERUSER attribute",
        "too_many_clients",
        True,
    ),
    (
        FATAL + "remaining connection slots are reserved for non-replication superuser connections",
        "too_many_clients",
        True,
    ),
    (FATAL + 'too many connections for database "shop"', "too_many_clients", True),
    (FATAL + 'too many connections for role "app"', "too_many_clients", True),
    # From PgBouncer.
    (FATAL + "no more connections allowed (max_client_conn)", "too_many_clients", True),
    (FATAL + "no such database: shop", "no_such_database", True),
    (FATAL + "SASL authentication failed", "wrong_password", True),
    (FATAL + "query_wait_timeout", "no_server_connection", True),
    (FATAL + "server login has been failing, try again later (server_login_retry)", "no_server_connection", True),
    (FATAL + "pgbouncer cannot connect to server", "no_server_connection", True),
    (FATAL + 'server login has been failing, cached error: database "x" does not exist', "no_such_database", True),
    (AT + 'root certificate file "/root/.postgresql/root.crt" does not exist', "certificate", False),
    (AT + "SSL error: certificate verify failed", "certificate", False),
    (AT + "could not create SSL context: library has no ciphers", "tls", False),
    (AT + "SSL error: no protocols available", "tls", False),
    (AT + 'server certificate for "a" does not match host name "db"', "certificate", False),
    (AT + "SSL error: tlsv1 alert unknown ca: certificate", "certificate", False),
    (AT + "server does not support SSL, but SSL was required", "certificate", False),
    (AT + 'could not load private key file "client.key"', "certificate", False),
    (FATAL + "connection requires a valid client certificate", "certificate", False),
    (AT + "session is read-only", "no_primary", True),
    (AT + "server is in hot standby mode", "no_primary", True),
    (AT + "server closed the connection unexpectedly", "closed", True),
    (AT + "could not receive data from server: Connection reset by peer", "closed", True),
    (AT + "SSL SYSCALL error: EOF detected", "other", True),
    (FATAL + "das Datenbanksystem startet", "other", True),
    ("", "other", True),
]


def test_an_encrypted_key_without_its_password() -> None:
    """OpenSSL says no more than this if it cannot ask for the password."""
    found = classify_connection_failure(AT + 'could not load private key file "/k/client.key": processing error')
    assert "sslpassword" in found.remedy


@pytest.mark.parametrize(("text", "cause", "heals"), CASES)
def test_causes(text: str, cause: str, heals: bool) -> None:  # noqa: FBT001 - a column of the table
    found = classify_connection_failure(text)
    assert (found.name, found.heals) == (cause, heals)
    assert found.words
    assert found.remedy.endswith(".")


@pytest.mark.parametrize(("text", "cause", "heals"), CASES)
def test_the_case_of_the_letters_does_not_matter(text: str, cause: str, heals: bool) -> None:  # noqa: FBT001
    found = classify_connection_failure(text.upper())
    assert (found.name, found.heals) == (cause, heals)


@pytest.mark.case("D1")
@pytest.mark.parametrize(
    ("code", "said", "cause", "heals"),
    [
        ("53300", "tut mir leid, schon zu viele Verbindungen", "too_many_clients", True),
        ("57P03", "das Datenbanksystem startet", "starting_up", True),
        ("57P01", "Verbindung wird abgebrochen", "shutting_down", True),
        ("28P01", "Passwort-Authentifizierung fehlgeschlagen", "wrong_password", True),
        ("28000", "kein pg_hba.conf-Eintrag", "not_permitted", True),
        ("42501", "keine Berechtigung", "not_permitted", False),
        ("3D000", "Datenbank »shop« existiert nicht", "no_such_database", True),
        ("XX000", "etwas", "other", True),
    ],
)
def test_a_refusal_in_another_language(code: str, said: str, cause: str, heals: bool) -> None:  # noqa: FBT001
    text = f"{AT}FATAL:  {code}: {said}\nORT:  InitProcess, proc.c:361\n"
    found = classify_connection_failure(text)
    assert (found.name, found.heals) == (cause, heals)
    assert without_codes(text) == f"{AT}FATAL:  {said}\n"


@pytest.mark.case("D2")
@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ('definition of service "shop" not found', "service", "PGSERVICEFILE"),
        ("local user with ID 12345 does not exist", "no_user", "PGUSER"),
        (AT + "channel binding required, but SSL not in use", "channel_binding", "channel_binding=require"),
        (
            AT + "channel binding is required, but server did not offer an authentication method that supports "
            "channel binding",
            "channel_binding",
            "SCRAM",
        ),
        (FATAL + "unsupported startup parameter: options", "startup_parameter", "ignore_startup_parameters"),
        (FATAL + 'unrecognized configuration parameter "work_men"', "option", "PGOPTIONS"),
        (FATAL + 'invalid value for parameter "work_mem": "no such file or directory"', "option", "PGOPTIONS"),
        (FATAL + 'permission denied to set parameter "log_statement"', "option", "PGOPTIONS"),
        (FATAL + "42704: unbekannter Konfigurationsparameter »a«\nLOCATION:  f, guc.c:1", "option", "PGOPTIONS"),
        (FATAL + "42501: verboten\nORT:  f, guc.c:1", "option", "PGOPTIONS"),
        (FATAL + "42501: verboten\nORT:  f, postinit.c:1", "not_permitted", "pg_hba.conf"),
    ],
)
def test_what_no_other_attempt_changes(text: str, cause: str, remedy: str) -> None:
    found = classify_connection_failure(text)
    assert (found.name, found.heals) == (cause, False)
    assert remedy in found.remedy


@pytest.mark.case("D2")
@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ('authentication method requirement "scram-sha-256" failed: server did not complete', "require_auth", "PGREQ"),
        ('authentication method requirement "!password" failed: server requested a', "require_auth", "pg_hba.conf"),
        ("GSSAPI encryption required but no credential cache", "gssencmode", "PGGSSENCMODE"),
        ("server doesn't support GSSAPI encryption, but it was required", "gssencmode", "gssencmode=require"),
        ('requirepeer specifies "nobody", but actual peer user name is "postgres"', "requirepeer", "PGREQUIREPEER"),
        ('FATAL:  Peer authentication failed for user "app"', "os_user", "peer"),
        ('FATAL:  Ident authentication failed for user "app"', "os_user", "pg_ident.conf"),
        ('FATAL:  database "shop" is not currently accepting connections', "database_closed", "ALLOW_CONNECTIONS true"),
        ("FATAL:  55000: Datenbank zu\nORT:  CheckMyDatabase, postinit.c:1", "database_closed", "ALTER"),
        ('FATAL:  cannot connect to invalid database "shop"', "database_closed", "DROP DATABASE"),
        ('FATAL:  permission denied for database "shop"', "not_permitted", 'GRANT CONNECT ON DATABASE "shop" TO'),
        ("FATAL:  42501: nein\nORT:  CheckMyDatabase, postinit.c:1", "not_permitted", "GRANT CONNECT ON DATABASE"),
        ("FATAL:  28000: pg_hba.conf lehnt ab\nORT:  ClientAuthentication, auth.c:1", "not_permitted", "pg_hba.conf"),
        ('could not read root certificate file "/etc/ssl/certs/ca-certificates.crt":', "certificate", "user can read"),
        ("could not get home directory to locate root certificate file", "certificate", "to a PEM file"),
    ],
)
def test_causes_that_need_somebodys_hand(text: str, cause: str, remedy: str) -> None:
    found = classify_connection_failure(AT + text)
    assert (found.name, found.heals) == (cause, False)
    assert remedy in found.remedy
    assert "user or password" not in found.words


@pytest.mark.case("D9", "D1")
@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ('too many connections for role "app"', 'ALTER ROLE "app" CONNECTION LIMIT'),
        ('too many connections for database "a"b"', 'ALTER DATABASE "a""b" CONNECTION LIMIT'),
        ("53300: zu viele\nORT:  InitializeSessionUserId, miscinit.c:1", "ALTER ROLE … CONNECTION LIMIT"),
        ("53300: zu viele\nORT:  CheckMyDatabase, postinit.c:1", "ALTER DATABASE … CONNECTION LIMIT"),
    ],
)
def test_a_limit_of_ones_own_is_named(text: str, remedy: str) -> None:
    found = classify_connection_failure(FATAL + text)
    assert (found.name, found.heals) == ("too_many_clients", True)
    assert remedy in found.remedy
    assert "max_connections" not in found.remedy


NAMED = 'connection to server at "{name}" (10.0.0.7), port 5432 failed: '


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (NAMED.format(name="certificate-db") + "Connection refused", "refused"),
        ("failed to resolve host 'certificates.internal': [Errno -2] Name or service not known", "unknown_host"),
        (FATAL + 'database "certificates" does not exist', "no_such_database"),
        (FATAL + 'too many connections for role "certificate"', "too_many_clients"),
        (FATAL + 'password authentication failed for user "certificate"', "wrong_password"),
    ],
)
def test_names_are_no_causes(text: str, cause: str) -> None:
    """The name of a host, role or database says nothing about what went wrong."""
    assert classify_connection_failure(text).name == cause


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (f"{AT}Connection refused; {FATAL}the database system is starting up", "starting_up"),
        (f"{AT}Connection refused; {FATAL}sorry, too many clients already", "too_many_clients"),
    ],
)
def test_of_several_hosts_the_one_that_answered_counts(text: str, cause: str) -> None:
    assert classify_connection_failure(text).name == cause


@pytest.mark.parametrize(
    ("sqlstate", "passes", "stopped", "read_only"),
    [
        ("08000", True, False, False),
        ("08006", True, False, False),
        ("08P01", True, False, False),
        ("40001", True, False, False),
        ("40P01", True, False, False),
        ("53300", True, False, False),
        ("55P03", True, False, False),
        ("57P02", True, False, False),
        ("57P03", True, False, False),
        ("57014", False, True, False),
        ("57P01", False, True, False),
        ("25006", False, False, True),
        ("25P03", False, False, False),
        ("40002", False, False, False),
        ("42601", False, False, False),
        ("42P01", False, False, False),
        ("53100", False, False, False),
        ("23505", False, False, False),
        ("P0001", False, False, False),
        ("XX000", False, False, False),
        ("", False, False, False),
    ],
)
def test_sqlstates(sqlstate: str, passes: bool, stopped: bool, read_only: bool) -> None:  # noqa: FBT001
    assert may_pass(sqlstate) is passes
    assert stopped_by_operator(sqlstate) is stopped
    assert is_read_only(sqlstate) is read_only
