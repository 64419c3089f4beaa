"""Calls PostgreSQL's own parser (`pgparse`), in a thread with a large enough stack."""

from __future__ import annotations

import os
import threading

from entrypoint.deadline import SLICE, sliced
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The parser recurses on the C stack and, outside the server, does not check its depth: an overflow kills the process
# (seen with 65,000 terms in a chain of additions and 8 MB of stack, which is 65 bytes per character). So its thread
# gets four times as much as a text can need. Pages that are never touched use no memory.
_STACK_BASE = 1 << 20
_STACK_PER_CHARACTER = 256
_LEAST_STACK = 8 << 20


class SyntaxComplaint(NamedTuple):
    """A syntax error found by PostgreSQL's parser. A newer server may still accept the text."""

    message: str
    offset: int
    line: int


class _Question:
    """A text to parse, and the parser's answer once the lock `done` is released."""

    __slots__ = ("done", "text", "trees")

    def __init__(self, text: str) -> None:
        self.text = text
        self.trees: list[dict[str, Any]] | SyntaxComplaint | None = None
        self.done = threading.Lock()
        self.done.acquire()


class _Thread:
    """A thread that parses, with a stack of `stack` bytes."""

    def __init__(self, stack: int) -> None:
        """Start the thread. Raises RuntimeError or ValueError if it cannot start or the stack is too large."""
        self.stack = stack
        # A forked child has this object, but not the thread.
        self.process = os.getpid()
        self._questions: list[_Question | None] = []
        self._asked = threading.Semaphore(0)
        before = threading.stack_size(stack)
        try:
            threading.Thread(target=self._serve, name="pgparse", daemon=True).start()
        finally:
            threading.stack_size(before)

    def put(self, question: _Question | None) -> None:
        """Pass a question to the thread; None ends it."""
        self._questions.append(question)
        self._asked.release()

    def _serve(self) -> None:
        while self._asked.acquire() and (question := self._questions.pop(0)) is not None:
            question.trees = _parsed(question.text)
            question.done.release()


# One thread for all texts: each thread that calls the parser uses up one of the process's 1,024 pthread keys for good
# (pg_query_init in libpg_query), and OpenSSL needs some of them for the next connection.
_thread: _Thread | None = None
# Two calls of `entrypoint.api` may ask at once, and a thread that has been told to end answers no further questions.
_exchange = threading.Lock()


def parse(text: str) -> list[dict[str, Any]] | SyntaxComplaint | None:
    """Parse a text; return its statements as trees, a complaint, or None if the parser is missing or fails."""
    question = _Question(text)
    with _exchange:
        thread = _thread_for(len(text))
        if thread is None:
            return None
        thread.put(question)
    while not sliced(lambda seconds: question.done.acquire(timeout=seconds), SLICE):
        pass
    return question.trees


def _thread_for(characters: int) -> _Thread | None:
    """Return the thread, with enough stack for a text of `characters`; None if it cannot be started."""
    global _thread  # noqa: PLW0603 - the parser's state is the process's
    needed = _STACK_BASE + _STACK_PER_CHARACTER * characters
    before = _thread if _thread is not None and _thread.process == os.getpid() else None
    if before is not None and before.stack >= needed:
        return before
    stack = _LEAST_STACK if before is None else before.stack
    while stack < needed:  # By doubling, so that few such threads are ever started.
        stack *= 2
    try:
        larger = _Thread(stack)
    except (RuntimeError, ValueError):
        return None
    if before is not None:
        before.put(None)
    _thread = larger
    return larger


def _parsed(text: str) -> list[dict[str, Any]] | SyntaxComplaint | None:
    try:
        import pgparse  # 11 MB
    except ImportError:
        return None
    try:
        trees: list[dict[str, Any]] = pgparse.parse(text)
    except pgparse.PGQueryError as error:
        offset = max(error.position - 1, 0)
        return SyntaxComplaint(error.message, offset, text.count("\n", 0, offset) + 1)
    except Exception:  # noqa: BLE001 - the parser only advises, so it may fail: RecursionError was seen at depth 1,000
        return None
    return trees
