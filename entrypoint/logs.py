"""The program's log: one event per line on stderr, as JSON or as text for people.

Everything goes through `event`. Foreign texts have been searched for secrets where they came in (`redaction.foreign`).
This module makes sure that one event becomes one line, or several that cannot be mistaken for another event. stdout
belongs to the application.

A start that finds nothing to do logs one plain line. So `logging` and python-json-logger, whose import takes 15 ms, are
only imported when a line needs them: see `_plain_json` and `adopt_other_packages`.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import _local, start_new_thread

from entrypoint.records import NamedTuple
from entrypoint.redaction import (
    catch,
    catch_values,
    foreign,
    know,
    search_for,
    secrets_here,
    visible,
    visible_json,
    visible_lines,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Mapping
    from typing import Protocol, TextIO

    class Output(Protocol):
        """A stream that the log can be written to."""

        def write(self, text: str, /) -> object:
            """Write one line, including the line break."""

        def flush(self) -> None:
            """Flush the stream's buffer."""

    from entrypoint.errors import EntrypointError

    # Receives an event's level, name, message and fields.
    Listener = Callable[[int, str, str, Mapping[str, object]], None]

# The same numbers as in `logging`.
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40

LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}
_NAMES = {number: name for name, number in LEVELS.items()}
_COLOURS = {DEBUG: "\033[2m", WARNING: "\033[33m", ERROR: "\033[31m"}
_DIM = "\033[2m"
_RESET = "\033[0m"


class _Configuration(NamedTuple):
    style: str
    level: int
    stream: Output | None
    colours: bool


class Log:
    """Where events go: there is one for the process, and one for each call of `entrypoint.api`."""

    __slots__ = ("configuration", "everywhere", "listener", "run_id")

    def __init__(self, listener: Listener | None = None) -> None:
        """Write nothing yet; or pass all events to `listener` instead of writing them."""
        self.configuration = _Configuration("text", WARNING, None, colours=False)
        self.listener = listener
        self.run_id = ""
        self.everywhere: dict[str, object] = {}
        """The fields of every JSON line, in addition to its own."""


class _Here(_local):
    """The current thread's log; by default, the process's."""

    log = Log()


_here = _Here()
_formatter: logging.Formatter | None = None


def event(level: int, name: str, message: str, **fields: object) -> None:
    """Log an event: its dotted `name`, a `message` that is complete without the rest, and `fields` for programs.

    Never raises: a log that cannot be written must not disturb a start.
    """
    log = _here.log
    if log.listener is not None:
        present = {key: value for key, value in fields.items() if value is not None}
        log.listener(level, name, catch(message), catch_values(present))
        return
    to = log.configuration
    if level < to.level or to.stream is None:
        return
    now = time.time()
    message = catch(message)
    present = {key: value for key, value in fields.items() if value is not None}
    line = (
        _as_json(now, level, name, message, present)
        if to.style == "json"
        else _as_text(now, level, message, catch_values(present))
    )
    try:
        to.stream.write(line + "\n")
        to.stream.flush()
    except (OSError, ValueError):
        return


def pass_on(text: str) -> None:
    """Write text for a terminal, unchanged. Never raises."""
    try:
        if (stream := _here.log.configuration.stream) is not None:
            stream.write(text)
            stream.flush()
    except (OSError, ValueError):
        return


def failure(error: EntrypointError, *, level: int = ERROR) -> None:
    """Log an error with its report, its remedy and its other fields."""
    event(level, error.event, error.message, **_facts_of(error))


def complain(error: EntrypointError) -> None:
    """Log an error in the command line; on a terminal without the time, which the user knows."""
    if on_terminal():
        pass_on(f"{_coloured(ERROR, _lines(ERROR, catch(error.message), catch_values(_facts_of(error))))}\n")
    else:
        failure(error)


def failure_as_json(error: EntrypointError) -> str:
    """Return an error as a line of the JSON log, whatever the style of this log is."""
    facts = {name: value for name, value in _facts_of(error).items() if value is not None}
    return _as_json(time.time(), ERROR, error.event, catch(error.message), facts)


def described(name: str) -> str:
    """Return the value of a field that every line has; empty if there is none with this name."""
    return str(_here.log.everywhere.get(name, ""))


def _facts_of(error: EntrypointError) -> dict[str, object]:
    report = getattr(error, "report", "")
    return {"report": report or None, **error.fields, "remedy": error.remedy or None}


def on_terminal() -> bool:
    """Tell whether the log goes to a terminal as text, and not through a progress display."""
    style, stream = _here.log.configuration.style, _here.log.configuration.stream
    return style == "text" and stream is not None and getattr(stream, "isatty", bool)()


def configure(
    *, style: str, level: str, stream: TextIO | None, secrets: Iterable[str] = (), colours: bool = False
) -> None:
    """Send the log to `stream`. `style`: `json` or `text`; `level`: one of `LEVELS`; `colours`: only for text.

    If the program has no stderr (`stream` is None), there is no log.
    """
    if style == "json" and stream is not None and hasattr(stream, "reconfigure"):
        # JSON is always UTF-8, whatever the locale is.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    _here.log.configuration = _Configuration(style, LEVELS[level], stream, colours)
    know(secrets)


def run_id() -> str:
    """Return the id of this run: in its log lines, its sessions' names and its row in `migration_lock`."""
    log = _here.log
    log.run_id = log.run_id or os.urandom(8).hex()
    return log.run_id


