"""`unlock`: show who holds the migration lock, and free it: from a dead holder, or with force from a live one."""

from __future__ import annotations

import os
from typing import NamedTuple

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.database.address import OURS
from entrypoint.database.answers import StatementError
from entrypoint.database.connect import connect
from entrypoint.database.sqlstate import LOCK_NOT_AVAILABLE
from entrypoint.database.target import target_of
from entrypoint.deadline import Deadline, pause
from entrypoint.errors.operator import LedgerChangedError, LockHeldError
from entrypoint.migration.ledger import reading, words
from entrypoint.migration.ledger.finding import find, refuse_intrusion
from entrypoint.migration.ledger.place import TABLES
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.lock import holder, locked
from entrypoint.migration.lock.eviction import TOOL
from entrypoint.operations import for_programs
from entrypoint.redaction import foreign, visible
from entrypoint.survey import start_clocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

    from entrypoint.database.session import Session
    from entrypoint.errors import EntrypointError
    from entrypoint.errors.migration import LockTimeoutError
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.lock.holder import Backend, Observed
    from entrypoint.settings import Settings

    Verdict = Literal["free", "dead", "alive", "unknown", "stranger"]

HELD = 75
"""The exit code if the lock is held, like that of LockHeldError."""

_PATIENCE = 10.0
_LOOK_AGAIN = 0.25
# Contenders hold the guard's lock for a moment at each attempt.
_INSTANT = 2.0
# During a long statement, a holder notices within 4 s that its row was freed, and cancels it (docs/lock.md).
_NOTICE = 8.0
# Time for a terminated session to end.
_END = 5.0


class Unlock(NamedTuple):
    """What was seen. No connection is open while somebody decides."""

    settings: Settings
    place: Place
    sight: Observed

    @property
    def verdict(self) -> Verdict:
        """Whether the lock has a holder, and whether it is alive; unknown for a row of the earlier system."""
        if self.sight.alive:
            return "stranger" if self.sight.only_strangers else "alive"
        if not self.sight.held:
            return "stranger" if self.sight.strangers else "free"
        return "dead" if self.sight.stale else "unknown"


def look(settings: Settings) -> Unlock:
    """Find out who holds the lock. Changes nothing. Raises EntrypointError."""
    session, place = _connect(settings), None
    try:
        place = find(session, settings.schema, Deadline(_PATIENCE), settings.role, settings.command)
        patience = Deadline(_INSTANT)
        sight = holder.observe(session, place, settings.role, Deadline(_PATIENCE))
        while sight.held and sight.taken_by_another and not patience.passed():
            pause(_LOOK_AGAIN)
            sight = holder.observe(session, place, settings.role, Deadline(_PATIENCE))
    except StatementError as error:
        doing = "could not read the migration lock"
        if place is not None and error.sqlstate == LOCK_NOT_AVAILABLE:
            raise _locked(session, place) from error
        raise refused_on(session, settings.schema, settings.role, error, doing, reading=False) from error
    finally:
        session.close()
    return Unlock(settings, place, sight)


def describe(unlock: Unlock) -> str:
    """Describe who holds the lock, for a person."""
    sight = unlock.sight
    row = sight.row
    if row is not None and row.held:
        lines = [f"Row: {visible(words.holder(row))}."]
        lines += [f"Token: {visible(row.token)}"] if row.token else []
    else:
        lines = ["Row: free."]
    lines += [_describe_backend(backend, strange=sight.is_strange(backend)) for backend in sight.backends]
    if not any(backend.guards for backend in sight.backends):
        lines.append("Guard: no session holds its advisory lock.")
    return "\n".join(lines) + "\n"


def as_json(unlock: Unlock | None, steps: Sequence[str] = (), error: EntrypointError | None = None) -> str:
    """Return for a program what was seen, which steps were taken, and the error, if any."""
    sight = None if unlock is None else unlock.sight
    answer = {
        "state": unlock and unlock.verdict,
        "lock": sight and for_programs.lock(sight.row, alive=sight.alive),
        "token": sight and sight.row and sight.row.token,
        "sessions": []
        if sight is None
        else [_documented(one, strange=sight.is_strange(one)) for one in sight.backends],
        "steps": list(steps),
    }
    return for_programs.document(answer, error)


def _documented(backend: Backend, *, strange: bool) -> dict[str, object]:
    held = {"guard": backend.guards, "outside": backend.outside, "founding": backend.makes, "fence": backend.fences}
    return {
        "pid": backend.pid,
        "role": _role(backend, strange=strange).lower(),
        "user": foreign(backend.user),
        "application": foreign(backend.application),
        "client": backend.client or None,
        "state": backend.state or None,
        "transactionSeconds": backend.seconds,
        "since": backend.since or None,
        "holds": [name for name, holds in held.items() if holds],
    }


