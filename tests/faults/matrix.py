"""The phases of a start, the faults, and which of them meet."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Literal, NamedTuple

from faults.machinery import STANDBY_WAITERS, commits_wait, let_commits_go
from faults.stage import USUAL, pause
from kit.processes import state, until

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from faults.stage import Stage

    Moment = Literal["answered", "lost", "passing"]


class Cell(NamedTuple):
    """One play: where, what, and the variant."""

    phase: str
    fault: str
    on_failure: str = "start"
    beside: bool = True
    """Whether another replica starts while the subject is in that phase."""
    moment: Moment = "answered"
    """For a phase that is one message.

    `answered`: the server has acted on it, and its answer is on the way. `lost`: the message has not arrived.
    `passing`: nothing is held up, and the fault strikes after `delay`.
    """
    delay: float = 0.0
    duration: float = 0.2
    """How long a fault lasts that ends by itself."""

    def __str__(self) -> str:
        """Return the cell as a table shows it."""
        beside = ", another beside" if self.beside else ""
        return f"{self.phase} / {self.fault} ({self.on_failure}, {self.moment}, {self.delay:.3f} s{beside})"


# --- Phases ---------------------------------------------------------------------------------------------


def _resolving(stage: Stage, cell: Cell) -> None:
    names = stage.machinery.names
    names.be_silent()
    stage.held.callback(names.answer)
    subject = stage.start_subject(cell.on_failure, named=True)
    until(names.asked.is_set, 15, lambda: f"a question to the name server from {subject.report()}")


def _connecting(stage: Stage, cell: Cell) -> None:
    stage.proxy.refuse()
    stage.held.callback(stage.proxy.accept)
    stage.start_subject(cell.on_failure).until("database.retry")


def _waiting(stage: Stage, cell: Cell) -> None:
    stage.close_gate()
    stage.start(direct=True, budgets=USUAL)
    stage.await_gate()
    stage.start_subject(cell.on_failure).until("lock.waiting")


def _executing(stage: Stage, cell: Cell) -> None:
    stage.close_gate()
    stage.start_subject(cell.on_failure)
    stage.await_gate()


def _recording(stage: Stage, cell: Cell) -> None:
    """Stop the statement that writes the row, with a lock that still lets everybody read."""
    gate = stage.close_gate()
    stage.start_subject(cell.on_failure)
    stage.await_gate()
    stage.hold("schema_migrations")
    gate.open()
    stage.await_queue("schema_migrations")


def _committing(stage: Stage, cell: Cell) -> None:
    """Stop COMMIT itself: it is on disk, and waits for a standby."""
    gate = stage.close_gate()
    stage.start_subject(cell.on_failure)
    stage.await_gate()
    with commits_wait(stage.database):
        gate.open()
        until(lambda: stage.database.rows(STANDBY_WAITERS), 10, lambda: f"COMMIT: {stage.sessions()}")
    stage.held.callback(let_commits_go, stage.database)


def _handing_over(stage: Stage, cell: Cell) -> None:
    marks = stage.directory / "hold"
    marks.mkdir()
    stage.environment |= {
        "PYTHONPATH": os.path.join(os.path.dirname(__file__), "hold"),  # noqa: PTH118, PTH120 - one path
        "FAULTS_HOLD_AT_EXEC": str(marks),
    }
    subject = stage.start_subject(cell.on_failure)
    until((marks / "reached").exists, 15, lambda: f"the hand-over: {subject.report()}")
    stage.held.callback((marks / "go").touch)


def _outside_in_a_statement(stage: Stage, cell: Cell) -> None:
    stage.go_outside()
    stage.hold_index()
    stage.start_subject(cell.on_failure)
    stage.await_index("thing_2_first")


def _outside_between(stage: Stage, cell: Cell) -> None:
    """Stop the row that says what is next, after a statement that ran outside our transactions."""
    stage.go_outside()
    build = stage.hold_index()
    stage.start_subject(cell.on_failure)
    stage.await_index("thing_2_first")
    stage.hold("schema_migrations")
    build.close()
    stage.await_queue("schema_migrations")


def _outside_in_a_block(stage: Stage, cell: Cell) -> None:
    stage.go_outside()
    _to_the_block(stage, cell)


def _to_the_block(stage: Stage, cell: Cell) -> contextlib.ExitStack:
    build = stage.hold_index()
    stage.start_subject(cell.on_failure)
    stage.await_index("thing_2_first")
    block = stage.hold("step")
    build.close()
    stage.await_queue("step")
    return block


def _outside_last_row(stage: Stage, cell: Cell) -> None:
    """Stop the row that says that the whole file is in."""
    stage.go_outside()
    block = _to_the_block(stage, cell)
    build = stage.hold_index()
    block.close()
    stage.await_index("thing_2_second")
    stage.hold("schema_migrations")
    build.close()
    stage.await_queue("schema_migrations")


def _outside_beginning(stage: Stage, cell: Cell) -> None:
    stage.go_outside()
    _at(b"pg_advisory_lock_shared(")(stage, cell)


def _running_the_tool(stage: Stage, cell: Cell) -> None:
    """Stop the tool in the middle of its migration."""
    _to_the_tool(stage, cell)


def _recording_the_tool(stage: Stage, cell: Cell) -> None:
    """Stop the statement that records the result of the tool's run."""
    step = _to_the_tool(stage, cell)
    stage.hold("migration_commands")
    step.close()
    stage.await_queue("migration_commands")


