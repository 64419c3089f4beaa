"""The variables that configure the program, for `entrypoint help env`. docs/configuration.md explains them."""

from __future__ import annotations

from typing import NamedTuple


class Variable(NamedTuple):
    """A variable, described for a person."""

    name: str
    default: str
    """The default in words; empty if there is none."""
    meaning: str


GROUPS: dict[str, tuple[Variable, ...]] = {
    "Where the database is": (
        Variable("DATABASE_URL", "libpq's PG* variables", "a libpq URL or conninfo string"),
        Variable("DATABASE_URL_FILE", "", "a file containing DATABASE_URL"),
        Variable(
            "MIGRATION_DATABASE_URL",
            "DATABASE_URL",
            "a separate address for migrations: past a pooler, or as the owner",
        ),
        Variable("MIGRATION_DATABASE_URL_FILE", "", "a file containing it"),
        Variable("DATABASE_PASSWORD_COMMAND", "", "a command that prints a password for each new connection"),
    ),
    "What a start does": (
        Variable("AUTO_MIGRATE", "true", "false: start the application at once; do not touch the database"),
        Variable("MIGRATION_ON_FAILURE", "start", "start (start the application anyway) or exit"),
        Variable("MIGRATION_OUT_OF_ORDER", "warn", "if a pending file comes before an applied one: warn or refuse"),
        Variable("MIGRATIONS_DIR", "migrations", "the migrations directory"),
        Variable("MIGRATION_FILE_LIMIT_MB", "512", "the size limit for a migration file, in megabytes"),
        Variable("MIGRATION_BACKUP_DIR", "", "back up to this directory before running anything pending"),
        Variable("APP_VERSION", "npm_package_version", "the application version to record with each migration"),
        Variable("MIGRATION_PROBE_PORT", "", "the port for health probes until the application starts"),
        Variable("MIGRATION_FAILURE_COMMAND", "", "a command to run after a failure, with the error as JSON on stdin"),
        Variable("MIGRATION_METRICS_FILE", "", "a metrics file for node_exporter's textfile collector"),
    ),
    "In the database": (
        Variable("MIGRATION_SCHEMA", "found along the search_path", "the schema of the migration history"),
        Variable("MIGRATION_ROLE", "", "the role to SET ROLE to before migrating"),
    ),
    "Another migration tool": (
        Variable("MIGRATION_ADOPT", "", "the tool whose history to take over at the first start"),
        Variable("MIGRATION_COMMAND", "", "another tool's command to run under the lock"),
        Variable("MIGRATION_COMMAND_INPUTS", "", "the files it reads: paths and globs"),
        Variable("MIGRATION_COMMAND_STATE", "the tables of well-known tools", "the table with its history"),
    ),
    "Times, in milliseconds, and attempts": (
        Variable("DB_CONNECT_ATTEMPTS", "5", "number of attempts to connect"),
        Variable("DB_CONNECT_BACKOFF_MS", "1000", "the first pause between attempts; it doubles each time"),
        Variable("DB_CONNECT_TIMEOUT_MS", "5000", "time limit for one attempt"),
        Variable("MIGRATION_LOCK_TIMEOUT_MS", "30000", "time limit for waiting for the migration lock"),
        Variable("MIGRATION_TIMEOUT_MS", "300000", "time limit for all migrations together"),
        Variable("MIGRATION_DDL_LOCK_TIMEOUT_MS", "5000", "time limit for one wait for a table lock"),
        Variable("MIGRATION_LOCK_STALE_MS", "600000", "when a lock of the earlier migration system counts as stale"),
    ),
    "The log": (
        Variable("LOG_FORMAT", "json; text on a terminal", "json or text"),
        Variable("LOG_LEVEL", "info", "debug, info, warning or error"),
        Variable("LOG_FIELDS", "", "a JSON object of fields to add to every line"),
        Variable("TRACEPARENT", "", "the W3C trace to name in every line"),
        Variable("NO_COLOR", "", "any value: no colors, as with --no-color"),
        Variable("CLICOLOR_FORCE", "", "any value but 0: colors even without a terminal"),
    ),
    "The status service": (
        Variable("STATUS_HOST", "127.0.0.1", "the address to listen on"),
        Variable("STATUS_PORT", "3001", "the port to listen on"),
        Variable("STATUS_TOKEN", "", "the token that clients log in with"),
        Variable("STATUS_TOKEN_FILE", "", "a file with one token per line"),
        Variable("STATUS_PUBLIC_BADGE", "false", "true: serve the badge without a token"),
    ),
}
