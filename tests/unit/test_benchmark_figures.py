"""What the benchmarks compute from their measurements."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import application, figures, migrations, report
from benchmarks.measure import BenchmarkError, Contestant, Sample, TooSlowError, in_turns, summarise
from benchmarks.peers import Peers
from benchmarks.peers.tools import NotPossibleError
from benchmarks.report import Section
from benchmarks.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable

FACTS = {
    "command": "python -m benchmarks",
    "cores": 2,
    "cpu": "a processor",
    "system": "Linux",
    "load_at_start": [0.25, 0, 0],
    "load_at_end": [1.75, 0, 0],
    "python": "3.11.7",
    "postgresql": "16.4",
    "commit": "abc",
    "at": "2026-01-01T00:00:00+00:00",
    "peers": {"dbmate": "2.0.0"},
}


# --- Figures


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (1, 1), (50, 5), (90, 9), (95, 10), (100, 10)], ids=str)
def test_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    assert figures.percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], percent) == expected


def test_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        figures.percentile([], 50)


def test_ratio() -> None:
    assert figures.ratio(3, 2) == 1.5
    assert figures.ratio(3, 0) is None
    assert figures.ratio(3, None) is None
    assert figures.ratio(None, 2) is None


@pytest.mark.parametrize(("power", "worse"), [(0, False), (0.5, False), (1, False), (1.5, True), (2, True)])
def test_slopes_find_the_exponent(power: float, worse: bool) -> None:  # noqa: FBT001
    sizes = (10, 100, 1_000)
    found = figures.slopes(sizes, [0.003 * size**power for size in sizes])
    assert found == [None, pytest.approx(power), pytest.approx(power)]
    assert figures.worse_than_linear(found) is worse


def test_slopes_without_meaning() -> None:
    assert figures.slopes([1, 2, 2], [0, 1, 5]) == [None, None, None]
    assert not figures.worse_than_linear([None, None])


# --- Runs in turns


def contestant(name: str, log: list[str], wall: float = 0.1, *, peer: bool = False) -> Contestant:
    def run() -> Sample:
        log.append(name)
        return Sample(wall, 0.05, 1_000)

    return Contestant(name, run, peer)


def failing(error: BenchmarkError, *, peer: bool = True) -> Contestant:
    def run() -> Sample:
        raise error

    return Contestant("failing", run, peer)


def test_in_turns_begins_each_round_with_another_and_does_not_count_the_first() -> None:
    log: list[str] = []
    done = in_turns([contestant(name, log) for name in "abc"], 3)
    assert "".join(log) == "cab" + "abc" + "bca" + "cab"
    assert {name: len(summary.samples) for name, summary in done.summaries.items()} == {"a": 3, "b": 3, "c": 3}


def test_in_turns_runs_the_slow_more_seldom() -> None:
    log: list[str] = []
    done = in_turns([contestant("slow", log, wall=2), contestant("quick", log)], 7, seldom_above=1)
    assert {name: len(summary.samples) for name, summary in done.summaries.items()} == {"slow": 3, "quick": 7}


def test_a_peer_that_fails_or_is_too_slow_is_named_and_the_others_go_on() -> None:
    log: list[str] = []
    done = in_turns([contestant("ours", log), failing(BenchmarkError("broken"))], 2)
    assert list(done.summaries) == ["ours"]
    assert done.missing == ["failing: broken"]
    assert done.too_slow == {}
    done = in_turns([contestant("ours", log), failing(TooSlowError(60))], 2)
    assert done.missing == []
    assert {name: str(why) for name, why in done.too_slow.items()} == {"failing": "more than 60 s"}


def test_what_is_no_peer_must_not_fail() -> None:
    with pytest.raises(BenchmarkError, match="broken"):
        in_turns([failing(BenchmarkError("broken"), peer=False)], 1)


def test_summary_is_of_medians() -> None:
    summary = summarise([Sample(3, 1, 10, 2.5), Sample(1, 9, 30, 0.5), Sample(2, 2, 20, 1.5)])
    assert summary[:4] == (2, 2, 20, 1.5)
    assert summary.start == 1.5
    assert summarise([Sample(3, 1, 10)]).start == 3


def test_the_application_is_found_in_the_output() -> None:
    output = '{"event": "handover"}\nfirst-instruction 12000000034 1700000000000000056 up_to_date\n'
    assert application.told(output) == (12000000034, 1700000000000000056, "up_to_date")
    assert application.told("first-instruction of all") is None


# --- Tables


def section() -> Section:
    return Section(
        "A title",
        ("", "wall", "a|b"),
        rows=[("short", "1 ms", "2.00x"), ("a longer name", "100 ms", "-")],
        notes=["A note."],
        missing=["a peer: not installed"],
        values={"short": {"wall": 0.001}},
    )


def test_table() -> None:
    assert section().table() == (
        "A title\n"
        "\n"
        "                 wall    a|b\n"
        "-------------  ------  -----\n"
        "short            1 ms  2.00x\n"
        "a longer name  100 ms      -\n"
        "\n"
        "  missing: a peer: not installed\n"
        "  A note.\n"
    )


def test_markdown() -> None:
    text = report.markdown(FACTS, {"scenario": [section()]})
    assert "load 0.2 at the start, 1.8 at the end" in text
    assert "peers: dbmate 2.0.0" in text
    assert (
        "### A title\n"
        "\n"
        "|  | wall | a\\|b |\n"
        "| --- | ---: | ---: |\n"
        "| short | 1 ms | 2.00x |\n"
        "| a longer name | 100 ms | - |\n"
        "\n"
        "Missing: a peer: not installed.\n"
        "\n"
        "A note.\n"
    ) in text


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "results" / "run.json"
    report.write(path, FACTS, {"scenario": [section()]})
    assert report.read(path) == (FACTS, {"scenario": [section()]})
    assert json.loads(path.read_text())["scenarios"]["scenario"][0]["values"] == {"short": {"wall": 0.001}}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.00123, "1.2 ms"), (0.0994, "99.4 ms"), (0.0996, "100 ms"), (0.9996, "1.00 s"), (123.4, "123 s")],
)
def test_seconds(value: float | None, shown: str) -> None:
    assert report.seconds(value) == shown


# --- The other tools


def test_a_target_in_libpqs_words() -> None:
    target = Target("shop", 5432)
    assert target.url == "postgresql://postgres@127.0.0.1:5432/shop?sslmode=disable"
    tls = target.over_tls("me", "a/b")
    assert tls.url_as("postgres", x="1") == "postgres://me:a%2Fb@127.0.0.1:5432/shop?sslmode=require&x=1"
    assert tls.environment["PGPASSWORD"] == "a/b"
    socket = tls.over_socket(Path("/run/pg"))
    assert socket.socket
    assert socket.environment["PGHOST"] == "/run/pg"
    assert socket.url == "postgresql://me:a%2Fb@/shop?host=%2Frun%2Fpg&port=5432"


def test_peers_that_are_not_installed_are_named(tmp_path: Path) -> None:
    peers = Peers(tmp_path)
    assert peers.present == []
    assert peers.versions() == {}
    named = [reason.partition(":")[0] for reason in peers.missing]
    assert named == [
        "dbmate up", "goose up", "migrate up", "tern migrate", "sqlx migrate run", "node-pg-migrate up", "yoyo apply",
        "alembic upgrade head", "manage.py migrate", "prisma migrate deploy", "sqitch deploy", "liquibase update",
        "flyway migrate",
    ]  # fmt: skip


@pytest.mark.parametrize("index", range(6))
def test_each_peer_gets_all_migrations_in_its_own_format(tmp_path: Path, index: int) -> None:
    peer = Peers(tmp_path / "home", psql=tmp_path / "psql").all[index]
    folder = tmp_path / "migrations"
    folder.mkdir()
    peer.write(folder, migrations.small(3))
    text = "\n".join(path.read_text() for path in sorted(folder.rglob("*")) if path.is_file())
    for number in (1, 2, 3):
        assert text.count(f"CREATE TABLE small_{number} ") == 1
    command = peer.command(folder, Target("shop", 5432))
    assert "shop" in " ".join([*command.argv, *command.env.values()])


def test_who_cannot_use_a_socket_says_so(tmp_path: Path) -> None:
    liquibase = Peers(tmp_path).all[-1]
    with pytest.raises(NotPossibleError, match="Unix sockets"):
        liquibase.command(tmp_path, Target("shop", 5432).over_socket(tmp_path))


@pytest.mark.parametrize("make", [migrations.large, migrations.bulk])
def test_a_data_migration_has_the_length_that_is_asked_for(make: Callable[[int], str]) -> None:
    text = make(100_000)
    assert 98_000 < len(text) <= 100_000
    assert text.endswith(";\n")


def test_the_application_is_compiled_and_executable(tmp_path: Path) -> None:
    built = application.build(tmp_path)
    if built is None:
        pytest.skip("NOT TESTED HERE: no C compiler `cc` for benchmarks/application.c")
    assert built.stat().st_mode & stat.S_IXUSR