def _to_the_tool(stage: Stage, cell: Cell) -> contextlib.ExitStack:
    stage.use_tool()
    step = stage.hold("tool_step")
    stage.start_subject(cell.on_failure)
    stage.await_queue("tool_step")
    return step


def _at(pattern: bytes) -> Callable[[Stage, Cell], None]:
    def reach(stage: Stage, cell: Cell) -> None:
        held = cell.moment != "passing"
        stage.await_message(pattern, deaf=held, deliver=cell.moment != "lost", start=cell.on_failure)
        if held:
            stage.held.callback(stage.proxy.hear)

    return reach


@dataclass(frozen=True)
class Phase:
    """A phase of a start, and how to catch a process in it."""

    name: str
    reach: Callable[[Stage, Cell], None]
    messages: bool = False
    """Whether it is one message and its answer."""
    session: bool = True
    """Whether a connection has logged in."""
    guard: bool = True
    """Whether the guard is there."""
    tool: bool = False
    """Whether another migration tool is running, or has just run."""


PHASES = {
    phase.name: phase
    for phase in (
        Phase("resolving", _resolving, session=False, guard=False),
        Phase("connecting", _connecting, session=False, guard=False),
        Phase("logging in", _at(b"user\0"), messages=True, session=False, guard=False),
        # The first look, through libpq itself; then the survey, through psycopg, since something is pending.
        Phase("looking", _at(b"c.relkind"), messages=True, guard=False),
        Phase("surveying", _at(b"pg_postmaster_start_time"), messages=True, guard=False),
        Phase("waiting", _waiting, guard=False),
        Phase("taking the guard", _at(b"SELECT pg_catalog.pg_try_advisory_xact_lock("), messages=True),
        Phase("creating the ledger", _at(b"-- The ledger: one row"), messages=True),
        Phase("taking the row", _at(b"WITH candidate AS"), messages=True),
        Phase("beginning and fencing", _at(b"FOR KEY SHARE"), messages=True),
        Phase("executing", _executing),
        Phase("recording", _recording),
        Phase("committing", _committing),
        Phase("outside, before its first statement", _outside_beginning, messages=True),
        Phase("outside, in a statement", _outside_in_a_statement),
        Phase("outside, between two statements", _outside_between),
        Phase("outside, in a block", _outside_in_a_block),
        Phase("outside, in the last row", _outside_last_row),
        Phase("running the tool", _running_the_tool, tool=True),
        Phase("recording the tool's run", _recording_the_tool, tool=True),
        Phase("releasing", _at(b"token = NULL, progress_migration = NULL"), messages=True),
        Phase("handing over", _handing_over, session=False, guard=False),
    )
}


# --- Faults ---------------------------------------------------------------------------------------------


def _nothing(_stage: Stage, _cell: Cell) -> None:
    pass


def _signal(number: signal.Signals) -> Callable[[Stage, Cell], None]:
    def strike(stage: Stage, _cell: Cell) -> None:
        stage.victim.kill(number)

    return strike


def _stop(stage: Stage, _cell: Cell) -> None:
    victim = stage.victim
    victim.kill(signal.SIGSTOP)
    until(lambda: not victim.running or state(victim.pid) == "T", 5, "the process stands still")


def _continue(stage: Stage, cell: Cell) -> None:
    pause(cell.duration)
    stage.victim.kill(signal.SIGCONT)


