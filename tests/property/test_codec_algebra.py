"""Whatever bytes come, every row is an event or a named reject; whichever format carries an event, it is the same."""

import json
import random
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from encoding import encode_csv, encode_json
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.codec import Decoder
from shopstream.events.columns import REES46_COLUMNS
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.events.validation import Reason

ARRIVAL_MS = 4_000_000_000_000
DECODER = Decoder()

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
ids = st.integers(0, (1 << 63) - 1)
events = st.fixed_dictionaries(
    {
        "event_time": st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  aware by `timezones`
        "event_type": st.sampled_from(["view", "cart", "remove_from_cart", "purchase"]),
        "product_id": ids,
        "category_id": ids,
        "category_code": st.none() | texts,
        "brand": st.none() | texts | st.just("nan"),
        "price": st.integers(0, 10**18 - 1).map(lambda units: Decimal(units).scaleb(-4)),
        "user_id": ids,
        "user_session": st.none() | texts,
        "event_id": st.none() | texts,
        "ip": st.none() | st.just("192.0.2.1"),
        "user_agent": st.none() | texts,
        "url": st.none() | texts,
    }
)
tables = st.lists(events, min_size=1, max_size=8).map(lambda rows: pa.Table.from_pylist(rows, schema=WIRE_SCHEMA))
ENCODERS = (encode_arrow, encode_csv, encode_json)


def plain(table):
    return table.drop_columns(["record", "place"]).cast(WIRE_SCHEMA).to_pylist()


@settings(deadline=None)
@given(tables)
def test_every_format_decodes_to_the_same_events_and_ids(table):
    decoded = [DECODER.decode([encode(table)], [ARRIVAL_MS]) for encode in ENCODERS]
    for result in decoded:
        assert result.rejects.to_pylist() == []
        without_ids = [
            row | {"event_id": sent["event_id"]}
            for row, sent in zip(plain(result.events), table.to_pylist(), strict=True)
        ]
        assert without_ids == table.to_pylist()
    assert plain(decoded[0].events) == plain(decoded[1].events) == plain(decoded[2].events)


@settings(deadline=None)
@given(tables, st.integers(0, 2), st.lists(st.integers(0, 100), min_size=1, max_size=4))
def test_cutting_a_batch_into_payloads_changes_nothing(table, encoder, cuts):
    encode = ENCODERS[encoder]
    edges = sorted({0, *(cut % (len(table) + 1) for cut in cuts), len(table)})
    parts = [encode(table.slice(a, b - a)) for a, b in pairwise(edges)]
    whole = DECODER.decode([encode(table)], [ARRIVAL_MS])
    cut = DECODER.decode(parts, [ARRIVAL_MS] * len(parts))
    assert plain(whole.events) == plain(cut.events)


def rows_of(payload: bytes) -> int:
    """Rows of a text payload, counted the simple way."""
    lines = [line.removesuffix(b"\r") for line in payload.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    lines = [line for line in lines if line]
    if (
        lines
        and not lines[0].lstrip().startswith(b"{")
        and b"event_time" in lines[0].replace(b'"', b"").replace(b" ", b"").split(b",")
    ):
        lines = lines[1:]
    return len(lines)


corruptions = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "delete"]), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=4)
    ),
    min_size=1,
    max_size=4,
)


def corrupt(payload: bytes, changes) -> bytes:
    for kind, at, data in changes:
        place = at % (len(payload) + 1)
        if kind == "flip":
            payload = payload[:place] + data + payload[place + len(data) :]
        elif kind == "cut":
            payload = payload[:place]
        elif kind == "insert":
            payload = payload[:place] + data + payload[place:]
        else:
            payload = payload[:place] + payload[place + len(data) :]
    return payload


def accounted(payload: bytes) -> None:
    decoded = DECODER.decode([payload], [ARRIVAL_MS])
    rows = decoded.events.num_rows + decoded.rejects.num_rows
    places = sorted(decoded.events["place"].to_pylist() + decoded.rejects["place"].to_pylist())
    assert places == list(range(rows))
    assert set(decoded.rejects["reason"].to_pylist()) <= set(Reason)
    whole = decoded.rejects["payload"].to_pylist() == [payload]
    if not whole and payload[:4] != b"\xff\xff\xff\xff":
        assert rows == rows_of(payload)
        for reject in decoded.rejects["payload"].to_pylist():
            assert reject in payload
    decoded.events.validate(full=True)


