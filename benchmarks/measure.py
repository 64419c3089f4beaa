"""Run whole processes in turns, and sum up what they took."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self


class BenchmarkError(Exception):
    """A program that is measured did not do what it was measured for."""


class Sample(NamedTuple):
    """What one process took, from before its start to after its end."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of user and system time, of this process alone: not the server's."""
    peak: int
    """The most memory it had, in bytes; if it executed another program, the larger of both."""


class Spawner:
    """Starts programs from a small process; see spawner.py for why."""

    def __init__(self, directory: Path) -> None:
        """Let the programs' output go to a file in `directory`."""
        self._output = directory / "output"
        script = Path(__file__).with_name("spawner.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        """Return itself: the process runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process, by closing what it reads."""
        self._process.communicate(timeout=60)

    @property
    def output(self) -> str:
        """Return what the last program wrote."""
        return self._output.read_text(errors="replace")

    def run(self, argv: Sequence[str | Path], env: Mapping[str, str]) -> Sample:
        """Run a program to its end. Raises BenchmarkError unless it ends with 0."""
        words = [os.fsdecode(word) for word in argv]
        requests, answers = self._process.stdin, self._process.stdout
        if requests is None or answers is None:
            raise BenchmarkError("the spawner has no pipes")
        requests.write(json.dumps({"argv": words, "env": dict(env), "output": str(self._output)}) + "\n")
        requests.flush()
        answer = json.loads(answers.readline())
        if answer["code"] != 0:
            msg = f"{shlex.join(words)} ended with {answer['code']}:\n{self.output[-2000:]}"
            raise BenchmarkError(msg)
        return Sample(answer["wall"], answer["cpu"], answer["peak"])


class Contestant(NamedTuple):
    """Something to measure, by a name for the table. `run` does what is not measured, too, before and after."""

    name: str
    run: Callable[[], Sample]


class Summary(NamedTuple):
    """Medians over all runs of one contestant."""

    wall: float
    cpu: float
    peak: int
    samples: list[Sample]


def in_turns(contestants: Sequence[Contestant], runs: int, *, warm_up: bool = True) -> dict[str, Summary]:
    """Run every contestant `runs` times, in rounds, each round beginning with another one.

    So whatever else the machine does falls on all alike. A first round, to fill caches, does not count.
    """
    samples: dict[str, list[Sample]] = {contestant.name: [] for contestant in contestants}
    for number in range(-1 if warm_up else 0, runs):
        shift = number % len(contestants)
        for contestant in (*contestants[shift:], *contestants[:shift]):
            sample = contestant.run()
            if number >= 0:
                samples[contestant.name].append(sample)
    return {
        name: Summary(
            statistics.median(sample.wall for sample in taken),
            statistics.median(sample.cpu for sample in taken),
            round(statistics.median(sample.peak for sample in taken)),
            taken,
        )
        for name, taken in samples.items()
    }
