"""PostgreSQL's own parser (`pgparse`), called in a thread that has the stack it needs."""

from __future__ import annotations

import os
import threading

from entrypoint.deadline import SLICE, sliced
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The parser recurses on the C stack, and here does not look at its size: an overflow ends the process (seen with
# 65,000 terms in a chain of additions and 8 MB of stack: 65 bytes for each character). So its thread gets four times
# as much as a text can need. What is not touched costs no memory.
_STACK_BASE = 1 << 20
_STACK_PER_CHARACTER = 256
_LEAST_STACK = 8 << 20


class SyntaxComplaint(NamedTuple):
    """What PostgreSQL's parser says of a text that it does not understand. The server may know better."""

    message: str
    offset: int
    line: int


class _Question:
    """A text, and what the parser makes of it once it is `done`."""

    __slots__ = ("done", "text", "trees")

    def __init__(self, text: str) -> None:
        self.text = text
        self.trees: list[dict[str, Any]] | SyntaxComplaint | None = None
        self.done = threading.Lock()
        self.done.acquire()


class _Thread:
    """A thread that parses, with a stack of so many bytes."""

    def __init__(self, stack: int) -> None:
        """Start it. Raises RuntimeError or ValueError if there is no memory or no process left for it."""
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
        """Hand a question over; None ends the thread."""
        self._questions.append(question)
        self._asked.release()

    def _serve(self) -> None:
        while self._asked.acquire() and (question := self._questions.pop(0)) is not None:
            question.trees = _parsed(question.text)
            question.done.release()


# One thread for all texts: each thread that has called the parser keeps one of the process's 1,024 pthread keys for
# good (pg_query_init of libpg_query), and OpenSSL needs some of them for the next connection.
_thread: _Thread | None = None
# Two calls of `entrypoint.api` may ask at once, and a thread that is told to end answers nobody behind that.
_exchange = threading.Lock()


def parse(text: str) -> list[dict[str, Any]] | SyntaxComplaint | None:
    """Return what PostgreSQL's parser makes of a text: statements, a complaint, or None if it cannot say."""
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
    """Return the thread, with the stack that so many characters need; None if there is none to be had."""
    global _thread  # noqa: PLW0603 - the parser's state is the process's
    needed = _STACK_BASE + _STACK_PER_CHARACTER * characters
    before = _thread if _thread is not None and _thread.process == os.getpid() else None
    if before is not None and before.stack >= needed:
        return before
    stack = _LEAST_STACK if before is None else before.stack
    while stack < needed:  # In powers of two, so that there are few of these threads, whatever the texts.
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
    except Exception:  # noqa: BLE001 - an adviser may fail: RecursionError at a depth of a thousand, seen
        return None
    return trees