def leave_alone(unlock: Unlock) -> int:
    """Say why the lock is not freed without force, and return the exit code.

    A live holder is an answer, not an error. Raises LockHeldError if a session of another program holds the lock.
    """
    if unlock.verdict == "stranger":
        raise _held_by_strangers(unlock.sight, "nothing was changed")
    logs.failure(_refusal(unlock), level=logs.WARNING)
    return HELD


def _refusal(unlock: Unlock) -> LockHeldError:
    """Return why a lock that one of our processes, or the earlier system, holds is not freed without force."""
    row = unlock.sight.row
    if unlock.verdict == "unknown":
        message = "The lock's holder is a replica of the earlier migration system, which may or may not be alive"
        remedy = "Wait until its row is 10 minutes old. If you know that it is gone: entrypoint unlock --force."
    else:
        message = "The lock's holder is alive: its session holds the advisory lock"
        remedy = "Wait for it. To stop it: entrypoint unlock --force."
        if frees := words.let_through(row):
            remedy = f"{frees} To stop the holder instead: entrypoint unlock --force."
    return LockHeldError(
        f"{message}; nothing was changed",
        remedy=remedy,
        **words.facts(row),
    )


def _held_by_strangers(sight: Observed, outcome: str) -> LockHeldError:
    strangers = sight.strangers
    keyed = any(backend.keyed for backend in strangers)
    making = all(backend.makes and not (backend.guards or backend.outside) for backend in strangers)
    key = "key that protects creating the migration history" if making else "key of the migration lock"
    named = "; ".join(
        reading.session_in_words(backend.pid, backend.user, backend.application)
        + (f", connected since {backend.since}" if backend.since else "")
        for backend in strangers
    )
    ends = ", ".join(f"pg_terminate_backend({backend.pid})" for backend in strangers)
    if not keyed:
        return LockHeldError(
            f"A session that is not migrating has locked migration_lock: {named}; {outcome}",
            remedy=f"The lock is free again when that transaction ends. To end it: SELECT {ends}; or entrypoint unlock "
            "--force.",
            backends=[backend.pid for backend in strangers],
        )
    return LockHeldError(
        f"A session that is not migrating holds the {key}: {named}; {outcome}",
        remedy=f"Find out what it is; that key is reserved for this program (docs/lock.md). To end it: SELECT {ends}; "
        "or entrypoint unlock --force.",
        backends=[backend.pid for backend in strangers],
    )


def free(unlock: Unlock, say: Callable[[str], None], *, force: bool) -> None:
    """Free the row; with `force`, also end the holder's sessions. Report each step to `say`.

    Raises LockHeldError if the lock is still held at the end, and LedgerChangedError if the row has a new holder.
    """
    refuse_intrusion(unlock.place)
    session = _connect(unlock.settings)
    try:
        _free_row(session, unlock, say)
        suspects = {backend.pid for backend in unlock.sight.backends}
        left = _left(session, unlock, suspects)
        if left and force:
            if unlock.verdict == "stranger":
                # It does not read the row, so it cannot notice.
                keyed = any(backend.keyed for backend in left)
                say(f"Ending the session that {'holds the key' if keyed else 'has locked migration_lock'}.")
            else:
                left = _wait_until_gone(session, unlock, suspects, Deadline(_NOTICE))
                if left:
                    say(f"The holder is still there after {_NOTICE:g} s; ending its sessions.")
            if left:
                _end_sessions(session, unlock, left, say)
                _wait_until_gone(session, unlock, suspects, Deadline(_END))
        elif left:
            say("The holder's sessions end by themselves, or the next holder ends them. To end them now: --force.")
        _verify(session, unlock, say)
    except StatementError as error:
        if error.sqlstate == LOCK_NOT_AVAILABLE:
            raise _locked(session, unlock.place) from error
        schema, role = unlock.settings.schema, unlock.settings.role
        raise refused_on(session, schema, role, error, "could not free the migration lock", reading=False) from error
    finally:
        session.close()


def _locked(session: Session, place: Place) -> LockTimeoutError:
    """Return the error for locked tables or a locked row."""
    return locked.locked_too_long(locked.who_locks(session, place, TABLES[1:]), 0)


def _connect(settings: Settings) -> Session:
    whereabouts = target_of(settings.address, token=os.urandom(8).hex())
    return connect(whereabouts, settings.connect, start_clocks(settings))