def _terminate(*, guard: bool) -> Callable[[Stage, Cell], None]:
    def strike(stage: Stage, cell: Cell) -> None:
        victims = stage.backends(guard=guard)
        assert victims or cell.moment == "passing", stage.report()
        stage.database.rows("SELECT pg_terminate_backend(pid) FROM unnest(%s::integer[]) AS pid", (victims,))

    return strike


def _kill_server(stage: Stage, _cell: Cell) -> None:
    stage.server.kill()


def _restart_server(stage: Stage, cell: Cell) -> None:
    pause(cell.duration)
    stage.server.start()


def _freeze_server(stage: Stage, _cell: Cell) -> None:
    stage.server.freeze()


def _thaw_server(stage: Stage) -> None:
    stage.server.thaw()


def _reset(stage: Stage, _cell: Cell) -> None:
    stage.proxy.cut()


def _reset_again(stage: Stage, cell: Cell) -> None:
    """Also cut every new connection after a while, until the subject has ended or for three seconds."""
    random = Random(f"{cell.delay}/{cell.duration}")
    for _ in range(20):
        pause(random.uniform(0.0, 0.3))
        stage.proxy.cut()
        if not stage.victim.running:
            return


def _terminate_all(stage: Stage, _cell: Cell) -> None:
    """Terminate the subject's backends, all at once."""
    victims = stage.backends(guard=True) + stage.backends(guard=False)
    stage.database.rows("SELECT pg_terminate_backend(pid) FROM unnest(%s::integer[]) AS pid", (victims,))


def _silence(stage: Stage, _cell: Cell) -> None:
    stage.proxy.accept()
    stage.proxy.deafen()


def _notice(stage: Stage) -> None:
    """Let the server finally know that those connections are gone."""
    stage.proxy.cut()
    stage.proxy.hear()


def _fill_disk(stage: Stage, _cell: Cell) -> None:
    stage.machinery.disk.fill()


def _free_disk(stage: Stage) -> None:
    stage.machinery.disk.free()


def _prepare_clock(stage: Stage) -> None:
    stage.environment |= {
        "LD_PRELOAD": str(stage.machinery.clock),
        "FAULTS_CLOCK": str(stage.directory / "clock-is-wrong"),
        "FAULTS_CLOCK_SECONDS": "86400",
    }


def _prepare_clock_back(stage: Stage) -> None:
    _prepare_clock(stage)
    stage.environment["FAULTS_CLOCK_SECONDS"] = "-86400"


def _set_clock(stage: Stage, _cell: Cell) -> None:
    (stage.directory / "clock-is-wrong").touch()


def _change_time_zone(stage: Stage, _cell: Cell) -> None:
    # The time zone furthest from UTC. It applies to every login from now on.
    stage.database.execute(f"ALTER DATABASE {stage.database.name} SET TimeZone = 'Pacific/Kiritimati'")


def _prepare_nothing(_stage: Stage) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """A fault, and how it may end for the process that it strikes."""

    name: str
    strike: Callable[[Stage, Cell], None]
    aftermath: Callable[[Stage, Cell], None] = _nothing
    """What happens once the phase has let go."""
    heal: Callable[[Stage], None] = _prepare_nothing
    """What repairs it in the end."""
    prepare: Callable[[Stage], None] = _prepare_nothing
    lasts: bool = False
    """Whether it lasts until the subject has ended: the phase does not let go before that."""
    exit_codes: frozenset[int] = field(default_factory=frozenset)
    """How a process ends if the fault itself ends it."""
    may_fail: frozenset[int] = frozenset()
    """The exit codes with which the subject may fail."""
    suite: bool = True
    """Whether the suite plays it; the soak plays all."""


ENDED = frozenset({69, 70, 75})

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("client killed", _signal(signal.SIGKILL), exit_codes=frozenset({-signal.SIGKILL})),
        Fault("SIGTERM", _signal(signal.SIGTERM), lasts=True, exit_codes=frozenset({128 + signal.SIGTERM})),
        Fault("client stopped for a while", _stop, _continue),
        Fault("worker terminated", _terminate(guard=False), may_fail=frozenset({70})),
        Fault("guard terminated", _terminate(guard=True)),
        Fault("server killed and restarted", _kill_server, _restart_server),
        Fault("server frozen", _freeze_server, heal=_thaw_server, lasts=True, may_fail=ENDED),
        Fault("connection reset", _reset),
        Fault("connection silent", _silence, heal=_notice, lasts=True, may_fail=ENDED),
        Fault("disk full", _fill_disk, heal=_free_disk, may_fail=ENDED),
        Fault("clock a day ahead", _set_clock, prepare=_prepare_clock),
        Fault("clock a day back", _set_clock, prepare=_prepare_clock_back),
        Fault("time zone changed", _change_time_zone),
        Fault("connection reset again and again", _reset, _reset_again, may_fail=ENDED, suite=False),
        Fault("all backends terminated", _terminate_all, may_fail=frozenset({70}), suite=False),
    )
}

