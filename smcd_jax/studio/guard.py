"""Checks of every request before the application sees it: host, origin, token and size."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "smcd_studio_token"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
UPLOAD_BYTES = 64 * 2**20
_JSON_BYTES = 4 * 2**20
_FORM_BYTES = 64 * 2**10  # allowance for the names and boundaries of a multipart upload
_UPLOADS = ("/api/pictures", "/api/tracks/import")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """Who may use the server.

    Attributes:
        hosts: Names by which clients may address the server, in lower case, without port.
        any_address: Whether every IP address is accepted as a host, for a server that listens on all of them. A page
            of another site reaches the server only under a host name of that site, never under an IP address.
        token: Secret that every request needs, or None.
    """

    hosts: frozenset[str]
    any_address: bool = False
    token: str | None = None

    def allows_host(self, host: str) -> bool:
        """Returns whether the value of a Host header addresses this server."""
        name = (urlsplit(f"//{host}").hostname or "").lower()
        return name in self.hosts or (self.any_address and _is_address(name))


class Guard:
    """ASGI middleware that rejects requests for other hosts, from other sites, or of excessive size.

    A page from another site can reach a server on this machine in two ways: through a domain name that resolves to
    127.0.0.1 (DNS rebinding, visible in the Host header), or through a form or script (visible in the Origin header).
    """

    def __init__(self, app: ASGIApp, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on a valid request, and answers any other with status 4xx."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers, send = Headers(scope=scope), _with_headers(send)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        most = UPLOAD_BYTES + _FORM_BYTES if scope["path"] in _UPLOADS else _JSON_BYTES
        length = headers.get("content-length", "0")
        if not length.isdigit() or len(length) > 15 or int(length) > most:
            await _error(413, _too_large(most))(scope, receive, send)
            return
        await self.app(scope, _limited(receive, most), send)

    def _refusal(self, scope: Scope, headers: Headers) -> Any:
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            if not self.access.allows_host(host):
                return _error(403, "unknown host name; open the address that smcd studio printed")
            if origin is not None and (urlsplit(origin).netloc.lower() != host.lower() or not urlsplit(origin).scheme):
                return _error(403, "requests from pages of other sites are refused; open the page of the studio")
        except ValueError:  # for example, an IPv6 address without a closing bracket
            return _error(403, "invalid Host or Origin header; open the address that smcd studio printed")
        if self.access.token is None:
            return None
        query = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if query and self._is_token(query):
            if scope["path"] != "/" or scope["method"] != "GET":
                return None
            answer = RedirectResponse("/", 303)
            answer.set_cookie(COOKIE, self.access.token, httponly=True, samesite="strict")
            return answer
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(bearer) or self._is_token(_cookie(headers.get("cookie", ""))):
            return None
        return _error(401, "the token is missing or wrong; open the full address that smcd studio printed")

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode("utf-8", "replace"), self.access.token.encode())


def _cookie(header: str) -> str:
    try:
        cookie = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if cookie is None else cookie.value


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-cache")
        await send(message)

    return sending


def _limited(receive: Receive, most: int) -> Receive:
    received = 0

    async def receiving() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise HTTPException(413, _too_large(most))
        return message

    return receiving


def _too_large(most: int) -> str:
    return f"the request is larger than {most // 2**20} MiB; send a smaller file"


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message, "argument": None}, status)
