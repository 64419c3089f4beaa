"""The program's log: one event a line on stderr, as JSON or for a person to read.

Everything goes through `event`. Foreign texts have been searched for secrets where they came in (`redaction.foreign`);
here one event becomes one line, or several that cannot be taken for another event. stdout belongs to the application.

A start that finds nothing to do logs one plain line. So `logging` and python-json-logger, 15 ms of imports, are left
until there is a line that needs them: see `_plain_json` and `adopt_other_packages`.
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
        """Where the log goes."""

        def write(self, text: str, /) -> object:
            """Write one line, with its end."""

        def flush(self) -> None:
            """Send it on its way."""

    from entrypoint.errors import EntrypointError

    # Takes an event's level, name, message and fields.
    Hearer = Callable[[int, str, str, Mapping[str, object]], None]

# As `logging` counts them.
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
    """Where events go: one of these for the process, and one for each call of `entrypoint.api`."""

    __slots__ = ("configuration", "everywhere", "hearer", "run_id")

    def __init__(self, hearer: Hearer | None = None) -> None:
        """Begin silent; or tell all events to `hearer`, instead of writing them."""
        self.configuration = _Configuration("text", WARNING, None, colours=False)
        self.hearer = hearer
        self.run_id = ""
        self.everywhere: dict[str, object] = {}
        """What every line of JSON says beside its own facts."""


class _Here(_local):
    """What the thread that asks has of its own; without that, it is the process's."""

    log = Log()


_here = _Here()
_formatter: logging.Formatter | None = None


def event(level: int, name: str, message: str, **fields: object) -> None:
    """Log `message`, complete in itself, under the event's dotted `name`, with `fields` for programs.

    Never raises: a log that cannot be written must not disturb a start.
    """
    log = _here.log
    if log.hearer is not None:
        present = {key: value for key, value in fields.items() if value is not None}
        log.hearer(level, name, catch(message), catch_values(present))
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
    """Write what another program shows on a terminal, as it is. Never raises."""
    try:
        if (stream := _here.log.configuration.stream) is not None:
            stream.write(text)
            stream.flush()
    except (OSError, ValueError):
        return


def failure(error: EntrypointError, *, level: int = ERROR) -> None:
    """Log an error with its cause, its remedy and its facts."""
    event(level, error.event, error.message, **_facts_of(error))


def complain(error: EntrypointError) -> None:
    """Log what is wrong with a command line; on a terminal without the time, as whoever has typed it knows that."""
    if on_terminal():
        pass_on(f"{_coloured(ERROR, _lines(ERROR, catch(error.message), catch_values(_facts_of(error))))}\n")
    else:
        failure(error)


def failure_as_json(error: EntrypointError) -> str:
    """Return an error as the JSON log has it, whatever the style of this log is."""
    facts = {name: value for name, value in _facts_of(error).items() if value is not None}
    return _as_json(time.time(), ERROR, error.event, catch(error.message), facts)


def described(name: str) -> str:
    """Return what every line says under this name; empty if that is not known."""
    return str(_here.log.everywhere.get(name, ""))


def _facts_of(error: EntrypointError) -> dict[str, object]:
    report = getattr(error, "report", "")
    return {"report": report or None, **error.fields, "remedy": error.remedy or None}


def on_terminal() -> bool:
    """Tell whether a person reads the log as it is written, on a terminal that nobody else draws on."""
    style, stream = _here.log.configuration.style, _here.log.configuration.stream
    return style == "text" and stream is not None and getattr(stream, "isatty", bool)()


def configure(
    *, style: str, level: str, stream: TextIO | None, secrets: Iterable[str] = (), colours: bool = False
) -> None:
    """Send the log to `stream`: `style` is `json` or `text`, `level` one of `LEVELS`; `colours` are for text.

    A program without a stderr (`stream` None) has no log.
    """
    if style == "json" and stream is not None and hasattr(stream, "reconfigure"):
        # JSON is UTF-8 whatever the locale is.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    _here.log.configuration = _Configuration(style, LEVELS[level], stream, colours)
    know(secrets)