@settings(max_examples=300, deadline=None)
@given(tables, st.integers(0, 2), corruptions)
def test_no_corruption_raises_and_every_row_is_accounted_for(table, encoder, changes):
    accounted(corrupt(ENCODERS[encoder](table), changes))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
@example(b'{"a":{}\n{}} {"b":1}')
@example(b"\xef\xbb\xbf")
@example(b"event_time")
@example(b'"event_time"\n')
@example(b"\n \n")
def test_any_bytes_are_accounted_for(payload):
    accounted(payload)


fields = st.sampled_from(
    [
        *(
            "",
            " ",
            "1",
            " 7",
            "7 ",
            "+7",
            "-0",
            "007",
            "5.0",
            "1e3",
            "1_0",
            "0x1F",
            "nan",
            "inf",
            "NULL",
            "null",
            "view",
        ),
        *("cart", "a b", "é", ".5", "5.", "99999999999999999999", "1e-4", "123456789012345.1", "0.12345", '"x"', "\t5"),
        *("\uff11", "2019-11-01 00:00:00 UTC", "2019-11-01T00:00:00Z", "2019-11-01 00:00:00", "2019-11-01"),
        *("2019-11-01T00:00:00.1+02", "2019-11-01 00:00:00+0260", "2019-11-01 00:00:00.1234567Z"),
        *("2019-11-01 00:00:60 UTC", "2019-11-01 24:00:00 UTC", "2019-11-01  00:00:00 UTC"),
        *("2019-11-01 00:00:00 UTC UTC", "2019-11-01 00:00:00Z UTC", "2019-11-01 00:00:00+02 UTC"),
    ]
)
good = ["2019-11-01 00:00:00 UTC", "view", "1", "2", "a", "b", "3.5", "4", "s"]
lines = st.tuples(st.lists(st.tuples(st.integers(0, 8), fields), max_size=2)).map(
    lambda drawn: ",".join((dict(enumerate(good)) | dict(drawn[0])).values()).encode()
)
json_values = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.sampled_from([0.5, 1.0, 5e3, 0.00001])
    | fields
    | st.just([])
    | st.just({})
)


@settings(max_examples=150, deadline=None)
@given(st.lists(lines, min_size=1, max_size=6))
def test_a_csv_row_means_the_same_alone_and_among_others(rows):
    alone_and_together(rows)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from(REES46_COLUMNS), json_values), max_size=2), min_size=1, max_size=6))
def test_a_json_row_means_the_same_alone_and_among_others(drawn):
    base = dict(zip(REES46_COLUMNS, good, strict=True))
    alone_and_together([json.dumps(base | dict(changes)).encode() for changes in drawn])


def alone_and_together(rows: list[bytes]) -> None:
    together = DECODER.decode([b"\n".join(rows)], [ARRIVAL_MS])
    alone = DECODER.decode([part for row in rows for part in (row, b"")], [ARRIVAL_MS] * 2 * len(rows))
    by_row = [
        DECODER.decode([row + b"\n" + b'"'], [ARRIVAL_MS]) for row in rows
    ]  # the quote forces the row-wise reader
    assert plain(together.events) == plain(alone.events) == [row for one in by_row for row in plain(one.events)]
    named = [reason for one in by_row for reason in one.rejects["reason"].to_pylist()[:-1]]
    assert together.rejects["reason"].to_pylist() == named


@pytest.mark.parametrize("seed", range(4))
def test_arrow_payloads_with_flipped_bytes_never_raise(seed):
    lines = ["2019-11-01 00:00:00 UTC,view,1,2,a.b,nan,489.07,3,s-1", "2019-11-01 00:00:01 UTC,cart,4,5,,,0.1,6,"] * 45
    payload = encode_arrow(DECODER.decode(["\n".join(lines).encode()], [ARRIVAL_MS]).events)
    dice = random.Random(seed)  # noqa: S311  a test's dice
    damaged = []
    for _ in range(250):
        copy = bytearray(payload)
        for _ in range(dice.randint(1, 6)):
            copy[dice.randrange(4, len(copy))] = dice.randrange(256)
        damaged.append(bytes(copy))
    decoded = DECODER.decode(damaged, [ARRIVAL_MS] * len(damaged))
    seen = set(decoded.events["record"].to_pylist()) | set(decoded.rejects["record"].to_pylist())
    assert seen == set(range(250))
