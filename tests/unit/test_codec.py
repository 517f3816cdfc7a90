from datetime import UTC, datetime
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from encoding import content_id, encode_csv, encode_json
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.codec import Decoded, Decoder, decode
from shopstream.events.columns import REES46_COLUMNS
from shopstream.events.schema import EVENT_ID_SQL, PRICE_TYPE, WIRE_SCHEMA
from shopstream.events.validation import Reason

ARRIVAL_MS = 1_600_000_000_000
GOOD = "2019-11-01 00:00:00 UTC,view,1003461,2053013555631882655,electronics.smartphone,nan,489.07,520088904,4d3b30da"


def read(*payloads: bytes | str, arrival_ms: int = ARRIVAL_MS) -> Decoded:
    encoded = [p.encode() if isinstance(p, str) else p for p in payloads]
    return Decoder().decode(encoded, [arrival_ms] * len(encoded))


def changed(**values: str) -> str:
    fields = dict(zip(REES46_COLUMNS, GOOD.split(","), strict=True)) | values
    return ",".join(fields.values())


def json_line(**values: str) -> str:
    """Each value is JSON text."""
    fields = {
        "event_time": '"2019-11-01T00:00:00Z"',
        "event_type": '"view"',
        "product_id": "1003461",
        "category_id": "2053013555631882655",
        "category_code": '"electronics.smartphone"',
        "brand": '"nan"',
        "price": "489.07",
        "user_id": "520088904",
        "user_session": '"4d3b30da"',
    } | values
    return "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"


def only(decoded: Decoded) -> dict[str, object]:
    assert decoded.rejects.num_rows == 0, decoded.rejects.to_pylist()
    (row,) = decoded.events.to_pylist()
    return row


def reasons(decoded: Decoded) -> list[str]:
    return decoded.rejects["reason"].to_pylist()


def test_a_rees46_row_becomes_typed_values():
    row = only(read(GOOD))
    assert row == {
        "event_time": datetime(2019, 11, 1, tzinfo=UTC),
        "event_type": "view",
        "product_id": 1003461,
        "category_id": 2053013555631882655,
        "category_code": "electronics.smartphone",
        "brand": "nan",
        "price": Decimal("489.0700"),
        "user_id": 520088904,
        "user_session": "4d3b30da",
        "event_id": row["event_id"],
        "ip": None,
        "user_agent": None,
        "url": None,
        "record": 0,
        "place": 0,
    }
    assert len(str(row["event_id"])) == 32


@pytest.mark.parametrize("name", ["category_code", "brand", "user_session"])
def test_empty_text_is_null_in_csv_and_json(name):
    assert only(read(changed(**{name: ""})))[name] is None
    assert only(read(json_line(**{name: '""'})))[name] is None
    assert only(read(json_line(**{name: "null"})))[name] is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2019-11-01 00:00:01 UTC", datetime(2019, 11, 1, 0, 0, 1, tzinfo=UTC)),
        ("2019-11-01 00:00:01", datetime(2019, 11, 1, 0, 0, 1, tzinfo=UTC)),
        ("2019-11-01T00:00:01Z", datetime(2019, 11, 1, 0, 0, 1, tzinfo=UTC)),
        ("2019-11-01T00:00:01.5Z", datetime(2019, 11, 1, 0, 0, 1, 500_000, tzinfo=UTC)),
        ("2019-11-01T00:00:01.123456+00:00", datetime(2019, 11, 1, 0, 0, 1, 123_456, tzinfo=UTC)),
        ("2019-11-01T00:00:01.123456789Z", datetime(2019, 11, 1, 0, 0, 1, 123_456, tzinfo=UTC)),
        ("2019-11-01T02:00:01+02:00", datetime(2019, 11, 1, 0, 0, 1, tzinfo=UTC)),
        ("2019-10-31 18:30:01-0530", datetime(2019, 11, 1, 0, 0, 1, tzinfo=UTC)),
        ("2019-11-01 00:00:01.250 UTC", datetime(2019, 11, 1, 0, 0, 1, 250_000, tzinfo=UTC)),
    ],
)
def test_times_are_read_in_each_usual_form(text, moment):
    assert only(read(changed(event_time=text)))["event_time"] == moment
    assert only(read(json_line(event_time=f'"{text}"')))["event_time"] == moment
    together = read("\n".join([GOOD, changed(event_time=text), GOOD]))
    assert together.events["event_time"][1].as_py() == moment


@pytest.mark.parametrize("price", ["489.07", "0", "0.1", "17.0001", "99999999999999.9999", "1e2", "0.30000"])
def test_prices_are_exact_in_csv_and_in_json_numbers_and_strings(price):
    exact = Decimal(price).quantize(Decimal("0.0001"))
    assert only(read(changed(price=price)))["price"] == exact
    assert only(read(json_line(price=price)))["price"] == exact
    assert only(read(json_line(price=f'"{price}"')))["price"] == exact


