"""Run the benchmarks, print their tables, and write the measured values to a JSON file."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from benchmarks import (
    batches,
    command,
    fleet,
    growth,
    memory,
    peers,
    pending,
    replicas,
    report,
    service,
    storm,
    takeover,
    traffic,
    up_to_date,
    waiting,
)
from benchmarks.measure import BenchmarkError
from benchmarks.stage import FOLDER, Stage

if TYPE_CHECKING:
    from types import FrameType, ModuleType

    from benchmarks.report import Section

SCENARIOS: dict[str, ModuleType] = {
    "up_to_date": up_to_date,
    "command": command,
    "pending": pending,
    "replicas": replicas,
    "takeover": takeover,
    "waiting": waiting,
    "growth": growth,
    "memory": memory,
    "service": service,
    "storm": storm,
    "traffic": traffic,
    "batches": batches,
    "fleet": fleet,
}
# Each of these takes minutes, and runs only on demand.
ON_DEMAND = ("storm", "traffic", "batches", "fleet")


def main() -> int:
    """Return the exit code: 1 if a scenario failed. Being slow is not a failure."""
    arguments = _arguments()
    # End properly, so that no servers or files are left behind.
    signal.signal(signal.SIGTERM, _end)
    if arguments.again:
        facts, sections = report.read(arguments.again)
    else:
        facts, sections = _run(arguments)
        path = arguments.json or report.default_path()
        report.write(path, facts, sections)
        print(f"{path}, in {facts['seconds']:.0f} s")
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown(facts, sections))
    return 1 if facts.get("failed") else 0


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    print(f"ended by {signal.Signals(number).name}", file=sys.stderr)
    sys.exit(128 + number)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=SCENARIOS, help="run only this scenario; can be given several times"
    )
    parser.add_argument("--quick", action="store_true", help="run everything small and once, to see that it works")
    parser.add_argument("--runs", type=int, metavar="N", help="how often to run each program")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="where to write the results (default: a new file in benchmarks/results)",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables as Markdown")
    parser.add_argument(
        "--from",
        dest="again",
        type=Path,
        metavar="FILE",
        help="run nothing; create the tables from this file of results",
    )
    parser.add_argument("--postgres", type=int, metavar="VERSION", help="measure with this major version")
    parser.add_argument("--peers", type=Path, metavar="DIR", default=peers.HOME, help="where the other tools are")
    parser.add_argument("--folder", type=Path, metavar="DIR", default=FOLDER, help="where the self-contained folder is")
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, list[Section]]]:
    """Run the chosen scenarios, and print the tables of each as soon as it is done."""
    began = time.monotonic()
    sections: dict[str, list[Section]] = {}
    with Stage(version=arguments.postgres, peers=arguments.peers, folder=arguments.folder) as stage:
        facts = report.machine(stage, ["python -m benchmarks", *sys.argv[1:]])
        facts["failed"] = {}
        print(report.headline(facts), flush=True)
        for name in arguments.only or (name for name in SCENARIOS if name not in ON_DEMAND):
            scenario = SCENARIOS[name]
            scale = scenario.QUICK if arguments.quick else scenario.FULL
            if arguments.runs:
                scale = scale._replace(runs=max(1, arguments.runs))
            started = time.monotonic()
            sections[name] = []
            try:
                for section in scenario.measure(stage, scale):
                    sections[name].append(section)
                    print(section.table(), flush=True)
            except BenchmarkError as error:  # keep what has been measured before
                facts["failed"][name] = str(error)
                print(f"{name} failed: {error}\n", file=sys.stderr, flush=True)
            print(f"({name}: {time.monotonic() - started:.0f} s)\n", flush=True)
    facts["load_at_end"] = list(os.getloadavg())
    facts["seconds"] = time.monotonic() - began
    print(f"load {facts['load_at_start'][0]:.1f} at the start, {facts['load_at_end'][0]:.1f} at the end")
    return facts, sections


if __name__ == "__main__":
    sys.exit(main())
