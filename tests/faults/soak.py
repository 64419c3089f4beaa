"""Play cells at random, for as long as told: `python -m tests.faults.soak --minutes 30` (or `--runs 1000`).

Run number N of a seed is always the same cell in the same variant: `--seed S --first N --runs 1` plays it again.
The logs of a run that violated something are saved; then the exit code is 1.
"""

# ruff: noqa: T201 - it is a program, and prints

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import queue
import secrets
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from faults import matrix
from faults.machinery import Machinery, UnavailableError
from faults.play import play
from faults.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from multiprocessing.queues import Queue


class Played(NamedTuple):
    """One run."""

    number: int
    cell: matrix.Cell
    seconds: float
    violation: str = ""
    impossible: str = ""


class Order(NamedTuple):
    """What one worker is to do."""

    seed: int
    first: int
    step: int
    end: int | None
    minutes: float | None
    version: int | None


def work(order: Order, results: Queue[Played | None]) -> None:
    """Play runs on a server of this process's own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent hears it, and ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    deadline = None if order.minutes is None else time.monotonic() + order.minutes * 60
    with (
        tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name,
        Machinery(Path(name), order.version) as machinery,
    ):
        Path(name).chmod(0o755)
        number = order.first
        while (order.end is None or number < order.end) and (deadline is None or time.monotonic() < deadline):
            results.put(play_run(machinery, order.seed, number))
            number += order.step
    results.put(None)


def play_run(machinery: Machinery, seed: int, number: int) -> Played:
    """Play one run; whatever goes wrong is in the result."""
    cell = matrix.random_cell(Random(f"{seed}/{number}"))
    directory = machinery.directory / f"run-{number}"
    directory.mkdir()
    began = time.monotonic()
    violation = ""
    try:
        with Stage(machinery, directory, small_disk=cell.fault == "disk full") as stage:
            try:
                play(stage, cell)
            except UnavailableError:
                raise
            except Exception:  # noqa: BLE001 - any is a violation, and the others go on
                violation = f"{traceback.format_exc()}\n{stage.report()}"
    except UnavailableError as error:
        return Played(number, cell, time.monotonic() - began, impossible=str(error))
    except Exception:  # noqa: BLE001 - the same
        violation += traceback.format_exc()
    return Played(number, cell, time.monotonic() - began, violation)


def results_of(orders: list[Order]) -> Iterator[Played]:
    """Run all orders, each in a process of its own; iterate over what they have played."""
    context = multiprocessing.get_context("spawn")
    results: Queue[Played | None] = context.Queue()
    workers = [context.Process(target=work, args=(order, results), daemon=True) for order in orders]
    for worker in workers:
        worker.start()
    at_work = len(workers)
    while at_work:
        try:
            played = results.get(timeout=5)
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                msg = "a worker ended before its time"
                raise RuntimeError(msg) from None
            continue
        if played is None:
            at_work -= 1
        else:
            yield played
    for worker in workers:
        worker.join()


def table(all_played: list[Played]) -> str:
    """Return the runs by phase and by fault, as text."""
    return "\n\n".join(
        (
            _table("phase", [(played.cell.phase, played) for played in all_played], matrix.PHASES),
            _table("fault", [(played.cell.fault, played) for played in all_played], matrix.FAULTS),
        )
    )


def _table(title: str, named: list[tuple[str, Played]], names: Iterable[str]) -> str:
    def line(name: str, of: list[Played]) -> str:
        cells = {(played.cell.phase, played.cell.fault) for played in of}
        violations = sum(bool(played.violation) for played in of)
        return f"{name:30}{len(cells):8}{len(of):8}{violations:12}"

    lines = [line(name, [played for its_name, played in named if its_name == name]) for name in names]
    return "\n".join(
        [f"{title:30}{'cells':>8}{'runs':>8}{'violations':>12}", *lines, line("all", [played for _, played in named])]
    )


def save(directory: Path, seed: int, played: Played) -> Path:
    """Write down all logs of a run that violated something."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"seed-{seed}-run-{played.number}.txt"
    file.write_text(f"{played.cell}\n{played.cell!r}\n\n{played.violation}\n")
    return file


def main() -> int:
    """Play, print the table, and return 1 if something was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    span = parser.add_mutually_exclusive_group(required=True)
    span.add_argument("--minutes", type=float)
    span.add_argument("--runs", type=int)
    parser.add_argument("--seed", type=int, help="where the runs come from; told at the beginning if left out")
    parser.add_argument("--first", type=int, default=1, help="the number of the first run")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pg", type=int, help="PostgreSQL's version")
    parser.add_argument("--save", type=Path, default=Path("soak-violations"), help="where logs of violations go")
    options = parser.parse_args()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    print(f"seed {seed}, {options.workers} workers", flush=True)
    end = None if options.runs is None else options.first + options.runs
    orders = [
        Order(seed, options.first + index, options.workers, end, options.minutes, options.pg)
        for index in range(options.workers)
    ]
    began = time.monotonic()
    all_played: list[Played] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):  # Then the table tells how far it came.
        for played in results_of(orders):
            if played.impossible:
                print(f"run {played.number} not played: {played.impossible}", flush=True)
                continue
            all_played.append(played)
            if played.violation:
                file = save(options.save, seed, played)
                print(f"VIOLATION in run {played.number}: {played.cell}: {file}", flush=True)
            elif len(all_played) % 50 == 0:
                print(f"{len(all_played)} runs after {time.monotonic() - began:.0f} s", flush=True)
    took = [played.seconds for played in all_played] or [0.0]
    print(
        f"\n{table(all_played)}\n\n{len(all_played)} runs in {time.monotonic() - began:.0f} s; "
        f"a run took {sum(took) / len(took):.1f} s on average and {max(took):.1f} s at most"
    )
    return 1 if any(played.violation for played in all_played) else 0


if __name__ == "__main__":
    sys.exit(main())
