"""Who is told: incidents and notifications."""

from importlib import import_module
from typing import TYPE_CHECKING

from shopstream.alerting.settings import AlertingSettings

if TYPE_CHECKING:
    from shopstream.alerting.embedded import EmbeddedIncidentStore
    from shopstream.alerting.incident import Actor, Change, Handling, Incident, IncidentChange, Role, State
    from shopstream.alerting.notify import BackgroundSender, Delivery, Sender, targets_of
    from shopstream.alerting.outbox import DeliveryState, Notification, read_notifications, retry_failed
    from shopstream.alerting.ports import IncidentStore, NotificationChannel
    from shopstream.alerting.reading import count_incidents, read_episodes, read_incident, read_incidents
    from shopstream.alerting.verdicts import read_verdicts

__all__ = [
    "Actor",
    "AlertingSettings",
    "BackgroundSender",
    "Change",
    "Delivery",
    "DeliveryState",
    "EmbeddedIncidentStore",
    "Handling",
    "Incident",
    "IncidentChange",
    "IncidentStore",
    "Notification",
    "NotificationChannel",
    "Role",
    "Sender",
    "State",
    "count_incidents",
    "read_episodes",
    "read_incident",
    "read_incidents",
    "read_notifications",
    "read_verdicts",
    "retry_failed",
    "targets_of",
]

# The settings tree, and so every command, imports this package; what it does not need loads when it is asked for.
_HOMES = {
    "Actor": "incident",
    "BackgroundSender": "notify",
    "Change": "incident",
    "Delivery": "notify",
    "DeliveryState": "outbox",
    "EmbeddedIncidentStore": "embedded",
    "Handling": "incident",
    "Incident": "incident",
    "IncidentChange": "incident",
    "IncidentStore": "ports",
    "Notification": "outbox",
    "NotificationChannel": "ports",
    "Role": "incident",
    "Sender": "notify",
    "State": "incident",
    "count_incidents": "reading",
    "read_episodes": "reading",
    "read_incident": "reading",
    "read_incidents": "reading",
    "read_notifications": "outbox",
    "read_verdicts": "verdicts",
    "retry_failed": "outbox",
    "targets_of": "notify",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
