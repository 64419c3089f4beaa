"""A model of the migration lock, small enough to explore completely, and independent of the code that it models.

Two of our contenders (A and B) and one replica of the earlier system share what PostgreSQL keeps: the guard's advisory
lock, the row `migration_lock`, and the locks of each worker session. `Model.steps` lists everything that can happen
next in a state. `explore` follows all of it, breadth first, so each counterexample is as short as possible. Each of the
`Rules` is a part of the design; without it, the model finds what it prevents.

What each part stands for:

| in the model | in PostgreSQL |
|---|---|
| `State.guard` | `pg_try_advisory_xact_lock(<guard>)` in an idle transaction; it ends with that session |
| `State.row` | `token`, `locked_at IS NOT NULL` (`held`), and for a row without a token its age (`fresh`) |
| `Backend.tx` fenced, commit | a transaction after `SELECT … FOR KEY SHARE`; the same with its COMMIT on the way |
| `Backend.shared` | `pg_try_advisory_lock_shared(<session>)`, for work outside a transaction |
| `takes the row` | `SELECT … FOR UPDATE SKIP LOCKED` and `UPDATE` in one transaction; it skips a fenced row |
| `frees the row` | `UPDATE … SET <free> WHERE token = <mine>`: no key columns, so it does not wait for a fence |
| `operator frees the row` | `UPDATE … SET locked_at = NULL …`, likewise; the token stays |
| `earlier system …` | `release_stale_migration_locks()`, `acquire_migration_lock()`, `release_migration_lock()` |
| `A's guard expires`, `A's transaction expires` | `idle_in_transaction_session_timeout`, only while A is frozen |
| `A's old backend ends` | the server has noticed that its client is gone, at any time after that |
| `ends the sessions of A` | `pg_terminate_backend` on every session named `entrypoint:<token in the row>` |

Simplifications. Time is not counted: whatever may happen after a while may happen at once. One thing about it is
assumed (`wins_back_in_time`): a contender that is alive and not frozen wins back a lost guard before another has seen
the fence for 3 s. A statement is atomic on the server; between two of them anything may happen, and in particular a
process may freeze for any length of time. Each fault happens at most once (freezing: once per contender), and at most
`Scenario.faults` of them in one history. A process has at most one abandoned backend. The files are applied in order,
one after another; a transactional one may be refused and retried forever. The earlier system does not write to the
ledger: when its lock is stale, two systems may work at once, and nothing here can prevent it. Reading the ledger is one
step with taking the row; reading it later would only show more. The pooler, the watcher and the `failed` row are left
out, as is a migration that changes the row itself.
"""

from __future__ import annotations

import gc
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Name = Literal["A", "B"]
    Tx = Literal["", "fenced", "commit", "late free"]
    Phase = Literal[
        "away", "guarded", "ending", "leading", "in tx", "committing",
        "repaired", "locked", "ready", "alone", "ran", "freeing", "unguarding", "done", "stopped", "dead",
    ]  # fmt: skip
    LegacyPhase = Literal["absent", "start", "waiting", "working", "gone", "dead"]
    Cause = Literal["own", "time", "fault"]

NAMES: tuple[Name, Name] = ("A", "B")
_OVER = frozenset(("done", "stopped", "dead"))
# From taking the row until freeing it.
_HOLDING = frozenset(("leading", "in tx", "committing", "repaired", "locked", "ready", "alone", "ran"))


_STUCK = "nobody comes to an end any more"


class Rules(NamedTuple):
    """The parts of the design. Together they keep every promise."""

    guard: bool = True
    fence: bool = True
    take_needs_guard: bool = True
    """The statement that takes the row checks that its own guard still stands."""
    take_from_dead: bool = True
    """`OR token IS NOT NULL`: a row with a token belongs to a guard that is gone."""
    take_respects_legacy: bool = True
    """`OR <stale>`: a row without a token is left alone until it is stale."""
    take_sees_session: bool = True
    """`AND pg_try_advisory_xact_lock(<session>)`."""
    legacy_sees_guard: bool = True
    legacy_sees_session: bool = True
    legacy_release_spares_token: bool = True
    ends_zombies: bool = True
    ending_needs_guard: bool = True
    """One statement reads the token, checks that its own guard stands, and ends the sessions."""
    ending_spares_own: bool = True
    """A process that ends one of its old backends leaves its current ones alone."""
    wins_back_in_time: bool = True
    session_before_repair: bool = True
    """The session's lock and the fence come before any repair that an interrupted file needs."""
    session_lock_fenced: bool = True
    """The session is locked in a fenced transaction, so the row keeps its token while the session is locked."""
    token_for_each_lease: bool = True
    """A process that takes the lock again does so under a new token."""
    verdict_from_row: bool = True
    """The row says why a lease was lost; the guard's state at that moment would be a guess."""


