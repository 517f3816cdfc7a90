"""Writes shopstream.zpln, the Studio (Zeppelin) notebook over the Kinesis streams: journeys, and rules as Flink SQL.

Rules are the shipped ones: run `.venv/bin/python notebooks/write_studio.py` after one has changed.
"""

import json
from pathlib import Path

from shopstream.detection.rule import load_rules
from shopstream.engine.flink import flink_sql

NOTEBOOK = Path(__file__).with_name("shopstream.zpln")
RULES = ("user_burst", "user_rate", "user_breadth", "cart_hoarding")

_INTRODUCTION = """\
# shopstream: explore the streams

Run the paragraphs of **Tables** first, in order; `stage` and `region` are fields above them. The queries below run
until they are stopped.

Events are read as text, one per line (CSV in the order of the REES46 files, or JSON); payloads in Arrow are skipped.
Time is that of **arrival**: right for a live shop, wrong for a replay at another speed. The notebook stores and sends
nothing.
"""
_RECORDS = """\
CREATE TABLE IF NOT EXISTS records (
  payload STRING,
  arrival TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  WATERMARK FOR arrival AS arrival - INTERVAL '5' SECOND
) WITH (
  'connector' = 'kinesis',
  'stream' = 'shopstream-${stage=dev}-events',
  'aws.region' = '${region=eu-central-1}',
  'scan.stream.initpos' = 'LATEST',
  'format' = 'raw'
);

CREATE TABLE IF NOT EXISTS signal_batches (
  until_ms BIGINT,
  signals ARRAY<ROW<`window` STRING, `key` MAP<STRING, STRING>, start_ms BIGINT, end_ms BIGINT, final BOOLEAN>>,
  arrival TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  WATERMARK FOR arrival AS arrival - INTERVAL '5' SECOND
) WITH (
  'connector' = 'kinesis',
  'stream' = 'shopstream-${stage=dev}-signals',
  'aws.region' = '${region=eu-central-1}',
  'scan.stream.initpos' = 'TRIM_HORIZON',
  'format' = 'json'
);
"""
_LINES = '''\
import csv
import json
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation

from pyflink.table import DataTypes
from pyflink.table.udf import TableFunction, udtf

COLUMNS = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session".split(",")


class Lines(TableFunction):
    """The events of one record; invalid rows are skipped, which the engine stores as dead letters."""

    def eval(self, payload):
        lines = (payload or "").splitlines()
        if payload and payload[0] == "{":
            rows = map(json.loads, lines)
        else:
            rows = (dict(zip(COLUMNS, row)) for row in csv.reader(lines))
        for row in rows:
            try:
                text = row["event_time"].replace(" UTC", "").replace("Z", "").replace("T", " ")
                moment = datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
                yield (
                    round(moment.timestamp() * 1000), row["event_type"],
                    int(row["product_id"]), int(row["category_id"]),
                    row.get("category_code") or None, row.get("brand") or None, Decimal(str(row["price"])),
                    int(row["user_id"]), row.get("user_session") or None,
                )
            except (KeyError, ValueError, InvalidOperation):
                continue


number, text = DataTypes.BIGINT(), DataTypes.STRING()
columns = [number, text, number, number, text, text, DataTypes.DECIMAL(18, 4), number, text]
st_env.create_temporary_function("event_lines", udtf(Lines(), result_types=columns))
'''
_EVENTS = """\
CREATE TEMPORARY VIEW IF NOT EXISTS events AS
SELECT t, event_type, product_id, category_id, category_code, brand, price, user_id, user_session, arrival AS event_time
FROM records, LATERAL TABLE(event_lines(payload))
  AS line(t, event_type, product_id, category_id, category_code, brand, price, user_id, user_session);
"""
_JOURNEYS = {
    "Journeys: from view to purchase, by minute": """\
SELECT window_start,
  COUNT(*) FILTER (WHERE event_type = 'view') AS views,
  COUNT(*) FILTER (WHERE event_type = 'cart') AS carts,
  COUNT(*) FILTER (WHERE event_type = 'purchase') AS purchases,
  COUNT(DISTINCT user_id) AS shoppers
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(event_time), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end;
""",
    "Journeys: ended sessions and their revenue": """\
SELECT SESSION_START(event_time, INTERVAL '30' MINUTE) AS begun,
  user_session,
  COUNT(*) AS events,
  COUNT(DISTINCT product_id) AS products,
  SUM(CASE WHEN event_type = 'purchase' THEN price ELSE 0 END) AS spent
FROM events
WHERE user_session IS NOT NULL
GROUP BY SESSION(event_time, INTERVAL '30' MINUTE), user_session;
""",
    "Journeys: the ten most viewed products, every five minutes": """\
SELECT window_start, product_id, views FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY views DESC) AS place FROM (
    SELECT window_start, window_end, product_id, COUNT(*) AS views
    FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(event_time), INTERVAL '5' MINUTE))
    WHERE event_type = 'view'
    GROUP BY window_start, window_end, product_id
  )
)
WHERE place <= 10;
""",
}
_SIGNALS = {
    "Signals: signals of the engine by window and minute": """\
SELECT TUMBLE_START(arrival, INTERVAL '1' MINUTE) AS since, `window`, COUNT(*) AS signals FROM (
  SELECT arrival, `window`
  FROM signal_batches CROSS JOIN UNNEST(signals) AS signal(`window`, `key`, start_ms, end_ms, final)
)
GROUP BY TUMBLE(arrival, INTERVAL '1' MINUTE), `window`;
""",
}


def text() -> str:
    """The notebook in Zeppelin's import format."""
    rules = load_rules(None)
    paragraphs = [
        ("", f"%md\n{_INTRODUCTION}"),
        ("Tables: the streams", f"%flink.ssql\n{_RECORDS}"),
        ("Tables: lines of a record", f"%flink.pyflink\n{_LINES}"),
        ("Tables: events", f"%flink.ssql\n{_EVENTS}"),
        *((title, f"%flink.ssql(type=update)\n{query}") for title, query in (_JOURNEYS | _SIGNALS).items()),
        *(
            (
                f"Anomalies: {rules[rule].title}",
                f"%flink.ssql(type=update)\n{flink_sql(rules[rule].window_declaration())}",
            )
            for rule in RULES
        ),
    ]
    notebook = {
        "name": "shopstream",
        "id": "shopstream",
        "config": {"isZeppelinNotebookCronEnable": False},
        "noteParams": {},
        "noteForms": {},
        "angularObjects": {},
        "info": {},
        "paragraphs": [_paragraph(number, *paragraph) for number, paragraph in enumerate(paragraphs)],
    }
    return json.dumps(notebook, indent=2, ensure_ascii=False) + "\n"


def _paragraph(number: int, title: str, content: str) -> dict[str, object]:
    return {
        "id": f"paragraph_{number}",
        "title": title,
        "text": content,
        "config": {"title": bool(title), "enabled": True, "editorHide": content.startswith("%md")},
        "settings": {"params": {}, "forms": {}},
        "status": "READY",
    }


if __name__ == "__main__":
    NOTEBOOK.write_text(text(), encoding="utf-8")
