"""The holder of the lock is killed: how soon the next one continues."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.crowd import Crowd, Gate, Replica, entrypoints, rivals, until, within
from benchmarks.figures import median, percentile
from benchmarks.measure import BenchmarkError
from benchmarks.report import Section, seconds

if TYPE_CHECKING:
    from benchmarks.crowd import Arrival
    from benchmarks.peers.tools import Peer
    from benchmarks.stage import Stage


class Scale(NamedTuple):
    """How much of it."""

    runs: int
    before: float
    """Seconds for which a peer's second process is observed before the first one is killed."""
    limit: float
    """Seconds for which it is observed after that, and again after the killed one's statement has ended."""


FULL = Scale(runs=50, before=10, limit=30)
QUICK = Scale(runs=2, before=2, limit=5)

OURS = "entrypoint run"
EARLIER = "the earlier system (by its design, not run)"

FILES = {"001_slow.sql": f"{Gate.SQL}CREATE TABLE slow ();\n"}
BESIDE = "migrates at the same time"
_RESTART = 1.0  # Seconds after which a platform restarts a failed container.


def measure(stage: Stage, scale: Scale) -> list[Section]:
    """Measure our takeovers many times, and observe each peer once."""
    return [_ours(stage, scale), _peers(stage, scale)]


class Takeover(NamedTuple):
    """One takeover: the seconds from the signal to each step."""

    guard: float
    """Until the server has ended the dead holder's guard, and with it the lock."""
    fence: float
    """Until it has ended the migration's session, and with it the fence."""
    acquired: float
    """Until the successor logged that it has the lock."""
    total: float
    """Until its first migration statement reached the server."""


def _ours(stage: Stage, scale: Scale) -> Section:
    taken = _takeovers(stage, scale.runs)
    times = [one.total for one in taken]
    columns = {name: [getattr(one, name) for one in taken] for name in Takeover._fields}
    rows = [
        (label, *map(seconds, _spread(values)))
        for label, values in (
            ("the lock is free", columns["guard"]),
            ("the fence is gone", columns["fence"]),
            (
                "then: a waiting replica has noticed, and has the lock",
                [one.acquired - max(one.guard, one.fence) for one in taken],
            ),
            ("then: it has looked at everything, and begun the migration", [one.total - one.acquired for one in taken]),
        )
    ]
    return Section(
        f"Takeover: from SIGKILL of the holder to the successor's first statement of the migration ({scale.runs} runs)",
        ("", "least", "median", "95 %", "most"),
        rows=[(OURS, *map(seconds, _spread(times))), *rows, (EARLIER, *["600 s"] * 4)],
        values={OURS: times, "steps": [one._asdict() for one in taken]},
        notes=[
            "The holder and everything it started are killed while its migration waits in the server, at a random",
            "moment of the waiting replica's pause. All clocks are this machine's: the benchmark's before the signal,",
            "the server's when it received the migration's text from the successor, and the successor's log. The",
            "benchmark looks every 10 ms.",
        ],
    )


def _spread(values: list[float]) -> tuple[float, float, float, float]:
    return min(values), median(values), percentile(values, 95), max(values)


def _waits(replica: Replica) -> bool:
    return "lock.waiting" in replica.events()


def _takeovers(stage: Stage, runs: int) -> list[Takeover]:
    """Kill one holder after another; each waiting replica becomes the next one. Return each takeover's times."""
    taken = []
    with (
        stage.database() as target,
        Gate(stage, target) as gate,
        entrypoints(stage, target, stage.folder(FILES)) as crowd,
    ):
        holder = crowd.start()
        crowd.first(gate)
        for _ in range(runs):
            successor = crowd.start()
            until(partial(_waits, successor), 60, "a waiter")
            time.sleep(random.uniform(0.3, 2.3))  # it looks every 1 to 2 s
            worker = gate.arrivals()[0].pid
            guard = gate.holder()
            killed = time.time()
            holder.kill()
            taken.append(_watched(gate, successor, killed, guard, worker))
            holder = successor
        gate.open()
        if holder.process.wait(60) != 0:
            raise BenchmarkError(f"the last successor failed:\n{holder.text()[-2000:]}")
    return taken