@pytest.mark.parametrize("name", ["product_id", "category_id", "user_id"])
def test_json_ids_beyond_two_to_the_53_stay_exact_as_number_and_as_string(name):
    assert only(read(json_line(**{name: "2053013555631882655"})))[name] == 2053013555631882655
    assert only(read(json_line(**{name: '"9223372036854775807"'})))[name] == 9223372036854775807


def test_header_bom_crlf_blank_lines_and_a_missing_last_newline_are_no_events():
    header = ",".join(REES46_COLUMNS)
    plain = read(GOOD)
    for text in (f"\ufeff{header}\r\n{GOOD}\r\n", f"{header}\n{GOOD}", f"\ufeff{GOOD}\r\n", f"\n\n{GOOD}\n\r\n\n"):
        assert only(read(text)) == only(plain)


def test_a_header_may_reorder_columns_and_name_the_trackers():
    text = (
        "event_id,url,user_session,user_id,price,brand,category_code,category_id,product_id,event_type,event_time,extra\n"
        "e-1,https://shop.example/p/1,s,7,1.5,nan,,2,1,cart,2019-11-01 00:00:00 UTC,x\n"
    )
    row = only(read(text))
    assert (row["event_id"], row["url"], row["event_type"], row["brand"]) == (
        "e-1",
        "https://shop.example/p/1",
        "cart",
        "nan",
    )


def test_a_header_alone_holds_no_event():
    decoded = read(",".join(REES46_COLUMNS) + "\n")
    assert (decoded.events.num_rows, decoded.rejects.num_rows) == (0, 0)


def test_quoted_fields_may_hold_commas_and_quotes():
    row = only(read(changed(brand='"o""neill, ltd"')))
    assert row["brand"] == 'o"neill, ltd'


def test_a_cut_last_row_is_rejected_alone_with_its_bytes():
    decoded = read(f"{GOOD}\n{GOOD}\n2019-11-01 00:00:00 UTC,view,10034")
    assert decoded.events["place"].to_pylist() == [0, 1]
    (reject,) = decoded.rejects.to_pylist()
    assert reject["reason"] == Reason.MALFORMED_CSV
    assert (reject["place"], reject["payload"]) == (2, b"2019-11-01 00:00:00 UTC,view,10034")


def test_a_stray_quote_spoils_its_own_line_only():
    decoded = read(f"{GOOD}\n{changed(brand=chr(34) + 'half')}\n{GOOD}\n")
    assert decoded.events["place"].to_pylist() == [0, 2]
    assert reasons(decoded) == [Reason.MALFORMED_CSV]


REJECTED = [
    (Reason.MALFORMED_CSV, GOOD + ",one,more"),
    (Reason.MALFORMED_CSV, "hello"),
    (Reason.MALFORMED_JSON, '{"event_time": "2019'),
    (Reason.MALFORMED_JSON, json_line() + json_line()),
    (Reason.NOT_UTF8, changed(brand="\xff").encode("latin-1")),
    (Reason.NOT_UTF8, json_line(brand='"\xff"').encode("latin-1")),
    (Reason.MISSING_FIELD, changed(user_id="")),
    (Reason.MISSING_FIELD, json_line(price="null")),
    (Reason.MISSING_FIELD, '{"event_type": "view"}'),
    (Reason.MISSING_FIELD, "event_time,price\n2019-11-01 00:00:00 UTC,5"),
    (Reason.BAD_EVENT_TIME, changed(event_time="01/11/2019 00:00")),
    (Reason.BAD_EVENT_TIME, changed(event_time="2019-02-30 00:00:00 UTC")),
    (Reason.BAD_EVENT_TIME, changed(event_time="2019-11-01")),
    (Reason.BAD_EVENT_TIME, json_line(event_time="1572566400")),
    (Reason.EVENT_TIME_TOO_OLD, changed(event_time="1970-01-01 00:00:00 UTC")),
    (Reason.EVENT_TIME_IN_FUTURE, changed(event_time="2020-09-14 12:26:41 UTC")),
    (Reason.UNKNOWN_EVENT_TYPE, changed(event_type="wishlist")),
    (Reason.UNKNOWN_EVENT_TYPE, changed(event_type="View")),
    (Reason.BAD_PRODUCT_ID, changed(product_id="abc")),
    (Reason.BAD_PRODUCT_ID, changed(product_id="0x1F")),
    (Reason.BAD_PRODUCT_ID, changed(product_id="-5")),
    (Reason.BAD_PRODUCT_ID, json_line(product_id="true")),
    (Reason.BAD_CATEGORY_ID, changed(category_id="9223372036854775808")),
    (Reason.BAD_CATEGORY_ID, json_line(category_id="1e999999999")),
    (Reason.BAD_USER_ID, changed(user_id="1.5")),
    (Reason.BAD_USER_ID, json_line(user_id="[1]")),
    (Reason.BAD_PRICE, changed(price="12,5").replace("12,5", '"12,5"')),
    (Reason.BAD_PRICE, changed(price="nan")),
    (Reason.BAD_PRICE, json_line(price="NaN")),
    (Reason.NEGATIVE_PRICE, changed(price="-0.01")),
    (Reason.NEGATIVE_PRICE, changed(price="-1e15")),
    (Reason.PRICE_TOO_LARGE, changed(price="100000000000000")),
    (Reason.PRICE_TOO_PRECISE, changed(price="0.00001")),
    (Reason.BAD_TEXT, json_line(brand="7")),
    (Reason.BAD_TEXT, json_line(brand='"\\ud800"')),
    (Reason.CONTROL_CHARACTER, changed(brand="a\x1fb")),
    (Reason.CONTROL_CHARACTER, json_line(brand='"a\\u0000b"')),
    (Reason.CONTROL_CHARACTER, json_line(user_session='"a\\nb"')),
    (Reason.TEXT_TOO_LONG, changed(brand="x" * 1025)),
    (Reason.UNKNOWN_FORMAT, b""),
    (Reason.UNKNOWN_FORMAT, b"\x00\x01\x02"),
    (Reason.MALFORMED_ARROW, b"\xff\xff\xff\xff\x10\x00\x00\x00rubbish"),
]


