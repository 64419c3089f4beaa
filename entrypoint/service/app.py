"""The application: paths, and what all of them share (limits, headers, errors as JSON, the access log)."""

from __future__ import annotations

import http
import time

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from entrypoint import logs
from entrypoint.redaction import foreign
from entrypoint.service import api, page
from entrypoint.service.api import as_json
from entrypoint.service.cache import StoppingError
from entrypoint.service.connections import LONGEST_HEAD
from entrypoint.startup import internal_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from entrypoint.service.api import Service

# More than a login form needs; nothing else reads a body.
MOST_BODY = 16_384
_AMBIGUOUS = "Content-Length and Transfer-Encoding cannot be used together"
_TOO_LARGE = f"More than {MOST_BODY} bytes"
_HEAD_TOO_LARGE = f"More than {LONGEST_HEAD} bytes before the body"
_CLOSE = {"Connection": "close"}
# Characters of a path in the log.
_LONGEST_PATH = 200
# Paths that programs request all the time.
_ROUTINE = ("/livez", "/readyz", "/metrics", "/badge.svg", "/admin/live", "/admin/badge.svg")


def build_app(service: Service) -> Starlette:
    """Return the application for `service`."""
    app = Starlette(
        routes=[*api.routes(), *page.routes(service)],
        middleware=[Middleware(_Frame)],
        exception_handlers={HTTPException: _as_answer, StoppingError: _stopping},
    )
    app.state.service = service
    # Such a redirect would follow the request's Host, and never use https.
    app.router.redirect_slashes = False
    return app


async def _as_answer(_request: Request, error: Exception) -> Response:
    """Answer an HTTPException in the same form as everything else."""
    if not isinstance(error, HTTPException):
        raise error
    standard = http.HTTPStatus(error.status_code).phrase
    message = {404: "No such path; see /openapi.json", 405: "This path does not support that method"}
    said = message.get(error.status_code, standard) if error.detail == standard else error.detail
    return as_json({"success": False, "error": said}, error.status_code, error.headers)


async def _stopping(_request: Request, _error: Exception) -> Response:
    return as_json({"success": False, "error": "The service is stopping"}, 503, _CLOSE)


class _Frame:
    """Wraps every request: refuses large ones, logs the answers, and handles internal errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        answered = received = 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MOST_BODY:
                raise HTTPException(413, _TOO_LARGE, _CLOSE)
            return message

        async def note(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
                MutableHeaders(scope=message).setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        try:
            if _head(scope) > LONGEST_HEAD:
                await as_json({"success": False, "error": _HEAD_TOO_LARGE}, 431, _CLOSE)(scope, receive, note)
            elif _is_ambiguous(scope):
                await as_json({"success": False, "error": _AMBIGUOUS}, 400, _CLOSE)(scope, receive, note)
            elif _declared(scope) > MOST_BODY:
                await as_json({"success": False, "error": _TOO_LARGE}, 413, _CLOSE)(scope, receive, note)
            else:
                await self._app(scope, count, note)
        except Exception as error:
            if isinstance(error, HTTPException):
                raise
            logs.failure(internal_error(error))
            if answered:
                raise
            await as_json({"success": False, "error": "Internal error; see the log"}, 500)(scope, receive, note)
        finally:
            _log(scope, answered, time.perf_counter() - began)


def _head(scope: Scope) -> int:
    """Return the approximate size of the request line and headers. h11 counts only incomplete requests."""
    headers = sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"])
    return len(scope["raw_path"]) + len(scope["query_string"]) + headers


def _is_ambiguous(scope: Scope) -> bool:
    """Return whether a proxy may see a different end of the request than we do (RFC 9112, 6.3)."""
    names = {name for name, _ in scope["headers"]}
    return b"content-length" in names and b"transfer-encoding" in names


def _declared(scope: Scope) -> int:
    """Return the size of the body that a request announces, if it does."""
    length = Headers(scope=scope).get("content-length", "")
    return int(length) if length.isascii() and length.isdecimal() else 0  # h11 accepts at most 20 digits


def _log(scope: Scope, status: int, seconds: float) -> None:
    """Log a request, without its query and headers, which may contain secrets."""
    # Cut last: part of a cut token would not be recognized, and would stay.
    method, path = scope["method"], _printable(foreign(scope["path"]))[:_LONGEST_PATH]
    client = scope.get("client")
    milliseconds = round(seconds * 1000, 1)
    logs.event(
        logs.DEBUG if path in _ROUTINE else logs.INFO,
        "service.request",
        f"{method} {path}: {status or 'not answered'}, {milliseconds:g} ms",
        method=method,
        path=path,
        status=status or None,
        duration_ms=milliseconds,
        client=client[0] if client else None,
    )


def _printable(text: str) -> str:
    """Return `text` on one line."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
