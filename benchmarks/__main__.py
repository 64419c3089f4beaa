"""Run the benchmarks, print their tables, and write what was measured to results/."""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks import pending, report, storm, traffic, up_to_date, waiting
from benchmarks.stage import Stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from benchmarks.report import Section

BENCHMARKS = {
    "up_to_date": (up_to_date.measure, up_to_date.RUNS),
    "pending": (pending.measure, pending.RUNS),
    "waiting": (waiting.measure, waiting.RUNS),
    "storm": (storm.measure, storm.RUNS),
    "traffic": (traffic.measure, traffic.RUNS),
}
# Take minutes by themselves, and have to be asked for.
ON_DEMAND = ("storm", "traffic")


def main() -> int:
    """Return the exit code; slowness is not a failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="this one; may be given several times")
    parser.add_argument("--runs", type=int, metavar="N", help="how often to run each contestant")
    arguments = parser.parse_args()
    began = time.monotonic()
    sections: dict[str, Section] = {}
    with Stage() as stage:
        facts = report.machine(stage)
        print(
            f"{facts['cores']} cores, {facts['cpu']}; {facts['system']}; Python {facts['python']}; "
            f"PostgreSQL {facts['postgresql']}; load {facts['load'][0]:.1f}; {facts['commit']}\n",  # type: ignore[index]
            flush=True,
        )
        for name in arguments.only or (name for name in BENCHMARKS if name not in ON_DEMAND):
            measure, runs = BENCHMARKS[name]
            sections[name] = measure(stage, max(1, arguments.runs or runs))
            print(sections[name].table(), flush=True)
    print(f"{report.write(facts, sections)}, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