class Scenario(NamedTuple):
    """How large the world is."""

    files: tuple[Literal["transactional", "outside"], ...] = ("transactional", "outside")
    legacy: bool = True
    faults: int = 2


class Row(NamedTuple):
    """`migration_lock`, id = 1."""

    token: Name | Literal[""] = ""
    held: bool = False
    fresh: bool = False


class Backend(NamedTuple):
    """The server's side of a worker session."""

    tx: Tx = ""
    shared: bool = False
    file: int = 0


class Process(NamedTuple):
    """A contender: where its program is, and its sessions."""

    phase: Phase = "away"
    frozen: bool = False
    noticed: bool = False
    """It knows that its guard is lost."""
    asked: bool = False
    """An operator freed the row while this process held it."""
    terminated: bool = False
    """Its worker's session was ended with 57P01."""
    file: int = 0
    goal: Phase = "away"
    """What comes after releasing the lock."""
    victim: Name | Literal[""] = ""
    worker: Backend | None = None
    old: Backend | None = None
    """A backend whose client is gone."""


class State(NamedTuple):
    """The world at one moment."""

    row: Row = Row()
    guard: Name | Literal[""] = ""
    a: Process = Process()
    b: Process = Process()
    legacy: LegacyPhase = "absent"
    applied: int = 0
    faults: frozenset[str] = frozenset()
    """The faults that have happened."""

    def process(self, name: Name) -> Process:
        return self.a if name == "A" else self.b

    def having(self, name: Name, process: Process) -> State:
        return self._replace(a=process) if name == "A" else self._replace(b=process)

    def mirrored(self) -> State:
        """Return the same state with A and B swapped."""
        token = _OTHER[self.row.token]
        return self._replace(
            row=self.row if self.row.token == token else self.row._replace(token=token),
            guard=_OTHER[self.guard],
            a=_mirrored(self.b),
            b=_mirrored(self.a),
            faults=frozenset(map(_mirrored_fault, self.faults)),
        )

    def summary(self) -> str:
        """Return the state in one line."""
        freed = " (freed)" if self.row.token and not self.row.held else ""
        row = f"{self.row.token}{freed}" if self.row.token else "earlier system" if self.row.held else "free"
        processes = ", ".join(_describe(name, self.process(name)) for name in NAMES)
        return f"row: {row}, guard: {self.guard or 'free'}, {processes}, applied: {self.applied}"


_OTHER: dict[Name | Literal[""], Name | Literal[""]] = {"A": "B", "B": "A", "": ""}
_OTHER_FAULT = {"freeze A": "freeze B", "freeze B": "freeze A"}


def _mirrored(process: Process) -> Process:
    return process._replace(victim=_OTHER[process.victim]) if process.victim else process


def _mirrored_fault(fault: str) -> str:
    return _OTHER_FAULT.get(fault, fault)


def _describe(name: Name, process: Process) -> str:
    words = [f"{name} {process.phase}"]
    words += ["frozen"] if process.frozen else []
    words += [f"+{process.worker.tx}"] if process.worker and process.worker.tx else []
    words += [f"+old {process.old.tx or 'session'}"] if process.old else []
    return " ".join(words)


class Step(NamedTuple):
    """Something that can happen."""

    label: str
    after: State
    cause: Cause = "own"
    violation: str = ""


class Counterexample(NamedTuple):
    """A broken promise, and the shortest way to it."""

    violation: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        lines = [f"{n:3}. {step.label:55} | {step.after.summary()}" for n, step in enumerate(self.steps, 1)]
        return "\n".join([self.violation, *lines])

    @property
    def labels(self) -> list[str]:
        return [step.label for step in self.steps]