def run_id() -> str:
    """Return what tells this run's lines from others': its sessions and its row in the lock have it, too."""
    log = _here.log
    log.run_id = log.run_id or os.urandom(8).hex()
    return log.run_id


def describe(**fields: object) -> None:
    """Have every line of JSON say this from now on, behind its own facts, which win; what is empty is left out."""
    log = _here.log
    log.everywhere = {**log.everywhere, **{name: value for name, value in fields.items() if value not in (None, "")}}


def log_to(log: Log) -> None:
    """Send this thread's events to `log`, and not to the process's."""
    _here.log = log


def carried(work: Callable[..., object]) -> Callable[..., None]:
    """Return `work` for a new thread, which is to log and to redact as the thread does that starts it."""
    log, secrets = _here.log, secrets_here()

    def as_here(*arguments: object) -> None:
        _here.log = log
        search_for(secrets)
        work(*arguments)

    return as_here


def start_thread(name: str, work: Callable[..., object], *arguments: object) -> None:
    """Do `work` in a new thread, which logs and redacts as this one does. Raises RuntimeError if none is to be had.

    Not through `threading`, which a start does without. Where it is imported, it has to know the thread: otherwise
    `logging`, which asks for the thread's name, makes it remember one that has ended, for good.
    """
    threading = sys.modules.get("threading")
    if threading is None:
        start_new_thread(carried(work), arguments)
    else:
        threading.Thread(target=carried(work), args=arguments, name=name, daemon=True).start()


def send_to(stream: Output) -> Output | None:
    """Send the log's lines to another `stream` from now on, in the same style; return the one before, if any."""
    log = _here.log
    before = log.configuration.stream
    if before is not None:
        log.configuration = log.configuration._replace(stream=stream)
    return before


def adopt_other_packages() -> None:
    """Let other packages' warnings come as lines of this log, so that nothing reaches the stream unredacted.

    To be called before a package that logs is imported.
    """
    import logging

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                message = record.getMessage()
            except Exception:  # noqa: BLE001 - somebody's format and arguments that do not fit
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
    """Return `line` as JSON if nothing in it needs a JSON library to be written: small numbers and printable text."""
    parts = []
    for key, value in line.items():
        if not key.isprintable() or '"' in key or "\\" in key:  # One of LOG_FIELDS.
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
    global _formatter  # noqa: PLW0603 - it is the process's, as the log is
    import logging

    if _formatter is None:
        from pythonjsonlogger.json import JsonFormatter

        _formatter = JsonFormatter([], json_ensure_ascii=False)
    text = _formatter.format(logging.makeLogRecord({"msg": line}))
    return visible_json(text)


def _as_text(now: float, level: int, message: str, fields: Mapping[str, object]) -> str:
    """Return lines for a person: the time, and `_lines`."""
    moment = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d}"
    if _here.log.configuration.colours:
        moment = f"{_DIM}{moment}{_RESET}"
    return f"{moment} {_coloured(level, _lines(level, message, fields))}"


def _lines(level: int, message: str, fields: Mapping[str, object]) -> str:
    """Return level where it matters, message, then report and remedy on their own lines."""
    prefix = "" if level == INFO else f"{_level_name(level)}: "
    # What comes from outside (a notice, somebody's query) must not command a terminal, nor pose as another event.
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
    """Return a level's name; other packages have levels of their own."""
    return _NAMES.get(level) or ("critical" if level > ERROR else f"level {level}")


def _severity(level: int) -> str:
    """Return a level as Google Cloud and syslog's readers know it: a fixed word for each, other packages' included."""
    if level > ERROR:
        return "CRITICAL"
    return _NAMES[max((number for number in _NAMES if number <= level), default=DEBUG)].upper()
