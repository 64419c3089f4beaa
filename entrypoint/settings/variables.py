"""The variables that configure the program, for `entrypoint help env`. docs/configuration.md explains each of them."""

from __future__ import annotations

from typing import NamedTuple


class Variable(NamedTuple):
    """One of them."""

    name: str
    default: str
    """As a person would write it; empty if there is none."""
    meaning: str


GROUPS: dict[str, tuple[Variable, ...]] = {
    "Where the database is": (
        Variable("DATABASE_URL", "libpq's own PG* variables", "a libpq URL or conninfo string"),
        Variable("DATABASE_URL_FILE", "", "a file that holds DATABASE_URL"),
        Variable(
            "MIGRATION_DATABASE_URL", "DATABASE_URL", "another address for migrations: past a pooler, as the owner"
        ),
        Variable("MIGRATION_DATABASE_URL_FILE", "", "a file that holds it"),
        Variable("DATABASE_PASSWORD_COMMAND", "", "prints a password for each new connection"),
    ),
    "What a start does": (
        Variable("AUTO_MIGRATE", "true", "false: start the application at once, without the database"),
        Variable("MIGRATION_ON_FAILURE", "start", "start the application all the same, or exit"),
        Variable("MIGRATION_OUT_OF_ORDER", "warn", "a pending file below an applied one: warn or refuse"),
        Variable("MIGRATIONS_DIR", "migrations", "the directory of the migration files"),
        Variable("MIGRATION_FILE_LIMIT_MB", "512", "the largest migration file, in megabytes"),
        Variable("MIGRATION_BACKUP_DIR", "", "take a pg_dump here before anything pending runs"),
        Variable("APP_VERSION", "npm_package_version", "the version to record with each migration"),
        Variable("MIGRATION_PROBE_PORT", "", "answer health probes on this port until the application starts"),
        Variable("MIGRATION_FAILURE_COMMAND", "", "run after a failure, with the error as JSON on its stdin"),
        Variable("MIGRATION_METRICS_FILE", "", "a file for node_exporter's textfile collector"),
    ),
    "In the database": (
        Variable("MIGRATION_SCHEMA", "found along the search_path", "where the migration history is"),
        Variable("MIGRATION_ROLE", "", "SET ROLE to it before migrating"),
    ),
    "Another migration tool": (
        Variable("MIGRATION_ADOPT", "", "take over this tool's history at the first start"),
        Variable("MIGRATION_COMMAND", "", "run this tool's command under the lock"),
        Variable("MIGRATION_COMMAND_INPUTS", "", "the files that it reads: paths and globs"),
        Variable("MIGRATION_COMMAND_STATE", "the tables known by name", "the table that holds its history"),
    ),
    "Times, in milliseconds, and attempts": (
        Variable("DB_CONNECT_ATTEMPTS", "5", "attempts to connect"),
        Variable("DB_CONNECT_BACKOFF_MS", "1000", "the first pause between them; it doubles each time"),
        Variable("DB_CONNECT_TIMEOUT_MS", "5000", "for one attempt"),
        Variable("MIGRATION_LOCK_TIMEOUT_MS", "30000", "waiting for the migration lock"),
        Variable("MIGRATION_TIMEOUT_MS", "300000", "all migrations together"),
        Variable("MIGRATION_DDL_LOCK_TIMEOUT_MS", "5000", "one wait for a table's lock"),
        Variable("MIGRATION_LOCK_STALE_MS", "600000", "the lock of the earlier migration system is stale after this"),
    ),
    "The log": (
        Variable("LOG_FORMAT", "json; text on a terminal", "json or text"),
        Variable("LOG_LEVEL", "info", "debug, info, warning or error"),
        Variable("LOG_FIELDS", "", "a JSON object of fields for every line"),
        Variable("TRACEPARENT", "", "the W3C trace that every line names"),
        Variable("NO_COLOR", "", "anything: no colors, as with --no-color"),
        Variable("CLICOLOR_FORCE", "", "anything but 0: colors even where there is no terminal"),
    ),
    "The status service": (
        Variable("STATUS_HOST", "127.0.0.1", "the address to listen on"),
        Variable("STATUS_PORT", "3001", "the port to listen on"),
        Variable("STATUS_TOKEN", "", "what clients log in with"),
        Variable("STATUS_TOKEN_FILE", "", "a file that holds it; several tokens, one on each line"),
        Variable("STATUS_PUBLIC_BADGE", "false", "true: answer for the badge without a token"),
    ),
}
