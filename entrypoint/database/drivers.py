"""The parameters that other drivers have in an address, and what we do with each. Only a table.

Imported only if libpq cannot read an address as it is. If two drivers give a name different meanings, or the value
matters, `translation` decides.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

JDBC: Final = "jdbc"
LIBPQ: Final = "libpq"
SQLALCHEMY: Final = "sqlalchemy"
"""The notation of SQLAlchemy and of what builds on it: `host=` may occur several times, with a port in it."""
VERIFIES: Final = "verifies"
"""The same, for drivers for which `ssl=true` means that the certificate is verified."""

SCHEMES = {
    "postgresql": LIBPQ,
    "postgres": LIBPQ,
    "jdbc:postgresql": JDBC,
    # Django and dj-database-url, Rails' activerecord-postgis-adapter, environ.
    "postgis": LIBPQ,
    "timescale": LIBPQ,
    "timescalegis": LIBPQ,
    "pgsql": LIBPQ,
    "psql": LIBPQ,
    "pg": LIBPQ,
    # golang-migrate's drivers.
    "pgx": LIBPQ,
    "pgx4": LIBPQ,
    "pgx5": LIBPQ,
    "ecto": VERIFIES,
    "asyncpg": VERIFIES,
}
"""What may come before ://, besides `postgresql+driver`, and whose notation the rest is in."""

# What we do with a parameter.
NAME: Final = "name"
"""It is a schema's name; the search_path is set to it."""
PATH: Final = "path"
"""It is a search_path, as PostgreSQL writes it."""
BY_VALUE: Final = "by value"
"""That depends on its value; see `translation`."""
LEFT_OUT: Final = "left out"
"""It is only for the driver or the application's sessions; ours have their own settings."""
TRANSLATED: Final = "renamed"
"""libpq has another name for it; see `RENAMED`."""
REFUSED_ONE: Final = "refused"
"""See `REFUSED`."""

# libpq's names for other drivers' parameters.
RENAMED = {
    # JDBC
    "PGHOST": "host",
    "PGPORT": "port",
    "PGDBNAME": "dbname",
    "connectTimeout": "connect_timeout",
    "gssEncMode": "gssencmode",
    "sslNegotiation": "sslnegotiation",
    "channelBinding": "channel_binding",
    "requireAuth": "require_auth",
    "kerberosServerName": "krbsrvname",
    # sqlx
    "ssl-mode": "sslmode",
    "ssl-root-cert": "sslrootcert",
    "ssl-ca": "sslrootcert",
    "ssl-cert": "sslcert",
    "ssl-key": "sslkey",
    # tokio-postgres
    "ssl_negotiation": "sslnegotiation",
    # Ecto
    "socket_dir": "host",
    # pgx, asyncpg
    "database": "dbname",
}

# Parameters that libpq cannot honor. Without them we would connect in another way than the application, or as another
# user. Each with the reason, as a clause.
REFUSED = {
    # Prisma
    "sslidentity": "is a client certificate in a PKCS#12 file, which libpq cannot read; use PEM files, with sslcert "
    "and sslkey",
    # JDBC
    "authenticationPluginClassName": "is a Java class that finds the password",
    "socketFactory": "is a Java class that makes the connection",
    "socketFactoryArg": "is for a Java class that makes the connection",
    "cloudSqlInstance": "is for a Java class that makes the connection",
    "unixSocketPath": "is for a Java class that makes the connection; give the socket's directory as host",
    "localSocketAddress": "chooses the connection's source address, which libpq cannot do",
    "sslhostnameverifier": "is a Java class that verifies the server's name; use sslmode=verify-full",
    "sslpasswordcallback": "is a Java class that finds a password; use sslpassword",
    "sslfactoryarg": "is for a Java class that verifies the server; use sslmode and sslrootcert",
    "sslAlias": "chooses a client certificate from a Java key store; use files, with sslcert and sslkey",
    # lib/pq
    "sslinline": "puts certificates into the address; use files, with sslrootcert, sslcert and sslkey",
    # pgx and lib/pq, which pass it to the server
    "role": "changes the role of the application's sessions; for migrations, set MIGRATION_ROLE",
    "session_authorization": "changes the user of the application's sessions; put that user into the address",
    # pg8000 and asyncpg, in an address only by mistake
    "server_settings": "is a Python dictionary, which an address cannot hold; use options=-cNAME%3DVALUE",
    "startup_params": "is a Python dictionary, which an address cannot hold; use options=-cNAME%3DVALUE",
    "ssl_context": "is a Python object, which an address cannot hold; use sslmode and sslrootcert",
}

