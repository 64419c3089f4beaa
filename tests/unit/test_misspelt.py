"""Variables whose names are almost ours."""

from __future__ import annotations

import pytest

from entrypoint.settings.misspelt import misspelt


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DATABASE_URl", "DATABASE_URL"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("MIGRATION_DIR", "MIGRATIONS_DIR"),
        ("MIGRATON_DIR", "MIGRATIONS_DIR"),
        ("MIGRATION_TIMEOUT", "MIGRATION_TIMEOUT_MS"),
        ("MIGRATE_ON_FAILURE", "MIGRATION_ON_FAILURE"),
        ("AUTO_MIGRATION", "AUTO_MIGRATE"),
        ("DB_CONNECT_ATTEMPT", "DB_CONNECT_ATTEMPTS"),
        ("log_level", "LOG_LEVEL"),
    ],
)
def test_what_was_meant(name: str, meant: str) -> None:
    assert list(misspelt({name: "x"})) == [(name, meant)]


@pytest.mark.parametrize(
    "environ",
    [
        {"DATABASE_URL": "x", "DATABASE_URLS": "y"},
        {"DATABASE_NAME": "x", "DATABASE_HOST": "y", "DATABASE_PASSWORD": "z"},
        {"PGDATABASE": "x", "PGHOST": "y", "PATH": "/bin", "HOME": "/root", "STATUS": "1", "LOG_FILE": "x"},
        {"npm_package_version": "1", "MIGRATION_TIMEOUT_MS": "5", "LOGNAME": "root", "COLORTERM": "x"},
        {"REDIS_URL": "x", "APP_URL": "x", "APP_ENV": "x", "NODE_ENV": "x", "SESSION_TIMEOUT_MS": "1"},
    ],
)
def test_what_is_somebody_elses(environ: dict[str, str]) -> None:
    assert list(misspelt(environ)) == []
