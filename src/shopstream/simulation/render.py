"""Renders event batches as Arrow tables and as REES46 text.

Lines are joined from texts that repeat (a time, the columns of a product, a session), which is fast.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shopstream.events.columns import REES46_COLUMNS, EventType
from shopstream.events.schema import EVENT_FIELDS, PRICE_TYPE
from shopstream.simulation.catalogue import Catalogue
from shopstream.simulation.event_batch import KINDS, EventBatch, Ints, mix
from shopstream.simulation.injection import Injection

_TRACKER_COLUMNS = tuple(field.name for field in EVENT_FIELDS if field.name not in REES46_COLUMNS)
_HEX = np.array([[ord(c) for c in f"{byte:02x}"] for byte in range(256)], np.uint8)
_UUID_DASHES = np.array([8, 13, 18, 23])
_UUID_DIGITS = np.setdiff1d(np.arange(36), _UUID_DASHES)
_WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
_SAFARI = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
_AGENTS = (
    f"Mozilla/5.0 (X11; Linux x86_64) {_WEBKIT} HeadlessChrome/78.0.3904.70 Safari/537.36",
    f"Mozilla/5.0 (Linux; Android 9; SM-A505F) {_WEBKIT} Chrome/78.0.3904.62 Mobile Safari/537.36",
    f"Mozilla/5.0 (Linux; Android 8.1.0; Redmi 5) {_WEBKIT} Chrome/77.0.3865.116 Mobile Safari/537.36",
    f"Mozilla/5.0 (iPhone; CPU iPhone OS 13_1_3 like Mac OS X) {_SAFARI} Version/13.0.1 Mobile/15E148 Safari/604.1",
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_WEBKIT} Chrome/78.0.3904.70 Safari/537.36",
    f"Mozilla/5.0 (Windows NT 6.1; Win64; x64) {_WEBKIT} Chrome/77.0.3865.120 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:70.0) Gecko/20100101 Firefox/70.0",
    f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) {_SAFARI} Version/13.0.2 Safari/605.1.15",
)


class Renderer:
    """Renders the events of one synthesis.

    Args:
        catalogue: the products.
        injections: their actors have clients of their own.
        seed: seed of session and event ids.
        tracker: with event id, address, user agent and url.
    """

    def __init__(self, catalogue: Catalogue, injections: Sequence[Injection], seed: int, *, tracker: bool) -> None:
        self._catalogue, self._injections, self._seed, self._tracker = catalogue, injections, seed, tracker
        self._codes, self._brands = pa.array(catalogue.codes, pa.string()), pa.array(catalogue.brands, pa.string())
        self._prices = _decimals(catalogue.price)
        self._product_text = catalogue.csv_fields()
        self._kind_text = pa.array([f"{kind}," for kind in KINDS])
        self._kinds = pa.array([EventType(kind).value for kind in KINDS], pa.string())
        if tracker:
            self._urls = pa.array(
                [f"https://shop.example/product/{number}" for number in catalogue.product_id.tolist()]
            )
            self._agents = pa.array(_AGENTS)
            self._quoted_agents = pa.array([f',"{text}",' for text in _AGENTS])

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the text."""
        return REES46_COLUMNS + _TRACKER_COLUMNS if self._tracker else REES46_COLUMNS

    def table(self, batch: EventBatch) -> pa.Table:
        """Columns of WIRE_SCHEMA in order; texts dictionary-encoded."""
        shop, product = self._catalogue, batch.product
        sessions = pa.array(batch.session).dictionary_encode()
        session_text = self._uuids(sessions.dictionary.to_numpy(), 1)
        rows = {
            "event_time": pa.array(batch.time // 1000 * 1_000_000).cast(pa.timestamp("us", "UTC")),
            "event_type": _dictionary(batch.kind, self._kinds),
            "product_id": pa.array(shop.product_id[product]),
            "category_id": pa.array(shop.category_id[product]),
            "category_code": _dictionary(shop.code[product], self._codes),
            "brand": _dictionary(shop.brand[product], self._brands),
            "price": self._prices.take(pa.array(product)),
            "user_id": pa.array(batch.user),
            "user_session": pa.DictionaryArray.from_arrays(sessions.indices, session_text),
        }
        if self._tracker:
            address, agent = self._clients(batch.user)
            places, urls = pa.array(product).dictionary_encode(), self._urls
            rows["event_id"] = self._uuids(batch.number, 2)
            rows["ip"] = address.dictionary_encode()
            rows["user_agent"] = _dictionary(agent, self._agents)
            rows["url"] = pa.DictionaryArray.from_arrays(places.indices, urls.take(places.dictionary))
        else:
            rows |= {name: pa.nulls(len(batch), pa.string()) for name in _TRACKER_COLUMNS}
        return pa.table(rows)

    def csv(self, batch: EventBatch) -> pa.Buffer:
        """CSV lines without header."""
        sessions = pa.array(batch.session).dictionary_encode()
        keys = sessions.dictionary.to_numpy()
        places = sessions.indices.to_numpy()
        user = np.empty(len(keys), np.int64)
        user[places] = batch.user
        moments = pa.array(batch.time // 1000).dictionary_encode()
        tail = pa.scalar("," if self._tracker else "\n")
        visitor = pc.binary_join_element_wise(pa.array(user).cast(pa.string()), self._uuids(keys, 1), ",")
        parts = [
            _moments(moments.dictionary.to_numpy()).take(moments.indices),
            self._kind_text.take(pa.array(batch.kind)),
            self._product_text.take(pa.array(batch.product)),
            pc.binary_join_element_wise(visitor, tail, "").take(sessions.indices),
        ]
        if self._tracker:
            address, agent = self._clients(batch.user)
            client = pc.binary_join_element_wise(self._uuids(batch.number, 2), address, ",")
            page = pc.binary_join_element_wise(self._urls.take(pa.array(batch.product)), "\n", "")
            parts += [client, self._quoted_agents.take(pa.array(agent)), page]
        lines = pc.binary_join_element_wise(*parts, "")
        _, offsets, data = lines.buffers()
        size = int(np.frombuffer(offsets, np.int32, 1, 4 * len(batch))[0])
        return data.slice(0, size)

    def _uuids(self, numbers: Ints, salt: int) -> pa.Array:
        """A random-looking UUID per number."""
        words = np.stack([mix(numbers, self._seed * 8 + salt), mix(numbers, self._seed * 8 + salt + 4)], axis=1)
        digits = words.astype(">u8").view(np.uint8).reshape(-1, 16)
        text = np.full((len(numbers), 36), ord("-"), np.uint8)
        text[:, _UUID_DIGITS] = _HEX[digits].reshape(-1, 32)
        text[:, 14] = ord("4")
        return _fixed(text)

    def _clients(self, users: Ints) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """Address and index of the user agent of each user; they never change."""
        who = pa.array(users).dictionary_encode()
        ids = who.dictionary.to_numpy()
        scattered = mix(ids, 5)
        # 100.64.0.0/10 is not routed on the internet.
        address = np.uint64(0x64400000) + (scattered >> np.uint64(20)) % np.uint64(0x3FFFFF)
        clients = (address << np.uint64(8) | (np.uint64(1) + scattered % np.uint64(len(_AGENTS) - 1))).astype(np.int64)
        for injection in self._injections:
            mine = np.isin(ids, injection.actors)
            clients[mine] = injection.clients(ids[mine])
        number = clients >> 8
        octets = [pa.array(number >> shift & 255).cast(pa.string()) for shift in (24, 16, 8, 0)]
        text = pc.binary_join_element_wise(*octets, ".")
        return text.take(who.indices), (clients & 255)[who.indices.to_numpy()]


def _dictionary(places: npt.NDArray[np.integer], texts: pa.Array) -> pa.DictionaryArray:
    """Indexes into texts as a dictionary column; negative indexes are null."""
    small = pa.array(places.astype(np.int32))
    if places.dtype.kind == "i" and len(places) and places.min() < 0:
        small = pa.array(places.astype(np.int32), mask=places < 0)
    return pa.DictionaryArray.from_arrays(small, texts)


def _decimals(ten_thousandths: Ints) -> pa.Array:
    """Exact decimals from integers: the low word and the sign of a 128-bit number."""
    words = np.stack([ten_thousandths, ten_thousandths >> 63], axis=1)
    return pa.Array.from_buffers(PRICE_TYPE, len(words), [None, pa.py_buffer(np.ascontiguousarray(words))])


def _moments(seconds: Ints) -> pa.Array:
    """`2019-11-01 00:00:00 UTC,` per second."""
    text = np.empty((len(seconds), 24), np.uint8)
    iso = np.datetime_as_string(seconds.astype("datetime64[s]")).astype("S19")
    text[:, :19] = iso.view(np.uint8).reshape(-1, 19)
    text[:, 10] = ord(" ")
    text[:, 19:] = np.frombuffer(b" UTC,", np.uint8)
    return _fixed(text)


def _fixed(text: npt.NDArray[np.uint8]) -> pa.Array:
    """Strings of one length from a matrix of ASCII codes."""
    offsets = np.arange(len(text) + 1, dtype=np.int32) * text.shape[1]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(text))]
    return pa.Array.from_buffers(pa.string(), len(text), buffers)
