"""A progress bar for `migrate` on a terminal: how many files are done, and what the current one is doing.

It stays below the lines of the log, and is erased at the end, whatever happens. The cursor is never hidden, so it need
not be restored, not even after SIGKILL.

rich is imported only if a bar is shown.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.redaction import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType

    from entrypoint.migration.observe.board import Board

_FRAMES_A_SECOND = 5
_BAR_WIDTH = 30


@contextlib.contextmanager
def progress_bar(board: Board) -> Iterator[None]:
    """Show the `board` on stderr, which is a terminal, while the context is open."""
    from rich.console import Console
    from rich.live import Live

    class Terminal(Console):
        """A console that never hides the cursor."""

        def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002 - as rich has it
            return False

    console = Terminal(file=sys.stderr, force_terminal=True, highlight=False)
    began = time.monotonic()
    above = _Above(console)
    live = Live(
        get_renderable=lambda: _picture(board, time.monotonic(), began),
        console=console,
        refresh_per_second=_FRAMES_A_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with live:
        before = logs.send_to(above)
        try:
            yield
        finally:
            if before is not None:
                logs.send_to(before)


class _Above(io.TextIOBase):
    """The log's output while the bar is shown: rich prints each line, and draws the bar again below it."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> int:
        from rich.text import Text

        # Neither wrap nor cut lines, so that they can be copied from the terminal.
        # rich 15 keeps the newline, and prints its own as well.
        self._console.print(Text.from_ansi(text.removesuffix("\n")), soft_wrap=True)
        return len(text)


def _picture(board: Board, now: float, began: float) -> RenderableType:
    """Return the bar and the line below it."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 1))
    if not board.pending:  # Only another tool has something to do, and it does not say how much.
        return Text(f"{_clock(now - began)} {describe(board, now)}", no_wrap=True, overflow="ellipsis")
    row.add_row(
        Text(f"{board.done} of {count(board.pending, 'migration')}"),
        ProgressBar(total=board.pending, completed=board.done, width=_BAR_WIDTH),
        Text(_clock(now - began)),
    )
    return Group(row, Text(describe(board, now), no_wrap=True, overflow="ellipsis", style="dim"))


def describe(board: Board, now: float) -> str:
    """Return the current activity in one line. `now` is a time from `time.monotonic`."""
    if board.waiting_for:
        return f"waiting for the migration lock: {visible(board.waiting_for)}"
    activity, seen = board.activity, board.seen
    if activity is None:
        return visible(board.running)
    if activity.retry:
        return f"{activity.file}: {activity.retry}"
    text = f"{activity.file}, {activity.words()}, {now - activity.since:.0f} s"
    known = activity.walk.progress if activity.walk else None
    if seen is not None and seen.activity.same_transaction(activity) and seen.activity.statement == activity.statement:
        if seen.blockers:
            return f"{text}: waits for a lock that {seen.blockers[0].short} holds"
        known = known or seen.progress
    return f"{text}: {known.words()}" if known else text


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
