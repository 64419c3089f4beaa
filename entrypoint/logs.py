"""The program's log: one event a line on stderr, as JSON or for a person to read.

Everything goes through `event`, and every line through the redaction. stdout belongs to the application.
"""

from __future__ import annotations

import io
import logging
import time
from logging import DEBUG, ERROR, INFO, WARNING

from entrypoint.redaction import Redactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from entrypoint.errors import EntrypointError

__all__ = ["DEBUG", "ERROR", "INFO", "WARNING", "configure", "event", "failure", "redact"]

LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}

_logger = logging.getLogger("entrypoint")
_handler: logging.Handler = logging.NullHandler()
_COLOURS = {DEBUG: "\033[2m", WARNING: "\033[33m", ERROR: "\033[31m"}
_RESET = "\033[0m"


def event(level: int, name: str, message: str, **fields: object) -> None:
    """Log `message`, complete in itself, under the event's dotted `name`, with `fields` for programs."""
    if _logger.isEnabledFor(level):
        present = {key: value for key, value in fields.items() if value is not None}
        _logger.log(level, message, extra={"event": name, "fields": present})


def failure(error: EntrypointError, *, level: int = ERROR) -> None:
    """Log an error with its cause, its remedy and its facts."""
    report = getattr(error, "report", "")
    fields = {"report": report or None, **error.fields, "remedy": error.remedy or None}
    event(level, error.event, error.message, **fields)


def redact(text: str) -> str:
    """Return `text` without the secrets that the log knows of, for outputs other than the log."""
    return _filter.redactor.text(text)


def configure(*, style: str, level: str, stream: TextIO | None, secrets: Iterable[str] = ()) -> None:
    """Send the log to `stream`: `style` is `json` or `text`, `level` one of `LEVELS`.

    A program without a stderr (`stream` None) has no log. Other packages' warnings come the same way, so that
    nothing reaches the stream unredacted.
    """
    _filter.redactor = Redactor(secrets)
    logging.raiseExceptions = False  # A reader of the log that has gone must not disturb a start.
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    handler = logging.NullHandler() if stream is None else logging.StreamHandler(stream)
    global _handler  # noqa: PLW0603 - the log belongs to the process
    _handler = handler
    handler.addFilter(_filter)
    if style == "json":
        if isinstance(stream, io.TextIOWrapper):
            # JSON is UTF-8 whatever the locale is.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(_JsonLines())
    else:
        handler.setFormatter(_TextLines(colours=bool(stream and stream.isatty())))
    root.addHandler(handler)
    _logger.setLevel(LEVELS[level])


def send_to(stream: TextIO | io.TextIOBase) -> TextIO | io.TextIOBase | None:
    """Send the log's lines to another `stream` from now on, in the same style; return the one before, if any."""
    if not isinstance(_handler, logging.StreamHandler):
        return None
    before: TextIO | None = _handler.setStream(stream)
    return before


class _Redacting(logging.Filter):
    """Takes the secrets out of a record before any formatter sees it."""

    redactor = Redactor()

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.redactor.text(record.getMessage()), ()
        record.fields = self.redactor.mapping(getattr(record, "fields", {}))
        record.event = getattr(record, "event", record.name)
        if record.exc_info and not record.exc_text:
            record.exc_text = self.redactor.text(logging.Formatter().formatException(record.exc_info))
        return True


_filter = _Redacting()


class _JsonLines(logging.Formatter):
    """JSON, through python-json-logger; that package is imported with the first line."""

    _formatter: logging.Formatter | None = None

    def format(self, record: logging.LogRecord) -> str:
        if self._formatter is None:
            from pythonjsonlogger.json import JsonFormatter

            self._formatter = JsonFormatter([], json_ensure_ascii=False)
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.event,  # type: ignore[attr-defined]  # set by _Redacting
            "message": record.getMessage(),
            **record.fields,  # type: ignore[attr-defined]  # set by _Redacting
        }
        if record.exc_text:
            line["traceback"] = record.exc_text
        return self._formatter.format(logging.makeLogRecord({"msg": line}))


class _TextLines(logging.Formatter):
    """Lines for a person: time, level where it matters, message, then report and remedy on lines of their own."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = record.fields  # type: ignore[attr-defined]  # set by _Redacting
        moment = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}.{int(record.msecs):03d}"
        level = "" if record.levelno == INFO else f"{record.levelname.lower()}: "
        lines = [f"{level}{record.getMessage()}"]
        faults = fields.get("faults")
        if isinstance(faults, list):
            lines += [f"  - {fault}" for fault in faults]
        if report := fields.get("report"):
            lines += [f"  {line}" for line in str(report).splitlines()]
        if remedy := fields.get("remedy"):
            lines.append(f"  What to do: {remedy}")
        if record.exc_text:
            lines.append(record.exc_text)
        text = "\n".join(lines)
        if self._colours:
            colour = _COLOURS.get(record.levelno, "")
            return f"\033[2m{moment}\033[0m {colour}{text}{_RESET if colour else ''}"
        return f"{moment} {text}"
