"""Who looks: one live page over a data home (`app.create_app`), and how it is served (`server.serve`).

Only the settings stand here: the settings tree needs them at every start, and the web server is heavy.
"""

from shopstream.dashboard.settings import DashboardSettings

__all__ = ["DashboardSettings"]