class Result(NamedTuple):
    """What an exploration found."""

    states: int
    transitions: int
    counterexample: Counterexample | None

    def __str__(self) -> str:
        found = "no violation" if self.counterexample is None else str(self.counterexample)
        return f"{self.states} states, {self.transitions} transitions: {found}"


class Model:
    """Everything that can happen under these rules in this scenario."""

    def __init__(self, rules: Rules, scenario: Scenario) -> None:
        self.rules = rules
        self.scenario = scenario
        self._phases: dict[Phase, Callable[[State, Name, Process], Iterator[Step]]] = {
            "away": self._away,
            "guarded": self._guarded,
            "ending": self._ending,
            "leading": self._leading,
            "in tx": self._in_tx,
            "committing": self._committing,
            "repaired": self._lock_session,
            "locked": self._record_running,
            "ready": self._run_alone,
            "alone": self._ended_alone,
            "ran": self._record_completed,
            "freeing": self._freeing,
            "unguarding": self._unguarding,
        }

    def start(self) -> State:
        return State(legacy="start" if self.scenario.legacy else "absent")

    def steps(self, s: State) -> Iterator[Step]:
        """Return everything that can happen next."""
        for name in NAMES:
            process = s.process(name)
            if process.phase not in _OVER and not process.frozen:
                if process.worker is None and process.phase in _HOLDING:
                    yield from self._lost_worker(s, name, process)
                else:
                    yield from self._phases[process.phase](s, name, process)
                yield from self._guard_thread(s, name, process)
            yield from self._server(s, name, process)
            yield from self._faults(s, name, process)
        yield from self._legacy(s)
        if s.row.held and not s.row.token and s.row.fresh:
            yield Step("the earlier system's lock becomes stale", s._replace(row=s.row._replace(fresh=False)), "time")
        if s.row.held and self._may_fail(s, "operator"):
            yield self._operator_frees(s)

    # --- The promises -------------------------------------------------------------------------------------

    def violation(self, s: State) -> str:
        """Return the promise that a state breaks, or nothing."""
        able = [name for name in NAMES if any(b.tx in ("fenced", "commit") for b in _backends(s.process(name)))]
        if len(able) > 1:
            return "two processes can commit a migration"
        for name in able:
            if s.row.held and s.row.token != name:
                return f"{name} was replaced and can commit"
        for name in NAMES:
            process = s.process(name)
            if process.phase == "alone" and process.worker and s.row.held and s.row.token != name:
                return f"{name} works outside a transaction beside another holder"
        return ""

    def over(self, s: State) -> bool:
        """Tell whether everyone who can still act has nothing left to do."""
        return all(p.phase in _OVER or p.frozen for p in (s.a, s.b))

    def excused(self, s: State) -> bool:
        """Tell whether nobody is left who could apply what is pending."""
        return all(p.phase in ("stopped", "dead") or p.frozen for p in (s.a, s.b))

    def _stands(self, s: State, name: Name) -> bool:
        """Tell whether something of a holder protects the row: its guard, its fence, or its session's lock."""
        process = s.process(name)
        if self.rules.guard:
            guarded = s.guard == name and process.phase in _HOLDING
        else:
            guarded = process.phase in _HOLDING and not process.frozen
        return guarded or any(b.shared or b.tx in ("fenced", "commit") for b in _backends(process))

    def _robs(self, s: State, taker: str) -> str:
        token = s.row.token
        if token and token != taker and self._stands(s, token):
            return f"{taker or 'the earlier system'} robs {token}, which lives"
        return ""

    # --- Locks as PostgreSQL keeps them -------------------------------------------------------------------

    def _row_locked(self, s: State) -> bool:
        """Tell whether FOR UPDATE SKIP LOCKED skips the row."""
        return self.rules.fence and any(b.tx in ("fenced", "commit") for n in NAMES for b in _backends(s.process(n)))

    def _session_locked(self, s: State) -> bool:
        return any(b.shared for n in NAMES for b in _backends(s.process(n)))

    def _takeable(self, s: State, name: Name) -> bool:
        rules, row = self.rules, s.row
        if row.token:
            open_to_us = not row.held or rules.take_from_dead
        else:
            open_to_us = not row.held or not row.fresh or not rules.take_respects_legacy
        if rules.take_sees_session and self._session_locked(s):
            return False
        if rules.guard and rules.take_needs_guard and s.guard != name:
            return False
        return open_to_us and not self._row_locked(s)

    # --- A contender --------------------------------------------------------------------------------------

    def _away(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        if s.applied == len(self.scenario.files):
            yield Step(f"{name} sees that nothing is pending", s.having(name, Process("done", old=p.old)))
        elif not self.rules.guard:
            yield Step(f"{name} contends", s.having(name, Process("guarded", worker=Backend(), old=p.old)))
        elif not s.guard:
            after = s.having(name, Process("guarded", worker=Backend(), old=p.old))
            yield Step(f"{name} takes the guard", after._replace(guard=name))

    def _guarded(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        if p.worker is None:
            yield Step(f"{name} sees that its connection is lost", s.having(name, p._replace(phase="unguarding")))
        elif self._takeable(s, name):
            legacy = s.row.held and not s.row.token and s.row.fresh
            broken = f"{name} takes the row from a fresh earlier system" if legacy else self._robs(s, name)
            old = p.old
            if old and old.tx == "late free" and self.rules.token_for_each_lease:
                old = None  # it belongs to another token
            after = s._replace(row=Row(name, held=True))
            leading = p._replace(phase="leading", file=s.applied, asked=False, old=old)
            yield Step(f"{name} takes the row", after.having(name, leading), violation=broken)
        else:
            yield Step(f"{name} does not get the row", s.having(name, p._replace(phase="unguarding")))
            if s.row.token and self.rules.ends_zombies:
                yield from self._decide_to_end(s, name, p, s.row.token)

    def _decide_to_end(self, s: State, name: Name, p: Process, victim: Name) -> Iterator[Step]:
        other = s.process(victim)
        lives = victim != name and not other.frozen and other.phase in _HOLDING and other.worker is not None
        if lives and self.rules.wins_back_in_time:
            return
        broken = f"{name} ends the sessions of {victim}, which lives" if lives else ""
        after = s.having(name, p._replace(phase="ending", victim=victim))
        yield Step(f"{name} decides to end the sessions of {victim}", after, violation=broken)

    def _ending(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        victim = p.victim
        assert victim
        back = s.having(name, p._replace(phase="unguarding", victim=""))
        if p.worker is None:
            yield Step(f"{name} sees that its connection is lost", back)
        elif self.rules.ending_needs_guard and not (s.guard == name and s.row.token == victim):
            yield Step(f"{name} finds that there is nothing to end", back)
        elif victim == name:
            mine = back.process(name)
            if self.rules.ending_spares_own:
                yield Step(f"{name} ends its old session", back.having(name, mine._replace(old=None)))
            else:
                own = mine._replace(worker=None, terminated=True)
                yield Step(f"{name} ends its own session", back.having(name, own), violation=f"{name} ends itself")
        else:
            other = s.process(victim)
            broken = f"{name} ends the sessions of {victim}, which lives" if self._lives(s, victim) else ""
            after = back.having(victim, other._replace(worker=None, old=None, terminated=other.worker is not None))
            if s.guard == victim:
                after = after._replace(guard="")
            yield Step(f"{name} ends the sessions of {victim}", after, violation=broken)

    @staticmethod
    def _lives(s: State, name: Name) -> bool:
        process = s.process(name)
        return s.guard == name and process.phase in _HOLDING and not process.frozen and process.worker is not None

    def _leading(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        if p.file == len(self.scenario.files):
            yield Step(f"{name} has nothing left to do", s.having(name, p._replace(phase="freeing", goal="done")))
        elif p.noticed:
            yield Step(f"{name} stops: its guard is lost", s.having(name, p._replace(phase="freeing", goal="away")))
        elif self.scenario.files[p.file] == "transactional":
            if self._fence_holds(s, name):
                in_tx = p._replace(phase="in tx", worker=Backend("fenced", file=p.file))
                yield Step(f"{name} begins, fenced", s.having(name, in_tx))
            else:
                yield self._lost_lease(s, name, p)
        elif not self.rules.session_before_repair:
            replaced = s.row.held and s.row.token != name
            broken = f"{name} works outside a transaction beside another holder" if replaced else ""
            yield Step(f"{name} puts right what was left", s.having(name, p._replace(phase="repaired")), "own", broken)
        else:
            yield from self._lock_session(s, name, p)

    @staticmethod
    def _fence_holds(s: State, name: Name) -> bool:
        return s.row.token == name and s.row.held

    def _lost_lease(self, s: State, name: Name, p: Process) -> Step:
        """Return what follows when the fence does not find a row of ours."""
        freed = s.row.token == name and not s.row.held
        operator = freed if self.rules.verdict_from_row else not p.noticed
        return self._give_up(s, name, p, f"{name} finds that the row is not its own", operator=operator)

    def _lost_worker(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        if p.phase == "committing" and p.old and p.old.tx == "commit":
            return  # In doubt: it waits for the outcome.
        # Ended with 57P01, so by an operator, as long as it believes that the guard stands.
        operator = p.terminated and not p.noticed and not self.rules.verdict_from_row
        yield self._give_up(s, name, p, f"{name} sees that its connection is lost", operator=operator)

    @staticmethod
    def _give_up(s: State, name: Name, p: Process, label: str, *, operator: bool) -> Step:
        goal: Phase = "stopped" if operator else "away"
        broken = f"{name} stops for good, and no operator asked for it" if operator and not p.asked else ""
        return Step(label, s.having(name, p._replace(phase="freeing", goal=goal)), violation=broken)

    def _in_tx(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        sent = p._replace(phase="committing", worker=Backend("commit", file=p.file))
        yield Step(f"{name} sends COMMIT", s.having(name, sent))
        yield Step(f"{name} rolls back, to try again", s.having(name, p._replace(phase="leading", worker=Backend())))

    def _committing(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        if p.worker and not p.worker.tx:
            yield Step(f"{name} learns of its commit", s.having(name, p._replace(phase="leading", file=p.file + 1)))

    # Outside a transaction.

    def _lock_session(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        worker = Backend(shared=True, file=p.file)
        if not self.rules.session_lock_fenced:
            yield Step(f"{name} locks its session", s.having(name, p._replace(phase="locked", worker=worker)))
        elif self._fence_holds(s, name):
            ready = p._replace(phase="ready", worker=worker)
            yield Step(f"{name} locks its session and records `running`, fenced", s.having(name, ready))
        else:
            yield self._lost_lease(s, name, p)

    def _record_running(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        if self._fence_holds(s, name):
            yield Step(f"{name} records `running`, fenced", s.having(name, p._replace(phase="ready")))
        else:
            yield self._lost_lease(s, name, p)

    def _run_alone(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        yield Step(f"{name} starts a statement outside a transaction", s.having(name, p._replace(phase="alone")))

    def _ended_alone(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        yield Step(f"{name}'s statement ends", s.having(name, p._replace(phase="ran")))

    def _record_completed(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        if self._fence_holds(s, name):
            after, broken = self._commit(s, name, p.file)
            leading = p._replace(phase="leading", file=p.file + 1, worker=Backend())
            yield Step(f"{name} records `completed`, fenced", after.having(name, leading), violation=broken)
        else:
            yield self._lost_lease(s, name, p)

    @staticmethod
    def _commit(s: State, name: Name, file: int) -> tuple[State, str]:
        if file < s.applied:
            return s, f"{name} commits file {file + 1} a second time"
        return s._replace(applied=file + 1), ""

    # Release.

    def _freeing(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        after = s.having(name, p._replace(phase="unguarding", worker=p.worker and Backend()))
        if p.worker is None:
            yield Step(f"{name} cannot free the row", after)
            return
        if s.row.token == name:
            after = after._replace(row=Row())
        yield Step(f"{name} frees the row, if it is its own", after)
        if p.old is None and self._may_fail(s, "link"):
            late = p._replace(phase="unguarding", worker=None, old=Backend("late free"))
            after = s.having(name, late)._replace(faults=s.faults | {"link"})
            yield Step(f"{name} frees the row, but that arrives late", after, "fault")

    def _unguarding(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        after = s.having(name, Process(p.goal, old=p.old))
        if s.guard == name:
            after = after._replace(guard="")
        yield Step(f"{name} lets the guard go, and is {p.goal}", after)

    def _guard_thread(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        if not self.rules.guard or p.phase in ("away", "freeing", "unguarding"):
            return
        if s.guard != name and not p.noticed:
            yield Step(f"{name} notices that its guard is lost", s.having(name, p._replace(noticed=True)))
        elif p.noticed and not s.guard:
            won = s.having(name, p._replace(noticed=False))._replace(guard=name)
            yield Step(f"{name} wins its guard back", won)

    # --- The server, on its own ---------------------------------------------------------------------------

    def _server(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        if p.worker and p.worker.tx == "commit":
            after, broken = self._commit(s, name, p.worker.file)
            yield Step(f"{name}'s commit is done", after.having(name, p._replace(worker=Backend())), "time", broken)
        if p.old:
            yield Step(f"{name}'s old backend ends", s.having(name, p._replace(old=None)), "time")
            yield from self._old_backend_works(s, name, p, p.old)
        if s.guard == name and p.phase == "dead":
            yield Step(f"the dead {name}'s guard ends", s._replace(guard=""), "time")
        if p.frozen:
            if s.guard == name:
                yield Step(f"{name}'s guard expires", s._replace(guard=""), "time")
            if p.worker and p.worker.tx == "fenced":
                yield Step(f"{name}'s transaction expires", s.having(name, p._replace(worker=None)), "time")

    def _old_backend_works(self, s: State, name: Name, p: Process, old: Backend) -> Iterator[Step]:
        gone = s.having(name, p._replace(old=None))
        if old.tx == "commit":
            after, broken = self._commit(gone, name, old.file)
            yield Step(f"{name}'s old backend commits", after, "time", broken)
        elif old.tx == "late free" and s.row.token == name:
            broken = f"{name} frees its own later lease" if self._stands(s, name) else ""
            yield Step(f"{name}'s old backend frees the row", gone._replace(row=Row()), "time", broken)

    # --- Failures -----------------------------------------------------------------------------------------

    def _may_fail(self, s: State, fault: str) -> bool:
        return len(s.faults) < self.scenario.faults and fault not in s.faults

    def _faults(self, s: State, name: Name, p: Process) -> Iterator[Step]:
        if p.frozen:
            # Not `own`: it may also stay frozen forever.
            yield Step(f"{name} thaws", s.having(name, p._replace(frozen=False)), "fault")
        if p.phase in _OVER:
            return

        def after(fault: str, process: Process) -> State:
            return s.having(name, process)._replace(faults=s.faults | {fault})

        if p.phase not in ("away", "unguarding"):
            if not p.frozen and self._may_fail(s, f"freeze {name}"):
                yield Step(f"{name} freezes", after(f"freeze {name}", p._replace(frozen=True)), "fault")
            if self._may_fail(s, "crash") and not (_works(p.worker) and p.old):
                old = p.worker if _works(p.worker) else p.old
                yield Step(f"{name} crashes", after("crash", Process("dead", old=old)), "fault")
        if _works(p.worker) and p.old is None and self._may_fail(s, "link"):
            lost = p._replace(worker=None, old=p.worker)
            yield Step(f"{name}'s worker is cut off from the server", after("link", lost), "fault")
        if s.guard == name and self._may_fail(s, "guard"):
            yield Step(f"{name}'s guard alone is terminated", after("guard", p)._replace(guard=""), "fault")

    def _operator_frees(self, s: State) -> Step:
        row = Row(s.row.token) if s.row.token else Row()
        after = s._replace(row=row, faults=s.faults | {"operator"})
        if s.row.token:
            after = after.having(s.row.token, after.process(s.row.token)._replace(asked=True))
        return Step("an operator frees the row", after, "fault")

    # --- A replica of the earlier system ------------------------------------------------------------------

    def _legacy_may_touch(self, s: State) -> bool:
        """Tell whether acquire_… and release_stale_… treat a row with a token as abandoned."""
        if self.rules.guard and self.rules.legacy_sees_guard and s.guard:
            return False
        return not (self.rules.legacy_sees_session and self._session_locked(s))

    def _legacy(self, s: State) -> Iterator[Step]:
        if s.legacy == "start":
            after = s._replace(legacy="waiting")
            stale = self._legacy_may_touch(s) if s.row.token else not s.row.fresh
            broken = ""
            if s.row.held and stale and not self._row_locked(s):
                after, broken = after._replace(row=Row()), self._robs(s, "")
            yield Step("the earlier system releases stale locks", after, violation=broken)
        elif s.legacy == "waiting":
            free = self._legacy_may_touch(s) if s.row.token else not s.row.held
            if free and not self._row_locked(s):
                after = s._replace(legacy="working", row=Row(held=True, fresh=True))
                yield Step("the earlier system takes the row", after, violation=self._robs(s, ""))
            yield self._legacy_releases(s, "gives up, and releases all the same")
        elif s.legacy == "working":
            yield self._legacy_releases(s, "is done, and releases")
            if self._may_fail(s, "legacy crash"):
                after = s._replace(legacy="dead", faults=s.faults | {"legacy crash"})
                yield Step("the earlier system crashes", after, "fault")

    def _legacy_releases(self, s: State, how: str) -> Step:
        after, broken = s._replace(legacy="gone"), ""
        if s.row.held and not self._row_locked(s) and not (s.row.token and self.rules.legacy_release_spares_token):
            after, broken = after._replace(row=Row()), self._robs(s, "")
        return Step(f"the earlier system {how}", after, violation=broken)


def _backends(process: Process) -> tuple[Backend, ...]:
    return tuple(backend for backend in (process.worker, process.old) if backend is not None)


def _works(backend: Backend | None) -> bool:
    """Tell whether a backend does or holds anything that outlives its client."""
    return backend is not None and (backend.shared or backend.tx != "")


class _Explored:
    """The states that were reached, and how."""

    def __init__(self, start: State) -> None:
        self.states = [start]
        self.number = {start: 0}
        self.came: list[tuple[int, Step] | None] = [None]
        self.back: list[list[int]] = [[]]
        """For each state, the states that lead to it without anything going wrong."""

    def add(self, origin: int, step: Step) -> bool:
        """Note a step; tell whether it leads to a new state."""
        found = self.number.get(step.after)
        if found is None:
            # A and B are alike: of two states that only swap their names, one is enough.
            found = self.number.get(step.after.mirrored())
        new = found is None
        if found is None:
            found = self.number[step.after] = len(self.states)
            self.states.append(step.after)
            self.came.append((origin, step))
            self.back.append([])
        if step.cause != "fault":
            self.back[found].append(origin)
        return new

    def way(self, number: int) -> tuple[Step, ...]:
        """Return the steps from the start to a state."""
        steps = []
        while (came := self.came[number]) is not None:
            number, step = came
            steps.append(step)
        return tuple(reversed(steps))


def explore(rules: Rules = Rules(), scenario: Scenario = Scenario(), *, tolerating: Sequence[str] = ()) -> Result:  # noqa: B008
    """Visit every state that can be reached, and stop at the first that breaks a promise.

    Then make sure that from every state in which somebody could continue, everyone can finish, even if nothing that is
    frozen thaws. A violation whose text contains one of `tolerating` is ignored.
    """
    collecting = gc.isenabled()
    gc.disable()  # nothing here is cyclic, and looking for cycles takes longer than everything else
    try:
        return _explore(Model(rules, scenario), tolerating)
    finally:
        if collecting:
            gc.enable()


def _explore(model: Model, tolerating: Sequence[str]) -> Result:
    explored = _Explored(model.start())
    queue = deque([0])
    transitions = 0
    while queue:
        origin = queue.popleft()
        for step in model.steps(explored.states[origin]):
            transitions += 1
            new = explored.add(origin, step)
            if new:
                queue.append(len(explored.states) - 1)
            for broken in (step.violation, model.violation(step.after) if new else ""):
                if broken and not any(words in broken for words in tolerating):
                    way = (*explored.way(origin), step)
                    return Result(len(explored.states), transitions, Counterexample(broken, way))
    stuck = None if _STUCK in tolerating else _stuck(model, explored)
    return Result(len(explored.states), transitions, stuck)


def _stuck(model: Model, explored: _Explored) -> Counterexample | None:
    """Return the way to the first state from which those still alive can never finish."""
    ends = [number for number, state in enumerate(explored.states) if model.over(state)]
    reaches = set(ends)
    while ends:
        for origin in explored.back[ends.pop()]:
            if origin not in reaches:
                reaches.add(origin)
                ends.append(origin)
    for number, state in enumerate(explored.states):
        if number not in reaches and not model.excused(state):
            return Counterexample(_STUCK, explored.way(number))
    return None
