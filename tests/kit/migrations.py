"""Migration files for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_migrations(directory: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files into `directory`, which is created if necessary, and return it. Line endings stay as they are."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (directory / name).write_bytes(data)
    return directory


def non_idempotent(count: int) -> dict[str, str]:
    """Return `count` migrations that fail if they run twice. Each records its run in the table `step`.

    `step` has no unique key, so a second run that did not fail would show as a second row.
    """
    return {f"{number:03d}_step.sql": _step(number) for number in range(1, count + 1)}


def _step(number: int) -> str:
    first = """\
CREATE TABLE step (
    number integer NOT NULL,
    transaction xid8 NOT NULL DEFAULT pg_current_xact_id(),
    backend integer NOT NULL DEFAULT pg_backend_pid(),
    done_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""
    return f"""\
-- Step {number}: none of this can be done twice.
{first if number == 1 else ""}CREATE TABLE thing_{number} (id integer PRIMARY KEY);
ALTER TABLE thing_{number} ADD COLUMN name text NOT NULL DEFAULT 'thing {number}';
ALTER TABLE step ADD COLUMN thing_{number} integer REFERENCES thing_{number};
INSERT INTO step (number) VALUES ({number});
"""