# The comments say where each driver's parameters are documented.
_DRIVERS = {
    # prisma-engines, quaint/src/connector/postgres/url.rs; Prisma's documentation, "PostgreSQL", "Arguments". The last
    # two come from providers (Supabase, Vercel), who add them to addresses.
    "Prisma": (
        {"schema": NAME, "sslaccept": BY_VALUE},
        (
            "pgbouncer connection_limit pool_timeout socket_timeout statement_cache_size single_use_connections "
            "max_connection_lifetime max_idle_connection_lifetime supa workaround"
        ),
    ),
    # pgjdbc, PGProperty.java and docs/content/documentation/use.md
    "JDBC": (
        {
            "currentSchema": PATH,
            "ssl": BY_VALUE,
            "sslfactory": BY_VALUE,
            "targetServerType": BY_VALUE,
            "readOnly": BY_VALUE,
        },
        (
            "adaptiveFetch adaptiveFetchMaximum adaptiveFetchMinimum allowEncodingChanges ApplicationName "
            "assumeMinServerVersion autosave binaryTransfer binaryTransferDisable binaryTransferEnable "
            "cancelSignalTimeout cleanupSavepoints convertBooleanToNumeric databaseMetadataCacheFields "
            "databaseMetadataCacheFieldsMiB defaultRowFetchSize disableColumnSanitiser escapeSyntaxCallMode "
            "groupStartupParameters gssResponseTimeout gssUseDefaultCreds hideUnprivilegedObjects "
            "hostRecheckSeconds jaasApplicationName jaasLogin loadBalanceHosts loggerFile loggerLevel "
            "loginTimeout logServerErrorDetail logUnclosedConnections maxResultBuffer maxSendBufferSize "
            "pemKeyAlgorithm preferQueryMode preparedStatementCacheQueries preparedStatementCacheSizeMiB "
            "prepareThreshold protocolVersion queryTimeout quoteReturningIdentifiers readOnlyMode "
            "receiveBufferSize reWriteBatchedInserts sendBufferSize socketTimeout sslResponseTimeout "
            "sspiServiceClass stringtype tcpKeepAlive tcpNoDelay unknownLength useSpnego xmlFactoryFactory"
        ),
    ),
    # SQLAlchemy's documentation, "PostgreSQL", each dialect's "Connecting"; the drivers' `connect`.
    "SQLAlchemy, asyncpg, pg8000, psycopg": (
        {"unix_sock": BY_VALUE},
        (
            "async_fallback prepared_statement_cache_size prepared_statement_name_func statement_cache_size "
            "max_cached_statement_lifetime max_cacheable_statement_size command_timeout direct_tls timeout "
            "tcp_keepalive source_address prepare_threshold autocommit async_ min_size max_size minsize maxsize "
            "max_queries max_inactive_connection_lifetime pool_size max_overflow pool_recycle pool_pre_ping "
            "pool_timeout charset"
        ),
    ),
    # node-postgres, packages/pg-connection-string and pg's and pg-pool's options; postgres.js, "Connection details".
    "node-postgres, postgres.js": (
        {},
        (
            "uselibpqcompat max min idleTimeoutMillis connectionTimeoutMillis query_timeout keepAlive "
            "keepAliveInitialDelayMillis allowExitOnIdle maxUses maxLifetimeSeconds enableChannelBinding binary "
            "encoding parseInputDatesAsUTC idle_timeout max_lifetime max_pipeline prepare fetch_types backoff "
            "keep_alive debug"
        ),
    ),
    # dj-database-url; Django's documentation, "Databases"; playhouse.db_url
    "Django, Peewee": (
        {"ssl_require": BY_VALUE},
        (
            "conn_max_age conn_health_checks disable_server_side_cursors max_connections stale_timeout "
            "autorollback register_hstore"
        ),
    ),
    # Rails' guide "Configuring", "Configuring a Database"; PostgreSQLAdapter
    "Rails": (
        {"schema_search_path": PATH},
        (
            "adapter pool checkout_timeout idle_timeout reaping_frequency prepared_statements statement_limit "
            "min_messages variables insert_returning advisory_locks retry_deadline connection_retries max_age "
            "min_connections keepalive pool_jitter preconnect replica database_tasks use_metadata_table"
        ),
    ),
    # pgx, pgconn/config.go and pgxpool/pool.go; lib/pq, "Connection String Parameters"; golang-migrate,
    # database/postgres and database/pgx; GORM, "Connecting to a Database". They pass unknown parameters to the server
    # as settings of the session; the usual ones are listed here.
    "pgx, lib/pq, golang-migrate, GORM": (
        {"search_path": PATH},
        (
            "pool_max_conns pool_min_conns pool_min_idle_conns pool_max_conn_lifetime "
            "pool_max_conn_lifetime_jitter pool_max_conn_idle_time pool_health_check_period "
            "default_query_exec_mode statement_cache_capacity description_cache_capacity statement_cache_mode "
            "prefer_simple_protocol min_read_buffer_size krbspn binary_parameters disable_prepared_binary_result "
            "x-migrations-table x-migrations-table-quoted x-statement-timeout x-multi-statement "
            "x-multi-statement-max-size x-lock-strategy x-lock-table TimeZone timezone statement_timeout "
            "lock_timeout idle_in_transaction_session_timeout idle_session_timeout transaction_timeout jit "
            "plan_cache_mode extra_float_digits client_min_messages"
        ),
    ),
    # sqlx-postgres, options/parse.rs; tokio-postgres, Config
    "sqlx, tokio-postgres": (
        {"options[search_path]": PATH},
        "statement-cache-capacity keepalives_retries",
    ),
    # Ecto.Repo, "URL"; DBConnection's and Postgrex' options; Doctrine DBAL, "Configuration"
    "Ecto, Doctrine": (
        {},
        "queue_target queue_interval ownership_timeout socket_options serverVersion",
    ),
}


def _table() -> dict[str, str]:
    table = dict.fromkeys(RENAMED, TRANSLATED) | dict.fromkeys(REFUSED, REFUSED_ONE)
    for ones, left_out in _DRIVERS.values():
        table.update(ones)
        table.update(dict.fromkeys(left_out.split(), LEFT_OUT))
    return table


PARAMETERS = _table()
