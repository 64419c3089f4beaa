"""The paths for programs: status, backup, badge, metrics, probes, and their description."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import NamedTuple

from starlette.responses import Response
from starlette.routing import Route

from entrypoint.service.backups import NotConfiguredError
from entrypoint.service.badge import as_svg, badge_of
from entrypoint.service.cache import StoppingError
from entrypoint.service.metrics import expose
from entrypoint.service.openapi import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import HTTPConnection, Request
    from starlette.routing import BaseRoute

    from entrypoint.service.access import Access
    from entrypoint.service.backups import Backups
    from entrypoint.service.cache import Cache

BACKUP_PATH = "/api/admin/backup"


class Service(NamedTuple):
    """Everything that requests need; `service_of(request)` returns it."""

    cache: Cache
    access: Access
    backups: Backups
    public_badge: bool
    reads: Callable[[], int]
    """How often the database has been read."""


def service_of(request: HTTPConnection) -> Service:
    """Return the service of a request."""
    service = request.app.state.service
    assert isinstance(service, Service)  # noqa: S101 - for the type checker
    return service


def routes() -> list[BaseRoute]:
    """Return the paths for programs."""
    return [
        Route("/api/admin/migrations/status", _status),
        Route(BACKUP_PATH, _backup, methods=["GET", "POST"]),
        Route("/badge.svg", _badge),
        Route("/metrics", _metrics),
        Route("/livez", _livez),
        Route("/readyz", _readyz),
        Route("/openapi.json", _openapi),
    ]


def as_json(content: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response that must not be cached."""
    return _json(json.dumps(content, ensure_ascii=False).encode(errors="replace"), status, headers)


def _json(body: bytes, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


async def _status(request: Request) -> Response:
    service = service_of(request)
    service.access.require(request)
    snapshot = await service.cache.get()
    return _json(snapshot.answer, 500 if snapshot.failure else 200)


async def _backup(request: Request) -> Response:
    service = service_of(request)
    service.access.require(request)
    return _start_backup(service.backups) if request.method == "POST" else _tell_of_backup(service.backups)


def _tell_of_backup(backups: Backups) -> Response:
    return as_json({"success": True, "data": backups.report.documented()})


def _start_backup(backups: Backups) -> Response:
    try:
        started = backups.start()
    except NotConfiguredError as error:
        return as_json({"success": False, "error": f"{error.message}. {error.remedy}"}, 501)
    report = backups.report.documented()
    if not started:
        return as_json({"success": False, "error": "A backup is already running", "data": report}, 409)
    return as_json({"success": True, "data": report}, 202, {"Location": BACKUP_PATH})


async def _badge(request: Request) -> Response:
    service = service_of(request)
    if not service.public_badge:
        service.access.require(request)
    image = as_svg(badge_of(await service.cache.get())).encode()
    # Image proxies such as GitHub's cache what they may. They may, but must revalidate it.
    headers = {
        "Cache-Control": "no-cache" if service.public_badge else "private, no-cache",
        "ETag": f'"{sha256(image).hexdigest()[:16]}"',
        # If it is opened by itself, it must be nothing but an image.
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    }
    if headers["ETag"] in request.headers.get("If-None-Match", ""):
        return Response(None, 304, headers)
    return Response(image, 200, headers, "image/svg+xml")


async def _metrics(request: Request) -> Response:
    service = service_of(request)
    service.access.require(request)
    found = expose(await service.cache.get(), service.reads(), request.headers.get("Accept", ""))
    return Response(found.content, 200, {"Content-Type": found.content_type, "Cache-Control": "no-store"})


async def _livez(_request: Request) -> Response:
    return as_json({"status": "alive"})


async def _readyz(request: Request) -> Response:
    try:
        snapshot = await service_of(request).cache.get()
    except StoppingError:
        return as_json({"status": "not ready"}, 503)
    if snapshot.reachable:
        return as_json({"status": "ready"})
    return as_json({"status": "not ready"}, 503)


async def _openapi(_request: Request) -> Response:
    return as_json(describe())
