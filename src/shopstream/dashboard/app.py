"""The web application: one page, its live feed, metrics and health."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import plotly
from anyio import to_thread
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from shopstream.dashboard.auth import SecurityHeadersMiddleware, TokenAuthMiddleware
from shopstream.dashboard.feed import Feed
from shopstream.dashboard.metrics import metrics_text
from shopstream.dashboard.panels import Panels
from shopstream.dashboard.settings import DashboardSettings
from shopstream.dashboard.sources import Home
from shopstream.errors import ShopstreamError

__all__ = ["create_app"]

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_A_YEAR = "private, max-age=31536000, immutable"


def create_app(
    home: Home, token: str, settings: DashboardSettings | None = None, *, names: Sequence[str] = ()
) -> Starlette:
    """The application over a data home; `state.feed.stop()` ends live feeds, before a server waits for them.

    Args:
        home: what to show; read only.
        token: who shows it gets in; see `gate`.
        settings: pace of the feed, further host names.
        names: still more host names that the page is reached by.
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
    """Our own files; the browser asks each time whether they changed."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        """With the header that makes it ask."""
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they come
        response.headers["Cache-Control"] = "no-cache"
        return response
