"""What must hold whatever went wrong, checked from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faults.stage import PATIENT, SECRETS, VERSIONS
from kit.migrations import write_migrations
from kit.processes import until
from scene import lock_key

if TYPE_CHECKING:
    from faults.stage import Stage
    from kit.processes import Run


def check_output(run: Run) -> None:
    """Fail if there is a traceback, a mistake of the program's own, or a piece of the password."""
    output = run.stdout + run.stderr
    for text in ("Traceback", "Internal error", *SECRETS):
        assert text not in output, f"{text!r} in the output of {run.report()}"


def check_world(stage: Stage, *, disk_was_full: bool = False) -> None:
    """Fail unless each migration is in once or not at all, and the next start applies all of them."""
    until(lambda: stage.ours() == 0, 6, lambda: f"the end of our sessions: {stage.report()}")
    _check_ledger(stage)
    _check_tool(stage)
    failed = stage.database.exists("schema_migrations") and stage.database.rows(
        "SELECT migration_number, error_message FROM schema_migrations WHERE status = 'failed'"
    )
    if failed:
        assert disk_was_full, f"recorded as failed: {failed}: {stage.report()}"
        # As an operator would do after making room.
        stage.database.execute("DELETE FROM schema_migrations WHERE status = 'failed'")
    following = stage.start(direct=True, budgets=PATIENT, on_failure="exit")
    assert following.wait(10) == 0, stage.report()
    check_output(following)
    assert _check_ledger(stage) == list(VERSIONS), stage.report()
    assert _check_tool(stage) == bool(stage.command), stage.report()
    until(lambda: stage.ours() == 0, 3, lambda: f"the end of our sessions: {stage.report()}")
    assert stage.database.one(f"SELECT pg_try_advisory_xact_lock({lock_key()})"), stage.report()
    if _holder(stage):
        # A holder that was cut off could not clear its row, and nobody has needed the lock since. The next one gets it.
        write_migrations(stage.directory / "migrations", {"004_more.sql": "CREATE TABLE more ();"})
        another = stage.start(direct=True, budgets=PATIENT, on_failure="exit")
        assert another.wait(10) == 0, stage.report()
        assert stage.database.exists("more"), stage.report()
    assert not _holder(stage), f"{_holder(stage)}: {stage.report()}"
    broken = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT (indisvalid AND indisready)"
    assert not stage.database.rows(broken), stage.report()


def _holder(stage: Stage) -> dict[str, object]:
    """Return what the lock's row shows; nothing if it is free."""
    row = stage.database.one("SELECT to_jsonb(l) FROM migration_lock l WHERE id = 1")
    return {name: value for name, value in row.items() if name != "id" and value is not None}


def _check_tool(stage: Stage) -> bool:
    """Compare the tool's history with the schema, and return whether the tool's migration is in."""
    database = stage.database
    steps = database.rows("SELECT number FROM tool_step") if database.exists("tool_step") else []
    history = database.rows("SELECT version FROM tool_history") if database.exists("tool_history") else []
    assert steps == history, f"the tool's history {history}, schema {steps}: {stage.report()}"
    assert len(steps) < 2, f"{steps}: {stage.report()}"
    assert database.exists("tool_thing") == bool(steps), stage.report()
    return bool(steps)


def _check_ledger(stage: Stage) -> list[int]:
    """Compare the ledger with the schema, and return what is in. A part of a file that is still running may be in."""
    database = stage.database
    rows = dict(
        database.rows("SELECT migration_number, status FROM schema_migrations WHERE status <> 'failed' ORDER BY 1")
        if database.exists("schema_migrations")
        else []
    )
    running = [number for number, status in rows.items() if status == "running"]
    numbers = [number for number, status in rows.items() if status == "completed"]
    rows_of_step = database.rows("SELECT number FROM step ORDER BY 1") if database.exists("step") else []
    steps = [number for (number,) in rows_of_step]
    done = [number for number in steps if number not in running]
    assert numbers == done, f"ledger {rows}, schema {steps}: {stage.report()}"
    things = [number for number in VERSIONS if number not in running and database.exists(f"thing_{number}")]
    assert numbers == sorted(set(numbers)) == things, f"{rows}, {things}: {stage.report()}"
    assert steps == sorted(set(steps)), f"{steps}: {stage.report()}"
    return numbers
