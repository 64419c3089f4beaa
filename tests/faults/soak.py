"""Play cells and stories at random: `python -m tests.faults.soak --minutes 30` (or `--runs 1000`).

A cell (`matrix`) is one fault in one phase of a start. A story (`story`) is several replicas and several faults at
random moments, judged by its history. Odd runs are stories. Run number N of a seed is always the same, and
`--seed S --first N --runs 1` plays it again. `--pooler` puts PgBouncer between the replicas of stories and the server.
If a run violates something, its logs are saved and the exit code is 1.
"""

# ruff: noqa: T201 - a program that prints

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
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from faults import matrix, story
from faults.machinery import Machinery, UnavailableError
from faults.play import play
from faults.stage import Stage
from kit.pooler import pooler

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from multiprocessing.queues import Queue


# Enough for all replicas of a story, with a guard and a worker each.
_POOL = 20


class Played(NamedTuple):
    """One run."""

    number: int
    what: matrix.Cell | story.Story
    seconds: float
    violation: str = ""
    impossible: str = ""
    outcomes: str = ""
    """How a story's starts ended."""


class Order(NamedTuple):
    """What one worker has to do."""

    seed: int
    first: int
    step: int
    end: int | None
    minutes: float | None
    version: int | None
    kind: str
    """`cells`, `stories` or `both`."""
    pooler: bool


def work(order: Order, results: Queue[Played | None]) -> None:
    """Play runs on a server that belongs to this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent gets it, and ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    deadline = None if order.minutes is None else time.monotonic() + order.minutes * 60
    with (
        tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name,
        Machinery(Path(name), order.version) as machinery,
        # With the pooler's default of 15 s, starts would give up after each server crash, and show nothing.
        pooler(machinery.server, pool_size=_POOL, login_retry=1) if order.pooler else contextlib.nullcontext() as port,
    ):
        Path(name).chmod(0o755)
        number = order.first
        while (order.end is None or number < order.end) and (deadline is None or time.monotonic() < deadline):
            odd = number % 2 == 1
            if order.kind == "stories" or (order.kind == "both" and odd):
                results.put(tell_run(machinery, order.seed, number, port))
            else:
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
            except Exception:  # noqa: BLE001 - all are violations, and the rest must run
                violation = f"{traceback.format_exc()}\n{stage.report()}"
    except UnavailableError as error:
        return Played(number, cell, time.monotonic() - began, impossible=str(error))
    except Exception:  # noqa: BLE001 - the same
        violation += traceback.format_exc()
    return Played(number, cell, time.monotonic() - began, violation)


def tell_run(machinery: Machinery, seed: int, number: int, port: int | None) -> Played:
    """Tell one story, through a pooler at `port` if there is one; whatever goes wrong is in the result."""
    told = story.draw(Random(f"{seed}/{number}"), pooled=port is not None)
    directory = machinery.directory / f"run-{number}"
    directory.mkdir()
    began = time.monotonic()
    outcomes = ""
    try:
        violation, outcomes = story.tell(machinery, directory, told, port)
    except UnavailableError as error:
        return Played(number, told, time.monotonic() - began, impossible=str(error))
    except Exception:  # noqa: BLE001 - all are violations, and the rest must run
        violation = traceback.format_exc()
    return Played(number, told, time.monotonic() - began, violation, outcomes=outcomes)


def results_of(orders: list[Order]) -> Iterator[Played]:
    """Run all orders, each in a separate process; iterate over what they have played."""
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
    """Return as text the cells by phase and by fault, the stories by fault, and how their starts ended."""
    cells = [(played.what, played) for played in all_played if isinstance(played.what, matrix.Cell)]
    stories = [(played.what, played) for played in all_played if isinstance(played.what, story.Story)]
    parts = []
    if cells:
        parts.append(_table("cells: phase", [(cell.phase, played) for cell, played in cells], matrix.PHASES))
        parts.append(_table("cells: fault", [(cell.fault, played) for cell, played in cells], matrix.FAULTS))
    if stories:
        blows = [(blow.fault, played) for told, played in stories for blow in told.blows]
        parts.append(_table("stories: fault", blows, story.FAULTS))
        ends = Counter(word for _, played in stories for word in played.outcomes.split())
        parts.append(
            f"{len(stories)} stories; their starts: " + ", ".join(f"{count} {end}" for end, count in ends.most_common())
        )
    return "\n\n".join(parts)


def _table(title: str, named: list[tuple[str, Played]], names: Iterable[str]) -> str:
    def line(name: str, of: list[Played]) -> str:
        violations = len({played.number for played in of if played.violation})
        return f"{name:38}{len(of):8}{violations:12}"

    lines = [line(name, [played for its_name, played in named if its_name == name]) for name in names]
    return "\n".join([f"{title:38}{'struck':>8}{'violations':>12}", *lines, line("all", [one for _, one in named])])


def save(directory: Path, seed: int, played: Played) -> Path:
    """Save all logs of a run that violated something."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"seed-{seed}-run-{played.number}.txt"
    file.write_text(f"{played.what}\n{played.what!r}\n\n{played.violation}\n")
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
    parser.add_argument("--kind", choices=("both", "cells", "stories"), default="both")
    parser.add_argument("--pooler", action="store_true", help="PgBouncer before the replicas of stories")
    parser.add_argument("--save", type=Path, default=Path("soak-violations"), help="where logs of violations go")
    options = parser.parse_args()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    where = f"PostgreSQL {options.pg or 'as the tests take it'}{', through PgBouncer' if options.pooler else ''}"
    print(f"seed {seed}, {options.workers} workers, {options.kind}, {where}", flush=True)
    end = None if options.runs is None else options.first + options.runs
    orders = [
        Order(
            seed,
            options.first + index,
            options.workers,
            end,
            options.minutes,
            options.pg,
            options.kind,
            options.pooler,
        )
        for index in range(options.workers)
    ]
    began = time.monotonic()
    all_played: list[Played] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):  # Then the table shows what was done so far.
        for played in results_of(orders):
            if played.impossible:
                print(f"run {played.number} not played: {played.impossible}", flush=True)
                continue
            all_played.append(played)
            if played.violation:
                file = save(options.save, seed, played)
                print(f"VIOLATION in run {played.number}: {played.what}: {file}", flush=True)
            elif len(all_played) % 50 == 0:
                print(f"{len(all_played)} runs after {time.monotonic() - began:.0f} s", flush=True)
    took = [played.seconds for played in all_played] or [0.0]
    print(
        f"\n{table(all_played)}\n\n{len(all_played)} runs in {time.monotonic() - began:.0f} s; "
        f"a run took {sum(took) / len(took):.1f} s on average and {max(took):.1f} s at most"
    )
    violated = sum(bool(played.violation) for played in all_played)
    print(f"verdict: {violated} runs violated a promise" if violated else "verdict: no promise was violated")
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main())
