"""A terminal with a user: a pty that a program is started on."""

from __future__ import annotations

import contextlib
import os
import pty
import select
from typing import TYPE_CHECKING

from kit.processes import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self

    from kit.processes import Run


class Terminal:
    """A pty. A program started with `options` reads what is typed, and its stderr appears on the screen."""

    def __init__(self) -> None:
        """Open it."""
        self._screen, self._line = pty.openpty()
        self._seen = b""

    def __enter__(self) -> Self:
        """Return the terminal, which is already open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        os.close(self._screen)
        os.close(self._line)

    @property
    def options(self) -> dict[str, Any]:
        """The options of `Run` that start a program on this terminal; its stdout goes elsewhere."""
        return {"stdin": self._line, "stderr": self._line}

    @property
    def text(self) -> str:
        """What is on the screen so far."""
        while select.select([self._screen], [], [], 0)[0]:
            with contextlib.suppress(OSError):  # the other side is no longer open
                self._seen += os.read(self._screen, 65536)
        return self._seen.decode(errors="replace").replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Type a text; the character EOT ends the input."""
        os.write(self._screen, text.encode())

    def asked(self, run: Run, timeout: float = 20) -> str:
        """Wait until the screen ends with a question, and return the whole screen."""

        def question() -> str:
            ended = not run.running
            text = self.text
            assert text.endswith("[y/N] ") or not ended, f"ended without a question: {text}"
            return text if text.endswith("[y/N] ") else ""

        return until(question, timeout, lambda: f"a question on the screen: {self.text}")

    def answer(self, run: Run, answer: str, meanwhile: Callable[[], object] = lambda: None) -> int:
        """Wait for the question, call `meanwhile`, answer it, and return the exit code."""
        self.asked(run)
        meanwhile()
        self.type(answer)
        return run.wait()
