"""Run whole processes in turns, and summarize what they took."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import application
from benchmarks.figures import median

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self

# The time limit for a program, unless a shorter one is given.
LIMIT = 300.0


class BenchmarkError(Exception):
    """A program did not do what it was measured for."""


class TooSlowError(BenchmarkError):
    """A program exceeded its time limit and was killed."""

    def __init__(self, limit: float) -> None:
        """Keep the limit, in seconds."""
        super().__init__(f"more than {limit:g} s")
        self.limit = limit


class Sample(NamedTuple):
    """What one program took, from before its start to after its end."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of user and system time, with its children that it waited for, without the server's."""
    peak: int
    """The peak memory of any of its processes, in bytes."""
    application: float | None = None
    """Seconds until the first instruction of the application, if it reported that."""


class Spawner:
    """Starts programs from a small process; see spawner.py for why."""

    def __init__(self, directory: Path) -> None:
        """Run the programs in `directory`, with their output in a file there."""
        self._directory = directory
        self._output = directory / "output"
        script = Path(__file__).with_name("spawner.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """Return itself; the process is already running."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process by closing its input."""
        self._process.communicate(timeout=60)

    def output(self, size: int = 4000) -> str:
        """Return the end of the last program's output; some programs print all the SQL that they run."""
        with self._output.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode(errors="replace")

    def run(
        self, argv: Sequence[str | Path], env: Mapping[str, str], *, limit: float = LIMIT, directory: Path | None = None
    ) -> Sample:
        """Run a program to its end, in `directory` if that is given.

        Raises TooSlowError after `limit` seconds, BenchmarkError unless it exits with 0.
        """
        words = [os.fsdecode(word) for word in argv]
        requests, answers = self._process.stdin, self._process.stdout
        if requests is None or answers is None:
            raise BenchmarkError("the spawner has no pipes")
        place = str(directory or self._directory)
        request = {"argv": words, "env": dict(env), "output": str(self._output), "limit": limit, "directory": place}
        requests.write(json.dumps(request) + "\n")
        requests.flush()
        answer = json.loads(answers.readline())
        if answer["limited"]:
            raise TooSlowError(limit)
        output = self.output()
        if answer["code"] != 0:
            raise BenchmarkError(f"{shlex.join(words)} ended with {answer['code']}:\n{output[-2000:]}")
        told = application.told(output)
        first = None if told is None else (told.monotonic - answer["began"]) / 1e9
        return Sample(answer["wall"], answer["cpu"], answer["peak"], first)


class Contestant(NamedTuple):
    """Something to measure, with a name for the table. `run` also does the unmeasured work before and after."""

    name: str
    run: Callable[[], Sample]
    peer: bool = False
    """Whether it may be too slow or fail; the others then continue, and the table says so."""


class Summary(NamedTuple):
    """Medians over all runs of one contestant."""

    wall: float
    cpu: float
    peak: int
    application: float | None
    samples: list[Sample]

    @property
    def start(self) -> float:
        """Return the seconds until the application, or otherwise until the end."""
        return self.wall if self.application is None else self.application

    def values(self) -> dict[str, Any]:
        """Return it for the file of results."""
        return {**self._asdict(), "samples": [sample._asdict() for sample in self.samples]}


class Round(NamedTuple):
    """The result of runs that took turns."""

    summaries: dict[str, Summary]
    failures: dict[str, BenchmarkError]
    """Why a peer has no summary."""

    @property
    def missing(self) -> list[str]:
        """Return a line for each that failed, without those that were only too slow."""
        return [f"{name}: {why}" for name, why in self.failures.items() if not isinstance(why, TooSlowError)]

    @property
    def too_slow(self) -> dict[str, TooSlowError]:
        """Return those that exceeded their time limit."""
        return {name: why for name, why in self.failures.items() if isinstance(why, TooSlowError)}


def summarise(samples: list[Sample]) -> Summary:
    """Return the medians of at least one sample."""
    applications = [sample.application for sample in samples if sample.application is not None]
    return Summary(
        median([sample.wall for sample in samples]),
        median([sample.cpu for sample in samples]),
        round(median([sample.peak for sample in samples])),
        median(applications) if len(applications) == len(samples) else None,
        samples,
    )


def in_turns(
    contestants: Sequence[Contestant], runs: int, *, warm_up: bool = True, seldom_above: float | None = None
) -> Round:
    """Run every contestant `runs` times, in rounds, each of which begins with a different one.

    So other load on the machine affects all alike. The first round fills caches and does not count. A contestant that
    takes more than `seldom_above` seconds in it runs only in every third round.
    """
    samples: dict[str, list[Sample]] = {contestant.name: [] for contestant in contestants}
    failures: dict[str, BenchmarkError] = {}
    slow: set[str] = set()
    for number in range(-1 if warm_up else 0, runs):
        shift = number % len(contestants)
        for contestant in (*contestants[shift:], *contestants[:shift]):
            name = contestant.name
            if name in failures or (name in slow and number % 3):
                continue
            try:
                sample = contestant.run()
            except BenchmarkError as error:
                if not contestant.peer:
                    raise
                failures[name] = error
                continue
            if number >= 0:
                samples[name].append(sample)
            if seldom_above is not None and sample.wall > seldom_above:
                slow.add(name)
    return Round({name: summarise(taken) for name, taken in samples.items() if name not in failures}, failures)
