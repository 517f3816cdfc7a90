"""What the lake says of an incident that nobody asked the newest events about."""

from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta

from shopstream.alerting.incident import Incident
from shopstream.clock import to_ms
from shopstream.config import Settings

__all__ = ["context_from_lake"]

_BEFORE = timedelta(minutes=10)
_LONGEST = timedelta(hours=1)
"""Of longer ones, the hour that ends with the strongest window."""

_ALL = 1 << 50


def context_from_lake(settings: Settings, incident: Incident) -> Mapping[str, object] | None:
    """The same as `engine.recent.RecentEvents.describe`, over its time; None where the lake has nothing of it."""
    import duckdb  # noqa: PLC0415  start-up time

    from shopstream.bootstrap import has_lake, open_lakehouse  # noqa: PLC0415  likewise
    from shopstream.engine.recent import RecentEvents  # noqa: PLC0415  likewise
    from shopstream.lakehouse.ports import LakeTable  # noqa: PLC0415  likewise
    from shopstream.lakehouse.views import create_views  # noqa: PLC0415  likewise

    if not has_lake(settings):
        return None
    first, last = incident.first_event_time, incident.last_event_time
    if last - first > _LONGEST:
        last = min(last, incident.peak_end)
        first = max(first, last - _LONGEST)
    with closing(open_lakehouse(settings)) as lakehouse, duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        create_views(connection, lakehouse, [LakeTable.EVENTS])
        events = connection.sql(
            "SELECT * FROM events WHERE event_time BETWEEN ? AND ? ORDER BY event_time", params=[first - _BEFORE, last]
        ).to_arrow_table()
        recent = RecentEvents(connection, kept_ms=_ALL, kept_rows=_ALL)
        recent.keep(events)
        return recent.describe(incident.keys, to_ms(first), to_ms(last))
