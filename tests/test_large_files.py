"""Large files: only a small part is in memory at a time; otherwise they behave like small ones."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from benchmarks import migrations
from kit.processes import peak_memory
from scene import Gate, Scene, only_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

# For comparison, a process that imports everything takes about 27 MB, here from an editable installation.
MOST = 64_000_000
WAITING = 40_000_000
SIZE = 24_000_000


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene with an empty database."""
    return Scene(database, migrations_dir, run_entrypoint)


@pytest.mark.cold
@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(migrations.bulk(SIZE), id="statements of 1,000 characters"),
        pytest.param(f"BEGIN;\n{migrations.bulk(SIZE)}{Gate.PASS};\nCOMMIT;\n", id="in a transaction of its own"),
        pytest.param(migrations.bulk(SIZE // 2).replace("name", "☃😀").replace("\n", "\r\n"), id="other characters"),
        pytest.param(migrations.large(SIZE // 3), id="statements of 80 characters"),
        pytest.param(migrations.huge(SIZE // 2, 6), id="statements of 2 MB"),
    ],
)
def test_how_much_memory_it_takes_at_most(scene: Scene, text: str) -> None:
    """The limit is the same whether it applies the file or waits for another replica to do so."""
    gated = text if Gate.PASS in text else f"{text}{Gate.PASS};\n"
    scene.write({"001_large.sql": gated})
    with Gate(scene.database) as gate:
        leader = scene.start("migrate")
        gate.arrival(60)
        waiter = scene.start("migrate")
        waiter.until("lock.waiting", 60)
        assert peak_memory(leader.pid) < MOST
        assert peak_memory(waiter.pid) < WAITING
        gate.open()
        leader.ok(60)
        waiter.ok(60)
    assert scene.ledger() == [(1, "completed")]


@pytest.mark.cold
def test_a_statement_that_is_large_itself(scene: Scene) -> None:
    """It is in memory three times, as with psql: two copies belong to libpq."""
    scene.write({"001_large.sql": migrations.huge(20_000_000, 1), "002_gate.sql": f"{Gate.PASS};\n"})
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival(60)
        most = peak_memory(run.pid)
        gate.open()
        run.ok()
    # The allocator may keep more while a message is on its way.
    assert most < 4 * 20_000_000 + WAITING
    assert scene.database.one("SELECT count(*) > 100000 FROM huge")


@pytest.mark.cold
@pytest.mark.thorough
def test_many_files(scene: Scene) -> None:
    """Of 100 files with 90 KB each, both replicas keep the texts of only the first few."""
    texts = migrations.large(90_000).replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")
    scene.write({"000_gate.sql": f"{Gate.PASS};\n", **{f"{number:03d}_x.sql": texts for number in range(1, 101)}})
    with Gate(scene.database) as gate:
        leader = scene.start("migrate")
        gate.arrival(60)
        waiter = scene.start("migrate")
        waiter.until("lock.waiting", 60)
        assert peak_memory(waiter.pid) < WAITING
        gate.open()
        leader.ok(60)
        waiter.ok(60)
    assert scene.ledger() == [(number, "completed") for number in range(101)]
    # All rows of all files arrived, however they were sent.
    lines = texts.count("INSERT")
    assert scene.database.one("SELECT count(*), count(DISTINCT id) FROM large") == (100 * lines, lines)


# --- The checked text is the text sent --------------------------------------------------------------------


def rows(start: int, stop: int) -> str:
    return "".join(f"INSERT INTO big VALUES ({number}, '{'x' * 1000}');\n" for number in range(start, stop))


@pytest.mark.parametrize("how", ["changed in place", pytest.param("replaced", marks=pytest.mark.thorough)])
def test_a_file_that_changes_while_it_is_applied(scene: Scene, how: str) -> None:
    text = f"CREATE TABLE big (id int, t text);\n{rows(0, 1000)}{Gate.PASS};\n{rows(1000, 4000)}"
    scene.write({"000_good.sql": "CREATE TABLE good ()", "001_big.sql": text})
    path = scene.migrations / "001_big.sql"
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival(30)
        if how == "replaced":
            path.unlink()
            path.write_text(text.replace("3999", "4000"))
        else:
            with path.open("r+") as file:
                file.seek(len(text) - len("y');\n"))
                file.write("y")
        gate.open()
        assert run.wait() == 65, run.report()
    error = only_error(run)
    assert error["message"] == "001_big.sql has changed since it was checked; nothing in it was committed"
    assert not scene.database.exists("big")
    assert scene.ledger() == [(0, "completed")]
    # Nothing is recorded against it: the next start takes the file as it is now.
    scene.migrated()
    assert scene.ledger() == [(0, "completed"), (1, "completed")]


def test_a_file_that_is_gone_while_it_is_applied(scene: Scene) -> None:
    scene.write({"001_big.sql": f"CREATE TABLE big (id int, t text);\n{Gate.PASS};\n{rows(0, 3000)}"})
    with Gate(scene.database) as gate:
        run = scene.start("migrate")
        gate.arrival(30)
        (scene.migrations / "001_big.sql").unlink()
        gate.open()
        assert run.wait() == 65, run.report()
    assert "001_big.sql can no longer be read: No such file or directory" in only_error(run)["message"]
    assert not scene.database.exists("big")


# --- Errors at the right line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", [pytest.param("\n", id="LF", marks=pytest.mark.thorough), pytest.param("\r\n", id="CRLF")]
)
def test_an_error_in_a_late_part(scene: Scene, end: str) -> None:
    lines = [f"CREATE TABLE big (id int, t text);{end}", "-- über ☃\n".replace("\n", end)]
    lines += [f"INSERT INTO big VALUES ({number}, 'grün 😀 {'x' * 1000}');{end}" for number in range(3000)]
    lines.insert(2500, f"INSERT INTO big VALUES (1, 'ü'),{end}   (2, 'é' || nonsense), (3, '😀');{end}")
    scene.write({"001_big.sql": b"\xef\xbb\xbf" + "".join(lines).encode()})
    run = scene.start("migrate")
    assert run.wait() == 70
    (failed,) = run.logs("migration.failed")
    assert failed["line"] == 2502
    assert failed["report"].splitlines()[1:3] == [
        "LINE 2502:    (2, 'é' || nonsense), (3, '😀');",
        "                         ^",
    ]
    assert not scene.database.exists("big")
    assert scene.ledger() == [(1, "failed")]


@pytest.mark.thorough
def test_an_error_within_a_large_statement(scene: Scene) -> None:
    listed = ",\n".join(f"({number}, 'grün {'x' * 1000}')" for number in range(6000))
    scene.write({"001_big.sql": f"CREATE TABLE big (id int, t text);\nINSERT INTO big VALUES\n{listed},\n(1, now);\n"})
    run = scene.start("migrate")
    assert run.wait() == 70
    (failed,) = run.logs("migration.failed")
    assert failed["line"] == 6003
    assert failed["report"].splitlines()[1:3] == ["LINE 6003: (1, now);", "               ^"]


@pytest.mark.thorough
def test_an_error_that_points_nowhere(scene: Scene) -> None:
    raising = "DO $$ BEGIN RAISE 'no'; END $$;\n"
    scene.write({"001_big.sql": f"CREATE TABLE big (id int, t text);\n{rows(0, 3000)}\n{raising}{rows(3000, 3009)}"})
    run = scene.start("migrate")
    assert run.wait() == 70
    assert run.logs("migration.failed")[0]["line"] == 3003


def test_what_is_wrong_with_a_large_file_is_found_before_it_runs(scene: Scene) -> None:
    text = f"CREATE TABLE big (id int, t text);\n{rows(0, 2000)}COPY big FROM stdin;\n1\tx\n\\.\n{rows(0, 9)}SELECT 'a"
    scene.write({"000_good.sql": "CREATE TABLE good ()", "001_big.sql": text})
    run = scene.start("migrate")
    assert run.wait() == 65
    faults = only_error(run)["faults"]
    assert [fault.partition(": ")[0] for fault in faults] == ["001_big.sql:2002", "001_big.sql:2014"]
    assert not scene.database.exists("good")


@pytest.mark.thorough
def test_a_byte_in_a_late_part_that_is_no_utf8(scene: Scene) -> None:
    text = rows(0, 3000).encode()
    scene.write({"001_big.sql": text + b"-- \xff\n"})
    run = scene.start("migrate")
    assert run.wait() == 65
    (fault,) = only_error(run)["faults"]
    assert fault == f"001_big.sql:3001: is not valid UTF-8: byte 0xff at offset {len(text) + 3}; save the file as UTF-8"


# --- Checksums --------------------------------------------------------------------------------------------


def test_the_checksum_of_a_large_file_is_that_of_its_text(scene: Scene) -> None:
    text = f"CREATE TABLE big (id int, t text);\n{rows(0, 2000)}"
    content = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    scene.write({"001_big.sql": content})
    scene.migrated()
    assert scene.database.one("SELECT checksum FROM schema_migrations") == hashlib.sha256(text.encode()).hexdigest()
    for other in (text.encode(), content, text.replace("\n", "\r").encode()):
        scene.write({"001_big.sql": other})
        assert scene.run().outcome == "up_to_date"
    # The checksum that the earlier system recorded.
    scene.write({"001_big.sql": content})
    scene.database.execute("UPDATE schema_migrations SET checksum = %s", [hashlib.sha256(content).hexdigest()])
    run = scene.start()
    assert run.ok().logs("files.changed") == []
    scene.write({"001_big.sql": content + b"-- more"})
    assert scene.start().ok().logs("files.changed")
