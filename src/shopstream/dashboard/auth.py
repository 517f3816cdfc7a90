"""Authentication by a token, which is created once and readable only by its owner, and security headers."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shopstream.errors import StateError

_BYTES = 32
_FEWEST_CHARACTERS = 32


def load_token(path: Path) -> str:
    """Load the token of this home; create one if there is none.

    Raises:
        StateError: others can read the file, or it is truncated.
    """
    if not path.exists():
        _make(path)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise StateError(
            f"expected that only its owner can read {path}, but others can; remove it, the next start creates a new one"
        )
    token = path.read_text().strip()
    if len(token) < _FEWEST_CHARACTERS:
        raise StateError(
            f"expected a token of at least {_FEWEST_CHARACTERS} characters in {path}, got {len(token)}; "
            "remove it, the next start creates a new one"
        )
    return token


def _make(path: Path) -> None:
    """Write a draft and link it: no reader sees an empty file, and one of two concurrent starts wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(_BYTES) + "\n")
        draft.replace(path) if os.name == "nt" else _link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _link(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)
    except FileExistsError:  # another process was first; its token is used
        return


_OPEN = frozenset({"/healthz"})
_COOKIE_SECONDS = 30 * 24 * 3600

# For plotly: the digest is that of empty text, since plotly adds an empty style element and fills it by script; it also
# sets style attributes.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; "
    "style-src-attr 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

# A browser that comes from another site (such as a terminal in a web page) does not send a SameSite=Strict cookie with
# a redirect; after a refresh by the page itself it does.
_HOP = '<!doctype html><meta http-equiv="refresh" content="0;url=/"><title>shopstream</title><a href="/">Continue</a>'


class SecurityHeadersMiddleware:
    """Adds security headers to every response; nothing is cached unless the response allows it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)


class TokenAuthMiddleware:
    """Requires the token: once in the URL, which is exchanged for a cookie, or as `Authorization: Bearer`.

    The cookie holds a digest of the token, because browsers send cookies to every port of a host.

    Args:
        app: the protected application.
        token: the token.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()
        self._pass = hmac.new(self._token, b"shopstream dashboard cookie", hashlib.sha256).hexdigest()
        self._cookie = f"shopstream-{hashlib.sha256(self._token).hexdigest()[:8]}"  # several homes side by side

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        answer = self._answer(scope)
        await (answer or self._app)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        """The response to a request without access; None grants access."""
        if scope["path"] in _OPEN:
            return None
        headers = Headers(scope=scope)
        shown = QueryParams(scope.get("query_string", b"")).get("token")
        if scope["path"] == "/" and shown is not None and self._is_token(shown):
            return self._swap(headers)
        if self._has_cookie(scope) or self._has_bearer(headers):
            return None
        return PlainTextResponse(
            "This page needs a token: open the whole address that `shopstream dashboard` printed, or send the token in "
            "the header `Authorization: Bearer …`.\n",
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _swap(self, headers: Headers) -> Response:
        cross_site = headers.get("sec-fetch-site") == "cross-site"
        response = HTMLResponse(_HOP) if cross_site else RedirectResponse("/", status_code=303)
        response.set_cookie(
            self._cookie, self._pass, max_age=_COOKIE_SECONDS, path="/", httponly=True, samesite="strict"
        )
        return response

    def _is_token(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(), self._token)

    def _has_cookie(self, scope: Scope) -> bool:
        shown = HTTPConnection(scope).cookies.get(self._cookie, "")
        return hmac.compare_digest(shown.encode(), self._pass.encode())

    def _has_bearer(self, headers: Headers) -> bool:
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._is_token(shown.strip())