def describe(**fields: object) -> None:
    """Add fields to every JSON line from now on. A line's own fields take precedence; empty ones are left out."""
    log = _here.log
    log.everywhere = {**log.everywhere, **{name: value for name, value in fields.items() if value not in (None, "")}}


def log_to(log: Log) -> None:
    """Send this thread's events to `log` instead of the process's log."""
    _here.log = log


def carried(work: Callable[..., object]) -> Callable[..., None]:
    """Wrap `work` for a new thread, so that it logs and redacts like the current thread."""
    log, secrets = _here.log, secrets_here()

    def as_here(*arguments: object) -> None:
        _here.log = log
        search_for(secrets)
        work(*arguments)

    return as_here


def start_thread(name: str, work: Callable[..., object], *arguments: object) -> None:
    """Do `work` in a new thread that logs and redacts like this one. Raises RuntimeError if it cannot be started.

    This avoids importing `threading`. But if `threading` is already imported, it must know the thread: otherwise it
    would keep an entry for the ended thread forever, because `logging` asks it for the thread's name.
    """
    threading = sys.modules.get("threading")
    if threading is None:
        start_new_thread(carried(work), arguments)
    else:
        threading.Thread(target=carried(work), args=arguments, name=name, daemon=True).start()


def send_to(stream: Output) -> Output | None:
    """Send the log's lines to another `stream` from now on, in the same style; return the previous one, if any."""
    log = _here.log
    before = log.configuration.stream
    if before is not None:
        log.configuration = log.configuration._replace(stream=stream)
    return before


def adopt_other_packages() -> None:
    """Log other packages' messages as lines of this log, so that nothing reaches the stream unredacted.

    Call this before importing a package that logs.
    """
    import logging

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                message = record.getMessage()
            except Exception:  # noqa: BLE001 - another package's format may not fit its arguments
                message = str(record.msg)
            fields = {}
            if record.exc_info:
                fields["traceback"] = foreign(logging.Formatter().formatException(record.exc_info))
            event(record.levelno, record.name, foreign(message), **fields)

    logging.raiseExceptions = False
    logging.getLogger().handlers[:] = [Forward()]


def _as_json(now: float, level: int, name: str, message: str, fields: Mapping[str, object]) -> str:
    moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
    facts = {**fields, "severity": _severity(level), "run_id": run_id()}
    facts = catch_values({**facts, **{one: value for one, value in _here.log.everywhere.items() if one not in facts}})
    line = {"time": moment, "level": _level_name(level), "event": name, "message": message, **facts}
    return _plain_json(line) or _any_json(line)


def _plain_json(line: Mapping[str, object]) -> str | None:
    """Return `line` as JSON if it is so simple that it needs no JSON library; otherwise None."""
    parts = []
    for key, value in line.items():
        if not key.isprintable() or '"' in key or "\\" in key:  # can come from LOG_FIELDS
            return None
        if isinstance(value, str) and value.isprintable():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{key}": "{escaped}"')
        elif type(value) is int:
            parts.append(f'"{key}": {value}')
        else:
            return None
    return f"{{{', '.join(parts)}}}"


def _any_json(line: Mapping[str, object]) -> str:
    global _formatter  # noqa: PLW0603 - one for the process
    import logging

    if _formatter is None:
        from pythonjsonlogger.json import JsonFormatter

        _formatter = JsonFormatter([], json_ensure_ascii=False)
    text = _formatter.format(logging.makeLogRecord({"msg": line}))
    return visible_json(text)


def _as_text(now: float, level: int, message: str, fields: Mapping[str, object]) -> str:
    """Return an event as text: the time, then `_lines`."""
    moment = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d}"
    if _here.log.configuration.colours:
        moment = f"{_DIM}{moment}{_RESET}"
    return f"{moment} {_coloured(level, _lines(level, message, fields))}"


def _lines(level: int, message: str, fields: Mapping[str, object]) -> str:
    """Return the level unless it is info, the message, and then faults, report and remedy on separate lines."""
    prefix = "" if level == INFO else f"{_level_name(level)}: "
    # Foreign text (a notice, another session's query) must not control the terminal, or look like another event.
    lines = [f"{prefix}{visible(message)}"]
    faults = fields.get("faults")
    if isinstance(faults, list) and not (len(faults) == 1 and str(faults[0]) in message):
        lines += [f"  - {visible(str(fault))}" for fault in faults]
    if report := fields.get("report"):
        lines += [f"  {line}" for line in visible_lines(str(report))]
    if remedy := fields.get("remedy"):
        lines.append(f"  Fix: {visible(str(remedy))}")
    if traceback := fields.get("traceback"):
        lines += [f"  {line}" for line in visible_lines(str(traceback))]
    return "\n".join(lines)


def _coloured(level: int, text: str) -> str:
    colour = _COLOURS.get(level, "") if _here.log.configuration.colours else ""
    return f"{colour}{text}{_RESET}" if colour else text


def _level_name(level: int) -> str:
    """Return a level's name. Other packages may define more levels."""
    return _NAMES.get(level) or ("critical" if level > ERROR else f"level {level}")


def _severity(level: int) -> str:
    """Return the level's name in Google Cloud and syslog. Other packages' levels get the nearest lower name."""
    if level > ERROR:
        return "CRITICAL"
    return _NAMES[max((number for number in _NAMES if number <= level), default=DEBUG)].upper()


def took(milliseconds: float) -> str:
    """Return for a message how long something took: 470 ms, 39.0 s."""
    return f"{milliseconds:.0f} ms" if round(milliseconds) < 1000 else f"{milliseconds / 1000:.1f} s"