@pytest.mark.parametrize(("reason", "payload"), REJECTED)
def test_each_rule_rejects_with_its_name_and_the_original_bytes(reason, payload):
    raw = payload if isinstance(payload, bytes) else payload.encode()
    decoded = read(GOOD, raw, GOOD)
    (reject,) = decoded.rejects.to_pylist()
    assert reject["reason"] == reason
    assert (reject["record"], reject["place"]) == (1, 0)
    assert raw.endswith(reject["payload"])
    assert decoded.events["record"].to_pylist() == [0, 2]


def test_a_detail_states_rule_value_and_remedy():
    for _, payload in REJECTED:
        (detail,) = read(payload).rejects["detail"].to_pylist()
        assert detail.startswith("expected ")
        assert "got" in detail
        assert "; " in detail


def test_every_reason_is_proved_and_explained():
    assert {reason for reason, _ in REJECTED} == set(Reason)
    assert all(reason.meaning.endswith(".") for reason in Reason)


LINES = [
    (reason, payload.encode() if isinstance(payload, str) else payload)
    for reason, payload in REJECTED
    if reason not in {Reason.UNKNOWN_FORMAT, Reason.MALFORMED_ARROW} and not str(payload).startswith("event_time")
]


@pytest.mark.parametrize(("reason", "raw"), LINES)
def test_a_bad_line_among_thousands_is_the_only_one_lost(reason, raw):
    good = json_line() if raw.startswith(b"{") else GOOD
    lines = [good.encode()] * 1000
    lines[617] = raw
    decoded = read(b"\n".join(lines))
    assert reasons(decoded) == [reason]
    assert decoded.rejects["place"].to_pylist() == [617]
    assert decoded.rejects["payload"].to_pylist() == [raw]
    assert decoded.events["place"].to_pylist() == [place for place in range(1000) if place != 617]


def test_future_is_measured_from_each_records_own_arrival():
    later = changed(event_time="2020-09-20 00:00:00 UTC").encode()
    decoded = Decoder().decode([later, later], [ARRIVAL_MS, ARRIVAL_MS + 30 * 86_400_000])
    assert decoded.events["record"].to_pylist() == [1]
    assert decoded.rejects["record"].to_pylist() == [0]


def test_rejects_keep_order_whatever_found_them():
    decoded = read(f"{changed(price='-1')}\nhello\n{GOOD}\n{changed(product_id='x')}", "", changed(event_type="x"))
    assert decoded.rejects.select(["record", "place"]).to_pylist() == [
        {"record": 0, "place": 0},
        {"record": 0, "place": 1},
        {"record": 0, "place": 3},
        {"record": 1, "place": 0},
        {"record": 2, "place": 0},
    ]
    assert decoded.events.select(["record", "place"]).to_pylist() == [{"record": 0, "place": 2}]


def test_formats_may_be_mixed_in_one_call():
    events = read(GOOD).events.drop_columns(["record", "place"])
    decoded = read(GOOD, encode_arrow(events), json_line(), encode_csv(events), encode_json(events))
    assert decoded.events["record"].to_pylist() == [0, 1, 2, 3, 4]
    assert len(set(decoded.events["event_id"].to_pylist())) == 1


def test_no_payloads_decode_to_no_events():
    decoded = read()
    assert decoded.events.num_rows == 0
    assert decoded.events.column_names == [*WIRE_SCHEMA.names, "record", "place"]


