"""Who is told: incidents and notifications."""

from shopstream.alerting.embedded import EmbeddedIncidentStore
from shopstream.alerting.incident import Change, Handling, Incident, IncidentChange, State
from shopstream.alerting.ports import IncidentStore, NotificationChannel
from shopstream.alerting.reading import count_incidents, read_incident, read_incidents
from shopstream.alerting.settings import AlertingSettings

__all__ = [
    "AlertingSettings",
    "Change",
    "EmbeddedIncidentStore",
    "Handling",
    "Incident",
    "IncidentChange",
    "IncidentStore",
    "NotificationChannel",
    "State",
    "count_incidents",
    "read_incident",
    "read_incidents",
]
