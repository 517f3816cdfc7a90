"""The panels of the page, as JSON; read again only when the files behind them change."""

import json
import logging
import math
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from shlex import quote
from typing import Final

import duckdb

from shopstream.clock import from_ms
from shopstream.dashboard.health import read_health
from shopstream.dashboard.sources import DataHome
from shopstream.engine.tables import fetch_dicts
from shopstream.errors import ShopstreamError, StateError
from shopstream.incidents.explanation import figures_of, lines_of, title_of, who_of
from shopstream.incidents.incident import Incident, State
from shopstream.journeys.store import LiveFile
from shopstream.models.names import Bots, ReportName
from shopstream.models.reports import choose_bots, open_reports, report, scope

_DAYS: Final = 92
_BRANDS_DRAWN: Final = 300

_FIGURES: Final = {
    # What became of the carts of each day, the last three months.
    "cart_days": """
        select shop_date, abandoned, abandoned_value, bought_value, still_open, abandoned_share
        from (select * from abandoned_carts_daily order by shop_date desc limit ?) order by shop_date""",
    # Views of each hour of each weekday, and who leads there.
    "slots": """
        select weekday, weekday_name, hour, category, views, slot_views, slot_carts, slot_purchases, days
        from (select *, sum(views) over slot as slot_views, sum(carts) over slot as slot_carts,
                  sum(purchases) over slot as slot_purchases
              from top_categories window slot as (partition by weekday, hour))
        where rank = 1 order by weekday, hour""",
    "categories": """
        select category, sum(views)::bigint as views, sum(carts)::bigint as carts, sum(purchases)::bigint as purchases,
            sum(revenue) as revenue
        from top_categories group by category order by views desc, category limit 10""",
    # The brands most people saw, and all that need marketing.
    "brands": """
        select brand, visitors, conversion, verdict, median_conversion, median_visitors
        from brand_marketing where verdict <> 'too_few_visitors'
        order by needs_marketing desc, visitors desc, brand limit ?""",
    "brand_counts": "select count(*) as brands, count(*) filter (needs_marketing) as needing from brand_marketing",
}
_BOUND: Final = {"cart_days": [_DAYS], "brands": [_BRANDS_DRAWN]}


def reports_panel(path: Path) -> dict[str, object] | None:
    """Data of the report sections; None if there are no reports.

    Raises:
        StateError: the file is of another program, or another version built it.
    """
    if not path.is_file():
        return None
    found = {
        str(name): _report(name, path, limit)
        for name, limit in (
            (ReportName.UNIQUE_VISITORS, _DAYS),
            (ReportName.ABANDONED_CARTS, 12),
            (ReportName.TOP_CATEGORIES, 24),
            (ReportName.BRAND_MARKETING, 15),
        )
    }
    return {"scope": _scope(path), **found, **_figures(path)}


def _report(name: ReportName, path: Path, limit: int) -> dict[str, object]:
    read = report(name, path, limit)
    return {
        "title": read.title,
        "description": read.description,
        "headline": read.headline,
        "rows": read.rows,
        "shown": len(read.rows),
        "total": read.total_rows,
    }


def _scope(path: Path) -> dict[str, object]:
    found = scope(path)
    return {
        "timezone": found.timezone,
        "built_at": f"{found.built_at_utc.replace(tzinfo=None).isoformat(timespec='seconds')}Z",
        "events": found.events,
        "in_lake": found.events + found.duplicates,
        "visitors": found.visitors,
        "bot_events": found.bot_events,
        "bot_actors": found.bot_actors,
        "bot_visitors": found.visitors_with_bots - found.visitors,
        "first_event_at": found.first_event_at,
        "last_event_at": found.last_event_at,
    }


def _figures(path: Path) -> dict[str, object]:
    figures: dict[str, object] = {}
    with open_reports(path) as connection:
        connection.execute("use reports")
        try:
            choose_bots(connection, Bots.EXCLUDE)
            for name, sql in _FIGURES.items():
                figures[name] = fetch_dicts(connection.execute(sql, _BOUND.get(name)))
        except duckdb.Error as error:
            raise StateError(
                f"expected marts of this version in {path}, DuckDB says: {error}; run `shopstream build`"
            ) from error
    return figures


_log = logging.getLogger(__name__)

_INCIDENTS: Final = 200
_NAMED: Final = 20
"""A command with more actors than this would be unreadable."""
_ONGOING: Final = (State.OPEN, State.ACKNOWLEDGED)
_OVER: Final = (State.CLOSED, State.RESOLVED, State.FALSE_POSITIVE)

