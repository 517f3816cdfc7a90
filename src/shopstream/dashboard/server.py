"""The web application and its server: one page, its live feed, metrics and health."""

import ipaddress
import os
import signal
import socket
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from html import escape
from importlib.resources import files
from pathlib import Path

import plotly
import uvicorn
from anyio import to_thread
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from shopstream.dashboard.auth import SecurityHeadersMiddleware, TokenAuthMiddleware, load_token
from shopstream.dashboard.feed import Feed
from shopstream.dashboard.health import metrics_text
from shopstream.dashboard.panels import Panels
from shopstream.dashboard.settings import DashboardSettings
from shopstream.dashboard.sources import DataHome
from shopstream.errors import ConfigurationError, ShopstreamError

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_A_YEAR = "private, max-age=31536000, immutable"


def create_app(
    home: DataHome, token: str, settings: DashboardSettings | None = None, *, names: Sequence[str] = ()
) -> Starlette:
    """The application over a data home; `state.feed.stop()` ends live feeds before the server waits for them.

    Args:
        home: data to show; only read.
        token: grants access, see `auth`.
        settings: pace of the feed, host names.
        names: further host names of the page.
    """
    settings = settings or DashboardSettings()
    feed = Feed(Panels(home), settings.refresh, settings.heartbeat)
    templates = Environment(
        loader=PackageLoader("shopstream.dashboard"), autoescape=True, undefined=StrictUndefined, auto_reload=False
    )
    plotly_js = Path(str(files(plotly))) / "package_data" / "plotly.min.js"

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with feed.running():
            yield

    async def page(_request: Request) -> Response:
        panels = await feed.current()
        context = {"panels": dict(panels), "command": home.command, "plotly_version": plotly.__version__}
        return HTMLResponse(templates.get_template("page.html.j2").render(context))

    async def events(_request: Request) -> Response:
        return StreamingResponse(feed.changes(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def metrics(request: Request) -> Response:
        try:
            body, content_type = await to_thread.run_sync(metrics_text, home, request.headers.get("accept", ""))
        except ShopstreamError as error:
            return PlainTextResponse(f"{error}\n", status_code=503)
        return Response(body, headers={"Content-Type": content_type})

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def charts(_request: Request) -> Response:
        return FileResponse(plotly_js, media_type="text/javascript", headers={"Cache-Control": _A_YEAR})

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/events", events),
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/plotly.js", charts),
            Mount("/static", _Static(packages=[("shopstream.dashboard", "static")])),
        ],
        middleware=[
            Middleware(SecurityHeadersMiddleware),
            Middleware(
                TrustedHostMiddleware,
                allowed_hosts=[*_LOOPBACK_NAMES, *settings.names, *names],
                www_redirect=False,
            ),
            Middleware(TokenAuthMiddleware, token=token),
        ],
        lifespan=lifespan,
    )
    app.state.feed = feed
    return app


class _Static(StaticFiles):
    """The page's own files, which the browser revalidates each time."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        """The file with a `Cache-Control` header."""
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they come
        response.headers["Cache-Control"] = "no-cache"
        return response


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE_S = 3


def serve(
    home: DataHome,
    settings: DashboardSettings | None = None,
    *,
    ready: Callable[[str], None],
    allow_remote: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """Serve the page; blocks until Ctrl-C, SIGTERM or `stop`.

    Args:
        home: data to show.
        settings: where to listen.
        ready: called with the address, token included, once the page can be opened.
        allow_remote: allow connections from other machines.
        stop: ends serving when set; needed outside the main thread, which gets no signals.

    Raises:
        ConfigurationError: the address cannot be used, or is not loopback although `allow_remote` is not set.
        StateError: the token's file is damaged or readable by others.
    """
    settings = settings or DashboardSettings()
    host = settings.host
    if not is_loopback(host):
        if not allow_remote:
            raise ConfigurationError(
                f"expected a loopback address, got {host!r}: other machines could connect, without encryption; give "
                "--allow-remote to allow it"
            )
        if _is_any(host) and not settings.names:
            raise ConfigurationError(
                f"{host} listens on all addresses, and requests to unknown host names are refused: set dashboard.names "
                "to those that browsers use, e.g. SHOPSTREAM_DASHBOARD__NAMES='[\"shop.example.net\"]'"
            )
    token = load_token(home.token)
    app = create_app(home, token, settings, names=() if _is_any(host) else (_bracketed(host),))
    listener = _listen(host, settings.port)
    shown = settings.names[0] if _is_any(host) else _bracketed(host)
    address = f"http://{shown}:{listener.getsockname()[1]}/?token={token}"
    config = uvicorn.Config(
        app,
        access_log=False,  # the first URL of each visit contains the token
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=_GRACE_S,
    )
    with listener:
        _Server(config, app.state.feed, lambda: ready(address), stop).run(sockets=[listener])


def open_page(address: str, folder: Path) -> bool:
    """Open the page in the user's browser; returns whether there is one.

    The browser opens a file that redirects to the address: its command line, which every user of the machine can list,
    must not contain the token.
    """
    leaf = folder / "dashboard-open.html"
    leaf.unlink(missing_ok=True)
    with os.fdopen(os.open(leaf, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(
            f'<!doctype html><meta http-equiv="refresh" content="0;url={escape(address)}"><title>shopstream</title>'
        )
    return webbrowser.open(leaf.resolve().as_uri())


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise ConfigurationError(
            f"expected an address of this machine, got {host!r}: {error}; try 127.0.0.1"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {error.strerror}; `--port 0` takes a free port"
        ) from error
    return listener


class _Server(uvicorn.Server):
    """A uvicorn server whose shutdown does not wait for live feeds and returns control to the caller."""

    def __init__(
        self, config: uvicorn.Config, feed: Feed, ready: Callable[[], None], stop: threading.Event | None
    ) -> None:
        super().__init__(config)
        self._feed = feed
        self._ready = ready
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then call `ready`."""
        await super().startup(sockets=sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop; called ten times a second."""
        return await super().on_tick(counter) or (self._stop is not None and self._stop.is_set())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the feeds first, since uvicorn waits for open connections."""
        await self._feed.stop()
        await super().shutdown(sockets=sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals stop the server, not the process: uvicorn would raise them again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {name: signal.signal(name, self.handle_exit) for name in _SIGNALS}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