def _watched(gate: Gate, successor: Replica, killed: float, guard: int, worker: int) -> Takeover:
    """Observe one takeover, from the signal on."""
    gone: dict[int, float] = {}

    def arrived() -> Arrival | None:
        here = gate.backends()
        for pid in (guard, worker):
            if pid not in here:
                gone.setdefault(pid, time.time() - killed)
        return gate.newcomer({worker})

    arrival = until(arrived, 60, "the successor at the gate")
    acquired = successor.time_of("lock.acquired") - killed
    total = arrival.since - killed
    # If it disappeared between two of our looks, this one is its time.
    return Takeover(min(gone.get(guard, total), acquired), min(gone.get(worker, total), acquired), acquired, total)


def _peers(stage: Stage, scale: Scale) -> Section:
    section = Section(
        "Takeover: what other tools do when the holder is killed in the middle of a slow migration (one run each)",
        (
            "",
            "a second start meanwhile",
            "continues while the statement runs",
            "continues after its end",
            "starts needed",
        ),
        missing=stage.peers.missing,
        notes=[
            "A killed client's statement continues in the server, unless the server checks whether the client is",
            f"there. Meanwhile, a second start is repeated {_RESTART:g} s after each failure, as a platform would do.",
            f"Each is watched for {scale.limit:g} s while the statement runs, and for as long after its end. A tool",
            "that continues before that end runs the same migration next to it.",
        ],
    )
    # They mostly wait, so they can all do it at the same time.
    with ThreadPoolExecutor(max_workers=8) as pool:
        watched = {peer.name: pool.submit(_watch, stage, peer, scale) for peer in stage.peers.present}
        for name, future in watched.items():
            try:
                seen = future.result()
            except BenchmarkError as error:
                section.missing.append(f"{name}: {error}")
                continue
            section.rows.append((name, *_cells(seen, scale.limit)))
            section.values[name] = seen._asdict()
    return section


class Seen(NamedTuple):
    """What was seen of one peer."""

    meanwhile: str
    during: float | None
    """Seconds from the kill until a successor ran the migration, while its predecessor's statement did not end."""
    after: float | None
    """Seconds from the end of that statement."""
    starts: int
    """Starts of the second process until it continued, or until it was given up."""
    output: str
    """The last output."""


def _cells(seen: Seen, limit: float) -> tuple[str, str, str, str]:
    """Return a row of the table."""

    def when(took: float | None) -> str:
        return f"not within {limit:g} s" if took is None else f"after {seconds(took)}"

    if seen.meanwhile == BESIDE:
        return seen.meanwhile, "", "", ""
    after = when(seen.after) if seen.during is None else ""
    return seen.meanwhile, when(seen.during), after, str(seen.starts)


class Restarted:
    """The second container: started again after each failure."""

    def __init__(self, crowd: Crowd) -> None:
        """Start it."""
        self._crowd = crowd
        self.current: Replica = crowd.start()
        self.starts = 1
        self.last_words = ""
        self._ended: float | None = None

    def attend(self) -> None:
        """Start it again if it has failed for long enough."""
        if self.current.running:
            return
        now = time.monotonic()
        if self._ended is None:
            self._ended = now
            self.last_words = self.current.text()[-300:]
        elif now - self._ended > _RESTART and self.current.process.returncode != 0:
            self.current, self._ended = self._crowd.start(), None
            self.starts += 1


def _watch(stage: Stage, peer: Peer, scale: Scale) -> Seen:
    with stage.database() as target, Gate(stage, target) as gate, rivals(stage, target, peer, FILES) as crowd:
        holder = crowd.start()
        first = crowd.first(gate).pid
        second = Restarted(crowd)

        def newcomer() -> bool:
            second.attend()
            return gate.newcomer({first}) is not None

        if not within(newcomer, scale.before):
            crowd.calm(30)  # it may start slowly
        if newcomer():
            return Seen(BESIDE, None, None, second.starts, second.current.text()[-300:])
        meanwhile = "waits" if second.starts == 1 and second.current.running else "fails"
        holder.kill()
        during = _awaited(gate, {first}, second, scale.limit)
        after = None
        if during is None:
            # As if the statement had ended: its session finds that its client is gone, and ends.
            gate.end(first)
            after = _awaited(gate, {first}, second, scale.limit)
        words = second.last_words or second.current.text()[-300:]
        return Seen(meanwhile, during, after, second.starts, words)


def _awaited(gate: Gate, known: set[int], second: Restarted, limit: float) -> float | None:
    """Return after how many seconds, from now, a new backend waits at the gate."""
    began = time.time()

    def arrived() -> float | None:
        second.attend()
        found = gate.newcomer(known)
        return None if found is None else found.since

    since = within(arrived, limit)
    return None if since is None else max(0.0, since - began)
