"""`shopstream dashboard`: serves the web dashboard."""

from typing import Annotated

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import err, settings_of
from shopstream.dashboard.server import is_loopback, open_page, serve


def dashboard(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.", show_default="8787")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow an address that other machines can reach.")
    ] = False,
) -> None:
    r"""Serve the dashboard: incidents, shoppers, reports, and pipeline health.

    Reads what `run` and `build` write to this home, without slowing them down. In the AWS profile it follows the engine
    wherever it runs: incidents every five seconds, the rest every ten. The printed address contains an access token;
    the browser keeps it in a cookie for 30 days. Press Ctrl-C to stop.
    For Prometheus, /metrics accepts the same token as `Authorization: Bearer`; it is in dashboard.token in the home.

    Examples:
      shopstream dashboard
      shopstream dashboard --port 0 --open
      curl -H "Authorization: Bearer $(cat .shopstream/dashboard.token)" \
        http://127.0.0.1:8787/metrics
    """
    settings = settings_of(ctx)
    chosen = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    page = settings.dashboard.model_copy(update=chosen)
    if allow_remote and not is_loopback(page.host):
        err.print(
            f"[bold yellow]warning:[/] {page.host} can be reached from other machines, and nothing is encrypted, "
            "not even the token; put a TLS proxy in front, or use an SSH tunnel to 127.0.0.1",
            soft_wrap=True,
        )
    home = adapters_of(settings).dashboard_home()

    def ready(address: str) -> None:
        err.print(f"The page is at [bold]{address}[/]", soft_wrap=True)
        err.print("Press Ctrl-C to stop.", style="dim")
        if open_browser:
            open_page(address, settings.home)

    serve(home, page, ready=ready, allow_remote=allow_remote)