_NOT_SAID_YET = "nothing has been said to the server yet: it is the same as in the phase 'connecting'"
_NO_SESSION = "no session has logged in yet that somebody could terminate"
_NO_GUARD = "there is no guard yet"
_NOTHING_WRITTEN = "the first that is written is the ledger: it is the same as in the phase 'creating the ledger'"
_NO_CONNECTION = "the connections are closed, and nothing is asked of the database any more"

IMPOSSIBLE: dict[tuple[str, str], str] = {
    **{("resolving", fault): _NOT_SAID_YET for fault in ("server killed and restarted", "server frozen")},
    **{("resolving", fault): _NOT_SAID_YET for fault in ("connection reset", "connection silent")},
    ("connecting", "connection reset"): "a refused connection is a reset one, and that is how the phase is reached",
    **{(phase, "worker terminated"): _NO_SESSION for phase in ("resolving", "connecting", "logging in")},
    **{
        (phase, "guard terminated"): _NO_GUARD
        for phase in ("resolving", "connecting", "logging in", "looking", "surveying")
    },
    ("waiting", "guard terminated"): "a waiter has no guard; the holder's is terminated in all phases that have one",
    **{
        (phase, "disk full"): _NOTHING_WRITTEN
        for phase in ("resolving", "connecting", "logging in", "looking", "surveying", "taking the guard")
    },
    **{
        ("handing over", fault): _NO_CONNECTION
        for fault in (
            "worker terminated",
            "guard terminated",
            "server killed and restarted",
            "server frozen",
            "connection reset",
            "connection silent",
            "disk full",
            "time zone changed",
        )
    },
}
"""Cells that make no sense, each with the reason."""
for _name, _like in (
    ("connection reset again and again", "connection reset"),
    ("all backends terminated", "worker terminated"),
):
    IMPOSSIBLE |= {(phase, _name): why for (phase, fault), why in IMPOSSIBLE.items() if fault == _like}


# These leave no connection on which data was lost. No network does that: TCP delivers everything, or nothing from some
# point on.
_ENDS_CONNECTIONS = ("client killed", "SIGTERM", "server killed and restarted", "connection reset", "connection silent")


def random_cell(random: Random) -> Cell:
    """Return any cell in any variant, as the soak plays them."""
    possible = [(phase, fault) for phase in PHASES for fault in FAULTS if (phase, fault) not in IMPOSSIBLE]
    phase, fault = random.choice(possible)
    moments: list[Moment] = ["answered"]
    if PHASES[phase].messages:
        moments += ["passing", "passing"]
        if fault in _ENDS_CONNECTIONS:
            moments.append("lost")
    moment = random.choice(moments)
    return Cell(
        phase,
        fault,
        on_failure=random.choice(("start", "exit")),
        beside=random.random() < 0.6,
        moment=moment,
        delay=min(random.expovariate(50), 0.2) if random.random() < 0.8 else 0.0,
        duration=random.uniform(0.0, 0.6),
    )


def cells() -> list[Cell]:
    """Return every cell that makes sense, once, in the variant that the suite plays.

    MIGRATION_ON_FAILURE alternates, so that each phase and each fault meets both values.
    """
    return [
        Cell(phase, fault, ("start", "exit")[(row + column) % 2], beside=PHASES[phase].guard)
        for row, phase in enumerate(PHASES)
        for column, fault in enumerate(FAULTS)
        if (phase, fault) not in IMPOSSIBLE and FAULTS[fault].suite
    ]


def quick_cells() -> set[Cell]:
    """Return as few of them as there are phases: for each phase, the fault that has been used least so far."""
    met = dict.fromkeys(FAULTS, 0)
    chosen = set()
    for phase in PHASES:
        cell = min((cell for cell in cells() if cell.phase == phase), key=lambda cell: met[cell.fault])
        met[cell.fault] += 1
        chosen.add(cell)
    return chosen
