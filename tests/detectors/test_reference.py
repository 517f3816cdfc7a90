"""What the engine looks up for detectors: prices, the tail, duplicates."""

from decimal import Decimal

import pyarrow as pa
import pytest

from factories import make_event
from shopstream.detection.detector import DUPLICATE_SIGNAL, PRICE_SIGNAL, TAIL_10S, TAIL_60S
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.product_reference import PRODUCT_SCHEMA, ProductReference
from shopstream.engine.engine import Engine
from shopstream.engine.settings import EngineSettings
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.codec import Decoder
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.stream.ports import Record

START_MS = 1_573_430_400_000
KNOWN = pa.Table.from_pylist(
    [
        {"product_id": 1, "low": 100.0, "high": 150.0, "tail": False},
        {"product_id": 2, "low": 10.0, "high": 10.0, "tail": True},
        {"product_id": 3, "low": None, "high": None, "tail": True},
    ],
    schema=PRODUCT_SCHEMA,
)


def event(second, product, price="100", user=7, category=1):
    named = {"user_session": "s", "event_id": f"{second}-{product}-{user}-{price}"}
    time_us = (START_MS + int(second * 1000)) * 1000
    return make_event(time_us, user, product=product, category_id=category, price=Decimal(price), **named)


class Shop:
    """An engine with the operator, fed event by event or all at once."""

    def __init__(self, products=KNOWN):
        self.engine = Engine(EngineSettings(threads=1), [])
        self.engine.attach(ProductReference(self.engine.connection, products), advance=True)
        self._decoder, self._place = Decoder(), 0

    def send(self, *events):
        rows = [{name: one.get(name) for name in WIRE_SCHEMA.names} for one in events]
        payload = encode_arrow(pa.Table.from_pylist(rows, schema=WIRE_SCHEMA))
        self._place += 1
        decoded = self._decoder.decode([payload], [START_MS])
        self.engine.process([Record(payload, "", "shard", self._place, START_MS)], decoded)
        return self.engine.advance()

    def all(self, *events, batch=100):
        signals = []
        for first in range(0, len(events), batch):
            signals += self.send(*events[first : first + batch])
        return signals + self.send(event(600, 1, user=99))


def of(signals, window):
    return [(one.start_ms - START_MS, dict(one.key), dict(one.measures)) for one in signals if one.window == window]


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_prices_far_from_all_usual_ones_are_reported_and_others_not(batch):
    events = [
        *(event(1, 1, "100"), event(2, 1, "299"), event(3, 1, "51"), event(4, 1, "0")),
        *(event(5, 1, "301"), event(6, 1, "49"), event(12, 2, "1")),
    ]
    shown = of(Shop().all(*events, batch=batch), PRICE_SIGNAL)
    assert shown == [
        (0, {"product_id": 1}, {"events": 2, "lowest": 49.0, "highest": 301.0, "low": 100.0, "high": 150.0}),
        (10_000, {"product_id": 2}, {"events": 1, "lowest": 1.0, "highest": 1.0, "low": 10.0, "high": 10.0}),
    ]


@pytest.mark.parametrize("batch", [1, 100])
@pytest.mark.parametrize("products", [KNOWN, None], ids=["known", "nothing known"])
def test_a_new_products_first_price_is_its_usual_one(batch, products):
    events = (event(1, 50, "20"), event(2, 50, "35"), event(3, 50, "200"))
    (told,) = of(Shop(products).all(*events, batch=batch), PRICE_SIGNAL)
    assert told == (0, {"product_id": 50}, {"events": 1, "lowest": 200.0, "highest": 200.0, "low": 20.0, "high": 20.0})


@pytest.mark.parametrize("batch", [1, 100])
def test_the_tail_is_counted_by_shoppers_and_products_with_and_without_its_busiest_category(batch):
    events = [
        *(event(1, 1, user=1), event(2, 2, user=1), event(3, 2, user=2), event(4, 60, user=3)),
        *(event(5, 61, user=4, category=9), event(15, 1, user=5)),
    ]
    signals = Shop().all(*events, batch=batch)
    whole = {"tail_users": 4, "tail_products": 3, "spread_users": 1, "spread_products": 1}
    assert of(signals, TAIL_10S)[:2] == [(0, {}, whole), (10_000, {}, dict.fromkeys(whole, 0))]
    assert of(signals, TAIL_60S)[0] == (0, {}, whole)


def test_nothing_is_said_of_the_tail_where_nothing_is_known_of_it():
    assert of(Shop(None).all(event(1, 1), event(2, 2)), TAIL_10S) == []


def test_duplicates_count_when_they_come():
    first, second = event(1, 1), event(2, 2, "10")
    shop = Shop()
    signals = shop.send(first, second) + shop.send(first, event(25, 1)) + shop.send(second) + shop.all()
    assert of(signals, DUPLICATE_SIGNAL) == [(0, {}, {"duplicates": 1}), (20_000, {}, {"duplicates": 1})]


def test_state_survives_a_restart(tmp_path):
    shop = Shop()
    shop.send(event(1, 50, "20"), event(2, 2, "10"), event(3, 2, "1"))
    shop.engine.save(tmp_path / "state.duckdb")
    marks = shop.engine.watermarks
    again = Shop()
    again.engine.restore(tmp_path / "state.duckdb", shop.engine.state_tables(), marks.current_ms, marks.newest())
    rest = (event(4, 50, "200"), event(5, 60, user=8))
    assert again.all(*rest) == shop.all(*rest)


def test_a_detector_runner_attaches_its_operators_to_the_engine():
    engine = Engine(EngineSettings(threads=1), [])
    DetectorRunner([], [lambda engine: ProductReference(engine.connection)]).attach(engine)
    assert "detect_products_learned" in engine.state_tables()