def test_arrival_times_must_match_the_payloads():
    with pytest.raises(ValueError, match="expected one arrival time for each payload"):
        decode([b"x"], [])


def arrow_payload(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def loose(**columns: pa.Array) -> pa.Table:
    """Two good rows as a foreign producer might send them."""
    values = {
        "event_time": pa.array([datetime(2019, 11, 1), datetime(2019, 11, 2)], pa.timestamp("ms")),  # noqa: DTZ001  naive on purpose
        "event_type": pa.array(["view", "cart"]),
        "product_id": pa.array([1, 2], pa.int32()),
        "category_id": pa.array([2053013555631882655, 7], pa.uint64()),
        "category_code": pa.array(["", None]),
        "brand": pa.array(["nan", "x"]),
        "price": pa.array([489.07, 0.1], pa.float64()),
        "user_id": pa.array([5, 6]),
        "user_session": pa.array(["a", ""], pa.large_string()),
    } | columns
    return pa.table(values)


def test_foreign_arrow_types_convert_exactly():
    decoded = read(arrow_payload(loose()))
    assert decoded.rejects.num_rows == 0
    assert decoded.events["price"].to_pylist() == [Decimal("489.0700"), Decimal("0.1000")]
    assert decoded.events["category_code"].to_pylist() == [None, None]
    assert decoded.events["user_session"].to_pylist() == ["a", None]
    assert decoded.events["event_time"][0].as_py() == datetime(2019, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("reason", "columns"),
    [
        (Reason.PRICE_TOO_PRECISE, {"price": pa.array([0.5, 0.00001])}),
        (Reason.NEGATIVE_PRICE, {"price": pa.array([0, -1], PRICE_TYPE)}),
        (Reason.MISSING_FIELD, {"user_id": pa.array([1, None])}),
        (Reason.BAD_CATEGORY_ID, {"category_id": pa.array([1, (1 << 64) - 1], pa.uint64())}),
        (Reason.BAD_PRODUCT_ID, {"product_id": pa.array(["1", "x"])}),
        (Reason.UNKNOWN_EVENT_TYPE, {"event_type": pa.array(["view", "x"]).dictionary_encode()}),
        (Reason.CONTROL_CHARACTER, {"brand": pa.array(["a", "b\x1f"]).dictionary_encode()}),
        (Reason.BAD_EVENT_TIME, {"event_time": pa.array(["2019-11-01 00:00:00 UTC", "yesterday"])}),
    ],
)
def test_a_bad_arrow_row_is_rejected_alone_and_its_bytes_are_replayable(reason, columns):
    decoded = read(arrow_payload(loose(**columns)))
    assert decoded.events["place"].to_pylist() == [0]
    (reject,) = decoded.rejects.to_pylist()
    assert (reject["reason"], reject["place"]) == (reason, 1)
    again = read(reject["payload"])
    assert reasons(again) == [reason]
    assert again.events.num_rows == 0


def test_a_cut_arrow_payload_is_rejected_whole():
    whole = encode_arrow(read(GOOD).events)
    decoded = read(GOOD, whole[:-40])
    assert reasons(decoded) == [Reason.MALFORMED_ARROW]
    assert decoded.rejects["payload"].to_pylist() == [whole[:-40]]


def test_the_derived_id_is_the_documented_digest_in_python_and_sql():
    events = read(GOOD, changed(brand="", user_session="", price="0.1")).events
    expected = [
        content_id(
            time_us=1_572_566_400_000_000,
            event_type="view",
            product_id=1003461,
            category_id=2053013555631882655,
            category_code="electronics.smartphone",
            brand=brand,
            price=price,
            user_id=520088904,
            user_session=session,
        )
        for brand, price, session in (("nan", Decimal("489.07"), "4d3b30da"), (None, Decimal("0.1"), None))
    ]
    assert events["event_id"].to_pylist() == expected
    bare = events.set_column(events.column_names.index("event_id"), "event_id", pa.nulls(2, pa.string()))
    sql = duckdb.connect()
    sql.register("bare", bare)
    assert [row[0] for row in sql.execute(f"SELECT {EVENT_ID_SQL} FROM bare").fetchall()] == expected


def test_ids_of_the_tracker_are_kept_and_missing_ones_derived():
    payload = "\n".join([json_line(event_id='"mine"'), json_line()])
    mine, derived = read(payload).events["event_id"].to_pylist()
    assert mine == "mine"
    assert derived == only(read(GOOD))["event_id"]


def test_a_decoder_shares_a_given_connection_without_disturbing_it():
    connection = duckdb.connect()
    connection.execute("CREATE TABLE t AS SELECT 1 AS x")
    decoder = Decoder(connection)
    assert decoder.decode([GOOD.encode()], [ARRIVAL_MS]).events.num_rows == 1
    assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
