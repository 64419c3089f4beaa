"""The page /admin over HTTP: who may see it, and how it is sent.

An open page requests itself again, with the ETag of its content (static/script.js). These requests are answered from
the service's cache, and the page is rendered once for all requests within a second.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs

import jinja2
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from entrypoint import logs
from entrypoint.service import sessions, view, wording
from entrypoint.service.badge import as_svg, badge_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from entrypoint.service.api import Service
    from entrypoint.service.snapshot import Snapshot

_PAGE = "/admin"
_LIVE, _BADGE, _STATIC = f"{_PAGE}/live", f"{_PAGE}/badge.svg", f"{_PAGE}/static"
_LOGIN, _LOGOUT = f"{_PAGE}/login", f"{_PAGE}/logout"

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

# Seconds that a wrong token costs, in addition to being counted.
_DELAY = 0.5
_LARGEST_FORM = 4_096
_FORM_PATIENCE = 5.0

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_LIVE_POLICY = f"{_POLICY}; script-src 'self'; connect-src 'self'"


class _Asset(NamedTuple):
    """A static file. Its name contains a hash of its content, so that it can be cached forever."""

    name: str
    content: bytes
    media_type: str


class _Rendered(NamedTuple):
    """A rendered page."""

    html: bytes
    etag: str


def routes(service: Service) -> list[BaseRoute]:
    """Return the paths for people."""
    page = _Page(service)
    shown = [
        Route("/", _redirect_to_page),
        Route(_PAGE, page.show),
        # The same, for an open page; it has its own path in the log.
        Route(_LIVE, page.show),
        Route(_BADGE, page.badge),
        Route(f"{_STATIC}/{{name}}", page.static),
    ]
    if not service.access.tokens.required:
        return list(shown)
    return [
        *shown,
        Route(_LOGIN, page.ask),
        Route(_LOGIN, page.log_in, methods=["POST"]),
        Route(_LOGOUT, page.log_out, methods=["POST"]),
    ]


async def _redirect_to_page(_request: Request) -> Response:
    """Redirect from the bare address to the page."""
    return RedirectResponse(_PAGE, 307, _HEADERS)


class _Page:
    """The page, its login, and their files."""

    def __init__(self, service: Service) -> None:
        self._cache = service.cache
        self._access = service.access
        self._tokens = service.access.tokens
        self._throttle = sessions.Throttle()
        self._assets = {asset.name: asset for asset in map(_asset, sorted((_HERE / "static").iterdir()))}
        self._paths = {
            "page": _PAGE,
            "full": f"{_PAGE}?all",
            "live": _LIVE,
            "login": _LOGIN,
            "logout": _LOGOUT,
            **{name.partition(".")[0].replace("-", "_"): f"{_STATIC}/{name}" for name in self._assets},
        }
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            # Escape everything, whatever the file name: what comes from outside is text.
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._known: Snapshot | None = None
        """The last snapshot with a status, shown while there is no newer one."""
        self._rendered: tuple[Snapshot | None, dict[bool, _Rendered]] = (None, {})

    async def show(self, request: Request) -> Response:
        """Answer with the page, or with a redirect to the login."""
        if not self._admitted(request):
            if request.headers.get("sec-fetch-site") == "cross-site":
                # A link on another site leads here without the cookie, which is SameSite=Strict.
                return self._html("again.html")
            return RedirectResponse(_LOGIN, 303, _HEADERS)
        laid = self._render(await self._cache.get(), full="all" in request.query_params)
        headers = {**_HEADERS, "Content-Security-Policy": _LIVE_POLICY, "ETag": laid.etag}
        # A compressing proxy makes it weak.
        if request.headers.get("if-none-match", "").removeprefix("W/") == laid.etag:
            return Response(status_code=304, headers=headers)
        return HTMLResponse(laid.html, headers=headers)

    async def badge(self, request: Request) -> Response:
        """Answer with the badge, for those who can see the page."""
        if not self._admitted(request):
            return Response(status_code=403, headers=_HEADERS)
        drawn = as_svg(badge_of(await self._cache.get()))
        return Response(drawn, headers={**_HEADERS, "Content-Security-Policy": _POLICY}, media_type="image/svg+xml")

    async def ask(self, request: Request) -> Response:
        """Answer with the form, or with a redirect to the page if no login is needed."""
        return RedirectResponse(_PAGE, 303, _HEADERS) if self._admitted(request) else self._form()

    async def log_in(self, request: Request) -> Response:
        """Handle the form."""
        if _foreign(request):
            return self._form(403, "Another site sent this form. Log in here.")
        offered = await _token(request)
        if offered is None:
            return self._form(400, "That is not this page's form.")
        # There is no await from here to the count, so concurrent attempts are all counted.
        client = request.client.host if request.client else ""
        wait = self._throttle.wait(client, time.monotonic())
        if wait:
            seconds = f"{wait + 1:.0f}"
            return self._form(429, f"Too many wrong tokens. Try again in {seconds} s.", {"Retry-After": seconds})
        if not self._tokens.accept(offered):
            self._throttle.failed(client, time.monotonic())
            logs.event(logs.WARNING, "service.login_refused", "wrong token at /admin/login", client=client)
            await asyncio.sleep(_DELAY)
            return self._form(403, "Wrong token.")
        answer = RedirectResponse(_PAGE, 303, _HEADERS)
        answer.set_cookie(
            sessions.COOKIE,
            sessions.issue(offered),
            max_age=sessions.LIFETIME,
            path=_PAGE,
            secure=_encrypted(request),
            httponly=True,
            samesite="strict",
        )
        return answer

    async def log_out(self, request: Request) -> Response:
        """Delete the cookie."""
        answer = RedirectResponse(_PAGE if _foreign(request) else _LOGIN, 303, _HEADERS)
        if not _foreign(request):
            answer.delete_cookie(sessions.COOKIE, path=_PAGE, httponly=True, samesite="strict")
        return answer

    async def static(self, request: Request) -> Response:
        """Answer with a static file. The login page needs them, so they are public."""
        asset = self._assets.get(request.path_params["name"])
        if asset is None:
            return Response(status_code=404, headers=_HEADERS)
        headers = {**_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return Response(asset.content, headers=headers, media_type=asset.media_type)

    def _admitted(self, request: Request) -> bool:
        """Return whether the user is logged in. Without tokens, raise HTTPException unless they are on this machine."""
        if not self._tokens.required:
            self._access.require(request)
            return True
        return sessions.accepted(request.cookies.get(sessions.COOKIE, ""), self._tokens.valid)

    def _render(self, snapshot: Snapshot, *, full: bool) -> _Rendered:
        """Return the rendered page; render it if that has not been done for this `snapshot`."""
        if snapshot.status is not None:
            self._known = snapshot
        if self._rendered[0] is not snapshot:
            self._rendered = (snapshot, {})
        known = self._rendered[1]
        if full not in known:
            badge = badge_of(snapshot)
            html = self._templates.get_template("page.html").render(
                page=view.show(snapshot, self._known, full=full),
                where=wording.name(snapshot.where or snapshot.database),
                full=full,
                badge=badge,
                log_out=self._tokens.required,
                paths=self._paths | {"badge": f"{_BADGE}?{_hash(as_svg(badge).encode())}"},
            )
            content = html.encode(errors="replace")
            known[full] = _Rendered(content, f'"{_hash(content)}"')
        return known[full]

    def _form(self, status: int = 200, problem: str = "", headers: Mapping[str, str] | None = None) -> Response:
        hours = sessions.LIFETIME // 3600
        return self._html("login.html", status, headers, problem=problem, hours=hours)

    def _html(
        self,
        template: str,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **values: object,
    ) -> Response:
        html = self._templates.get_template(template).render(paths=self._paths, **values)
        return HTMLResponse(html, status, {**_HEADERS, "Content-Security-Policy": _POLICY, **(headers or {})})


def _asset(path: Path) -> _Asset:
    content = path.read_bytes()
    return _Asset(f"{path.stem}.{_hash(content)}{path.suffix}", content, _TYPES[path.suffix])


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _encrypted(request: Request) -> bool:
    """Return whether the browser uses TLS, possibly to a proxy that says so.

    A client that lies about it only gets a cookie that its browser does not send.
    """
    said = request.headers.get("x-forwarded-proto", "").split(",")[0].strip()
    return "https" in (request.url.scheme, said.lower())


def _foreign(request: Request) -> bool:
    """Return whether another site has sent this form.

    Browsers say so in secure contexts. In others, SameSite=Strict withholds the cookie from a foreign logout, and a
    foreign login needs a token and shows nothing more than that token does.
    """
    return request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}


async def _token(request: Request) -> str | None:
    """Return the token in the form; None if it is another form, or too long."""
    body = b""
    try:
        async with asyncio.timeout(_FORM_PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _LARGEST_FORM:
                    return None
        values = parse_qs(body.decode("ascii"), max_num_fields=4, strict_parsing=True)
    except (TimeoutError, ClientDisconnect, ValueError):
        return None
    return values.get("token", [""])[0].strip()
