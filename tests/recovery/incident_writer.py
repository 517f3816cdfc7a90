"""Applies a fixed stream of detections to an incident store, batch by batch; is killed by the test, and goes on.

Usage: incident_writer.py DATABASE CHECKPOINT SEED. CHECKPOINT holds the recorder's snapshot and how far it has come; it
is written less often than batches are applied, so every start applies some detections again, cut into other batches.
"""

import json
import random
import sys
from datetime import timedelta
from pathlib import Path

from shopstream.clock import SystemClock
from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.recorder import IncidentRecorder
from shopstream.incidents.settings import IncidentSettings, NotifySettings

QUIET, SIZE, END = 20_000, 10_000, 2_000_000
TARGETS = ("json-a", "slack-b")
SERIES = (
    ("user_burst", "owasp.oat-011", ("user_id",)),
    ("breadth", "owasp.oat-011", ("user_id",)),
    ("carding", "owasp.oat-001", ("ip",)),
    ("volume", "owasp.oat-015", ("product_id",)),
    ("volume", "owasp.oat-015", ()),
    ("hoarding", "owasp.oat-021", ("user_id", "product_id")),
    ("silence", "x", ()),
)
SETTINGS = IncidentSettings(
    campaign_actors=2,
    campaign_within=timedelta(seconds=8),
    recovery=timedelta(seconds=30),
)
NOTIFY = NotifySettings(hold=timedelta(seconds=10))


def detections():
    """Bursts of actors, products and the site by several rules, early and final, in the order an engine gives them."""
    draw = random.Random(11)  # noqa: S311  no secret
    found = []
    for series in range(20):
        rule, label, key = SERIES[series % len(SERIES)]
        key = {column: str(series) for column in key}
        start = draw.randrange(60) * 1_000
        while start < END - 100_000:
            for place in range(draw.randrange(1, 8)):
                window = start + place * 1_000
                found += [detection(rule, label, key, window, final) for final in (False, True)]
            start += draw.randrange(15, 120 if key else 300) * 1_000
    return sorted(found, key=lambda item: (item[0], item[1].detection_id, item[1].final))


def detection(rule, label, key, start_ms, final):
    made = Detection(
        detection_id=f"{rule}-{key}-{start_ms}",
        rule_id=rule,
        rule_version="v1",
        title="Too fast",
        severity=Severity.HIGH,
        tags=(label,),
        key_kind="+".join(key) or "site",
        key=key,
        start_ms=start_ms,
        end_ms=start_ms + SIZE,
        first_event_ms=start_ms + 10,
        last_event_ms=start_ms + SIZE - (10 if final else 3_000),
        measures={"events": 16 + (start_ms // 1_000) % 9 + (3 if final else 0)},
        threshold="events > 15",
        final=final,
        suppress_for_ms=QUIET,
        nature=Nature.FAULT if rule == "silence" else Nature.ATTACK,
    )
    return (start_ms + SIZE if final else start_ms + SIZE - 3_000), made


def main(database: Path, checkpoint: Path, seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311  no secret
    stream = detections()
    saved = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"place": 0, "generation": 0, "state": None}
    place, generation = saved["place"], saved["generation"]
    recorder = IncidentRecorder(
        EmbeddedIncidentStore(database, SystemClock()), SETTINGS, NOTIFY, SystemClock(), TARGETS
    )
    recorder.restore(saved["state"], generation)
    print("ready", flush=True)  # noqa: T201  the test waits for it
    while place < len(stream):
        until = min(len(stream), place + draw.randrange(1, 40))
        moment = stream[until][0] - 1 if until < len(stream) else END
        recorder.apply([made for _, made in stream[place:until]], moment)
        place = until
        if draw.random() < 0.1:
            generation += 1
            text = json.dumps({"place": place, "generation": generation, "state": recorder.snapshot()})
            checkpoint.with_suffix(".new").write_text(text)
            checkpoint.with_suffix(".new").replace(checkpoint)
            recorder.begin(generation + 1)
    recorder.apply([], END)
    recorder.store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