Signature = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """How to read a panel, and how often at most; with files, only when one of them has changed."""

    read: Callable[[], object]
    files: tuple[Path, ...] = ()
    every_s: float = 0


@dataclass
class Panels:
    """All panels of a home; not for several threads at once.

    Args:
        home: the files.
    """

    home: DataHome
    _texts: dict[str, str] = field(default_factory=dict)
    _signatures: dict[str, Signature] = field(default_factory=dict)
    _read_at: dict[str, float] = field(default_factory=dict)

    def read(self) -> dict[str, str]:
        """Panel name → JSON text. A panel that cannot be read has an `error`; the others are still read."""
        if self.home.remote:
            self.home.remote.refresh()
        for name, source in self._sources().items():
            signature = tuple(_signature(file) for file in source.files)
            same = source.files and self._signatures.get(name) == signature
            early = time.monotonic() < self._read_at.get(name, -math.inf) + source.every_s
            if name in self._texts and (same or early):
                continue
            self._read_at[name] = time.monotonic()
            self._texts[name] = self._text(name, source)
            self._signatures[name] = signature
        return dict(self._texts)

    def _sources(self) -> dict[str, _Source]:
        home = self.home
        return {
            "health": _Source(lambda: _health_panel(home), every_s=home.refresh.total_seconds()),
            "incidents": _Source(lambda: incidents_panel(home), every_s=home.refresh.total_seconds()),
            "live": _Source(lambda: live_panel(home.live), (home.live,)),
            "reports": _Source(lambda: reports_panel(home.reports), (home.reports,)),
        }

    def _text(self, name: str, source: _Source) -> str:
        try:
            body = source.read()
        except (ShopstreamError, duckdb.Error, sqlite3.Error, OSError) as error:
            text = json.dumps({"error": str(error)})
            if self._texts.get(name) != text:
                _log.warning("the panel %s cannot be read: %s", name, error)
            return text
        return json.dumps(body, default=_json_value, separators=(",", ":"))


def incidents_panel(home: DataHome) -> dict[str, object]:
    """Incidents, ongoing first, then newest first; at most 200 of `total`."""
    with closing(home.incidents()) as store:
        counts = store.count()
        found = store.list(states=_ONGOING, limit=_INCIDENTS)
        found += store.list(states=_OVER, limit=_INCIDENTS - len(found))
        started = store.as_of_ms() is not None
    return {
        "started": started,
        "total": sum(counts.values()),
        "ongoing": sum(counts[state] for state in _ONGOING),
        "counts": counts,
        "rows": [_incident(incident, home.command) for incident in found],
    }


def live_panel(path: Path) -> dict[str, object] | None:
    """The live journeys as last published, `as_of` in event time; None before the first publication."""
    panels = LiveFile(path).read()
    as_of_ms = panels.pop("as_of_ms", None)
    if not isinstance(as_of_ms, int):
        return None
    return {**panels, "as_of": from_ms(as_of_ms)}


def _health_panel(home: DataHome) -> dict[str, object]:
    health = read_health(home)
    return {
        "engine_running": health.engine_running,
        "checkpoint": health.checkpoint,
        "committed_at": health.committed_at,
        "counters": health.counters,
        "watermark": health.watermark,
        "lag_ms": max(health.lag_ms.values(), default=0),
        "stream": home.remote is not None or home.stream.is_file(),
        "shards": len(health.lag_ms),
    }


def _incident(incident: Incident, command: str) -> dict[str, object]:
    return {
        "id": incident.id,
        "title": title_of(incident),
        "rule": incident.rule,
        "severity": incident.severity,
        "state": incident.state,
        "rules": ", ".join(incident.rules),
        "nature": incident.nature,
        "who": who_of(incident),
        "grouped": incident.episodes - 1,
        "actors": len(incident.actors),
        "campaign": incident.campaign,
        "notifications": incident.notifications,
        "facts": {name.replace(" ", "_"): text for name, text in lines_of(incident).items()},
        "observed": figures_of(incident),
        "threshold": incident.threshold,
        "first": incident.first_event_time,
        "last": incident.last_event_time,
        "detected": incident.detected_at_event_time,
        "seconds": incident.duration.total_seconds(),
        "windows": incident.windows,
        "peak_start": incident.peak_start,
        "peak_end": incident.peak_end,
        "tags": ", ".join(incident.tags),
        "comment": incident.comment,
        "status_at": incident.status_at,
        "owner": incident.owner,
        "evidence": f"{command} query {quote(incident.evidence_sql)}"
        if len(incident.actors) <= _NAMED
        else f"{command} incidents events {incident.id}",
        "show": f"{command} incidents show {incident.id}",
    }


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")
