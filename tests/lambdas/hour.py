"""A shop's hour with attacks in it, and how incidents are compared."""

import random
from decimal import Decimal

import pyarrow as pa

from shopstream.detection.rule import load_rules
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.schema import WIRE_SCHEMA

START_MS = 1_573_430_400_000
MINUTES = 40
FIRST_SEQUENCE_NUMBER = 49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898


def events():
    """Rows of many shoppers, some who are too fast, a flood, and ten minutes without anybody."""
    choice = random.Random(7)  # noqa: S311  a shop, no secret
    times = [START_MS + 250 * n for n in range(MINUTES * 240) if not 20 * 60_000 <= 250 * n < 30 * 60_000]
    rows = [(at, choice.randint(1, 400), choice.randint(1, 60)) for at in times]
    for user, minute, count, apart_ms in ((9_001, 5, 60, 200), (9_002, 12, 45, 300), (9_001, 35, 50, 200)):
        rows += [(START_MS + minute * 60_000 + n * apart_ms, user, 7) for n in range(count)]
    rows += [(START_MS + 8 * 60_000 + n * 700, 9_003, 100 + n) for n in range(150)]
    rows += [(START_MS + 37 * 60_000 + n * 10, 10_000 + n % 900, n % 60 + 1) for n in range(2_500)]
    return sorted(rows)


def wire(rows, number):
    made = [
        dict.fromkeys(WIRE_SCHEMA.names)
        | {
            "event_time": at * 1_000,
            "event_type": "view",
            "product_id": product,
            "category_id": 1,
            "price": Decimal(2),
            "user_id": user,
            "event_id": f"{number}-{place}",
        }
        for place, (at, user, product) in enumerate(rows)
    ]
    return encode_arrow(pa.Table.from_pylist(made, schema=WIRE_SCHEMA))


def rules():
    return {rule_id: rule for rule_id, rule in load_rules().items() if rule.enabled}


def seen(incidents):
    """What a person sees of incidents, and what must be the same however they came about."""
    return sorted(
        (i.id, i.rule, str(i.severity), i.first_event_time, i.last_event_time, i.windows, sorted(i.peak.items()))
        for i in incidents
    )