def _free_row(session: Session, unlock: Unlock, say: Callable[[str], None]) -> None:
    row = unlock.sight.row
    if row is None or not row.held:
        say("The row is already free.")
        return
    if not holder.free(session, unlock.place, row, unlock.settings.role, Deadline(_PATIENCE)):
        if unlock.verdict == "dead":
            say("The row has changed in the meantime: somebody else has freed it or taken the lock.")
            return
        raise LedgerChangedError(
            "The lock's row has changed since it was shown; nothing was freed",
            remedy="entrypoint unlock shows who holds it now.",
        )
    say("Freed the row.")
    logs.event(
        logs.WARNING if unlock.sight.alive else logs.INFO,
        "lock.freed",
        "freed the row of the migration lock",
        holder=row.who,
        process_id=row.process_id,
        token=row.token,
    )


def _left(session: Session, unlock: Unlock, suspects: set[int]) -> list[Backend]:
    """Return those sessions of the original holder that still hold something.

    They have the name of the row's holder, or they are `suspects`: sessions that were seen at first and have held
    something at every look since, because a migration may change the name of its session. The set is reduced to these.
    If somebody else has taken the lock in the meantime, those sessions are left alone.
    """
    application = unlock.sight.application
    now = holder.observe(session, unlock.place, unlock.settings.role, Deadline(_PATIENCE), application).backends
    suspects &= {backend.pid for backend in now if backend.holds}
    # Behind a pooler, others' sessions may have the name, too, but they hold nothing.
    return [one for one in now if one.holds and (one.application == application or one.pid in suspects)]


def _wait_until_gone(session: Session, unlock: Unlock, suspects: set[int], deadline: Deadline) -> list[Backend]:
    """Wait for the holder to release the lock; return its remaining sessions when the time is over."""
    while True:
        late = deadline.passed()
        left = _left(session, unlock, suspects)
        if late or not left:
            return left
        pause(_LOOK_AGAIN)


def _end_sessions(session: Session, unlock: Unlock, left: list[Backend], say: Callable[[str], None]) -> None:
    forbidden = []
    for backend in left:
        if holder.end(session, backend, Deadline(_PATIENCE)):
            say(f"Ended backend {backend.pid}.")
        else:
            forbidden.append(backend)
    if forbidden:
        users = ", ".join(sorted({foreign(backend.user) for backend in forbidden}))
        raise LockHeldError(
            f"The row is free, but this user may not end the holder's sessions: "
            f"{', '.join(str(backend.pid) for backend in forbidden)}, of user {users}",
            remedy=f"Connect as {users}, or as a member of pg_signal_backend (as a superuser, if {users} is one).",
        )
    logs.event(
        logs.WARNING,
        "lock.ended_holder",
        f"ended {count(len(left), 'session')} that kept the migration lock",
        token=unlock.sight.row.token if unlock.sight.row else None,
    )


def _verify(session: Session, unlock: Unlock, say: Callable[[str], None]) -> None:
    """Look again, and report whether the lock is free or who has taken it since."""
    now = holder.observe(session, unlock.place, unlock.settings.role, Deadline(_PATIENCE), unlock.sight.application)
    before = unlock.sight.row.token if unlock.sight.row else None
    if now.row is not None and now.row.held and (now.row.token != before or now.row.legacy):
        say(f"Another process has taken the lock in the meantime: {visible(words.holder(now.row))}.")
        return
    if now.strangers:
        raise _held_by_strangers(now, "the row is free")
    if now.held or any(backend.guards and backend.application == unlock.sight.application for backend in now.backends):
        raise LockHeldError("The lock is still held", remedy="To see by whom: entrypoint unlock.")
    say("The lock is free.")


def _role(backend: Backend, *, strange: bool) -> str:
    if strange:
        return "Stranger"
    if backend.application.endswith(TOOL):
        return "Command"
    return "Guard" if backend.guards else "Worker" if backend.holds else "Session"


def _describe_backend(backend: Backend, *, strange: bool) -> str:
    what = f"{_role(backend, strange=strange)}: backend {backend.pid} of {visible(foreign(backend.user))}, "
    if (strange or not backend.application.startswith(OURS)) and backend.application:
        what += f"application {visible(foreign(backend.application))}, "
    what += f"from {backend.client}, {backend.state}" if backend.state else "this user may not see what it is doing"
    if backend.seconds is not None:
        what += f", transaction open for {backend.seconds:.0f} s"
    if strange and backend.since:
        what += f", connected since {backend.since}"
    held = [
        words
        for words, true in (
            ("the guard's advisory lock", backend.guards),
            ("the advisory lock of a session outside a transaction", backend.outside),
            ("the advisory lock that protects creating the migration history", backend.makes),
            ("a lock on migration_lock" if strange else "the fence", backend.fences),
        )
        if true
    ]
    return what + (f"; holds {' and '.join(held)}." if held else ".")
