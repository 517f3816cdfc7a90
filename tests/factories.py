"""Factories of test data. Each gives a valid value with defaults; keyword arguments replace single fields."""

from dataclasses import replace
from decimal import Decimal

from shopstream.detection.detection import Detection, Severity
from shopstream.detection.rule_matcher import detection_id
from shopstream.engine.signals import Signal

USER = {"user_id": "7"}


def make_detection(start_ms=0, key=USER, *, rule="user_burst", size_ms=10_000, **changes):
    """A final detection of one window. `key={}` is the whole site."""
    made = Detection(
        detection_id=detection_id(rule, key, start_ms),
        rule_id=rule,
        rule_version="v1",
        title="Too fast",
        severity=Severity.HIGH,
        tags=("owasp.oat-011",),
        key_kind="+".join(key) or "site",
        key=key,
        start_ms=start_ms,
        end_ms=start_ms + size_ms,
        first_event_ms=start_ms,
        last_event_ms=start_ms + size_ms - 1,
        measures={"events": 20},
        threshold="events > 15",
        final=True,
        suppress_for_ms=60_000,
    )
    return replace(made, **changes)


def make_signal(window, end_ms, key=None, *, size_ms=10_000, measures=None, final=True):
    """A signal of one window whose events fill it."""
    start_ms = end_ms - size_ms
    return Signal(window, key or {}, start_ms, end_ms, start_ms, end_ms - 1, measures or {"events": 20}, final)


def make_event(event_time, user=1, *, event_type="view", product=3, **changes):
    """One event as a row of the wire schema; `changes` replace or add columns."""
    return {
        "event_time": event_time,
        "event_type": event_type,
        "product_id": product,
        "category_id": 7,
        "price": Decimal("1.0000"),
        "user_id": user,
        "user_session": f"s{user}",
    } | changes
